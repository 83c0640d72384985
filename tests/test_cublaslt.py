"""Matrix products by cuBLASLt: descriptors of the real library, which need no GPU, and products by the emulated one."""

import itertools
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from emulated_cupy import install

import gpubp
from gpubp import activations
from gpubp.backends import cublaslt
from gpubp.backends.arguments import UnsuitableError
from gpubp.backends.detection import cupy
from gpubp.backends.products import Products, alignment


@pytest.fixture
def machine() -> Iterator[Any]:
    with install() as machine:
        yield machine


def test_descriptors_can_be_made_without_a_gpu() -> None:
    pytest.importorskip("cuda.pathfinder")
    try:
        cublaslt.library()
    except cublaslt.DeviceError as error:
        pytest.skip(str(error))
    for kind, epilogue in itertools.product(cublaslt.KINDS, cublaslt.EPILOGUES):
        cublaslt.Product(
            kind, 256, 128, 64, transposed=(True, False), epilogue=epilogue, bias=256, aux=512, aux_ld=128
        ).close()


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> Any:
        raise RuntimeError(f"no such library: {name}")

    monkeypatch.setitem(sys.modules, "cuda.pathfinder", SimpleNamespace(load_nvidia_dynamic_lib=find))
    cublaslt.library.cache_clear()
    with pytest.raises(cublaslt.DeviceError, match="cuBLASLt was not found"):
        cublaslt.library()
    cublaslt.library.cache_clear()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=2)))
def test_products_are_right_however_the_factors_lie(
    machine: Any, dtype: str, flips: tuple[bool, bool], rng: np.random.Generator
) -> None:
    m, n, k = 5, 3, 7
    left, right, before = rng.random((m, k)), rng.random((k, n)), rng.random((m, n))
    a, b = (
        cupy().asarray(each.T.astype(dtype)).T if flip else cupy().asarray(each.astype(dtype))
        for each, flip in zip((left, right), flips, strict=True)
    )
    products, out = Products(cupy(), None), cupy().asarray(before.astype(dtype))
    products.multiply(a, b, out)
    np.testing.assert_allclose(out.get(), left @ right, rtol=1e-6)
    products.multiply(a, b, out, -0.5, 2.0)
    np.testing.assert_allclose(out.get(), 1.5 * left @ right, rtol=1e-6)
    numbers = cupy().asarray(np.array([3.0, 1.0], dtype))
    products.multiply(a, b, out, numbers[0], numbers[1])
    np.testing.assert_allclose(out.get(), 4.5 * left @ right, rtol=1e-6)
    assert machine.launched["cublasLtMatmul"] == 3


def test_a_product_has_one_plan_wherever_its_rows_begin(machine: Any, rng: np.random.Generator) -> None:
    x, w, out = (cupy().asarray(rng.random(shape, np.float32)) for shape in ((64, 12), (12, 4), (16, 4)))
    products = Products(cupy(), None)
    for start in (0, 16, 17):
        products.multiply(x[start : start + 16], w, out)
        np.testing.assert_allclose(out.get(), x.get()[start : start + 16] @ w.get(), rtol=1e-6)
    assert len(products._plans) == 1
    assert [alignment(x[:, 0:12]), alignment(cupy().empty((4, 3), "float32")), alignment(w)] == [16, 4, 16]


def test_what_no_plan_takes_is_left_to_others(machine: Any, rng: np.random.Generator) -> None:
    products, out = Products(cupy(), None), cupy().empty((4, 4), "float32")
    a = cupy().asarray(rng.random((4, 8), np.float32))
    for left, right in ((a[:, ::2], a[:, :4]), (a[:, :0], a[:0, :4].reshape(0, 4))):
        with pytest.raises(UnsuitableError):
            products.multiply(left, right, out)
    assert not machine.launched["cublasLtMatmul"]


def test_a_call_that_fails_says_which_and_why(machine: Any) -> None:
    with pytest.raises(cublaslt.CublasLtError, match=r"cublasLtMatrixLayoutCreate: emulated \(7\)"):
        cublaslt.Product("float32", 0, 4, 4)
    with pytest.raises(cublaslt.CublasLtError, match=r"cublasLtMatmulAlgoGetHeuristic: .* \(15\)"):
        cublaslt.Product("float32", 4, 4, 4, epilogue="GELU").plan(0)


def test_plans_that_are_too_many_are_forgotten(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubp.backends.products.MOST_PLANS", 2)
    products = Products(cupy(), None)
    for n in range(1, 6):
        a, out = cupy().zeros((4, n), "float32"), cupy().empty((4, 4), "float32")
        products.multiply(a, a.T, out)
    assert len(products._plans) == 1
    kept = [each for each in cublaslt.library().made.values() if isinstance(each, dict)]
    assert len(kept) == 1


# -- epilogues ---------------------------------------------------------------------------------------------------------


def biased(rng: np.random.Generator, outputs: int = 8) -> tuple[Any, ...]:
    """a, b, bias, a b + bias and two outputs."""
    a, b, bias = (rng.standard_normal(shape, np.float32) for shape in ((5, 7), (7, outputs), (outputs,)))
    return *map(cupy().asarray, (a, b, bias)), a @ b + bias, *(cupy().empty((5, outputs), "float32") for _ in range(2))


def test_a_bias_and_relu_in_the_product(machine: Any, rng: np.random.Generator) -> None:
    a, b, bias, z, y, _ = biased(rng)
    for kernel, expected in ((activations.bias_relu, np.maximum(z, 0)), (activations.bias_identity, z)):
        Products(cupy(), None).multiply_and_run(kernel, a, b, y, bias, y)
        np.testing.assert_allclose(y.get(), expected, rtol=1e-5, atol=1e-6)
    assert machine.launched["cublasLtMatmul"] == sum(machine.launched.values()) == 2


def test_gelu_in_the_product_keeps_z(machine: Any, rng: np.random.Generator) -> None:
    a, b, bias, z, y, saved = biased(rng)
    Products(cupy(), "tf32").multiply_and_run(activations.bias_gelu, a, b, saved, bias, y)
    np.testing.assert_allclose(saved.get(), z, rtol=5e-3, atol=5e-3)
    expected = z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
    np.testing.assert_allclose(y.get(), expected, rtol=5e-3, atol=5e-3)


def test_what_no_epilogue_computes_is_left_to_kernels(machine: Any, rng: np.random.Generator) -> None:
    a, b, bias, _, y, other = biased(rng)
    relu, gelu, sigmoid = activations.bias_relu, activations.bias_gelu, activations.bias_sigmoid
    for precision, kernel, z in ((None, relu, other), (None, gelu, other), (None, sigmoid, y), ("tf32", gelu, y)):
        with pytest.raises(UnsuitableError):
            Products(cupy(), precision).multiply_and_run(kernel, a, b, z, bias, y)
    assert not machine.launched
    products, (a, b, bias, _, y, saved) = Products(cupy(), "tf32"), biased(rng, outputs=5)
    for _ in range(2):  # the emulated library wants rows of a multiple of eight numbers; it is asked once
        with pytest.raises(UnsuitableError):
            products.multiply_and_run(gelu, a, b, saved, bias, y)
    assert list(products._plans.values()) == [None]


def test_layers_run_in_their_products(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUBP_GRAPHS", "1")
    net = gpubp.MLP([6, 8, 8, 3], ["relu", "gelu"], precision="tf32", device="cuda", seed=0)
    exact = gpubp.MLP([6, 8, 8, 3], ["relu", "gelu"], dtype="float64", device="cpu", seed=0)
    x = np.random.default_rng(0).random((9, 6))
    np.testing.assert_allclose(net.forward(x), exact.forward(x), rtol=5e-3)
    assert not [name for name in machine.launched if name in ("gpubp_bias_relu", "gpubp_bias_gelu")]
    labels = np.random.default_rng(1).integers(0, 3, 9)
    both = ((net, gpubp.SGD(0.1)), (exact, gpubp.SGD(0.1)))
    losses = [[float(each.train_step(x, labels, optimizer)) for _ in range(3)] for each, optimizer in both]
    np.testing.assert_allclose(*losses, rtol=5e-3)
