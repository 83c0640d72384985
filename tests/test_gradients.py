"""Gradients against numerical derivatives of the cost, for every activation, output and loss that MLP accepts."""

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.activations import Activation
from gpubp.explain.gradients import FLOAT32_TOLERANCE, GradientReport
from gpubp.losses import Loss

# Asked of check_gradients' own measure, which is relative: rounding alone for the complex step; for central differences
# (a step of 2e-5, fourth order) rounding over the step, 1e-16 / 2e-5, over gradients that `settled` holds above 1e-4.
LIMIT = {"complex step": 1e-12, "central differences": 1e-6}
MARGIN = 1e-2  # how far from a kink a network has to be: a central difference must not straddle it


def accepted() -> list[tuple[str, str]]:
    """Every (output, loss) that MLP accepts."""
    pairs = []
    for output, loss in product(Activation.members, Loss.members):
        try:
            gpubp.MLP([1, 2], output=output, loss=loss, device="cpu", seed=0)
        except gpubp.DataError:
            continue
        pairs.append((output, loss))
    return pairs


def make(
    sizes: list[int], activation: Any = "tanh", output: Any = "identity", loss: Any = None, **options: Any
) -> gpubp.MLP:
    return gpubp.MLP(sizes, activation, output, loss, **{"dtype": "float64", "device": "cpu", "seed": 0, **options})


def targets_for(net: gpubp.MLP, rows: int, rng: np.random.Generator) -> Any:
    """Rows of numbers that this loss takes; rows of probabilities for a softmax."""
    width = net.sizes[-1]
    if net.activations[-1].name == "softmax":
        return rng.dirichlet(np.ones(width), rows)
    low, high = net.loss.targets
    return rng.uniform(max(low, -2.0), min(high, 2.0), (rows, width))


def distance_to_kink(net: gpubp.MLP, x: Any, y: Any) -> float:
    """The least distance of any pre-activation or error from where a function that is not analytic has its kink."""
    traced = net.backprop(x, y)
    distances = [np.abs(z).min() for z, f in zip(traced.zs, net.activations, strict=True) if not f.analytic]
    if not net.loss.analytic:
        error = np.abs(traced.outputs - y)
        distances += [np.abs(error - kink).min() for kink in (0.0, *net.loss.parameters)]
    return min(distances, default=np.inf)


def resolved(net: gpubp.MLP, x: Any, y: Any) -> bool:
    """Whether a difference of costs can tell the gradients from 0: they are 0 (dead units), or not lost in rounding."""
    traced = net.backprop(x, y)
    tensors = [*traced.weight_grads, *(grad for grad in traced.bias_grads if grad is not None)]
    norms = np.array([np.linalg.norm(tensor) for tensor in tensors])
    return bool(((norms == 0) | (norms > 1e-4 * max(1.0, abs(traced.loss)))).all()) and bool(norms[0] > 0)


def settled(net: gpubp.MLP, rows: int = 3, gain: float = 1.0) -> tuple[Any, Any]:
    """x and y for this network, and parameters in it, of the first seed with no unit and no error near a kink."""
    differences = not net.loss.analytic or not all(f.analytic for f in net.activations)
    for seed in range(20_000):
        rng = np.random.default_rng(seed)
        weights = [gain * rng.standard_normal(shape) / np.sqrt(shape[0]) for shape in pairwise(net.sizes)]
        biases = [None if b is None else rng.uniform(-0.5, 0.5, b.shape) for b in net.biases]
        net.set_parameters(weights, biases)
        x = rng.standard_normal((rows, net.sizes[0]))
        y = targets_for(net, rows, rng)
        if distance_to_kink(net, x, y) > MARGIN and (not differences or resolved(net, x, y)):
            return x, y
    raise AssertionError("no seed keeps this network away from its kinks; use fewer units or rows")


def hold(net: gpubp.MLP, x: Any, y: Any) -> GradientReport:
    report = gpubp.check_gradients(net, x, y)
    analytic = net.loss.analytic and all(f.analytic for f in net.activations)
    assert report.method == ("complex step" if analytic else "central differences")
    assert report.ok, report
    assert report.error <= LIMIT[report.method], report
    return report


# -- every combination -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("output", "loss"), accepted())
@pytest.mark.parametrize("hidden", Activation.members)
def test_every_activation_output_and_loss(hidden: str, output: str, loss: str) -> None:
    net = make([3, 4, 2], hidden, output, loss)
    hold(net, *settled(net))


def test_the_matrix_is_whole() -> None:
    """A loss or an output that no pair holds would be in no test above."""
    outputs, losses = zip(*accepted(), strict=True)
    assert set(outputs) == set(Activation.members)
    assert set(losses) == set(Loss.members)


@pytest.mark.parametrize("hidden", Activation.members)
@pytest.mark.parametrize("depth", range(1, 11))
def test_depths(hidden: str, depth: int) -> None:
    net = make([3, *[3] * (depth - 1), 2], hidden, "sigmoid", "binary_cross_entropy")
    hold(net, *settled(net, rows=2, gain=0.4 if hidden == "exp" else 1.3))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", Loss.members)
def test_reductions(loss: str, reduction: Any) -> None:
    output = next(output for output, name in accepted() if name == loss)
    net = make([3, 4, 2], "tanh", output, Loss.members[loss](reduction=reduction))
    hold(net, *settled(net))


@pytest.mark.parametrize(
    "loss",
    [
        gpubp.SquaredError(half=True),
        gpubp.Huber(delta=0.3),
        gpubp.Huber(delta=1.7),
        gpubp.Quantile(q=0.1),
        gpubp.Quantile(q=0.9, reduction="sum"),
    ],
    ids=repr,
)
def test_loss_parameters(loss: Loss) -> None:
    net = make([3, 4, 2], "sigmoid", "identity", loss)
    hold(net, *settled(net))


def test_huber_is_checked_on_both_sides_of_delta() -> None:
    net = make([3, 4, 2], "tanh", "identity", gpubp.Huber(delta=0.7))
    x, y = settled(net, rows=6)
    error = np.abs(net.forward(x) - y)
    assert (error < 0.7).any()
    assert (error > 0.7).any()
    hold(net, x, y)


@pytest.mark.parametrize(
    "activation", [gpubp.LeakyReLU(0.3), gpubp.LeakyReLU(0.9), gpubp.ELU(0.5), gpubp.ELU(2.0)], ids=repr
)
def test_activation_parameters(activation: Activation) -> None:
    net = make([3, 4, 2], activation, activation, "squared_error")
    x, y = settled(net)
    assert (net.backprop(x, y).zs[0] < 0).any(), "the side that the parameter bends must be in use"
    hold(net, x, y)


@pytest.mark.parametrize("activation", Activation.members)
@pytest.mark.parametrize("use_bias", [False, [True, False, True], [False, True, False]], ids=str)
def test_without_biases(activation: str, use_bias: Any) -> None:
    net = make([3, 4, 3, 2], activation, "softmax", use_bias=use_bias)
    x, y = settled(net, gain=0.4 if activation == "exp" else 1.3)
    hold(net, x, y)
    wanted = [use_bias] * 3 if isinstance(use_bias, bool) else use_bias
    assert [grad is not None for grad in net.backprop(x, y).bias_grads] == wanted


@pytest.mark.parametrize("activation", ["sigmoid", "gelu", "relu"])
def test_masks(activation: str) -> None:
    masks = [np.array([[1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 1]]), None, np.array([[1, 0], [1, 1], [0, 1]])]
    net = make([3, 4, 3, 2], activation, "softmax", masks=masks)
    x, y = settled(net, gain=1.3)
    hold(net, x, y)
    for mask, weight, grad in zip(masks, net.weights, net.backprop(x, y).weight_grads, strict=True):
        if mask is not None:
            assert not weight[mask == 0].any()
            assert not grad[mask == 0].any()
            assert activation == "relu" or grad[mask == 1].all()  # a dead unit has none


@pytest.mark.parametrize("rows", [1, 2, 17])
def test_class_indices(rows: int) -> None:
    net = make([3, 5, 4], "silu", "softmax")
    x, _ = settled(net, rows)
    hold(net, x, np.arange(rows) % 4)


def test_the_input_gradient() -> None:
    net = make([3, 4, 2], "gelu", "softmax")
    x, y = settled(net)
    given, step = net.backprop(x, y).input_grad, 1e-5
    for index in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[index] = step
        numerical = (net.backprop(x + shift, y).loss - net.backprop(x - shift, y).loss) / (2 * step)
        assert given[index] == pytest.approx(numerical, rel=1e-6, abs=1e-9)


def test_the_trace_is_consistent() -> None:
    """Each field is what its formula says, from the other fields."""
    net = make([3, 4, 3, 2], ["gelu", "relu"], "softmax")
    x, y = settled(net)
    traced = net.backprop(x, y)
    above = [*net.weights[1:], None]
    for layer in range(3):
        entering = traced.activations[layer]
        np.testing.assert_allclose(traced.zs[layer], entering @ net.weights[layer] + net.biases[layer], rtol=1e-13)
        delta = traced.deltas[layer]
        np.testing.assert_allclose(traced.weight_grads[layer], entering.T @ delta, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(traced.bias_grads[layer], delta.sum(axis=0), rtol=1e-12, atol=1e-15)
        if above[layer] is not None:
            np.testing.assert_allclose(
                traced.activation_grads[layer], traced.deltas[layer + 1] @ above[layer].T, rtol=1e-12, atol=1e-15
            )
    np.testing.assert_allclose(traced.deltas[2], (traced.outputs - y) / len(x), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(traced.activation_grads[2], -y / traced.outputs / len(x), rtol=1e-12)
    np.testing.assert_allclose(traced.input_grad, traced.deltas[0] @ net.weights[0].T, rtol=1e-12, atol=1e-15)
    assert traced.loss == pytest.approx(traced.sample_losses.mean(), rel=1e-14)


# -- sample weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("output", "loss"), accepted())
def test_weights_weigh_the_gradients_of_the_samples(output: str, loss: str, reduction: Any) -> None:
    """check_gradients takes no weights, so the weighted gradient is composed of gradients that it does check."""
    net = make([3, 4, 2], "tanh", output, Loss.members[loss](reduction=reduction))
    x, y = settled(net, rows=4)
    weights = np.array([0.5, 0.0, 3.0, 1.25])
    factors = weights / weights.sum() if reduction == "mean" else weights
    whole = net.backprop(x, y, sample_weight=weights)
    single = [net.backprop(x[i : i + 1], y[i : i + 1]) for i in range(4)]
    assert whole.loss == pytest.approx(sum(w * one.loss for w, one in zip(factors, single, strict=True)), rel=1e-12)
    np.testing.assert_allclose(whole.sample_losses, [one.loss for one in single], rtol=1e-12)
    for layer in range(2):
        for name in ("weight_grads", "bias_grads"):
            summed = sum(w * getattr(one, name)[layer] for w, one in zip(factors, single, strict=True))
            np.testing.assert_allclose(getattr(whole, name)[layer], summed, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(
        whole.input_grad,
        np.concatenate([w * one.input_grad for w, one in zip(factors, single, strict=True)]),
        rtol=1e-11,
        atol=1e-15,
    )


# -- a wrong gradient is found -----------------------------------------------------------------------------------------


@pytest.fixture
def traced() -> tuple[gpubp.MLP, Any, Any, gpubp.Backprop]:
    net = make([3, 3, 3, 3], "sigmoid", "softmax")
    x, y = settled(net, gain=2.0)
    return net, x, y, net.backprop(x, y)


@pytest.mark.parametrize("kind", ["weight_grads", "bias_grads"])
@pytest.mark.parametrize("layer", range(3))
def test_one_wrong_entry_is_named(traced: Any, kind: str, layer: int) -> None:
    net, x, y, given = traced
    assert gpubp.check_gradients(net, x, y, (given.weight_grads, given.bias_grads)).ok
    tensor = getattr(given, kind)[layer]
    entry = (2, 1)[: tensor.ndim]
    tensor[entry] += 1e-9 * np.linalg.norm(tensor)  # small, yet 100 times the tolerance
    report = gpubp.check_gradients(net, x, y, (given.weight_grads, given.bias_grads))
    assert not report.ok
    assert report.where == f"{'weights' if kind == 'weight_grads' else 'biases'}[{layer}]{list(entry)}"
    assert report.given == tensor[entry]
    assert report.error == pytest.approx(1e-9, rel=1e-2)
    assert "FAIL" in str(report)


def test_swapped_layers_are_found(traced: Any) -> None:
    net, x, y, given = traced
    swapped = [given.weight_grads[1], given.weight_grads[0], given.weight_grads[2]]
    report = gpubp.check_gradients(net, x, y, (swapped, given.bias_grads))
    assert not report.ok
    assert report.error > 0.1
    assert report.where.startswith(("weights[0]", "weights[1]"))


def test_a_derivative_taken_at_the_output_is_found(traced: Any) -> None:
    """The classic mistake: σ'(a) where σ'(z) is meant, the sigmoid applied twice."""
    net, x, y, given = traced

    def wrong(a: Any) -> Any:
        s = 1 / (1 + np.exp(-a))
        return s * (1 - s)

    deltas = [None, None, given.deltas[2]]
    for layer in (1, 0):
        deltas[layer] = deltas[layer + 1] @ net.weights[layer + 1].T * wrong(given.activations[layer + 1])
    weight_grads = [a.T @ d for a, d in zip(given.activations, deltas, strict=False)]
    report = gpubp.check_gradients(net, x, y, (weight_grads, [d.sum(axis=0) for d in deltas]))
    assert not report.ok
    assert report.where.startswith(("weights[0]", "weights[1]", "biases[0]", "biases[1]"))


def test_nan_is_not_ok(traced: Any) -> None:
    net, x, y, given = traced
    given.bias_grads[1][2] = np.nan
    report = gpubp.check_gradients(net, x, y, given)
    assert not report.ok
    assert report.where == "biases[1][2]"


def test_a_missing_mean_is_found(traced: Any) -> None:
    net, x, y, given = traced
    report = gpubp.check_gradients(net, x, y, ([3 * g for g in given.weight_grads], given.bias_grads))
    assert not report.ok
    assert report.error == pytest.approx(2 / 3, rel=1e-6)


def test_central_differences_find_it_too() -> None:
    net = make([3, 4, 2], "relu", "identity")
    x, y = settled(net)
    given = net.backprop(x, y)
    given.weight_grads[1][3, 1] += 1e-4 * np.linalg.norm(given.weight_grads[1])
    report = gpubp.check_gradients(net, x, y, given)
    assert (report.ok, report.where) == (False, "weights[1][3, 1]")


def test_the_network_is_left_as_it_was(traced: Any) -> None:
    net, x, y, _ = traced
    before = net.get_parameters()
    gpubp.check_gradients(net, x, y)
    for old, new in zip(before, net.get_parameters(), strict=True):
        for a, b in zip(old, new, strict=True):
            np.testing.assert_array_equal(a, b)


# -- float32, and many parameters --------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", Activation.members)
def test_float32(activation: str) -> None:
    net = make([6, 8, 5, 4], activation, "softmax", dtype="float32")
    x, y = settled(net, rows=8 if Activation.members[activation].analytic else 2)
    report = gpubp.check_gradients(net, x, y)
    assert report.tolerance == FLOAT32_TOLERANCE
    assert report.ok, report
    assert report.error > 1e-10, "a float32 gradient this close to the truth was not computed in float32"


def test_float32_does_not_excuse_a_wrong_gradient() -> None:
    net = make([3, 4, 2], "tanh", "softmax", dtype="float32")
    x, y = settled(net)
    given = net.backprop(x, y)
    given.weight_grads[0][1, 2] *= 1.01
    assert not gpubp.check_gradients(net, x, y, given).ok


def test_many_parameters_are_checked_by_directions(rng: np.random.Generator) -> None:
    net = make([60, 80, 10], "sigmoid", "softmax")
    assert net.parameter_count > 5000
    x, y = rng.standard_normal((8, 60)), np.arange(8)
    report = hold(net, x, y)
    assert "direction" in report.where
    given = net.backprop(x, y)
    given.weight_grads[0][17, 23] *= -1
    wrong = gpubp.check_gradients(net, x, y, given)
    assert not wrong.ok
    assert wrong.where == "weights[0] along a random direction"
