"""The .npz format: arrays in a zip file, mapped where they are stored and unpacked where they are compressed."""

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.data.hashing import digest
from gpubp.data.npy import read_header
from gpubp.data.samples import Part, as_source
from gpubp.data.source import Source
from gpubp.data.spool import Spool
from gpubp.errors import DataError, GpubpError
from gpubp.registry import did_you_mean

MAGIC = b"PK"
PIECE_BYTES = 1 << 20
MOST_LISTED = 20
DAMAGE = (  # all that zipfile and the libraries under it raise for files that are not as they should be
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)


def open_npz(path: Path, needs_target: bool, trusted: bool) -> Source:
    """x_train and y_train, or x and y, and as the test part x_test and y_test where they are."""
    with _opened(path) as archive:
        found = ", ".join(archive.namelist()[:MOST_LISTED]) or "nothing"
        train = _part(path, archive, ("x_train", "y_train"), needs_target)
        train = train or _part(path, archive, ("x", "y"), needs_target)
        test = _part(path, archive, ("x_test", "y_test"), needs_target)
    if train is None and "xl/" in found:
        raise DataError(f"{path} is an Excel workbook; save its sheet as CSV")
    if train is None:
        raise DataError(
            f"{path} holds {found}; the arrays x_train and y_train are needed, or x and y, "
            "and x_test and y_test where there is a test part"
        )
    sha256 = "" if trusted else digest(path)
    return as_source(path.stem, sha256, [train, test] if test else [train], trusted=trusted)


def read_arrays(path: Path, known: list[str]) -> dict[str, Any]:
    """The arrays of a file that holds none but those known by name."""
    with _opened(path) as archive:
        names = {member: member.removesuffix(".npy") for member in archive.namelist()}
        for member, name in names.items():
            if name not in known or name == member:
                raise DataError(f"{path} holds {member!r:.60}, which is not looked for; {did_you_mean(name, known)}")
        return {name: _array(path, archive, name)[1] for name in names.values()}


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except GpubpError:
        raise
    except DAMAGE as error:
        raise DataError(f"{path} is damaged, or no .npz file: {error}") from None


def _part(path: Path, archive: zipfile.ZipFile, pair: tuple[str, str], needs_target: bool) -> Part | None:
    x, y = pair
    names = archive.namelist()
    if f"{x}.npy" not in names:
        return None
    if needs_target and f"{y}.npy" not in names:
        raise DataError(f"{path} holds {x}, but no {y}; each sample needs a target")
    return _array(path, archive, x), _array(path, archive, y) if needs_target else None


def _array(path: Path, archive: zipfile.ZipFile, name: str) -> tuple[str, Any]:
    called, member = f"{path}: {name}", archive.getinfo(f"{name}.npy")
    spool = Spool(np.uint8)
    with archive.open(member) as file:  # which raises an error at the end of the file if the checksum is wrong
        header = read_header(called, file, member.file_size)
        while piece := file.read(PIECE_BYTES):
            if member.compress_type != zipfile.ZIP_STORED:
                spool.append(np.frombuffer(piece, np.uint8))
    if member.compress_type == zipfile.ZIP_STORED:
        return called, header.mapped(path, _start(path, member))
    return called, header.view(spool.array())


def _start(path: Path, member: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes begin: behind its local header, whose name and extra field vary in length."""
    with path.open("rb") as file:
        file.seek(member.header_offset)
        name, extra = struct.unpack("<26xHH", file.read(30))
    return member.header_offset + 30 + int(name) + int(extra)
