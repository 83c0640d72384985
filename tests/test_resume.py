"""Checkpoints: a training that goes on from one gives the bits of a training that was never interrupted."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.callbacks import Callback

EPOCHS = 6
X = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
Y = (X[:, 0] * X[:, 1] > 0).astype(int)
SETTINGS: dict[str, Any] = {
    "plain": {},
    "early stopping": {"early_stopping": 2, "optimizer": "rmsprop"},
    "everything": {
        "optimizer": "adamw",
        "schedule": "cosine",
        "clip_norm": 0.5,
        "class_weight": "balanced",
        "metrics": "accuracy",
        "transform": lambda x, y, generator: (x + generator.normal(0, 0.1, x.shape), y),
    },
    **{name: {"optimizer": name, "weight_decay": 0.01} for name in sorted(gpubp.Optimizer.members)},
}


class Crash(Callback):
    """As a power failure would, in the middle of an epoch or after its checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, net: gpubp.MLP, step: int, cost: Any) -> None:
        if step == self.step:
            raise RuntimeError("crash")


def network(hidden: int = 8) -> gpubp.MLP:
    return gpubp.MLP([4, hidden, 2], "tanh", dropout=0.3, seed=5, device="cpu")


def train(net: gpubp.MLP, *callbacks: Any, epochs: int = EPOCHS, **settings: Any) -> gpubp.History:
    common: dict[str, Any] = {"batch_size": 16, "validation": 0.2, "verbose": 0}
    return net.fit(X, Y, epochs=epochs, callbacks=callbacks, **common, **settings)


def bits(net: gpubp.MLP) -> bytes:
    weights, biases = net.get_parameters()
    return b"".join(array.tobytes() for array in [*weights, *biases])


def without_times(history: gpubp.History) -> list[dict[str, Any]]:
    timed = ("seconds", "samples_per_second")
    return [{name: value for name, value in record.items() if name not in timed} for record in history]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_resumed_is_the_same(settings: dict[str, Any], tmp_path: Path) -> None:
    whole = network()
    expected = train(whole, **settings)
    path = tmp_path / "run.safetensors"
    for step in (2, 11, 23, None):  # five steps an epoch; killed three times, in the first epoch too
        net = network()
        checkpoint = gpubp.Checkpoint(path, resume=True)
        if step is None or step > 5 * len(expected):
            history = train(net, checkpoint, **settings)
        else:
            with pytest.raises(RuntimeError, match="crash"):
                train(net, checkpoint, Crash(step), **settings)
    assert bits(net) == bits(whole)
    assert without_times(history) == without_times(expected)
    assert (history.stopped, history.best_epoch) == (expected.stopped, expected.best_epoch)


def test_the_patience_that_is_left_is_remembered(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"early_stopping": 3, "learning_rate": 0.1, "epochs": 60}
    expected = train(network(), **settings)
    assert expected.stopped == "early stopping"
    checkpoint = gpubp.Checkpoint(tmp_path / "run.safetensors")
    with pytest.raises(RuntimeError, match="crash"):
        train(network(), checkpoint, Crash(5 * len(expected) - 2), **settings)
    history = train(network(), gpubp.Checkpoint(checkpoint.path, resume=True), **settings)
    assert (len(history), history.best_epoch) == (len(expected), expected.best_epoch)


def test_a_finished_training_is_resumed_as_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    first, second = network(), network()
    one = train(first, gpubp.Checkpoint(path), early_stopping=1, epochs=40, learning_rate=0.1)
    two = train(second, gpubp.Checkpoint(path, resume=True), early_stopping=1, epochs=40, learning_rate=0.1)
    assert one.stopped == two.stopped == "early stopping"
    assert one.records == two.records
    assert bits(first) == bits(second)


def test_more_epochs(tmp_path: Path) -> None:
    path, whole, net = tmp_path / "run.safetensors", network(), network()
    train(whole, epochs=6)
    train(network(), gpubp.Checkpoint(path), epochs=4)
    history = train(net, gpubp.Checkpoint(path, resume=True), epochs=6)
    assert history["epoch"] == [1, 2, 3, 4, 5, 6]
    assert bits(net) == bits(whole)  # without a schedule the number of epochs changes nothing before they end


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_ctrl_c_undoes_the_unfinished_epoch(tmp_path: Path) -> None:
    class Press(Callback):
        def on_step_end(self, net: gpubp.MLP, step: int, cost: Any) -> None:
            if step == 13:
                os.kill(os.getpid(), signal.SIGINT)

    path, net, whole = tmp_path / "run.safetensors", network(), network()
    history = train(net, gpubp.Checkpoint(path), Press())
    assert (history["epoch"], history.stopped) == ([1, 2], "interrupted")
    assert gpubp.Checkpoint(path, resume=True).history.records == history.records
    train(whole, epochs=2)
    assert bits(net) == bits(whole)


def test_one_object_serves_two_trainings(tmp_path: Path) -> None:
    checkpoint = gpubp.Checkpoint(tmp_path / "run.safetensors")
    for epochs in (3, 2):
        assert train(network(), checkpoint, epochs=epochs)["epoch"] == list(range(1, epochs + 1))
    assert gpubp.Checkpoint(checkpoint.path, resume=True).history["epoch"] == [1, 2]


def test_without_resume_the_file_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    train(network(), gpubp.Checkpoint(path), epochs=2)
    assert train(network(), gpubp.Checkpoint(path), epochs=1)["epoch"] == [1]
    assert [file.name for file in tmp_path.iterdir()] == ["run.safetensors"]  # no temporary file is left


@pytest.mark.parametrize("other", [{"hidden": 9}, {"optimizer": "sgd"}], ids=str)
def test_another_training_is_refused(other: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    train(network(), gpubp.Checkpoint(path), epochs=1, optimizer="adam")
    net = network(other.pop("hidden", 8))
    with pytest.raises(gpubp.ModelFileError, match="another network or optimizer"):
        train(net, gpubp.Checkpoint(path, resume=True), **{"optimizer": "adam", **other})


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    network().save(path)
    with pytest.raises(gpubp.ModelFileError, match="cannot resume from"):
        gpubp.Checkpoint(path, resume=True)
    train(network(), gpubp.Checkpoint(path), epochs=1)
    content = path.read_bytes()
    for damaged in (content[:-1], content[:20], b"", content.replace(b'"format', b'"fromat', 1)):
        path.write_bytes(damaged)
        with pytest.raises(gpubp.ModelFileError):
            train(network(), gpubp.Checkpoint(path, resume=True))


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.safetensors"
    train(network(), gpubp.Checkpoint(path), epochs=1)
    content = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(gpubp.GpubpError, match="No space left"):
        train(network(), gpubp.Checkpoint(path, resume=True))
    assert path.read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 1
