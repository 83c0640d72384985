"""The data sets that a name stands for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.data.split import split_rows
from gpubp.errors import DataError

DIGITS = Path(__file__).with_name("digits.npz")


@dataclass(frozen=True)
class Dataset:
    """Samples ready for a network: x (N, inputs) float32 and y (N,) int64 class indices."""

    name: str
    x: Any
    y: Any
    classes: int
    image: tuple[int, int] | None  # rows and columns of the picture that a row of x is

    def split(self, test: float) -> tuple[Any, Any]:
        """The numbers of the training and the test rows: stratified, and the same for the same share."""
        return split_rows(len(self.x), test, 0, self.y)


def load_dataset(name: str) -> Dataset:
    """The built-in data set of this name.

    >>> load_dataset("digits").x.shape
    (1797, 64)
    """
    if name != "digits":
        raise DataError(f"data {name!r} is not known; this version trains on: digits")
    x, y = digits()
    return Dataset("digits", x.astype(np.float32) / 16, y.astype(np.int64), classes=10, image=(8, 8))


def digits() -> tuple[Any, Any]:
    """The packaged images of digits as they are stored: uint8 (1797, 64), 0 to 16, and uint8 (1797,)."""
    with np.load(DIGITS) as arrays:
        return arrays["x"], arrays["y"]
