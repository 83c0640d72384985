"""GB/s of every kernel with a device function against a copy of as many bytes, fused and unfused."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from bench.gpu.timing import Call, device_seconds, replayed_seconds, us
from gpubp.backends.cupy import CupyBackend
from gpubp.kernel import KERNELS, Kernel
from gpubp.specimens import OWN, arguments

SHAPES = [(4096, 1024), (65536, 64), (65536, 10)]
FLAT = [(1 << 14, 1 << 10)]  # as an optimizer sees 2^24 parameters
FEW = 32  # rows that are drawn; the others repeat them
BEYOND_CACHE = 256 << 20  # bytes of arguments in turn, so that no launch finds its own in the cache
MOST_SETS = 32
Arguments = dict[str, Any]


@functools.cache
def backends() -> dict[str, CupyBackend]:
    return {"fused": CupyBackend(0), "unfused": CupyBackend(0, tuned=False)}


def with_source() -> list[str]:
    return [kernel.name for kernel in OWN if kernel.source]


def with_bias_gradient() -> list[str]:
    return [k.name for k in OWN if k.source and k.kind == "elementwise" and k.writes == ("dz",)]


def kernel(name: str) -> dict[str, Any]:
    declared = KERNELS[name]
    flat = declared.body.__module__ == "gpubp.optimizers" or declared.kind == "reduction"
    found = {}
    for rows, width in FLAT if flat else SHAPES:
        sets = argument_sets(declared, rows, width)
        routes = {
            route: [partial(backend.run, declared, *args.values()) for args in sets]
            for route, backend in backends().items()
        }
        found[f"{rows}x{width}"] = compared(routes, moved(declared, sets[0]))
    return found


def bias_gradient(name: str) -> dict[str, Any]:
    """A delta and its column sums: in one pass, against one pass each."""
    declared = KERNELS[name]
    found = {}
    for rows, width in SHAPES:
        sets, sums = argument_sets(declared, rows, width), backends()["fused"].empty((width,), "float32")
        routes = {"fused": [in_one_pass(declared, args, sums) for args in sets]}
        routes["unfused"] = [in_two_passes(declared, args, sums) for args in sets]
        found[f"{rows}x{width}"] = compared(routes, moved(declared, sets[0]))
    return found


def in_one_pass(declared: Kernel, args: Arguments, sums: Any) -> Call:
    return lambda: backends()["fused"].run_with_column_sum(declared, *args.values(), sums=sums)


def in_two_passes(declared: Kernel, args: Arguments, sums: Any) -> Call:
    backend = backends()["fused"]

    def call() -> None:
        backend.run(declared, *args.values())
        backend.column_sum(args["dz"], sums)

    return call


def gather(name: str) -> dict[str, Any]:
    """Rows of a shuffled batch, name being BATCHxWIDTH, from a set of 2^17 rows."""
    import cupy

    batch, width = map(int, name.split("x"))
    source, rng = cupy.ones((1 << 17, width), "float32"), np.random.default_rng(0)
    nbytes = batch * (2 * 4 * width + 8)
    sets = [
        (source, cupy.asarray(rng.permutation(1 << 17)[:batch]), cupy.empty((batch, width), "float32"))
        for _ in range(sets_of(nbytes))
    ]
    routes = {route: [partial(backend.gather, *args) for args in sets] for route, backend in backends().items()}
    return compared(routes, nbytes)


def sets_of(nbytes: int) -> int:
    """How many sets of so many bytes it takes to leave the cache."""
    return min(MOST_SETS, -(-BEYOND_CACHE // nbytes))


def argument_sets(declared: Kernel, rows: int, width: int) -> list[Arguments]:
    first = device_arguments(declared, rows, width)
    return [first, *(copied(first) for _ in range(sets_of(moved(declared, first)) - 1))]


def copied(args: Arguments) -> Arguments:
    return {name: value.copy() if getattr(value, "ndim", 0) else value for name, value in args.items()}


def device_arguments(declared: Kernel, rows: int, width: int) -> Arguments:
    import cupy

    made = arguments(declared, FEW, width, np.float32)
    for name, value in made.items():
        if isinstance(value, np.ndarray):
            array = cupy.asarray(value)
            longer = value.shape[:1] in ((FEW,), (FEW * width,))  # which a bias and a total are not
            made[name] = cupy.tile(array, (rows // FEW,) + (1,) * (value.ndim - 1)) if longer else array
    return made


def moved(declared: Kernel, args: Arguments) -> int:
    """Bytes that a launch has to read and to write."""
    sizes = {name: getattr(value, "nbytes", 0) for name, value in args.items()}
    return sum(sizes[name] for side in (declared.reads, declared.writes) for name in side)


def compared(routes: Mapping[str, list[Call]], nbytes: int) -> dict[str, Any]:
    """GB/s of each route and of a copy that reads and writes as many bytes in all."""
    found: dict[str, Any] = {"MB": round(nbytes / 1e6, 1), "copy, GB/s": copy_rate(nbytes)}
    for route, calls in routes.items():
        seconds, how = in_a_graph(calls)
        found |= {f"{route}, GB/s": round(nbytes / seconds / 1e9), f"{route}, µs": us(seconds), f"{route} as": how}
    found["of the copy"] = round(found["fused, GB/s"] / found["copy, GB/s"], 2)
    found["unfused / fused"] = round(found["unfused, µs"] / found["fused, µs"], 2)
    return found


def in_a_graph(calls: list[Call]) -> tuple[float, str]:
    """Seconds a call without the launches; with them, where the calls cannot be captured."""
    try:
        return replayed_seconds(calls), "graph"
    except Exception:  # CuPy refuses some calls in a capture, with errors of several kinds

        def one_by_one() -> None:
            for call in calls:
                call()

        return device_seconds(one_by_one) / len(calls), "launches"


@functools.cache
def copy_rate(nbytes: int) -> int:
    import cupy

    size = max(1, nbytes // 2)
    pairs = [(cupy.ones(size, "uint8"), cupy.empty(size, "uint8")) for _ in range(sets_of(nbytes))]

    def copying(source: Any, target: Any) -> Callable[[], None]:
        return lambda: target.data.copy_from_device_async(source.data, size, cupy.cuda.get_current_stream())

    return round(2 * size / replayed_seconds([copying(*pair) for pair in pairs]) / 1e9)
