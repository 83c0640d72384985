"""fit: batches in their order and to the last row, weights, validation, early stopping, schedules and callbacks."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.data.datasets import load_dataset

RNG = np.random.default_rng(21)
X, Y = RNG.normal(size=(7, 3)), np.array([0, 1, 2, 0, 1, 2, 0])
MANY_X = RNG.normal(size=(60, 3))
MANY_Y = (MANY_X[:, 0] > 0).astype(int) + (MANY_X[:, 1] > 0.8)


def network(seed: int = 5, **settings: Any) -> gpubp.MLP:
    return gpubp.MLP([3, 5, 3], "tanh", **{"dtype": "float64", "device": "cpu", "seed": seed, **settings})


def fit(net: gpubp.MLP, x: Any = X, y: Any = Y, **settings: Any) -> gpubp.History:
    return net.fit(x, y, **{"epochs": 1, "batch_size": 3, "optimizer": "sgd", "verbose": 0, **settings})


def order(epoch: int, rows: int = 7, seed: int = 5) -> Any:
    """How the rows of an epoch are shuffled: a function of seed and epoch alone."""
    return np.random.default_rng([seed, 1, epoch]).permutation(rows)


def cut(rows: Any, size: int) -> list[Any]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def same(net: gpubp.MLP, other: gpubp.MLP, exactly: bool = True) -> None:
    for one, two in zip([*net.weights, *net.biases], [*other.weights, *other.biases], strict=True):
        np.testing.assert_allclose(one, two, rtol=0 if exactly else 1e-10, atol=0 if exactly else 1e-13)


def flat(net: gpubp.MLP) -> Any:
    return np.concatenate([view.ravel() for view in [*net.weights, *net.biases]])


def test_learns_the_digits() -> None:
    data = load_dataset("digits")
    x_train, x_test, y_train, y_test = gpubp.train_test_split(data.x, data.y)
    net = gpubp.MLP([64, 64, 10], "relu", device="cpu", seed=0)
    history = net.fit(x_train, y_train, epochs=30, batch_size=32, verbose=0)
    assert net.evaluate(x_test, y_test)["accuracy"] > 0.96
    assert history["loss"][-1] < 0.1 * history["loss"][0]


@pytest.mark.parametrize("size", [1, 3, 7, 100, "full"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_by_hand(size: int | str, shuffle: bool) -> None:
    net, twin, optimizer = network(), network(), gpubp.SGD(0.1, momentum=0.9)
    history = fit(net, epochs=3, batch_size=size, optimizer=gpubp.SGD(0.1, momentum=0.9), shuffle=shuffle)
    rows = 7 if size == "full" else int(size)
    for epoch in range(3):
        losses = []
        # One batch of all rows is not shuffled: that would change nothing but rounding.
        for batch in cut(order(epoch) if shuffle and rows < 7 else np.arange(7), rows):
            losses.append((float(twin.train_step(X[batch], Y[batch], optimizer)), len(batch)))
        expected = sum(loss * count for loss, count in losses) / 7
        assert history["loss"][epoch] == pytest.approx(expected, rel=1e-14)
    same(net, twin)


def test_a_second_fit_goes_on_with_the_next_shuffle() -> None:
    net, twin, optimizer = network(), network(), gpubp.Adam(0.01)
    for _ in range(2):
        fit(net, optimizer=optimizer)
    fit(twin, epochs=2, optimizer=gpubp.Adam(0.01))
    same(net, twin)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_of_an_epoch_with_weights(reduction: str) -> None:
    weights = np.array([0.5, 2, 0, 1, 3, 0, 0.25])
    net = network(loss=gpubp.CrossEntropy(reduction=reduction))
    twin, optimizer, losses = net.copy(), gpubp.SGD(0.1), []
    history = fit(net, learning_rate=0.1, sample_weight=weights, shuffle=False)
    for batch in cut(np.arange(7), 3):
        losses.append(float(twin.train_step(X[batch], Y[batch], optimizer, weights[batch])))
    shares = [weights[batch].sum() / weights.sum() for batch in cut(np.arange(7), 3)]
    assert history["loss"] == [pytest.approx(sum(losses) if reduction == "sum" else np.dot(losses, shares))]
    same(net, twin)


def test_a_batch_without_weight_moves_nothing() -> None:
    net = network()
    before = net.copy()
    assert fit(net, sample_weight=np.zeros(7))["loss"] == [0.0]
    same(net, before)


@pytest.mark.parametrize("way", ["sample_weight", "class_weight", "balanced", "both"])
def test_weights_stand_for_copies_of_rows(way: str) -> None:
    y = np.array([0, 0, 0, 0, 1, 1, 2])
    settings: dict[str, Any] = {
        "sample_weight": {"sample_weight": [1, 2, 1, 3, 2, 1, 4]},
        "class_weight": {"class_weight": {0: 2, 2: 3}},
        "balanced": {"class_weight": "balanced"},
        "both": {"class_weight": {1: 3}, "sample_weight": [1, 2, 1, 1, 2, 1, 1]},
    }[way]
    times = {
        "sample_weight": [1, 2, 1, 3, 2, 1, 4],
        "class_weight": [2, 2, 2, 2, 1, 1, 3],
        "balanced": [1, 1, 1, 1, 2, 2, 4],
        "both": [1, 2, 1, 1, 6, 3, 1],
    }[way]
    net, twin = network(), network()
    history = fit(net, X, y, epochs=4, batch_size="full", learning_rate=0.5, **settings)
    copies = np.repeat(np.arange(7), times)
    repeated = fit(twin, X[copies], y[copies], epochs=4, batch_size="full", learning_rate=0.5)
    same(net, twin, exactly=False)
    np.testing.assert_allclose(history["loss"], repeated["loss"], rtol=1e-12)


@pytest.mark.parametrize("kind", ["list", "own iterable", "tuples with weights"])
def test_an_iterable_of_batches(kind: str) -> None:
    class Batches:
        def __iter__(self) -> Iterator[Any]:
            return ((X[batch], Y[batch]) for batch in cut(np.arange(7), 3))

    listed = list(Batches())
    source: dict[str, Any] = {"list": listed, "own iterable": Batches()}
    source["tuples with weights"] = [(x, y, [1] * len(x)) for x, y in listed]
    net, twin = network(), network()
    history = fit(net, source[kind], None, epochs=3, optimizer=gpubp.Adam(0.1), validation=(X, Y))
    expected = fit(twin, epochs=3, shuffle=False, optimizer=gpubp.Adam(0.1), validation=(X, Y))
    same(net, twin, exactly=kind != "tuples with weights")
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-12)
    np.testing.assert_allclose(history["validation_loss"], expected["validation_loss"], rtol=1e-12)


def test_a_generator_serves_one_epoch() -> None:
    net, twin = network(), network()
    fit(net, ((X[batch], Y[batch]) for batch in cut(np.arange(7), 3)), None)
    fit(twin, shuffle=False)
    same(net, twin)


def test_validation_by_fraction() -> None:
    seen: list[Any] = []
    settings: dict[str, Any] = {"batch_size": 60, "transform": lambda x: seen.append(x.copy()) or x}
    net = network()
    history = fit(net, MANY_X, MANY_Y, validation=0.25, **settings)
    held_out = [row for row in range(60) if not (MANY_X[row] == seen[0]).all(axis=1).any()]
    assert len(held_out) == 15
    assert len(seen[0]) == 45
    share = np.bincount(MANY_Y[held_out], minlength=3) - np.bincount(MANY_Y, minlength=3) / 4
    assert np.abs(share).max() < 1, "stratified"
    assert history["validation_loss"] == [pytest.approx(net.evaluate(MANY_X[held_out], MANY_Y[held_out])["loss"])]
    for seed, again in ((5, True), (6, False)):
        seen.clear()
        fit(network(seed), MANY_X, MANY_Y, validation=0.25, **settings)
        rest = [row for row in range(60) if not (MANY_X[row] == seen[0]).all(axis=1).any()]
        assert (rest == held_out) is again


@pytest.mark.parametrize("weighted", [False, True])
def test_validation_by_arrays(weighted: bool) -> None:
    weights = RNG.uniform(0, 2, 60)
    net = network(dropout=0.5)
    validation = (MANY_X, MANY_Y, weights) if weighted else (MANY_X, MANY_Y)
    history = fit(net, validation=validation, metrics="accuracy")
    scores = net.evaluate(*validation)
    assert history["validation_loss"] == [pytest.approx(scores["loss"])]
    assert history["validation_accuracy"] == [pytest.approx(scores["accuracy"])]


def overfitting(early_stopping: Any, **settings: Any) -> tuple[gpubp.MLP, gpubp.History, list[Any]]:
    """A training whose validation loss soon rises; with the parameters after each epoch."""
    net, kept = network(), []
    history = fit(
        net,
        epochs=60,
        learning_rate=1.0,
        validation=(MANY_X[:10], 2 - MANY_Y[:10]),
        early_stopping=early_stopping,
        callbacks=lambda net, record: kept.append(flat(net)),
        **settings,
    )
    return net, history, kept


@pytest.mark.parametrize("patience", [1, 4])
def test_early_stopping(patience: int) -> None:
    net, history, kept = overfitting(patience)
    best = int(np.argmin(history["validation_loss"]))
    assert history.stopped == "early stopping"
    assert history.best_epoch == best + 1
    assert len(history) == best + 1 + patience < 60
    np.testing.assert_array_equal(flat(net), kept[best])
    assert not np.array_equal(flat(net), kept[-1])


def test_early_stopping_keeps_the_last_weights_where_asked() -> None:
    net, history, kept = overfitting(gpubp.EarlyStopping(3, restore_best=False))
    assert history.best_epoch < len(history)
    np.testing.assert_array_equal(flat(net), kept[-1])


def test_early_stopping_monitors_what_it_is_told() -> None:
    net, history, kept = overfitting(gpubp.EarlyStopping(3, monitor="accuracy"), metrics="accuracy")
    best = int(np.argmax(history["accuracy"]))
    assert (history.best_epoch, len(history)) == (best + 1, best + 4)
    np.testing.assert_array_equal(flat(net), kept[best])


def test_early_stopping_wants_more_than_min_delta() -> None:
    _, history, _ = overfitting(gpubp.EarlyStopping(2, monitor="loss", min_delta=1e6))
    assert (history.best_epoch, len(history)) == (1, 3)


def test_early_stopping_restores_the_best_at_the_end_too() -> None:
    net, history, kept = overfitting(60)
    assert (history.stopped, len(history)) == ("finished", 60)
    np.testing.assert_array_equal(flat(net), kept[history.best_epoch - 1])


@pytest.mark.parametrize("schedule", [*gpubp.Schedule.members, gpubp.schedules.Cosine(0.5, 0.1)], ids=str)
def test_schedules(schedule: Any) -> None:
    net, twin, optimizer = network(), network(), gpubp.SGD(0.2)
    history = fit(net, epochs=3, learning_rate=0.2, schedule=schedule, shuffle=False)
    factor = gpubp.Schedule.resolve(schedule).factor
    for step in range(9):
        optimizer.learning_rate = 0.2 * factor(step, 9)
        batch = cut(np.arange(7), 3)[step % 3]
        twin.train_step(X[batch], Y[batch], optimizer)
    same(net, twin)
    np.testing.assert_allclose(history["learning_rate"], [0.2 * factor(step, 9) for step in (2, 5, 8)])


def test_a_function_as_schedule() -> None:
    net, asked = network(), []
    before = net.copy()
    history = fit(net, epochs=2, schedule=lambda step: asked.append(step) or 0.0)
    same(net, before)
    assert history["learning_rate"] == [0.0, 0.0]
    assert set(asked) == set(range(6))
    batches = ((X, Y) for _ in range(3))
    history = fit(net, batches, None, learning_rate=0.5, schedule=lambda step: 1 / (step + 1))
    assert history["learning_rate"] == [0.5 / 3]


def test_clip_norm() -> None:
    for limit in (0.01, 1e6):
        net, twin = network(), network()
        fit(net, batch_size="full", learning_rate=1.0, clip_norm=limit)
        result = twin.backprop(X, Y)
        norm = np.sqrt(sum((g**2).sum() for g in [*result.weight_grads, *result.bias_grads]))
        factor = min(1, limit / norm)
        twin.apply_gradients(
            [factor * g for g in result.weight_grads], [factor * g for g in result.bias_grads], gpubp.SGD(1.0)
        )
        same(net, twin, exactly=False)
        assert np.linalg.norm(flat(net) - flat(network())) == pytest.approx(min(limit, norm))


def test_weight_decay_leaves_biases() -> None:
    net = network()
    net.biases[0][...] = 1
    weights, biases = net.get_parameters()
    fit(net, batch_size="full", sample_weight=np.zeros(7), learning_rate=0.5, weight_decay=0.1)
    np.testing.assert_allclose(net.weights[0], 0.95 * weights[0], rtol=1e-14)
    np.testing.assert_array_equal(net.biases[0], biases[0])


def test_an_object_keeps_its_state_and_a_name_starts_fresh() -> None:
    kept, fresh, twice, optimizer = network(), network(), network(), gpubp.Adam()
    for _ in range(2):
        fit(kept, optimizer=optimizer)
        fit(fresh, optimizer="adam")
        fit(twice, optimizer=gpubp.Adam())
    assert optimizer.steps == 6
    same(fresh, twice)
    assert not np.array_equal(flat(kept), flat(fresh))


@pytest.mark.parametrize("arguments", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_transform(arguments: int, shuffle: bool) -> None:
    x, y, draws = X.copy(), Y.copy(), []

    def one(x: Any) -> Any:
        x *= 2  # in place: the array of the user must not notice
        return x

    def two(x: Any, y: Any) -> Any:
        y[...] = 2 - y
        return one(x), y

    def three(x: Any, y: Any, generator: np.random.Generator, unused: int = 0) -> Any:
        draws.append(generator.normal())
        x += draws[-1]
        return x, y

    nets = [network(), network()]
    for net in nets:
        fit(net, x, y, epochs=2, transform=[one, two, three][arguments - 1], shuffle=shuffle)
    same(*nets)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)
    if arguments < 3:
        twin = network()
        fit(twin, 2 * X, Y if arguments == 1 else 2 - Y, epochs=2, shuffle=shuffle)
        same(nets[0], twin)
    else:
        assert draws[:6] == draws[6:]
        assert len(set(draws)) == 6


def test_callbacks_in_order() -> None:
    calls: list[Any] = []

    class Recorder(gpubp.Callback):
        def on_fit_begin(self, net: gpubp.MLP) -> None:
            calls.append("begin")

        def on_step_end(self, net: gpubp.MLP, step: int, cost: Any) -> None:
            calls.append((step, float(cost) > 0))

        def on_epoch_end(self, net: gpubp.MLP, record: dict[str, Any]) -> bool | None:
            calls.append(record["epoch"])
            return None

        def on_fit_end(self, net: gpubp.MLP, history: gpubp.History) -> None:
            calls.append(history.stopped)

    fit(network(), epochs=2, callbacks=[Recorder(), lambda net, record: calls.append("function")])
    steps = [(number, True) for number in range(1, 7)]
    assert calls == ["begin", *steps[:3], 1, "function", *steps[3:], 2, "function", "finished"]


@pytest.mark.parametrize("wish", [True, np.True_])
def test_a_callback_stops(wish: Any) -> None:
    history = fit(network(), epochs=9, callbacks=lambda net, record: wish if record["epoch"] == 2 else None)
    assert (len(history), history.stopped) == (2, "callback")
    assert fit(network(), epochs=3, callbacks=[lambda net, record: 1, lambda net, record: False]).stopped == "finished"


def test_metrics() -> None:
    def first_right(targets: Any, outputs: Any) -> float:
        return float(outputs[0].argmax() == targets[0])

    net = network(dropout=0.5)
    history = fit(net, metrics=["accuracy", first_right], validation=(X, Y))
    accuracy, first = net.evaluate(X, Y)["accuracy"], float(net.predict(X)[0] == Y[0])
    for prefix in ("", "validation_"):
        assert history[prefix + "accuracy"] == [pytest.approx(accuracy)]
        assert history[prefix + "first_right"] == [first]
    linear = gpubp.MLP([3, 4, 1], output="identity", device="cpu", seed=0)
    record = fit(linear, X, X[:, 0], metrics=("rmse", "mae", "r2")).records[0]
    scores = linear.evaluate(X, X[:, 0])
    for name in ("rmse", "mae", "r2"):
        assert record[name] == pytest.approx(scores[name])


def test_masked_weights_stay_zero() -> None:
    mask = RNG.integers(0, 2, (3, 5))
    net = network(masks=[mask, None])
    fit(net, epochs=3, optimizer=gpubp.Adam(0.1, weight_decay=0.1), clip_norm=1.0)
    assert not np.any(net.weights[0][mask == 0])
    assert np.all(net.weights[0][mask == 1])
