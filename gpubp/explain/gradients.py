"""The gradient check: are these gradients the derivatives of the cost?

It is asked of NumPy in float64, whatever device the network is on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf, isnan
from typing import Any

import numpy as np

from gpubp.backends.numpy import NumpyBackend
from gpubp.data.arrays import as_layers
from gpubp.errors import ShapeError
from gpubp.mlp import MLP
from gpubp.network import Backprop, Network

COMPLEX_STEP = 1e-30  # no difference is taken, so nothing is lost by making it tiny
CENTRAL_STEP = 2e-5
MOST_ENTRIES = 5000  # above this many parameters, one random direction a tensor instead of every entry
TOLERANCE = {"complex step": 1e-11, "central differences": 1e-6}
FLOAT32_TOLERANCE = 1e-4  # what rounding alone may do to a float32 gradient of a moderate network


@dataclass(frozen=True)
class GradientReport:
    """The outcome of a gradient check.

    `error` is the largest, over the tensors, of ‖a − n‖ / max(‖a‖, ‖n‖, 1e-12 max(1, |C|)) with a the given and n the
    numerical gradient; `where` names the worst tensor and, where every entry was checked, its worst entry.
    """

    ok: bool
    error: float
    where: str
    method: str
    tolerance: float
    given: float
    numerical: float
    layer: int | None  # the layer nearest to the output whose gradients are wrong: look there first

    def __bool__(self) -> bool:
        return self.ok

    @property
    def hint(self) -> str:
        """What usually lies behind a failure like this one."""
        if self.ok:
            return ""
        if self.numerical == 0 and self.method == "complex step":
            return "a numerical 0 may mean that a body marked analytic is not complex-safe (abs, for one, is not)"
        ratio = self.given / self.numerical if self.numerical else 0.0
        if abs(ratio + 1) < 1e-6:
            return "the sign is wrong"
        if abs(ratio) > 1.5 and abs(ratio - round(ratio)) < 1e-6:
            return f"given is {round(ratio)} times too large: was the factor w, or the mean over the batch, forgotten?"
        return ""

    def __str__(self) -> str:
        verdict = "agree with" if self.ok else "FAIL against"
        return (
            f"the gradients {verdict} {self.method}: error {self.error:.2e}, tolerance {self.tolerance:.0e}; "
            f"worst at {self.where}: given {self.given:.12g}, numerical {self.numerical:.12g}"
            + (f"; wrong from layer {self.layer} down, counted from 0" if self.layer is not None else "")
            + (f"; {self.hint}" if self.hint else "")
        )


def check_gradients(net: MLP, x: Any, y: Any, gradients: Any = None) -> GradientReport:
    """Compare gradients with numerical derivatives of the cost.

    These are ∂C/∂θ ≈ Im C(θ + ih) / h where all of the network is analytic, else fourth-order central differences.
    Without `gradients` those of `net.backprop(x, y)` are checked; otherwise a pair (weight_grads, bias_grads), from a
    paper or another implementation. Dropout is off, masked weights are left out, and the network is not changed.

    >>> net = MLP([2, 3, 2], dtype="float64", seed=0)
    >>> check_gradients(net, [[0.5, -1.0]], [1]).ok
    True
    """
    traced = net.backprop(x, y)
    given = _pair(traced if gradients is None else gradients, net)
    analytic = net.loss.analytic and all(activation.analytic for activation in net.activations)
    method = "complex step" if analytic else "central differences"
    cost = _Cost(net, x, y, "complex128" if analytic else "float64")
    floor = 1e-12 * max(1.0, abs(traced.loss))
    every_entry = net.parameter_count <= MOST_ENTRIES
    tolerance = TOLERANCE[method] if net.dtype == "float64" or gradients is not None else FLOAT32_TOLERANCE
    found = []
    for name, layer, view, mask, tensor in cost.tensors(given):
        directions = _entries(view, mask) if every_entry else _direction(view, mask)
        pairs = [
            (where, _along(tensor, direction), cost.derivative(view, direction)) for where, direction in directions
        ]
        if not pairs:  # all of its weights are masked
            continue
        a, n = np.array([[value, numerical] for _, value, numerical in pairs]).T
        norms = [float(np.linalg.norm(v)) for v in (a - n, a, n)]
        error = norms[0] / max(norms[1], norms[2], floor)
        where, value, numerical = pairs[int(np.argmax(np.abs(a - n)))]
        found.append((inf if isnan(error) else error, name + where, value, numerical, layer))
    wrong = [layer for error, *_, layer in found if error > tolerance]
    error, where, value, numerical, _ = max(found, default=(0.0, "", 0.0, 0.0, 0))  # empty where every weight is masked
    return GradientReport(not wrong, error, where, method, tolerance, value, numerical, max(wrong, default=None))


class _Cost:
    """The cost as a function of the parameters, on a NumPy copy of the network in the given dtype."""

    def __init__(self, net: MLP, x: Any, y: Any, dtype: str) -> None:
        original = net._network
        backend = NumpyBackend()
        self.network = Network(replace(original.structure, dtype=dtype), backend, net.seed)
        weights, biases = net.get_parameters()
        for view, value in zip(
            [*self.network.arena.weights, *self.network.arena.biases], [*weights, *biases], strict=True
        ):
            if view is not None:
                view[...] = value
        inputs, targets, _ = net._sample(x, y, None)
        host = original.backend.to_numpy
        self.x = backend.asarray(host(inputs), dtype)
        self.targets = host(targets) if targets.ndim == 1 else backend.asarray(host(targets), dtype)

    def __call__(self) -> Any:
        network, backend = self.network, self.network.backend
        with backend.active():
            cost = backend.empty((), network.dtype)
            network.cost(self.x, self.targets, None, network.batch(len(self.x), False), cost)
        return cost

    def tensors(self, given: tuple[list[Any], list[Any]]) -> Iterator[tuple[str, int, Any, Any, Any]]:
        """Each parameter tensor: its name and layer, the view to perturb, its mask and the gradient given for it."""
        arena, masks = self.network.arena, self.network.structure.masks
        for layer, (view, mask, tensor) in enumerate(zip(arena.weights, masks, given[0], strict=True)):
            yield f"weights[{layer}]", layer, view, mask, tensor
        for layer, (view, tensor) in enumerate(zip(arena.biases, given[1], strict=True)):
            if view is not None:
                yield f"biases[{layer}]", layer, view, None, tensor

    def derivative(self, view: Any, direction: Any) -> float:
        """d/dt C(θ + t · direction) at t = 0."""
        kept = view.copy()
        try:
            if view.dtype == np.complex128:
                view[...] = kept + 1j * COMPLEX_STEP * direction
                return float(self().imag / COMPLEX_STEP)
            costs = []
            for factor in (-2, -1, 1, 2):
                view[...] = kept + factor * CENTRAL_STEP * direction
                costs.append(float(self()))
            return (costs[0] - 8 * costs[1] + 8 * costs[2] - costs[3]) / (12 * CENTRAL_STEP)
        finally:
            view[...] = kept


def _entries(view: Any, mask: Any) -> Iterator[tuple[str, Any]]:
    for index in np.ndindex(view.shape):
        if mask is None or mask[index]:
            direction = np.zeros(view.shape)
            direction[index] = 1
            yield str(list(index)), direction


def _direction(view: Any, mask: Any) -> Iterator[tuple[str, Any]]:
    direction = np.random.default_rng(0).standard_normal(view.shape) * (1 if mask is None else mask)
    yield " along a random direction", direction / np.linalg.norm(direction)


def _along(tensor: Any, direction: Any) -> float:
    """Their inner product, in which a NaN of the tensor counts only where the direction has a part."""
    part = direction != 0
    return float(tensor[part] @ direction[part])


def _pair(gradients: Any, net: MLP) -> tuple[list[Any], list[Any]]:
    """(weight_grads, bias_grads) as float64 arrays of the parameters' shapes."""
    if isinstance(gradients, Backprop):
        gradients = gradients.weight_grads, gradients.bias_grads
    if not isinstance(gradients, Sequence) or len(gradients) != 2:
        raise ShapeError("gradients must be a pair (weight_grads, bias_grads), one entry a layer in each")
    pair = []
    for name, given, views in zip(("weight_grads", "bias_grads"), gradients, (net.weights, net.biases), strict=True):
        if given is None:
            given = [None] * len(views)
        pair.append([None if a is None else np.asarray(a, np.float64) for a in as_layers(name, given, views)])
    return pair[0], pair[1]
