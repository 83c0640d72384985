"""Batches that come from the host while the device computes, through two slots that take turns."""

from collections.abc import Iterable, Iterator
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp.kernel import Array

if TYPE_CHECKING:
    from gpubp.data.rows import Unread


class Slot:
    """One batch on its way.

    From pinned memory a copy goes on by itself, on a stream of its own; events keep it, the host and the computation
    from each other's memory.
    """

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._pinned: list[Any] = []
        self._device: list[Array] = []
        self._copied = cupy.cuda.Event(disable_timing=True)
        self._computed = cupy.cuda.Event(disable_timing=True)
        self.arrays: list[Array] = []

    def fill(self, batch: list["Unread"], dtype: Any, computing: Any, copying: Any) -> None:
        """Read a batch of rows, in this dtype, and begin to copy it."""
        self._copied.synchronize()  # the host may write the pinned memory again
        for column, unread in enumerate(batch):
            size = prod(unread.shape)
            if column == len(self._pinned) or self._pinned[column].size < size:
                self._make_room(column, size, dtype)
                computing.record(self._computed)  # what had this memory before may still be computed on
        copying.wait_event(self._computed)  # the copy may write the device memory again
        self.arrays = []
        for column, unread in enumerate(batch):
            pinned, device = (
                room[column][: prod(unread.shape)].reshape(unread.shape) for room in (self._pinned, self._device)
            )
            unread.into(pinned)
            device.set(pinned, stream=copying)
            self.arrays.append(device)
        copying.record(self._copied)

    def _make_room(self, column: int, size: int, dtype: Any) -> None:
        memory = self._cupy.cuda.alloc_pinned_memory(max(1, size * np.dtype(dtype).itemsize))
        self._pinned[column : column + 1] = [np.frombuffer(memory, dtype, size)]
        self._device[column : column + 1] = [self._cupy.empty((size,), dtype)]

    def lend(self, computing: Any) -> Iterator[list[Array]]:
        """The batch on the device, from when its copy is done until the next one is asked for."""
        computing.wait_event(self._copied)
        yield self.arrays
        computing.record(self._computed)


def uploaded(cupy: Any, batches: Iterable[list["Unread"]], dtype: Any) -> Iterator[list[Array]]:
    """Batches of host rows as device arrays; the next one is read and copied while the present one is computed on."""
    computing, copying = cupy.cuda.get_current_stream(), cupy.cuda.Stream(non_blocking=True)
    slots, waiting = [Slot(cupy), Slot(cupy)], None
    try:
        for number, batch in enumerate(batches):
            slot = slots[number % 2]
            slot.fill(batch, dtype, computing, copying)
            if waiting:
                yield from waiting.lend(computing)
            waiting = slot
        if waiting:
            yield from waiting.lend(computing)
    finally:
        copying.synchronize()  # before the memory of an abandoned copy is anyone else's
