"""Gradients against numerical derivatives of the cost, for every activation, output and loss that MLP accepts."""

from collections.abc import Iterator
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.activations import Activation
from gpubp.explain.gradients import FLOAT32_TOLERANCE, GradientReport
from gpubp.explain.kinks import find
from gpubp.explain.reference import Reference
from gpubp.kernel import KERNELS
from gpubp.losses import Loss

LIMIT = 1e-12  # asked of check_gradients' own measure, which is relative: rounding alone


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


def settled(net: gpubp.MLP, rows: int = 3, gain: float = 1.0) -> tuple[Any, Any]:
    """x and y for this network, and parameters in it, of the first seed with no kink near and not all units dead."""
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        weights = [gain * rng.standard_normal(shape) / np.sqrt(shape[0]) for shape in pairwise(net.sizes)]
        biases = [None if b is None else rng.uniform(-0.5, 0.5, b.shape) for b in net.biases]
        net.set_parameters(weights, biases)
        x = rng.standard_normal((rows, net.sizes[0]))
        y = targets_for(net, rows, rng)
        if net.backprop(x, y).weight_grads[0].any() and not find(Reference.of(net, x, y), np.finfo(net.dtype).eps):
            return x, y
    raise AssertionError("no seed keeps this network alive and away from its kinks")


def hold(net: gpubp.MLP, x: Any, y: Any) -> GradientReport:
    report = gpubp.check_gradients(net, x, y)
    assert report.method == "complex step"
    assert report.ok, report
    assert report.error <= LIMIT, report
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


def test_half_a_gradient_gets_a_hint(traced: Any) -> None:
    net, x, y, given = traced
    report = gpubp.check_gradients(net, x, y, ([g / 2 for g in given.weight_grads], given.bias_grads))
    assert "given is 2 times too small" in str(report)


def test_a_missing_mean_is_found(traced: Any) -> None:
    net, x, y, given = traced
    report = gpubp.check_gradients(net, x, y, ([3 * g for g in given.weight_grads], given.bias_grads))
    assert not report.ok
    assert report.error == pytest.approx(2 / 3, rel=1e-6)


def test_the_network_is_left_as_it_was(traced: Any) -> None:
    net, x, y, _ = traced
    before = net.get_parameters()
    gpubp.check_gradients(net, x, y)
    for old, new in zip(before, net.get_parameters(), strict=True):
        for a, b in zip(old, new, strict=True):
            np.testing.assert_array_equal(a, b)


# -- gradients from elsewhere ------------------------------------------------------------------------------------------


def test_what_is_left_out_is_not_checked(traced: Any) -> None:
    net, x, y, given = traced
    weights, biases = list(given.weight_grads), [3 * g for g in given.bias_grads]
    assert not gpubp.check_gradients(net, x, y, (weights, biases)).ok
    report = gpubp.check_gradients(net, x, y, (weights, None))
    assert report.ok
    assert [tensor.name for tensor in report.tensors] == ["weights[0]", "weights[1]", "weights[2]"]
    report = gpubp.check_gradients(net, x, y, ([None, weights[1], None], [None, None, biases[2]]))
    assert [tensor.name for tensor in report.tensors] == ["weights[1]", "biases[2]"]
    assert [tensor.ok for tensor in report.tensors] == [True, False]
    assert (report.where[:9], report.layer) == ("biases[2]", 2)


def test_lists_of_numbers_are_gradients(traced: Any) -> None:
    net, x, y, given = traced
    assert gpubp.check_gradients(net, x, y, [[g.tolist() for g in given.weight_grads], given.bias_grads]).ok
    single = [g.astype(np.float32) for g in given.weight_grads]
    assert gpubp.check_gradients(net, x, y, (single, None)).tolerance == FLOAT32_TOLERANCE


def test_gradients_that_do_not_fit_are_refused(traced: Any) -> None:
    net, x, y, given = traced
    wrong = [given.weight_grads[0][:2], None, None]
    with pytest.raises(gpubp.ShapeError, match=r"weight_grads\[0\] has shape \(2, 3\), but \(3, 3\) is needed"):
        gpubp.check_gradients(net, x, y, (wrong, None))
    with pytest.raises(gpubp.ShapeError, match=r"bias_grads has 2 entries, but the network has 3 layers"):
        gpubp.check_gradients(net, x, y, (given.weight_grads, given.bias_grads[:2]))
    with pytest.raises(gpubp.DataError, match="holds no array"):
        gpubp.check_gradients(net, x, y, (None, [None, None, None]))
    bare = make([3, 2], use_bias=False)
    with pytest.raises(gpubp.ShapeError, match=r"bias_grads\[0\] has shape \(2,\), but no bias is needed"):
        gpubp.check_gradients(bare, x, y[:, :2], (None, [[1.0, 2.0]]))


def test_samples_without_a_finite_cost_are_refused() -> None:
    net = make([1, 1], output="exp", loss="squared_error")
    with pytest.raises(gpubp.DataError, match="the cost of these samples is inf; give others, or scale x"):
        gpubp.check_gradients(net, [[1e4]] if net.weights[0] > 0 else [[-1e4]], [0.0])
    with pytest.raises(gpubp.DataError, match="x has 1 values that are not finite"):
        gpubp.check_gradients(net, [[np.nan]], [0.0])


# -- functions that are not analytic -----------------------------------------------------------------------------------


@pytest.fixture
def softsign() -> Iterator[type[gpubp.Activation]]:
    """z / (1 + |z|): by abs, and so not complex-safe."""
    members, kernels = dict(Activation.members), dict(KERNELS)

    @gpubp.elementwise("z, b -> y")
    def bias_softsign(xp: Any, z: Any, b: Any, y: Any) -> None:
        xp.add(z, b, out=y)
        xp.divide(y, 1 + xp.abs(y), out=y)

    @gpubp.elementwise("dy, y -> dz")
    def softsign_delta(xp: Any, dy: Any, y: Any, dz: Any) -> None:
        xp.multiply(dy, (1 - xp.abs(y)) ** 2, out=dz)

    class Softsign(gpubp.Activation):
        forward, delta = bias_softsign, softsign_delta

    yield Softsign
    for known, before in ((Activation.members, members), (KERNELS, kernels)):
        known.clear()
        known.update(before)


def test_central_differences(softsign: Any) -> None:
    net = make([3, 4, 4, 2], [softsign(), "relu"], "softmax")
    x, y = settled(net, rows=4)
    report = gpubp.check_gradients(net, x, y)
    assert report.method == "central differences"
    assert report.ok, report
    assert report.error < 1e-8
    given = net.backprop(x, y)
    given.weight_grads[1][3, 1] += 1e-4 * np.linalg.norm(given.weight_grads[1])
    report = gpubp.check_gradients(net, x, y, given)
    assert (report.ok, report.where) == (False, "weights[1][3, 1]")


def test_differences_cannot_see_the_smallest_gradients(softsign: Any) -> None:
    """Of a cost of 1e6 whose gradients are 1e-3, a difference has lost all but a few digits."""
    net = make([2, 3, 1], softsign(), "identity", "absolute_error")
    net.set_parameters([net.get_parameters()[0][0], np.full((3, 1), 1e-3)], [np.ones(3), [1e6]])
    report = gpubp.check_gradients(net, [[0.3, -0.7], [0.2, 0.4]], [0.0, 0.0])
    assert report.ok, report
    assert report.tolerance > 1e-5


# -- float32, and many parameters --------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", Activation.members)
def test_float32(activation: str) -> None:
    net = make([6, 8, 5, 4], activation, "softmax", dtype="float32")
    x, y = settled(net, rows=8)
    report = gpubp.check_gradients(net, x, y)
    assert report.ok, report
    assert all(tensor.tolerance >= FLOAT32_TOLERANCE for tensor in report.tensors)
    assert report.error > 1e-10, "a float32 gradient this close to the truth was not computed in float32"


def test_a_trained_network_is_not_blamed_for_rounding() -> None:
    """Its gradients are sums that nearly cancel, of differences o − t that have lost most of their digits."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 5))
    y = (x @ rng.standard_normal((5, 3))).argmax(axis=1)
    net = make([5, 32, 3], "relu", "softmax", dtype="float32")
    net.fit(x, y, epochs=150, learning_rate=0.01, verbose=0)
    clear = np.setdiff1d(np.arange(40), [kink.sample for kink in find(Reference.of(net, x, y), 1e-7)])
    reports = [gpubp.check_gradients(net, x[i : i + 1], y[i : i + 1]) for i in clear]
    assert all(report.ok for report in reports)
    assert max(report.error for report in reports) > 10 * FLOAT32_TOLERANCE, "nothing was to be excused"
    assert gpubp.check_gradients(net, x[clear], y[clear]).ok
    given = net.backprop(x[clear], y[clear])
    given.weight_grads[0][:, 7] *= 1.5
    assert gpubp.check_gradients(net, x[clear], y[clear], given).where.startswith("weights[0]")


def test_a_gradient_that_rounding_hides_is_said_to_be_hidden() -> None:
    net = make([1, 2], output="softmax", dtype="float32")
    net.set_parameters([[[20.0, 0.0]]], [[0.0, 0.0]])
    report = gpubp.check_gradients(net, [[1.0]], [0])
    assert report.ok
    assert [tensor.lost for tensor in report.tensors] == [True, True]
    assert "too small to be told from rounding: weights[0], biases[0]" in str(report)
    net = make([1, 2], output="softmax")
    net.set_parameters([[[20.0, 0.0]]], [[0.0, 0.0]])
    report = gpubp.check_gradients(net, [[1.0]], [0])
    assert report.ok
    assert not any(tensor.lost for tensor in report.tensors)


@pytest.mark.toolchain
def test_gradients_of_the_emulated_device(emulated: Any) -> None:
    for dtype, limit in (("float64", LIMIT), ("float32", 1e-4)):
        net = make([3, 4, 2], "relu", "softmax", dtype=dtype)
        x, y = settled(net)
        net.to("cuda")
        report = gpubp.check_gradients(net, x, y)
        assert report.ok, report
        assert report.error < limit


def test_a_float32_network_is_no_judge_of_more_digits_than_it_has() -> None:
    exact = make([3, 4, 2], "tanh", "softmax")
    x, y = settled(exact)
    net = make([3, 4, 2], "tanh", "softmax", dtype="float32")
    net.set_parameters(*exact.get_parameters())
    report = gpubp.check_gradients(net, x, y, exact.backprop(x, y))
    assert report.ok, report
    assert report.error > 1e-9


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


def test_a_direction_sees_one_wrong_entry_in_thousands(rng: np.random.Generator) -> None:
    masks = [rng.integers(0, 2, (60, 80)), None]
    net = make([60, 80, 10], "tanh", "softmax", masks=masks)
    x, y = rng.standard_normal((8, 60)), np.arange(8)
    given = net.backprop(x, y)
    given.weight_grads[0][masks[0] == 0] = 1e9
    assert gpubp.check_gradients(net, x, y, given).error < LIMIT
    norm, entry = np.linalg.norm(net.backprop(x, y).weight_grads[0]), tuple(np.argwhere(masks[0])[1234])
    given.weight_grads[0][entry] += 3e-10 * norm
    assert gpubp.check_gradients(net, x, y, given).wrong[0].name == "weights[0]"
