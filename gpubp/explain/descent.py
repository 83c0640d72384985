"""The path of a descent: all parameters as one vector θ, from the start of a training to its end."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from gpubp.callbacks import Callback
from gpubp.errors import DataError, ShapeError
from gpubp.history import History
from gpubp.mlp import MLP

Vector = Any  # NumPy, (n,), float64
Vectors = Any  # NumPy, (k, n), float64


def as_vector(net: MLP) -> Vector:
    """θ (n,): the weights row by row, layer after layer, then the biases, so that w1 comes first and b1 after them."""
    weights, biases = net.get_parameters()
    return np.concatenate([array.ravel() for array in [*weights, *biases] if array is not None], dtype=np.float64)


def shapes(net: MLP) -> list[tuple[int, ...] | None]:
    """Of the weights, then of the biases; None for a layer without."""
    return [None if view is None else view.shape for view in [*net.weights, *net.biases]]


def cut(theta: Vector, net: MLP) -> list[Any]:
    """θ as views of the parameters' shapes, one for each array that there is."""
    present = [shape for shape in shapes(net) if shape is not None]
    ends = np.cumsum([int(np.prod(shape)) for shape in present])
    return [part.reshape(shape) for part, shape in zip(np.split(theta, ends[:-1]), present, strict=True)]


class DescentPath(Callback):
    """The parameters at the start of a training and after each epoch, or each step: a callback of `fit`.

    In a loop of one's own, `record(net)` takes them down. Each record copies all parameters to the host.

    >>> net, path = MLP([1, 1], output="identity", use_bias=False, dtype="float64", seed=0), DescentPath()
    >>> history = net.fit([[1.5]], [0.5], epochs=3, callbacks=[path], verbose=0)
    >>> path.points.shape
    (4, 1)
    """

    def __init__(self, every: Literal["epoch", "step"] = "epoch") -> None:
        if every not in ("epoch", "step"):
            raise DataError(f'every must be "epoch" or "step", got {every!r}')
        self.every = every
        self._shapes: list[tuple[int, ...] | None] = []
        self._points: list[Vector] = []

    @property
    def points(self) -> Vectors:
        """(records, n), a row each in the order of `as_vector`."""
        if not self._points:
            raise DataError("the path is empty; give it to fit as a callback, or call its record(net), first")
        return np.stack(self._points)

    def record(self, net: MLP) -> None:
        """Take down where the network is now."""
        if self._points:
            self.check(net)
        self._shapes = shapes(net)
        self._points.append(as_vector(net))

    def check(self, net: MLP) -> None:
        """Refuse a network that this cannot be the path of."""
        if self._shapes != shapes(net):
            raise ShapeError(
                f"the path was recorded on a network with parameters of shapes {self._shapes}, "
                f"but those of this one are {shapes(net)}"
            )

    def _record_if_moved(self, net: MLP) -> None:
        if not self._points or not np.array_equal(self._points[-1], as_vector(net)):
            self.record(net)

    def on_fit_begin(self, net: MLP) -> None:
        self._record_if_moved(net)  # a second fit begins where the first one ended

    def on_step_end(self, net: MLP, step: int, cost: Any) -> None:
        if self.every == "step":
            self.record(net)

    def on_epoch_end(self, net: MLP, record: dict[str, Any]) -> None:
        if self.every == "epoch":
            self.record(net)

    def on_fit_end(self, net: MLP, history: History) -> None:
        self._record_if_moved(net)  # early stopping went back to the best, or Ctrl-C ended within an epoch


def resolve_paths(path: Any, net: MLP) -> dict[str, Vectors]:
    """The points of one path, labelled "", or of a mapping from labels to paths."""
    labelled = path if isinstance(path, Mapping) else {} if path is None else {"": path}
    resolved = {}
    for label, each in labelled.items():
        if not isinstance(label, str):
            raise DataError(f"the label of a path must be a text, got {label!r}")
        if not isinstance(each, DescentPath):
            raise DataError(f"path must be a DescentPath or a dict {{label: DescentPath}}, got {each!r}")
        resolved[label] = each.points
        each.check(net)
    return resolved
