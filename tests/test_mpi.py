"""Training in several processes by MPI: the same results as one, and a good end whatever happens to one of them."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import mpiexec

from gpubp.launcher import RANK

pytestmark = [pytest.mark.check, pytest.mark.mpi]

SCRIPT = str(Path(__file__).with_name("mpi_script.py"))
GPUBP = [sys.executable, "-m", "gpubp"]
SOON = 10.0  # seconds within which all have to end when one does


def launched(size: int, command: list[str]) -> list[str]:
    """The command line that runs this in so many processes; one is started by itself."""
    return command if size == 1 else [str(mpiexec()), "-n", str(size), *command]


def run(size: int, *command: Any, timeout: float = 120, **variables: str) -> "subprocess.CompletedProcess[str]":
    line = launched(size, [str(part) for part in command])
    return subprocess.run(line, capture_output=True, text=True, timeout=timeout, env={**os.environ, **variables})


def script(size: int, *arguments: Any, **variables: str) -> "subprocess.CompletedProcess[str]":
    return run(size, sys.executable, SCRIPT, *arguments, **variables)


def gpubp_(size: int, *arguments: Any, **variables: str) -> "subprocess.CompletedProcess[str]":
    return run(size, *GPUBP, *arguments, **variables)


def by_rank(output: str) -> dict[int, list[str]]:
    """What each rank said in its line, whatever their order."""
    return {int(words[0]): words[1:] for words in map(str.split, output.splitlines())}


# -- the same results --------------------------------------------------------------------------------------------------


def test_one_to_four_processes_agree(tmp_path: Path) -> None:
    """From a script: parameters to rounding, and the same bits in all ranks; losses and metrics too."""
    told = {size: by_rank(script(size, "agree", tmp_path).stdout) for size in (1, 2, 3, 4)}
    wanted = np.load(tmp_path / "1-0.npy")
    for size in (2, 3, 4):
        found = [np.load(tmp_path / f"{size}-{rank}.npy") for rank in range(size)]
        assert all(np.array_equal(each, found[0]) for each in found)
        assert abs(found[0] - wanted).max() < 1e-13
        assert len(told[size]) == size
        assert all(figures == told[size][0] for figures in told[size].values())
        assert [float(f) for f in told[size][0]] == pytest.approx([float(f) for f in told[1][0]], abs=2e-12)


@pytest.mark.parametrize("graphs", ["0", "1"])
def test_on_gpus_of_their_own(graphs: str, tmp_path: Path) -> None:
    """Emulated ones, and an NCCL that is MPI: one sum a step, on the device that the launcher's local rank names."""
    alone = script(1, "on_gpus", tmp_path, GPUBP_GRAPHS=graphs)
    several = script(3, "on_gpus", tmp_path, GPUBP_GRAPHS=graphs)
    assert by_rank(alone.stdout) == {0: ["cuda:0", str(graphs == "1"), "0"]}, alone.stderr
    assert by_rank(several.stdout) == {rank: [f"cuda:{rank}", str(graphs == "1"), "15"] for rank in range(3)}
    found = [np.load(tmp_path / f"3-{rank}.npy") for rank in range(3)]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    assert abs(found[0] - np.load(tmp_path / "1-0.npy")).max() < 1e-6


def test_groups_of_processes_and_each_by_itself() -> None:
    told = by_rank(script(4, "groups").stdout)
    assert told[0][0] == told[2][0] != told[1][0] == told[3][0]
    assert len({own for _, own in told.values()}) == 4


def test_the_command_line_gives_one_report_and_one_folder(tmp_path: Path) -> None:
    given = ("train", "digits", "--device", "cpu", "--epochs", 3, "--json")
    told = {size: gpubp_(size, *given, "--out", tmp_path / str(size)) for size in (1, 3)}
    one, three = (json.loads(told[size].stdout) for size in (1, 3))
    assert three["accuracy"] == pytest.approx(one["accuracy"], abs=0.003)
    assert three["loss"] == pytest.approx(one["loss"], rel=1e-3)
    assert [line.split()[:2] for line in told[3].stderr.splitlines()[2:]] == [["epoch", f"{n}/3"] for n in (1, 2, 3)]
    assert "on 3 processes" in told[3].stderr
    config = json.loads((tmp_path / "3" / "config.json").read_text())
    assert config["processes"] == 3
    assert {path.name for path in (tmp_path / "3").iterdir()} == {path.name for path in (tmp_path / "1").iterdir()}
    assert not (tmp_path / "runs").exists()


def test_a_file_larger_than_what_a_process_may_hold(tmp_path: Path) -> None:
    """560 MB, of which the processes of a machine would take 512 MiB into memory; each maps it and reads its rows."""
    rows, width = 1_400_000, 100
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (rows, width))
    for start in range(0, rows, 100_000):
        x[start : start + 100_000] = np.random.default_rng(start).normal(size=(100_000, width))
    x.flush()
    told = by_rank(script(2, "larger_than_memory", tmp_path).stdout)
    assert len(told) == 2
    for held, _ in told.values():
        assert int(held) < 200, "MiB"


def test_devices_lists_the_processes() -> None:
    told = gpubp_(3, "devices").stdout
    assert re.search(r"^mpi    .*: 3 processes$", told, re.MULTILINE), told
    assert [line.split(" on ")[0].strip() for line in told.splitlines() if " rank " in line] == [
        "rank 0",
        "rank 1",
        "rank 2",
    ]
    assert "gradients are added up by MPI, through host memory" in told
    rows = json.loads(gpubp_(2, "devices", "--json").stdout)["processes"]
    assert [row["device"] for row in rows] == ["mpi", "nccl"]
    assert len(rows[0]["ranks"]) == 2


def test_off_means_each_by_itself(tmp_path: Path) -> None:
    """With folders of its own, and nothing that waits for the others."""
    line = [*GPUBP, "train", "digits", "--epochs", "1", "--device", "cpu", "--json"]
    ran = subprocess.run(
        launched(2, line), cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "GPUBP_DISTRIBUTED": "off"}
    )
    assert len(ran.stdout.splitlines()) == 2
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"digits", "digits-2"}


# -- a failure of one, and of all --------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["fails_in_fit", "fails_before_fit", "fails_after_fit"])
def test_an_exception_in_one_rank_ends_all(when: str) -> None:
    began = time.monotonic()
    ran = script(3, when)
    assert ran.returncode != 0
    assert time.monotonic() - began < SOON
    assert "rank 1 of 3 fails, and with it all:" in ran.stderr
    assert "ValueError: only in rank 1" in ran.stderr


@pytest.mark.parametrize("how", ["exits_before_fit", "only_rank_0_fits"])
def test_a_program_that_ends_instead_of_training(how: str) -> None:
    """Nobody waits for it for ever."""
    began = time.monotonic()
    ran = script(3 if how == "exits_before_fit" else 2, how)
    assert ran.returncode != 0
    assert time.monotonic() - began < SOON
    assert re.search(
        r"GpubpError: rank 1 of \d has come to the end of its program, while rank \d is to train", ran.stderr
    )


def test_programs_may_end_at_other_times() -> None:
    ran = script(3, "ends_at_other_times")
    assert ran.returncode == 0
    assert by_rank(ran.stdout) == {rank: ["done"] for rank in range(3)}
    assert not ran.stderr


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("all_fail", "DataError: y holds labels from 7 to 9"),
        ("all_fail_before", "ValueError: in all ranks"),
        ("other_data", "x is data with the checksum"),
        ("few_rows", "x has 2 rows for 3 processes"),
    ],
)
def test_what_all_have_is_said_once(what: str, said: str) -> None:
    began = time.monotonic()
    ran = script(3, what)
    assert ran.returncode != 0
    assert time.monotonic() - began < SOON
    assert ran.stderr.count(said) == 1, ran.stderr


def test_an_error_of_all_can_be_caught() -> None:
    assert by_rank(script(2, "go_on_after_an_error_of_all").stdout) == {0: ["finished"], 1: ["finished"]}


def test_who_waits_says_so() -> None:
    ran = script(2, "late")
    assert ran.returncode == 0
    assert "rank 0 of 2 has waited 0.5 s for the others" in ran.stderr
    assert "rank 1" not in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nosuch.csv"], 4, "error: nosuch.csv: there is no such file"),
        (["digits", "--epochs", "x"], 2, "'x' is not a valid integer"),
        (["--resume", "nosuch"], 1, "holds no checkpoint.safetensors"),
    ],
)
def test_errors_of_the_command_line(arguments: list[str], code: int, said: str) -> None:
    ran = gpubp_(3, "train", *arguments)
    assert ran.returncode == code
    assert ran.stderr.count(said) == 1


def test_a_rank_that_was_told_something_else(tmp_path: Path) -> None:
    train = [*GPUBP, "train", "digits", "--device", "cpu", "-q", "--out", str(tmp_path / "run"), "--epochs"]
    for epochs, code, said in (("4", 4, "epochs is 3 in rank 0 and 4 in rank 1"), ("x", 2, "rank 1: Error: Invalid")):
        line = [str(mpiexec()), "-n", "1", *train, "3", ":", "-n", "1", *train, epochs]
        ran = subprocess.run(line, capture_output=True, text=True, timeout=60)
        assert ran.returncode == code
        assert said in ran.stderr
        assert not (tmp_path / "run").exists()


def test_a_launcher_of_another_mpi() -> None:
    """Each process would find itself alone and train by itself: refused, with the remedy."""
    ran = gpubp_(1, "train", "digits", OMPI_COMM_WORLD_SIZE="4", OMPI_COMM_WORLD_RANK="0")
    assert ran.returncode == 3
    assert re.search(r"a launcher started 4 processes, but \S+ \S+ finds 1", ran.stderr)


# -- signals, kills and going on ---------------------------------------------------------------------------------------


@contextmanager
def training(folder: Path, size: int, epochs: int) -> Iterator["subprocess.Popen[str]"]:
    """A training that is under way: some epochs are done."""
    given = ["train", "digits", "--device", "cpu", "--batch-size", "64", "--epochs", str(epochs), "-q", "--out", folder]
    line = launched(size, [*GPUBP, *map(str, given)])
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            end = time.monotonic() + 60
            while not (folder / "history.jsonl").exists() or not (folder / "history.jsonl").stat().st_size:
                assert process.poll() is None, process.stderr and process.stderr.read()
                assert time.monotonic() < end
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


def ranks(launcher: int) -> list[int]:
    """The processes that were launched, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            variables = dict(each.split("=", 1) for each in (path / "environ").read_text().split("\0") if "=" in each)
            rank = next((variables[name] for name in RANK if name in variables), None)
            if rank is not None and launcher in ancestors(int(path.name)):
                found[int(rank)] = int(path.name)
        except (OSError, ValueError, UnicodeDecodeError):
            continue
    return [found[rank] for rank in sorted(found)]


def ancestors(pid: int) -> list[int]:
    line = []
    while pid > 1:
        pid = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        line.append(pid)
    return line


def gone(pids: list[int]) -> bool:
    """Whether these processes end soon."""
    end = time.monotonic() + SOON
    while time.monotonic() < end:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.02)
    return False


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "history.jsonl").read_text().splitlines()]


def epochs_done(folder: Path) -> int:
    return len(losses(folder))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, Any]:
    """Epochs, and what two processes make of them."""
    folder, epochs = tmp_path_factory.mktemp("whole") / "run", 40
    given = ("train", "digits", "--device", "cpu", "--batch-size", 64, "--epochs", epochs, "-q", "--out", folder)
    assert gpubp_(2, *given).returncode == 0
    return epochs, digest(folder), losses(folder)


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found in /proc")
@pytest.mark.parametrize("attempt", range(20))
def test_a_killed_rank_ends_all_and_nothing_is_lost(attempt: int, uninterrupted: Any, tmp_path: Path) -> None:
    """At a random moment, kill -9; going on gives the same bits as never having been killed."""
    epochs, wanted, _ = uninterrupted
    moment, folder = random.Random(attempt), tmp_path / "run"
    with training(folder, 2, epochs) as process:
        found = ranks(process.pid)
        assert len(found) == 2
        time.sleep(moment.uniform(0, 0.35))
        began = time.monotonic()
        os.kill(found[moment.randrange(2)], signal.SIGKILL)
        code = process.wait(SOON)
        assert time.monotonic() - began < SOON
    assert not code or gone(found)
    assert gpubp_(2, "train", "--resume", folder, "-q").returncode == 0
    assert epochs_done(folder) == epochs
    assert digest(folder) == wanted
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")], "what the kill left is gone"


def test_going_on_with_another_number_of_processes(uninterrupted: Any, tmp_path: Path) -> None:
    """To rounding, which in 40 epochs of float32 grows to some parts in a thousand of the loss."""
    epochs, _, wanted = uninterrupted
    for size in (1, 3):
        folder = tmp_path / str(size)
        with training(folder, 2, epochs) as process:
            process.send_signal(signal.SIGTERM)
            assert process.wait(SOON) == 143
        assert epochs_done(folder) < epochs
        assert gpubp_(size, "train", "--resume", folder, "-q").returncode == 0
        assert losses(folder) == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize("target", ["launcher", "rank 0", "rank 1"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_ends_all_with_a_checkpoint(name: str, target: str, tmp_path: Path) -> None:
    """Of schedulers, and Ctrl-C, to one process or by the launcher to all."""
    folder, number = tmp_path / "run", getattr(signal, name)
    with training(folder, 2, 4000) as process:
        pid = process.pid if target == "launcher" else ranks(process.pid)[int(target[-1])]
        os.kill(pid, number)
        assert process.wait(SOON) == (130 if name == "SIGINT" else 143)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    done = epochs_done(folder)
    assert 0 < done < 4000
    assert json.loads((folder / "history.jsonl").read_text().splitlines()[-1])["epoch"] == done
    again = gpubp_(2, "train", "--resume", folder, "--epochs", done + 1, "-q")
    assert again.returncode == 0, again.stderr
    assert epochs_done(folder) == done + 1
