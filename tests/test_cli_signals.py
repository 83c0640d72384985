"""Signals that meet what must not be interrupted, and files that an interruption leaves behind."""

import importlib
import os
import signal
import sys
import time
from pathlib import Path

import click
import pytest

from gpubp.cli import Interrupted, interrupted_code, main, terminable
from gpubp.whole import write_whole

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)]
SIGNALLED = "import signal, time\nsignal.raise_signal({number})\ntime.sleep(0.03)\nwhole = True\n"


def import_and_wait(name: str) -> None:
    importlib.import_module(name)
    time.sleep(5)


@pytest.fixture
def handlers() -> object:
    return [signal.getsignal(number) for number, _ in CODES]


@pytest.mark.parametrize(("number", "code"), CODES)
def test_an_import_ends_before_what_it_is_part_of(
    number: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handlers: object
) -> None:
    (tmp_path / "signalled.py").write_text(SIGNALLED.format(number=int(number)))
    monkeypatch.syspath_prepend(tmp_path)
    context = click.Context(main)
    with pytest.raises(Interrupted), terminable(context):
        import_and_wait("signalled")
    assert sys.modules.pop("signalled").whole
    assert interrupted_code(context) == code
    assert [signal.getsignal(number) for number, _ in CODES] == handlers


def test_drawing_ends_first_and_with_it_the_signal(handlers: object) -> None:
    """Where nothing comes after it."""
    names = {"__name__": "matplotlib.somewhere"}
    with terminable(click.Context(main)):
        exec(SIGNALLED.format(number=int(signal.SIGTERM)), names)
    assert "whole" in names
    time.sleep(0.05)  # nothing comes back
    assert [signal.getsignal(number) for number, _ in CODES] == handlers


def test_other_code_is_interrupted_at_once() -> None:
    with pytest.raises(Interrupted), terminable(click.Context(main)):
        exec(SIGNALLED.format(number=int(signal.SIGTERM)), names := {"__name__": "other"})
    assert "whole" not in names


def test_interrupted_just_after_a_file_has_taken_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption, and no complaint of the file that is no longer there to be removed."""
    replace = os.replace

    def interrupted(*paths: str) -> None:
        replace(*paths)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", b"content")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("file", b"content")]
