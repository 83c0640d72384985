"""The IDX format of MNIST: unsigned bytes or big-endian numbers behind a short header, also compressed by gzip."""

import gzip
import zlib
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gpubp.data.spool import Spool
from gpubp.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
DTYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}  # by the third byte of the file
PIECE_BYTES = 1 << 20


def is_idx(start: bytes) -> bool:
    """Whether the first four bytes of a file are those of IDX."""
    return len(start) >= 4 and start[:2] == b"\0\0" and start[2] in DTYPES and start[3] > 0


def is_gzipped_idx(path: Path) -> bool:
    try:
        with gzip.open(path) as file:
            return is_idx(file.read(4))
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return False


def open_idx(path: Path) -> Any:
    """The array: mapped where it lies, or unpacked."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP_MAGIC
    if packed:
        return _unpacked(path)
    with path.open("rb") as file:
        dtype, shape = _header(path, file)
        start, size = file.tell(), path.stat().st_size
    if start + _bytes(dtype, shape) != size:
        raise _wrong_size(path, dtype, shape, size - start)
    return np.memmap(path, dtype, "r", start, shape) if size > start else np.empty(shape, dtype)


def _unpacked(path: Path) -> Any:
    spool = Spool(np.uint8)
    try:
        with gzip.open(path) as file:
            dtype, shape = _header(path, file)
            while spool.length <= _bytes(dtype, shape) and (piece := file.read(PIECE_BYTES)):
                spool.append(np.frombuffer(piece, np.uint8))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or cut off: {error}") from None
    if spool.length != _bytes(dtype, shape):
        raise _wrong_size(path, dtype, shape, spool.length)
    return spool.array().view(dtype).reshape(shape)


def _header(path: Path, file: BinaryIO | gzip.GzipFile) -> tuple[Any, tuple[int, ...]]:
    start = file.read(4)
    lengths = file.read(4 * start[3]) if is_idx(start) else b""
    if not lengths or len(lengths) < 4 * start[3]:
        raise DataError(f"{path} has an IDX header that is damaged or cut off")
    return np.dtype(DTYPES[start[2]]), tuple(np.frombuffer(lengths, ">u4").tolist())


def _bytes(dtype: Any, shape: tuple[int, ...]) -> int:
    return prod(shape) * int(dtype.itemsize)


def _wrong_size(path: Path, dtype: Any, shape: tuple[int, ...], size: int) -> DataError:
    return DataError(
        f"{path} says that it holds {dtype} {shape}, {_bytes(dtype, shape)} bytes, "
        f"but {'more' if size > _bytes(dtype, shape) else size} are there; it is damaged or cut off"
    )
