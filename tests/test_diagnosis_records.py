"""Watching a training: what is recorded and drawn, and that it only looks on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from watched import DEEP, WATCHED, digits, watched

import gpubp

# -- what is recorded --------------------------------------------------------------------------------------------------


def test_a_record() -> None:
    x, y = digits()
    net = gpubp.MLP([64, 32, 10], "tanh", dtype="float64", device="cpu", seed=0)
    watch = gpubp.Diagnosis(x[:WATCHED], y[:WATCHED])
    before = net.copy()
    history = net.fit(x, y, epochs=1, callbacks=[watch], verbose=0)
    pass_ = net.backprop(x[:WATCHED], y[:WATCHED])
    first, last = watch.records
    assert (first["epoch"], first["training_loss"], first["update"]) == (0, None, [])
    assert (last["epoch"], last["training_loss"], last["loss"]) == (1, history["loss"][0], pass_.loss)
    assert last["learning_rate"] == 0.001
    deltas = [np.sqrt((WATCHED * delta**2).sum()) for delta in pass_.deltas]  # ∂ℓ/∂z is WATCHED · ∂C/∂z
    assert last["delta"] == pytest.approx(deltas)
    assert last["gradient"] == pytest.approx([np.linalg.norm(gradient) for gradient in pass_.weight_grads])
    norm = np.linalg.norm
    assert last["weight"] == pytest.approx([norm(weight) for weight in net.weights])
    moved = [norm(a - b) / norm(b) for a, b in zip(net.weights, before.weights, strict=True)]
    assert last["update"] == pytest.approx(moved)
    assert watch.layers == [
        {"activation": "tanh", "inputs": 64, "units": 32},
        {"activation": "softmax", "inputs": 32, "units": 10},
    ]
    assert watch.input_scale == pytest.approx(np.sqrt((x[:WATCHED] ** 2).mean()))
    shares = np.bincount(y[:WATCHED]) / WATCHED
    assert watch.baseline == pytest.approx(-(shares * np.log(shares)).sum())


def test_dead_and_saturated_units_are_counted() -> None:
    hidden = ["relu", "tanh", "gelu"]
    net = gpubp.MLP([1, 4, 4, 2, 1], hidden, output="sigmoid", loss="squared_error", device="cpu", seed=0)
    watch = gpubp.Diagnosis([[1.0], [2.0]], [0.0, 1.0])
    weights, biases = net.get_parameters()
    weights[0][:], biases[0][:] = [[1, -1, 0, -1]], [0, 0, -1, 1.5]  # fires, never, never, on the first row alone
    weights[1][:], biases[1][:] = 0, [0, 2, 3, -3]  # tanh 2 = 0.964 and tanh 3 = 0.995
    weights[2][:], biases[2][:] = 0, [-20, 20]  # the slope of gelu is 0 at −20, where its value is −0
    weights[3][:], biases[3][:] = 0, [9]
    net.set_parameters(weights, biases)
    net.fit([[1.0]], [0.0], epochs=1, learning_rate=1e-30, callbacks=[watch], verbose=0)
    assert watch.records[0]["dead"] == [0.5, None, 0.5, None]
    assert watch.records[0]["saturated"] == [None, 0.5, None, 1.0]


def test_an_output_that_saturation_does_not_slow_has_none() -> None:
    """Under binary cross entropy its delta is y − t: it is sure of what it says, that is all."""
    for loss, saturated in (("binary_cross_entropy", None), ("squared_error", 1.0)):
        net = gpubp.MLP([1, 1], output="sigmoid", loss=loss, device="cpu")
        net.set_parameters([[[20.0]]])
        watch = gpubp.Diagnosis([[1.0]], [1.0])
        net.fit([[1.0]], [1.0], epochs=1, callbacks=[watch], verbose=0)
        assert watch.records[0]["saturated"] == [saturated]


def test_a_training_begins_new_records(tmp_path: Path) -> None:
    x, y = digits()
    watch = gpubp.Diagnosis(x[:WATCHED], y[:WATCHED])
    for epochs in (3, 5):
        net = gpubp.MLP([64, 8, 10], device="cpu", seed=0)
        checkpoint = gpubp.Checkpoint(tmp_path / "run.safetensors", resume=True)
        net.fit(x, y, epochs=epochs, callbacks=[checkpoint, watch], verbose=0)
    assert [record["epoch"] for record in watch.records] == [3, 4, 5]


def test_what_is_not_finite_is_null() -> None:
    watch = watched(sizes=[64, 10], output="identity", data=(digits()[0], np.eye(10)[digits()[1]]), scale=1e25)
    first = json.loads(watch.to_json(), parse_constant=lambda constant: pytest.fail(constant))["records"][0]
    assert (first["loss"], first["gradient"]) == (None, [None])
    watch.findings()


def test_weights_that_were_zero_have_changed() -> None:
    watch = watched(sizes=[64, 10], init="zeros", epochs=1)
    assert watch.records[1]["update"] == [None]
    assert watch.findings() == []


def test_nothing_watched() -> None:
    watch = gpubp.Diagnosis([[1.0]], [1.0])
    assert watch.findings() == []
    assert "fit(..., callbacks=[watch])" in str(watch)


def test_a_sample_that_does_not_fit_is_refused_before_the_training() -> None:
    x, y = digits()
    net = gpubp.MLP([64, 10], device="cpu", seed=0)
    before = net.get_parameters()[0][0]
    with pytest.raises(gpubp.ShapeError, match="x has shape"):
        net.fit(x, y, callbacks=[gpubp.Diagnosis(x[:5, :3], y[:5])], verbose=0)
    assert np.array_equal(net.weights[0], before)


# -- it only looks on --------------------------------------------------------------------------------------------------


def trained(device: str, watch: gpubp.Diagnosis | None) -> gpubp.MLP:
    x, y = digits()
    net = gpubp.MLP([64, 12, 10], "relu", dropout=0.3, device=device, seed=0)
    optimizer, callbacks = gpubp.Adam(0.01, weight_decay=1e-3), [watch] if watch else []
    for _ in range(2):
        net.fit(
            x[:64], y[:64], epochs=2, batch_size=20, optimizer=optimizer, clip_norm=1.0, callbacks=callbacks, verbose=0
        )
    return net


def test_the_training_keeps_every_bit() -> None:
    x, y = digits()
    state = np.random.get_state()[1].tolist()
    looked_at, alone = trained("cpu", gpubp.Diagnosis(x[:50], y[:50])), trained("cpu", None)
    assert looked_at.__reduce__()[1][0] == alone.__reduce__()[1][0]  # seed, steps, epochs
    for a, b in zip([*looked_at.weights, *looked_at.biases], [*alone.weights, *alone.biases], strict=True):
        assert np.array_equal(a, b)
    assert np.random.get_state()[1].tolist() == state


def test_on_a_gpu(cuda: str) -> None:
    x, y = digits()
    here, there = gpubp.Diagnosis(x[:50], y[:50]), gpubp.Diagnosis(x[:50], y[:50])
    gpu = trained(cuda, there)
    trained("cpu", here)
    assert np.array_equal(gpu.get_parameters()[0][0], trained(cuda, None).get_parameters()[0][0])
    assert not there.diverged
    for a, b in zip(here.records, there.records, strict=True):
        for name in ("loss", "delta", "gradient", "weight", "update"):
            assert b[name] == pytest.approx(a[name], rel=1e-3)
        assert b["dead"] == a["dead"]


# -- the picture -------------------------------------------------------------------------------------------------------


def test_the_picture(tmp_path: Path) -> None:
    watch = watched(sizes=DEEP, activation="sigmoid", optimizer="sgd", epochs=3)
    watch.plot(tmp_path / "sick.png")
    assert (tmp_path / "sick.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(gpubp.DataError, match=r"must end in \.png or \.svg"):
        watch.plot(tmp_path / "sick.jpg")


@pytest.mark.parametrize(
    ("built", "red"),
    [
        (dict(sizes=DEEP, activation="sigmoid", optimizer="sgd"), {"deltas ‖∂ℓ/∂z‖", "deltas, layer by layer"}),
        (dict(activation="tanh", learning_rate=3.0), {"loss", "updates ‖ΔW‖ / ‖W‖ of each epoch", "saturated units"}),
        (dict(optimizer="sgd", learning_rate=1e30), {"loss"}),
        (dict(init="zeros"), {"dead units"}),
        (dict(epochs=1), set()),
        (dict(sizes=[64, 10]), set()),
        (dict(sizes=[64, *[16] * 19, 10], epochs=2), set()),
    ],
    ids=["vanishing", "large steps", "diverged at once", "dead", "one epoch", "one layer", "many layers"],
)
def test_the_titles_of_the_panels_that_show_what_is_wrong_are_red(built: dict[str, Any], red: set[str]) -> None:
    from gpubp.explain.diagnosis_plot import SICK, draw

    watch = watched(**{"epochs": 4, **built})
    figure = draw(watch)
    titles = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert {title for title, axes in titles.items() if axes._left_title.get_color() == SICK} == red
    assert len(titles) == 6
    headline = figure.get_suptitle().replace("\n", " ")
    assert headline == f"Nothing wrong in {len(watch.records) - 1} epochs" or all(
        finding.seen in headline for finding in watch.findings()
    )


def test_there_is_nothing_to_draw_before_a_training(tmp_path: Path) -> None:
    with pytest.raises(gpubp.DataError, match="nothing to draw yet"):
        gpubp.Diagnosis([[1.0]], [[1.0]]).plot(tmp_path / "early.png")


def test_a_training_that_came_to_nothing_is_told_of(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(300, 3)), rng.integers(0, 2, 300)  # of which x says nothing
    net, watch = gpubp.MLP([3, 4, 2], "tanh", device="cpu", seed=0), gpubp.Diagnosis(x, y)
    net.fit(x, y, epochs=20, learning_rate=0.01, callbacks=[watch], verbose=0)
    assert not watch.findings()
    assert "hardly better than that of always answering the mean" in str(watch)
    known = (x[:, 0] > 0).astype(int)
    net.fit(x, known, epochs=30, learning_rate=0.01, callbacks=[watch := gpubp.Diagnosis(x, known)], verbose=0)
    assert "always answering" not in str(watch)
