"""Rows: samples that are chosen and prepared when they are read, so that what is too large for memory stays on disk."""

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Any, Self

import numpy as np

from gpubp.errors import DataError
from gpubp.launcher import launch
from gpubp.processor import cores

IN_MEMORY = (
    512 << 20
)  # bytes: samples that take more of a machine's memory stay where they are and are read a batch at a time
LEAST_PART, MOST_THREADS = 1 << 20, 8  # bytes that are worth a thread, and threads that saturate memory
CHUNK_BYTES = 16 << 20  # about how much a pass over all rows holds at once


class Rows:
    """A choice of the rows of a host array (N, ...), often a memory map, as a matrix (n, width).

    `rows[2:5]` and `rows[[4, 0]]` read, flatten and prepare those rows alone. `prepare` maps what lies in the array, as
    (n, width), to numbers of the same shape; without it they are taken as they are.
    """

    ndim = 2

    def __init__(self, source: Any, prepare: Callable[[Any], Any] | None = None, index: Any = None) -> None:
        self.source, self.prepare, self.index = source, prepare, index
        self.shape = (len(source) if index is None else len(index), prod(source.shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Any:
        chosen = np.asarray(self.source[rows if self.index is None else self.index[rows]])
        flat = chosen.reshape(len(chosen), self.shape[1])
        return flat if self.prepare is None else self.prepare(flat)

    def into(self, rows: Any, out: Any) -> None:
        """out ← these rows, in its dtype; those that only have to be moved by several threads."""
        source = self.source
        moved = type(source) is np.ndarray and source.ndim == 2 and self.prepare is None and self.index is None
        if not moved or source.dtype != out.dtype:
            np.copyto(out, self[rows], casting="unsafe")
        elif isinstance(rows, slice):
            chosen = source[rows]
            in_parts(out, lambda part: np.copyto(out[part], chosen[part]))
        else:
            in_parts(out, lambda part: source.take(rows[part], 0, out[part], "clip"))

    def select(self, index: Any) -> Self:
        """Some of these rows, still unread."""
        return type(self)(self.source, self.prepare, index if self.index is None else self.index[index])

    def chunks(self, part: slice | None = None) -> Iterator[tuple[slice, Any]]:
        """All rows, or a part of them, some megabytes at a time: (their numbers, their values)."""
        first, end, _ = (part or slice(None)).indices(len(self))
        step = max(1, CHUNK_BYTES // (8 * max(1, self.shape[1])))
        for start in range(first, end, step):
            rows = slice(start, min(start + step, end))
            yield rows, self[rows]

    def loaded(self, dtype: str = "float32") -> Any:
        """These rows as an array."""
        values = np.empty(self.shape, dtype)
        for rows, chunk in self.chunks():
            with np.errstate(over="ignore"):
                values[rows] = chunk
            if len(bad := np.flatnonzero(~np.isfinite(values[rows]).all(axis=1))):
                row = rows.start + bad[0] if self.index is None else self.index[rows][bad[0]]
                raise DataError(
                    f"row {row} (counted from 0) overflows {dtype}: its values are too far from those of the training "
                    "rows; correct or remove it"
                )
        return values


@dataclass(frozen=True)
class Unread:
    """Rows that nobody has read yet."""

    rows: Rows
    chosen: Any  # their numbers, or a slice

    @property
    def shape(self) -> tuple[int, int]:
        chosen, (total, width) = self.chosen, self.rows.shape
        return len(range(*chosen.indices(total)) if isinstance(chosen, slice) else chosen), width

    def values(self) -> Any:
        return self.rows[self.chosen]

    def into(self, out: Any) -> None:
        self.rows.into(self.chosen, out)


def in_parts(out: Any, work: Callable[[slice], object]) -> None:
    """Do the work on slices of the rows of `out`, each by a thread of its own where they are worth one."""
    count = min(MOST_THREADS, out.nbytes // LEAST_PART)
    count = min(count, cores()) if count > 1 else 1
    step = max(1, -(-len(out) // count))
    parts = [slice(start, start + step) for start in range(0, len(out), step)]
    if len(parts) > 1:
        list(_pool().map(work, parts))
    else:
        work(slice(None))


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MOST_THREADS, "gpubp-rows")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def too_large(*shapes: tuple[int, ...], dtype: str = "float32") -> bool:
    """Whether arrays of these shapes would together take more than this process's share of IN_MEMORY."""
    return sum(map(prod, shapes)) * np.dtype(dtype).itemsize > IN_MEMORY // launch().local_size
