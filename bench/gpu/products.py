"""What cuBLASLt answers: accumulation in place, stream capture, epilogues, and the rates of a layer's products."""

from __future__ import annotations

import functools
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from bench.gpu.probe import schedule_kernel
from bench.gpu.timing import captured, replayed_seconds, us
from gpubp.backends import cublaslt
from gpubp.backends.cublaslt import EPILOGUES, KINDS, R_16BF, R_64F, WORKSPACE_BYTES, CublasLtError, Kind, library

# How far a product may be from float64, as a share of its norm: TF32 has 10 bits of mantissa, a bfloat16 result 8.
TOLERANCES = {"float32": 1e-5, "tf32": 2e-3, "bfloat16": 1e-2, "bfloat16 to float32": 1e-5, "float64": 1e-13}
RATES = ["float32", "tf32", "bfloat16"]
SHAPES = [f"{batch}x{inputs}x1024" for batch in (8192, 65536, 1024, 128) for inputs in (784, 1024)]
PLANS = 8  # algorithms that are tried, to see if the first is the best
UNIFORM = """
  unsigned h = (unsigned)i * 2654435761u + seed * 2246822519u;
  h ^= h >> 16; h *= 2146121005u; h ^= h >> 15; h *= 2221713035u; h ^= h >> 16;
  y = (h >> 8) * (1.0f / 8388608.0f) - 1.0f;
"""
ROUND = "unsigned u = __float_as_uint(x); y = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;"


@functools.cache
def workspace() -> Any:
    import cupy

    return cupy.empty((WORKSPACE_BYTES,), "uint8")


class Product:
    """One of cuBLASLt's on the first device, in one workspace for all, on the current stream."""

    def __init__(self, kind: str, m: int, n: int, k: int, **options: Any) -> None:
        self._product = cublaslt.Product(kind, m, n, k, **options)
        self.close = self._product.close

    def plan(self, wanted: int = 1) -> Product:
        workspace()  # which also makes the context that a handle needs
        self._product.plan(0, wanted)
        return self

    @property
    def plans(self) -> list[cublaslt.Heuristic]:
        return self._product.plans

    def choose(self, index: int) -> None:
        self._product.chosen = index

    def __call__(self, a: Any, b: Any, d: Any, scalars: Any = None) -> None:
        import cupy

        given = None if scalars is None else (scalars[0], scalars[1])
        self._product(a, b, d, workspace(), cupy.cuda.get_current_stream(), given)


def matrix(shape: tuple[int, ...], kind: int, seed: int) -> Any:
    """Uniform values in [-1, 1), the same for the same seed; bfloat16 lives in uint16 arrays."""
    import cupy

    values = cupy.empty(shape, "float32")
    cupy.ElementwiseKernel("uint32 seed", "float32 y", UNIFORM, "bench_uniform")(np.uint32(seed), values)
    if kind == R_16BF:
        halves = cupy.empty(shape, "uint16")
        cupy.ElementwiseKernel("float32 x", "uint16 y", ROUND, "bench_round")(values, halves)
        return halves
    return values.astype("float64") if kind == R_64F else values


def as_float64(array: Any) -> Any:
    host = array.get()
    if host.dtype == np.uint16:
        return (host.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return host.astype(np.float64)


def on_device(kind: Kind, *values: float) -> Any:
    import cupy

    return cupy.asarray(np.array(values, np.float64 if kind.scale == R_64F else np.float32))


def verdict(got: Any, expected: Any, kind: str) -> dict[str, Any]:
    error = float(np.linalg.norm(as_float64(got) - expected) / np.linalg.norm(expected))
    return {"error": float(f"{error:.1e}"), "right": error <= TOLERANCES[kind]}


def in_place(name: str) -> dict[str, Any]:
    """C ← C + alpha op(A) op(B) with alpha and beta = 1 on the device, for each product of a layer."""
    kind, (m, n, k) = KINDS[name], (192, 160, 224)
    found = {}
    for what, transposed in (("A B", (False, False)), ("A B'", (False, True)), ("A' B", (True, False))):
        a = matrix((k, m) if transposed[0] else (m, k), kind.operands, 1)
        b = matrix((n, k) if transposed[1] else (k, n), kind.operands, 2)
        c = matrix((m, n), kind.result, 3)
        left, right = (as_float64(x).T if t else as_float64(x) for x, t in zip((a, b), transposed, strict=True))
        expected = as_float64(c) - 0.25 * (left @ right)
        product = Product(name, m, n, k, transposed=transposed, scalars_on_device=True).plan()
        product(a, b, c, on_device(kind, -0.25, 1.0))
        found[what] = verdict(c, expected, name)
        product.close()
    return found


def capture(name: str) -> dict[str, Any]:
    """One graph of our kernel, which takes the next rate, and W ← W + rate A' B; each replay has its own rate."""
    import cupy

    kind, (m, n, k), rates = KINDS[name], (192, 160, 224), [-0.5, 0.25, -0.125, 1.0]
    a, b, w = matrix((k, m), kind.operands, 1), matrix((k, n), kind.operands, 2), matrix((m, n), kind.result, 3)
    kernel, scalars = schedule_kernel(), on_device(kind, 0.0, 0.0)
    step, device_rates = cupy.zeros(1, "int32"), cupy.asarray(np.array([0.0, *rates], np.float32))
    product = Product(name, m, n, k, transposed=(True, False), scalars_on_device=True).plan()
    expected = as_float64(w) + sum(rates) * (as_float64(a).T @ as_float64(b))

    def body() -> None:
        kernel((1,), (1,), (scalars, device_rates, step))
        product(a, b, w, scalars)

    replay = captured(body)  # which has also run it once, with the rate 0
    for _ in rates:
        replay()
    cupy.cuda.Device().synchronize()
    return {**verdict(w, expected, name), "replays": len(rates)}


def epilogues(name: str) -> dict[str, Any]:
    """Which epilogues have an algorithm and run; whether a bias gradient is right."""
    import cupy

    kind, (m, n, k) = KINDS[name], (512, 256, 384)
    found = {"library": {"found": library().cublasLtGetVersion()}}
    for epilogue in EPILOGUES:
        # As in a weight gradient, A' B. cuBLASLt's A is our B, so that BGRADA sums our B over its rows, BGRADB our A.
        a, b = matrix((k, m), kind.operands, 1), matrix((k, n), kind.operands, 2)
        d, bias, aux = (matrix(shape, kind.result, 3) for shape in ((m, n), (max(m, n),), (m, n)))
        takes_bias = "BIAS" in epilogue or "BGRAD" in epilogue
        takes_aux = "AUX" in epilogue or epilogue.startswith(("DRELU", "DGELU"))
        try:
            product = Product(
                name,
                m,
                n,
                k,
                transposed=(True, False),
                epilogue=epilogue,
                bias=bias.data.ptr if takes_bias else 0,
                aux=aux.data.ptr if takes_aux else 0,
                aux_ld=n,
            ).plan()
            product(a, b, d)
            cupy.cuda.Device().synchronize()
            found[epilogue] = {"found": "runs"}
            if epilogue in ("BGRADA", "BGRADB"):
                sums = as_float64(b if epilogue == "BGRADA" else a).sum(axis=0)
                found[epilogue] |= verdict(bias[: len(sums)], sums, name)
            product.close()
        except CublasLtError as error:
            found[epilogue] = {"found": str(error)}
    return found


def gemm(name: str) -> dict[str, Any]:
    """A layer's three products, batch x inputs x outputs: TFLOP/s of the first algorithm and of the best of several."""
    batch, inputs, outputs = map(int, name.split("x"))
    return {
        f"{kind} {what}": rates(product, operands, 2e-12 * batch * inputs * outputs)
        for kind in RATES
        for what, (product, operands) in layer(kind, batch, inputs, outputs).items()
    }


def layer(name: str, batch: int, inputs: int, outputs: int) -> dict[str, tuple[Product, tuple[Any, ...]]]:
    """The products of a layer's step, and their A, B and D. Weights are float32 beside bfloat16 as well."""
    kind, master = KINDS[name], "bfloat16 to float32" if name == "bfloat16" else name
    x, w = matrix((batch, inputs), kind.operands, 1), matrix((inputs, outputs), kind.operands, 2)
    dz, dw = matrix((batch, outputs), kind.operands, 3), matrix((inputs, outputs), KINDS[master].result, 4)
    y, dx = matrix((batch, outputs), kind.result, 5), matrix((batch, inputs), kind.result, 6)
    update = Product(master, inputs, outputs, batch, transposed=(True, False), alpha=-1e-6, beta=1.0)
    return {
        "forward": (Product(name, batch, outputs, inputs), (x, w, y)),
        "input gradient": (Product(name, batch, inputs, outputs, transposed=(False, True)), (dz, w, dx)),
        "weight gradient": (update, (x, dz, dw)),
    }


def rates(product: Product, operands: tuple[Any, ...], work: float) -> dict[str, Any]:
    """Of `work`, in units of 10^12 operations; short products are replayed ten at a time."""
    times = []
    for index in range(len(product.plan(PLANS).plans)):
        product.choose(index)
        times.append(replayed_seconds([lambda: product(*operands)] * (10 if work < 0.02 else 1), seconds=0.003))
    product.close()
    best = min(times)
    return {
        "µs": us(times[0]),
        "TFLOP/s": round(work / times[0], 1),
        "best of plans": round(work / best, 1),
        "which": times.index(best),
    }


def step_seconds(sizes: tuple[int, ...], batch: int, kind: str) -> float:
    """Seconds of the products of a training step, replayed as one graph: the floor that no step can go below."""
    import cupy

    calls = [
        partial(product.plan(), *operands)
        for place, (inputs, outputs) in enumerate(pairwise(sizes))
        for what, (product, operands) in layer(kind, batch, inputs, outputs).items()
        if place or what != "input gradient"  # the step needs none of the first layer
    ]
    seconds = replayed_seconds(calls) * len(calls)
    calls.clear()
    cupy.get_default_memory_pool().free_all_blocks()
    return seconds
