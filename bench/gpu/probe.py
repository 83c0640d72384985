"""What the CUDA backend rests on: the exact sigmoid's bits, our compiled kernels, what launches and copies cost."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.gpu.timing import Call, captured, device_seconds, host_seconds, us

COLUMNS = 1024
EVERY = 257  # bit pattern; a prime, so that all exponents meet all endings
SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1.1754944e-38, -87.4, -103.9, -104.0, 88.8)
HOST_SIGMOID = """
#include "activations.cuh"
extern "C" void sigmoids(const float* z, float* y, long long count) {
  for (long long i = 0; i < count; ++i) bias_sigmoid<float>(z[i], 0.0f, y[i]);
}
"""
# How the host would change a learning rate that a captured step reads: each launch takes the next.
SCHEDULE = """
extern "C" __global__ void bench_schedule(float* scalars, const float* rates, int* step) {
  scalars[0] = rates[step[0]];
  scalars[1] = 1.0f;
  step[0] += 1;
}
"""

NOTHING = 'extern "C" __global__ void bench_nothing(float* x, long long count) {}'


class Source(NamedTuple):
    """What gpubp's cache of compiled kernels asks of a launch."""

    symbol: str
    text: str


def patterns() -> Any:
    """Some 2^24 float32 values, evenly through all bit patterns, in rows of COLUMNS."""
    bits = np.arange(0, 1 << 32, EVERY, dtype=np.uint64).astype(np.uint32)
    values = np.concatenate([bits.view(np.float32), np.array(SPECIAL, np.float32)])
    return np.concatenate([values, np.zeros(-len(values) % COLUMNS, np.float32)]).reshape(-1, COLUMNS)


def host_sigmoid(z: Any) -> Any:
    """The device function's text, compiled by g++; FileNotFoundError where there is none."""
    from gpubp.kernel import SOURCES

    if not shutil.which("g++"):
        raise FileNotFoundError("g++ is not on the PATH, so there is nothing to compare with")
    with tempfile.TemporaryDirectory() as folder:
        source, shared = Path(folder, "sigmoid.cpp"), Path(folder, "sigmoid.so")
        source.write_text(HOST_SIGMOID)
        options = ["-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-w", f"-I{SOURCES}"]
        done = subprocess.run(["g++", *options, source, "-o", shared], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"g++ failed: {done.stderr[-500:]}")
        y = np.empty_like(z)
        function = ctypes.CDLL(str(shared)).sigmoids
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_longlong]
        function(z.ctypes.data, y.ctypes.data, z.size)
        return y


def compared(got: Any, expected: Any, z: Any) -> dict[str, Any]:
    """How many bits differ, and how far `got` is from float64, in units in the last place of normal results."""
    different = (got.view(np.uint32) != expected.view(np.uint32)) & ~(np.isnan(got) & np.isnan(expected))
    with np.errstate(all="ignore"):
        true = 1 / (1 + np.exp(-z.astype(np.float64)))
        ulps = np.abs(got - true) / np.spacing(true.astype(np.float32))
        normal = true > np.finfo(np.float32).tiny
    return {
        "values": z.size,
        "different": int(different.sum()),
        "right": not different.any(),
        "first": [[float(a[different][i]) for a in (z, got, expected)] for i in range(min(3, int(different.sum())))],
        "largest error, ulp": round(float(ulps[normal].max()), 2),
    }


def bits(name: str) -> dict[str, Any]:
    import gpubp
    from gpubp.activations import bias_sigmoid

    z = patterns()
    expected = host_sigmoid(z)
    backend = gpubp.get_backend("cuda")
    with backend.active():
        device_z = backend.asarray(z, "float32")
        y = backend.empty(z.shape, "float32")
        backend.run(bias_sigmoid, device_z, backend.zeros((COLUMNS,), "float32"), y)
        return compared(backend.to_numpy(y), expected, z)


def schedule_kernel() -> Any:
    """SCHEDULE through gpubp's own compiler and cache: a cubin loaded by cupy.RawModule(path=)."""
    import cupy

    from gpubp.backends.cubins import Cubins

    return Cubins(cupy, 0).function(Source("bench_schedule", SCHEDULE))


def cubin(name: str) -> dict[str, Any]:
    """Milliseconds until a kernel is there, compiled and from the cache, and whether it does its work."""
    import cupy

    def milliseconds() -> float:
        start = time.perf_counter()
        schedule_kernel()
        return round((time.perf_counter() - start) * 1e3, 1)

    with tempfile.TemporaryDirectory() as folder:
        os.environ["GPUBP_CACHE"] = folder
        times = {"compiled, ms": milliseconds(), "compiled again, ms": 0.0, "from the cache, ms": milliseconds()}
        for file in Path(folder).iterdir():
            file.unlink()
        times["compiled again, ms"] = milliseconds()
        kernel = schedule_kernel()
    scalars, rates, step = cupy.zeros(2, "float32"), cupy.asarray([0.5, 0.25], "float32"), cupy.zeros(1, "int32")
    for _ in range(2):
        kernel((1,), (1,), (scalars, rates, step))
    return {**times, "right": scalars.get().tolist() == [0.25, 1.0] and int(step.get()[0]) == 2}


def small() -> Any:
    """An array whose work is nothing beside its launch."""
    import cupy

    return cupy.ones((64, 64), "float32")


def raw_kernel() -> Call:
    import cupy

    kernel, a = cupy.RawKernel(NOTHING, "bench_nothing"), small()
    count = np.int64(a.size)
    return lambda: kernel((1,), (32,), (a, count))


def elementwise_kernel() -> Call:
    import cupy

    kernel, a, out = cupy.ElementwiseKernel("T x", "T y", "y = x + x", "bench_twice"), small(), small()
    return lambda: kernel(a, out)


def cupy_matmul() -> Call:
    import cupy

    a, b, out = small(), small(), small()
    return lambda: cupy.matmul(a, b, out=out)


def cublaslt_matmul() -> Call:
    from bench.gpu.products import Product

    product, a, b, out = Product("float32", 64, 64, 64).plan(), small(), small(), small()
    return lambda: product(a, b, out)


def backend_run() -> Call:
    import gpubp
    from gpubp.activations import sigmoid_delta

    backend, dy, y, dz = gpubp.get_backend("cuda"), small(), small(), small()
    return lambda: backend.run(sigmoid_delta, dy, y, dz)


def graph_of(count: int) -> Call:
    kernel = raw_kernel()
    return captured(lambda: [kernel() for _ in range(count)])


LAUNCHES: dict[str, Callable[[], Call]] = {
    "RawKernel": raw_kernel,
    "ElementwiseKernel": elementwise_kernel,
    "cupy.matmul": cupy_matmul,
    "cublasLtMatmul by ctypes": cublaslt_matmul,
    "backend.run": backend_run,
    "graph of 1 kernel": lambda: graph_of(1),
    "graph of 20 kernels": lambda: graph_of(20),
}


def launch(name: str) -> dict[str, float]:
    issuing, doing = host_seconds(LAUNCHES[name]())
    return {"host, µs": us(issuing), "until done, µs": us(doing)}


def device_to_device(size: int) -> Call:
    import cupy

    there, back = cupy.ones(size, "uint8"), cupy.empty(size, "uint8")
    return lambda: back.data.copy_from_device_async(there.data, size, cupy.cuda.get_current_stream())


def pinned(size: int) -> Any:
    import cupy

    return np.frombuffer(cupy.cuda.alloc_pinned_memory(size), np.uint8, size)


def to_device(size: int, host_array: Callable[[int], Any]) -> Call:
    import cupy

    host, device = host_array(size), cupy.empty(size, "uint8")
    host[:] = 1
    return lambda: device.set(host, stream=cupy.cuda.get_current_stream())


def device_to_pinned(size: int) -> Call:
    import cupy

    device, host = cupy.ones(size, "uint8"), pinned(size)
    return lambda: device.get(stream=cupy.cuda.get_current_stream(), out=host, blocking=False)


COPIES: dict[str, Callable[[int], Call]] = {
    "device to device": device_to_device,
    "pinned to device": lambda size: to_device(size, pinned),
    "pageable to device": lambda size: to_device(size, lambda size: np.empty(size, np.uint8)),
    "device to pinned": device_to_pinned,
}


def copy(name: str) -> dict[str, dict[str, float]]:
    """GB/s at several sizes; from device to device, the bytes read and those written."""
    both = name == "device to device"
    found = {}
    for mebibytes in (16, 256, 1024) if both else (1, 16, 256):
        size = mebibytes << 20
        seconds = device_seconds(COPIES[name](size))
        found[f"{mebibytes} MiB"] = {"GB/s": round((1 + both) * size / seconds / 1e9, 1), "µs": us(seconds)}
    return found
