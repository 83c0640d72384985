"""Where results go: standard output or a file."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def output(path: Path | None) -> Iterator[BinaryIO]:
    """A file to write, which appears whole or not at all; None is standard output."""
    from gpubp.whole import whole_file

    if path is None:
        yield sys.stdout.buffer
        return
    with whole_file(path) as file:
        yield file
