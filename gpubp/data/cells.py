"""Cells: the texts in a table's columns as numbers or classes, and what is wrong with those that are neither."""

from collections.abc import Callable
from math import isfinite, nan
from typing import Any

import numpy as np

from gpubp.data.spool import Spool, in_pieces
from gpubp.errors import DataError

MISSING = {"", "?", "NA", "N/A", "n/a", "nan", "NaN", "NAN", "null", "NULL", "None"}
MOST_CLASSES = 1 << 16  # a target with more distinct texts than this names no classes
LONGEST_NAME = 1000  # characters of a class
MOST_NUMBERS_AMONG_TEXT = 20  # a target with more distinct numbers than this is one of numbers; text in it is a mistake

Place = Callable[[int], str]  # what an error calls the place of the i-th cell: file, row and column


def number(cell: str) -> float | None:
    """The number that a cell holds, which may be infinite or not a number."""
    try:
        return None if "_" in cell else float(cell)  # Python reads 1_000 as a number, nobody else does
    except ValueError:
        return None


def is_finite_number(cell: str) -> bool:
    value = number(cell)
    return value is not None and isfinite(value)


def as_numbers(cells: list[str], place: Place) -> Any:
    """These cells as float64; the first one that is no finite number is refused."""
    try:
        values = np.array(cells, np.float64)
        if np.isfinite(values).all() and "_" not in "".join(cells):
            return values
    except ValueError:
        pass
    for i, cell in enumerate(cells):
        if not is_finite_number(cell):
            raise refusal(place(i), cell)
    return np.array([float(cell) for cell in cells])


def refusal(place: str, cell: str) -> DataError:
    """What is wrong with a cell that holds no finite number."""
    shown = repr(cell) if len(cell) <= 40 else f"{cell[:40]!r}…"
    if cell.strip() in MISSING:
        return DataError(f"{place}: the value is missing ({shown}); remove the row, or fill the value in")
    if number(cell) is not None:
        return DataError(f"{place}: {shown} is not finite; remove the row, or replace the value")
    if is_finite_number(cell.replace(",", ".")):
        return DataError(f"{place}: {shown} is not a number; write {cell.strip().replace(',', '.')}")
    return DataError(f"{place}: {shown} is not a number; encode text as numbers, or remove the column")


class TargetColumn:
    """The cells of a target, a piece at a time: numbers if all of them are, otherwise the names of classes.

    Distinct texts are kept once, with a code for each row, until they are too many to be classes.
    """

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}  # by text
        self.values: list[float] = []  # by code; NaN for what is no number
        self.distinct_numbers = 0
        self.rows = Spool(np.int32)  # the codes of all rows
        self.first_text: tuple[str, str] | None = None  # the place and the text of the first that is no number
        self.numbers: Spool | None = None  # all rows, where there are too many different ones

    def append(self, cells: list[str], place: Place) -> None:
        if self.numbers is not None:
            self.numbers.append(as_numbers(cells, place))
            return
        for i, cell in enumerate(cells):
            if cell not in self.codes:
                self._learn(cell, place(i))
        self.rows.append(np.array([self.codes[cell] for cell in cells], np.int32))
        if len(self.codes) > MOST_CLASSES:
            self.numbers = self._decoded(np.array(self.values))
            self.codes, self.values = {}, []

    def array(self) -> Any:
        """All rows: float64, or text."""
        if self.numbers is not None:
            return self.numbers.array()
        names = np.array(self.values if self.first_text is None else list(self.codes))
        return self._decoded(names).array()

    def _learn(self, cell: str, place: str) -> None:
        value = number(cell)
        if cell in MISSING or (value is not None and not isfinite(value)):
            raise refusal(place, cell)
        if len(cell) > LONGEST_NAME or "\0" in cell:
            raise DataError(f"{place}: a text of {len(cell)} characters, {cell[:40]!r}…, names no class")
        self.codes[cell] = len(self.codes)
        self.values.append(nan if value is None else value)
        self.distinct_numbers += value is not None
        if value is None and self.first_text is None:
            self.first_text = place, cell
        if self.first_text is None:
            return
        if self.distinct_numbers > MOST_NUMBERS_AMONG_TEXT:
            raise refusal(*self.first_text)
        if len(self.codes) > MOST_CLASSES:
            raise DataError(
                f"{place}: this is the {len(self.codes)}th different text, too many to be classes; "
                "name another column with --target"
            )

    def _decoded(self, values: Any) -> Spool:
        spool = Spool(values.dtype)
        for codes in in_pieces(self.rows.array()):
            spool.append(values[codes])
        return spool
