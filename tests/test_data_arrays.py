"""Arrays in files: .npz, .npy and IDX are mapped where that can be, and what cannot be used is refused by name."""

import gzip
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpubp.data import rows
from gpubp.data.files import Source, open_data
from gpubp.data.spool import Spool
from gpubp.errors import DataError

X = np.random.default_rng(0).normal(size=(12, 3))
Y = np.arange(12) % 3
IMAGES = np.random.default_rng(1).integers(0, 256, (12, 4, 5), dtype=np.uint8)
IDX_CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def npz(folder: Path, **arrays: Any) -> str:
    path = folder / "some.npz"
    np.savez(path, **arrays)
    return str(path)


def npy(path: Path, array: Any) -> str:
    np.save(path, array)
    return str(path)


def idx(path: Path, array: Any) -> str:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, IDX_CODES[array.dtype.str[1:]], array.ndim, *array.shape)
    data = header + array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def mapped(array: Any) -> bool:
    """Whether the values lie in a file; slices of a memory map are of the same class."""
    return isinstance(array, np.memmap) and array.filename is not None


def holds(table: Any, x: Any, y: Any) -> None:
    np.testing.assert_array_equal(table.x, x)
    np.testing.assert_array_equal(table.y, y)
    assert table.x.dtype == x.dtype


# .npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_a_test_part(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "ein Satz ü.npz"
    save(path, x_train=IMAGES, y_train=Y, x_test=IMAGES[:5], y_test=Y[:5], more=np.zeros(3))
    source = open_data(str(path))
    holds(source.train, IMAGES, Y)
    holds(source.test, IMAGES[:5], Y[:5])
    assert (source.name, source.peak, source.features, source.target) == ("ein Satz ü", 255.0, None, None)
    assert mapped(source.train.x) == mapped(source.train.y) == (save is np.savez)


def test_npz_without_a_test_part(tmp_path: Path) -> None:
    source = open_data(npz(tmp_path, x=X, y=Y))
    holds(source.train, X, Y)
    assert source.test is None
    assert source.peak is None


def test_an_array_in_column_order_is_read_as_it_was(tmp_path: Path) -> None:
    holds(open_data(npz(tmp_path, x=np.asfortranarray(X), y=Y)).train, X, Y)
    np.savez_compressed(tmp_path / "packed.npz", x=np.asfortranarray(X), y=Y)
    holds(open_data(str(tmp_path / "packed.npz")).train, X, Y)


def test_what_is_too_large_for_memory_is_unpacked_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "some.npz", x=X, y=Y)
    monkeypatch.setattr(rows, "IN_MEMORY", 100)
    source = open_data(str(tmp_path / "some.npz"))
    holds(source.train, X, Y)
    assert isinstance(source.train.x, np.memmap)


def test_targets_are_not_read_where_they_are_not_needed(tmp_path: Path) -> None:
    source = open_data(npz(tmp_path, x=X), needs_target=False)
    np.testing.assert_array_equal(source.train.x, X)
    assert source.train.y is None
    assert open_data(npz(tmp_path, x=X, y=np.full(12, np.nan)), needs_target=False).train.y is None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"features": X, "labels": Y}, r"features\.npy, labels\.npy.*x_train and y_train"),
        ({}, "holds nothing"),
        ({"x": X}, "holds x, but no y"),
        ({"x": X, "y": Y, "x_test": X}, "holds x_test, but no y_test"),
        ({"x": X, "y": Y[:5]}, r"y has shape \(5,\).*x holds 12 samples"),
        ({"x": X, "y": Y, "x_test": X[:, :2], "y_test": Y}, r"x_test holds samples of shape \(2,\).*x are \(3,\)"),
        ({"x": IMAGES, "y": Y, "x_test": IMAGES / 255, "y_test": Y}, "x_test is float64.*uint8.*alike"),
    ],
)
def test_an_npz_without_what_is_needed_is_refused(tmp_path: Path, arrays: Any, words: str) -> None:
    with pytest.raises(DataError, match=rf"some\.npz.*{words}"):
        open_data(npz(tmp_path, **arrays))


# What arrays may hold, whatever the file


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        (np.array(["b", "a"] * 6), np.array(["b", "a"] * 6)),
        (np.array([True, False] * 6), np.array([1, 0] * 6, np.int8)),
        (Y[:, None], Y),
        (Y.astype(">i4"), Y),
        (X, X),
        (X[:, 0].astype(np.float32), X[:, 0].astype(np.float32)),
        (np.eye(3, dtype=np.int64)[Y], Y),
        (np.eye(3)[Y], Y),
        (np.eye(3, dtype=bool)[Y], Y),
        (np.eye(3, dtype=np.int64)[Y] * 2, np.eye(3, dtype=np.int64)[Y] * 2),
        (np.ones((12, 2), np.int64), np.ones((12, 2), np.int64)),
        (np.array([[1, 2]] * 12), np.array([[1, 2]] * 12)),
    ],
    ids=str,
)
def test_targets_come_as_text_classes_or_values(tmp_path: Path, y: Any, expected: Any) -> None:
    source = open_data(npz(tmp_path, x=X, y=y))
    np.testing.assert_array_equal(source.train.y, expected)
    assert source.train.y.dtype.kind == expected.dtype.kind
    assert source.train.y.dtype.isnative
    assert (source.chosen is not None) == (y.ndim == 2 and expected.ndim == 1 and y.shape[1] == 3)


@pytest.mark.parametrize("x", [X[:, 0], X.astype(">f4"), X.astype(np.float16), IMAGES, X > 0, np.arange(12)], ids=str)
def test_inputs_of_every_kind(tmp_path: Path, x: Any) -> None:
    found = open_data(npz(tmp_path, x=x, y=Y)).train.x
    np.testing.assert_array_equal(found, x if x.ndim > 1 else x[:, None])
    assert found.dtype == x.dtype.newbyteorder("=")


def hole(shape: tuple[int, ...], place: tuple[int, ...], value: float = np.nan) -> Any:
    array = np.zeros(shape)
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (hole((12, 3), (7, 2)), Y, r"x: row 7, column 2 .* is nan"),
        (hole((12, 3), (0, 1), -np.inf), Y, r"x: row 0, column 1 .* is -inf"),
        (hole((12, 3, 4), (11, 2, 3)), Y, r"x: row 11, position \(2, 3\) .* is nan"),
        (X, hole((12,), (4,)), "y: row 4 .* is nan"),
        (X, hole((12, 2), (4, 1)), "y: row 4, column 1 .* is nan"),
        (X, Y.astype(complex), "y has dtype complex128"),
        (X, Y.astype("M8[s]"), r"y holds an array of '<M8\[s\]'"),
        (X, np.zeros(12, [("a", "f8")]), "y holds an array of .*'a'"),
        (X, np.array([b"a"] * 12), "y has dtype .S1.*numbers or text"),
        (X, np.array([["a", "b"]] * 12), "y has 2 texts a sample"),
        (X, np.zeros((12, 2, 2)), r"y has shape \(12, 2, 2\)"),
        (X, np.zeros((12, 0)), r"y has shape \(12, 0\)"),
        (X, np.array(3), r"y has shape \(\)"),
        (X.astype(np.longdouble), Y, "x has dtype float128"),
        (np.array([["a"]] * 12), Y, "x has dtype <U1.*numbers"),
        (np.array(3.0), Y, r"x has shape \(\)"),
        (np.zeros((0, 3)), Y[:0], r"x has shape \(0, 3\)"),
        (np.zeros((12, 0)), Y, r"x has shape \(12, 0\)"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(tmp_path: Path, x: Any, y: Any, words: str) -> None:
    with pytest.raises(DataError, match=rf"some\.npz: {words}"):
        open_data(npz(tmp_path, x=x, y=y))


def test_the_place_of_a_missing_value_is_that_in_the_whole_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "CHUNK_BYTES", 64)
    with pytest.raises(DataError, match="x: row 7, column 2"):
        open_data(npz(tmp_path, x=hole((12, 3), (7, 2)), y=Y))
    holds(open_data(npz(tmp_path, x=X.astype(">f8"), y=np.eye(3)[Y])).train, X, Y)


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_objects_are_never_unpickled(tmp_path: Path, suffix: str) -> None:
    sprung = tmp_path / "sprung"
    trap = np.array([Trap(sprung)] * 12, dtype=object)
    data = npz(tmp_path, x=trap, y=Y) if suffix == ".npz" else npy(tmp_path / "x.npy", trap)
    npy(tmp_path / "y.npy", Y)
    with pytest.raises(DataError, match=r"x.* holds Python objects, which are never unpickled"):
        open_data(data)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (10**9, 10**9), }", "header that cannot be read"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 3), }", "24000000000000 bytes, but 288"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }", "48 bytes, but 288 bytes are there"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 3), }", r"shape \(-1, 3\)"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (12.0, 3), }", r"shape \(12.0, 3\)"),
        ("{'descr': '<f9', 'fortran_order': False, 'shape': (12, 3), }", "dtype '<f9'"),
        ("{'descr': '<a8', 'fortran_order': False, 'shape': (12, 3), }", "an array of '<a8'"),
        ("{'descr': '\\<f8', 'fortran_order': False, 'shape': (12, 3), }", "an array of"),
        ("{'descr': '<U0', 'fortran_order': False, 'shape': (12, 3), }", "'<U0'"),
        ("{'shape': (12, 3), }", "header that cannot be read"),
        ("[" * 5000, "header that cannot be read"),
        ("__import__('os')", "header that cannot be read"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (12, 3), }" + " " * 20_000, "header that cannot be read"),
    ],
)
def test_a_header_that_lies_is_refused_before_anything_is_allocated(tmp_path: Path, header: str, words: str) -> None:
    text = header.encode() + b"\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + X.tobytes())
    npy(tmp_path / "y.npy", Y)
    with pytest.raises(DataError, match=rf"x\.npy .*{words}"):
        open_data(str(tmp_path / "x.npy"))
    with zipfile.ZipFile(tmp_path / "some.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "x.npy", "x.npy")
        archive.write(tmp_path / "y.npy", "y.npy")
    with pytest.raises(DataError, match=rf"some\.npz: x .*{words}"):
        open_data(str(tmp_path / "some.npz"))


def test_a_wrong_checksum_is_found_though_the_array_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubp.data.npz.PIECE_BYTES", 16)
    many = np.tile(IMAGES, (100, 1, 1))
    path = Path(npz(tmp_path, x=many, y=np.tile(Y, 100)))
    data = bytearray(path.read_bytes())
    data[data.index(many.tobytes()) + many.size - 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"some\.npz is damaged.*CRC"):
        open_data(str(path))


# Pairs of .npy


@pytest.mark.parametrize(
    ("x", "y", "name"),
    [("x", "y", "folder"), ("X", "Y", "folder"), ("x_train", "y_train", "folder"), ("iris-x", "iris-y", "iris")],
)
def test_a_pair_of_npy_is_mapped(tmp_path: Path, x: str, y: str, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    data = npy(folder / f"{x}.npy", X)
    npy(folder / f"{y}.npy", Y)
    source = open_data(data)
    holds(source.train, X, Y)
    assert mapped(source.train.x)
    assert source.test is None
    assert source.name == name


def pair_with_test_part(folder: Path) -> str:
    for name, array in (("x_train", X), ("y_train", Y), ("x_test", X[:4]), ("y_test", Y[:4])):
        npy(folder / f"{name}.npy", array)
    return str(folder / "x_train.npy")


def test_a_training_pair_brings_its_test_pair_and_a_folder_both(tmp_path: Path) -> None:
    data = pair_with_test_part(tmp_path)
    for source in (open_data(data), open_data(str(tmp_path))):
        holds(source.train, X, Y)
        holds(source.test, X[:4], Y[:4])
    holds(open_data(str(tmp_path / "x_test.npy")).train, X[:4], Y[:4])
    assert open_data(data, target=str(tmp_path / "y_train.npy")).test is None


def test_a_test_part_without_targets_serves_predictions_alone(tmp_path: Path) -> None:
    data = pair_with_test_part(tmp_path)
    (tmp_path / "y_test.npy").unlink()
    assert open_data(data).test is None
    inputs_alone: Source = open_data(data, needs_target=False)
    np.testing.assert_array_equal(inputs_alone.test.x, X[:4])  # type: ignore[union-attr]
    assert inputs_alone.train.y is None


def test_targets_may_lie_anywhere(tmp_path: Path) -> None:
    data, target = npy(tmp_path / "inputs.npy", X), npy(tmp_path / "other.npy", Y)
    holds(open_data(data, target=target).train, X, Y)
    with pytest.raises(DataError, match=r"inputs\.npy does not say where its targets are.*--target"):
        open_data(data)
    with pytest.raises(DataError, match=r"asked for from none\.npy"):
        open_data(data, target="none.npy")
    (tmp_path / "text.npy").write_text("1,2\n")
    with pytest.raises(DataError, match=r"text\.npy is neither a \.npy nor an IDX file"):
        open_data(data, target=str(tmp_path / "text.npy"))


def test_a_missing_partner_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.npy needs targets.*y\.npy beside it"):
        open_data(npy(tmp_path / "x.npy", X))


def test_the_hash_is_that_of_the_files_one_after_the_other(tmp_path: Path) -> None:
    from hashlib import sha256

    data, target = npy(tmp_path / "x.npy", X), npy(tmp_path / "y.npy", Y)
    both = Path(data).read_bytes() + Path(target).read_bytes()
    assert open_data(data).sha256 == sha256(both).hexdigest()
    single = npz(tmp_path, x=X, y=Y)
    assert open_data(single).sha256 == sha256(Path(single).read_bytes()).hexdigest()


# IDX


@pytest.mark.parametrize("names", [("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"), ("train-images.idx3-ubyte",)])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_of_bytes(tmp_path: Path, names: tuple[str, ...], suffix: str) -> None:
    folder = tmp_path / "meine Ziffern"
    folder.mkdir()
    for name in names:
        data = idx(folder / (name + suffix), IMAGES)
        idx(folder / (name.replace("images", "labels").replace("idx3", "idx1") + suffix), Y.astype(np.uint8))
    for source in (open_data(str(folder / (names[0] + suffix))), open_data(str(folder))):
        holds(source.train, IMAGES, Y)
        assert (source.test is not None) == (len(names) == 2)
        assert mapped(source.train.x) == (suffix == "")
        assert (source.name, source.peak) == ("meine Ziffern", 255.0)
    assert open_data(data).test is None or data.endswith(names[0] + suffix)


@pytest.mark.parametrize("code", IDX_CODES)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_of_every_type(tmp_path: Path, code: str, suffix: str) -> None:
    array = (np.arange(12).reshape(6, 2) - 3).astype(code)
    data = idx(tmp_path / f"some-images-idx2{suffix}", array)
    idx(tmp_path / "some-labels-idx1", Y[:6].astype(np.uint8))
    source = open_data(data)
    holds(source.train, array, Y[:6])
    assert source.train.x.dtype.isnative
    assert source.name == "some"


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("cut", "words"),
    [(-1, r"240 bytes, but 239 are there"), (9, "header that is damaged"), (None, "but (more|241) are there")],
)
def test_idx_that_is_cut_off_or_too_long(tmp_path: Path, suffix: str, cut: int | None, words: str) -> None:
    whole = Path(idx(tmp_path / "whole", IMAGES)).read_bytes()
    data = whole[:cut] if cut else whole + b"\0"
    path = tmp_path / f"x{suffix}"
    path.write_bytes(gzip.compress(data) if suffix else data)
    npy(tmp_path / "y", Y)
    with pytest.raises(DataError, match=words):
        open_data(str(path), target=str(tmp_path / "y.npy"))


def test_a_compressed_file_that_is_cut_off(tmp_path: Path) -> None:
    path = Path(idx(tmp_path / "x.gz", IMAGES))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"x\.gz is damaged or cut off"):
        open_data(str(path), needs_target=False)


def test_no_more_is_unpacked_than_the_header_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = []

    class Counting(Spool):
        def append(self, piece: Any) -> None:
            unpacked.append(len(piece))
            super().append(piece)

    monkeypatch.setattr("gpubp.data.idx.Spool", Counting)
    path = Path(idx(tmp_path / "x.gz", IMAGES))
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(50 << 20)))
    with pytest.raises(DataError, match="but more are there"):
        open_data(str(path), needs_target=False)
    assert sum(unpacked) < 4 << 20


def test_empty_idx(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shape \(0, 4\)"):
        open_data(idx(tmp_path / "x", IMAGES[:0, 0, :4]), needs_target=False)
