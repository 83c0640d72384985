"""A look around: the cost of a network at other parameters than its own, and how far to look."""

from collections.abc import Iterable
from math import isfinite
from typing import Any

import numpy as np

from gpubp.checks import count, number
from gpubp.errors import DataError
from gpubp.explain.descent import Vector, cut
from gpubp.explain.names import Names, Parameter
from gpubp.mlp import MLP

MARGIN = 0.4  # on either side of what a range includes, as a part of it


class CostFunction:
    """C(θ) and the outputs a(θ) on a copy of the network: in its dtype and on its device, with dropout off."""

    def __init__(self, net: MLP, x: Any, y: Any) -> None:
        self._net = net.copy()
        with self._net._session():
            self._sample = self._net._sample(x, y, None, finite="x")

    def __call__(self, theta: Vector) -> float:
        """The cost, its samples summed in float64; NaN or infinity where it is not finite."""
        self._move(theta)
        with self._net._session() as network:
            return network.score(*self._sample, {})["loss"]

    def along(self, thetas: Iterable[Vector]) -> Vector:
        """The cost at each of these places."""
        return np.array([self(theta) for theta in thetas])

    def outputs(self, theta: Vector, rows: int) -> Any:
        """(rows, outputs), of the first samples."""
        self._move(theta)
        with self._net._session() as network:
            return np.array(network.backend.to_numpy(network.outputs(self._sample[0][:rows])), np.float64)

    def _move(self, theta: Vector) -> None:
        # Not by set_parameters, which refuses the infinities that a far corner has in float32.
        views = [view for view in [*self._net.weights, *self._net.biases] if view is not None]
        with self._net._session() as network:
            for view, part in zip(views, cut(theta, self._net), strict=True):
                view[...] = network.backend.asarray(part, network.dtype)


def find_parameter(net: MLP, name: Any) -> tuple[Parameter, int]:
    """The parameter of this name, and its place in θ; DataError for one that a mask holds at 0."""
    parameter = Names(net).find(name)
    mask = net._network.structure.masks[parameter.layer] if parameter.kind == "w" else None
    if mask is not None and not mask[parameter.index]:
        raise DataError(f"{name} is masked: it is 0 and stays 0; name another parameter")
    weights = sum(view.size for view in net.weights)
    return parameter, int(parameter.name[1:]) - 1 + (weights if parameter.kind == "b" else 0)


def points_of(points: Any) -> int:
    if count("points", points) < 2:
        raise DataError(f"points must be at least 2, got {points}")
    return int(points)


def is_range(span: Any) -> bool:
    """Whether this is (low, high) and not a pair of spans."""
    return isinstance(span, tuple | list) and not any(each is None or isinstance(each, tuple | list) for each in span)


def scan_range(span: Any, centre: float, seen: Vector, least: float = 0.0) -> tuple[float, float]:
    """From where to where: ± a number around the centre, (low, high) as they are, or None.

    None goes beyond all of `seen` that is finite, and at least ± `least`; ± max(1, |centre|) if that is nothing.
    """
    if span is None:
        inside = seen[np.isfinite(seen)]
        low, high = float(inside.min()), float(inside.max())
        margin = MARGIN * (high - low)
        if not margin and not least:
            least = max(1.0, abs(centre))
        low, high = min(low - margin, centre - least), max(high + margin, centre + least)
        if not isfinite(high - low):
            raise DataError("the path leaves for infinity; say how far to look by span")
        return low, high
    if not is_range(span):
        half = number("span", span, above=0)
        return centre - half, centre + half
    if len(span) != 2:
        raise DataError(f"span must be a positive number or a pair (low, high), got {span!r}")
    low, high = (number("span's ends", end) for end in span)
    if low >= high:
        raise DataError(f"span must go from low to high, got {span!r}")
    return low, high
