"""The Jacobians of the layers: right by differences, and their chained product is the backward pass."""

from typing import Any

import numpy as np
import pytest

import gpubp

HIDDEN = sorted(set(gpubp.Activation.members) - {"softmax"})


def network(hidden: str, output: str = "softmax", **settings: Any) -> gpubp.MLP:
    net = gpubp.MLP([3, 4, 2, 3], activation=hidden, output=output, dtype="float64", device="cpu", seed=3, **settings)
    rng = np.random.default_rng(1)
    net.set_parameters(net.get_parameters()[0], [rng.normal(0, 0.3, bias.shape) for bias in net.get_parameters()[1]])
    return net


@pytest.fixture
def x(rng: np.random.Generator) -> Any:
    return rng.normal(size=(5, 3))


@pytest.mark.parametrize("hidden", [*HIDDEN, "softmax"])
@pytest.mark.parametrize("output", ["softmax", "identity"])
def test_the_chained_product_is_the_backward_pass(hidden: str, output: str, x: Any) -> None:
    net = network(hidden, output)
    y = np.eye(3)[[0, 1, 2, 0, 1]]
    found, passed = net.jacobians(x), net.backprop(x, y)
    gradient = passed.activation_grads[-1][:, None, :]
    for layer in (2, 1, 0):
        gradient = gradient @ found.activations[layer]
        np.testing.assert_allclose(gradient[:, 0], passed.deltas[layer], rtol=1e-11, atol=1e-14)
        gradient = gradient @ found.linear[layer]
        below = passed.activation_grads[layer - 1] if layer else passed.input_grad
        np.testing.assert_allclose(gradient[:, 0], below, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("hidden", ["tanh", "gelu", "softmax"])
def test_the_product_is_the_derivative_of_the_outputs(hidden: str, x: Any) -> None:
    net, step = network(hidden), 1e-6
    product = net.jacobians(x).product
    assert product.shape == (5, 3, 3)
    for i in range(3):
        moved = np.eye(3)[i] * step
        differences = (net.forward(x + moved) - net.forward(x - moved)) / (2 * step)
        np.testing.assert_allclose(product[:, :, i], differences, rtol=1e-7, atol=1e-9)


def test_softmax_is_diag_y_minus_y_y(x: Any) -> None:
    net = network("tanh")
    y = net.forward(x)
    expected = [np.diag(row) - np.outer(row, row) for row in y]
    np.testing.assert_allclose(net.jacobians(x).activations[-1], expected, rtol=1e-12, atol=1e-16)


def test_the_linear_part_is_the_transposed_weights(x: Any) -> None:
    net = network("relu")
    found = net.jacobians(x)
    for jacobian, weight in zip(found.linear, net.get_parameters()[0], strict=True):
        np.testing.assert_array_equal(jacobian, weight.T)
        jacobian[...] = 0
    assert np.any(net.get_parameters()[0][0]), "what is returned is no view of the network"


def test_an_elementwise_activation_has_a_diagonal(x: Any) -> None:
    found = network("sigmoid").jacobians(x).activations[0]
    assert not np.any(found[:, ~np.eye(4, dtype=bool)])
    assert np.all(found[:, np.eye(4, dtype=bool)] > 0)


def test_jacobians_too_large_for_memory_are_refused() -> None:
    net = gpubp.MLP([2, 4096, 2], seed=0)
    with pytest.raises(gpubp.DataError, match="give fewer rows"):
        net.jacobians(np.zeros((64, 2)))


@pytest.mark.parametrize("hidden", ["silu", "softmax"])
def test_the_device_gives_the_same(cuda: str, hidden: str, x: Any) -> None:
    net = network(hidden)
    expected = net.jacobians(x)
    found = net.to(cuda).jacobians(x)
    for one, other in zip([*found.activations, found.product], [*expected.activations, expected.product], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-14)
