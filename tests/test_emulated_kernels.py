"""The stand-in for CuPy: compiled kernels, from NVRTC to the launch, and the order of streams."""

import importlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from emulator.kernels import RANDOM, REVERSE, EmulationError


@pytest.fixture
def cp(emulated: Any) -> Any:
    return importlib.import_module("cupy")


HEADER = """
template <typename T>
struct Out { T* data; };
template <typename T>
__device__ void store(Out<T> out, long long i, T value) { out.data[i] = value; }
"""
SOURCE = """
#include "store.cuh"
extern "C" __global__ void __launch_bounds__(64) scale(long long count, float factor, const float* x, Out<float> y) {
  __shared__ float all[64];
  long long i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) store(y, i, factor * x[i]);
  if (BARRIER) __syncthreads();
}
extern "C" __global__ void turns(unsigned* out) { out[out[0]++] = threadIdx.x; }
"""


def cubin(cp: Any, source: str = SOURCE.replace("BARRIER", "true"), arch: str = "-arch=sm_90") -> bytes:
    nvrtc = cp.cuda.nvrtc
    program = nvrtc.createProgram(source, "toy.cu", [HEADER.encode()], [b"store.cuh"])
    try:
        nvrtc.compileProgram(program, ("-std=c++17", "-ftz=false", arch))
        return bytes(nvrtc.getCUBIN(program))
    except nvrtc.NVRTCError as error:
        error.add_note(nvrtc.getProgramLog(program))
        raise
    finally:
        nvrtc.destroyProgram(program)


@pytest.fixture
def scale(cp: Any, tmp_path: Path) -> Any:
    (tmp_path / "toy.cubin").write_bytes(cubin(cp))
    return cp.RawModule(path=str(tmp_path / "toy.cubin")).get_function("scale")


@pytest.mark.toolchain
def test_a_kernel_from_nvrtc_to_the_launch(cp: Any, emulated: Any, scale: Any) -> None:
    x, y = cp.arange(100, dtype="float32"), cp.empty(100, "float32")
    scale((2,), (64,), (np.int64(100), np.float32(3), x, y), shared_mem=0)
    assert (y.get() == 3 * np.arange(100)).all()
    assert emulated.launched["scale"] == 1


LAUNCHES: dict[str, tuple[Any, type[Exception], str]] = {
    "an int": (lambda x: ((1,), (64,), (100, np.float32(3), x, x)), TypeError, "argument 0 is 100, not a device"),
    "a float": (lambda x: ((1,), (64,), (np.int64(1), 3.0, x, x)), TypeError, "argument 1 is 3.0"),
    "host": (lambda x: ((1,), (64,), (np.int64(1), np.float32(3), x.get(), x)), TypeError, "argument 2"),
    "an address": (lambda x: ((1,), (64,), (np.int64(1), np.float32(3), x, x.data.ptr)), TypeError, "argument 3"),
    "a wrong width": (
        lambda x: ((1,), (64,), (np.int64(1), np.float64(3), x, x)),
        EmulationError,
        re.escape("scale takes arguments of [8, 4, 8, 8] bytes, not [8, 8, 8, 8]"),
    ),
    "too few": (lambda x: ((1,), (64,), (np.int64(1), np.float32(3), x)), EmulationError, "takes arguments of"),
    "bounds": (lambda x: ((1,), (65,), (np.int64(1), np.float32(3), x, x)), EmulationError, "__launch_bounds__.64."),
    "a list": (lambda x: ([1], (64,), (np.int64(1), np.float32(3), x, x)), EmulationError, "are tuples"),
    "no block": (lambda x: ((0,), (64,), (np.int64(1), np.float32(3), x, x)), EmulationError, "CUDA's limits"),
}


@pytest.mark.toolchain
@pytest.mark.parametrize("launch", LAUNCHES)
def test_launches_that_are_refused(cp: Any, scale: Any, launch: str) -> None:
    make, error, message = LAUNCHES[launch]
    with pytest.raises(error, match=message):
        scale(*make(cp.zeros(100, "float32")))


@pytest.mark.toolchain
def test_a_launch_that_would_hang(cp: Any, tmp_path: Path) -> None:
    source = SOURCE.replace("BARRIER", "i < count")
    (tmp_path / "toy.cubin").write_bytes(cubin(cp, source))
    scale = cp.RawModule(path=str(tmp_path / "toy.cubin")).get_function("scale")
    x = cp.zeros(100, "float32")
    with pytest.raises(EmulationError, match=r"scale: deadlock in block \(1,0,0\): .* at toy\.cu:7"):
        scale((2,), (64,), (np.int64(100), np.float32(3), x, x))
    scale((1,), (64,), (np.int64(100), np.float32(3), x, x))


@pytest.mark.toolchain
def test_the_order_of_threads(cp: Any, emulated: Any, scale: Any, tmp_path: Path) -> None:
    turns = cp.RawModule(path=str(tmp_path / "toy.cubin")).get_function("turns")
    seen = []
    for emulated.order, emulated.seed in ((0, 0), (REVERSE, 0), (RANDOM, 1), (RANDOM, 2)):
        out = cp.zeros(9, "uint32")
        out[0] = 1
        turns((1,), (8,), (out,))
        seen.append(out.tolist()[1:])
    assert seen[:2] == [list(range(8)), list(range(7, -1, -1))]
    assert sorted(seen[2]) == sorted(seen[3]) == seen[0] != seen[2] != seen[3]


@pytest.mark.toolchain
def test_compile_errors(cp: Any, emulated: Any) -> None:
    nvrtc = cp.cuda.nvrtc
    with pytest.raises(nvrtc.NVRTCError, match="NVRTC_ERROR_COMPILATION") as caught:
        cubin(cp, "\n\nint x = nothing;\n")
    assert "toy.cu:3:9: error: " in caught.value.__notes__[0]
    with pytest.raises(nvrtc.NVRTCError, match="NVRTC_ERROR_INVALID_OPTION"):
        cubin(cp, arch="-march=native")
    with pytest.raises(EmulationError, match="makes no cubin"):
        cubin(cp, arch="-fmad=false")
    with pytest.raises(TypeError, match="expected bytes"):
        nvrtc.createProgram("", "toy.cu", [HEADER], ["store.cuh"])
    emulated.compile_error = "toy.cu(7): error: so there"
    with pytest.raises(nvrtc.NVRTCError) as caught:
        cubin(cp)
    assert caught.value.__notes__ == [emulated.compile_error]


@pytest.mark.toolchain
def test_damaged_cubins(cp: Any, tmp_path: Path) -> None:
    good, path = cubin(cp), tmp_path / "toy.cubin"
    for contents in (b"", good[:1000], good[:-40] + b"x" + good[-39:]):
        path.write_bytes(contents)
        with pytest.raises(RuntimeError, match="CUDA_ERROR_INVALID_IMAGE"):
            cp.RawModule(path=str(path)).get_function("scale")
    path.write_bytes(good + b"\0")
    assert cp.RawModule(path=str(path)).get_function("scale")
    with pytest.raises(RuntimeError, match="CUDA_ERROR_NOT_FOUND"):
        cp.RawModule(path=str(path)).get_function("scales")


@pytest.mark.toolchain
def test_elementwise_kernels(cp: Any, emulated: Any) -> None:
    preamble = "template <typename U> __device__ void axpy(U a, U x, U& y) { y = a * x + y; }"
    axpy = cp.ElementwiseKernel(
        "T a, T x", "T y", "axpy(a, x, y)", "toy_axpy", preamble=preamble, options=("-std=c++17",)
    )
    for dtype in ("float32", "float64"):
        x, y = cp.arange(3, dtype=dtype), cp.ones((2, 3), dtype)
        assert axpy(2.0, x, y) is y
        assert y.get().tolist() == [[1, 3, 5]] * 2
        axpy(cp.asarray(1, dtype), x[1:], y[:, :2])  # any strides
        assert y.get().tolist() == [[2, 5, 5]] * 2
    assert emulated.launched["toy_axpy"] == 4
    halves = cp.ElementwiseKernel("uint32 odd, T x", "T half", "half = odd % 2 ? x / 2 : x", "halves")
    assert halves(cp.arange(4, dtype="uint32"), cp.ones((2, 4))).get().tolist() == [[1, 0.5, 1, 0.5]] * 2
    with pytest.raises(ValueError, match="Out shape is mismatched"):
        axpy(2.0, cp.ones((2, 3)), cp.ones(3))
    with pytest.raises(TypeError, match="Type is mismatched"):
        axpy(2.0, cp.ones(3), cp.ones(3, "float32"))
    with pytest.raises(TypeError, match="Unsupported type"):
        axpy(2.0, np.ones(3), cp.ones(3))
    wrong = cp.ElementwiseKernel("T x", "T y", "y = nothing(x)", "wrong")
    with pytest.raises(cp.cuda.compiler.CompileException, match="nothing"):
        wrong(cp.ones(3))


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def streams(cp: Any) -> Any:
    """An array and a copy stream, with a page-locked buffer and an event."""
    return SimpleNamespace(
        a=cp.zeros(4, "float32"),
        pinned=np.frombuffer(cp.cuda.alloc_pinned_memory(16), "float32", 4),
        copying=cp.cuda.Stream(non_blocking=True),
        computing=cp.cuda.get_current_stream(),
        event=cp.cuda.Event(disable_timing=True),
    )


def test_a_copy_that_is_waited_for(cp: Any, streams: Any) -> None:
    s = streams
    s.computing.record(s.event)
    s.copying.wait_event(s.event)
    s.pinned[:] = 3
    s.a.set(s.pinned, stream=s.copying)
    s.copying.record(s.event)
    s.computing.wait_event(s.event)
    assert float(s.a.sum()) == 12  # which waits: now the buffer may be written
    s.pinned[:] = 4
    s.copying.wait_event(s.computing.record())
    s.a.set(s.pinned, stream=s.copying)
    s.copying.synchronize()
    assert float(s.a.sum()) == 16


def test_a_result_on_the_way(cp: Any, streams: Any) -> None:
    streams.copying.wait_event(streams.computing.record())
    streams.a.set(streams.pinned, stream=streams.copying)
    with pytest.raises(EmulationError, match="has not waited"):
        streams.a + 1
    cp.cuda.Device(0).synchronize()
    assert float((streams.a + 1).sum()) == 4


def test_a_copy_over_what_is_being_read(cp: Any, streams: Any) -> None:
    cp.cuda.Device(0).synchronize()
    total = streams.a.sum()
    with pytest.raises(EmulationError, match="has not waited"):
        streams.a.set(streams.pinned, stream=streams.copying)
    with streams.copying, pytest.raises(EmulationError, match="has not waited"):
        total + 1


def test_memory_of_the_host(cp: Any, streams: Any) -> None:
    cp.cuda.Device(0).synchronize()
    with pytest.raises(EmulationError, match="not pinned"):
        streams.a.set(np.zeros(4, "float32"), stream=streams.copying)
    streams.a.set(streams.pinned, stream=streams.copying)
    streams.pinned[2] = 1
    with pytest.raises(EmulationError, match="pinned memory was written"):
        streams.copying.synchronize()


def test_work_on_another_current_stream(cp: Any, streams: Any) -> None:
    assert cp.cuda.get_current_stream() is streams.computing
    streams.copying.wait_event(streams.computing.record())
    with streams.copying:
        assert cp.cuda.get_current_stream() is streams.copying
        streams.a.fill(2)
    with pytest.raises(EmulationError, match="has not waited"):
        streams.a.sum()
    assert np.frombuffer(cp.cuda.alloc_pinned_memory(24), "uint8").size == 32  # as CuPy's pool rounds
