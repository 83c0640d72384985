"""`gpubp train` interrupted by SIGINT, SIGTERM and kill -9 at random moments, and resumed to the very same weights."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.check,
    pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them"),
]
INTERRUPTIONS = 50
SETTINGS = ["--hidden", "64", "--epochs", "40", "--batch-size", "8", "--patience", "40", "-q", "--device", "cpu"]
# SIGINT before Python has started kills it like any program; afterwards it is Ctrl-C.
CODES = {signal.SIGINT: {130, -signal.SIGINT}, signal.SIGTERM: {143, -signal.SIGTERM}, signal.SIGKILL: {-9}}


def start(*arguments: str, cwd: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gpubp", "train", *arguments]
    with (cwd / "stderr").open("wb") as said:
        return subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=said)


def python_was_starting(folder: Path) -> bool:
    """Whether Ctrl-C met Python's own first imports, some 8 ms in which it ends with 1 and a fatal error."""
    return "init_import_site" in (folder / "stderr").read_text()


def epochs(folder: Path) -> int:
    """How many epochs a run has told the world about."""
    file = folder / "history.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_nothing_is_lost_but_the_unfinished_epoch(tmp_path: Path) -> None:
    began = time.monotonic()
    assert start("digits", *SETTINGS, "-o", "whole", cwd=tmp_path).wait() == 0
    duration = time.monotonic() - began
    expected = (tmp_path / "whole" / "model.safetensors").read_bytes()

    moments, interruptions, runs, resumed = random.Random(0), 0, 0, 0
    while interruptions < INTERRUPTIONS:
        runs += 1
        folder = tmp_path / f"run-{runs}"
        code: int | None = None
        while code != 0:
            known = epochs(folder)
            if (folder / "checkpoint.safetensors").exists():
                resumed += 1
                process = start("--resume", folder.name, "-q", cwd=tmp_path)
            else:
                process = start("digits", *SETTINGS, "-o", folder.name, cwd=tmp_path)
            if interruptions < INTERRUPTIONS:
                number = moments.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
                try:
                    code = process.wait(timeout=moments.uniform(0, 1.1 * duration))
                except subprocess.TimeoutExpired:
                    process.send_signal(number)
                    code = process.wait()
                    # 0: it had just finished
                    assert code in CODES[number] | {0} or (code == 1 and python_was_starting(tmp_path))
                    interruptions += code != 0
            else:
                code = process.wait()
            # A line of the history is written just before its checkpoint, so that a kill between loses that epoch.
            assert epochs(folder) >= known - 1
        assert (folder / "model.safetensors").read_bytes() == expected
        # A kill in the middle of a write leaves the hidden file that was to take the place of the one it names.
        left = {file.name for file in folder.iterdir() if not file.name.startswith(".")} - {"loss.png"}
        assert left == {"model.safetensors", "checkpoint.safetensors", "config.json", "history.jsonl"}
        records = [json.loads(line)["epoch"] for line in (folder / "history.jsonl").read_text().splitlines()]
        assert records == list(range(1, 41))
    assert resumed >= INTERRUPTIONS // 2
