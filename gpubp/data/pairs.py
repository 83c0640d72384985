"""Pairs of files, one of inputs and one of targets, in .npy or IDX: which belongs to which goes by their names."""

import re
from pathlib import Path
from typing import Any

from gpubp.data import idx, npy
from gpubp.data.hashing import digest
from gpubp.data.samples import as_source
from gpubp.data.source import Source
from gpubp.errors import DataError

PARTNERS = {"x": "y", "X": "Y", "images": "labels", "idx2": "idx1", "idx3": "idx1", "idx4": "idx1"}
IN_FOLDERS = (  # the files of inputs that a folder is searched for
    "x_train.npy",
    "x.npy",
    "train-images-idx3-ubyte",
    "train-images.idx3-ubyte",
    "train-images-idx3-ubyte.gz",
    "train-images.idx3-ubyte.gz",
)
NOT_NAMES = {*PARTNERS, "train", "test", "t10k", "ubyte", "idx", "npy", "gz"}  # words that do not tell sets apart


def open_pair(path: Path, target: str | None, needs_target: bool, trusted: bool) -> Source:
    """The inputs in `path`, the targets beside it or in the file `target`, and the test part beside a training part."""
    parts = [(path, _targets_of(path, target) if needs_target else None)]
    if target is None:
        parts += _test_part(path, needs_target)
    arrays = [(_named(x), None if y is None else _named(y)) for x, y in parts]
    sha256 = "" if trusted else digest(*(file for part in parts for file in part if file))
    return as_source(_name(path), sha256, arrays, trusted=trusted)


def open_folder(folder: Path, target: str | None, needs_target: bool, trusted: bool) -> Source:
    for name in IN_FOLDERS:
        if (folder / name).exists():
            return open_pair(folder / name, target, needs_target, trusted)
    raise DataError(f"{folder} is a folder without {', '.join(IN_FOLDERS[:3])}; give one of its files instead")


def _named(path: Path) -> tuple[str, Any]:
    return str(path), _open(path)


def _open(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(6)
    if start == npy.MAGIC:
        return npy.open_npy(path)
    if idx.is_idx(start) or start[:2] == idx.GZIP_MAGIC:
        return idx.open_idx(path)
    raise DataError(f"{path} is neither a .npy nor an IDX file, or is damaged")


def _targets_of(path: Path, target: str | None) -> Path:
    if target is not None:
        if not Path(target).is_file():
            raise DataError(f"the targets of {path} are asked for from {target}, but there is no such file")
        return Path(target)
    partner = _renamed(path, PARTNERS)
    if partner == path:
        raise DataError(
            f"{path} does not say where its targets are; name the files like x.npy and y.npy, "
            "or give the other one with --target"
        )
    found = _there(partner)
    if found is None:
        raise DataError(f"{path} needs targets, but there is no {partner} beside it; give them with --target FILE")
    return found


def _test_part(path: Path, needs_target: bool) -> list[tuple[Path, Path | None]]:
    for word in ("test", "t10k"):
        inputs = _renamed(path, {"train": word})
        found, targets = _there(inputs), _there(_renamed(inputs, PARTNERS))
        if inputs != path and found and (targets or not needs_target):
            return [(found, targets if needs_target else None)]
    return []


def _there(path: Path) -> Path | None:
    """The file of this name, or with .gz or without it."""
    other = path.with_suffix("") if path.suffix == ".gz" else path.with_name(f"{path.name}.gz")
    return next((file for file in (path, other) if file.is_file()), None)


def _renamed(path: Path, words: dict[str, str]) -> Path:
    return path.with_name("".join(words.get(word, word) for word in _words(path)))


def _words(path: Path) -> list[str]:
    """The words of a file's name and, as entries of their own, what stands between them."""
    return re.split(r"([^A-Za-z0-9]+)", path.name)


def _name(path: Path) -> str:
    name = "".join(word for word in _words(path) if word not in NOT_NAMES).strip("-_. ")
    return name or path.resolve().parent.name or "data"
