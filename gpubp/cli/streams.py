"""Where results go: standard output or a file."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


def complete_streams() -> None:
    """Put the null device where a standard stream is closed, and a buffer where standard output has none.

    Without a buffer, which PYTHONUNBUFFERED takes away, what a nearly full disk did not take would be lost unnoticed. A
    letter that the encoding lacks becomes a question mark.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    plain: Any = getattr(sys.stdout, "buffer", None)
    if isinstance(plain, io.RawIOBase):
        buffered = io.BufferedWriter(plain)
        sys.stdout = io.TextIOWrapper(buffered, sys.stdout.encoding, sys.stdout.errors, line_buffering=True)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


def give_up_streams() -> None:
    """Let what a standard stream holds and cannot write go nowhere, as Python would complain of it at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def output(path: Path | None) -> Iterator[BinaryIO]:
    """A file to write, which appears whole or not at all; None is standard output."""
    from gpubp.whole import whole_file

    if path is None:
        yield sys.stdout.buffer
        return
    with whole_file(path) as file:
        yield file
