"""The spool: what is read a piece at a time becomes one array, on disk where it is too large for memory."""

import os
import tempfile
from collections import deque
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from gpubp.data import rows
from gpubp.errors import GpubpError


class Spool:
    """Pieces (n, ...) of one dtype, appended one after the other.

    Those beyond `rows.IN_MEMORY` bytes go into an unlinked temporary file, which lives as long as the array.
    """

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self.bytes, self.length = 0, 0
        self.shape: tuple[int, ...] = ()  # of one entry
        self.pieces: deque[Any] = deque()
        self.file: IO[bytes] | None = None

    def append(self, piece: Any) -> None:
        piece = np.ascontiguousarray(piece, self.dtype)
        self.bytes, self.length, self.shape = self.bytes + piece.nbytes, self.length + len(piece), piece.shape[1:]
        self.pieces.append(piece)
        if self.bytes > rows.IN_MEMORY:
            self._write()

    def array(self) -> Any:
        """All pieces as one array; the spool is empty afterwards."""
        shape = (self.length, *self.shape)
        if self.file:
            with self.file:
                return np.memmap(self.file, self.dtype, "r+", shape=shape)
        values, start = np.empty(shape, self.dtype), 0
        while self.pieces:  # each piece is let go as soon as it is copied, so that not all of them exist twice
            piece = self.pieces.popleft()
            values[start : start + len(piece)] = piece
            start += len(piece)
        return values

    def __del__(self) -> None:
        if self.file:
            self.file.close()

    def _write(self) -> None:
        try:
            if self.file is None:
                self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
            while self.pieces:
                left = memoryview(self.pieces.popleft().reshape(-1).view(np.uint8))
                while left:
                    left = left[self.file.write(left) :]
        except OSError as error:
            raise GpubpError(
                f"the data, {self.bytes >> 20} MiB so far, does not fit into the temporary folder "
                f"{tempfile.gettempdir()}: {os.strerror(error.errno or 0)}; set TMPDIR to a folder with more room"
            ) from None


def in_pieces(array: Any) -> Iterator[Any]:
    """An array (N, ...) some megabytes at a time, in order."""
    step = max(1, rows.CHUNK_BYTES * len(array) // max(1, array.nbytes))
    for start in range(0, len(array), step):
        yield array[start : start + step]


def native(array: Any) -> Any:
    """`array` in this machine's byte order: itself where it is, else a copy that may lie on disk."""
    if array.dtype.isnative:
        return array
    spool = Spool(array.dtype.newbyteorder("="))
    for piece in in_pieces(array):
        spool.append(piece)
    return spool.array()
