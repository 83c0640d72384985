"""What an epoch starts from, and what its steps cost."""

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp.kernel import Array

if TYPE_CHECKING:
    from gpubp.training import Trainer


class Snapshot:
    """What an epoch starts from: parameters, optimizer state and counters, kept on the device."""

    def __init__(self, trainer: "Trainer") -> None:
        self.trainer, self.network, self.optimizer = trainer, trainer.network, trainer.optimizer
        self.kept: list[Array] = [None] * (1 + len(self.optimizer.state))

    def _live(self) -> list[Array]:
        return [self.network.arena.parameters, *self.optimizer.state.values()]

    def take(self) -> None:
        self.kept = [
            self.network.backend.copied(live, kept) for live, kept in zip(self._live(), self.kept, strict=True)
        ]
        self.counters = self.network.steps, self.optimizer.steps, self.trainer.step

    def restore(self) -> None:
        for kept, live in zip(self.kept, self._live(), strict=True):
            self.network.backend.copy(kept, live)
        self.network.steps, self.optimizer.steps, self.trainer.step = self.counters


class Costs:
    """Each step's cost and sum of weights; they stay on the device until the epoch asks for their mean."""

    BLOCK = 1024

    def __init__(self, backend: Any, dtype: str) -> None:
        self.backend, self.dtype = backend, dtype
        self.blocks: list[tuple[Array, Array]] = []
        self.rows: list[int] = []
        self.weighted: list[bool] = []
        self.whole = False  # until all steps of the epoch have been taken

    def next(self, rows: int, weighted: bool) -> tuple[Array, Array | None]:
        """The 0-d places for the next step's cost and, where it has weights, their sum."""
        place = len(self.rows) % self.BLOCK
        if place == 0:
            self.blocks.append(
                (self.backend.zeros((self.BLOCK,), self.dtype), self.backend.zeros((self.BLOCK,), self.dtype))
            )
        self.rows.append(rows)
        self.weighted.append(weighted)
        costs, totals = self.blocks[-1]
        return costs[place, ...], totals[place, ...] if weighted else None

    def noted(self, log: Array, rows: list[int], weighted: bool) -> None:
        """Those of all steps so far at once: a row of costs, and one of sums of weights."""
        self.blocks, self.rows, self.weighted = [(log[0], log[1])], rows, [weighted] * len(rows)

    def _read(self, column: int) -> Any:
        blocks = [self.backend.to_numpy(block[column]) for block in self.blocks]
        return np.concatenate(blocks)[: len(self.rows)].astype(np.float64) if blocks else np.zeros(0)

    def mean(self, reduction: str) -> tuple[float, int]:
        """The epoch's loss, weighted over its batches (or summed, for reduction "sum"), and its number of rows."""
        self.costs = self._read(0)
        if reduction == "sum":
            return float(self.costs.sum()), sum(self.rows)
        weights = np.where(self.weighted, self._read(1), self.rows)
        return float(self.costs @ weights / max(weights.sum(), np.finfo(np.float64).tiny)), sum(self.rows)

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.costs).all())
