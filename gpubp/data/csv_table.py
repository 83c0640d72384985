"""CSV: text of any length, read a few thousand rows at a time, checked cell by cell and kept as numbers."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.data.cells import TargetColumn, as_numbers, is_finite_number
from gpubp.data.hashing import HashedReader
from gpubp.data.source import Source, Table
from gpubp.data.spool import Spool
from gpubp.data.tables import Columns, choose_columns
from gpubp.errors import DataError

DELIMITERS = ",;\t"
LONGEST_LINE = 1 << 25  # characters
MOST_HEADER_LINES = 100  # quoted names may hold line breaks
UNLIKELY_CLASSES = {"target", "Target", "label", "Label", "class", "Class"}  # where one of them stands, it is a header
CELLS_AT_ONCE = 20_000  # few enough to stay in the processor's cache

Batch = tuple[Any, list[str], Sequence[int]]  # inputs (n, columns), targets and the numbers of the rows' first lines


def open_csv(path: Path, target: str | None, features: list[str] | None, needs_target: bool) -> Source:
    with path.open("rb", buffering=0) as file:
        return _read(str(path), path.stem, file, target, features, needs_target)


def open_stdin(target: str | None, features: list[str] | None, needs_target: bool) -> Source:
    return _read("stdin", "stdin", sys.stdin.buffer, target, features, needs_target)


def _read(
    where: str, name: str, file: Any, target: str | None, features: list[str] | None, needs_target: bool
) -> Source:
    hashed = HashedReader(file)
    lines = _Lines(where, hashed)
    try:
        head = _lines_of_two_records(lines)
        delimiter = _delimiter(head)
        reader = csv.reader(head, delimiter=delimiter, strict=True)
        first = next(reader, [])
        if not first:
            raise DataError(f"{where} is empty, or begins with a blank line; a header and rows of numbers are needed")
        header_lines = reader.line_num
        header = _is_header(first, next(reader, []), target, features)
        names = [cell.strip() for cell in first] if header else [str(column) for column in range(len(first))]
        columns = choose_columns(where, names, target, features, needs_target, named=header)
        skipped = header_lines if header else 0
        table = _table(_Rows(where, chain(head[skipped:], lines), skipped, delimiter, len(names), columns), columns)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is no text in UTF-8 (near line {lines.count + 1}: {error.reason}); save it as CSV in UTF-8"
        ) from None
    except csv.Error as error:
        raise DataError(f"{where}, line {lines.count}: {error}") from None
    notes = ([] if header else [f"there is no header; the columns are called 0 to {len(names) - 1}"]) + columns.chosen
    sha256, chosen = hashed.sha256.hexdigest(), "; ".join(notes) or None
    return Source(name, table, None, sha256, columns.names, columns.target_name, None, chosen)


class _Lines:
    """The lines of a file: text only, and none too long for memory."""

    def __init__(self, where: str, file: io.RawIOBase) -> None:
        self.where, self.count = where, 0
        self.text = io.TextIOWrapper(io.BufferedReader(file, 1 << 16), encoding="utf-8-sig", newline="")

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.text.readline(LONGEST_LINE)
        if not line:
            raise StopIteration
        self.count += 1
        if "\0" in line or len(line) == LONGEST_LINE:
            raise DataError(
                f"{self.where}, line {self.count}: this is no text; "
                "CSV, or a file in .npz, .npy, .parquet or IDX, is needed"
            )
        return line


def _lines_of_two_records(lines: Iterator[str]) -> list[str]:
    """At least the first two records; a quoted name may go on in the next line, so that quotes must come in pairs."""
    head: list[str] = []
    for _ in range(2):
        quotes, longest = 0, len(head) + MOST_HEADER_LINES
        for line in lines:
            head.append(line)
            quotes += line.count('"')
            if quotes % 2 == 0 or len(head) == longest:
                break
    return head


def _delimiter(head: list[str]) -> str:
    """The one that cuts both records into the same number of fields, or else the first one into the most."""
    fits = []
    for delimiter in DELIMITERS:
        reader = csv.reader(head, delimiter=delimiter)
        try:
            first, second = len(next(reader, [])), len(next(reader, []))
        except csv.Error:  # a wide line that this one does not cut is too long for a field
            first, second = 0, 0
        fits.append((first == second > 1, first))
    return DELIMITERS[fits.index(max(fits))]


def _is_header(first: list[str], second: list[str], target: str | None, features: list[str] | None) -> bool:
    """Whether the first line names the columns: it holds names that are known, or text above numbers."""
    names = {cell.strip() for cell in first}
    for known in (features or [], [target] if target else []):
        if names.issuperset(known) and not all(map(is_finite_number, known)):
            return True
    if not names.isdisjoint(UNLIKELY_CLASSES):
        return True
    if not second:
        return not any(map(is_finite_number, first))
    return any(
        is_finite_number(below) and not is_finite_number(cell) for cell, below in zip(first, second, strict=False)
    )


def _table(rows: "_Rows", columns: Columns) -> Table:
    x, y = Spool(np.float64), None if columns.target is None else TargetColumn()
    for inputs, targets, lines in rows:
        x.append(inputs)
        if y is not None and columns.target is not None:
            y.append(targets, partial(_place, rows.where, lines, [columns.target[1]]))
    if not x.length:
        raise DataError(f"{rows.where} holds a header and no rows")
    return Table(x.array(), None if y is None else y.array())


def _place(where: str, lines: Sequence[int], names: list[str], cell: int) -> str:
    """What an error calls one of the cells of these columns, row by row."""
    row, column = divmod(cell, len(names))
    return f"{where}, line {lines[row]}, column {names[column]!r}"


class _Rows:
    """The rows below the header, some thousands of cells at a time: inputs, targets, and each row's line."""

    def __init__(
        self, where: str, lines: Iterator[str], above: int, delimiter: str, width: int, columns: Columns
    ) -> None:
        self.where, self.lines, self.line = where, lines, above + 1
        self.delimiter, self.width, self.columns = delimiter, width, columns
        self.blank = 0  # the first of the blank lines that may only be the last ones
        self.place = 0 if columns.target is None else columns.target[0]

    def __iter__(self) -> Iterator[Batch]:
        while batch := list(islice(self.lines, max(1, CELLS_AT_ONCE // self.width))):
            read, taken = self._by_numpy(batch), len(batch)
            if read is None:
                read, taken = self._by_csv(batch)
            self.line += taken
            yield read

    def _by_numpy(self, batch: list[str]) -> Batch | None:
        """Lines without quotes and mistakes, several times faster than csv; None for others, where csv finds them."""
        fields = self.width - 1
        if self.blank or any(line.count(self.delimiter) != fields or '"' in line or line.isspace() for line in batch):
            return None
        try:
            inputs = np.loadtxt(
                batch, np.float64, comments=None, delimiter=self.delimiter, usecols=self.columns.inputs, ndmin=2
            )
        except ValueError:
            return None
        if not np.isfinite(inputs).all():
            return None
        targets = [line.split(self.delimiter, self.place + 1)[self.place].strip() for line in batch]
        return inputs, targets, range(self.line, self.line + len(batch))

    def _by_csv(self, batch: list[str]) -> tuple[Batch, int]:
        """The records that begin in these lines, and how many lines they take: the last one may go on beyond them."""
        reader = csv.reader(chain(batch, self.lines), delimiter=self.delimiter, strict=True)
        rows, lines = [], []
        while reader.line_num < len(batch):
            line = self.line + reader.line_num
            try:
                row = next(reader)
            except csv.Error as error:
                raise DataError(f"{self.where}, line {line}: {error}") from None
            if len(row) < 2 and not "".join(row).strip():
                self.blank = self.blank or line
            elif self.blank:
                raise DataError(f"{self.where}, line {self.blank} is blank; remove it")
            elif len(row) != self.width:
                raise DataError(f"{self.where}, line {line} has {len(row)} fields, but the first line has {self.width}")
            else:
                rows.append(row)
                lines.append(line)
        cells = [row[column] for row in rows for column in self.columns.inputs]
        inputs = as_numbers(cells, partial(_place, self.where, lines, self.columns.names))
        targets = [row[self.place].strip() for row in rows]
        return (inputs.reshape(len(rows), len(self.columns.inputs)), targets, lines), reader.line_num
