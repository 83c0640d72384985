"""`python -m bench.epoch`: what it reads, that an epoch is all rows once, and what it tells."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp
from bench import epoch
from bench.epoch_contenders import BATCH, EPOCHS, HIDDEN, SEED, loss_over, read
from gpubp.benchmark.contenders import BUILDERS, Setting
from gpubp.benchmark.problem import Problem, make_problem

pytestmark = pytest.mark.check


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three classes of bytes that are easily told apart, in two batches and a short one."""
    generator, path = np.random.default_rng(0), tmp_path / "small.npz"
    labels = generator.integers(0, 3, 2 * BATCH + 44)
    x = generator.integers(0, 100, (len(labels), 3, 4)) + 150 * np.eye(3, 4, dtype=int)[labels][:, None, :]
    np.savez(path, x_train=x.astype(np.uint8), y_train=labels.astype(np.uint8))
    return path


def problem_of(x: Any) -> Problem:
    return make_problem((x.shape[1], 16, 8, 3), BATCH, "relu", 0, "adam")


def test_bytes_are_scaled_and_floats_are_not(data: Path, tmp_path: Path) -> None:
    x, labels = read(data)
    assert (x.shape, x.dtype, labels.dtype) == ((300, 12), np.float32, np.int64)
    assert 0.5 < x.max() <= 1
    np.savez(tmp_path / "floats.npz", x_train=255 * x, y_train=labels)
    np.testing.assert_array_equal(read(tmp_path / "floats.npz")[0], 255 * x)


def test_what_cannot_be_read_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, labels = np.zeros((200, 4), np.float32), np.zeros(200, int)
    np.savez(tmp_path / "names.npz", x=x, y=labels)
    np.savez(tmp_path / "rows.npz", x_train=x, y_train=labels[1:])
    np.savez(tmp_path / "few.npz", x_train=x[:9], y_train=labels[:9])
    np.savez(tmp_path / "floats.npz", x_train=x, y_train=labels.astype(float))
    (tmp_path / "text.npz").write_text("none")
    for name, told in (
        ("nowhere.npz", "No such file"),
        ("names.npz", "x_train is not a file"),
        ("text.npz", "cannot be read"),
        ("rows.npz", "y_train (199,)"),
        ("few.npz", "128 rows or more"),
        ("floats.npz", "a class index"),
    ):
        with pytest.raises(SystemExit) as ended:
            epoch.main(["--data", str(tmp_path / name)])
        assert ended.value.code == 2
        assert told in capsys.readouterr().err


def test_the_loss_is_that_of_all_rows(data: Path) -> None:
    x, labels = read(data)
    made = problem_of(x)
    net = gpubp.MLP(made.sizes, "relu", dtype="float64", device="cpu", seed=0)
    net.set_parameters(made.weights, made.biases)
    parameters = made.weights + made.biases
    assert loss_over(made, parameters, x, labels) == pytest.approx(net.evaluate(x, labels)["loss"], abs=1e-6)
    many = np.resize(x, (5000, 12)), np.resize(labels, 5000)
    assert loss_over(made, parameters, *many) == pytest.approx(net.evaluate(*many)["loss"], abs=1e-6)


def trains(name: str, data: Path) -> None:
    """So many epochs bring the loss from log 3 to where gpubp's own fit brings it: each takes every row once."""
    x, labels = read(data)
    made = problem_of(x)
    contender = EPOCHS[name](made, Setting(), x, labels)
    assert contender.parameters is not None
    parameters = contender.parameters
    start = loss_over(made, parameters(), x, labels)
    assert start == pytest.approx(loss_over(made, made.weights + made.biases, x, labels), abs=1e-6)
    within = [contender.step() for _ in range(40)]
    end = loss_over(made, parameters(), x, labels)
    assert start > within[0] > within[-1] > end
    net = gpubp.MLP(made.sizes, "relu", device="cpu", seed=0)
    net.set_parameters(made.weights, made.biases)
    net.fit(x, labels, epochs=40, batch_size=BATCH, optimizer=gpubp.Adam(), verbose=0)
    assert end == pytest.approx(net.evaluate(x, labels)["loss"], rel=0.1)


def test_gpubp_trains(data: Path) -> None:
    trains("gpubp", data)


@pytest.mark.check
@pytest.mark.filterwarnings("ignore")  # theirs are not ours
@pytest.mark.parametrize("name", [name for name in EPOCHS if name != "gpubp"])
def test_a_peer_trains(name: str, data: Path) -> None:
    pytest.importorskip(BUILDERS[name].module)
    trains(name, data)


def test_the_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(data), "--rounds", "3", "--threads", "1", "--against", "", "--json", str(tmp_path / "f")]
    assert epoch.main(arguments) == 0
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if line.startswith("| gpubp |"))
    assert "**1.00**" in row
    assert row.endswith("| net.fit |")
    report = json.loads((tmp_path / "f").read_text())
    first, last = report["losses"]["gpubp"]
    x, labels = read(data)
    made = make_problem((12, *HIDDEN, 3), BATCH, "relu", SEED, "adam")
    assert 0.9 * loss_over(made, made.weights + made.biases, x, labels) > first > last
    assert f"{first:.4f} | {last:.4f}" in row
    assert len(report["rounds_us"]["gpubp"]) == 3
    assert report["left_out"] == {}


def test_who_fails_is_left_out_and_told(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch, "foreign_load", lambda: 0.3)
    report = epoch.measured(data.with_name("gone.npz"), ["gpubp"], 1, 1)
    shown = epoch.told(report)
    assert "Left out: gpubp: --data" in shown
    assert "Others used 30% of this machine" in shown
