"""Values for `parametrize` of which the fast tests take a sample, and `check` the rest."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def sampled(values: Iterable[Any], fast: Collection[Any]) -> list[Any]:
    """All the values, in order, those that are not to be fast marked `check`."""
    found = list(values)
    assert all(value in found for value in fast), "a sample of other values would leave the fast tests with none"
    return [value if value in fast else pytest.param(value, marks=pytest.mark.check) for value in found]
