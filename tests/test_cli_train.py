"""`gpubp train` on files: what it leaves behind, settings from a file, and going on with what was interrupted."""

import csv
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import gpubp
from gpubp.cli import main

pytestmark = pytest.mark.usefixtures("undrawn")
ROWS = 60


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="gpubp")


def train(*arguments: object) -> dict[str, Any]:
    result = run("train", *arguments, "-q", "--json", "--device", "cpu")
    assert result.exit_code == 0, result.output
    trained: dict[str, Any] = json.loads(result.stdout)
    return trained


def settings(folder: str) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text())["settings"]
    return kept


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPUBP_COMMAND", raising=False)
    return tmp_path


@pytest.fixture
def table(rng: np.random.Generator) -> Path:
    """Two columns in very different units, a class, and a price that follows from them."""
    near, far = rng.normal(size=ROWS), rng.normal(5e6, 1e5, ROWS)
    with open("table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["near", "far", "kind", "price"])
        for a, b in zip(near, far, strict=True):
            writer.writerow([a, b, "up" if a > 0 else "down", 1000 * a + 7e4])
    return Path("table.csv")


@pytest.fixture
def flowers(table: Path) -> Path:
    """The table with its class alone."""
    with table.open(newline="") as file:
        lines = [line[:3] for line in csv.reader(file)]
    with open("flowers.csv", "w", newline="") as file:
        csv.writer(file).writerows(lines)
    return Path("flowers.csv")


def test_a_table_of_classes(flowers: Path) -> None:
    trained = train(flowers, "--hidden", "32,16", "--epochs", "200", "-o", "out")
    assert trained["accuracy"] >= 0.9
    assert trained["samples"] == 12
    net = gpubp.load("out/model.safetensors")
    assert net.sizes == [2, 32, 16, 2]
    known = net.metadata["preprocessing"]
    assert (known["classes"], known["features"], known["target"]) == (["down", "up"], ["near", "far"], "kind")
    assert known["shift"][1] == pytest.approx(5e6, rel=0.05)


def test_a_regression_is_scored_in_its_own_units(table: Path) -> None:
    with table.open(newline="") as file:
        lines = [[line[0], line[1], line[3]] for line in csv.reader(file)]
    with open("prices.csv", "w", newline="") as file:
        csv.writer(file).writerows(lines)
    result = run("train", "prices.csv", "--epochs", "150", "--dropout", "0", "-q", "-o", "out")
    r2, rmse, mae = map(
        float, re.search(r"test R² (\S+) on 12 rows, RMSE (\S+), MAE (\S+), loss", result.stdout).groups()
    )
    assert r2 > 0.9
    assert 2 < mae <= rmse < 400  # of a spread of 1000; standardised they would be less than 1
    trained = train("--resume", "out")
    assert (trained["r2"], trained["rmse"], trained["mae"]) == pytest.approx((r2, rmse, mae), rel=1e-3)


@pytest.mark.usefixtures("drawn")
def test_the_run_folder(flowers: Path) -> None:
    train(flowers, "--epochs", "3", "-o", "out")
    names = {"model.safetensors", "checkpoint.safetensors", "history.jsonl", "config.json", "loss.png"}
    assert {file.name for file in Path("out").iterdir()} == names
    config = json.loads(Path("out/config.json").read_text())
    assert config["versions"]["gpubp"] == gpubp.__version__
    assert config["device"] == "cpu"
    assert config["data"] == gpubp.load("out/model.safetensors").metadata["data"]
    expected = {"task": "classification", "target": "kind", "batch_size": 16, "lr": 0.001, "dropout": 0.2, "seed": 0}
    assert config["settings"].items() >= expected.items()
    options = {each.name for each in main.get_command(None, "train").params}  # type: ignore[arg-type, union-attr]
    assert set(config["settings"]) == options - {"out", "resume", "diagnose", "config", "as_json", "quiet", "verbose"}
    assert Path("out/loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_what_was_chosen_is_said(table: Path) -> None:
    result = run("train", table, "--epochs", "1", "--target", "kind", "--hidden", "2")
    assert result.exit_code == 0, result.output
    assert "target" not in result.stderr
    result = run("train", table, "--epochs", "1", "--hidden", "2")
    assert result.exit_code == 4
    assert "kind" in result.stderr  # text among the numbers, as the price is taken for the target


def test_the_task_can_be_chosen(flowers: Path, rng: np.random.Generator) -> None:
    result = run("train", flowers, "--task", "regression")
    assert result.exit_code == 4
    assert "kind holds text such as" in result.stderr
    np.savez("levels.npz", x=rng.normal(size=(40, 3)), y=np.arange(40) % 4)
    assert "accuracy" in train("levels.npz", "--epochs", "1")
    assert "rmse" in train("levels.npz", "--epochs", "1", "--task", "regression")
    np.savez("values.npz", x=rng.normal(size=(40, 3)), y=rng.normal(size=40))
    result = run("train", "values.npz", "--task", "classification")
    assert result.exit_code == 4
    assert "use --task regression" in result.stderr


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs"),
    [(43, 16, 667), (1293, 16, 60), (54_000, 128, 60), (10_000_000, 128, 1), (1_000_000, 128, 6), (5000, "full", 2000)],
)
def test_the_default_number_of_epochs(rows: int, batch_size: int | str, epochs: int) -> None:
    """At least 2,000 steps and at most 50,000, or one epoch."""
    from gpubp.cli.session import _epochs

    assert _epochs(rows, batch_size) == epochs


def test_a_part_of_its_own_is_the_test(rng: np.random.Generator) -> None:
    images, labels = rng.integers(0, 255, (50, 4, 4), np.uint8), np.arange(50) % 2
    np.savez("parts.npz", x_train=images, y_train=labels, x_test=images[:7], y_test=labels[:7])
    trained = train("parts.npz", "--epochs", "1", "-o", "out")
    assert trained["samples"] == 7
    data = gpubp.load("out/model.safetensors").metadata["data"]
    assert (data["test"], data["digest"]) == (None, None)
    assert gpubp.load("out/model.safetensors").metadata["preprocessing"]["scale"] == [1 / 255]


def test_a_file_to_validate_on(flowers: Path) -> None:
    lines = flowers.read_text().splitlines()
    Path("other.csv").write_text("\n".join([lines[0], *lines[-20:]]))
    train(flowers, "--epochs", "2", "--val", "other.csv", "-o", "out")
    train(flowers, "--epochs", "2", "--val", "0.3", "-o", "share")
    losses = [
        json.loads(Path(folder, "history.jsonl").read_text().splitlines()[0])["validation_loss"]
        for folder in ("out", "share")
    ]
    assert losses[0] != losses[1]
    lines[-1] = lines[-1].replace("up", "down") if lines[-1].endswith("up") else lines[-1].replace("down", "up")
    Path("other.csv").write_text("\n".join([lines[0], *lines[-20:]]))
    assert "no longer, the file that 'out' was trained on" in run("train", "--resume", "out").stderr
    result = run("train", flowers, "--val", "absent.csv")
    assert result.exit_code == 4
    assert "absent.csv" in result.stderr


# -- settings from a file ----------------------------------------------------------------------------------------------


def test_a_config_file_and_options_combine(flowers: Path) -> None:
    Path("settings.toml").write_text(
        'data = "flowers.csv"\nhidden = [5, 4]\nactivation = "tanh"\nepochs = 2\nbatch-size = 8\nlearning-rate = 0.5\n'
    )
    train("--config", "settings.toml", "--epochs", "3", "-o", "out")
    kept = settings("out")
    assert (kept["hidden"], kept["activation"], kept["epochs"]) == ([5, 4], "tanh", 3)
    assert (kept["batch_size"], kept["lr"], kept["optimizer"]) == (8, 0.5, "adam")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("epoch = 3", "sets 'epoch', which is no setting; did you mean 'epochs'"),
        ("epochs = 0", "Invalid value for '--epochs'"),
        ("hidden = [5, 0]", "Invalid value for '--hidden'"),
        ("[train]\nepochs = 3", "sets 'train', which is no setting"),
        ("[epochs]\na = 3", "has a table 'epochs'"),
        ("epochs = ", "cannot be read as TOML"),
        ('resume = "x"', "sets 'resume', which is no setting"),
    ],
)
def test_a_wrong_config_file(flowers: Path, text: str, complaint: str) -> None:
    Path("settings.toml").write_text(text)
    result = run("train", flowers, "--config", "settings.toml")
    assert result.exit_code == 2
    assert complaint in " ".join(result.stderr.split())
    assert not Path("runs").exists()


# -- going on ----------------------------------------------------------------------------------------------------------


def interrupt(folder: Path, number: int, *arguments: str) -> int:
    """The exit code of a training that gets this signal after some epochs."""
    command = [sys.executable, "-m", "gpubp", "train", *arguments, "-o", str(folder), "-q", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    history = folder / "history.jsonl"
    for _ in range(600):
        if history.exists() and history.read_text().count("\n") > 2:
            break
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=60)
    return process.returncode


@pytest.mark.check
@pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
def test_interrupted_by_either_signal_and_resumed(flowers: Path) -> None:
    whole = train(flowers, "--epochs", "200", "--hidden", "8", "-o", "whole")
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        folder = Path(f"run-{code}")
        assert interrupt(folder, number, str(flowers), "--epochs", "200", "--hidden", "8") == code
        stopped = len((folder / "history.jsonl").read_text().splitlines())
        assert 2 < stopped < 200
        assert gpubp.load(folder / "model.safetensors").sizes == [2, 8, 2]
        resumed = train("--resume", folder)
        assert {**resumed, "model": "", "seconds": 0} == {**whole, "model": "", "seconds": 0}
        weights = [gpubp.load(Path(path, "model.safetensors")).weights for path in ("whole", folder)]
        assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))
        epochs = [json.loads(line)["epoch"] for line in (folder / "history.jsonl").read_text().splitlines()]
        assert epochs == list(range(1, 201))


def test_resuming_what_is_finished_says_the_same(flowers: Path) -> None:
    first = train(flowers, "--epochs", "2", "-o", "out")
    content = Path("out/model.safetensors").read_bytes()
    assert train("--resume", "out") == first
    assert Path("out/model.safetensors").read_bytes() == content
    assert "had finished its 2 epochs: nothing was trained; --epochs 4" in run("train", "--resume", "out").stderr
    assert train("--resume", "out", "--epochs", "4")["epochs"] == 4


def test_a_renamed_file_is_the_same(flowers: Path) -> None:
    train(flowers, "--epochs", "2", "-o", "out")
    flowers.rename("roses.csv")
    assert train("roses.csv", "--resume", "out", "--epochs", "3")["epochs"] == 3


@pytest.mark.check
def test_what_was_understood_and_what_was_learned_too_well_is_said(rng: np.random.Generator) -> None:
    np.savez("noise.npz", x=rng.normal(size=(60, 8)), y=rng.normal(size=60))
    result = run("train", "noise.npz", "--epochs", "60", "-o", "out")
    rows = "43 rows to train, 5 to validate, 12 to test\n60 epochs in batches of 16, adam at 0.001, on the CPU"
    assert result.stderr.startswith(f"a regression from 8 inputs: {rows}\n")
    assert "with --patience 10 training stops early and keeps the best weights" in result.stderr
    assert "--patience" not in run("train", "noise.npz", "--epochs", "60", "--patience", "10").stderr
    assert run("train", "noise.npz", "--epochs", "60", "-q").stderr == ""


def test_an_interrupted_run_has_no_model(flowers: Path) -> None:
    train(flowers, "--epochs", "2", "-o", "out")
    Path("out/model.safetensors").unlink()
    result = run("evaluate", "out", flowers)
    assert result.exit_code == 1
    assert "was interrupted before it had saved a model; go on with it: gpubp train --resume out" in result.stderr


def test_settings_may_be_repeated_but_not_changed(flowers: Path) -> None:
    train(flowers, "--epochs", "2", "--hidden", "7", "-o", "out")
    assert train(flowers, "--epochs", "2", "--hidden", "7", "--resume", "out")["epochs"] == 2
    result = run("train", flowers, "--hidden", "8", "--resume", "out")
    assert result.exit_code == 2
    assert "--hidden [8] differs from the run to be resumed, which has [7]" in " ".join(result.stderr.split())


def test_other_data_is_not_resumed(flowers: Path) -> None:
    train(flowers, "--epochs", "2", "-o", "out")
    flowers.write_text(flowers.read_text().replace("up", "aloft"))
    result = run("train", "--resume", "out")
    assert result.exit_code == 4
    assert "no longer, the file that 'out' was trained on" in result.stderr


def test_files_are_found_from_another_folder(flowers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = flowers.read_text().splitlines()
    Path("other.csv").write_text("\n".join(lines[:30]))
    train(flowers, "--epochs", "2", "--val", "other.csv", "-o", "out")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert train("--resume", "../out", "--epochs", "3")["epochs"] == 3


def test_a_resumed_run_stays_where_it_is(flowers: Path) -> None:
    train(flowers, "--epochs", "2", "-o", "out")
    result = run("train", "--resume", "out", "-o", "other")
    assert result.exit_code == 2
    assert "a resumed one stays in its folder" in result.stderr


def test_nothing_to_resume(tmp_path: Path) -> None:
    result = run("train", "--resume", tmp_path)
    assert result.exit_code == 1
    assert "there is nothing to resume; start it anew" in result.stderr


def test_a_run_is_not_overwritten(flowers: Path) -> None:
    train(flowers, "--epochs", "1", "-o", "out")
    content = Path("out/model.safetensors").read_bytes()
    result = run("train", flowers, "--epochs", "2", "-o", "out")
    assert result.exit_code == 1
    assert "'out' holds a run already" in result.stderr
    assert Path("out/model.safetensors").read_bytes() == content


def test_a_training_that_diverges_leaves_nothing(flowers: Path) -> None:
    result = run("train", flowers, "--optimizer", "sgd", "--lr", "1e30", "-q", "-o", "out")
    assert result.exit_code == 1
    assert "training diverged in epoch 1" in result.stderr
    assert not Path("out").exists()
