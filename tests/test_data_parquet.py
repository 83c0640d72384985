"""Parquet: the same rules as for CSV, with rows counted from 0."""

import datetime
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest

from gpubp.data import rows
from gpubp.data.files import Source, open_data
from gpubp.errors import DataError

N = 1000
TABLE = {
    "length": np.arange(N) / 8,
    "count": np.arange(N) % 7,
    "wet": np.arange(N) % 2 == 0,
    "species": ["setosa", "versicolor"] * (N // 2),
}


def write(folder: Path, columns: Any, **settings: Any) -> str:
    path = folder / "some [1]*.parquet"  # what a glob would read otherwise
    polars.DataFrame(columns).write_parquet(path, **settings)
    return str(path)


def holds_the_table(source: Source) -> None:
    np.testing.assert_array_equal(source.train.x, np.stack([TABLE["length"], TABLE["count"], TABLE["wet"]], axis=1))
    assert source.train.x.dtype == np.float64
    assert source.train.y.tolist() == TABLE["species"]
    assert (source.name, source.features, source.target) == ("some [1]*", ["length", "count", "wet"], "species")
    assert (source.test, source.peak) == (None, None)


@pytest.mark.parametrize("kind", [polars.String, polars.Categorical, polars.Enum(["setosa", "versicolor"])], ids=str)
def test_numbers_booleans_and_the_names_of_classes(tmp_path: Path, kind: Any) -> None:
    data = write(tmp_path, polars.DataFrame(TABLE).cast({"species": kind}))
    source = open_data(data)
    holds_the_table(source)
    assert source.sha256 == sha256(Path(data).read_bytes()).hexdigest()
    assert "'species', the last column" in (source.chosen or "")


@pytest.mark.parametrize("size", [33, N])
def test_a_large_file_is_read_in_pieces_and_kept_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(rows, "CHUNK_BYTES", 32 * 70)
    monkeypatch.setattr(rows, "IN_MEMORY", 5000)
    source = open_data(write(tmp_path, TABLE, row_group_size=size))
    holds_the_table(source)
    assert isinstance(source.train.x, np.memmap)


def test_targets_and_models_columns(tmp_path: Path) -> None:
    data = write(tmp_path, {name: TABLE[name] for name in ("species", "count", "length", "wet")})
    with pytest.raises(DataError, match="column 'species', which the model was not trained on"):
        open_data(data, "wet", ["length", "count"])
    for target in ("species", "0", "-4"):
        holds_the_table(open_data(data, target, ["length", "count", "wet"]))
    assert open_data(data, "species", ["length", "count", "wet"], needs_target=False).train.y is None
    numbers = open_data(write(tmp_path, {"a": [1, 2], "y": [True, False], "b": [0.5, 1.5]}))
    assert (numbers.target, numbers.train.y.tolist(), numbers.train.x.tolist()) == ("y", [1, 0], [[1, 0.5], [2, 1.5]])


def hole(name: str, value: Any) -> polars.DataFrame:
    columns = {key: list(values) for key, values in TABLE.items()}
    columns[name][700] = columns[name][705] = value
    return polars.DataFrame(columns)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (hole("length", None), r"row 700 \(counted from 0\), column 'length': the value is missing"),
        (hole("length", float("nan")), r"row 700 .*, column 'length': the value is missing"),
        (hole("length", float("inf")), r"row 700 .*, column 'length': 'inf' is not finite"),
        (hole("count", None), r"row 700 .*, column 'count': the value is missing"),
        (hole("wet", None), r"row 700 .*, column 'wet': the value is missing"),
        (hole("species", None), r"row 700 .*, column 'species': the value is missing"),
        (hole("species", "?"), r"row 700 .*, column 'species': the value is missing"),
        ({"a": [None], "y": [1]}, r"row 0 .*, column 'a': the value is missing"),
        ({"a": [1], "y": [None]}, r"row 0 .*, column 'y': the value is missing"),
        ({"a": ["x"], "y": [1]}, "column 'a' holds String; encode it as numbers"),
        ({"a": [datetime.date(2026, 1, 1)], "y": [1]}, "column 'a' holds Date"),
        ({"a": [[1, 2]], "y": [1]}, r"column 'a' holds List\(Int64\)"),
        ({"a": [1], "y": [datetime.date(2026, 1, 1)]}, "target 'y' holds Date"),
        ({"a": [], "y": []}, "columns and no rows"),
        ({"y": [1]}, "no column but 'y'"),
    ],
)
def test_what_cannot_be_used_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: Any, words: str
) -> None:
    monkeypatch.setattr(rows, "CHUNK_BYTES", 32 * 70)
    with pytest.raises(DataError, match=rf"some \[1\]\*\.parquet.* {words}"):
        open_data(write(tmp_path, columns))


def test_a_damaged_file(tmp_path: Path) -> None:
    path = Path(write(tmp_path, TABLE))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"parquet cannot be read as Parquet"):
        open_data(str(path))


def test_a_panic_of_polars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(*_: Any, **__: Any) -> Any:
        raise polars.exceptions.PanicException("internal error: entered unreachable code")

    data = write(tmp_path, TABLE)
    monkeypatch.setattr(polars, "scan_parquet", panic)
    with pytest.raises(DataError, match="cannot be read as Parquet: internal error"):
        open_data(data)


def test_without_polars_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path, TABLE)
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(DataError, match=r"needs polars: pip install 'gpubp\[data\]'"):
        open_data(data)
