"""How fast something grows beside its arithmetic: exponents, fitted in log-log over the upper half of the sizes."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Growth:
    """How fast something grows, over the sizes from `start` on, and how fast its arithmetic does."""

    exponent: float
    error: float  # its standard error
    arithmetic: float  # the exponent of it
    allowed: float  # what the exponent may be
    start: int
    prices: tuple[float, float, float]  # measured / arithmetic at the first size, at `start` and at the last

    @property
    def met(self) -> bool:
        return self.exponent <= self.allowed


def growth(sizes: list[int], measured: list[Any], arithmetic: list[int], slack: float) -> Growth:
    """The exponent of `measured` beside that of `arithmetic`, over the upper half of the sizes, three or more.

    It is the slope of the line by least squares through log(measured) against log(size). That is linear, so it is the
    arithmetic's own slope and an excess, the slope of log(measured / arithmetic), whose standard error is given.
    Below, what does not grow would matter. `allowed` is the arithmetic's exponent, two standard errors, for the noise,
    and log(slack) / log(last size / first), which is what the exponent gains where the price of an operation, or of a
    byte, is `slack` times as high at the last of these sizes: caches may do that once, a higher power goes on.

    >>> found = growth([1, 2, 4, 8, 16], [9.0, 9.0, 12.0, 24.0, 48.0], [1, 2, 4, 8, 16], slack=1.5)
    >>> round(found.exponent, 6), round(found.arithmetic, 6), found.start, found.met
    (1.0, 1.0, 4, True)
    """
    half = len(sizes) // 2
    x = np.log(sizes[half:])
    prices = np.divide(measured, arithmetic)
    own, _ = slope(x, np.log(np.array(arithmetic[half:], float)))
    excess, error = slope(x, np.log(prices[half:]))
    allowed = own + 2 * error + math.log(slack) / float(x[-1] - x[0])
    ends = float(prices[0]), float(prices[half]), float(prices[-1])
    return Growth(own + excess, error, own, allowed, sizes[half], ends)


def slope(x: Any, y: Any) -> tuple[float, float]:
    """Of the line by least squares, with its standard error."""
    x, y = x - x.mean(), y - y.mean()
    b = float(x @ y / (x @ x))
    residuals = y - b * x
    return b, math.sqrt(float(residuals @ residuals) / (len(x) - 2) / float(x @ x))
