"""The data set that comes with gpubp."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.errors import DataError

DIGITS = Path(__file__).with_name("digits.npz")


@dataclass(frozen=True)
class Dataset:
    """Samples ready for a network: x (N, inputs) float32 and y (N,) int64 class indices."""

    x: Any
    y: Any


def load_dataset(name: str) -> Dataset:
    """The data set of this name that comes with gpubp: digits, 1797 images of 8 x 8, scaled to 0..1.

    >>> load_dataset("digits").x.shape
    (1797, 64)
    """
    if name != "digits":
        raise DataError(f"data set {name!r} does not come with gpubp; known: digits")
    x, y = digits()
    return Dataset(x.astype(np.float32) / 16, y.astype(np.int64))


def digits() -> tuple[Any, Any]:
    """The packaged images of digits as they are stored: uint8 (1797, 64), 0 to 16, and uint8 (1797,)."""
    with np.load(DIGITS) as arrays:
        return arrays["x"], arrays["y"]
