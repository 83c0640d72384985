"""Targets: what a network's outputs are compared with, and what its predictions mean.

The output activation decides the task.
"""

from typing import Any, Literal

import numpy as np

from gpubp.backends.base import Backend
from gpubp.checks import number
from gpubp.data.arrays import as_matrix, as_usable, check_finite
from gpubp.errors import DataError, ShapeError
from gpubp.kernel import Array
from gpubp.structure import Structure

Task = Literal["classes", "binary", "labels", "values"]


class Targets:
    """Encodes y for one network: class indices stay indices, all else becomes (N, outputs).

    The indices are int64; one-hot is made a batch at a time.
    """

    def __init__(self, structure: Structure) -> None:
        self.outputs = structure.sizes[-1]
        self.dtype = structure.dtype
        self.loss = structure.loss
        output = structure.activations[-1].name
        self.task: Task = "classes" if output == "softmax" else "values"
        if output in ("sigmoid", "fast_sigmoid"):
            self.task = "binary" if self.outputs == 1 else "labels"

    def encode(self, y: Any, rows: int, backend: Backend, may_wait: bool = True) -> Array:
        """`y` on the device: int64 class indices (N,), or (N, outputs) in the network's dtype.

        The values of a host array are checked, those of one on a GPU only if that may be waited for.
        """
        if not backend.owns(y) or y.dtype.kind not in "fiub":
            y = as_usable("y", y, backend)
        look = may_wait or isinstance(y, np.ndarray)
        if not y.ndim or len(y) != rows:
            raise ShapeError(f"y has shape {y.shape}, but x has {rows} rows; give one target for each")
        if self.task == "classes" and (y.ndim == 1 or (y.ndim == 2 and y.shape[1] == 1)):
            return self._indices(y, backend, look)
        if y.ndim == 1 and self.outputs == 1:
            y = y[:, None]
        if y.ndim != 2 or y.shape[1] != self.outputs:
            wanted = (
                f"class indices ({rows},) or rows of probabilities ({rows}, {self.outputs})"
                if self.task == "classes"
                else f"({rows}, {self.outputs})"
            )
            raise ShapeError(f"y has shape {y.shape}, but {wanted} is needed")
        if look:
            self._check_values(y, np if isinstance(y, np.ndarray) else backend.xp)
            if self.task == "classes":
                self._check_rows(y, backend)
        return as_matrix("y", y, backend, self.dtype, self.outputs)

    def _indices(self, y: Any, backend: Backend, look: bool) -> Array:
        if y.dtype.kind == "f":
            if look and not bool((y == y.astype("int64")).all()):
                raise DataError(
                    f"y must hold class indices 0..{self.outputs - 1}, got fractions; "
                    "for regression use output='identity'"
                )
        elif y.dtype.kind not in "iub":
            raise DataError(f"y has dtype {y.dtype}, but class indices are needed")
        labels = y.reshape(-1).astype("int64", copy=False)
        # Seen as unsigned, a negative label is a huge one, so one pass finds both mistakes.
        if look and labels.size and int(labels.view("uint64").max()) >= self.outputs:
            low, high = int(labels.min()), int(labels.max())
            remedy = "; for two classes with one output use output='sigmoid'" if self.outputs == 1 else ""
            raise DataError(
                f"y holds labels from {low} to {high}, but this network has {self.outputs} outputs, "
                f"for labels 0..{self.outputs - 1}{remedy}"
            )
        return backend.asarray(labels, "int64")

    def _check_values(self, y: Any, xp: Any) -> None:
        check_finite("y", y, xp)
        low, high = self.loss.targets
        if y.size and (float(y.min()) < low or float(y.max()) > high):
            remedy = "; for other labels map them to 0 and 1 first" if self.task in ("binary", "labels") else ""
            raise DataError(
                f"y runs from {float(y.min()):g} to {float(y.max()):g}, "
                f"but loss={self.loss.name!r} takes targets in [{low:g}, {high:g}]{remedy}"
            )

    def _check_rows(self, y: Any, backend: Backend) -> None:
        if backend.owns(y) and y.dtype == self.dtype:
            (sums,) = backend.scratch.take(1, y[:, :1])  # so that a warm step allocates nothing
            y.sum(axis=1, keepdims=True, out=sums)
        else:
            sums = y.sum(axis=1)
        if sums.size and max(1 - float(sums.min()), float(sums.max()) - 1) > 1e-3:
            raise DataError(
                "each row of y must sum to 1 (probabilities of the classes); "
                "for several labels a sample use output='sigmoid'"
            )

    def decide(self, outputs: Any, reject_below: float | None = None) -> Any:
        """Predictions from a network's outputs (host arrays), as `MLP.predict` describes them."""
        if reject_below is not None and self.task not in ("classes", "binary"):
            raise DataError("reject_below needs a softmax or a single sigmoid output; this network has neither")
        if reject_below is not None:
            reject_below = number("reject_below", reject_below, least=0, most=1)
        if self.task == "values":
            return outputs[:, 0].copy() if self.outputs == 1 else outputs
        if self.task == "labels":
            return (outputs >= 0.5).astype(np.int64)
        if self.task == "binary":
            decided = (outputs[:, 0] >= 0.5).astype(np.int64)
        else:
            decided = outputs.argmax(axis=1).astype(np.int64, copy=False)
        if reject_below is not None:
            binary = self.task == "binary"
            confidence = np.maximum(outputs[:, 0], 1 - outputs[:, 0]) if binary else outputs.max(axis=1)
            decided[confidence < reject_below] = -1
        return decided

    def probabilities(self, outputs: Any) -> Any:
        """Class probabilities from a network's outputs (host arrays)."""
        if self.task == "values":
            raise DataError(
                "predict_proba needs a softmax or sigmoid output; this network predicts values: use predict"
            )
        if self.task == "binary":
            return np.concatenate([1 - outputs, outputs], axis=1)
        return outputs
