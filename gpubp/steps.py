"""The steps of a training: each on a whole batch, or on this process's rows of a batch that several processes share."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from gpubp.alone import Alone
from gpubp.backends import Backend
from gpubp.buffers import Batch
from gpubp.data.batches import ArrayBatches, DeviceBatch
from gpubp.epoch import Costs
from gpubp.errors import DataError
from gpubp.kernel import Array
from gpubp.losses import weight_factor, weight_sum
from gpubp.network import Network
from gpubp.optimizers import Optimizer, clip_by_norm
from gpubp.sharing import known_by

if TYPE_CHECKING:
    from gpubp.distributed import Adder


class Portion(NamedTuple):
    """This process's rows of a batch."""

    x: Array
    targets: Array
    weights: Array | None
    first: int  # the number, in the batch, of the first of them
    whole: int  # how many rows the batch has


class Epochs(Protocol):
    """What gives the batches of each epoch."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int) -> Iterator[DeviceBatch]: ...


class Steps:
    """Those of one process."""

    def __init__(self, network: Network, optimizer: Optimizer, clip_norm: float | None) -> None:
        self.network, self.optimizer, self.clip_norm = network, optimizer, clip_norm

    def take(self, batch: Any, costs: Costs, rate: float | None) -> tuple[Array, Batch | None]:
        """One step, whose cost is noted among the others; the cost, and the buffers used, if any, come back."""
        x, targets, weights = batch
        cost, total = costs.next(len(x), weights is not None)
        buffers = self.network.update(x, targets, weights, self.optimizer, cost, rate, self.clip_norm, total)
        return cost, buffers


class SharedSteps(Steps):
    """Those of several processes: each has the gradients of its rows, which are then added up.

    With C = Σ w ℓ / Σ w over the whole batch, a process computes Σ w ℓ and its gradients over its rows; one sum over
    the processes, of all gradients, Σ w ℓ and Σ w, and a division by the latter give every process the same step.
    Without weights the factor 1 / N of each row is known beforehand, and nothing is left to divide by.
    """

    def __init__(self, network: Network, optimizer: Optimizer, clip_norm: float | None, adder: "Adder") -> None:
        super().__init__(network, optimizer, clip_norm)
        self.adder, sums, end = adder, network.arena.sums, len(network.arena.gradients)
        self._sums, self._dividends = sums, sums[: end + 1]
        self._cost, self._total = sums[end, ...], sums[end + 1, ...]
        self._mean = network.loss.reduction == "mean"

    def take(self, batch: Portion, costs: Costs, rate: float | None) -> tuple[Array, Batch | None]:
        network, rows, weights = self.network, len(batch.x), batch.weights
        keys, numbers = network.next_numbers(self.optimizer, None, rate)
        buffers = network.batch(max(rows, 1), True, batch.first)
        if rows:
            factor = weights if weights is not None else 1 / batch.whole if self._mean else 1.0
            summed = None if weights is None else self._total
            slots = (batch.x, batch.targets, factor, self._cost, summed, *keys)
            network.play(("gradients", batch.targets.ndim, weights is None), buffers, self._gradients, slots)
        else:  # the last batch has fewer rows than there are processes
            self._sums.fill(0)
        self.adder.add(self._sums)
        divided, clipped = weights is not None and self._mean, self.clip_norm is not None
        kind = ("descent", divided, clipped, self.optimizer.kernel, self.optimizer.weight_decay > 0)
        network.play(kind, buffers, partial(self._descend, divided), (self.clip_norm, *numbers))
        cost, total = costs.next(batch.whole, weights is not None)
        network.backend.copy(self._cost, cost)
        if total is not None:
            network.backend.copy(self._total, total)
        return cost, buffers if rows else None

    def _gradients(
        self, buffers: Batch, x: Array, targets: Array, factor: Any, cost: Array, summed: Array | None, *keys: Any
    ) -> None:
        """Of this process's rows: all gradients, its part of the cost and, where there are weights, their sum."""
        network = self.network
        network.cost_by(factor, x, targets, buffers, cost, keys)
        if summed is not None:
            network.backend.run(weight_sum, factor, summed)
        network.backward(buffers, keys)
        buffers.inputs[0] = None  # it is the caller's

    def _descend(self, divided: bool, _: Batch, clip_norm: float | None, *numbers: float) -> None:
        """The optimizer's step along the gradients of the whole batch."""
        network = self.network
        if divided:
            network.backend.run(weight_factor, self._dividends, self._total, self._dividends)
        if clip_norm is not None:
            clip_by_norm(network.backend, network.arena, clip_norm)
        self.optimizer.step(network.backend, network.arena, *numbers)


class Portions:
    """This process's rows of batches that it reads as a whole: from an iterable, or from a transform."""

    def __init__(self, batches: Epochs, processes: Alone, backend: Backend) -> None:
        self.batches, self.processes, self.backend = batches, processes, backend

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int) -> Iterator[Portion]:
        batches, first = iter(self.batches.epoch(epoch)), True
        while True:
            batch = next(batches, None)
            rows = 0 if batch is None else len(batch[0])
            self._check(rows)
            if batch is None:
                return
            if first:  # to compare all would take as long as to compute on them
                first = False
                self.processes.agree(**{f"the first x of epoch {epoch + 1}": known_by(batch[0], self.backend)})
            part = self.processes.part(rows)
            x, targets, weights = (None if column is None else column[part] for column in batch)
            yield Portion(x, targets, weights, part.start, rows)

    def _check(self, rows: int) -> None:
        """Nobody may wait for a step that another process does not take."""
        of_all = self.processes.of_all(rows)
        if len(set(of_all)) > 1:
            told = ", ".join(
                f"{count} rows in rank {rank}" if count else f"none in rank {rank}" for rank, count in enumerate(of_all)
            )
            raise DataError(f"processes that train together must be given the same batches, but one has {told}")


class ArrayPortions(Portions):
    """Those of arrays, of which this process reads no other rows."""

    batches: ArrayBatches

    def epoch(self, epoch: int) -> Iterator[Portion]:
        for step, batch in enumerate(self.batches.epoch(epoch)):
            whole = self.batches.size_of(step)
            x, targets, weights = batch
            yield Portion(x, targets, weights, self.processes.part(whole).start, whole)
