"""The command line: what it learns, prints and leaves behind, and the exit code of each way to fail."""

import json
import os
import re
import shlex
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
COMMANDS = ["train", "evaluate", "predict", "export", "bench", "devices"]
QUICK = ["--epochs", "2", "--device", "cpu"]
SHORT = ["--epochs", "1", "--device", "cpu"]  # in a process of its own: of one epoch there is no curve to draw
NO_GPU = pytest.mark.skipif(gpubp.get_backend("auto").fallback is None, reason="a GPU is here")
posix = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")


def gpubp_(*arguments: object, **environment: str | None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env=environment, prog_name="gpubp")


def start(*arguments: object, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    return subprocess.Popen([sys.executable, "-m", "gpubp", *map(str, arguments)], cwd=cwd, env=env, **pipes)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test in a folder of its own, as the default place of results is under the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPUBP_COMMAND", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert gpubp_("train", "digits", *QUICK, "-q", "-o", folder).exit_code == 0
    return folder / "model.safetensors"


@pytest.mark.usefixtures("drawn")
def test_train_digits_by_defaults() -> None:
    trained = gpubp_("train", "digits", GPUBP_COMMAND="python3 dev.py")
    assert trained.exit_code == 0, trained.output
    accuracy, right, loss = re.findall(r"test accuracy ([\d.]+)% \((\d+) of 360\), loss ([\d.]+)", trained.stdout)[0]
    assert float(accuracy) >= 97.5
    assert float(accuracy) == pytest.approx(int(right) / 3.6, abs=0.01)
    rows = "1293 rows to train, 144 to validate, 360 to test\n60 epochs in batches of 16, adam at 0.001, on the CPU"
    assert trained.stderr.startswith(f"10 classes from 64 inputs: {rows}\nepoch 1/60  loss ")
    model = Path("runs") / "digits" / "model.safetensors"
    assert f"model saved to {model}\n" in trained.stdout
    command = re.findall(r"evaluate it: (.*)\n", trained.stdout)[0]
    assert command == f"python3 dev.py evaluate {model.parent} digits"
    evaluated = gpubp_(*shlex.split(command)[2:])
    assert evaluated.exit_code == 0
    assert re.search(rf"accuracy +{accuracy}% +{right} of 360 ", evaluated.stdout)
    assert re.search(rf"loss +{loss}\b", evaluated.stdout)
    assert len((model.parent / "history.jsonl").read_text().splitlines()) == 60
    assert "the two it got most wrong" in trained.stdout


def test_a_run_is_repeatable() -> None:
    results = [json.loads(gpubp_("train", "digits", *QUICK, "--seed", seed, "--json").stdout) for seed in (3, 3, 4)]
    assert results[0]["loss"] == results[1]["loss"] != results[2]["loss"]


def test_json_is_one_object(model: Path) -> None:
    result = gpubp_("train", "digits", *QUICK, "--json")
    trained = json.loads(result.stdout)
    assert set(trained) == {"loss", "accuracy", "samples", "epochs", "seconds", "model", "stopped"}
    assert (trained["epochs"], trained["stopped"]) == (2, "finished")
    assert result.stderr.count("\nepoch ") == 2
    evaluated = json.loads(gpubp_("evaluate", trained["model"], "digits", "--json").stdout)
    assert evaluated["loss"] == pytest.approx(trained["loss"])
    assert (evaluated["accuracy"], evaluated["samples"]) == (trained["accuracy"], trained["samples"])


def test_quiet_is_silent_on_stderr() -> None:
    result = gpubp_("train", "digits", *QUICK, "-q")
    assert result.stderr == ""
    assert "test accuracy" in result.stdout


def test_verbose_says_why_the_cpu() -> None:
    if (reason := gpubp.get_backend("auto").fallback) is None:
        pytest.skip("a GPU is here")
    assert f"on the CPU: {reason}" in gpubp_("train", "digits", "--epochs", "1", "-v").stderr


@pytest.mark.usefixtures("drawn")
def test_the_settings_reach_the_network() -> None:
    options = "--hidden 12,7 --activation gelu --dropout 0.25 --optimizer sgd --lr 0.5 --schedule cosine"
    options += " --seed 9 --val 0.3 --weight-decay 0.001 --batch-size full --test 0.5 --patience 2"
    result = gpubp_(
        "train",
        "digits",
        *shlex.split(options),
        "--class-weight",
        "balanced",
        *QUICK,
        "-q",
        "--json",
        "-o",
        "there/below",
    )
    assert result.exit_code == 0, result.output
    net = gpubp.load(json.loads(result.stdout)["model"])
    assert (net.sizes, net.activations[0].name, net.seed) == ([64, 12, 7, 10], "gelu", 9)
    assert net._network.structure.dropout == [0, 0.25, 0.25]
    records = [json.loads(line) for line in Path("there/below/history.jsonl").read_text().splitlines()]
    assert [record["learning_rate"] for record in records] == [0.5, 0.25]
    assert "validation_accuracy" in records[0]
    assert json.loads(gpubp_("evaluate", "there/below/model.safetensors", "digits", "--json").stdout)["samples"] == 899


def test_no_hidden_layer() -> None:
    result = gpubp_("train", "digits", *QUICK, "--hidden", "none", "-q", "--json")
    assert gpubp.load(json.loads(result.stdout)["model"]).sizes == [64, 10]


def test_the_default_folder_is_always_a_new_one() -> None:
    models = [json.loads(gpubp_("train", "digits", *QUICK, "-q", "--json").stdout)["model"] for _ in range(3)]
    assert [Path(model).parent.name for model in models] == ["digits", "digits-2", "digits-3"]
    assert all(Path(model).exists() for model in models)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["train", "digits", "--epochs", "0"],
        ["train", "digits", "--epochs", "many"],
        ["train", "digits", "--hidden", "128,0"],
        ["train", "digits", "--hidden", "wide"],
        ["train", "digits", "--hidden", "²"],
        ["train", "digits", "--batch-size", "0"],
        ["train", "digits", "--batch-size", "half"],
        ["train", "digits", "--lr", "-1"],
        ["train", "digits", "--lr", "nan"],
        ["train", "digits", "--dropout", "1"],
        ["train", "digits", "--test", "1"],
        ["train", "digits", "--val", "0"],
        ["train", "digits", "--weight-decay", "-1"],
        ["train", "digits", "--patience", "0"],
        ["train", "digits", "--val", "nan"],
        ["train", "digits", "--seed", "-1"],
        ["train", "digits", "--device", "gpu"],
        ["train", "digits", "--activation", "rleu"],
        ["train", "digits", "--optimizer", "newton"],
        ["train", "digits", "--schedule", "none"],
        ["train", "digits", "--class-weight", "even"],
        ["train", "digits", "--unknown"],
        ["train", "digits", "--task", "clustering"],
        ["train", "-"],
        ["train", "digits", "--config", "absent.toml"],
        ["evaluate", "model"],
        ["fly"],
        ["devices", "--unknown"],
    ],
    ids=" ".join,
)
def test_usage(arguments: list[str]) -> None:
    result = gpubp_(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr
    assert os.listdir() == []


@NO_GPU
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_no_device(command: str, model: Path) -> None:
    arguments = ["digits"] if command == "train" else [model, "digits"]
    result = gpubp_(command, *arguments, "--device", "cuda")
    assert result.exit_code == 3
    assert re.match(r"error: device='cuda' is not available: .{20,}'cpu' runs on the CPU", result.stderr)
    assert os.listdir() == []


def test_bad_data(model: Path) -> None:
    for arguments in (["train", "digitz"], ["evaluate", model, "digitz"]):
        result = gpubp_(*arguments)
        assert result.exit_code == 4, result.output
        assert re.search("digitz.*did you mean 'digits'", result.stderr)
    result = gpubp_("train", "absent.csv")
    assert result.exit_code == 4
    assert re.search(r"error: .*absent\.csv.*no such file", result.stderr, re.IGNORECASE)


def test_a_run_folder_stands_for_its_model(model: Path) -> None:
    assert gpubp_("evaluate", model.parent, "digits").stdout == gpubp_("evaluate", model, "digits").stdout


def test_failures(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no model")
    for name in ("absent", "text"):
        result = gpubp_("evaluate", tmp_path / name, "digits")
        assert result.exit_code == 1
        assert result.stderr.startswith("error: cannot read ")
        assert name in result.stderr
    result = gpubp_("train", "digits", *QUICK, "-o", tmp_path / "text")
    assert result.exit_code == 1
    assert "choose another with --out" in result.stderr
    result = gpubp_("train", "digits", *QUICK, "--optimizer", "sgd", "--lr", "1e30")
    assert result.exit_code == 1
    assert "error: training diverged in epoch 1" in result.stderr


def test_help() -> None:
    listing = gpubp_("--help")
    assert listing.exit_code == 0
    for code in ("0 ok", "1 failure", "2 usage", "3 the device", "4 bad data", "130 interrupted"):
        assert code in " ".join(listing.stdout.split())
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\w", listing.stdout, re.MULTILINE)
        page = gpubp_(command, "-h")
        assert page.exit_code == 0
        assert page.stdout.startswith(f"Usage: gpubp {command} ")
        assert not re.search(r"<.*>", page.stdout), "no option's value contains < or >"
    for option in ("--device", "--seed", "--json", "-q, --quiet", "-v, --verbose", "--batch-size", "--patience"):
        assert option in gpubp_("train", "--help").stdout
    assert gpubp_("--version").stdout.split()[-1] == gpubp.__version__


def test_as_a_module_and_without_escape_codes(tmp_path: Path) -> None:
    process = start("train", "digits", *SHORT, "-o", tmp_path / "r", cwd=tmp_path, TERM="xterm-256color")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "\x1b" not in out + err
    assert "test accuracy" in out
    assert err.count("\nepoch ") == 1
    assert "evaluate it: python -m gpubp evaluate" in out


@pytest.mark.check
@posix
@pytest.mark.parametrize("output", ["text", "json"])
def test_interrupted(tmp_path: Path, output: str) -> None:
    options = ["--json"] if output == "json" else []
    process = start("train", "digits", "--epochs", "100000", "-o", "run", *options, cwd=tmp_path)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("10 classes from 64 inputs")
    assert process.stderr.readline().startswith("100000 epochs in batches of 16")
    assert process.stderr.readline().startswith("epoch 1/100000")
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted; what was learned so far is kept" in err
    net = gpubp.load(tmp_path / "run" / "model.safetensors")
    assert all(np.isfinite(weight).all() for weight in net.weights)
    epochs = len((tmp_path / "run" / "history.jsonl").read_text().splitlines())
    assert 1 <= epochs < 100000
    if output == "json":
        assert (json.loads(out)["stopped"], json.loads(out)["epochs"]) == ("interrupted", epochs)
    evaluated = gpubp_("evaluate", tmp_path / "run" / "model.safetensors", "digits", "--json")
    assert json.loads(evaluated.stdout)["accuracy"] > 0.5


def test_interrupted_before_there_is_anything_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gpubp.cli.session.open_data", interrupt)
    result = gpubp_("train", "digits")
    assert result.exit_code == 130
    assert os.listdir() == []


@posix
def test_a_reader_that_leaves_is_no_traceback(tmp_path: Path) -> None:
    process = start("train", "digits", *SHORT, "-q", cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(60) == 1
    assert process.stderr.read() == ""
    process.stderr.close()
    assert (tmp_path / "runs" / "digits" / "model.safetensors").exists()


def test_a_failed_training_leaves_no_folder(tmp_path: Path) -> None:
    assert gpubp_("train", "digits", "--test", "0.999", "-q", "-o", tmp_path / "run").exit_code == 4
    assert not (tmp_path / "run").exists()
