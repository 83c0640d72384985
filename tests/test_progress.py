"""What a training says: the history, the lines or the live picture on stderr; and what Ctrl-C does to it."""

import csv
import json
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp

RNG = np.random.default_rng(9)
X, Y = RNG.normal(size=(40, 3)), RNG.integers(0, 3, 40)
COLUMNS = ["epoch", "loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate", "seconds"]
COLUMNS += ["samples_per_second"]
posix = pytest.mark.skipif(os.name != "posix", reason="signals and pseudo-terminals as POSIX has them")


def network() -> gpubp.MLP:
    return gpubp.MLP([3, 4, 3], device="cpu", seed=0)


def fit(**settings: Any) -> gpubp.History:
    return network().fit(X, Y, **{"epochs": 3, "validation": 0.2, "metrics": "accuracy", "verbose": 0, **settings})


def test_history() -> None:
    history = fit(learning_rate=0.25, optimizer="sgd")
    assert isinstance(history, gpubp.History)
    assert history.columns == COLUMNS
    assert history["epoch"] == [1, 2, 3]
    assert history["learning_rate"] == [0.25] * 3
    assert len(history) == len(history.records) == 3
    assert [record["loss"] for record in history] == history["loss"]
    assert all(seconds > 0 for seconds in history["seconds"])
    assert all(rate > 0 for rate in history["samples_per_second"])
    assert (history.stopped, history.best_epoch) == ("finished", None)
    with pytest.raises(KeyError, match=r"no column 'los'.*validation_loss"):
        history["los"]


def test_history_as_text() -> None:
    history = fit(callbacks=lambda net, record: record.update(note="a word"))
    lines = str(history).splitlines()
    assert lines[0].split() == [*COLUMNS, "note"]
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1, "aligned"
    assert f"{history['loss'][1]:.6g}" in lines[2]
    assert str(gpubp.History()) == ""


def test_history_is_saved(tmp_path: Path) -> None:
    history = fit()
    history.save(tmp_path / "history.jsonl")
    history.save(str(tmp_path / "history.csv"))
    assert [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()] == history.records
    with (tmp_path / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{name: float(value) for name, value in row.items()} for row in rows] == history.records
    with pytest.raises(gpubp.DataError, match=r"\.jsonl or \.csv.*history\.txt"):
        history.save(tmp_path / "history.txt")


def test_silence(capfd: pytest.CaptureFixture[str]) -> None:
    fit(early_stopping=1)
    assert capfd.readouterr() == ("", "")


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    history = fit(verbose=1)
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 3
    for record, line in zip(history, err.splitlines(), strict=True):
        assert line.startswith(f"epoch {record['epoch']}/3  loss {record['loss']:.4f}  ")
        assert f"validation accuracy {record['validation_accuracy']:.4f}" in line
        assert line.endswith(" samples/s")
    assert "\x1b" not in err


def test_at_most_some_thirty_lines(capsys: pytest.CaptureFixture[str]) -> None:
    fit(verbose=1, epochs=100)
    lines = capsys.readouterr().err.splitlines()
    assert 20 < len(lines) < 35
    assert lines[0].startswith("epoch 1/100 ")
    assert lines[-1].startswith("epoch 100/100 ")


def test_lines_say_why_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    fit(verbose=1, callbacks=lambda net, record: True)
    assert capsys.readouterr().err.splitlines()[-1] == "stopped by a callback"
    history = fit(verbose=1, epochs=50, early_stopping=gpubp.EarlyStopping(2, "loss", min_delta=9.0))
    assert history.best_epoch == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "stopped early; restored the weights of epoch 1, the best"


TRAINING = """
import gpubp, numpy as np, sys
rng = np.random.default_rng(0)
x, y = rng.normal(size=(400, 3)), rng.integers(0, 3, 400)
net = gpubp.MLP([3, 4, 3], device="cpu", seed=0)
"""


def start(code: str, **streams: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm-256color", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    return subprocess.Popen([sys.executable, "-c", TRAINING + textwrap.dedent(code)], env=environment, **streams)


def read_terminal(code: str) -> tuple[int, str]:
    """The exit code of a program, and what it wrote to the terminal that its stderr is."""
    import pty

    ours, theirs = pty.openpty()
    process = start(code, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    output, until = b"", time.monotonic() + 60
    while time.monotonic() < until and select.select([ours], [], [], 60)[0]:
        try:
            output += os.read(ours, 65536)
        except OSError:  # Linux's way to say that the other end is closed
            break
    os.close(ours)
    return process.wait(60), output.decode()


@posix
def test_live_in_a_terminal() -> None:
    code, output = read_terminal(
        """
        import time
        net.fit(x, y, epochs=12, validation=0.2, callbacks=lambda net, record: time.sleep(0.05))
        print("after", file=sys.stderr)
        """
    )
    assert code == 0
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1, "the cursor is hidden, and shown again"
    assert "\x1b[1A" in output, "it redraws itself"
    last = output[output.rindex("MLP(3-4-3") :]
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", last)
    assert re.search(r"epoch +loss +val. loss +rate +samples/s", plain)
    assert re.search(r"\n *12 +\d\.\d{4}", plain)
    assert sum(1 for c in plain if 0x2800 < ord(c) <= 0x28FF) >= 56, "a curve as wide as it should be"
    assert plain.rstrip().endswith("after")
    assert "Traceback" not in output


@posix
def test_a_live_display_ends_cleanly_when_training_fails() -> None:
    code, output = read_terminal("gpubp.MLP([3, 4, 3], 'relu').fit(x, y, optimizer='sgd', learning_rate=1e30)")
    assert code == 1
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1
    assert re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output).rstrip().endswith("check the scale of x")


@posix
def test_interrupted() -> None:
    # Steps are slow, so that the signal comes in the middle of an epoch; a twin takes the same steps one by one.
    process = start(
        """
        import signal, time
        steps = []

        class Slow(gpubp.Callback):
            def on_step_end(self, net, step, cost):
                steps.append(step)
                if step == 46:
                    print("ready", flush=True)
                if step >= 46:
                    time.sleep(0.05)

        before = signal.getsignal(signal.SIGINT)
        history = net.fit(
            x, y, epochs=30, batch_size=10, optimizer="sgd", verbose=0, callbacks=Slow(), early_stopping=20
        )
        assert history.stopped == "interrupted", history.stopped
        assert 46 <= len(steps) < 80, "in the middle of the second epoch"
        assert len(history) == 2
        assert signal.getsignal(signal.SIGINT) is before
        twin, optimizer, taken = gpubp.MLP([3, 4, 3], device="cpu", seed=0), gpubp.SGD(), 0
        for epoch in range(len(history)):
            order = np.random.default_rng([0, 1, epoch]).permutation(400)
            for start in range(0, 400, 10):
                if taken < len(steps):
                    rows = order[start : start + 10]
                    twin.train_step(x[rows], y[rows], optimizer)
                    taken += 1
        for one, other in zip(net.weights + net.biases, twin.weights + twin.biases):
            assert np.isfinite(one).all()
            np.testing.assert_array_equal(one, other)
        net.fit(x, y, epochs=1, verbose=0)
        print("whole")
        """,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == (b"whole\n", b"", 0)


@posix
def test_a_second_ctrl_c_interrupts_as_usual() -> None:
    process = start(
        """
        import signal, time

        class Stuck(gpubp.Callback):
            def on_step_end(self, net, step, cost):
                print("ready", flush=True)
                for _ in range(300):
                    time.sleep(0.1)

        before = signal.getsignal(signal.SIGINT)
        try:
            net.fit(x, y, verbose=0, callbacks=Stuck())
        except KeyboardInterrupt:
            assert signal.getsignal(signal.SIGINT) is before
            print("interrupted")
        """,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None, "the first one only asks for an end"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == (b"interrupted\n", b"", 0)


def test_fit_in_another_thread() -> None:
    before, done = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(target=lambda: done.append(fit()))
    thread.start()
    thread.join()
    assert done[0].stopped == "finished"
    assert done[0]["loss"] == fit()["loss"]
    assert signal.getsignal(signal.SIGINT) is before


@posix
def test_a_users_own_handler_stays_in_force() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        history = fit(callbacks=lambda net, record: os.kill(os.getpid(), signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert history.stopped == "finished"
    assert heard == [signal.SIGINT] * 3
