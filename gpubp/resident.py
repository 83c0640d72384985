"""Epochs run from the device: each captured step finds its rows, its numbers and its place among the losses there.

The host launches one graph a step, and waits for nothing before the epoch's end.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Self

import numpy as np

from gpubp.backends.graphs import LARGEST
from gpubp.data.batches import ArrayBatches
from gpubp.epoch import Costs
from gpubp.kernel import Array
from gpubp.network import Network
from gpubp.optimizers import Optimizer


class ResidentEpochs:
    """Those of one training."""

    def __init__(self, network: Network, batches: ArrayBatches, optimizer: Optimizer, clip_norm: float | None) -> None:
        self._network, self._batches, self._optimizer, self._clip_norm = network, batches, optimizer, clip_norm
        empty, dtype = network.backend.empty, network.dtype
        self._step = empty((1,), "int64")
        self._order = empty((batches.rows,), "int64")
        self._results = network.backend.zeros((2,), dtype)  # the cost and the sum of weights of a step
        self._log = empty((2, len(batches)), dtype)  # those of all
        self._settings: Any = None

    @classmethod
    def of(cls, network: Network, batches: Any, optimizer: Optimizer, clip_norm: float | None) -> Self | None:
        """None unless all rows lie on a device that replays captured steps, and the steps are small."""
        if not network.backend.replays or not isinstance(batches, ArrayBatches) or batches.streamed:
            return None
        small = sum(column.nbytes for column in batches.columns) <= LARGEST * len(batches)
        return cls(network, batches, optimizer, clip_norm) if small else None

    def _prepare(self) -> None:
        """Make room for the numbers of steps as the optimizer is set."""
        network, steps = self._network, len(self._batches)
        empty, dtype = network.backend.empty, network.dtype
        self._folding = network.folding(self._batches.columns[0], self._optimizer, self._clip_norm)
        keys, numbers = self._rehearsed_numbers()
        self._table, self._now = empty((steps, len(numbers)), dtype), empty((len(numbers),), dtype)
        self._keys, self._keys_now = empty((steps, len(keys)), "uint32"), empty((len(keys),), "uint32")
        self._dropped = [key is not None for key in keys]
        self._plays: dict[int, Callable[[], None]] = {}  # by the rows of a batch

    def _rehearsed_numbers(self) -> tuple[Any, tuple[float, ...]]:
        """As those of a step, which is not begun."""
        network, optimizer = self._network, self._optimizer
        counters = network.steps, optimizer.steps
        found = network.next_numbers(optimizer, self._folding, None)
        network.steps, optimizer.steps = counters
        return found

    def epoch(self, epoch: int, rates: list[float | None], costs: Costs) -> Iterator[int]:
        """Launch the steps one after the other, each when the next number is asked for; at its end the costs are whole.

        `rates` are the learning rates of all steps, None the optimizer's own.
        """
        network, optimizer, backend = self._network, self._optimizer, self._network.backend
        if (settings := network.settings(optimizer)) != self._settings:
            self._settings = settings
            self._prepare()
        counters = network.steps, optimizer.steps
        order = self._batches.order(epoch)
        numbers = [network.next_numbers(optimizer, self._folding, rate) for rate in rates]
        self._send(np.arange(self._batches.rows) if order is None else order, self._order)
        self._send(np.array([row for _, row in numbers]), self._table)
        self._send(np.array([[key or 0 for key in keys] for keys, _ in numbers]), self._keys)
        self._send(np.array([-1]), self._step)
        taken = 0
        try:
            for taken in range(1, len(rates) + 1):
                self._play(self._batches.size_of(taken - 1))()
                yield taken
        finally:
            network.steps, optimizer.steps = (counter + taken for counter in counters)
            if taken:
                for row in (0, 1):  # which the next step would have done
                    backend.copy(self._results[row, ...], self._log[row, taken - 1, ...])
            weighted = self._batches.weighted
            costs.noted(self._log, [self._batches.size_of(step) for step in range(taken)], weighted)

    def _send(self, host: Any, out: Array) -> None:
        backend = self._network.backend
        backend.copy(backend.asarray(host.reshape(out.shape), out.dtype), out)

    def _play(self, rows: int) -> Callable[[], None]:
        """The step over so many rows."""
        if rows not in self._plays:
            self._plays[rows] = self._captured(rows)
        return self._plays[rows]

    def _captured(self, rows: int) -> Callable[[], None]:
        network, backend = self._network, self._network.backend
        batch = network.batch(rows, True)
        columns = self._batches.columns
        labels = columns[1] if columns[1].ndim == 1 else None
        buffers = [backend.empty((rows, *column.shape[1:]), column.dtype) for column in columns]
        if labels is not None:
            buffers[1] = batch.targets
        if batch.x is not None:
            buffers[0] = batch.x
        x, targets, weights = (*buffers, None)[:3]
        cost, total = self._results[0, ...], self._results[1, ...]
        keys = [self._keys_now[layer, ...] if drops else None for layer, drops in enumerate(self._dropped)]
        numbers = [self._now[place, ...] for place in range(len(self._now))]
        whole = partial(network.step, self._optimizer, self._folding, len(keys), batch)

        def step() -> None:
            backend.advance(self._step, self._table, self._keys, self._now, self._keys_now, self._results, self._log)
            for column, buffer in zip(columns, buffers, strict=True):
                fill = backend.one_hot_step if column is labels else backend.gather_step
                fill(column, self._order, self._step, self._batches.size, buffer)
            given = (weights, None if weights is None else total, self._clip_norm)
            whole(x, targets, cost, *given, *keys, *numbers)

        play = backend.capture(step)
        assert play is not None
        return play
