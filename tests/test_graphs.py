"""Captured steps: the same bits as the same operations one by one, whatever differs from one step to the next."""

import gc
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.backends import graphs

pytestmark = pytest.mark.toolchain

ROWS = np.random.default_rng(0).random((70, 6), np.float32)
LABELS = np.random.default_rng(1).integers(0, 3, 70)
WEIGHTS = np.random.default_rng(2).random(70)
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: gpubp.SGD(0.1),
    "sgd, decay": lambda: gpubp.SGD(0.1, weight_decay=0.01),
    "momentum": lambda: gpubp.SGD(0.1, 0.9),
    "momentum, decay": lambda: gpubp.SGD(0.1, 0.9, weight_decay=0.01),
    "nesterov": lambda: gpubp.SGD(0.1, 0.9, nesterov=True),
    "adam": lambda: gpubp.Adam(0.01),
    "adamw": lambda: gpubp.AdamW(0.01, weight_decay=0.1),
    "adagrad": lambda: gpubp.Adagrad(0.01, weight_decay=0.1),
}


@pytest.fixture(autouse=True)
def _captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUBP_GRAPHS", "1")


@pytest.fixture(params=[pytest.param("emulated"), pytest.param("real", marks=pytest.mark.gpu)])
def machine(request: pytest.FixtureRequest) -> Any:
    """The emulated device; None for a real one."""
    return request.getfixturevalue("emulated") if request.param == "emulated" else None


def net(captured: bool = True, **settings: Any) -> gpubp.MLP:
    settings = {"activation": ["sigmoid", "relu"], "seed": 0, **settings}
    made = gpubp.MLP([6, 5, 4, 3], device="cuda", **settings)
    made._network.backend.replays = captured  # products are the same in any case
    return made


def many(times: int) -> tuple[Any, Any]:
    """More rows than one block sums."""
    return np.repeat(ROWS, times, axis=0), np.repeat(LABELS, times)


def bits(made: gpubp.MLP) -> list[bytes]:
    return [each.tobytes() for part in made.get_parameters() for each in part if each is not None]


def both(train: Callable[[gpubp.MLP], Any], **settings: Any) -> None:
    """The same parameters, and whatever `train` gives, from captured and from uncaptured steps."""
    one, other = net(True, **settings), net(False, **settings)
    assert train(one) == train(other)
    assert bits(one) == bits(other)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_bits_by_every_optimizer(machine: Any, name: str) -> None:
    def train(made: gpubp.MLP) -> list[float]:
        optimizer = OPTIMIZERS[name]()
        return [float(made.train_step(ROWS[i : i + 16], LABELS[i : i + 16], optimizer)) for i in range(0, 54, 9)]

    both(train)
    assert machine is None or machine.launched["graph"] == 5  # of six steps: the first is rehearsed


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "cosine", "optimizer": "adam"},
        {"clip_norm": 0.5},
        {"sample_weight": WEIGHTS},
        {"class_weight": "balanced", "optimizer": "sgd"},
        {"batch_size": "full", "optimizer": "momentum"},
        {"batch_size": 1, "epochs": 1},
        {"shuffle": False, "optimizer": "sgd"},
        {"metrics": ["accuracy"], "validation": 0.2},
        {"transform": lambda x, y, generator: (x * float(generator.random()), y)},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_the_same_history_of_a_fit(machine: Any, settings: dict[str, Any]) -> None:
    def train(made: gpubp.MLP) -> list[float]:
        given = {"epochs": 3, "batch_size": 16, "verbose": 0, **settings}
        if given.get("optimizer") == "momentum":
            given["optimizer"] = gpubp.SGD(0.1, 0.9)
        return [record["loss"] for record in made.fit(ROWS, LABELS, **given).records]

    both(train)
    both(train, dropout=[0.2, 0.5, 0.0])
    assert machine is None or machine.launched["graph"]


# -- epochs ------------------------------------------------------------------------------------------------------------


def history(made: gpubp.MLP, **settings: Any) -> list[float]:
    given = {"epochs": 3, "batch_size": 16, "optimizer": "adam", "verbose": 0, **settings}
    return [record["loss"] for record in made.fit(ROWS, LABELS, **given).records]


def test_an_epoch_takes_one_launch_a_step(emulated: Any) -> None:
    """And nothing is sent or fetched before its end."""
    sent: list[int] = []

    class Sent(gpubp.Callback):
        def on_epoch_end(self, net: gpubp.MLP, record: dict[str, Any]) -> None:
            sent.append(emulated.copies_to_device)

    history(net(), callbacks=[Sent()])
    assert emulated.launched["gpubp_advance"] == 3 * 5
    assert emulated.launched["graph"] == 3 * 5 - 2  # a whole batch and the last, shorter one are rehearsed
    assert [later - sooner for sooner, later in itertools.pairwise(sent)] == [4, 4]


def test_who_looks_at_each_step_is_told_of_each(emulated: Any) -> None:
    costs: list[float] = []

    class Looking(gpubp.Callback):
        def on_step_end(self, net: gpubp.MLP, step: int, cost: Any) -> None:
            costs.append(float(cost))

    losses = history(net(), callbacks=[Looking()])
    assert emulated.launched["gpubp_advance"] == 0
    assert emulated.launched["graph"] > 0
    assert len(costs) == 15
    assert losses == history(net())


def test_rows_that_stay_on_the_host_give_the_same_bits(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = net(), net()
    expected = history(one)
    monkeypatch.setattr("gpubp.backends.cupy.CupyBackend.holds", lambda backend, nbytes: False)
    assert history(other) == expected
    assert bits(one) == bits(other)


def test_an_epoch_that_is_interrupted_counts_the_steps_it_took(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def interruptible() -> Iterator[Callable[[], bool]]:
        asked = itertools.count(1)
        yield lambda: next(asked) >= 8  # once an epoch and once a step: in the second epoch after its first

    def train(made: gpubp.MLP) -> Any:
        optimizer = gpubp.Adam()
        with monkeypatch.context() as patch:
            patch.setattr("gpubp.training.interruptible", interruptible)
            losses = history(made, optimizer=optimizer, clip_norm=1.0)
        return losses, made._network.steps, optimizer.steps

    both(train, dropout=0.2)
    one = net()
    assert train(one)[1:] == (6, 6)


@pytest.mark.parametrize("kind", [gpubp.SGD, gpubp.Adam])
def test_a_callback_may_change_the_optimizer(machine: Any, kind: type[gpubp.SGD | gpubp.Adam]) -> None:
    def train(made: gpubp.MLP) -> list[float]:
        optimizer = kind(0.1)

        def change(net: gpubp.MLP, record: dict[str, Any]) -> None:
            optimizer.learning_rate /= 2
            optimizer.weight_decay = 0.01 * record["epoch"]

        return history(made, optimizer=optimizer, callbacks=[change], epochs=4)

    both(train)


def test_divergence_is_diagnosed(machine: Any) -> None:
    def train(made: gpubp.MLP) -> str:
        with pytest.raises(gpubp.DivergenceError) as caught:
            history(made, optimizer=gpubp.SGD(1e30), epochs=5)
        return str(caught.value)

    both(train, activation="relu")


def test_a_larger_batch_meanwhile_moves_the_buffers(machine: Any) -> None:
    """Of which captured steps then know nothing."""

    def train(made: gpubp.MLP) -> list[float]:
        def predict(net: gpubp.MLP, record: dict[str, Any]) -> None:
            net.train_step(*many(4 * record["epoch"]), other)

        other = gpubp.SGD(0.01)
        return history(made, callbacks=[predict])

    both(train)


# -- what else differs from step to step -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.check)])
def test_masks_missing_biases_and_regression(machine: Any, dtype: str) -> None:
    masks = [np.random.default_rng(3).integers(0, 2, (6, 5)), None, None]
    settings = {"masks": masks, "use_bias": [True, False, True], "output": "identity", "dtype": dtype}
    optimizers = {"captured": gpubp.SGD(0.1, 0.9), "uncaptured": gpubp.SGD(0.1, 0.9)}

    def train(made: gpubp.MLP) -> list[float]:
        optimizer = optimizers.popitem()[1]
        return [float(made.train_step(ROWS[:20], ROWS[:20, :3], optimizer)) for _ in range(4)]

    both(train, **settings)


def test_another_optimizer_takes_no_old_graph(machine: Any) -> None:
    """Whose state is its own; and the memory of the old one is free."""

    def train(made: gpubp.MLP) -> list[float]:
        losses = []
        for _ in range(3):
            optimizer = gpubp.Adam(0.01)
            losses += [float(made.train_step(ROWS, LABELS, optimizer)) for _ in range(3)]
        return losses

    both(train)


def test_steps_allocate_nothing_once_warm(emulated: Any) -> None:
    made, optimizer = net(), gpubp.Adam()
    x, y = (made._network.backend.asarray(a, a.dtype) for a in (ROWS, LABELS))
    network, cost = made._network, made._network.backend.zeros((), "float32")

    def step() -> None:
        with network.backend.active():
            network.update(x, y, None, optimizer, cost, clip_norm=1.0)

    for _ in range(3):
        step()
    gc.collect()
    before = emulated.allocations
    for _ in range(5):
        step()
    assert emulated.allocations == before


def test_a_step_is_one_launch_beside_what_brings_its_arguments(emulated: Any) -> None:
    made, optimizer = net(), gpubp.SGD(0.1)
    x, y = (made._network.backend.asarray(a, a.dtype) for a in (ROWS, LABELS))
    for _ in range(3):
        made.train_step(x, y, optimizer)
    graph = next(iter(made._network._buffers._batches.values())).plays
    (captured,) = graph.values()
    inside = [kind for _, kind, _ in captured._graph.parts].count("work")
    emulated.launched.clear()
    made.train_step(x, y, optimizer)
    outside = sum(emulated.launched.values()) - inside
    assert emulated.launched["graph"] == 1
    assert emulated.launched["gpubp_numbers"] == 0  # the rate is the last step's
    # Nothing is left of plain gradient descent but the biases': the weights' is in the products that are gradients.
    assert emulated.launched["gpubp_sgd"] == 1
    assert outside == 1 + 3  # the graph; x, the labels and the loss


def test_large_steps_are_not_captured(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubp.backends.cupy.LARGEST", ROWS.nbytes)
    made, optimizer = net(), gpubp.SGD(0.1)
    for _ in range(3):
        made.train_step(ROWS, LABELS, optimizer)
    assert list(made._network.batch(70, True).plays.values()) == [None]


def test_what_cannot_be_captured_is_said_once_and_computed(machine: Any) -> None:
    @gpubp.elementwise("z, b -> y")
    def graphs_bent(xp: Any, z: Any, b: Any, y: Any) -> None:
        xp.add(z, b, out=y)
        xp.sin(y, out=y)

    @gpubp.elementwise("dy, y -> dz")
    def graphs_bent_delta(xp: Any, dy: Any, y: Any, dz: Any) -> None:
        xp.multiply(dy, xp.sqrt(1 - y * y), out=dz)

    class GraphsBent(gpubp.Activation):
        forward, delta, saves = graphs_bent, graphs_bent_delta, "y"

    try:
        made, optimizer = net(activation=GraphsBent()), gpubp.SGD(0.1)
        with pytest.warns(UserWarning, match="steps are not captured: kernel 'graphs_bent' runs its NumPy body"):
            losses = [float(made.train_step(ROWS, LABELS, optimizer))]
        losses += [float(made.train_step(ROWS, LABELS, optimizer)) for _ in range(3)]
        assert losses == sorted(losses, reverse=True)
        assert machine is None or not machine.launched["graph"]
    finally:
        for name in ("graphs_bent", "graphs_bent_delta"):
            del gpubp.kernel.KERNELS[name]
        del gpubp.Activation.members["graphs_bent"]


def test_a_graph_keeps_the_memory_that_it_uses(emulated: Any) -> None:
    """Room for partial sums that became too small for others."""
    backend = gpubp.get_backend("cuda")
    a, large = backend.zeros((300, 3), "float32"), backend.zeros((3000, 3), "float32")
    a[...] = 1
    sums, others = backend.empty((3,), "float32"), backend.empty((3,), "float32")
    play = backend.capture(lambda: backend.column_sum(a, sums))
    assert play is not None
    for _ in range(2):
        play()
    backend.column_sum(large, others)
    gc.collect()
    sums[...] = 0
    play()  # EmulationError where the graph's memory is gone
    assert backend.to_numpy(sums).tolist() == [300.0] * 3


def test_sums_in_several_parts_at_the_same_time(machine: Any) -> None:
    """The output's bias gradient beside all else, whose sums have scratch memory too."""

    def train(made: gpubp.MLP) -> list[float]:
        optimizer = gpubp.Adam()
        return [float(made.train_step(*many(20), optimizer)) for _ in range(3)]

    both(train)


def test_streams_of_the_user(emulated: Any) -> None:
    cupy = __import__("cupy")
    made, optimizer, other = net(), gpubp.Adam(), net(False)
    usual = gpubp.Adam()
    for _ in range(4):
        with cupy.cuda.Stream(non_blocking=True):
            got = made.train_step(ROWS, LABELS, optimizer)
            assert float(got) == float(other.train_step(ROWS, LABELS, usual))
    assert bits(made) == bits(other)


@pytest.mark.parametrize(("value", "reason"), [("auto", graphs.UNASKED), ("0", "GPUBP_GRAPHS=0"), ("1", None)])
def test_the_variable_that_turns_them_on(value: str, reason: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUBP_GRAPHS", value)
    found = graphs.why_not_captured()
    assert (found is None) if reason is None else (found is not None and reason in found)


def test_any_other_value_is_refused(emulated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUBP_GRAPHS", "yes")
    with pytest.raises(gpubp.errors.DataError, match="GPUBP_GRAPHS must be 'auto', '0' or '1', got 'yes'"):
        gpubp.MLP([2, 2], device="cuda")
