"""Files: what `DATA` on the command line stands for, read into arrays or mapped where it lies."""

import os
import stat
from pathlib import Path

from gpubp.data import csv_table, idx, npy, npz, openml, pairs, parquet_table
from gpubp.data.datasets import DIGITS, digits
from gpubp.data.hashing import digest
from gpubp.data.samples import as_source
from gpubp.data.source import Source, Table
from gpubp.errors import DataError
from gpubp.registry import did_you_mean

__all__ = ["NAMES", "Source", "Table", "open_data"]

NAMES = ["digits", *openml.NAMES]
BINARY = {".npz", ".npy", ".parquet", ".gz"}  # suffixes of files that are told by their first bytes


def open_data(
    data: str,
    target: str | None = None,
    features: list[str] | None = None,
    needs_target: bool = True,
    trusted: bool = False,
) -> Source:
    """The samples behind a name, in a file or folder, or, with "-", in CSV on stdin.

    `target` is a column by name or number, or for inputs in .npy or IDX the file of the targets. `features` are the
    columns that a model was trained on. Without `needs_target` only the inputs are read. Files of arrays that are
    `trusted`, as another process looks through them, are mapped without being read, and have no sha256.
    """
    if data in NAMES:
        _refuse_target(data, target, features)
        return _digits() if data == "digits" else openml.open_openml(data)
    if data == "-":
        return csv_table.open_stdin(target, features, needs_target)
    try:
        return _open_path(Path(data), target, features, needs_target, trusted)
    except OSError as error:
        raise DataError(f"{error.filename or data} cannot be read: {error.strerror or error}") from None


def _open_path(path: Path, target: str | None, features: list[str] | None, needs_target: bool, trusted: bool) -> Source:
    if not os.path.lexists(path):
        bare = path.name == str(path) and not path.suffix
        raise DataError(f"{path}: there is no such file{f'; {did_you_mean(str(path), NAMES)}' if bare else ''}")
    kind = path.stat().st_mode
    if stat.S_ISDIR(kind):
        return pairs.open_folder(path, _target_file(target, features), needs_target, trusted)
    if not stat.S_ISREG(kind):
        raise DataError(f"{path} is no regular file; to read a pipe, give - and CSV on stdin")
    with path.open("rb") as file:
        start = file.read(8)
    if not start:
        raise DataError(f"{path} is empty")
    if (
        start.startswith(npy.MAGIC)
        or idx.is_idx(start)
        or (start.startswith(idx.GZIP_MAGIC) and idx.is_gzipped_idx(path))
    ):
        return pairs.open_pair(path, _target_file(target, features), needs_target, trusted)
    if start.startswith(npz.MAGIC):
        _refuse_target(str(path), target, features)
        return npz.open_npz(path, needs_target, trusted)
    if start.startswith(parquet_table.MAGIC):
        return parquet_table.open_parquet(path, target, features, needs_target)
    if start.startswith(idx.GZIP_MAGIC):
        raise DataError(f"{path} is compressed, and no IDX file; unpack it first: gunzip {path.name}")
    if path.suffix.lower() in BINARY:
        raise DataError(
            f"{path} does not begin as a {path.suffix} file with data does; it is damaged, or something else"
        )
    return csv_table.open_csv(path, target, features, needs_target)


def _target_file(target: str | None, features: list[str] | None) -> str | None:
    """The file of the targets; with a model of a table, `target` is otherwise its column, which arrays do not have."""
    return target if features is None or Path(target or "").is_file() else None


def _refuse_target(data: str, target: str | None, features: list[str] | None) -> None:
    if target is not None and features is None:
        raise DataError(f"{data} has no columns to choose the target {target!r} from; leave --target out")


def _digits() -> Source:
    x, y = digits()
    return as_source("digits", digest(DIGITS), [(("digits", x.reshape(-1, 8, 8)), ("digits", y))], peak=16.0)
