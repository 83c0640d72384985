"""Loss landscapes: the cost of a network on a plane through its parameters."""

from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Literal

import numpy as np

from gpubp import checks
from gpubp.errors import DataError
from gpubp.explain.descent import Vector, Vectors, as_vector, resolve_paths
from gpubp.explain.figures import save
from gpubp.explain.plane import Plane, of_networks, of_parameters, of_paths, of_random_directions
from gpubp.explain.plots import draw_landscape
from gpubp.explain.scan import CostFunction, is_range, points_of, scan_range
from gpubp.mlp import MLP


@dataclass(frozen=True, repr=False)
class Landscape:
    """The cost on a grid: costs[j, i] is the one at first[i] on the first axis and second[j] on the second.

    NaN or infinity stands where the network has no finite cost. Paths and marks are in the axes' coordinates.
    """

    first: Vector  # (points,)
    second: Vector  # (points,)
    costs: Any  # (points, points)
    labels: tuple[str, str]  # of the axes
    centre: tuple[float, float]  # where the network is
    cost: float  # there
    paths: dict[str, Vectors] = field(default_factory=dict)  # (records, 2) each
    marks: dict[str, tuple[float, float, float]] = field(default_factory=dict)  # places, and the cost there
    caption: str = ""

    @property
    def minimum(self) -> tuple[float, float, float]:
        """Where the least finite cost of the grid is, (first, second), and that cost; DataError where there is none."""
        finite = np.isfinite(self.costs)
        if not finite.any():
            raise DataError("the cost is nowhere finite on this grid; choose a smaller span")
        j, i = np.unravel_index(np.argmin(np.where(finite, self.costs, np.inf)), self.costs.shape)
        return float(self.first[i]), float(self.second[j]), float(self.costs[j, i])

    def plot(self, path: str | PathLike[str]) -> None:
        """Draw it into a .png or .svg file: contours, the paths from start to end, the least cost of the grid.

        Raises DataError for another suffix, GpubpError where matplotlib is not installed or the file cannot be written.
        """
        save(draw_landscape(self), path)


def landscape(
    net: MLP,
    x: Any,
    y: Any,
    first: Any = None,
    second: Any = None,
    *,
    span: Any = None,
    points: int = 41,
    path: Any = None,
    directions: Literal["random", "path"] = "random",
    seed: int = 0,
) -> Landscape:
    """The cost C(θ + α d₁ + β d₂) around the parameters θ of a network, which is left as it is.

    Arguments:
        first, second: two parameters by name ("w1", "b2", "W[1][0,1]"), whose values are then the axes; two other
            networks of the same sizes, for the plane through all three, in Euclidean distance; or None, for
            `directions`.
        span: how far to go on each axis: ± a number, or (low, high); None includes the path. A pair of those is one for
            each axis.
        points: on each axis.
        path: a DescentPath, or a dict {label: DescentPath}; it is projected onto the plane.
        directions: "random" draws two, filter-normalised: each unit's incoming weights have the norm of its own, each
            layer's biases the norm of its own, masked weights no part (Li et al. 2018, "Visualizing the Loss Landscape
            of Neural Nets"). "path" takes the path's two principal components; random directions are nearly orthogonal
            to a path in many dimensions, and would show little of it.
        seed: of the random directions.

    Every cost takes a forward pass over x, in the network's dtype and on its device, dropout off.

    Raises DataError for a name or setting that cannot be used, ShapeError for a path or network of other shapes.

    >>> net = MLP([1, 1], output="identity", dtype="float64", seed=0)
    >>> landscape(net, [[1.5]], [0.5], "w1", "b1", points=5).costs.shape
    (5, 5)
    """
    paths, count = resolve_paths(path, net), points_of(points)
    plane = _plane(net, first, second, paths, directions, seed)
    drawn = {label: plane.project(thetas) for label, thetas in paths.items()}
    seen = np.array([plane.centre, *plane.marks.values(), *(point for each in drawn.values() for point in each)])
    axes = [
        np.linspace(*scan_range(*each), count)
        for each in zip(_spans(span), plane.centre, seen.T, plane.least, strict=True)
    ]
    cost = CostFunction(net, x, y)
    costs = np.array([cost.along(plane.at(a, b) for a in axes[0]) for b in axes[1]])
    here, marks = cost(as_vector(net)), {mark: (a, b, cost(plane.at(a, b))) for mark, (a, b) in plane.marks.items()}
    return Landscape(axes[0], axes[1], costs, plane.labels, plane.centre, here, drawn, marks, plane.told(paths))


def _plane(net: MLP, first: Any, second: Any, paths: dict[str, Vectors], directions: Any, seed: int) -> Plane:
    if isinstance(first, str) and isinstance(second, str):
        return of_parameters(net, (first, second))
    if isinstance(first, MLP) and isinstance(second, MLP):
        return of_networks(net, (first, second))
    if first is not None or second is not None:
        raise DataError(
            "first and second must be two names of parameters, two networks, or both None, "
            f"got {first!r} and {second!r}"
        )
    if directions == "random":
        return of_random_directions(net, checks.seed(seed))
    if directions == "path":
        return of_paths(net, paths)
    raise DataError(f'directions must be "random" or "path", got {directions!r}')


def _spans(span: Any) -> tuple[Any, Any]:
    """One for each axis."""
    if not isinstance(span, tuple | list) or is_range(span):
        return span, span
    if len(span) != 2:
        raise DataError(f"span must be one for both axes, or a pair with one for each, got {span!r}")
    return span[0], span[1]
