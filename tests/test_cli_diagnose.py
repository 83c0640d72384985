"""`gpubp train --diagnose`: what it says, what it leaves behind, and that it changes nothing."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from gpubp.cli import main
from gpubp.cli.session import WATCHED
from gpubp.explain.diagnosis import Diagnosis

DEEP = ("--hidden", "16,16,16,16,16", "--activation", "sigmoid", "--optimizer", "sgd", "--epochs", "1")
FILES = {"diagnosis.json", "diagnosis.png"}
PLOT = Diagnosis.plot


def train(*arguments: object) -> Result:
    command = ["train", *arguments, "-q", "--device", "cpu"]
    return CliRunner().invoke(main, [str(argument) for argument in command], prog_name="gpubp")


def diagnosis(folder: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(Path(folder, "diagnosis.json").read_text())
    return read


@pytest.fixture(autouse=True)
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """Three classes that are easily told apart, in the order of their names, and values that follow a line.

    Pictures are empty files, as drawing them takes longer than all else.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Diagnosis, "plot", lambda self, path: Path(path).touch())
    y = np.repeat(np.arange(3), 200)
    x = rng.normal(size=(600, 4)) + 2 * np.eye(3, 4)[y]
    np.savez("blobs.npz", x=x, y=y)
    np.savez("line.npz", x=x, y=x @ [1.0, -2.0, 3.0, 0.5])


def test_a_healthy_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Diagnosis, "plot", PLOT)
    result = train("blobs.npz", "--epochs", 4, "--hidden", "16,8", "--diagnose", "-o", "out")
    assert result.exit_code == 0, result.output
    assert "\n4 epochs watched on 256 rows: nothing wrong; looked for vanishing and exploding" in result.stdout
    assert result.stdout.endswith("drawn in out/diagnosis.png\n")
    assert Path("out/diagnosis.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert diagnosis("out")["findings"] == []
    assert [record["epoch"] for record in diagnosis("out")["records"]] == list(range(5))


def test_a_sick_training() -> None:
    result = train("blobs.npz", *DEEP, "--diagnose", "-o", "out")
    words = " ".join(result.stdout.split())
    assert "vanishing gradients: the deltas shrink by a factor of" in words
    assert 'try activation="relu" (--activation relu)' in words
    assert all(line == line.rstrip() for line in result.stdout.splitlines())
    found = json.loads(train("blobs.npz", *DEEP, "--diagnose", "--json").stdout)["findings"]
    assert found == diagnosis("out")["findings"]
    assert (found[0]["name"], found[0]["layers"]) == ("vanishing gradients", [0, 1, 2, 3, 4])


def test_without_it_nothing_is_said_or_written() -> None:
    result = train("blobs.npz", *DEEP, "-o", "out")
    assert "watched" not in result.stdout
    assert not FILES & {file.name for file in Path("out").iterdir()}
    assert "findings" not in json.loads(train("blobs.npz", *DEEP, "--json").stdout)


def test_it_changes_nothing() -> None:
    settings = ("blobs.npz", "--epochs", 1, "--hidden", "8", "--dropout", 0.3)
    train(*settings, "-o", "alone")
    train(*settings, "-o", "watched", "--diagnose")
    for file in ("model.safetensors", "checkpoint.safetensors"):
        a, b = (tensors_in(Path(folder, file)) for folder in ("alone", "watched"))
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[name], b[name]) for name in a)


def tensors_in(path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    tensors: dict[str, Any] = load_file(path)
    return tensors


def test_a_training_that_diverges_is_diagnosed_before_its_error() -> None:
    settings = ("blobs.npz", "--optimizer", "sgd", "--lr", "1e30", "-o", "out", "--diagnose")
    result = train(*settings)
    assert result.exit_code == 1
    assert "learning rate too large: the loss was no longer finite in the first epoch" in " ".join(
        result.stdout.split()
    )
    assert "training diverged in epoch 1" in result.stderr
    assert not Path("out").exists()  # nothing was learned, so nothing stays
    result = train(*settings, "--json")
    assert result.exit_code == 1
    assert [finding["name"] for finding in json.loads(result.stdout)["findings"]] == ["learning rate too large"]


def test_a_training_that_diverges_later_keeps_its_diagnosis() -> None:
    slowly = (
        "--hidden",
        "none",
        "--optimizer",
        "sgd",
        "--schedule",
        "constant",
        "--epochs",
        50,
        "--batch-size",
        "full",
    )
    result = train("line.npz", *slowly, "--lr", "1e3", "-o", "out", "--diagnose")
    assert result.exit_code == 1
    epochs = len(Path("out/history.jsonl").read_text().splitlines())
    assert 1 < epochs < 50
    kept = diagnosis("out")
    assert (len(kept["records"]), kept["diverged"]) == (epochs + 1, True)
    assert f"and the loss was no longer finite in epoch {epochs + 1}" in kept["findings"][0]["seen"]
    assert "drawn in out/diagnosis.png" in result.stdout


def test_it_can_be_asked_for_when_a_run_goes_on() -> None:
    train("blobs.npz", "--epochs", 1, "--hidden", 8, "-o", "out")
    result = train("--resume", "out", "--epochs", 3, "--diagnose")
    assert result.exit_code == 0, result.output
    assert "2 epochs watched" in result.stdout
    assert [record["epoch"] for record in diagnosis("out")["records"]] == [1, 2, 3]
    before = Path("out/diagnosis.json").read_bytes()
    assert "watched" not in train("--resume", "out", "--diagnose").stdout  # nothing was trained
    assert train("--resume", "out", "--epochs", 4).exit_code == 0  # nor need it be asked for again
    assert Path("out/diagnosis.json").read_bytes() == before


def test_a_config_file_may_ask_for_it() -> None:
    Path("settings.toml").write_text("diagnose = true\nepochs = 1\nhidden = [4]\n")
    assert "1 epoch watched" in train("blobs.npz", "--config", "settings.toml").stdout


def test_without_matplotlib_the_words_are_still_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    result = train("blobs.npz", *DEEP, "--diagnose", "-o", "out")
    assert result.exit_code == 0, result.output
    assert "vanishing gradients" in result.stdout
    assert result.stdout.endswith("a picture of it needs matplotlib: pip install 'gpubp[plot]'\n")
    assert FILES & {file.name for file in Path("out").iterdir()} == {"diagnosis.json"}


@pytest.mark.parametrize("streamed", [False, True])
def test_the_rows_watched_come_from_all_over_the_training_rows(monkeypatch: pytest.MonkeyPatch, streamed: bool) -> None:
    """The file is sorted by class, so its first rows would all be of one."""
    monkeypatch.setattr("gpubp.data.rows.IN_MEMORY", 0 if streamed else 1 << 30)
    assert train("blobs.npz", "--epochs", 1, "--hidden", 4, "--diagnose", "-o", "out").exit_code == 0
    assert diagnosis("out")["baseline"] == pytest.approx(np.log(3), rel=1e-3)
    assert diagnosis("out")["input_scale"] == pytest.approx(1, rel=0.1)  # prepared as the network takes them
    assert WATCHED == 256


def test_fewer_rows_than_are_watched() -> None:
    np.savez("few.npz", x=np.eye(20), y=np.arange(20) % 2)
    assert "1 epoch watched on 14 rows" in train("few.npz", "--epochs", 1, "--hidden", 4, "--diagnose").stdout


def test_a_folder_with_a_diagnosis_is_not_written_into() -> None:
    Path("out").mkdir()
    Path("out/diagnosis.png").write_bytes(b"mine")
    result = train("blobs.npz", "--epochs", 1, "--diagnose", "-o", "out")
    assert result.exit_code == 1
    assert "holds a file of a run's name already (diagnosis.png)" in result.stderr
