"""Damage: a file that was cut off or whose bits have flipped is read or refused, and never ends in another error."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpubp.data.files import Source, open_data
from gpubp.errors import DataError

X = np.random.default_rng(0).normal(size=(9, 3))
Y = np.array(["a", "bc", "d"] * 3)


def stored(folder: Path) -> Path:
    np.savez(folder / "some.npz", x=X, y=Y)
    return folder / "some.npz"


def compressed(folder: Path) -> Path:
    np.savez_compressed(folder / "some.npz", x=X, y=Y)
    return folder / "some.npz"


def inputs(folder: Path) -> Path:
    np.save(folder / "x.npy", X)
    np.save(folder / "y.npy", Y)
    return folder / "x.npy"


def targets(folder: Path) -> Path:
    inputs(folder)
    return folder / "y.npy"


def idx(folder: Path) -> Path:
    np.save(folder / "y.npy", Y)
    (folder / "x.npy").write_bytes(struct.pack(">BBBBII", 0, 0, 14, 2, *X.shape) + X.astype(">f8").tobytes())
    return folder / "x.npy"


def packed_idx(folder: Path) -> Path:
    path = idx(folder)
    path.write_bytes(gzip.compress(path.read_bytes()))
    return path


def csv(folder: Path) -> Path:
    rows = [f'{a},{b},{c},"{name}"' for (a, b, c), name in zip(X, Y, strict=True)]
    (folder / "some.csv").write_text("\n".join(["a,b,c,class", *rows, ""]))
    return folder / "some.csv"


WRITERS = [stored, compressed, inputs, targets, idx, packed_idx, csv]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    if rng.random() < 0.2:
        return data[: rng.integers(len(data))]
    changed = bytearray(data)
    near = 200 if rng.random() < 0.5 else len(data)  # half of the time only the header
    for place in rng.integers(0, min(near, len(data)), rng.integers(1, 4)):
        changed[place] = rng.integers(256) if rng.random() < 0.5 else changed[place] ^ (1 << int(rng.integers(8)))
    return bytes(changed)


def read_or_refused(write: Callable[[Path], Path], folder: Path, count: int) -> None:
    path, rng = write(folder), np.random.default_rng(0)
    whole, outcomes = path.read_bytes(), []
    data = str(folder / "x.npy") if path.suffix == ".npy" else str(path)
    assert isinstance(open_data(data), Source)
    for _ in range(count):
        path.write_bytes(mutated(whole, rng))
        try:
            source = open_data(data)
        except DataError:
            outcomes.append(False)
        else:
            assert np.isfinite(source.train.x).all()
            assert len(source.train.y.tolist()) == len(source.train.x)
            outcomes.append(True)
    assert not all(outcomes)


@pytest.mark.parametrize("write", WRITERS)
def test_a_damaged_file_is_read_or_refused(write: Callable[[Path], Path], tmp_path: Path) -> None:
    read_or_refused(write, tmp_path, 100)


@pytest.mark.check
@pytest.mark.parametrize("write", WRITERS)
def test_ten_thousand_damaged_files_are_read_or_refused(write: Callable[[Path], Path], tmp_path: Path) -> None:
    read_or_refused(write, tmp_path, 10_000)
