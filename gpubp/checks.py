"""Checks of single settings, shared by everything that takes numbers from a user."""

from math import isfinite
from numbers import Integral, Real
from typing import Any

from gpubp.errors import DataError


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> float:
    """A finite number within the bounds, as a float; otherwise a DataError with the name, the value and the bounds."""
    ok = isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
    converted = float(value) if ok else 0.0
    stated = []
    if above is not None:
        stated.append((f"greater than {above:g}", converted > above))
    if least is not None:
        stated.append((f"at least {least:g}", converted >= least))
    if below is not None:
        stated.append((f"below {below:g}", converted < below))
    if most is not None:
        stated.append((f"at most {most:g}", converted <= most))
    if ok and all(held for _, held in stated):
        return converted
    raise DataError(f"{name} must be a number {' and '.join(words for words, _ in stated)}, got {value!r}")


def count(name: str, value: Any, alternative: str = "") -> int:
    """A positive integer."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise DataError(f"{name} must be a positive integer{alternative}, got {value!r}")
    return int(value)


def seed(value: Any, alternative: str = "") -> int:
    """A seed of NumPy's generators that fits into 64 bits."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not 0 <= int(value) < 2**64:
        raise DataError(f"seed must be an integer from 0 to 2^64 − 1{alternative}, got {value!r}")
    return int(value)
