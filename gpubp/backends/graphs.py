"""A captured step: kernels and matrix products recorded once in a CUDA graph, which one launch replays.

The graph reads and writes memory of its own in place of what differs from one step to the next: arrays are copied
there, numbers are put there by one small kernel before each replay.
"""

import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp.errors import DataError
from gpubp.kernel import Array

if TYPE_CHECKING:
    from gpubp.backends.cupy import CupyBackend

LARGEST = 32 << 20  # bytes of arrays: a step on more is mostly products, so that a copy costs more than launches
UNASKED = "launched kernel by kernel: captured ones were never measured on a GPU, GPUBP_GRAPHS=1 turns them on"


def why_not_captured() -> str | None:
    """Why steps are launched kernel by kernel; None where they are captured."""
    wanted = os.environ.get("GPUBP_GRAPHS", "auto")
    if wanted not in ("auto", "0", "1"):
        raise DataError(f"GPUBP_GRAPHS must be 'auto', '0' or '1', got {wanted!r}")
    return {"auto": UNASKED, "0": "launched kernel by kernel: GPUBP_GRAPHS=0", "1": None}[wanted]


class Captured:
    """A step on slots: run as it is the first time, so that all it needs is there; then captured, then replayed."""

    def __init__(self, backend: "CupyBackend", step: Callable[..., None], slots: tuple[Any, ...]) -> None:
        self._backend, self._step = backend, step
        arrays = {i: slot for i, slot in enumerate(slots) if backend.owns(slot)}
        stand_ins = {i: backend.empty(array.shape, array.dtype) for i, array in arrays.items()}
        self._read = [i for i, array in arrays.items() if array.ndim]
        self._written = [i for i, array in arrays.items() if not array.ndim]
        real = next((array.dtype for array in arrays.values() if array.dtype.kind == "f"), "float32")
        self._numbers: list[tuple[list[int], Array, list[Any]]] = []
        for kinds, dtype in (((float, int), real), ((np.uint32,), "uint32")):
            places = [i for i, slot in enumerate(slots) if isinstance(slot, kinds)]
            there = backend.empty((len(places),), dtype)
            stand_ins |= {place: there[i, ...] for i, place in enumerate(places)}
            self._numbers.append((places, there, []))
        self._stand_ins = tuple(stand_ins.get(i) for i in range(len(slots)))
        self._graph: Any = None
        self._kept: list[Any] = []
        self._plain = False  # until a first run has shown that the step can be captured
        self._warm = False

    def __call__(self, *slots: Any) -> None:
        if self._plain:
            self._step(*slots)
            return
        self._fill(slots)
        if self._warm and self._graph is None:
            self._graph, self._kept = self._backend.recorded(self._step, self._stand_ins)
        if self._graph is not None:
            self._graph.launch()
        else:
            reasons = self._backend.rehearsed(self._step, self._stand_ins)
            self._plain, self._warm = bool(reasons), True
            if reasons:
                warnings.warn(f"steps are not captured: {'; '.join(reasons)}", UserWarning, stacklevel=2)
        for i in self._written:
            self._backend.move(self._stand_ins[i], slots[i])

    def _fill(self, slots: tuple[Any, ...]) -> None:
        """Bring what the step reads to where it reads it."""
        for i in self._read:
            self._backend.move(slots[i], self._stand_ins[i])
        for places, there, last in self._numbers:
            values = [slots[i] for i in places]
            if values != last:
                self._backend.put(values, there)
                last[:] = values
