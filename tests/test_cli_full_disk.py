"""Full disks, readers that leave, closed streams, a SIGTERM: an exit code, at most a line, nothing half-written."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sampled import sampled
from trained import flowers, gpubp_, run

import gpubp

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits and streams as POSIX has them")
SETTINGS = ["--hidden", "8", "--batch-size", "32", "--device", "cpu", "-q"]
BUFFERED = [{"PYTHONUNBUFFERED": ""}, {"PYTHONUNBUFFERED": "1"}]  # the second as in many containers


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flowers(tmp_path_factory.mktemp("full-disk") / "flowers.csv")


@pytest.fixture(scope="module")
def model(table: Path) -> Path:
    folder = table.with_name("model")
    assert gpubp_("train", table, *SETTINGS, "--epochs", "2", "-o", folder).exit_code == 0
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def limited(size: int) -> Callable[[], None]:
    """To be done in the process to come: let no file grow beyond this, as on a disk that is nearly full."""
    import resource

    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def complained(process: subprocess.CompletedProcess[Any], words: str) -> None:
    assert process.returncode == 1, process.stderr
    assert process.stderr.startswith("error: cannot write ")
    assert words in process.stderr
    assert process.stderr.count("\n") == 1


# -- disks -------------------------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_from_the_start(table: Path) -> None:
    process = run("train", table, *SETTINGS, preexec_fn=limited(500))
    complained(process, "'runs/flowers/checkpoint.safetensors': File too large")
    assert process.stdout == ""
    assert os.listdir() == []


def test_a_disk_that_fills_up_in_training_loses_no_whole_epoch(table: Path) -> None:
    options = [*SETTINGS, "--epochs", "12"]
    assert gpubp_("train", table, *options, "-o", "whole").exit_code == 0
    size = (Path("whole") / "checkpoint.safetensors").stat().st_size  # it has grown with the history
    complained(run("train", table, *options, "-o", "run", preexec_fn=limited(size - 1000)), "checkpoint.safetensors")
    assert sorted(os.listdir("run")) == ["checkpoint.safetensors", "config.json", "history.jsonl"]
    learned = gpubp.Checkpoint("run/checkpoint.safetensors", resume=True).history
    assert 4 < len(learned) < 12
    assert gpubp_("evaluate", "run", table).exit_code == 1  # there is no model, not even a part of one
    resumed = gpubp_("train", "--resume", "run", "-q", "--json")
    assert json.loads(resumed.stdout)["epochs"] == 12
    models = [Path(folder, "model.safetensors").read_bytes() for folder in ("whole", "run")]
    assert models[0] == models[1]


def test_a_disk_without_room_for_the_loss_curve(table: Path) -> None:
    process = run("train", table, *SETTINGS, "--epochs", "2", "-o", "run", preexec_fn=limited(20_000))
    complained(process, "'run/loss.png': File too large")
    assert "test accuracy" in process.stdout
    assert sorted(os.listdir("run")) == ["checkpoint.safetensors", "config.json", "history.jsonl", "model.safetensors"]
    assert gpubp_("evaluate", "run", table).exit_code == 0


@pytest.mark.parametrize("ending", [".npz", ".onnx"])
def test_an_export_that_does_not_fit_leaves_what_was_there(ending: str, model: Path) -> None:
    out = Path(f"out{ending}")
    out.write_text("precious")
    complained(run("export", model, "-o", out, preexec_fn=limited(500)), f"'out{ending}': File too large")
    assert (out.read_text(), os.listdir()) == ("precious", [out.name])


@pytest.mark.parametrize("environment", sampled(BUFFERED, BUFFERED[:1]), ids=str)
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_result_that_does_not_fit_is_no_success(
    command: str, environment: dict[str, str], model: Path, table: Path
) -> None:
    environment = {**environment, "GPUBP_NATIVE": "0"}  # for g++ could write nothing either
    with open("result", "w") as result:
        process = run(command, model, table, "-q", stdout=result, env=environment, preexec_fn=limited(100))
    complained(process, "standard output: File too large")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("environment", BUFFERED, ids=str)
@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["devices", "--json"]], ids=str)
def test_help_on_a_full_disk(arguments: list[str], environment: dict[str, str]) -> None:
    with open("/dev/full", "w") as full:
        complained(run(*arguments, stdout=full, env=environment), "standard output: No space left on device")


# -- readers that leave ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", sampled(BUFFERED, BUFFERED[:1]), ids=str)
@pytest.mark.parametrize("command", ["train", "evaluate", "export", "predict --json"])
def test_a_reader_that_has_left(command: str, environment: dict[str, str], model: Path, table: Path) -> None:
    name, *options = command.split()
    arguments = {
        "train": ["--resume", model],
        "evaluate": [model, table],
        "export": [model, "-o", "out.npz"],
        "predict": [model, table],
    }
    ours, theirs = os.pipe()
    os.close(ours)
    process = run(name, *arguments[name], *options, "-q", stdout=theirs, env=environment)
    os.close(theirs)
    assert (process.returncode, process.stderr) == (1, "")
    if name == "export":
        assert Path("out.npz").exists()


def test_a_reader_that_takes_some_lines_and_leaves(model: Path) -> None:
    data = flowers(Path("many.csv"), 20_000)
    script = '"$@" | head -2; echo "${PIPESTATUS[@]}"'
    command = ["bash", "-c", script, "bash", sys.executable, "-m", "gpubp", "predict", model, data, "--proba"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    heading, _, codes = process.stdout.splitlines()
    assert heading.startswith("prediction,probability_setosa")
    assert codes == "1 0"
    assert process.stderr == ""


def test_a_log_whose_reader_has_left_costs_no_learned_epoch(table: Path) -> None:
    ours, theirs = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "gpubp", "train", table, *SETTINGS[:-1], "--epochs", "300", "-o", "run"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    with os.fdopen(ours) as log:
        while not log.readline().startswith("epoch 1/"):
            pass
    assert process.wait(60) == 1
    assert len(gpubp.Checkpoint("run/checkpoint.safetensors", resume=True).history) > 1


# -- closed streams ----------------------------------------------------------------------------------------------------


def closing(*streams: int) -> Callable[[], None]:
    return lambda: [os.close(stream) for stream in streams] and None


@pytest.mark.check
def test_closed_standard_streams(model: Path, table: Path) -> None:
    process = run("train", table, *SETTINGS, "--epochs", "2", "-o", "run", preexec_fn=closing(0, 1, 2))
    assert process.returncode == 0
    assert (Path("run") / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    process = run("evaluate", model, table, preexec_fn=closing(1))
    assert (process.returncode, process.stderr) == (0, "")
    process = run("predict", model, "-", preexec_fn=closing(0))
    assert process.returncode == 4
    assert process.stderr.startswith("error: stdin is empty")


# -- a termination -----------------------------------------------------------------------------------------------------

TERMINATED = """
import os, signal, gpubp.cli
def import_command(group, ctx, name):
    {moment}
gpubp.cli.Group.get_command = import_command
gpubp.cli.main(["devices"], prog_name="gpubp")
"""
STRIKE = "os.kill(os.getpid(), signal.SIGTERM)"
STRUCK = f"import os, signal\ntry: {STRIKE}\nexcept BaseException: raise TypeError\n"  # as modules in C do


@pytest.mark.parametrize(
    "moment",
    [
        STRIKE,
        f"exec('{STRIKE}')",  # as for a dataclass; Python then ends by SIGINT for a KeyboardInterrupt, caught or not
        "import struck, time; time.sleep(30)",
    ],
    ids=["plain", "exec", "import"],
)
def test_a_termination_while_a_command_is_imported(moment: str) -> None:
    Path("terminated.py").write_text(TERMINATED.format(moment=moment))
    Path("struck.py").write_text(STRUCK)
    command = [sys.executable, "-m", "terminated"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert process.returncode == 143, process.stderr
    assert "Traceback" not in process.stderr
