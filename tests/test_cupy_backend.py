"""The seam to a device: what CuPy is given, and no arithmetic that goes around it."""

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.backends.cupy import declaration, pure_reads
from gpubp.backends.numpy import NumpyBackend
from gpubp.backends.sources import digest
from gpubp.kernel import KERNELS, SOURCES, Kernel

PACKAGE = Path(gpubp.__file__).parent


def test_what_cupy_is_given() -> None:
    sigmoid, delta = declaration(KERNELS["bias_sigmoid"]), declaration(KERNELS["sigmoid_delta"])
    assert sigmoid == {
        "in_params": "T z, T b",
        "out_params": "T y",
        "operation": "bias_sigmoid<T>(z, b, y)",
        "name": "gpubp_bias_sigmoid",
        "preamble": '#include "activations.cuh"',
        "options": ("-std=c++17", f"-I{SOURCES}", f"-DGPUBP_SOURCES=0x{digest()}"),
    }
    assert (delta["in_params"], delta["out_params"]) == ("T dy, T y", "T dz")
    assert delta["operation"] == "sigmoid_delta<T>(dy, y, dz)"


def test_whole_numbers_and_a_line_of_cuda_are_given_as_such() -> None:
    dropout = declaration(KERNELS["dropout"], {"row", "column", "key", "threshold"})
    assert dropout["in_params"] == "T x, uint32 row, uint32 column, uint32 key, uint32 threshold, T scale"

    @gpubp.elementwise("dy, y -> dz", cuda="dz = dy * (1 - fabs(y))")
    def line_delta(xp: Any, dy: Any, y: Any, dz: Any) -> None:
        xp.multiply(dy, 1 - xp.abs(y), out=dz)

    try:
        line = declaration(line_delta)
        assert (line["operation"], line["preamble"]) == ("dz = dy * (1 - fabs(y))", "")
    finally:
        del KERNELS["line_delta"]


def test_what_is_read_and_written_is_an_output_to_cupy() -> None:
    assert pure_reads(KERNELS["sgd_momentum"]) == ("g", "rate", "momentum")
    assert pure_reads(KERNELS["bias_gelu"]) == ("b",)


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
        if path != PACKAGE / "backends" / "detection.py":
            assert 'import_module("cupy")' not in path.read_text(encoding="utf-8"), path
