"""A captured step gives the very bits of its operations played one by one, whatever changes from step to step."""

import copy
import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from native_nets import OneByOne, bits, net_on, sample

import gpubp
from gpubp.backends.native import NativeBackend
from gpubp.backends.numpy import NumpyBackend
from gpubp.backends.tape import Call, engine
from gpubp.kernel import KERNELS

pytestmark = pytest.mark.toolchain
BOTH = (NativeBackend, OneByOne)
MASKS = [np.tri(7, 20), None, None]
CASES: dict[str, tuple[dict[str, Any], Callable[[], Any], dict[str, Any]]] = {
    "plain": ({}, gpubp.SGD, {}),
    "no biases": ({"use_bias": False, "activation": "gelu"}, gpubp.SGD, {"schedule": "cosine"}),
    "some biases": ({"use_bias": [False, True, False]}, lambda: gpubp.SGD(0.1, 0.9), {}),
    "momentum": ({"activation": ["relu", "elu"]}, lambda: gpubp.SGD(0.1, 0.9, True), {"batch_size": 1}),
    "dropout": ({"dropout": [0.2, 0.5, 0.0]}, gpubp.SGD, {"batch_size": "full"}),
    "clipped": ({"output": "sigmoid"}, gpubp.Adam, {"clip_norm": 0.01, "schedule": "cosine"}),
    "everything": (
        {"masks": MASKS, "dropout": 0.3, "activation": ["tanh", "softplus"]},
        lambda: gpubp.AdamW(0.01),
        {"clip_norm": 1, "weighted": True, "class_weight": {0: 2.0}},
    ),
    "decayed": ({"masks": MASKS}, lambda: gpubp.Adam(0.01, weight_decay=0.1), {"weighted": True}),
    "values": ({"output": "identity", "loss": gpubp.losses.Huber(0.5)}, gpubp.RMSprop, {"weighted": True}),
    "summed": ({"loss": gpubp.losses.CrossEntropy(reduction="sum")}, gpubp.Adagrad, {"weighted": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_training(case: str) -> None:
    """With batches of two sizes, and scored on rows that it was not trained on."""
    options, optimizer, settings = CASES[case]
    settings = {"batch_size": 13, **settings}
    x, labels = sample(47, 7, 3)
    y = np.eye(3, dtype=np.float32)[labels] if options.get("output") else labels
    weights = np.linspace(0.1, 2, 47) if settings.pop("weighted", False) else None
    found = []
    for backend in BOTH:
        net = net_on(backend, 7, 20, 12, 3, **options)
        net.fit(x, y, epochs=3, optimizer=optimizer(), sample_weight=weights, validation=0.2, verbose=0, **settings)
        found.append((bits(net), net.forward(x).tobytes()))
    assert found[0] == found[1]


Step = Callable[[gpubp.MLP, Any, int], Any]  # given the network, its optimizer and the step's number


def losses(backend: type[NumpyBackend], step: Step, optimizer: Any, options: dict[str, Any]) -> list[Any]:
    """Of eight steps, and the bits of what they leave."""
    net = net_on(backend, 8, 8, 8, **{"activation": "tanh", "output": "identity", **options})
    return [*(float(step(net, optimizer, number)) for number in range(8)), bits(net)]


def same(step: Step, optimizer: Callable[[], Any] = gpubp.SGD, **options: Any) -> list[Any]:
    """What a captured step and its operations alike make of these, and NumPy but for rounding."""
    ours, one_by_one, numpys = (losses(backend, step, optimizer(), options) for backend in (*BOTH, NumpyBackend))
    assert ours == one_by_one
    np.testing.assert_allclose(ours[:-1], numpys[:-1], rtol=1e-5)
    return ours


def values(rows: int, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)


def test_new_arrays_and_other_numbers_of_rows_in_every_step() -> None:
    def step(net: gpubp.MLP, optimizer: Any, number: int) -> Any:
        optimizer.learning_rate = 0.1 / (1 + number)
        rows = (8, 5, 1)[number % 3]
        weights = np.linspace(1, 2, rows) if number % 2 else None
        return net.train_step(values(rows, number), values(rows, 100 + number), optimizer, weights)

    same(step)


def test_arrays_that_lie_otherwise() -> None:
    """Transposed, cut out of larger ones, of other dtypes."""
    wide, whole = np.zeros((8, 16), np.float32), np.arange(64).reshape(8, 8) % 5

    def step(net: gpubp.MLP, optimizer: Any, number: int) -> Any:
        wide[:, 4:12] = x = values(8, number)
        given = [x.T, wide[:, 4:12], x[::-1], np.asfortranarray(x), x.astype(np.float64), whole, x.tolist(), x]
        return net.train_step(given[number], given[-1 - number], optimizer)

    same(step)


INPUTS: dict[str, Callable[[gpubp.MLP], tuple[Any, Any]]] = {
    "its own weights": lambda net: (net.weights[0], values(8, 0)),
    "some of its own weights": lambda net: (net.weights[0][2:5], values(3, 0)),
    "weights that are trained before": lambda net: (net.weights[1], values(8, 0)),
    "targets that are weights": lambda net: (values(8, 0), net.weights[1]),
    "weights for both": lambda net: (net.weights[0], net.weights[1]),
}


@pytest.mark.parametrize("given", INPUTS)
def test_a_network_that_is_given(given: str) -> None:
    same(lambda net, optimizer, number: net.train_step(*INPUTS[given](net), optimizer))


def test_an_autoencoder_is_given_one_array_twice() -> None:
    def step(net: gpubp.MLP, optimizer: Any, number: int) -> Any:
        x = values(8, number // 4)  # and now and then an equal one
        return net.train_step(x, x if number % 3 else x.copy(), optimizer)

    same(step)


def test_every_step_drops_other_units() -> None:
    """At a learning rate of next to nothing, the steps' losses differ by their masks alone."""

    def step(net: gpubp.MLP, optimizer: Any, number: int) -> Any:
        optimizer.learning_rate = 1e-30
        return net.train_step(x, x, optimizer)

    x = values(8, 0)
    assert len({*same(step, dropout=[0.5, 0.5])[:-1]}) == 8
    assert len({*same(step)[:-1]}) == 1


def test_settings_that_change_between_steps() -> None:
    """Each is seen by the next step, captured or not."""
    x = values(8, 0)
    changes = {
        0: lambda net, optimizer: setattr(net.activations[0], "slope", 0.1),
        2: lambda net, optimizer: setattr(optimizer, "weight_decay", 0.5),
        3: lambda net, optimizer: setattr(optimizer, "learning_rate", 0.01),
        4: lambda net, optimizer: optimizer.reset(),
        5: lambda net, optimizer: setattr(optimizer, "weight_decay", 0.0),
        6: lambda net, optimizer: setattr(net.activations[0], "slope", 0.9),
        7: lambda net, optimizer: net.set_parameters([0.5 * weight for weight in net.weights]),
    }

    def without(left_out: int, optimizer: Callable[[], Any]) -> bytes:
        def step(net: gpubp.MLP, optimizer: Any, number: int) -> Any:
            if number in changes and number != left_out:
                changes[number](net, optimizer)
            return net.train_step(x, x, optimizer)

        return bytes(same(step, optimizer, activation=gpubp.LeakyReLU(0.1))[-1])

    assert len({without(number, gpubp.SGD) for number in (1, 2, 3, 5, 6, 7)}) == 6
    assert len({without(number, gpubp.Adam) for number in range(1, 8)}) == 7


# -- what is not native ------------------------------------------------------------------------------------------------


@pytest.fixture
def cubed() -> Iterator[type[gpubp.Activation]]:
    """A user's activation, without a device function, which meets the errors in its list."""
    members, kernels, troubles = dict(gpubp.Activation.members), dict(KERNELS), list[Exception]()

    @gpubp.elementwise("z, b, gain -> y")
    def bias_cubed(xp: Any, z: Any, b: Any, gain: float, y: Any) -> None:
        xp.multiply((z + b) ** 3, gain, out=y)

    @gpubp.elementwise("dy, y, gain -> dz")
    def cubed_delta(xp: Any, dy: Any, y: Any, gain: float, dz: Any) -> None:
        if troubles:
            raise troubles.pop()
        xp.multiply(dy, 3 * gain * xp.cbrt(y / gain) ** 2, out=dz)

    class Cubed(gpubp.Activation):
        forward, delta, trouble = bias_cubed, cubed_delta, troubles

        def __init__(self, gain: float = 0.5) -> None:
            self.gain = gain

        @property
        def parameters(self) -> tuple[float, ...]:
            return (self.gain,)

    yield Cubed
    gpubp.Activation.members.clear()
    gpubp.Activation.members.update(members)
    KERNELS.clear()
    KERNELS.update(kernels)


@pytest.mark.parametrize("where", ["activation", "output"])
def test_a_kernel_of_python_on_the_tape(where: str, cubed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    usual = Call.__call__
    monkeypatch.setattr(Call, "__call__", lambda call, slots: (called.append(call), usual(call, slots)))

    def step(net: gpubp.MLP, optimizer: Any, number: int) -> Any:
        return net.train_step(values(8, number), values(8, 9), optimizer)

    same(step, **{where: cubed(0.01)})
    assert len(called) == 2 * 2 * 8  # forward and back, on a captured tape and on their own


def test_what_goes_wrong_in_the_middle_of_a_step_stops_no_later_one(cubed: Any) -> None:
    x = values(8, 0)
    (optimizer, net), (usual, other) = (
        (gpubp.SGD(0.1, 0.9), net_on(NativeBackend, 8, 8, 8, activation=cubed(0.01), output="identity"))
        for _ in range(2)
    )
    for _ in range(2):  # while it is captured, and when it has been
        cubed.trouble.append(ArithmeticError("a trouble of its own"))
        with pytest.raises(ArithmeticError, match="of its own"):
            net.train_step(x, x, optimizer)
        assert float(net.train_step(x, x, optimizer)) == float(other.train_step(x, x, usual))
        assert bits(net) == bits(other)


@pytest.mark.parametrize("where", [{"activation": "tanh"}, {"activation": "gelu", "dropout": [0.2, 0.2]}])
def test_products_by_another_blas(where: dict[str, Any]) -> None:
    """NumPy's, on the tape, of the arrays of each step and of transposed ones."""

    def step(net: gpubp.MLP, optimizer: Any, number: int) -> Any:
        rows = (8, 5, 1)[number % 3]
        return net.train_step(values(rows, number), values(rows, 100 + number), optimizer)

    with patch.object(engine(), "blas", None):
        assert "; NumPy's products: " in NativeBackend().describe()["kernels"]
        same(step, **where)


def test_a_tape_keeps_what_it_points_at() -> None:
    """What a step makes for itself, and room for partial sums that has become too small for others."""
    backend, made = NativeBackend(), []

    def step(a: Any) -> None:
        out = np.empty(3, np.float32)
        made.append(weakref.ref(out))
        backend.column_sum(a, out)
        made.append(weakref.ref(backend._partial.base))

    play = backend.capture(step, np.ones((700, 3), np.float32))
    assert play is not None
    backend.column_sum(np.ones((70_000, 3), np.float32), np.empty(3, np.float32))
    assert all(each() is not None for each in made)
    play(np.ones((700, 3), np.float32))
    assert made[0]().tolist() == [700, 700, 700]
    del play
    assert all(each() is None for each in made)


# -- networks and optimizers that go elsewhere -------------------------------------------------------------------------


def through_pickle(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle, gpubp.MLP.copy])
def test_a_copied_network_goes_on_by_itself(copied: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUBP_NATIVE", "1")
    x, y = sample(20, 8, 3)
    net = net_on(NativeBackend, 8, 6, 3, dropout=0.5)
    net.train_step(x, y, gpubp.SGD(0.1))
    twin = copied(net)
    before = bits(twin)
    assert before == bits(net)
    net.train_step(x, y, gpubp.SGD(0.1))
    assert bits(twin) == before
    twin.train_step(x, y, gpubp.SGD(0.1))
    assert bits(twin) == bits(net)


@pytest.mark.parametrize("native", ["0", "1"])
@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle])
def test_a_copied_optimizer_keeps_its_state(
    copied: Callable[[Any], Any], native: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where native kernels are not to be had; the copy goes on with the first network of its size."""
    x, y = sample(20, 8, 3)
    net, optimizer = net_on(NativeBackend, 8, 6, 3), gpubp.SGD(0.1, momentum=0.9)
    net.train_step(x, y, optimizer)
    twin, twin_net = copied(optimizer), net.copy()
    state = optimizer.state["v"].copy()
    net.train_step(x, y, optimizer)
    assert twin.steps == 1
    np.testing.assert_array_equal(twin.state["v"], state)
    monkeypatch.setenv("GPUBP_NATIVE", native)
    with pytest.raises(gpubp.DataError, match="state of a network of another size"):
        net_on(NativeBackend, 8, 20, 3).train_step(x, y, twin)
    twin_net.to("cpu").train_step(x, y, twin)
    for ours, theirs in zip(twin_net.get_parameters()[0], net.get_parameters()[0], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0 if native == "1" else 1e-4, atol=0 if native == "1" else 1e-6)
    with pytest.raises(gpubp.DataError, match="state of another network"):
        net.train_step(x, y, twin)
    twin.reset()
    net.train_step(x, y, twin)


def test_an_optimizer_follows_a_network_that_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """From native kernels to NumPy's and back; without a move the bits are those of one that stayed."""
    x, y = sample(20, 8, 3)
    found = {}
    for way in ("", "111", "101"):
        net, optimizer = net_on(NativeBackend, 8, 6, 3), gpubp.Adam(0.01)
        net.train_step(x, y, optimizer)
        for native in way or "111":
            monkeypatch.setenv("GPUBP_NATIVE", native)
            if way:
                net.to("cpu")
            assert isinstance(net._network.backend, NativeBackend) is (native == "1")
            net.train_step(x, y, optimizer)
        found[way] = net.get_parameters()[0]
    for stayed, moved, elsewhere in zip(*found.values(), strict=True):
        np.testing.assert_array_equal(moved, stayed)
        np.testing.assert_allclose(elsewhere, stayed, rtol=1e-4, atol=1e-6)
