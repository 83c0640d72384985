"""Parquet, read by polars some megabytes at a time."""

from pathlib import Path
from typing import Any

import numpy as np

from gpubp.data import rows
from gpubp.data.cells import TargetColumn, refusal
from gpubp.data.hashing import digest
from gpubp.data.source import Source, Table
from gpubp.data.spool import Spool
from gpubp.data.tables import Columns, choose_columns
from gpubp.errors import DataError

MAGIC = b"PAR1"


def open_parquet(path: Path, target: str | None, features: list[str] | None, needs_target: bool) -> Source:
    try:
        import polars
    except ImportError:
        raise DataError(f"{path} is a Parquet file, which needs polars: pip install 'gpubp[data]'") from None
    try:
        frame = polars.scan_parquet(path, glob=False, hive_partitioning=False)
        types = dict(frame.collect_schema())
        columns = choose_columns(str(path), list(types), target, features, needs_target)
        table = _table(str(path), frame, types, columns)
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from None
    notes = "; ".join(columns.chosen) or None
    return Source(path.stem, table, None, digest(path), columns.names, columns.target_name, None, notes)


def _table(where: str, frame: Any, types: dict[str, Any], columns: Columns) -> Table:
    import polars

    for name in columns.names:
        if not _is_numeric(types[name]):
            raise DataError(f"{where}: the column {name!r} holds {types[name]}; encode it as numbers, or remove it")
    length = frame.select(polars.len()).collect().item()
    if not length:
        raise DataError(f"{where} has columns and no rows")
    target = columns.target_name
    x, y = Spool(np.float64), None if target is None else _Targets(where, target, types[target])
    step = max(1, rows.CHUNK_BYTES // (8 * len(types)))
    for start in range(0, length, step):
        # The streaming engine reads no more of the file than these rows; the other one reads whole row groups.
        piece = frame.slice(start, step).select([*columns.names, *([target] if target else [])])
        piece = piece.collect(engine="streaming")
        x.append(_numbers(where, start, piece.select(columns.names)))
        if y is not None:
            y.append(piece, start)
    return Table(x.array(), y and y.spool.array())


class _Targets:
    """The target's column, a piece at a time: numbers, or the names of classes."""

    def __init__(self, where: str, name: str, kind: Any) -> None:
        import polars

        self.where, self.name, self.numeric = where, name, _is_numeric(kind)
        if not self.numeric and kind not in (polars.String, polars.Categorical, polars.Enum):
            raise DataError(f"{where}: the target {name!r} holds {kind}, but numbers or text are needed")
        self.spool: Spool | TargetColumn = Spool(np.float64) if self.numeric else TargetColumn()

    def append(self, piece: Any, start: int) -> None:
        if isinstance(self.spool, Spool):
            self.spool.append(_numbers(self.where, start, piece.select(self.name))[:, 0])
            return
        cells = ["" if cell is None else str(cell) for cell in piece[self.name].to_list()]
        self.spool.append(cells, lambda i: _place(self.where, start + i, self.name))


def _is_numeric(kind: Any) -> bool:
    import polars

    return bool(kind.is_numeric()) or kind in (polars.Boolean, polars.Null)


def _numbers(where: str, start: int, piece: Any) -> Any:
    """These columns as float64 (n, columns); the first value that is no finite number is refused."""
    import polars

    values = piece.cast(polars.Float64).to_numpy()
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, column = wrong[0].tolist()
        raise refusal(_place(where, start + row, piece.columns[column]), str(piece[row, column]))
    return values


def _place(where: str, row: int, column: str) -> str:
    return f"{where}, row {row} (counted from 0), column {column!r}"
