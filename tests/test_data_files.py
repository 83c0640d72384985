"""What DATA may be: names, files and folders; and what is neither is refused in plain words."""

import gzip
import hashlib
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest

from gpubp.data import rows
from gpubp.data.datasets import DIGITS, load_dataset
from gpubp.data.files import open_data
from gpubp.data.spool import Spool
from gpubp.errors import DataError


def test_digits_are_raw_images() -> None:
    source = open_data("digits")
    assert (source.train.x.shape, source.train.x.dtype, source.peak) == ((1797, 8, 8), np.uint8, 16)
    np.testing.assert_array_equal(source.train.x.reshape(1797, 64) / np.float32(16), load_dataset("digits").x)
    np.testing.assert_array_equal(source.train.y, load_dataset("digits").y)
    assert source.sha256 == hashlib.sha256(DIGITS.read_bytes()).hexdigest()
    assert (source.name, source.test, source.features) == ("digits", None, None)


def test_digits_have_no_columns() -> None:
    with pytest.raises(DataError, match="digits has no columns to choose the target 'label' from; leave --target out"):
        open_data("digits", target="label")


# MNIST from OpenML


def openml(monkeypatch: pytest.MonkeyPatch, fetch: Any) -> None:
    """Put a function in the place of scikit-learn's."""
    module = ModuleType("sklearn.datasets")
    module.fetch_openml = fetch  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sklearn", ModuleType("sklearn"))
    monkeypatch.setitem(sys.modules, "sklearn.datasets", module)


@pytest.mark.parametrize(
    ("name", "called"),
    [("mnist", "mnist_784"), pytest.param("fashion-mnist", "Fashion-MNIST", marks=pytest.mark.check)],
)
def test_mnist_comes_from_openml(monkeypatch: pytest.MonkeyPatch, name: str, called: str) -> None:
    asked = []

    def fetch(name: str, **settings: Any) -> Any:
        asked.append((name, settings["version"], settings["as_frame"]))
        data = np.zeros((70_000, 784), np.float16)
        data[:, 1] = np.arange(70_000) % 256
        return SimpleNamespace(data=data, target=np.array([str(i % 10) for i in range(70_000)], dtype=object))

    openml(monkeypatch, fetch)
    source = open_data(name)
    assert asked == [(called, 1, False)]
    assert source.train.x.shape == (60_000, 28, 28)
    assert source.test is not None
    assert source.test.x.shape == (10_000, 28, 28)
    assert source.test.x.dtype == np.uint8
    assert source.test.x[0, 0, 1] == 60_000 % 256
    assert source.test.y[:11].tolist() == [*range(10), 0]
    assert (source.name, source.peak) == (name, 255)
    assert len(source.sha256) == 64


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (URLError("Temporary failure in name resolution"), "Temporary failure in name resolution"),
        (ValueError("md5 checksum does not match"), "md5 checksum"),
        (None, r"array of shape \(3, 784\)"),
    ],
)
def test_without_a_network_a_file_is_asked_for(monkeypatch: pytest.MonkeyPatch, error: Any, words: str) -> None:
    def fetch(*_: Any, **__: Any) -> Any:
        if error:
            raise error
        return SimpleNamespace(data=np.zeros((3, 784)), target=np.zeros(3))

    openml(monkeypatch, fetch)
    with pytest.raises(DataError, match=rf"mnist is not at hand: .*{words}.*give a file instead: an \.npz"):
        open_data("mnist")


def test_without_scikit_learn_a_file_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="pip install scikit-learn; or give a file"):
        open_data("fashion-mnist")


# What is no data


def test_a_misspelt_name_gets_a_hint() -> None:
    with pytest.raises(DataError, match="digts: there is no such file; did you mean 'digits'"):
        open_data("digts")


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nothing")
    (tmp_path / "file").write_text("1,2\n")
    for name, words in (
        ("none.csv", r"none\.csv: there is no such file$"),
        ("loop", "loop cannot be read: Too many levels"),
        ("gone.csv", r"gone\.csv cannot be read: No such file"),
        ("x" * 300 + ".csv", "there is no such file"),
        ("file/x.csv", "there is no such file"),
    ):
        with pytest.raises(DataError, match=words):
            open_data(str(tmp_path / name))


def test_a_folder_without_data_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder without x_train\.npy, x\.npy"):
        open_data(str(tmp_path))


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "some.csv")
    with pytest.raises(DataError, match="is no regular file; to read a pipe, give -"):
        open_data(str(tmp_path / "some.csv"))


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.csv"
    path.write_text("a,b\n1,2\n")
    path.chmod(0)
    if os.access(path, os.R_OK):  # as root one may
        monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"some\.csv cannot be read: Permission denied"):
        open_data(str(path))


def refuse(path: Path, *_: Any, **__: Any) -> Any:
    raise PermissionError(13, os.strerror(13), str(path))


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".parquet", ".gz"])
def test_a_suffix_that_promises_what_the_file_does_not_hold(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"something else")
    with pytest.raises(DataError, match=rf"x\{suffix} does not begin as a \{suffix} file"):
        open_data(str(path))
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        open_data(str(path))


def test_other_compressed_files_are_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "some.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    with pytest.raises(DataError, match=r"some\.csv\.gz is compressed, and no IDX file; unpack it first"):
        open_data(str(tmp_path / "some.csv.gz"))


def test_only_tables_have_columns_to_choose(tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", x=np.zeros((2, 1)), y=np.zeros(2))
    with pytest.raises(DataError, match=r"some\.npz has no columns to choose the target 'y' from"):
        open_data(str(tmp_path / "some.npz"), target="y")


def test_a_model_of_a_table_takes_arrays_by_position(tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", x=np.zeros((2, 1)), y=np.ones(2))
    np.save(tmp_path / "x.npy", np.zeros((2, 1)))
    np.save(tmp_path / "y.npy", np.ones(2))
    for name in ("some.npz", "x.npy", ""):
        assert open_data(str(tmp_path / name), "species", ["length"]).train.y.tolist() == [1, 1]


# The spool


@pytest.mark.parametrize("limit", [0, 100, 10_000])
def test_a_spool_gives_what_was_put_in(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, tmp_path: Path, limit: int
) -> None:
    monkeypatch.setattr(rows, "IN_MEMORY", limit)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pieces = [rng.normal(size=(length, 3)) for length in (1, 7, 0, 20)]
    spool = Spool(np.float64)
    for piece in pieces:
        spool.append(piece[:, ::-1])
    array = spool.array()
    np.testing.assert_array_equal(array, np.concatenate(pieces)[:, ::-1])
    assert isinstance(array, np.memmap) == (limit < 10_000)
    assert list(tmp_path.iterdir()) == []  # the file has no name, so that nothing is left of it, come what may
