"""`gpubp.parity`: right results pass it, each kind of fault is caught, and its tolerances are what the page says."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_compiled import compiled

from gpubp import parity
from gpubp.backends.numpy import NumpyBackend
from gpubp.errors import DeviceError
from gpubp.kernel import KERNELS, Kernel
from gpubp.parity import OWN, Result, arguments, check, largest, tolerance, truth_of

EPS = 2.0**-23
FEW = ["bias_sigmoid", "sigmoid_delta", "softmax_cross_entropy", "weighted_sum", "adam", "dropout"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where small arrays show a fault as large ones do."""
    monkeypatch.setattr(parity, "SHAPES", [(0, 3), (1, 1), (33, 31)])


@pytest.fixture
def few(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one kernel shows it as another does."""
    monkeypatch.setattr(parity, "OWN", [KERNELS[name] for name in FEW])


def test_numpy_in_float32_passes() -> None:
    results = {result.name: result for result in check(NumpyBackend(), "float32")}
    assert {kernel.name for kernel in OWN} <= set(results)
    assert {"column sum", "gather", "one-hot", "matrix product Aᵀ B", "sigmoid_delta + sum"} <= set(results)
    assert {"10 steps of SGD", "10 steps of Adam"} <= set(results)
    for result in results.values():
        assert result.ok, result
        assert result.error <= 0.6 * result.tolerance, "the tolerance leaves little for a device's own functions"
        assert (result.gb_per_s, result.problem) == (None, None)


def test_float64_is_the_truth_itself(few: None) -> None:
    for result in check(NumpyBackend(), "float64"):
        assert result.ok
        assert result.tolerance < 1e-13
        assert result.error == 0 or "sum" in result.name  # a product with ones adds in another order than NumPy's sum


class Off(NumpyBackend):
    """Every kernel's results are off: one element of each output, or more, as `change` says."""

    def __init__(self, change: Callable[[Any], None]) -> None:
        super().__init__()
        self.change = change

    def run(self, kernel: Kernel, *args: Any) -> None:
        super().run(kernel, *args)
        for name in kernel.writes:
            self.change(args[kernel.arguments.index(name)])


def off_by(share: float) -> Callable[[Any], None]:
    def change(a: Any) -> None:
        if a.size:
            place = np.unravel_index(np.abs(a).argmax(), a.shape)
            a[place] *= 1 + share

    return change


def never_written(a: Any) -> None:
    if a.size:
        a.flat[-1] = np.nan


def names_off(backend: NumpyBackend) -> set[str]:
    return {result.name for result in check(backend, "float32") if not result.ok}


@pytest.mark.parametrize("change", [off_by(1e-3), never_written], ids=["off", "never written"])
def test_one_wrong_element_is_caught_in_every_kernel(small: None, change: Callable[[Any], None]) -> None:
    found = names_off(Off(change))
    assert {kernel.name for kernel in OWN} <= found
    assert {"sigmoid_delta + sum", "10 steps of Adam"} <= found
    assert not found & {"column sum", "gather", "one-hot", "matrix product A B"}


def test_a_few_roundings_pass_and_a_few_more_do_not(few: None) -> None:
    assert "bias_sigmoid" not in names_off(Off(off_by(3 * EPS)))
    assert "bias_sigmoid" in names_off(Off(off_by(64 * EPS)))


class WritesItsInput(NumpyBackend):
    def run(self, kernel: Kernel, *args: Any) -> None:
        super().run(kernel, *args)
        if kernel.name == "bias_sigmoid":
            args[1][...] = 0


class ColumnSum(NumpyBackend):
    def column_sum(self, a: Any, out: Any) -> None:
        super().column_sum(a[:-1], out)


class Gather(NumpyBackend):
    def gather(self, a: Any, rows: Any, out: Any) -> None:
        super().gather(a, rows[::-1], out)


class OneHot(NumpyBackend):
    def one_hot(self, labels: Any, out: Any) -> None:
        super().one_hot(labels, out)
        out[-1:] = 0


class Transposed(NumpyBackend):
    """Takes a transposed factor's memory as it lies."""

    def matmul(self, a: Any, b: Any, out: Any) -> None:
        if not a.flags.c_contiguous:
            a = np.ascontiguousarray(a.T).reshape(a.shape)
        super().matmul(a, b, out)


class Aliased(NumpyBackend):
    """Writes the output before it has read the input."""

    def run(self, kernel: Kernel, *args: Any) -> None:
        if kernel.name == "bias_sigmoid":
            args[-1].fill(0)
        super().run(kernel, *args)


class OneWeight(NumpyBackend):
    """Knows no number for the weights of all rows."""

    def run(self, kernel: Kernel, *args: Any) -> None:
        if kernel.kind == "rowwise":
            args = tuple(1.0 if isinstance(arg, float) else arg for arg in args)
        super().run(kernel, *args)


STEPS = {f"10 steps of {name}" for name in parity.OPTIMIZERS}


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        (WritesItsInput, {"bias_sigmoid"}),
        (ColumnSum, {"column sum", "sigmoid_delta + sum", *STEPS}),
        (Gather, {"gather"}),
        (OneHot, {"one-hot", *STEPS}),
        (Transposed, {"matrix product Aᵀ B", *STEPS}),
        (Aliased, {"bias_sigmoid"}),
        (OneWeight, {"softmax_cross_entropy", *STEPS}),
    ],
)
def test_a_fault_is_caught_and_named(few: None, backend: type[NumpyBackend], expected: set[str]) -> None:
    assert names_off(backend()) == expected


def test_a_kernel_that_does_not_compile_hides_no_other(few: None) -> None:
    class Uncompiled(NumpyBackend):
        def run(self, kernel: Kernel, *args: Any) -> None:
            if kernel.name == "dropout":
                raise DeviceError("kernel gpubp_dropout does not compile")
            super().run(kernel, *args)

    results = {result.name: result for result in check(Uncompiled(), "float32")}
    assert results["dropout"].problem == "DeviceError: kernel gpubp_dropout does not compile"
    assert not results["dropout"].ok
    assert results["bias_sigmoid"].ok
    assert results["column sum"].ok


def test_what_is_not_finite_is_never_ok() -> None:
    assert not Result("", "float32", float("nan"), 1.0).ok
    assert not Result("", "float32", float("inf"), 1.0).ok
    assert np.isnan(largest(np.array([1.0, np.nan]), np.ones(2), np.ones(2)))
    assert largest(np.array([1.0, np.inf]), np.ones(2), np.ones(2)) == np.inf
    assert largest(np.array([1.0, 2.0]), np.array([1.0, 1.5]), np.array([0.0, 2.0])) == 0.25
    assert parity._worst([(1e-9, 1e-7), (float("nan"), 1.0), (0.5, 1.0)])[1] == 1.0
    assert parity._worst([(1e-9, 1e-7), (0.5, 1.0)]) == (0.5, 1.0)


def test_tolerances_are_roundings() -> None:
    assert tolerance("float32") == 4 * EPS
    assert tolerance("float64", 9) == 12 * 2.0**-52


def test_the_scale_is_what_rounding_does() -> None:
    """Where terms cancel it is the size of the terms, else about that of the result."""
    args = {"p": np.full((1, 64), 1.0), "g": np.full((1, 64), 10.0), "rate": 0.1}
    truth, scale = truth_of(KERNELS["sgd"], args)
    assert (np.abs(truth["p"]) < 1e-15).all()
    assert (scale["p"] > 0.5).all()
    assert (scale["p"] < 10).all()
    args = arguments(KERNELS["bias_exp"], 33, 31)
    truth, scale = truth_of(KERNELS["bias_exp"], args)
    condition = 1 + np.abs(args["z"]) + np.abs(args["b"])
    assert (scale["y"] >= truth["y"]).all()
    assert (scale["y"] <= 6 * condition * truth["y"]).all()


def test_speeds_are_measured_where_asked(few: None) -> None:
    results = {result.name: result for result in check(NumpyBackend(), "float32", 64)}
    for name in [*FEW, "sigmoid_delta + sum", "column sum", "gather", "one-hot"]:
        speed = results[name].gb_per_s
        assert speed is not None
        assert 0.01 < speed < 10_000
    assert results["matrix product A B"].gb_per_s is None


def test_large_arguments_are_the_small_ones_over_and_over() -> None:
    made, nbytes = parity.large_arguments(NumpyBackend(), KERNELS["bias_sigmoid"], "float32", 128)
    z, b, y = made
    assert (z.shape, b.shape, y.shape) == ((128, 1024), (1024,), (128, 1024))
    np.testing.assert_array_equal(z[:64], z[64:])
    assert nbytes == z.nbytes + b.nbytes + y.nbytes
    (g, total), nbytes = parity.large_arguments(NumpyBackend(), KERNELS["squared_norm"], "float32", 128)
    assert (g.size, total.size) == (128 * 1024, 1)
    (p, *_), nbytes = parity.large_arguments(NumpyBackend(), KERNELS["sgd"], "float32", 64)
    assert nbytes == 3 * p.nbytes  # p is read and written, g read


@pytest.mark.toolchain
def test_the_bits_of_the_exact_sigmoid(tmp_path: Path) -> None:
    """Those that a device must give are those of g++; another last bit of one number gives another digest."""
    text = (
        '#include "exact.cuh"\nextern "C" void all(Size n, const float* z, float* y) {\n'
        "  for (Size i = 0; i < n; ++i) y[i] = sigmoid(z[i]);\n}\n"
    )
    library, z = compiled(tmp_path, text, "-O1"), parity.sigmoid_patterns()
    y = np.empty_like(z)
    library.all(ctypes.c_longlong(z.size), *(ctypes.c_void_p(a.ctypes.data) for a in (z, y)))
    assert np.isnan(z).sum() > 100
    assert parity.digest(y) == parity.SIGMOID_BITS
    y[12345] = np.nextafter(y[12345], np.float32(2))
    assert parity.digest(y) != parity.SIGMOID_BITS


def test_a_devices_sigmoid_is_held_to_its_bits(few: None) -> None:
    """NumPy's is not the exact one, so that a device that used it would be found out."""
    device = NumpyBackend()
    device.name = "cuda:0"
    results = {result.name: result for result in check(device, "float32")}
    assert not results.pop("exact sigmoid, bits").ok
    assert all(result.ok for result in results.values())
    assert "exact sigmoid, bits" not in {result.name for result in check(device, "float64")}
