"""Hashes: what tells whether a file is still the one that a model was trained on."""

import hashlib
import io
from pathlib import Path
from typing import Any

PIECE_BYTES = 1 << 20


def digest(*paths: Path) -> str:
    """The SHA-256 of these files' bytes, one file after the other."""
    sha256 = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                sha256.update(piece)
    return sha256.hexdigest()


class HashedReader(io.RawIOBase):
    """A stream that is read once, from its start to its end, and hashed on the way."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.sha256 = stream, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = int(self.stream.readinto(buffer) or 0)
        self.sha256.update(memoryview(buffer)[:count])
        return count
