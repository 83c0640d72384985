"""Kinks: samples at which the cost has no derivative are refused by name, and no others are."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.activations import Activation
from gpubp.explain.kinks import find
from gpubp.explain.reference import Reference
from gpubp.kernel import KERNELS
from gpubp.losses import Loss


def single(activation: Any, weights: Any, bias: float = 0.0, dtype: str = "float64", **options: Any) -> gpubp.MLP:
    """One hidden unit with these weights, before an output of three times its y."""
    net = gpubp.MLP([len(weights), 1, 1], activation, "identity", dtype=dtype, device="cpu", seed=0, **options)
    net.set_parameters([np.array(weights)[:, None], [[3.0]]], [[bias], [0.0]])
    return net


@pytest.fixture
def own() -> Iterator[Any]:
    """A maker of activations max(z − 1, 0) that are not complex-safe and declare these kinks."""
    members, kernels = dict(Activation.members), dict(KERNELS)

    @gpubp.elementwise("z, b -> y")
    def bias_shifted(xp: Any, z: Any, b: Any, y: Any) -> None:
        xp.add(z, b - 1, out=y)
        xp.divide(y + xp.abs(y), 2, out=y)

    @gpubp.elementwise("dy, y -> dz")
    def shifted_delta(xp: Any, dy: Any, y: Any, dz: Any) -> None:
        xp.multiply(dy, xp.sign(y), out=dz)

    def make(declared: Any) -> Any:
        class Shifted(gpubp.Activation):
            forward, delta, kinks = bias_shifted, shifted_delta, declared

        return Shifted()

    yield make
    for known, before in ((Activation.members, members), (KERNELS, kernels)):
        known.clear()
        known.update(before)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "selu", gpubp.ELU(2.0)], ids=str)
def test_a_unit_at_its_kink_is_named(activation: Any) -> None:
    net = single(activation, [2.0, -1.0])
    name = net.activations[0].name
    x, y = [[1.0, 1.0], [0.5, 1.0], [-1.0, -2.0]], [[0.3]] * 3
    with pytest.raises(gpubp.DataError) as refused:
        gpubp.check_gradients(net, x, y)
    assert str(refused.value) == (
        "gradients cannot be checked at a kink, where the cost has no derivative, and 2 of 3 samples are at one: 1, 2; "
        f"in sample 1 unit 0 of layer 0 has z = 0, and {name} has a kink at 0; leave these samples out, or move x or "
        "the parameters a little"
    )
    report = gpubp.check_gradients(net, [*x[:1], [0.5, 1 - 1e-9]], y[:2])
    assert report.ok, report
    assert report.error < 1e-12


def test_a_blank_sample_of_a_fresh_network() -> None:
    net = gpubp.MLP([3, 4, 2], "relu", dtype="float64", device="cpu", seed=0)
    x = [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]
    with pytest.raises(gpubp.DataError, match=r"in sample 1 unit 0 .* z = 0 as all its inputs and its bias are 0, and"):
        gpubp.check_gradients(net, x, [0, 1])
    assert gpubp.check_gradients(net, x[:1], [0]).ok


@pytest.mark.parametrize("loss", [gpubp.AbsoluteError(), gpubp.Quantile(0.5), gpubp.Quantile(0.9)], ids=repr)
def test_an_output_that_is_its_target(loss: Loss) -> None:
    net = single("identity", [2.0, -1.0], loss=loss)
    with pytest.raises(gpubp.DataError, match=rf"in sample 1 output 0 is 0 off its target, and {loss.name} has a kink"):
        gpubp.check_gradients(net, [[1.0, 1.0], [1.0, 1.0]], [[1.0], [3.0]])
    assert gpubp.check_gradients(net, [[1.0, 1.0], [1.0, 1.0]], [[1.0], [4.0]]).error < 1e-12


def test_near_is_what_rounding_may_carry_over_it() -> None:
    """0.1 + 0.2 − 0.3 is 5.6e-17 or 0, as the sum goes; in float32 that is so of everything below 1e-7."""
    weights, x = [1.0, 1.0, -1.0], [0.1, 0.2, 0.3]
    assert gpubp.check_gradients(single("relu", weights, 1e-13), [x], [[0.5]]).ok
    for dtype, bias in (("float64", 0.0), ("float64", 1e-16), ("float32", 1e-8)):
        with pytest.raises(gpubp.DataError, match="has a kink"):
            gpubp.check_gradients(single("relu", weights, bias, dtype), [x], [[0.5]])


def test_a_z_that_layers_below_move() -> None:
    """The layer at its kink sees nothing but 0 and has no bias, yet w of the layer below would bend the cost."""
    net = gpubp.MLP(
        [1, 1, 1, 1], ["identity", "relu"], "identity", use_bias=False, dtype="float64", device="cpu", seed=0
    )
    net.set_parameters([[[0.0]], [[1.0]], [[1.0]]])
    with pytest.raises(gpubp.DataError, match="unit 0 of layer 1 has z = 0"):
        gpubp.check_gradients(net, [[1.0]], [[0.5]])


def test_near_is_where_the_step_of_a_difference_may_go(own: Any) -> None:
    net = gpubp.MLP([1, 1, 1, 1], [own((1.0,)), "relu"], "identity", dtype="float64", device="cpu", seed=0)
    net.set_parameters([[[1.0]], [[1.0]], [[1.0]]], [[0.0], [-1.0], [0.0]])  # relu(max(x − 1, 0) − 1)
    for x, unit in ((1.00003, "layer 0 has z = 1, and shifted has a kink at 1"), (2.00003, "layer 1 has z = 3e-05")):
        with pytest.raises(gpubp.DataError, match=unit):
            gpubp.check_gradients(net, [[x]], [[0.5]])
    for x in (0.99, 1.01, 1.99, 2.01):
        report = gpubp.check_gradients(net, [[x]], [[0.5]])
        assert report.ok, report
        assert report.method == "central differences"
    with pytest.raises(gpubp.DataError, match="unit 0 of layer 0 has z = 1, and shifted"):  # by its bias alone
        gpubp.check_gradients(single(own((1.0,)), [1.0], 1.0), [[0.0]], [[0.5]])
    unknown = gpubp.MLP([1, 1], output=own(()), dtype="float64", device="cpu", seed=0)
    unknown.set_parameters([[[1.0]]], [[0.0]])
    assert not gpubp.check_gradients(unknown, [[1.00001]], [[1.0]]).ok, "the step never crosses a kink in this test"


def test_kinks_that_are_no_tuple_of_numbers(own: Any) -> None:
    for kinks in (0.0, ("0",), None):
        net = single(own(kinks), [1.0])
        with pytest.raises(gpubp.DataError, match=r"Shifted.kinks must be a tuple of numbers such as \(0.0,\), got"):
            gpubp.check_gradients(net, [[0.3]], [[0.5]])


def test_many_samples_are_not_all_listed() -> None:
    net = single("relu", [1.0])
    with pytest.raises(gpubp.DataError, match=r"30 of 31 samples are at one: 1, 2, .*, 20, \.\.\.; in sample 1 "):
        gpubp.check_gradients(net, [[1.0], *[[0.0]] * 30], [[0.5]] * 31)


# -- what is not -------------------------------------------------------------------------------------------------------


def test_a_function_whose_derivative_does_not_jump_has_no_kink() -> None:
    assert gpubp.check_gradients(single("elu", [2.0, -1.0]), [[0.5, 1.0]], [[0.3]]).error < 1e-12
    net = single("identity", [1.0], loss=gpubp.Huber(0.5))
    assert gpubp.check_gradients(net, [[1.0], [1.0], [1.0]], [[3.0], [2.5], [3.5]]).error < 1e-12


def test_a_z_that_nothing_moves_is_at_no_kink() -> None:
    """Without biases a blank sample has z = 0 in all layers, whatever the weights; so has a unit without weights."""
    net = gpubp.MLP([2, 3, 3, 2], "relu", use_bias=False, dtype="float64", device="cpu", seed=0)
    assert gpubp.check_gradients(net, [[0.0, 0.0], [1.0, 2.0]], [0, 1]).error < 1e-12
    net = gpubp.MLP([2, 3, 3, 2], "relu", use_bias=[False, True, False], dtype="float64", device="cpu", seed=0)
    with pytest.raises(gpubp.DataError, match="in sample 0 unit 0 of layer 1 has z = 0 as all its inputs"):
        gpubp.check_gradients(net, [[0.0, 0.0], [1.0, 2.0]], [0, 1])
    mask = [[0, 1, 1], [0, 1, 1]]
    net = gpubp.MLP([2, 3, 2], "relu", use_bias=False, masks=[mask, None], dtype="float64", device="cpu", seed=0)
    assert gpubp.check_gradients(net, [[3.0, 1.0], [1.0, 2.0]], [0, 1]).error < 1e-12


def test_every_kink_is_found_and_nothing_else_fails() -> None:
    """Whole numbers put many z on 0: a check either refuses or, left without those samples, agrees with the numbers."""
    rng, refused, checked = np.random.default_rng(0), 0, 0
    for _ in range(150):
        sizes = rng.integers(1, 4, 4).tolist()
        masks = [rng.integers(0, 2, shape) for shape in pairwise(sizes)]
        net = gpubp.MLP(
            sizes,
            rng.choice(["relu", "leaky_relu", "selu"], 2).tolist(),
            "identity",
            str(rng.choice(["absolute_error", "squared_error"])),
            use_bias=rng.integers(0, 2, 3).astype(bool).tolist(),
            masks=masks,
            dtype="float64",
            device="cpu",
            seed=0,
        )
        weights, biases = net.get_parameters()
        net.set_parameters(
            [rng.integers(-1, 2, w.shape) for w in weights],
            [None if b is None else rng.integers(-1, 2, b.shape) for b in biases],
        )
        x, y = rng.integers(-1, 2, (6, sizes[0])), rng.integers(-1, 2, (6, sizes[-1]))
        at = {kink.sample for kink in find(Reference.of(net, x, y), np.finfo(float).eps)}
        clear = [sample for sample in range(6) if sample not in at]
        if at:
            refused += 1
            with pytest.raises(gpubp.DataError, match="kink"):
                gpubp.check_gradients(net, x, y)
        if clear:
            checked += 1
            report = gpubp.check_gradients(net, x[clear], y[clear])
            assert report.ok, report
            assert report.error < 1e-6
    assert min(refused, checked) > 50
