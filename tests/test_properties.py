"""What holds for every network: sums over samples, order, seeds, continuation, precision, copies."""

import copy
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import gpubp
from gpubp.activations import Activation
from gpubp.losses import Loss
from gpubp.optimizers import Optimizer
from gpubp.structure import Structure

repeatable = settings(derandomize=True, deadline=None, max_examples=60)
EPS32 = float(np.finfo(np.float32).eps) / 2  # the most that rounding to nearest changes a number, relative to it


def accepted(activation: str, loss: str) -> bool:
    try:
        Structure.build([1, 1], "tanh", activation, loss, True, None, 0.0, None, "float64")
    except gpubp.DataError:
        return False
    return True


PAIRS = [(output, loss) for output in Activation.members for loss in Loss.members if accepted(output, loss)]
NAMES = sorted(Activation.members)


@st.composite
def networks(draw: st.DrawFn, /, dropout: bool = False, **options: Any) -> gpubp.MLP:
    """A network of depth 1 to 4 and widths 1 to 6, of any activations, loss, biases and masks."""
    depth = draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(1, 6), min_size=depth + 1, max_size=depth + 1))
    output, loss = draw(st.sampled_from(PAIRS))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    masks = [rng.integers(0, 2, shape) if draw(st.booleans()) else None for shape in pairwise(sizes)]
    settings_ = {
        "activation": draw(st.lists(st.sampled_from(NAMES), min_size=depth - 1, max_size=depth - 1)),
        "output": output,
        "loss": Loss.members[loss](reduction=draw(st.sampled_from(["mean", "sum"]))),
        "use_bias": draw(st.lists(st.booleans(), min_size=depth, max_size=depth)),
        "masks": masks,
        "dropout": draw(st.sampled_from([0.0, 0.3])) if dropout else 0.0,
        "dtype": "float64",
        "device": "cpu",
        "seed": seed,
    }
    net = gpubp.MLP(sizes, **{**settings_, **options})
    # At most 1 / √inputs each, so that no chain of exp or softplus leaves the range where float64 holds 12 digits.
    weights = [rng.uniform(-1, 1, w.shape) / np.sqrt(len(w)) for w in net.weights]
    net.set_parameters(weights, [None if b is None else rng.uniform(-0.5, 0.5, b.shape) for b in net.biases])
    return net


def sample(net: gpubp.MLP, rows: int, seed: int) -> tuple[Any, Any, Any]:
    """x, targets that the loss takes, and weights, some of them 0."""
    rng, width = np.random.default_rng(seed), net.sizes[-1]
    x = rng.standard_normal((rows, net.sizes[0]))
    if net.activations[-1].name == "softmax":  # one column would be read as class indices, of which there is only 0
        y = rng.dirichlet(np.ones(width), rows) if width > 1 else np.zeros(rows)
    else:
        low, high = net.loss.targets
        y = rng.uniform(max(low, -2), min(high, 2), (rows, width))
    return x, y, rng.uniform(0.1, 2, rows) * (rng.random(rows) < 0.8)


def gradients(traced: gpubp.Backprop) -> list[Any]:
    return [*traced.weight_grads, *(grad for grad in traced.bias_grads if grad is not None)]


def near(got: Any, expected: Any, scale: float, rtol: float = 1e-11) -> bool:
    """Equal but for rounding of sums whose terms are as large as `scale`."""
    return bool(np.abs(got - expected).max(initial=0) <= rtol * max(scale, np.abs(expected).max(initial=0), 1e-300))


def same(a: gpubp.MLP, b: gpubp.MLP) -> bool:
    """Bit for bit the same parameters."""
    pairs = zip([*a.weights, *a.biases], [*b.weights, *b.biases], strict=True)
    return all((p is None and q is None) or np.array_equal(p, q) for p, q in pairs)


# -- sums over samples -------------------------------------------------------------------------------------------------


@repeatable
@given(net=networks(), rows=st.integers(1, 6), seed=st.integers(0, 2**16))
def test_a_batch_is_the_weighted_sum_of_its_samples(net: gpubp.MLP, rows: int, seed: int) -> None:
    x, y, weights = sample(net, rows, seed)
    assume(weights.sum() > 0)
    factors = weights / weights.sum() if net.loss.reduction == "mean" else weights
    whole = net.backprop(x, y, weights)
    parts = [net.backprop(x[i : i + 1], y[i : i + 1]) for i in range(rows)]
    terms = [f * part.loss for f, part in zip(factors, parts, strict=True)]
    assert near(whole.loss, sum(terms), max(map(abs, terms)))
    for at, tensor in enumerate(gradients(whole)):
        each = [f * gradients(part)[at] for f, part in zip(factors, parts, strict=True)]
        assert near(tensor, sum(each), max(np.abs(term).max() for term in each))
    for i, part in enumerate(parts):
        assert near(whole.input_grad[i], factors[i] * part.input_grad[0], np.abs(part.input_grad).max())
        assert near(whole.sample_losses[i], part.sample_losses[0], 1)


@repeatable
@given(net=networks(), rows=st.integers(2, 20), seed=st.integers(0, 2**16))
def test_order_does_not_matter(net: gpubp.MLP, rows: int, seed: int) -> None:
    x, y, weights = sample(net, rows, seed)
    order = np.random.default_rng(seed).permutation(rows)
    one, other = net.backprop(x, y, weights), net.backprop(x[order], y[order], weights[order])
    size = max(np.abs(one.sample_losses).max() * weights.max(), 1)
    assert near(one.loss, other.loss, size)
    for a, b in zip(gradients(one), gradients(other), strict=True):
        assert near(a, b, max(np.abs(delta).max() for delta in one.deltas) * rows)
    assert near(one.outputs[order], other.outputs, 1)


@repeatable
@given(net=networks(), rows=st.integers(1, 8), seed=st.integers(0, 2**16), power=st.integers(-20, 20))
def test_the_scale_of_the_weights_means_nothing_to_a_mean(net: gpubp.MLP, rows: int, seed: int, power: int) -> None:
    x, y, weights = sample(net, rows, seed)
    one = net.backprop(x, y, weights)
    scaled = net.backprop(x, y, weights * 2.0**power)  # a power of 2 rounds nothing, so all stays equal to the last bit
    factor = 1.0 if net.loss.reduction == "mean" else 2.0**power
    assert scaled.loss == one.loss * factor
    for a, b in zip(gradients(scaled), gradients(one), strict=True):
        np.testing.assert_array_equal(a, b * factor)
    if net.loss.reduction == "mean":
        third = net.backprop(x, y, weights / 3)
        assert near(third.loss, one.loss, 1)
    equal = net.backprop(x, y, np.full(rows, 2.0**power))
    none = net.backprop(x, y)
    assert near(equal.loss, none.loss * factor, 0)
    for a, b in zip(gradients(equal), gradients(none), strict=True):
        assert near(a, b * factor, max(np.abs(delta).max() for delta in none.deltas) * rows * factor)


@repeatable
@given(net=networks(), rows=st.integers(1, 8), seed=st.integers(0, 2**16))
def test_no_weight_at_all(net: gpubp.MLP, rows: int, seed: int) -> None:
    """Zero loss, zero gradients, and a step of plain SGD goes nowhere."""
    x, y, _ = sample(net, rows, seed)
    traced = net.backprop(x, y, np.zeros(rows))
    assert traced.loss == 0
    assert not any(tensor.any() for tensor in gradients(traced))
    assert not traced.input_grad.any()
    before = net.copy()
    assert net.train_step(x, y, gpubp.SGD(0.5, momentum=0.9), np.zeros(rows)) == 0
    assert same(net, before)


@repeatable
@given(net=networks(), rows=st.integers(1, 8), seed=st.integers(0, 2**16))
def test_a_sample_of_weight_0_is_not_there(net: gpubp.MLP, rows: int, seed: int) -> None:
    x, y, weights = sample(net, rows, seed)
    assume((weights > 0).any())
    kept = weights > 0
    one, other = net.backprop(x, y, weights), net.backprop(x[kept], y[kept], weights[kept])
    assert near(one.loss, other.loss, 1)
    for a, b in zip(gradients(one), gradients(other), strict=True):
        assert near(a, b, max(np.abs(delta).max() for delta in one.deltas) * rows)


# -- seeds and continuation --------------------------------------------------------------------------------------------


def trained(seed: int, dropout: float = 0.4, epochs: int = 2, **options: Any) -> gpubp.MLP:
    rng = np.random.default_rng(99)
    x, y = rng.standard_normal((30, 4)), rng.integers(0, 3, 30)
    net = gpubp.MLP([4, 6, 5, 3], "tanh", dropout=dropout, device="cpu", seed=seed, **options)
    net.fit(x, y, epochs=epochs, batch_size=7, verbose=0)
    return net


@settings(repeatable, max_examples=25)
@given(seed=st.integers(0, 2**64 - 1), dropout=st.sampled_from([0.0, 0.4]))
@example(seed=0, dropout=0.4)
@example(seed=2**64 - 1, dropout=0.4)
def test_one_seed_one_result(seed: int, dropout: float) -> None:
    one = trained(seed, dropout)
    assert same(one, trained(seed, dropout))
    assert one.seed == seed
    assert not same(one, trained((seed + 1) % 2**64, dropout))
    assert not same(one, trained(seed ^ (1 << 40), dropout))  # the high half of a seed counts, too


def test_no_seed_draws_one_that_can_be_used_again() -> None:
    one, other = gpubp.MLP([4, 6, 3], device="cpu"), gpubp.MLP([4, 6, 3], device="cpu")
    assert not same(one, other)
    assert same(one, gpubp.MLP([4, 6, 3], device="cpu", seed=one.seed))


def test_the_seed_reaches_weights_shuffles_and_dropout() -> None:
    """Each alone: with everything else the same, another seed trains to something else."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((24, 4)), rng.integers(0, 3, 24)

    def run(seed: int, dropout: float, shuffle: bool) -> gpubp.MLP:
        net = gpubp.MLP([4, 6, 3], dropout=dropout, device="cpu", seed=seed)
        net.set_parameters([np.full(w.shape, 0.1) for w in net.weights])
        net.fit(x, y, epochs=1, batch_size=8, shuffle=shuffle, verbose=0)
        return net

    assert same(run(1, 0.0, False), run(2, 0.0, False))
    assert not same(run(1, 0.0, True), run(2, 0.0, True))
    assert not same(run(1, 0.5, False), run(2, 0.5, False))
    assert not same(run(1, 0.5, False), run(1 + 2**40, 0.5, False))
    assert not same(run(1, 0.0, True), run(1 + 2**40, 0.0, True))


OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda: gpubp.SGD(0.1),
    "nesterov": lambda: gpubp.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "rmsprop": gpubp.RMSprop,
    "adagrad": gpubp.Adagrad,
    "adam": lambda: gpubp.Adam(weight_decay=0.1),
    "adamw": gpubp.AdamW,
}


def test_every_optimizer_is_among_them() -> None:
    assert {make().name for make in OPTIMIZERS.values()} == set(Optimizer.members)


@settings(repeatable, max_examples=15)
@given(
    net=networks(dropout=True),
    rows=st.integers(3, 15),
    seed=st.integers(0, 2**16),
    batch_size=st.integers(1, 6),
    first=st.integers(1, 3),
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_fits_are_one(name: str, net: gpubp.MLP, rows: int, seed: int, batch_size: int, first: int) -> None:
    """Four epochs in one go, and in two with the same optimizer object: weights, losses and all, to the last bit."""
    x, y, weights = sample(net, rows, seed)
    options = {"batch_size": batch_size, "sample_weight": weights, "clip_norm": 1.0, "verbose": 0}
    whole, halves = net.copy(), net.copy()
    record = whole.fit(x, y, epochs=4, optimizer=OPTIMIZERS[name](), **options)
    optimizer = OPTIMIZERS[name]()
    parts = [halves.fit(x, y, epochs=epochs, optimizer=optimizer, **options) for epochs in (first, 4 - first)]
    assert same(whole, halves)
    losses = [entry["loss"] for part in parts for entry in part.records]
    assert losses == [entry["loss"] for entry in record.records]


# -- copies ------------------------------------------------------------------------------------------------------------


@settings(repeatable, max_examples=25)
@given(net=networks(dropout=True), rows=st.integers(2, 9), seed=st.integers(0, 2**16), single=st.booleans())
def test_copies_are_the_same_network(
    tmp_path_factory: pytest.TempPathFactory, net: gpubp.MLP, rows: int, seed: int, single: bool
) -> None:
    """By copy, pickle, deepcopy and a file: the same outputs, and the same training from there on."""
    if single:
        net = gpubp.MLP(
            net.sizes, net.activations[:-1], net.activations[-1], net.loss, dropout=0.3, device="cpu", seed=seed
        )
    x, y, _ = sample(net, rows, seed)
    net.fit(x, y, epochs=1, batch_size=2, optimizer=gpubp.SGD(0.01), verbose=0)  # so that steps and epochs are counted
    path = Path(tmp_path_factory.mktemp("copies")) / "model.safetensors"
    net.save(path)
    copies = [net.copy(), pickle.loads(pickle.dumps(net)), copy.deepcopy(net), gpubp.load(path, "cpu")]
    outputs, parameters = net.forward(x), net.get_parameters()
    for other in copies:
        assert same(net, other)
        assert (other.seed, other.sizes, other.dtype, repr(other)) == (net.seed, net.sizes, net.dtype, repr(net))
        np.testing.assert_array_equal(other.forward(x), outputs)
    for other in copies:
        other.fit(x, y, epochs=2, batch_size=2, optimizer=gpubp.SGD(0.01), verbose=0)
        assert same(other, copies[0])
    for old, new in zip(parameters[0], net.get_parameters()[0], strict=True):
        np.testing.assert_array_equal(old, new)  # training a copy leaves the original alone
    net.fit(x, y, epochs=2, batch_size=2, optimizer=gpubp.SGD(0.01), verbose=0)
    assert same(net, copies[0])


# -- precision ---------------------------------------------------------------------------------------------------------

# Activations whose derivative is Lipschitz: |f'| ≤ 1.13 and, as a function of what is saved, |∂f'/∂s| ≤ 2 (tanh).
# Others have a kink, where an error of rounding becomes one of order 1.
SMOOTH = ["gelu", "identity", "sigmoid", "silu", "softplus", "tanh"]
SLOPE, CURVE = 1.13, 2.0
OWN = 8 * EPS32  # what a kernel's own chain of operations adds, relative to the numbers in it


def rounding(net: gpubp.MLP, traced: gpubp.Backprop, targets: Any) -> list[Any]:
    """A bound on the float32 error of each entry of each weight gradient, to first order in ε.

    Every operation is (a ∘ b)(1 + δ), |δ| ≤ ε, so a product of n terms and a bias adds (n + 2) ε (|a| |W| + |b|) of its
    own (Higham, Accuracy and Stability of Numerical Algorithms, 3.5) and passes errors on by |W|; f does by its slope.
    """
    size = [np.abs(a) for a in traced.activations]
    weights = [np.abs(w) for w in net.weights]
    entering, saved = [np.zeros_like(size[0])], []
    for layer, weight in enumerate(weights):
        b = net.biases[layer]
        bias = 0 if b is None else np.abs(b)
        z_error = entering[layer] @ weight + (len(weight) + 2) * EPS32 * (size[layer] @ weight + bias)
        z = np.abs(traced.zs[layer])
        y_error = SLOPE * z_error + OWN * (size[layer + 1] + z)
        if net.activations[layer].name == "softmax":
            y = size[layer + 1]
            y_error = y * (z_error + (y * z_error).sum(axis=1, keepdims=True) + OWN * (1 + 2 * z.max()))
        entering.append(y_error)
        saved.append(np.maximum(z_error, y_error))
    # Of these three outputs with their own loss, ∂C/∂z is (o − t), or twice that, over the number of rows.
    delta_error = (2 * entering[-1] + OWN * (size[-1] + np.abs(targets))) / len(targets)
    bounds: list[Any] = []
    for layer in range(len(weights) - 1, -1, -1):
        delta = np.abs(traced.deltas[layer])
        bound = entering[layer].T @ delta + size[layer].T @ delta_error + len(delta) * EPS32 * (size[layer].T @ delta)
        bounds.insert(0, bound)
        if layer:
            back = weights[layer].T
            y_error = delta_error @ back + (len(back) + 1) * EPS32 * (delta @ back)
            below = np.abs(traced.activation_grads[layer - 1])
            delta_error = SLOPE * y_error + below * (
                CURVE * saved[layer - 1] + OWN * (1 + np.abs(traced.zs[layer - 1]))
            )
    return bounds


@settings(repeatable, max_examples=50)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    names=st.lists(st.sampled_from(SMOOTH), min_size=3, max_size=3),
    output=st.sampled_from(["identity", "sigmoid", "softmax"]),
    rows=st.integers(1, 10),
    seed=st.integers(0, 2**16),
)
def test_float32_against_float64(sizes: list[int], names: list[str], output: str, rows: int, seed: int) -> None:
    ratios = errors_over_bounds(sizes, names[: len(sizes) - 2], output, rows, seed)
    assert max(ratios, default=0) <= 1


def errors_over_bounds(sizes: list[int], activation: list[str], output: str, rows: int, seed: int) -> list[float]:
    """The largest of error / bound in each weight gradient that is not exact."""
    single = gpubp.MLP(sizes, activation, output, dtype="float32", device="cpu", seed=seed)
    double = gpubp.MLP(sizes, activation, output, dtype="float64", device="cpu", seed=seed)
    double.set_parameters(*single.get_parameters())  # the same numbers: only the arithmetic differs
    x, y, _ = sample(double, rows, seed)
    x, y = x.astype("float32"), y.astype("float32")
    truth, got = double.backprop(x, y), single.backprop(x, y)
    assert got.outputs.dtype == got.weight_grads[0].dtype == np.float32
    shaped = y if y.ndim == 2 else np.ones((rows, 1))
    pairs = zip(got.weight_grads, truth.weight_grads, rounding(double, truth, shaped), strict=True)
    return [float((np.abs(g - t) / np.maximum(bound, 1e-30)).max()) for g, t, bound in pairs]


def test_the_bound_on_rounding_is_near() -> None:
    """Every operation rounding the worst way at once: within a factor of 500 of what does happen."""
    ratios = [max(errors_over_bounds([5, 6, 4], ["tanh"], "softmax", 8, seed)) for seed in range(10)]
    assert 1 / 500 < max(ratios) < 1
