"""What rounding is expected to do to a pass is what it does in float32, give or take a few standard deviations."""

from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.explain.reference import Reference
from gpubp.explain.rounding import MOST_DEVIATIONS, expected

EPSILON = float(np.finfo(np.float32).eps)


def network(activation: Any, output: str, depth: int = 3, gain: float = 1.0, **options: Any) -> gpubp.MLP:
    sizes = [5, *[16] * (depth - 1), 3]
    net = gpubp.MLP(sizes, activation, output, dtype="float32", device="cpu", seed=1, **options)
    net.set_parameters([gain * weight for weight in net.get_parameters()[0]])
    return net


def deviations(net: gpubp.MLP, x: Any, y: Any) -> tuple[float, float]:
    """The largest error of a z, and of a gradient, in standard deviations."""
    known, single = Reference.of(net, x, y), net.backprop(x, y)
    rounding = expected(known)
    zs = [np.abs(a - b) / s for a, b, s in zip(single.zs, known.traced.zs, rounding.zs, strict=True)]
    pairs = zip(single.weight_grads, known.traced.weight_grads, rounding.weight_grads, strict=True)
    grads = [np.linalg.norm(a - b) / s for a, b, s in pairs]
    pairs = zip(single.bias_grads, known.traced.bias_grads, rounding.bias_grads, strict=True)
    grads += [np.linalg.norm(a - b) / s for a, b, s in pairs]
    return float(max(z.max() for z in zs)) / EPSILON, float(max(grads)) / EPSILON


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "leaky_relu", "gelu", "softplus"])
@pytest.mark.parametrize(("output", "gain"), [("softmax", 1.0), ("softmax", 2.0), ("identity", 1.0), ("sigmoid", 3.0)])
def test_errors_are_as_expected(activation: str, output: str, gain: float, rng: np.random.Generator) -> None:
    net = network(activation, output, gain=gain)
    x = rng.standard_normal((20, 5))
    y = net.predict(x) if output == "softmax" else net.forward(x).round(2)  # nearly learnt: o − t is small
    z, grad = deviations(net, x, y)
    assert 0.1 < z < MOST_DEVIATIONS
    assert 0.01 < grad < MOST_DEVIATIONS


def test_errors_of_the_layers_below_are_counted() -> None:
    """The second layer's z is 0.3 once 1000 has come and gone, and from there on all is off by what 1000 is."""
    net = gpubp.MLP([3, 2, 1, 1], "identity", "identity", dtype="float32", device="cpu", seed=0)
    net.set_parameters([[[1e3, 1e3], [0.1, 0.0], [0.0, -0.2]], [[1.0], [-1.0]], [[1.0]]])
    x, y = np.array([[1.0, 1.0, 1.0]]), [[30.0]]
    rounding = expected(Reference.of(net, x, y))
    for deviation in (rounding.zs[1][0, 0], rounding.zs[2][0, 0], rounding.differences[0, 0]):
        assert 1e3 < deviation < 4e3
    assert 2 * 30 * 1e3 < rounding.weight_grads[2] < 2 * 30 * 4e3  # x' δ with δ = 2 (o − t)
    z, grad = deviations(net, x, y)
    assert z < 2
    assert grad < 2


@pytest.mark.parametrize(("weight", "bias"), [(8.0, 0.0), (1e-3, 6.0)])
def test_a_saturated_unit(weight: float, bias: float) -> None:
    """Of f' = 1 − y² nothing is left but rounding, and the bias is part of z."""
    net = gpubp.MLP([1, 1, 1], "tanh", "identity", dtype="float32", device="cpu", seed=0)
    net.set_parameters([[[weight]], [[1.0]]], [[bias], [0.0]])
    x = np.array([[1.0]])
    z, grad = deviations(net, x, [[0.0]])
    assert z < 2
    assert grad < 2
    single, known = net.backprop(x, [[0.0]]).weight_grads[0], Reference.of(net, x, [[0.0]]).traced.weight_grads[0]
    assert abs(single - known) > 1e-3 * abs(known), "nothing was lost"


def test_a_mean_is_as_many_times_smaller_as_there_are_samples(rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((8, 5)), rng.standard_normal((8, 3))
    for loss in ("squared_error", "absolute_error"):
        mean, total = (
            expected(Reference.of(network("tanh", "identity", loss=kind), x, y))
            for kind in (loss, gpubp.losses.Loss.members[loss](reduction="sum"))
        )
        np.testing.assert_allclose(np.multiply(8, mean.weight_grads), total.weight_grads)
        np.testing.assert_allclose(np.multiply(8, mean.bias_grads), total.bias_grads)
