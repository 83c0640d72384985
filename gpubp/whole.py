"""Files that appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from gpubp.errors import GpubpError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file's content; GpubpError where it cannot be, and then the file is what it was."""
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when it is complete and on the disk.

    Until then, and after an error, `path` is what it was. A device or a pipe is written to directly.
    """
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                yield file
        else:
            yield from _replacing(path.resolve())  # so that what a link stands for is replaced, not the link
    except BrokenPipeError:
        raise
    except OSError as error:
        raise GpubpError(f"cannot write {str(path)!r}: {error.strerror or error}; choose another place") from None


def _replacing(path: Path) -> Iterator[BinaryIO]:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes it the owner's alone
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):  # after the replacement
            os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
