"""What docs/coverage.md promises and no other test shows: biases as weights, collected gradients, conventions."""

from typing import Any

import numpy as np
import pytest

import gpubp

FINE: dict[str, Any] = {"dtype": "float64", "device": "cpu", "seed": 0}


def same(net: gpubp.MLP, other: gpubp.MLP) -> None:
    for one, two in zip([*net.weights, *net.biases], [*other.weights, *other.biases], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("hidden", ["relu", "identity", "leaky_relu"])
def test_a_bias_is_the_weight_of_a_constant_one(hidden: str, rng: np.random.Generator) -> None:
    """A column of ones beside x, and a hidden unit that hands the one on."""
    net = gpubp.MLP([3, 4, 2], hidden, **FINE)
    net.set_parameters(net.get_parameters()[0], [rng.normal(size=4), rng.normal(size=2)])
    (w, v), (b, c) = net.get_parameters()
    alone = np.zeros((4, 5))
    alone[:, :4], alone[3, 4] = 1, 1  # and 1 stays 1 in these activations
    augmented = gpubp.MLP([4, 5, 2], hidden, use_bias=False, masks=[alone, None], **FINE)
    augmented.set_parameters([np.column_stack([np.vstack([w, b]), [0, 0, 0, 1]]), np.vstack([v, c])])
    x, y = rng.normal(size=(6, 3)), np.eye(2)[[0, 1, 1, 0, 1, 0]]
    expected, found = net.backprop(x, y), augmented.backprop(np.column_stack([x, np.ones(6)]), y)
    assert found.loss == pytest.approx(expected.loss, rel=1e-14)
    for layer, units in ((0, 4), (1, 2)):
        grad = found.weight_grads[layer][:, :units]
        np.testing.assert_allclose(grad[:-1], expected.weight_grads[layer], rtol=1e-13, atol=1e-16)
        np.testing.assert_allclose(grad[-1], expected.bias_grads[layer], rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("inputs", [1, 2, 7])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "identity"])
def test_a_perceptron_in_three_steps(inputs: int, activation: str, rng: np.random.Generator) -> None:
    net = gpubp.MLP([inputs, 1], output=activation, loss="squared_error", **FINE)
    w, x = rng.normal(size=inputs), rng.normal(size=inputs)
    net.set_parameters([w[:, None]], [[0.3]])
    step = gpubp.trace(net, [x], [[1.0]], 0.1)
    weighted = sum(float(a * b) for a, b in zip(w, x, strict=True))
    z = weighted + 0.3
    f = {"sigmoid": 1 / (1 + np.exp(-z)), "tanh": np.tanh(z), "relu": max(z, 0.0), "identity": z}[activation]
    assert step.layers[0].z[0, 0] == pytest.approx(z, rel=1e-13)
    assert step.layers[0].y[0, 0] == pytest.approx(f, rel=1e-13)


def test_gradients_collected_sample_by_sample_make_one_averaged_update(rng: np.random.Generator) -> None:
    net = gpubp.MLP([3, 5, 2], "tanh", **FINE)
    twin, before = net.copy(), net.copy()
    x, y = rng.normal(size=(7, 3)), rng.integers(0, 2, 7)
    collected = [net.backprop(x[row : row + 1], y[row : row + 1]) for row in range(7)]
    same(net, before)  # collecting moves nothing
    weight_grads = [sum(each) / 7 for each in zip(*(one.weight_grads for one in collected), strict=True)]
    bias_grads = [sum(each) / 7 for each in zip(*(one.bias_grads for one in collected), strict=True)]
    net.apply_gradients(weight_grads, bias_grads, gpubp.SGD(0.5))
    twin.train_step(x, y, gpubp.SGD(0.5))
    same(net, twin)
    assert not np.array_equal(net.weights[0], before.weights[0])


def reach(activation: str, init: str, rng: np.random.Generator) -> float:
    """The share of the output's delta that is left of it eight layers down."""
    net = gpubp.MLP([20, *[32] * 8, 2], activation, init=init, **FINE)
    deltas = net.backprop(rng.normal(size=(64, 20)), rng.integers(0, 2, 64)).deltas
    return float(np.linalg.norm(deltas[0]) / np.linalg.norm(deltas[-1]))


def test_deltas_vanish_on_the_way_down_through_sigmoids(rng: np.random.Generator) -> None:
    """A sigmoid's slope is at most 1/4; a ReLU's is 0 or 1, and He's initial weights make up for the zeros."""
    assert reach("sigmoid", "xavier_uniform", rng) < 1e-3
    assert 0.1 < reach("relu", "he_uniform", rng) < 10


def one_weight(start: float) -> gpubp.MLP:
    net = gpubp.MLP([1, 1], output="identity", use_bias=False, **FINE)
    net.set_parameters([[[start]]])
    return net


def path(optimizer: gpubp.Optimizer, gradients: list[float]) -> list[float]:
    net, seen = one_weight(0.75), []
    for gradient in gradients:
        net.apply_gradients([[[gradient]]], [None], optimizer)
        seen.append(float(net.weights[0][0, 0]))
    return seen


GRADIENTS = [0.5, -0.25, 1.5, 0.0, -2.0]


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_with_the_rate_inside_the_velocity(nesterov: bool) -> None:
    """v ← γ v − η g, then W ← W + v, or W ← W − γ v_before + (1 + γ) v after Nesterov: the same path at one rate."""
    w, v, seen = 0.75, 0.0, []
    for gradient in GRADIENTS:
        last, v = v, 0.9 * v - 0.3 * gradient
        w += -0.9 * last + 1.9 * v if nesterov else v
        seen.append(w)
    assert path(gpubp.SGD(0.3, momentum=0.9, nesterov=nesterov), GRADIENTS) == pytest.approx(seen, rel=1e-13)


def test_weights_that_shrink_by_a_share_a_step() -> None:
    """W ← (1 − s) W − η g is the weight decay λ = s / η."""
    w, seen = 0.75, []
    for gradient in GRADIENTS:
        w = (1 - 0.02) * w - 0.1 * gradient
        seen.append(w)
    assert path(gpubp.SGD(0.1, weight_decay=0.2), GRADIENTS) == pytest.approx(seen, rel=1e-13)


def test_the_rate_of_change_goes_to_the_derivative() -> None:
    """(C(w + h) − C(w)) / h is off by a multiple of h, (C(w + h) − C(w − h)) / 2h by one of h²."""
    x, y = [[1.5], [-0.5]], [[0.2], [0.9]]
    net = gpubp.MLP([1, 1], output="sigmoid", use_bias=False, **FINE)

    def cost(w: float) -> float:
        net.set_parameters([[[w]]])
        return net.evaluate(x, y)["loss"]

    true = net.backprop(x, y).weight_grads[0][0, 0]
    w = float(net.weights[0][0, 0])
    steps = [0.1, 0.01, 0.001]
    forward = [abs((cost(w + h) - cost(w)) / h - true) for h in steps]
    central = [abs((cost(w + h) - cost(w - h)) / (2 * h) - true) for h in steps]
    for errors, factor in ((forward, 10), (central, 100)):
        assert errors[0] / errors[1] == pytest.approx(factor, rel=0.1)
        assert errors[1] / errors[2] == pytest.approx(factor, rel=0.1)
