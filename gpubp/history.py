"""History: what a training did, epoch by epoch, as a plain table."""

import csv
import json
from collections.abc import Iterator
from io import StringIO
from os import PathLike
from pathlib import Path
from typing import Any

from gpubp.errors import DataError
from gpubp.whole import write_whole


class History:
    """One record an epoch, of the losses, the metrics, the learning rate and the time.

    Its keys are epoch, loss, validation_loss and metrics where asked for, learning_rate, seconds, samples_per_second.
    `history["loss"]` is a column, `history.records` the rows; `stopped` says why training ended: "finished",
    "early stopping", "callback" or "interrupted". `best_epoch` is the epoch whose weights early stopping kept.
    """

    def __init__(self, records: list[dict[str, Any]] | None = None) -> None:
        self.records = records or []
        self.stopped = "finished"
        self.best_epoch: int | None = None

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for record in self.records for name in record))

    def __getitem__(self, column: str) -> list[Any]:
        if column not in self.columns:
            raise KeyError(f"history has no column {column!r}; it has {', '.join(self.columns) or 'no records'}")
        return [record.get(column) for record in self.records]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.records)

    def __repr__(self) -> str:
        loss = f", loss {self.records[-1]['loss']:.4g}" if self.records else ""
        return f"History({len(self)} epochs{loss}, {self.stopped})"

    def __str__(self) -> str:
        columns = self.columns
        rows = [columns, *([_cell(record.get(name)) for name in columns] for record in self.records)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the records as JSON lines (.jsonl) or as a table (.csv), whole or not at all."""
        path, text = Path(path), StringIO(newline="")
        if path.suffix == ".csv":
            writer = csv.DictWriter(text, self.columns)
            writer.writeheader()
            writer.writerows(self.records)
        elif path.suffix == ".jsonl":
            text.writelines(json.dumps(record) + "\n" for record in self.records)
        else:
            raise DataError(f"history is saved as .jsonl or .csv, got {str(path)!r}")
        write_whole(path, text.getvalue().encode())


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
