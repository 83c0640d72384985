"""An article's equations evaluated in plain NumPy, each beside what gpubp computes for the same quantity."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gpubp.explain.articles.article import largest, short
from gpubp.explain.document import Cell
from gpubp.network import Backprop

SHOWN = 3  # entries of an array


@dataclass(frozen=True)
class Equation:
    """One of them: its value in the article's notation, and gpubp's field and value."""

    text: str
    value: Any
    field: str  # of net.backprop
    ours: Any
    transposed: bool = False  # whether the article's array is gpubp's transposed

    @property
    def difference(self) -> float:
        return largest(np.transpose(self.value) if self.transposed else self.value, self.ours)


def equations(written: Mapping[str, tuple[str, str]], values: Mapping[str, Any], found: Backprop) -> list[Equation]:
    """Each as name: (its right side, gpubp's field), evaluated in `values` under its name."""
    return [
        Equation(f"{name} = {text}", values[name], field, field_of(found, field))
        for name, (text, field) in written.items()
    ]


def field_of(found: Backprop, field: str) -> Any:
    """The array that "deltas[1]" names."""
    name, _, index = field.partition("[")
    value = getattr(found, name)
    return value[int(index.removesuffix("]"))] if index else value


def difference_cell(value: float) -> Cell:
    return Cell(short(value), "good" if value <= 1e-12 else "bad")


def shape(value: ArrayLike) -> str:
    return " x ".join(map(str, np.shape(value)))


def vector(value: ArrayLike) -> str:
    """The first entries of an array, and dots for the others; signs keep them in line."""
    first = np.atleast_2d(value)[0, :SHOWN]
    return " ".join(f"{entry + 0.0:+.4f}" for entry in first) + " …" * (np.size(value) > first.size)
