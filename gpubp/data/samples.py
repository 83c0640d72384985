"""Samples: arrays as a file holds them, checked and brought into the form that training takes."""

from typing import Any

import numpy as np

from gpubp.data.source import Source, Table
from gpubp.data.spool import in_pieces, native
from gpubp.errors import DataError

Named = tuple[str, Any]  # what an error calls an array, and the array
Part = tuple[Named, Named | None]  # x, and y where there is one

NUMBERS = {np.dtype(code) for code in "?bhilqBHILQefd"}
PIXEL_PEAK = 255.0  # the greatest value of a byte


def as_source(name: str, sha256: str, parts: list[Part], peak: float | None = None, trusted: bool = False) -> Source:
    """A source of arrays without column names, from its samples or from a training and a test part.

    Bytes are pixels up to 255 unless `peak` says otherwise. Of `trusted` samples the inputs are not looked through.
    """
    (train, chosen), *rest = (_as_table(*part, trusted) for part in parts)
    for (test, _), part in zip(rest, parts[1:], strict=True):
        _check_alike(parts[0][0][0], train.x, part[0][0], test.x)
    if peak is None and train.x.dtype == np.uint8:
        peak = PIXEL_PEAK
    return Source(name, train, rest[0][0] if rest else None, sha256, None, None, peak, chosen)


def _as_table(x: Named, y: Named | None, trusted: bool) -> tuple[Table, str | None]:
    inputs = _inputs(*x, trusted)
    if y is None:
        return Table(inputs, None), None
    if not y[1].ndim or len(y[1]) != len(inputs):
        raise DataError(
            f"{y[0]} has shape {y[1].shape}, but {x[0]} holds {len(inputs)} samples; give one target for each"
        )
    targets, chosen = _targets(*y)
    return Table(inputs, targets), chosen


def _inputs(name: str, x: Any, trusted: bool) -> Any:
    _check_kind(name, x, "numbers", text=False)
    if not x.ndim or not x.size:
        raise DataError(f"{name} has shape {x.shape}; at least one sample with one value is needed")
    x = native(x if x.ndim > 1 else x[:, None])
    if not trusted:
        _check_finite(name, x)
    return x


def _targets(name: str, y: Any) -> tuple[Any, str | None]:
    _check_kind(name, y, "numbers or text", text=True)
    if y.ndim > 2 or not y.size:
        raise DataError(
            f"{name} has shape {y.shape}; one target a sample, (N,), or one row of values, (N, K), is needed"
        )
    y = native(y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y)
    if y.dtype.kind == "U":
        if y.ndim > 1:
            raise DataError(f"{name} has {y.shape[1]} texts a sample; the name of one class a sample is needed")
        _check_text(name, y)
        return y, None
    _check_finite(name, y)
    if y.dtype == np.bool_:
        y = y.astype(np.int8)
    classes = _one_hot_classes(y) if y.ndim == 2 else None
    if classes is None:
        return y, None
    return classes, f"{name} is one-hot: its rows stand for the classes 0 to {y.shape[1] - 1}"


def _check_kind(name: str, a: Any, wanted: str, text: bool) -> None:
    if a.dtype.newbyteorder("=") not in NUMBERS and not (text and a.dtype.kind == "U"):
        raise DataError(f"{name} has dtype {a.dtype}, but {wanted} are needed; convert it first")


def _check_finite(name: str, a: Any) -> None:
    if a.dtype.kind != "f":
        return
    start = 0
    for piece in in_pieces(a):
        finite = np.isfinite(piece)
        if not finite.all():
            row, *rest = np.argwhere(~finite)[0].tolist()
            column = f", column {rest[0]}" if len(rest) == 1 else f", position {tuple(rest)}" if rest else ""
            raise DataError(
                f"{name}: row {start + row}{column} (counted from 0) is {piece[(row, *rest)]}, "
                "but finite numbers are needed; remove the row or fill the value in"
            )
        start += len(piece)


def _check_text(name: str, y: Any) -> None:
    """Refuse what is no text at all, such as the bytes of a damaged file."""
    start, width = 0, y.dtype.itemsize // 4
    for piece in in_pieces(y):
        points = np.ascontiguousarray(piece).view(np.uint32).reshape(len(piece), width)
        wrong = ((points > 0x10FFFF) | ((points >= 0xD800) & (points < 0xE000))).any(axis=1)
        if wrong.any():
            raise DataError(f"{name}: row {start + int(wrong.argmax())} (counted from 0) is no valid text")
        start += len(piece)


def _one_hot_classes(y: Any) -> Any:
    """The place of the 1 in each row, where all rows hold one 1 and else 0; otherwise None."""
    places = []
    for piece in in_pieces(y):
        ones = piece == 1
        if not ((ones | (piece == 0)).all() and (ones.sum(axis=1) == 1).all()):
            return None
        places.append(ones.argmax(axis=1))
    return np.concatenate(places)


def _check_alike(name: str, x: Any, test_name: str, test: Any) -> None:
    if x.shape[1:] != test.shape[1:]:
        raise DataError(f"{test_name} holds samples of shape {test.shape[1:]}, but those of {name} are {x.shape[1:]}")
    if (x.dtype == np.uint8) != (test.dtype == np.uint8):
        raise DataError(
            f"{test_name} is {test.dtype}, but {name} is {x.dtype}; bytes are taken as pixels from 0 to 255, "
            "so store both alike"
        )
