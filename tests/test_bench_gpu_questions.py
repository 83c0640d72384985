"""bench.gpu's questions without a GPU: on NumPy, and on a CuPy that only notes what is asked of it."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpubp
from bench.gpu import kernels, parity, probe, products, timing
from gpubp.backends.numpy import NumpyBackend
from gpubp.kernel import KERNELS


@pytest.mark.check
@pytest.mark.toolchain
def test_the_host_sigmoid_is_compared_bit_by_bit() -> None:
    z = np.ascontiguousarray(probe.patterns()[::64])
    assert np.isnan(z).any()
    assert np.isinf(z).any()
    y = probe.host_sigmoid(z)
    found = probe.compared(y, y, z)
    assert found["right"]
    assert found["values"] == z.size
    assert found["largest error, ulp"] <= 3
    off = y.copy()
    off.view(np.uint32)[100, 7] ^= 1
    found = probe.compared(off, y, z)
    assert found["different"] == 1
    assert not found["right"]
    assert found["first"][0][0] == z[100, 7]


@pytest.mark.check
@pytest.mark.cuda_toolchain
def test_the_probes_kernels_compile() -> None:
    cupy = pytest.importorskip("cupy")
    loops = "".join(
        f'extern "C" __global__ void {name}({given} long long i) {{ {taken} {text} }}\n'
        for name, given, taken, text in (
            ("uniform", "unsigned seed, float* out,", "float& y = out[i];", products.UNIFORM),
            ("rounded", "const float* in, unsigned short* out,", "float x = in[i]; auto& y = out[i];", products.ROUND),
        )
    )
    nvrtc = cupy.cuda.nvrtc
    program = nvrtc.createProgram(probe.SCHEDULE + probe.NOTHING + loops, "probe.cu", (), ())
    nvrtc.compileProgram(program, ("-std=c++17", "-arch=sm_90"))
    nvrtc.destroyProgram(program)


@pytest.mark.parametrize("name", sorted(kernels.with_source()))
def test_arguments_on_a_device_suit_their_kernel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", np)
    kernel = KERNELS[name]
    for width in (1, 64):
        args = kernels.device_arguments(kernel, 128, width)
        like = args[kernel.arguments[kernel.shaped_like]]
        assert like.size in (128 * width, 128)
        with np.errstate(all="ignore"):
            kernel.body(np, *args.values(), *(np.empty_like(like) for _ in range(kernel.scratch)))
        assert kernels.moved(kernel, args) >= sum(args[written].nbytes for written in kernel.writes)


@pytest.fixture
def _numpy_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy where the questions ask for CuPy and for the backend; a replay runs every call once."""

    def replayed(calls: list[Callable[[], object]]) -> float:
        for call in calls:
            call()
        return 0.001

    monkeypatch.setitem(sys.modules, "cupy", np)
    monkeypatch.setattr(gpubp, "get_backend", lambda device: NumpyBackend())
    monkeypatch.setattr(kernels, "backends", lambda: {"fused": NumpyBackend(), "unfused": NumpyBackend()})
    monkeypatch.setattr(kernels, "replayed_seconds", replayed)
    monkeypatch.setattr(kernels, "copy_rate", lambda nbytes: 2)
    monkeypatch.setattr(kernels, "SHAPES", [(64, 8)])
    monkeypatch.setattr(kernels, "FLAT", [(64, 8)])
    monkeypatch.setattr(kernels, "BEYOND_CACHE", 10000)


@pytest.mark.usefixtures("_numpy_device")
def test_kernels_are_compared_by_the_bytes_they_move() -> None:
    nbytes = 4 * (3 * 64 * 8)
    assert kernels.bias_gradient("sigmoid_delta") == {
        "64x8": {
            "MB": round(nbytes / 1e6, 1),
            "copy, GB/s": 2,
            "fused, GB/s": round(nbytes / 1e6),
            "fused, µs": 1000,
            "fused as": "graph",
            "unfused, GB/s": round(nbytes / 1e6),
            "unfused, µs": 1000,
            "unfused as": "graph",
            "of the copy": 0,
            "unfused / fused": 1,
        }
    }
    assert kernels.kernel("adam")["64x8"]["fused as"] == "graph"
    assert kernels.gather("128x8")["MB"] == round(128 * 8 * (2 * 4 + 1) / 1e6, 1)


@pytest.mark.usefixtures("_numpy_device")
def test_bias_gradients_are_the_same_in_one_pass_and_in_two() -> None:
    kernel = KERNELS["sigmoid_delta"]
    args = kernels.device_arguments(kernel, 64, 8)
    sums = [np.full(8, np.nan, np.float32) for _ in range(2)]
    kernels.in_one_pass(kernel, args, sums[0])()
    kernels.in_two_passes(kernel, args, sums[1])()
    np.testing.assert_allclose(sums[0], args["dz"].sum(axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(*sums)


def test_calls_that_cannot_be_captured_are_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(calls: Any) -> float:
        raise NotImplementedError

    called: list[int] = []
    monkeypatch.setattr(kernels, "replayed_seconds", refuses)
    monkeypatch.setattr(kernels, "device_seconds", lambda call: call() or 3.0)
    assert kernels.in_a_graph([lambda: called.append(1), lambda: called.append(2)]) == (1.5, "launches")
    assert called == [1, 2]


@pytest.mark.check
@pytest.mark.toolchain
@pytest.mark.usefixtures("_numpy_device")
def test_the_bits_are_those_of_the_backends_sigmoid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "EVERY", 100003)
    found = probe.bits("exact sigmoid")
    assert found["different"] > 0  # NumPy's exp has other bits
    assert found["largest error, ulp"] < 4


def test_a_check_keeps_what_the_backend_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpubp.parity import Result

    monkeypatch.setattr(gpubp, "get_backend", lambda device: device)
    monkeypatch.setattr("gpubp.parity.check", lambda backend, dtype: [Result("sigmoid", dtype, 2e-7, 1e-7)])
    assert parity.check("float32") == {"sigmoid": {"error": 2e-7, "tolerance": 1e-7, "right": False}}


# -- a CuPy that notes what is asked of it -----------------------------------------------------------------------------


class NotedStream:
    """A stream; what it was asked for is in `noted`."""

    ptr = 0

    def __init__(self, noted: list[str]) -> None:
        self.noted = noted

    def __enter__(self) -> "NotedStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.noted.append("left")

    def synchronize(self) -> None:
        pass

    def begin_capture(self) -> None:
        self.noted.append("begin")

    def end_capture(self) -> Any:
        self.noted.append("end")
        return SimpleNamespace(launch=lambda: self.noted.append("launch"))


class NotedArray:
    """A device array that notes copies with the arguments that CuPy's methods have."""

    def __init__(self, noted: list[str]) -> None:
        self.noted = noted
        self.data, self.size = self, 4096

    def copy_from_device_async(self, src: Any, size: int, stream: Any = None) -> None:
        self.noted.append(f"{size} there")

    def set(self, arr: Any, stream: Any = None) -> None:
        self.noted.append(f"{arr.nbytes} up")

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> None:
        self.noted.append(f"{out.nbytes} down" if not blocking else "waits")


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of CuPy."""
    noted: list[str] = []
    array = lambda *args: NotedArray(noted)  # noqa: E731

    class Event:
        def record(self, stream: Any = None) -> None:
            pass

        def synchronize(self) -> None:
            pass

    def launched(name: str) -> Callable[..., Any]:
        return lambda *declaration: lambda *args: noted.append(name)

    cuda = SimpleNamespace(
        Stream=lambda non_blocking: NotedStream(noted),
        Event=Event,
        Device=lambda: SimpleNamespace(synchronize=lambda: None),
        get_elapsed_time=lambda start, stop: 3.0,
        get_current_stream=lambda: NotedStream(noted),
        alloc_pinned_memory=bytearray,
    )
    fake = SimpleNamespace(
        **dict.fromkeys(("ones", "empty"), array),
        cuda=cuda,
        RawKernel=launched("raw"),
        ElementwiseKernel=launched("elementwise"),
        matmul=lambda a, b, out: noted.append("matmul"),
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)
    return noted


def test_a_graph_has_what_its_body_launches(noted: list[str]) -> None:
    replay = timing.captured(lambda: noted.append("body"))
    replay()
    assert noted == ["body", "begin", "body", "end", "left", "launch"]


def test_a_capture_that_fails_is_ended(noted: list[str]) -> None:
    def refuses() -> None:
        if "begin" in noted:
            raise NotImplementedError("no cuBLAS in a capture")

    with pytest.raises(NotImplementedError, match="no cuBLAS"):
        timing.captured(refuses)
    assert noted == ["begin", "end", "left"]


def test_seconds_are_those_of_the_events_by_call(noted: list[str]) -> None:
    seconds = timing.device_seconds(lambda: noted.append("call"), seconds=0.01)
    count = int(0.01 / (0.003 / 3))
    assert noted.count("call") == 2 + 3 + timing.BLOCKS * count
    assert seconds == pytest.approx(0.003 / count)
    issuing, doing = timing.host_seconds(lambda: None)
    assert 0 < issuing <= doing


@pytest.mark.parametrize("name", ["RawKernel", "ElementwiseKernel", "cupy.matmul", "graph of 20 kernels"])
def test_launches_are_made(name: str, noted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "host_seconds", lambda call: call() or (1e-6, 2e-6))
    assert probe.launch(name) == {"host, µs": 1, "until done, µs": 2}
    if name.startswith("graph"):
        assert noted.count("raw") == 2 * 20  # once by itself, once captured
        assert noted[-1] == "launch"
    else:
        assert len(noted) == 1


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("device to device", [f"{size << 20} there" for size in (16, 256, 1024)]),
        ("pinned to device", [f"{size << 20} up" for size in (1, 16, 256)]),
        ("pageable to device", [f"{size << 20} up" for size in (1, 16, 256)]),
        ("device to pinned", [f"{size << 20} down" for size in (1, 16, 256)]),
    ],
)
def test_copies_are_asked_for(name: str, asked: list[str], noted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "device_seconds", lambda call: call() or 1.0)
    found = probe.copy(name)
    assert noted == asked
    share = 2 if name == "device to device" else 1
    assert found["256 MiB"]["GB/s"] == round(share * (256 << 20) / 1e9, 1)
