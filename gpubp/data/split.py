"""Splitting samples into parts: seeded, and stratified where the targets are classes."""

from hashlib import sha256
from typing import Any

import numpy as np

from gpubp import checks
from gpubp.data.arrays import as_rectangle
from gpubp.errors import DataError, ShapeError


def split_rows(rows: int, fraction: float, seed: int, labels: Any = None) -> tuple[Any, Any]:
    """Row numbers of the two parts, each in ascending order; the second holds ⌈fraction · rows⌉ of them.

    With labels each class gives its share, by largest remainders, so the parts' proportions are as equal as whole rows
    allow.
    """
    usable = isinstance(fraction, int | float | np.floating) and 0 < fraction < 1
    count = int(np.ceil(fraction * rows)) if usable else 0
    if not 0 < count < rows:
        raise DataError(
            "a fraction strictly between 0 and 1 that leaves both parts at least one row is needed, "
            f"got {fraction!r} of {rows} rows"
        )
    generator = np.random.default_rng([seed, 2])
    groups = [np.arange(rows)] if labels is None else _groups(labels)
    exact = np.array([count * len(group) / rows for group in groups])
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind="stable")[: count - shares.sum()]] += 1
    second = np.concatenate([generator.permutation(group)[:share] for group, share in zip(groups, shares, strict=True)])
    second.sort()
    return np.setdiff1d(np.arange(rows), second, assume_unique=True), second


def _groups(labels: Any) -> list[Any]:
    """The numbers of the rows of each label, in order."""
    order = np.argsort(labels, kind="stable")
    starts = np.unique(labels[order], return_index=True)[1]
    return np.split(order, starts[1:])


def rows_digest(rows: Any) -> str:
    """What row numbers are known by in a model file, so that no other rows are ever taken for them."""
    return sha256(rows.astype("<i8").tobytes()).hexdigest()


def is_classes(y: Any) -> bool:
    """Whether targets look like class indices: one whole number a sample."""
    return bool(y.ndim == 1 or (y.ndim == 2 and y.shape[1] == 1)) and (y.dtype.kind in "iub")


def _array(name: str, a: Any) -> Any:
    array = as_rectangle(name, a)
    if not array.ndim:
        raise ShapeError(f"{name} has shape (), but one row or more is needed")
    return array


def train_test_split(x: Any, y: Any, test: float = 0.2, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """(x_train, x_test, y_train, y_test) as new arrays; stratified when y holds whole numbers, one a sample.

    Raises DataError if a part would be empty, ShapeError if x and y differ in length.

    >>> x_train, x_test, y_train, y_test = train_test_split([[1.0], [2.0], [3.0], [4.0]], [0, 0, 1, 1], test=0.5)
    >>> sorted(y_test.tolist())
    [0, 1]
    """
    x, y = _array("x", x), _array("y", y)
    seed = checks.seed(seed)
    if len(x) != len(y):
        raise ShapeError(f"x has {len(x)} rows and y has {len(y)}; they must match")
    train_rows, test_rows = split_rows(len(x), test, seed, y.reshape(-1) if is_classes(y) else None)
    return x[train_rows], x[test_rows], y[train_rows], y[test_rows]
