"""A source: the samples that stand in a file or behind a name, and what is known about them."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """Samples as a file holds them."""

    x: Any  # (N, ...) finite numbers: an array, or a memory map where they are many
    y: Any  # (N,) of text or numbers, (N, K) of numbers, or None where there are no targets


@dataclass(frozen=True)
class Source:
    """What stands in a file, or behind a name."""

    name: str  # a short one, for folders: digits, iris
    train: Table  # all samples, where the file has no test part of its own
    test: Table | None
    sha256: str  # of all its files
    features: list[str] | None  # the columns' names, where they have some
    target: str | None  # the target column's name
    peak: float | None  # the greatest value of a pixel: 255 for the bytes of images; None for tables
    chosen: str | None = None  # what was decided without being asked for, to be told to the user
