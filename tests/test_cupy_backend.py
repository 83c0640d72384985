"""The seam to a device: what CuPy is given, CuPy that is missing or broken, and no arithmetic that goes around it."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.backends.cupy import declaration, pure_reads, why_not
from gpubp.backends.numpy import NumpyBackend
from gpubp.kernel import KERNELS, SOURCES, Kernel

PACKAGE = Path(gpubp.__file__).parent


def test_what_cupy_is_given() -> None:
    sigmoid, delta = declaration(KERNELS["bias_sigmoid"]), declaration(KERNELS["sigmoid_delta"])
    code = (SOURCES / "activations.cuh").read_text(encoding="utf-8")
    assert sigmoid == {
        "in_params": "T z, T b",
        "out_params": "T y",
        "operation": "bias_sigmoid(z, b, y)",
        "name": "gpubp_bias_sigmoid",
        "preamble": code,
    }
    assert (delta["in_params"], delta["out_params"]) == ("T dy, T y", "T dz")
    assert delta["operation"] == "sigmoid_delta(dy, y, dz)"


def test_what_is_read_and_written_is_an_output_to_cupy() -> None:
    assert pure_reads(KERNELS["sgd_momentum"]) == ("g", "rate", "momentum")
    assert pure_reads(KERNELS["bias_gelu"]) == ("b",)


class FakeArray:
    def __init__(self, total: float) -> None:
        self.total = total

    def __add__(self, other: Any) -> "FakeArray":
        return self

    def __matmul__(self, other: Any) -> "FakeArray":
        return self

    def sum(self) -> float:
        return self.total


class FakeDevice:
    def __init__(self, index: int) -> None:
        self.id = index

    def __enter__(self) -> None: ...

    def __exit__(self, *details: object) -> None: ...


class CudaError(RuntimeError): ...


def fake_cupy(count: Any = 1, total: float = 16.0, ones: Callable[..., Any] | None = None) -> Any:
    def get_device_count() -> int:
        if isinstance(count, Exception):
            raise count
        return int(count)

    names = {"getDeviceProperties": lambda index: {"name": b"A Card"}, "CUDARuntimeError": CudaError}
    runtime = SimpleNamespace(getDeviceCount=get_device_count, **names)
    cuda = SimpleNamespace(runtime=runtime, Device=FakeDevice)
    return SimpleNamespace(cuda=cuda, ones=ones or (lambda *args: FakeArray(total)), __version__="14.0")


@pytest.fixture
def with_cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """A function that puts a module, or the error of importing one, in CuPy's place."""

    def install(module: Any) -> None:
        def import_module(name: str) -> Any:
            assert name == "cupy"
            if isinstance(module, Exception):
                raise module
            return module

        monkeypatch.setattr("gpubp.backends.cupy.importlib", SimpleNamespace(import_module=import_module))
        why_not.cache_clear()

    why_not.cache_clear()
    yield install
    why_not.cache_clear()


def broken(*args: Any) -> Any:
    raise OSError("libnvrtc.so.12: cannot open shared object file")


PROBLEMS: dict[str, tuple[Any, list[str]]] = {
    "missing": (
        ModuleNotFoundError("No module named 'cupy'"),
        ["CuPy is not installed", "pip install 'cupy-cuda13x[ctk]'"],
    ),
    "broken": (
        ImportError("libcudart.so.12 is missing"),
        ["CuPy is broken (libcudart.so.12 is missing)", "pip install"],
    ),
    "no driver": (
        fake_cupy(CudaError("cudaErrorNoDevice")),
        ["no CUDA driver", "cudaErrorNoDevice", "install an NVIDIA driver"],
    ),
    "none": (fake_cupy(0), ["this machine has 0 CUDA devices", "cuda:0 is not among them"]),
    "wrong": (fake_cupy(1, 15.0), ["wrong matrix product", "check the driver"]),
    "no nvrtc": (fake_cupy(1, ones=broken), ["CuPy cannot run on cuda:0", "libnvrtc.so.12", "cupy-cuda12x"]),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_cuda_that_is_not_there(with_cupy: Callable[[Any], None], problem: str) -> None:
    module, words = PROBLEMS[problem]
    with_cupy(module)
    with pytest.raises(gpubp.DeviceError) as caught:
        gpubp.get_backend("cuda")
    for word in [*words, "Use device='cpu' or 'auto'"]:
        assert word in str(caught.value)
    backend = gpubp.get_backend("auto")
    assert backend.name == "cpu"
    assert backend.fallback is not None
    assert all(word in backend.fallback for word in words)
    assert gpubp.MLP([2, 2], seed=0).fallback == backend.fallback
    cpu, cuda = gpubp.devices()
    assert (cpu["device"], cpu["available"]) == ("cpu", "yes")
    assert cuda == {"device": "cuda", "available": "no", "reason": backend.fallback}


def test_a_device_that_works(with_cupy: Callable[[Any], None]) -> None:
    with_cupy(fake_cupy(1))
    assert (gpubp.get_backend("auto").name, gpubp.get_backend("auto").fallback) == ("cuda:0", None)
    assert gpubp.get_backend("cpu").fallback is None
    assert [row["device"] for row in gpubp.devices()] == ["cpu", "cuda:0"]
    with pytest.raises(gpubp.DeviceError, match="this machine has 1 CUDA device, cuda:3 is not among them"):
        gpubp.get_backend("cuda:3")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:-1", "", None, 0])
def test_a_device_of_no_kind(device: Any) -> None:
    with pytest.raises(gpubp.DataError, match="device must be"):
        gpubp.get_backend(device)


# -- all arithmetic goes through the backend ---------------------------------------------------------------------------


class Recording(NumpyBackend):
    """Counts what is asked of the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def clear(self) -> None:
        self.products: list[int] = []  # multiplications in each
        self.kernels: list[str] = []
        self.sums = 0

    def matmul(self, a: Any, b: Any, out: Any) -> None:
        self.products.append(a.shape[0] * a.shape[1] * b.shape[1])
        super().matmul(a, b, out)

    def run(self, kernel: Kernel, *args: Any) -> None:
        self.kernels.append(kernel.name)
        super().run(kernel, *args)

    def column_sum(self, a: Any, out: Any) -> None:
        self.sums += 1
        super().column_sum(a, out)


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Recording:
    backend = Recording()
    monkeypatch.setattr("gpubp.mlp.get_backend", lambda device: backend)
    return backend


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_the_products_of_a_step(recording: Recording, depth: int, rng: np.random.Generator) -> None:
    """L forward, L for the weights' gradients, L − 1 for the deltas below: backward costs about twice forward."""
    net = gpubp.MLP([7, *[8] * (depth - 1), 7], seed=0)
    x, y = rng.standard_normal((16, 7)), rng.integers(0, 7, 16)
    net.forward(x)
    assert len(recording.products) == depth
    forward = sum(recording.products)
    recording.clear()
    net.train_step(x, y, gpubp.SGD(0.1))
    assert len(recording.products) == 3 * depth - 1
    first = 16 * net.sizes[0] * net.sizes[1]  # nobody wants ∂C/∂x
    assert sum(recording.products) == 3 * forward - first
    assert recording.sums == depth
    assert recording.kernels == [
        *["bias_sigmoid"] * (depth - 1),
        "softmax_cross_entropy",
        "weighted_sum",
        *["sigmoid_delta"] * (depth - 1),
        "sgd",
    ]


def test_a_trace_has_one_product_more(recording: Recording, rng: np.random.Generator) -> None:
    net = gpubp.MLP([5, 4, 3, 2], output="identity", seed=0)
    net.backprop(rng.standard_normal((6, 5)), rng.standard_normal((6, 2)))
    assert len(recording.products) == 9


def test_a_step_computes_only_through_the_backend(recording: Recording, rng: np.random.Generator) -> None:
    """With products and kernels that do nothing, the parameters stay as they are and the gradients zero."""
    net = gpubp.MLP([5, 4, 2], "relu", seed=0)
    net._network.arena.gradients.fill(0)
    before = net._network.arena.parameters.copy()
    recording.run = recording.matmul = recording.column_sum = lambda *args: None  # type: ignore[method-assign, assignment]
    net.train_step(rng.standard_normal((6, 5)), rng.integers(0, 2, 6), gpubp.SGD(0.1))
    np.testing.assert_array_equal(net._network.arena.parameters, before)
    assert not net._network.arena.gradients.any()


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("module", ["activations", "losses", "optimizers"])
def test_modules_that_compute_do_not_know_numpy(module: str) -> None:
    assert not imports(PACKAGE / f"{module}.py") & {"numpy", "cupy"}


def test_layers_use_numpy_for_constants_only() -> None:
    tree = ast.parse((PACKAGE / "layers.py").read_text(encoding="utf-8"))
    used = {
        n.attr
        for n in ast.walk(tree)
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "np"
    }
    assert used == {"uint32"}


def test_cupy_is_named_in_one_module() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert "cupy" not in imports(path), path
        if path != PACKAGE / "backends" / "cupy.py":
            assert 'import_module("cupy")' not in path.read_text(encoding="utf-8"), path
