"""Activations and losses: each derivative against its function, finite at the ends, and values against formulas."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kernel_arguments import run

import gpubp
from gpubp.activations import Activation
from gpubp.losses import Loss

STEP = 1e-30
GRID = np.array([-30, -12.5, -4, -1.5, -0.6, -1e-3, 1e-3, 0.25, 0.8, 2, 5, 17, 30])


def pushed(activation: Activation, z: Any, b: Any) -> tuple[Any, Any]:
    """(y, what is saved) of the forward kernel, in the dtype of z."""
    z, y = z.copy(), np.empty_like(z)
    args = dict(zip(activation.forward.arguments, [z, b, *activation.parameters, y], strict=True))
    run(activation.forward, args)
    return y, (y if activation.saves == "y" else z)


def delta_of(activation: Activation, dy: Any, saved: Any) -> Any:
    if activation.delta is None:
        return dy
    dz = np.empty_like(dy)
    run(activation.delta, dict(zip(activation.delta.arguments, [dy, saved, *activation.parameters, dz], strict=True)))
    return dz


def analytic_activations() -> list[str]:
    return [name for name, member in Activation.members.items() if member.analytic]


@pytest.mark.parametrize("name", analytic_activations())
def test_an_analytic_activation_against_its_delta(name: str, rng: np.random.Generator) -> None:
    """Column by column, because a softmax's outputs depend on all of a row."""
    activation = Activation.members[name]()
    z = np.stack([GRID, rng.permutation(GRID), rng.permutation(GRID)], axis=1)
    dy, b = rng.standard_normal(z.shape), np.zeros(3)
    dz = delta_of(activation, dy, pushed(activation, z, b)[1])
    for column in range(3):
        direction = np.zeros(3, complex)
        direction[column] = 1j * STEP
        y, _ = pushed(activation, z.astype(complex), b + direction)
        expected = (dy * y.imag / STEP).sum(axis=1)
        scale = np.maximum(1, np.abs(dy * y.imag / STEP).max(axis=1))
        np.testing.assert_array_less(np.abs(dz[:, column] - expected), 1e-12 * scale)


KINKED = [activation for activation in (member() for member in Activation.members.values()) if activation.kinks]


@pytest.mark.parametrize("activation", [*KINKED, gpubp.ELU(2.0)], ids=repr)
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_the_derivative_at_the_kink_is_the_left_one(activation: Activation, zero: float) -> None:
    assert activation.kinks == (0.0,)
    at = np.array([[zero], [-1e-7]])
    y, saved = pushed(activation, at, np.zeros(1))
    got = delta_of(activation, np.ones_like(at), saved)[0, 0]
    left = (y[0, 0] - y[1, 0]) / 1e-7
    right = pushed(activation, np.array([[1e-7]]), np.zeros(1))[0][0, 0] / 1e-7
    assert got == pytest.approx(left, abs=1e-6)
    assert abs(right - left) > 0.3, "this activation has no kink, so the test proves nothing"


def loss_run(loss: Loss, o: Any, t: Any, w: Any) -> tuple[Any, Any]:
    """(∂C/∂o, ℓ) by the loss's kernel."""
    do, value = np.empty_like(o), np.empty((len(o), 1), o.dtype)
    run(loss.kernel, dict(zip(loss.kernel.arguments, [o, t, w, *loss.parameters, do, value], strict=True)))
    return do, value


def fused_run(loss: Loss, output: type[Activation], z: Any, b: Any, t: Any, w: Any) -> tuple[Any, Any, Any]:
    """(y, ∂C/∂z, ℓ) by the fused kernel."""
    y, dz, value = np.empty_like(z), np.empty_like(z), np.empty((len(z), 1), z.dtype)
    kernel = loss.fused[output]
    run(kernel, dict(zip(kernel.arguments, [z, b, t, w, *loss.parameters, y, dz, value], strict=True)))
    return y, dz, value


def rows_of(low: float, high: float, rng: np.random.Generator, rows: int = 40) -> Any:
    return rng.uniform(max(low, -3) + 1e-3, min(high, 3) - 1e-3, (rows, 3))


FUSED = [(name, output) for name, loss in Loss.members.items() for output in loss.fused]


@pytest.mark.parametrize("name", [n for n, member in Loss.members.items() if member.analytic])
def test_an_analytic_loss_against_its_delta(name: str, rng: np.random.Generator) -> None:
    loss = Loss.members[name]()
    o, t, w = rows_of(*loss.outputs, rng), rows_of(*loss.targets, rng), rng.uniform(0, 2, (40, 1))
    do, _ = loss_run(loss, o, t, w)
    for column in range(3):
        shifted = o.astype(complex)
        shifted[:, column] += 1j * STEP
        derivative = loss_run(loss, shifted, t.astype(complex), w)[1].imag[:, 0] / STEP
        np.testing.assert_allclose(do[:, column], w[:, 0] * derivative, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [n for n, member in Loss.members.items() if member.outputs == (-math.inf, math.inf)])
def test_the_derivative_where_output_and_target_agree_is_0(name: str) -> None:
    o = np.array([[1.5, -2.0]])
    do, value = loss_run(Loss.members[name](), o, o.copy(), 1.0)
    assert not do.any()
    assert not value.any()


@pytest.mark.parametrize(("name", "output"), FUSED)
def test_a_fused_loss_against_its_delta(name: str, output: type[Activation], rng: np.random.Generator) -> None:
    loss = Loss.members[name]()
    z = np.stack([rng.permutation(GRID) for _ in range(3)], axis=1)
    z = np.clip(z, -30, 5) if loss.outputs[1] == np.inf else z
    t = rng.dirichlet(np.ones(3), len(z))
    w = rng.uniform(0, 2, (len(z), 1))
    dz = fused_run(loss, output, z, np.zeros(3), t, w)[1]
    for column in range(3):
        shifted = z.astype(complex)
        shifted[:, column] += 1j * STEP
        derivative = fused_run(loss, output, shifted, np.zeros(3), t.astype(complex), w)[2].imag[:, 0] / STEP
        expected = w[:, 0] * derivative
        np.testing.assert_array_less(np.abs(dz[:, column] - expected), 1e-12 * np.maximum(1, np.abs(expected)))


@pytest.mark.parametrize(("name", "output"), FUSED)
def test_fused_equals_the_chain(name: str, output: type[Activation], rng: np.random.Generator) -> None:
    loss, activation = Loss.members[name](), output()
    z, b, t = rng.uniform(-4, 4, (50, 3)), rng.standard_normal(3), rng.dirichlet(np.ones(3), 50)
    w = rng.uniform(0, 2, (50, 1))
    y, dz, value = fused_run(loss, output, z.copy(), b, t, w)
    chain_y, saved = pushed(activation, z, b)
    do, chain_value = loss_run(loss, chain_y, t, w)
    np.testing.assert_allclose(y, chain_y, rtol=1e-14)
    np.testing.assert_allclose(value, chain_value, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dz, delta_of(activation, do, saved), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "output"), FUSED)
def test_fused_losses_stay_finite(name: str, output: type[Activation], dtype: Any) -> None:
    loss = Loss.members[name]()
    largest = 80.0 if loss.outputs[1] == np.inf else 1e4  # eᶻ itself overflows a float32 at 89
    z = np.array(list(itertools.product([-1e4, -100, 0, min(100, largest), largest], repeat=3)), dtype)
    for hot in range(3):
        t = np.zeros_like(z)
        t[:, hot] = 1
        y, dz, value = fused_run(loss, output, z.copy(), np.zeros(3, dtype), t, 1.0)
        for array in (y, dz, value):
            assert array.dtype == dtype
            assert np.isfinite(array).all()
        assert (value >= 0).all() or loss.outputs[1] == np.inf
    if (
        loss.outputs[1] == 1
    ):  # being wrong by 2 · 10⁴ costs that much, where the chain of the two would give an infinity
        z = np.array([[1e4, -1e4, -1e4]], dtype)
        value = fused_run(loss, output, z, np.zeros(3, dtype), np.array([[0, 1, 0]], dtype), 1.0)[2]
        assert value[0, 0] == pytest.approx(2e4, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", Activation.members)
def test_activations_stay_finite(name: str, dtype: Any) -> None:
    activation = Activation.members[name]()
    z = np.array([[-1e4, -100, -1, 0], [0, 1, 80 if name == "exp" else 100, 80 if name == "exp" else 1e4]], dtype)
    y, saved = pushed(activation, z, np.zeros(4, dtype))
    assert np.isfinite(y).all()
    assert np.isfinite(delta_of(activation, np.ones_like(z), saved)).all()
    low, high = activation.range
    assert ((y >= low) & (y <= high)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [n for n, loss in Loss.members.items() if loss.outputs != (-np.inf, np.inf)])
def test_a_loss_of_a_saturated_output_is_finite(name: str, dtype: Any) -> None:
    """Outputs that rounded to the end of their range, with the target at the other end."""
    loss = Loss.members[name]()
    o, t = np.array([[0, 1], [1, 0]], dtype), np.array([[1, 0], [0, 1]], dtype)
    do, value = loss_run(loss, o, t, 1.0)
    assert np.isfinite(value).all()
    assert not np.isnan(do).any()


# -- values, by formulas written a second time -------------------------------------------------------------------------

SLOPE, CUBIC = math.sqrt(2 / math.pi), 0.044715
LAMBDA, ALPHA = 1.0507009873554805, 1.6732632423543772
FORMULAS: dict[str, Callable[[float], float]] = {
    "identity": lambda z: z,
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)),
    "tanh": lambda z: (math.exp(2 * z) - 1) / (math.exp(2 * z) + 1),
    "relu": lambda z: z if z > 0 else 0.0,
    "leaky_relu": lambda z: z if z > 0 else 0.01 * z,
    "elu": lambda z: z if z > 0 else math.exp(z) - 1,
    "selu": lambda z: LAMBDA * (z if z > 0 else ALPHA * (math.exp(z) - 1)),
    "softplus": lambda z: math.log(1 + math.exp(z)),
    "silu": lambda z: z / (1 + math.exp(-z)),
    "gelu": lambda z: 0.5 * z * (1 + math.tanh(SLOPE * (z + CUBIC * z**3))),
    "exp": math.exp,
}
POINTS = [-6.0, -2.5, -1.0, -0.1, 0.0, 0.3, 1.0, 3.0, 7.5]


@pytest.mark.parametrize("name", FORMULAS)
def test_values_of_activations(name: str) -> None:
    z = np.array(POINTS)[:, None]
    got = pushed(Activation.members[name](), z - 0.25, np.array([0.25]))[0][:, 0]
    np.testing.assert_allclose(got, [FORMULAS[name](point) for point in POINTS], rtol=1e-13, atol=1e-15)


def test_values_of_softmax() -> None:
    got = pushed(Activation.members["softmax"](), np.array([[1.0, 2.0, 4.0]]), np.array([0.0, 1.0, -2.0]))[0][0]
    powers = [math.exp(1), math.exp(3), math.exp(2)]
    np.testing.assert_allclose(got, [power / sum(powers) for power in powers], rtol=1e-14)


def test_gelu_is_the_tanh_form() -> None:
    """It differs from the form with erf by up to 5e-4; published: gelu(1) = 0.841192, against 0.841345 by erf."""
    got = pushed(Activation.members["gelu"](), np.array([[1.0]]), 0.0)[0][0, 0]
    assert got == pytest.approx(0.841192, abs=1e-6)


LOSS_VALUES: list[tuple[Loss, Callable[[float, float], float]]] = [
    (gpubp.SquaredError(), lambda o, t: (o - t) ** 2),
    (gpubp.SquaredError(half=True), lambda o, t: 0.5 * (o - t) ** 2),
    (gpubp.AbsoluteError(), lambda o, t: abs(o - t)),
    (gpubp.Huber(0.3), lambda o, t: 0.5 * (o - t) ** 2 if abs(o - t) <= 0.3 else 0.3 * (abs(o - t) - 0.15)),
    (gpubp.Quantile(0.2), lambda o, t: 0.2 * (t - o) if o < t else 0.8 * (o - t)),
    (gpubp.Poisson(), lambda o, t: o - t * math.log(o)),
    (gpubp.BinaryCrossEntropy(), lambda o, t: -t * math.log(o) - (1 - t) * math.log(1 - o)),
    (gpubp.CrossEntropy(), lambda o, t: -t * math.log(o)),
]


@pytest.mark.parametrize(("loss", "formula"), LOSS_VALUES, ids=lambda v: repr(v) if isinstance(v, Loss) else "")
def test_values_of_losses(loss: Loss, formula: Callable[[float, float], float], rng: np.random.Generator) -> None:
    o, t = rng.uniform(0.05, 0.95, (20, 3)), rng.uniform(0, 1, (20, 3))
    value = loss_run(loss, o, t, 3.0)[1]  # the weight goes into the derivative, not into the value
    expected = [sum(formula(a, b) for a, b in zip(*pair, strict=True)) for pair in zip(o, t, strict=True)]
    np.testing.assert_allclose(value[:, 0], expected, rtol=1e-13)
