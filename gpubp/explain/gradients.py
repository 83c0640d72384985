"""The gradient check: are these gradients the derivatives of the cost?

It is asked of NumPy in float64, whatever device the network is on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, isfinite, isnan, sqrt
from typing import Any

import numpy as np

from gpubp.data.arrays import as_layers, as_usable
from gpubp.errors import DataError, ShapeError
from gpubp.explain.kinks import CENTRAL_STEP, find, refuse
from gpubp.explain.reference import Reference, on_numpy
from gpubp.explain.rounding import MOST_DEVIATIONS, expected
from gpubp.mlp import MLP
from gpubp.network import Backprop

COMPLEX_STEP = 1e-30  # no difference is taken, so nothing is lost by making it tiny
MOST_ENTRIES = 5000  # above this many parameters, one random direction a tensor instead of every entry
TOLERANCE = {"complex step": 1e-11, "central differences": 1e-6}
FLOAT32_TOLERANCE = 1e-4


@dataclass(frozen=True)
class TensorError:
    """How far one gradient a is from the numerical one n: ‖a − n‖ / max(‖a‖, ‖n‖, 1e-12 max(1, |C|)).

    Along a random direction d it is |a·d − n| / max(|a·d|, |n|, ‖a‖ / √size), the last being what |a·d| is on average.
    """

    name: str  # weights[0] or biases[0]
    layer: int
    error: float
    tolerance: float
    entry: str  # the worst, or that it was a random direction
    given: float  # there
    numerical: float

    @property
    def where(self) -> str:
        return self.name + self.entry

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance

    @property
    def lost(self) -> bool:
        """Whether rounding may do as much to this gradient as it is long, so that nothing can be said of it."""
        return self.error > 0 and self.tolerance >= 1


NOTHING = TensorError("", 0, 0.0, 1.0, "", 0.0, 0.0)  # where every weight is masked


@dataclass(frozen=True)
class GradientReport:
    """The outcome of a gradient check: `ok`, and of the worst tensor `error`, `tolerance` and the worst entry.

    The worst tensor has the largest error for its tolerance. `where` is such as "weights[1][3, 0]", or, for more than
    5000 parameters, "weights[1] along a random direction".
    """

    method: str
    tensors: tuple[TensorError, ...]  # in the order of the layers, weights first

    @property
    def worst(self) -> TensorError:
        return max(self.tensors, key=lambda tensor: tensor.error / tensor.tolerance, default=NOTHING)

    @property
    def wrong(self) -> list[TensorError]:
        return [tensor for tensor in self.tensors if not tensor.ok]

    @property
    def ok(self) -> bool:
        return not self.wrong

    @property
    def error(self) -> float:
        return self.worst.error

    @property
    def tolerance(self) -> float:
        return self.worst.tolerance

    @property
    def where(self) -> str:
        return self.worst.where

    @property
    def given(self) -> float:
        return self.worst.given

    @property
    def numerical(self) -> float:
        return self.worst.numerical

    @property
    def layer(self) -> int | None:
        """The layer nearest to the output whose gradients are wrong: look there first."""
        return max((tensor.layer for tensor in self.wrong), default=None)

    def __bool__(self) -> bool:
        return self.ok

    @property
    def hint(self) -> str:
        """What usually lies behind an outcome like this one."""
        if self.ok:
            lost = [tensor.name for tensor in self.tensors if tensor.lost]
            return f"too small to be told from rounding: {', '.join(lost)}" if lost else ""
        if self.numerical == 0 and self.method == "complex step":
            return "a numerical 0 may mean that a body marked analytic is not complex-safe (abs, for one, is not)"
        ratio, slack = self.given / self.numerical if self.numerical else 0.0, max(1e-6, self.tolerance)
        if abs(ratio + 1) < slack:
            return "the sign is wrong"
        if abs(ratio) > 1.5 and abs(ratio - round(ratio)) < slack:
            return f"given is {round(ratio)} times too large: was the factor w, or the mean over the batch, forgotten?"
        if ratio and abs(1 / ratio) > 1.5 and abs(1 / ratio - round(1 / ratio)) < slack:
            return f"given is {round(1 / ratio)} times too small: is there a ½, or a mean over the batch, too much?"
        return ""

    def __str__(self) -> str:
        verdict = "agree with" if self.ok else "FAIL against"
        return (
            f"the gradients {verdict} {self.method}: error {self.error:.2e}, tolerance {self.tolerance:.0e}; "
            f"worst at {self.where}: given {self.given:.15g}, numerical {self.numerical:.15g}"
            + (f"; wrong from layer {self.layer} down, counted from 0" if self.layer is not None else "")
            + (f"; {self.hint}" if self.hint else "")
        )


def check_gradients(net: MLP, x: Any, y: Any, gradients: Any = None) -> GradientReport:
    """Compare gradients with numerical derivatives of the cost C on the batch (x, y).

    These are ∂C/∂θ ≈ Im C(θ + ih) / h where all of the network is analytic between kinks, as everything built in is,
    else fourth-order central differences. Without `gradients` those of `net.backprop(x, y)` are checked, as its device
    computes them; otherwise a pair (weight_grads, bias_grads) from a paper or another implementation, arrays of the
    shapes that `net.weights` and `net.biases` have. A None among them, or for one of the two, leaves tensors out.

    The tolerance is 1e-11 of a gradient's norm, 1e-6 by differences, 1e-4 where network or gradients are in float32;
    more where rounding may do more to it, as in a trained network, whose gradients are small differences of large
    numbers. Dropout is off, masked weights are left out, and the network is not changed.

    Raises DataError where a sample is at a kink, such as a ReLU's z of 0, and where the cost is not finite; ShapeError
    for gradients of other shapes.

    >>> net = MLP([2, 3, 2], dtype="float64", seed=0)
    >>> check_gradients(net, [[0.5, -1.0]], [1]).ok
    True
    """
    if not isinstance(net, MLP):
        raise DataError(f"net must be a gpubp.MLP, got {net!r:.80}; gpubp.load(path) makes one of a model file")
    known = Reference.of(net, x, y)
    given = _given(net, net.backprop(x, y) if gradients is None else gradients)
    double = net.dtype == "float64" and all(a is None or a.dtype.itemsize >= 8 for arrays in given for a in arrays)
    epsilon = float(np.finfo(np.float64 if double else np.float32).eps)
    refuse(find(known, epsilon), len(known.x))
    method = "complex step" if known.analytic else "central differences"
    check = _Check(known, epsilon, max(TOLERANCE[method], 0 if double else FLOAT32_TOLERANCE))
    return GradientReport(method, tuple(check.errors(*given)))


class _Check:
    """The cost as a function of the parameters, on a copy of the network, and its derivatives beside those given."""

    def __init__(self, known: Reference, epsilon: float, tolerance: float) -> None:
        self.known, self.epsilon, self.tolerance = known, epsilon, tolerance
        self.network = on_numpy(known.network, "complex128" if known.analytic else "float64")
        arena, asarray = self.network.arena, self.network.backend.asarray
        self.x, self.targets = (asarray(a, self.network.dtype) for a in (known.x, known.targets))
        views = [view for view in [*arena.weights, *arena.biases] if view is not None]
        self.scale = max(1.0, abs(known.traced.loss))
        self.every_entry = sum(view.size for view in views) <= MOST_ENTRIES

    def errors(self, weight_grads: list[Any], bias_grads: list[Any]) -> Iterator[TensorError]:
        """Of every tensor that is given."""
        rounding, arena = expected(self.known), self.network.arena
        for layer, mask in enumerate(self.network.structure.masks):
            for name, view, gradient, deviation, kept in (
                ("weights", arena.weights[layer], weight_grads[layer], rounding.weight_grads[layer], mask),
                ("biases", arena.biases[layer], bias_grads[layer], rounding.bias_grads[layer], None),
            ):
                if gradient is not None and (kept is None or kept.any()):
                    free = np.ones(gradient.shape, bool) if kept is None else kept != 0
                    yield self._error(f"{name}[{layer}]", layer, view, gradient, deviation, free)

    @np.errstate(all="ignore")
    def _error(self, name: str, layer: int, view: Any, gradient: Any, deviation: float, free: Any) -> TensorError:
        """Of one tensor, of which the entries marked free are checked."""
        gradient = np.where(free, gradient, 0.0).astype(np.float64)
        directions = _entries(free) if self.every_entry else _direction(free)
        places, a, n = zip(*((e, _along(gradient, d), self.derivative(view, d)) for e, d in directions), strict=True)
        part = 1.0 if self.every_entry else 1 / sqrt(free.sum())  # of a norm that a random direction has on average
        difference = np.subtract(a, n)
        size = max(1e-12 * self.scale, *(float(np.linalg.norm(v)) for v in (a, n, part * gradient)))
        error = float(np.linalg.norm(difference)) / size
        tolerance = max(self.tolerance, part * self._noise(deviation, free.sum()) / size)
        worst = int(np.argmax(np.abs(difference)))
        return TensorError(name, layer, inf if isnan(error) else error, tolerance, places[worst], a[worst], n[worst])

    def _noise(self, deviation: float, count: int) -> float:
        """What rounding may do to the norm of this many entries."""
        noise = MOST_DEVIATIONS * self.epsilon * deviation if isfinite(deviation) else 0.0
        if not self.known.analytic:  # each of four costs is off by some ε; their factors add up to 18
            noise += 18 * 4 * float(np.finfo(np.float64).eps) * self.scale / (12 * CENTRAL_STEP) * sqrt(count)
        return noise

    def cost(self) -> Any:
        network, backend = self.network, self.network.backend
        cost = backend.empty((), network.dtype)
        network.cost(self.x, self.targets, None, network.batch(len(self.x), False), cost)
        return cost

    def derivative(self, view: Any, direction: Any) -> float:
        """d/dt C(θ + t · direction) at t = 0."""
        kept = view.copy()
        try:
            if view.dtype == np.complex128:
                view[...] = kept + 1j * COMPLEX_STEP * direction
                return float(self.cost().imag / COMPLEX_STEP)
            costs = []
            for factor in (-2, -1, 1, 2):
                view[...] = kept + factor * CENTRAL_STEP * direction
                costs.append(float(self.cost()))
            return (costs[0] - 8 * costs[1] + 8 * costs[2] - costs[3]) / (12 * CENTRAL_STEP)
        finally:
            view[...] = kept


def _entries(free: Any) -> Iterator[tuple[str, Any]]:
    for index in np.argwhere(free).tolist():
        direction = np.zeros(free.shape)
        direction[tuple(index)] = 1
        yield str(index), direction


def _direction(free: Any) -> Iterator[tuple[str, Any]]:
    direction = np.random.default_rng(0).standard_normal(free.shape) * free
    yield " along a random direction", direction / np.linalg.norm(direction)


def _along(gradient: Any, direction: Any) -> float:
    """Their inner product, in which a NaN of the gradient counts only where the direction has a part."""
    part = direction != 0
    return float(gradient[part] @ direction[part])


def _given(net: MLP, gradients: Any) -> tuple[list[Any], list[Any]]:
    """(weight_grads, bias_grads) on the host, in the precision that they are in; None for what is left out."""
    if isinstance(gradients, Backprop):
        gradients = gradients.weight_grads, gradients.bias_grads
    if not isinstance(gradients, Sequence) or len(gradients) != 2:
        raise ShapeError("gradients must be a pair (weight_grads, bias_grads), one entry a layer in each")
    backend, pair = net._network.backend, []
    for name, given, views in zip(("weight_grads", "bias_grads"), gradients, (net.weights, net.biases), strict=True):
        listed = [None] * len(views) if given is None else as_layers(name, given, views, may_be_left_out=True)
        pair.append([None if a is None else backend.to_numpy(as_usable(name, a, backend)) for a in listed])
    if all(a is None for each in pair for a in each):
        raise DataError("gradients holds no array, so that there is nothing to check; give one tensor's at least")
    return pair[0], pair[1]
