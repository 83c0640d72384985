"""How time and memory grow, `python -m bench.scaling`: against batch, width, depth and rows, beside their arithmetic.

A point is a training step, an epoch of `fit` or a `predict`; its sizes double. Time is the median over rounds in which
all sizes take turns. Memory is the peak of what is allocated beside the data, from the making of the network on; the
making itself, which draws weights in float64, is left out. What each has to be, its arithmetic, is the operations of
the matrix products, and the bytes of parameters, gradients, activations, deltas and results.

Exit codes: 0 nothing grows faster than its arithmetic, 1 something does, 2 usage.
"""

import argparse
import json
import math
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import gpubp
from bench.growth import Growth, growth
from bench.peers import names, say, versions
from bench.scaling_picture import draw
from gpubp.benchmark.machine import BUSY, foreign_load, machine, versions_of
from gpubp.benchmark.memory import size
from gpubp.benchmark.timing import SETTLE_SECONDS, estimated, in_turns, quartiles, timed
from gpubp.explain.figures import save
from gpubp.network import CHUNK_BYTES
from gpubp.processor import cores
from gpubp.whole import write_whole

ROUNDS = 7
TIME_SLACK = 1.5  # what leaving the caches may do to the price of an operation; n² is off by 8 to 128 here
MEMORY_SLACK = 1.1  # of what is no array: a few objects of Python's for each batch and each layer
NOTED = 1.1  # times the price of an operation, from one size to the next, that is worth a line
FLOAT, INDEX = 4, 8  # bytes


@dataclass(frozen=True)
class Work:
    """What is done at one size. Its data are there already; `make` makes a network and returns what is to be timed."""

    make: Callable[[], Callable[[], Any]]
    data_bytes: int
    flops: int
    bytes: int


@dataclass(frozen=True)
class Series:
    grows: str  # a panel of the picture
    done: str
    sizes: tuple[int, ...]
    at: Callable[[int], Work]


@dataclass(frozen=True)
class Curve:
    """What was measured of a series: of each size its seconds, by round, and its peak of bytes; and the arithmetic."""

    grows: str
    done: str
    sizes: list[int]
    rounds: list[list[float]]
    peaks: list[int]
    flops: list[int]
    bytes: list[int]
    data_bytes: list[int]

    @property
    def seconds(self) -> list[float]:
        return [statistics.median(seconds) for seconds in self.rounds]

    @property
    def fits(self) -> dict[str, Growth]:
        return {
            "time": growth(self.sizes, self.seconds, self.flops, TIME_SLACK),
            "memory": growth(self.sizes, self.peaks, self.bytes, MEMORY_SLACK),
        }


# -- what is measured --------------------------------------------------------------------------------------------------


def sample(rows: int, inputs: int) -> tuple[Any, Any]:
    generator = np.random.default_rng(0)
    return generator.random((rows, inputs), np.float32), generator.integers(0, 10, rows)


def network(sizes: list[int]) -> gpubp.MLP:
    # ReLU, as the deltas of 64 layers of sigmoids are subnormal numbers, which some processors are slow with.
    return gpubp.MLP(sizes, "relu", device="cpu", seed=0)


def products(sizes: list[int], rows: int) -> tuple[int, int]:
    """Operations of the matrix products, forward alone and of a whole step: the first layer needs no ∂C/∂x."""
    each = [2 * rows * inputs * outputs for inputs, outputs in pairwise(sizes)]
    return sum(each), 3 * sum(each) - each[0]


def held(sizes: list[int], rows: int, vectors: int = 2) -> int:
    """Bytes of parameters, as often as there are such vectors, of all activations, and of the deltas of two layers."""
    parameters = sum((inputs + 1) * outputs for inputs, outputs in pairwise(sizes))
    widths = sizes[1:]
    deltas = max((above + below for below, above in pairwise(widths)), default=widths[0])
    return FLOAT * (vectors * parameters + rows * (sum(widths) + deltas))


def training_step(sizes: list[int], batch: int) -> Work:
    x, y = sample(batch, sizes[0])

    def make() -> Callable[[], Any]:
        net, sgd = network(sizes), gpubp.SGD(0.001)
        return lambda: net.train_step(x, y, sgd)

    return Work(make, x.nbytes + y.nbytes, products(sizes, batch)[1], held(sizes, batch))


ROW = [64, 64, 10]
BATCH = 128


def fit_of(rows: int) -> Work:
    x, y = sample(rows, ROW[0])

    def make() -> Callable[[], Any]:
        net = network(ROW)
        return lambda: net.fit(x, y, epochs=1, batch_size=BATCH, verbose=0)

    # Parameters, gradients and Adam's two moments; what an epoch may have to go back to; the order of the rows.
    needed = held(ROW, BATCH, vectors=7) + BATCH * FLOAT * ROW[0] + INDEX * rows
    return Work(make, x.nbytes + y.nbytes, products(ROW, rows)[1], needed)


def predict_of(rows: int) -> Work:
    x, _ = sample(rows, ROW[0])

    def make() -> Callable[[], Any]:
        net = network(ROW)
        return lambda: net.predict(x)

    at_once = min(rows, CHUNK_BYTES // (8 * sum(ROW)))
    results = rows * (FLOAT * ROW[-1] + INDEX)
    return Work(make, x.nbytes, products(ROW, rows)[0], held(ROW, 0) + FLOAT * at_once * sum(ROW[1:]) + results)


def doubling(first: int, last: int) -> tuple[int, ...]:
    """
    >>> doubling(3, 20)
    (3, 6, 12)
    """
    return tuple(first << k for k in range(int(math.log2(last / first)) + 1))


SERIES = (
    Series("batch", "a step of 784-256-256-10", doubling(1, 16384), lambda b: training_step([784, 256, 256, 10], b)),
    Series("width", "a step of n-n-n-10 at batch 128", doubling(16, 4096), lambda n: training_step([n, n, n, 10], 128)),
    Series(
        "depth",
        "a step of n layers of 64 at batch 128",
        doubling(1, 64),
        lambda n: training_step([64] * (n + 1) + [10], 128),
    ),
    Series("rows", "an epoch of fit, 64-64-10 at batch 128", doubling(1000, 1_024_000), fit_of),
    Series("rows", "predict, 64-64-10", doubling(1000, 1_024_000), predict_of),
)
GROWS = list(dict.fromkeys(series.grows for series in SERIES))


# -- measuring it ------------------------------------------------------------------------------------------------------


def measured(series: Series, seconds: float) -> Curve:
    """Each size timed for about so many seconds, or once a round if that is longer; then its memory."""
    works = {n: series.at(n) for n in series.sizes}
    turns = {str(n): turn(work.make(), seconds / ROUNDS) for n, work in works.items()}
    times = in_turns(turns, ROUNDS)
    turns.clear()
    return Curve(
        series.grows,
        series.done,
        list(works),
        list(times.values()),
        [traced_peak(work) for work in works.values()],
        [work.flops for work in works.values()],
        [work.bytes for work in works.values()],
        [work.data_bytes for work in works.values()],
    )


def turn(step: Callable[[], Any], seconds: float) -> Callable[[], float]:
    count = max(1, round(seconds / estimated(step, nothing, seconds)))
    return partial(timed, step, nothing, count)


def nothing() -> None:
    """The CPU has done what was asked of it when the call returns."""


def traced_peak(work: Work) -> int:
    """The peak of bytes allocated by two calls, with what the network holds; the data and the making not counted."""
    tracemalloc.start()
    try:
        step = work.make()
        tracemalloc.reset_peak()
        step()
        step()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# -- telling it --------------------------------------------------------------------------------------------------------


UNITS = {"time": (1e12, "ps a flop"), "memory": (1.0, "bytes a byte")}  # of a price


def table(curves: list[Curve]) -> str:
    """Markdown: a row for the time and one for the memory of each curve."""
    lines = [
        "| against n | of | fitted from | exponent of n | its arithmetic's | allowed | no faster | "
        "price at the first n, where the fit begins, at the last |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for curve in curves:
        for name, found in curve.fits.items():
            scale, unit = UNITS[name]
            prices = ", ".join(f"{price * scale:.3g}" for price in found.prices)
            cells = [
                f"{curve.grows}, {curve.sizes[0]:,} to {curve.sizes[-1]:,}",
                f"{name} of {curve.done}",
                f"{found.start:,}",
                f"{found.exponent:.3f} ± {found.error:.3f}",
                f"{found.arithmetic:.3f}",
                f"≤ {found.allowed:.3f}",
                "yes" if found.met else "**no**",
                f"{prices} {unit}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdict(curves: list[Curve]) -> str:
    faster = [
        f"{name} of {curve.done} against {curve.grows}"
        for curve in curves
        for name, found in curve.fits.items()
        if not found.met
    ]
    if faster:
        return f"Faster than its arithmetic grows: {'; '.join(faster)}."
    return "Nothing grows faster than its arithmetic."


def cliffs(curves: list[Curve]) -> list[str]:
    """Where, in what is fitted, an operation's price rises from one size to the next, in three rounds of four or more.

    With how much is held there, as it is caches that do this.
    """
    found = []
    for curve in curves:
        for i in range(len(curve.sizes) // 2, len(curve.sizes) - 1):
            flops = curve.flops[i + 1] / curve.flops[i]
            rises = [after / before / flops for before, after in zip(*curve.rounds[i : i + 2], strict=True)]
            low, middle, _ = quartiles(rises)
            if low > NOTED:
                before, after = (size(curve.data_bytes[j] + curve.peaks[j]) for j in (i, i + 1))
                found.append(
                    f"{curve.done}: a flop costs {middle:.2f} times as much at {curve.grows} {curve.sizes[i + 1]:,}, "
                    f"with {after} of data and memory, as at {curve.sizes[i]:,}, with {before}."
                )
    return found


def report(curves: list[Curve]) -> list[dict[str, Any]]:
    """For JSON."""
    told = []
    for curve in curves:
        fits = {name: {**asdict(fit), "met": fit.met} for name, fit in curve.fits.items()}
        spread = [quartiles(seconds)[::2] for seconds in curve.rounds]
        told.append({**asdict(curve), "seconds": curve.seconds, "quartiles": spread, "growth": fits})
    return told


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", type=names(GROWS), default=GROWS, metavar="NAME,...", help=f"of {', '.join(GROWS)} (default all)")
    add("--seconds", type=float, default=1.0, metavar="S", help="timed seconds a point (default 1)")
    add("--json", type=Path, metavar="FILE", help="write every figure here")
    add("--plot", type=Path, metavar="FILE", help="draw the curves here, as .png or .svg")
    options = parser.parse_args(arguments)
    if not options.only:
        parser.error("--only needs a name")
    if not 0 < options.seconds < math.inf:
        parser.error(f"--seconds needs a positive number, got {options.seconds}")
    if options.plot and options.plot.suffix.lower() not in (".png", ".svg"):
        parser.error(f"--plot needs a file that ends in .png or .svg, got {str(options.plot)!r}")
    if options.plot and find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install matplotlib")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    kernels, loads, curves = gpubp.get_backend("cpu").describe()["kernels"], [], []
    for series in SERIES:
        if series.grows in options.only:
            say(f"{series.grows}: {series.done}")
            time.sleep(SETTLE_SECONDS)
            loads.append(foreign_load())
            curves.append(measured(series, options.seconds))
    told = {
        "machine": machine(cores()),
        "versions": versions_of("gpubp", ("numpy",)),
        "kernels": kernels,
        "settings": {"rounds": ROUNDS, "seconds": options.seconds, "slack": [TIME_SLACK, MEMORY_SLACK]},
        "foreign_load": loads,
        "curves": report(curves),
    }
    print(f"{versions(told)} Kernels: {kernels}.\n\n{table(curves)}\n\n{verdict(curves)}")
    for line in cliffs(curves):
        print(f"- {line}")
    if any((load or 0) > BUSY for load in loads):
        print(f"\n**Others used more than {BUSY:.0%} of this machine: do not trust these figures.**")
    if options.json:
        write_whole(options.json, (json.dumps(told, indent=1) + "\n").encode())
    if options.plot:
        save(draw(curves), options.plot)
    return int(not all(fit.met for curve in curves for fit in curve.fits.values()))


if __name__ == "__main__":
    sys.exit(main())
