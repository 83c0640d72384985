"""The .npy format: its header, and its values mapped where they lie in a file."""

import ast
import re
import struct
import warnings
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from gpubp.errors import DataError

MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 10_000  # NumPy's own limit; text that is to be parsed stays short


@dataclass(frozen=True)
class Header:
    """What a .npy file says about itself: `offset` is the header's own length."""

    dtype: Any
    shape: tuple[int, ...]
    fortran: bool
    offset: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * int(self.dtype.itemsize)

    def mapped(self, path: Path, start: int = 0) -> Any:
        """The values of the .npy that begins at byte `start` of this file, read when they are used."""
        order: Any = "F" if self.fortran else "C"
        if not self.nbytes:
            return np.empty(self.shape, self.dtype)
        return np.memmap(path, self.dtype, "r", start + self.offset, self.shape, order)

    def view(self, values: Any) -> Any:
        """Bytes that have been read, as the array they are."""
        return values.view(self.dtype).reshape(self.shape, order="F" if self.fortran else "C")


def read_header(name: str, file: IO[bytes], size: int) -> Header:
    """The header at the start of a .npy of `size` bytes, which its array must fill."""
    start = file.read(8)
    if start[:6] != MAGIC:
        raise DataError(f"{name} does not begin as a .npy file; it is damaged, or something else")
    length_format = "<H" if start[6:7] == b"\x01" else "<I"
    packed = file.read(struct.calcsize(length_format))
    if start[6:7] not in (b"\x01", b"\x02", b"\x03") or len(packed) < struct.calcsize(length_format):
        raise DataError(f"{name} has a .npy header that cannot be read; the file is damaged")
    (length,) = struct.unpack(length_format, packed)
    text = file.read(length).decode("latin-1") if length <= LONGEST_HEADER else ""
    dtype, fortran, shape = _parse(name, text)
    header = Header(dtype, shape, fortran, 8 + len(packed) + length)
    if header.offset + header.nbytes != size:
        raise DataError(
            f"{name} says that it holds {dtype} {shape}, {header.nbytes} bytes, "
            f"but {max(0, size - header.offset)} bytes are there; it is damaged or cut off"
        )
    return header


def _parse(name: str, text: str) -> tuple[Any, bool, tuple[int, ...]]:
    try:
        with warnings.catch_warnings():  # of the parser about damaged text
            warnings.simplefilter("ignore")
            fields = ast.literal_eval(text.strip())
        descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    except (ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError):
        raise DataError(f"{name} has a .npy header that cannot be read; the file is damaged") from None
    if descr == "|O":
        raise DataError(
            f"{name} holds Python objects, which are never unpickled; save an array of numbers or text instead"
        )
    plain = isinstance(descr, str) and re.fullmatch(r"[<>|=][biufcSUV][1-9]\d*", descr)
    if not plain or not isinstance(shape, tuple) or not all(type(length) is int and length >= 0 for length in shape):
        raise DataError(f"{name} holds an array of {descr!r} and shape {shape!r}; one of numbers or text is needed")
    try:
        return np.dtype(descr), bool(fortran), shape
    except TypeError:
        raise DataError(f"{name} has the dtype {descr!r}, which NumPy does not know; the file is damaged") from None


def open_npy(path: Path) -> Any:
    with path.open("rb") as file:
        return read_header(str(path), file, path.stat().st_size).mapped(path)
