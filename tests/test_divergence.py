"""Divergence: a loss that is not finite stops training with the step and layer, and the last good epoch is kept."""

from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.kernel import KERNELS

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(20, 3)).astype(np.float32), RNG.integers(0, 3, 20)
NAN = np.float32("nan")


def network(**settings: Any) -> gpubp.MLP:
    return gpubp.MLP([3, 5, 3], "relu", **{"device": "cpu", "seed": 0, **settings})


def diverges(net: gpubp.MLP, x: Any = X, y: Any = Y, **settings: Any) -> str:
    with pytest.raises(gpubp.DivergenceError) as raised:
        net.fit(x, y, **{"epochs": 3, "batch_size": 4, "verbose": 0, **settings})
    assert isinstance(raised.value, RuntimeError)
    return str(raised.value)


def flat(net: gpubp.MLP) -> Any:
    return np.concatenate([view.ravel() for view in [*net.weights, *net.biases]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_learning_rate_that_is_too_large(dtype: str) -> None:
    net = network(dtype=dtype)
    before = flat(net)
    message = diverges(net, optimizer="sgd", learning_rate=1e30 if dtype == "float32" else 1e300)
    assert "epoch 1: at step 2 the outputs of layer 2 of 2 (softmax) are not finite" in message
    assert "back at the start" in message
    assert "smaller learning rate (it was 1e+30" in message
    assert "clip_norm" in message
    np.testing.assert_array_equal(flat(net), before)
    net.fit(X, Y, epochs=1, verbose=0)  # and goes on from there


def test_parameters_that_are_huge_but_finite_are_no_divergence_yet() -> None:
    net = network()
    history = net.fit(X, Y, epochs=1, batch_size="full", optimizer="sgd", learning_rate=1e30, verbose=0)
    assert len(history) == 1
    assert 1e25 < np.abs(flat(net)).max() < np.inf  # whose squares overflow
    huge = flat(net)
    assert "epoch 1: at step 1" in diverges(net, batch_size="full", optimizer="sgd", learning_rate=1e30)
    np.testing.assert_array_equal(flat(net), huge)


@pytest.mark.parametrize("name", [*gpubp.Optimizer.members, "momentum"])
def test_net_and_optimizer_are_back_at_the_last_good_epoch(name: str) -> None:
    def build() -> gpubp.Optimizer:
        return gpubp.SGD(0.1, momentum=0.9) if name == "momentum" else gpubp.Optimizer.resolve(name)

    def poisoned(net: gpubp.MLP, record: dict[str, Any]) -> None:
        if record["epoch"] == 2:
            x[13, 1] = np.inf  # the arrays were checked before, so this is found by the loss

    x = X.copy()
    net, twin = network(dropout=0.2), network(dropout=0.2)
    optimizer, other = build(), build()
    message = diverges(net, x, optimizer=optimizer, callbacks=poisoned, epochs=5)
    assert "epoch 3: at step" in message
    assert "end of epoch 2" in message
    twin.fit(X, Y, epochs=2, batch_size=4, optimizer=other, verbose=0)
    np.testing.assert_array_equal(flat(net), flat(twin))
    assert optimizer.steps == other.steps == 10
    for kind in optimizer.state:
        np.testing.assert_array_equal(optimizer.state[kind], other.state[kind])
    # The counters are back too: the next epoch is the one that would have come.
    for n, o in ((net, optimizer), (twin, other)):
        n.fit(X, Y, epochs=1, batch_size=4, optimizer=o, verbose=0)
    np.testing.assert_array_equal(flat(net), flat(twin))


def test_data_that_overflow() -> None:
    net = gpubp.MLP([3, 5, 1], "relu", "identity", device="cpu", seed=0)
    assert "epoch 1: at step 1 the loss (squared_error) is not finite" in diverges(net, X * 1e25, Y)


def test_nan_from_a_transform_or_a_stream() -> None:
    def transform(x: Any, y: Any, generator: np.random.Generator) -> Any:
        x[2, 1] = NAN
        return x, y

    found = r"x has 1 values that are not finite, the first in row 2, column 1 (nan)"
    net = network()
    before = flat(net)
    assert f"epoch 1: at step 1 {found}" in diverges(net, transform=transform)
    hole = X.copy()
    hole[2, 1] = NAN
    assert f"epoch 1: at step 2 {found}" in diverges(net, [(X, Y), (hole, Y)], None)
    message = diverges(net, ((x, Y) for x in (X, hole)), None, epochs=1)
    assert "epoch 1: the epoch cannot be replayed" in message
    assert "generator" in message
    np.testing.assert_array_equal(flat(net), before)


def test_a_transform_that_cannot_be_repeated() -> None:
    calls = []

    def transform(x: Any) -> Any:
        calls.append(1)
        return x * NAN if len(calls) == 2 else x

    assert "not reproducible" in diverges(network(), transform=transform)


@pytest.mark.parametrize("layer", [1, 2])
def test_an_own_activation_that_gives_nan(layer: int) -> None:
    members, kernels = dict(gpubp.Activation.members), dict(KERNELS)
    try:

        @gpubp.elementwise("z, b -> y")
        def bias_root(xp: Any, z: Any, b: Any, y: Any) -> None:
            xp.add(z, b, out=y)
            xp.sqrt(y, out=y)

        @gpubp.elementwise("dy, y -> dz")
        def root_delta(xp: Any, dy: Any, y: Any, dz: Any) -> None:
            xp.divide(dy, y, out=dz)

        class Root(gpubp.Activation):
            forward, delta = bias_root, root_delta

        hidden = [Root(), "tanh"] if layer == 1 else ["tanh", Root()]
        net = gpubp.MLP([3, 5, 4, 3], hidden, device="cpu", seed=0)
        assert f"at step 1 the outputs of layer {layer} of 3 (root) are not finite" in diverges(net)
    finally:
        for kept, now in ((members, gpubp.Activation.members), (kernels, KERNELS)):
            now.clear()
            now.update(kept)


def test_a_gradient_that_overflows() -> None:
    # The loss is finite and its derivative times the input is not.
    net = gpubp.MLP([1, 1], output="identity", loss="absolute_error", device="cpu", seed=0)
    message = diverges(net, [[3e38]], [0.0], optimizer="sgd", learning_rate=1e3)
    assert "at step 1 the gradient step made the parameters of layer 1 of 1 (identity) not finite" in message


def test_callbacks_hear_of_it_when_the_network_is_back() -> None:
    heard = []

    class Ear(gpubp.Callback):
        def on_divergence(self, net: gpubp.MLP) -> None:
            heard.append(flat(net))

    net = network()
    before = flat(net)
    diverges(net, optimizer="sgd", learning_rate=1e30, callbacks=[Ear()])
    np.testing.assert_array_equal(heard, [before])
