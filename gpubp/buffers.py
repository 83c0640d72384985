"""The buffers of a network's passes: activations, deltas and what goes with them, one set for each number of rows."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpubp.backends import Backend
from gpubp.backends.arguments import HALF
from gpubp.backends.base import OutOfMemoryError
from gpubp.kernel import Array
from gpubp.layers import COLUMN_KEY, ROW_KEY, Parameters, Slot
from gpubp.memory import Workspace
from gpubp.structure import Structure

MOST_BATCHES = 64  # sizes whose buffers' views and tapes are kept: up to some 30 KiB each


@dataclass(slots=True)
class Batch:
    """The buffers of one pass over `rows` samples."""

    layers: list[Slot]
    targets: Array  # one-hot rows of class indices
    losses: Array  # (rows, 1)
    factors: Array  # (rows, 1): each sample's weight over the sum of weights
    total: Array  # 0-d: the sum of weights
    parameters: list[Parameters]  # with the weights that the products read
    # In bfloat16, what products read in place of what was given and of the output layer's delta, which are in float32.
    x: Array | None = None
    delta: Array | None = None
    inputs: list[Array] = field(default_factory=list)  # of each layer, filled by the forward pass
    plays: dict[Any, Callable[..., None] | None] = field(
        default_factory=dict
    )  # captured passes, by what they are given


class Buffers:
    """All of one network's, cut from one workspace. In bfloat16 those of hidden layers are in half the memory."""

    def __init__(self, backend: Backend, structure: Structure, factors: list[Parameters]) -> None:
        """`factors` are the parameters with the weights that the products read."""
        self._backend, self._structure, self._factors = backend, structure, factors
        self._half = backend.precision == "bfloat16"
        self._workspace = Workspace(backend, structure.dtype)
        self._batches: dict[tuple[int, bool, int], Batch] = {}

    def forget_plays(self) -> None:
        """Forget what has been captured on these buffers."""
        for batch in self._batches.values():
            batch.plays.clear()

    def batch(self, rows: int, training: bool, first: int = 0) -> Batch:
        """The buffers for this many rows, as views kept from one call to the next.

        `first` is the number of the first of them in the batch, of which other processes may have the rest.
        """
        batch = self._batches.get((rows, training, first))
        if batch is None:
            generation = self._workspace.generation
            batch = self._cut_or_explain(rows, training, first)
            if self._workspace.generation != generation:
                self._batches.clear()  # a buffer moved
            elif len(self._batches) >= MOST_BATCHES:
                self._batches.pop(next(iter(self._batches)))
            self._batches[rows, training, first] = batch
        return batch

    def _cut_or_explain(self, rows: int, training: bool, first: int) -> Batch:
        try:
            return self._cut(rows, training, first)
        except OutOfMemoryError as error:
            said = str(error)
        # Here, where the error and the half-made buffers that its frames hold are gone.
        self._batches.clear()
        self._workspace.buffers.clear()
        each, free = self._row_bytes(training), self._backend.free_memory()
        raise OutOfMemoryError(
            f"{said}. A batch of {rows} rows takes {rows * each:,} bytes and {free:,} are free: "
            f"the largest that fits has about {free // each} rows; give a smaller batch_size"
        )

    def _row_bytes(self, training: bool) -> int:
        """What a row of a batch takes on the device: what `_cut` takes for it, the row and its target."""
        structure, sizes = self._structure, self._structure.sizes
        itemsize = self._backend.itemsize(structure.dtype)
        layers = zip(structure.activations, sizes[1:], strict=True)
        saved = [width for activation, width in layers if activation.saves == "z"]
        inputs = zip(structure.dropout, sizes, strict=False)
        dropped = [width for rate, width in inputs if rate and training]
        deltas = 2 * max(sizes[1:])
        return itemsize * (sum(sizes) + sum(saved) + sum(dropped) + deltas + 2 * sizes[-1] + 2)

    def _cut(self, rows: int, training: bool, first: int) -> Batch:
        structure, take, top = self._structure, self._take, self._structure.depth - 1
        layers = []
        for layer, (activation, width) in enumerate(zip(structure.activations, structure.sizes[1:], strict=True)):
            y = take(f"y{layer}", (rows, width), layer)
            slot = Slot(z=y if activation.saves == "y" else take(f"z{layer}", (rows, width), layer), y=y)
            if structure.dropout[layer] and training:
                slot.dropped = take(f"x{layer}", (rows, structure.sizes[layer]), layer - 1)
                slot.dropout_keys = self._dropout_keys(first, rows, structure.sizes[layer])
            layers.append(slot)
        self._lend_deltas(layers, rows, training)
        inputs, outputs = structure.sizes[0], structure.sizes[-1]
        return Batch(
            layers,
            targets=take("targets", (rows, outputs), top),
            losses=take("losses", (rows, 1), top),
            factors=take("factors", (rows, 1), top),
            total=take("total", (), top),
            parameters=self._factors,
            x=take("x", (rows, inputs), -1) if self._half else None,
            delta=take("delta", (rows, outputs), -1) if self._half and training else None,
            inputs=[None] * len(layers),
        )

    def _take(self, name: str, shape: tuple[int, ...], layer: int) -> Array:
        """A buffer of a layer; in bfloat16 all but those of the output layer are in half the memory."""
        half = self._half and layer < self._structure.depth - 1
        return self._workspace.take(name, shape, HALF if half else None)

    def _lend_deltas(self, layers: list[Slot], rows: int, training: bool) -> None:
        """Only a delta and the one below it are alive at a time, so two buffers serve all layers, from the top down.

        In bfloat16 the output layer's, which is longer, has one of its own.
        """
        top, widths = len(layers) - 1, self._structure.sizes[1:]
        turns = [2 if self._half and layer == top else (top - layer) % 2 for layer in range(top + 1)]
        for turn in set(turns):
            sharing = [layer for layer in range(top + 1) if turns[layer] == turn and (training or layer == top)]
            size = rows * max((widths[layer] for layer in sharing), default=0)
            buffer = self._take(f"delta{turn}", (size,), top if turn == 2 or not self._half else -1)
            for layer in sharing:
                layers[layer].dy = layers[layer].dz = buffer[: rows * widths[layer]].reshape(rows, widths[layer])

    def _dropout_keys(self, first: int, rows: int, columns: int) -> tuple[Array, Array]:
        def keys(start: int, count: int, factor: int) -> Array:
            numbers = np.arange(start, start + count, dtype=np.uint32)
            return self._backend.asarray(numbers * np.uint32(factor), "uint32")

        return keys(first, rows, ROW_KEY).reshape(rows, 1), keys(0, columns, COLUMN_KEY)

    def traced(self, rows: int, parameters: list[Parameters]) -> Batch:
        """New buffers in which nothing is overwritten."""
        empty, dtype = self._backend.empty, self._structure.dtype
        widths = self._structure.sizes[1:]
        layers = [Slot(*(empty((rows, width), dtype) for _ in range(4))) for width in widths]
        return Batch(
            layers,
            targets=empty((rows, widths[-1]), dtype),
            losses=empty((rows, 1), dtype),
            factors=empty((rows, 1), dtype),
            total=empty((), dtype),
            parameters=parameters,
            inputs=[None] * len(layers),
        )
