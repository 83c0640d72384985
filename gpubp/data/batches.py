"""Batches: one epoch's steps, from arrays on the device (shuffled by seed and epoch) or from a user's own iterable."""

from collections.abc import Callable, Iterable, Iterator, Sized
from inspect import Parameter, signature
from itertools import repeat
from math import prod
from typing import Any

import numpy as np

from gpubp.alone import ALONE, Alone
from gpubp.backends.base import Backend
from gpubp.data.arrays import DeviceRows
from gpubp.data.rows import Unread
from gpubp.errors import DataError
from gpubp.kernel import Array

GATHERED = 1 << 13  # numbers: several small batches in one operation, and little memory
DeviceBatch = tuple[Array, Array, Array | None]  # x, targets, weights
Convert = Callable[[Any, Any, Any], DeviceBatch]  # from what a user gives to what a network takes


class ArrayBatches:
    """All rows once an epoch, `size` at a time; the last batch holds what is left.

    The shuffle is a function of (seed, epoch) alone. `processes` share each batch: only the part of this one is read.
    """

    def __init__(
        self,
        backend: Backend,
        x: Array,
        targets: Array,
        weights: Array | None,
        size: int,
        shuffle: bool,
        seed: int,
        processes: Alone = ALONE,
    ) -> None:
        self.columns = [x, targets] if weights is None else [x, targets, weights]
        self.backend, self.rows, self.size, self.seed = backend, len(x), min(size, len(x)), seed
        self.processes = processes
        own = processes.part(self.size)
        self._own: int = own.stop - own.start  # rows of a whole batch that this process reads
        self.shuffle = shuffle and self.size < self.rows
        self.weighted = weights is not None
        self.streamed = [column for column in self.columns if isinstance(column, DeviceRows)]
        # One buffer for each column on the device, for as many batches as are gathered at once.
        self.buffers = {
            place: backend.empty((self._abreast(column) * self._own, *column.shape[1:]), column.dtype)
            for place, column in enumerate(self.columns)
            if self.shuffle and not isinstance(column, DeviceRows)
        }

    def __len__(self) -> int:
        return -(-self.rows // self.size)

    def epoch(self, epoch: int) -> Iterator[DeviceBatch]:
        return self.in_order(self.order(epoch))

    def order(self, epoch: int) -> Any:
        """The epoch's row numbers; None where they are taken as they lie."""
        return np.random.default_rng([self.seed, 1, epoch]).permutation(self.rows) if self.shuffle else None

    def size_of(self, step: int) -> int:
        """The rows of a batch of an epoch."""
        return min(self.size, self.rows - step * self.size)

    def in_order(self, host_order: Any) -> Iterator[DeviceBatch]:
        """The batches of these row numbers; None takes the rows as they lie."""
        parts = self._parts()
        if host_order is not None and self.processes.size > 1:
            host_order = np.concatenate([host_order[part] for part in parts])
            starts = range(0, len(self) * self._own, self._own)  # of its own, one behind the other
            parts = [slice(start, min(start + self._own, len(host_order))) for start in starts]
        order = None if host_order is None else self.backend.asarray(host_order, "int64")
        arrivals = self._arrivals(parts if host_order is None else [host_order[part] for part in parts])
        for part, arrived in zip(parts, arrivals, strict=False):
            batch = [
                arrived.pop(0) if isinstance(column, DeviceRows) else self._chosen(place, part, order)
                for place, column in enumerate(self.columns)
            ]
            yield batch[0], batch[1], batch[2] if self.weighted else None

    def _parts(self) -> list[slice]:
        """Of each batch what this process reads."""
        starts = range(0, self.rows, self.size)
        if self.processes.size == 1:
            return [slice(start, min(start + self.size, self.rows)) for start in starts]
        own = [self.processes.part(self.size_of(step)) for step in range(len(self))]
        return [slice(start + part.start, start + part.stop) for start, part in zip(starts, own, strict=True)]

    def _arrivals(self, choices: list[Any]) -> Iterator[list[Array]]:
        """For each batch what of it comes from the host, which is read while the device computes on the one before."""
        if not self.streamed:
            return repeat([])
        reads = ([Unread(column.rows, rows) for column in self.streamed] for rows in choices)
        return self.backend.uploaded(reads, self.streamed[0].dtype)

    def _abreast(self, column: Array) -> int:
        """How many batches of a column are gathered at once."""
        width = int(prod(column.shape[1:]))
        return min(max(1, GATHERED // (self._own * width)), len(self))

    def _chosen(self, place: int, part: slice, order: Array | None) -> Array:
        if order is None:
            return self.columns[place][part]
        buffer = self.buffers[place]
        start = part.start % len(buffer)
        if not start:
            rows = order[part.start : part.start + len(buffer)]
            self.backend.gather(self.columns[place], rows, buffer[: len(rows)])
        return buffer[start : start + part.stop - part.start]


class StreamBatches:
    """A user's iterable of (x, y) or (x, y, weights), taken as it comes, from the start in every epoch."""

    def __init__(self, convert: Convert, source: Iterable[Any]) -> None:
        self.convert, self.source = convert, source

    def __len__(self) -> int:
        return len(self.source) if isinstance(self.source, Sized) else 0

    def epoch(self, epoch: int) -> Iterator[DeviceBatch]:
        count = 0
        for count, batch in enumerate(self.source, 1):
            if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
                raise DataError(
                    f"batch {count} of x is not a tuple (x, y) or (x, y, weights); with arrays give both x and y"
                )
            yield self.convert(*batch, *[None] * (3 - len(batch)))
        if not count:
            remedy = "give at least one (x, y)"
            if isinstance(self.source, Iterator):
                remedy = "a generator can be iterated only once; give a list, or an object whose __iter__ starts anew"
            raise DataError(f"x gave no batches; {remedy}")


class Transformed:
    """Batches changed by a user's function before the network sees them.

    The function's generator is itself a function of (seed, epoch, step).
    """

    def __init__(
        self, batches: "ArrayBatches | StreamBatches", transform: Callable[..., Any], convert: Convert, seed: int
    ) -> None:
        self.batches, self.transform, self.convert, self.seed = batches, transform, convert, seed
        kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        try:
            self.count = sum(p.kind in kinds and p.default is p.empty for p in signature(transform).parameters.values())
        except (TypeError, ValueError):
            raise DataError(
                f"transform must be a function f(x), f(x, y) or f(x, y, generator), got {transform!r}"
            ) from None
        if self.count not in (1, 2, 3):
            raise DataError(f"transform must take (x), (x, y) or (x, y, generator), but takes {self.count} arguments")

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int) -> Iterator[DeviceBatch]:
        for step, (x, targets, weights) in enumerate(self.batches.epoch(epoch)):
            given = [x.copy()]  # the function may write into it, and unshuffled batches are the user's own rows
            if self.count > 1:
                given.append(targets.copy())
            if self.count > 2:
                given.append(np.random.default_rng([self.seed, 3, epoch, step]))
            result = self.transform(*given)
            if self.count == 1:
                yield *self.convert(result, targets, None)[:2], weights
                continue
            if not isinstance(result, tuple) or len(result) != 2:
                raise DataError("transform must return (x, y) when it takes y")
            new_x, new_targets, _ = self.convert(*result, None)
            if weights is not None and len(new_x) != len(weights):
                raise DataError(
                    f"transform changed the number of rows from {len(weights)} to {len(new_x)}, "
                    "but the samples have weights"
                )
            yield new_x, new_targets, weights
