"""A plane through the parameters of a network: of two weights, two directions, or three networks."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpubp.errors import DataError, ShapeError
from gpubp.explain.descent import Vector, Vectors, as_vector, cut, shapes
from gpubp.explain.scan import find_parameter
from gpubp.mlp import MLP

PARALLEL = 1e-12  # sin² of the angle between two directions, below which they span no plane
IN_THE_PLANE = 1e-6  # share of a path's distances that is put down to rounding


@dataclass(frozen=True)
class Plane:
    """θ(a, b) = origin + a · basis[0] + b · basis[1]."""

    origin: Vector  # (n,)
    basis: Vectors  # (2, n)
    centre: tuple[float, float]  # where the network is
    labels: tuple[str, str]  # of the axes
    least: tuple[float, float]  # how far to look by default, on either side of the centre
    caption: str
    elsewhere: str  # what is outside the plane, in words
    marks: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (aa, ab), (_, bb) = self.basis @ self.basis.T
        if aa * bb - ab**2 <= PARALLEL * aa * bb:
            raise DataError(
                "the two directions span no plane: they are parallel, or the network does not move along one of them; "
                "choose two others, or another seed for random ones"
            )

    def at(self, a: float, b: float) -> Vector:
        return self.origin + a * self.basis[0] + b * self.basis[1]

    def project(self, thetas: Vectors) -> Vectors:
        """(records, 2): the coordinates of the nearest points of the plane; not finite where θ is not."""
        with np.errstate(all="ignore"):
            inner = (thetas - self.origin) @ self.basis.T
            return np.linalg.solve(self.basis @ self.basis.T, inner.T).T

    def outside(self, paths: dict[str, Vectors]) -> float:
        """The share of the paths' distances from the network that is perpendicular to the plane."""
        thetas = _finite(paths, self.origin)
        with np.errstate(all="ignore"):
            away = np.linalg.norm(thetas - self.at(*self.centre), axis=1).sum()
            beside = thetas - self.origin - self.project(thetas) @ self.basis
            return float(np.linalg.norm(beside, axis=1).sum() / away) if away else 0.0

    def told(self, paths: dict[str, Vectors]) -> str:
        """The caption, with what the projection of these paths leaves out."""
        share = self.outside(paths)
        if not share > IN_THE_PLANE:  # nor where a diverged path overflows
            return self.caption
        left_out = f"{share:.0%} of their distance from the network is {self.elsewhere}"
        return f"{self.caption} Paths are projected: {left_out}."


def of_parameters(net: MLP, names: tuple[str, str]) -> Plane:
    """Two parameters, each axis its own values; the others are as they are."""
    (first, i), (second, j) = (find_parameter(net, name) for name in names)
    if i == j:
        raise DataError(f"{names[0]!r} and {names[1]!r} are the same parameter; name two")
    origin = as_vector(net)
    a, b = float(origin[i]), float(origin[j])
    origin[[i, j]] = 0
    basis = np.zeros((2, origin.size))
    basis[[0, 1], [i, j]] = 1
    others = origin.size - 2
    return Plane(
        origin,
        basis,
        centre=(a, b),
        labels=(f"{first.name} = {first.path}", f"{second.name} = {second.path}"),
        least=(0.0, 0.0),
        caption=f"All other parameters ({others:,}) are as they are." if others else "These are all of its parameters.",
        elsewhere=f"in the other parameters ({others:,})",
    )


def of_random_directions(net: MLP, seed: int) -> Plane:
    """Two random directions, filter-normalised.

    In a direction each unit's incoming weights have the norm of its own in the network, and so has each layer's vector
    of biases: a step of 1 then means the same to a network and to one that computes the same with larger weights below
    and smaller ones above. Within a filter of more than one weight, the two directions are orthogonal.
    """
    theta = as_vector(net)
    basis = np.random.default_rng(seed).standard_normal((2, theta.size))
    masks = [*net._network.structure.masks, *(None for bias in net.biases if bias is not None)]
    for own, first, second, mask in zip(*(cut(v, net) for v in (theta, *basis)), masks, strict=True):
        for direction in (first, second):
            direction *= 1 if mask is None else mask
        several = np.count_nonzero(first, axis=0) > 1
        second -= several * first * _ratio((first * second).sum(axis=0), (first * first).sum(axis=0))
        for direction in (first, second):
            direction *= _ratio(np.linalg.norm(own, axis=0), np.linalg.norm(direction, axis=0))
    return Plane(
        theta,
        basis,
        centre=(0.0, 0.0),
        labels=("first direction", "second direction"),
        least=(1.0, 1.0),
        caption=f"Two random, filter-normalised directions in {theta.size:,} parameters, seed {seed}.",
        elsewhere="outside this plane",
    )


def of_paths(net: MLP, paths: dict[str, Vectors]) -> Plane:
    """The plane through the network that holds most of its paths: the first two principal components of θ − θ_net."""
    if not paths:
        raise DataError('directions="path" needs a path; record one by a DescentPath, or take "random" directions')
    theta = as_vector(net)
    _, sizes, directions = np.linalg.svd(_finite(paths, theta) - theta, full_matrices=False)
    if len(sizes) < 2 or sizes[1] <= PARALLEL * sizes[0]:
        raise DataError('the path has no second direction: it is a straight line; take "random" directions')
    shares = sizes[:2] ** 2 / (sizes**2).sum()
    return Plane(
        theta,
        directions[:2],
        centre=(0.0, 0.0),
        labels=(f"first component of the path ({shares[0]:.0%})", f"second component ({shares[1]:.0%})"),
        least=(0.0, 0.0),
        caption=f"The two principal components of the path, of length 1, in {theta.size:,} parameters.",
        elsewhere="outside this plane",
    )


def of_networks(net: MLP, others: tuple[MLP, MLP]) -> Plane:
    """The plane through three networks, in Euclidean distance from the first: towards the second, then beside it."""
    for other in others:
        if shapes(other) != shapes(net):
            raise ShapeError(f"a plane needs three networks of the same shapes, got {net!r} and {other!r}")
    theta, second, third = (as_vector(each) for each in (net, *others))
    ahead, beside = second - theta, third - theta
    length = np.linalg.norm(ahead)
    along = _ratio(ahead @ beside, length**2)
    beside = beside - along * ahead
    width = np.linalg.norm(beside)
    basis = np.stack([_ratio(ahead, length), _ratio(beside, width)])
    return Plane(
        theta,
        basis,
        centre=(0.0, 0.0),
        labels=("distance towards the second network", "distance beside it"),
        least=(0.0, 0.0),
        caption=f"The plane through three networks of {theta.size:,} parameters.",
        elsewhere="outside this plane",
        marks={"1": (0.0, 0.0), "2": (float(length), 0.0), "3": (float(along * length), float(width))},
    )


def _ratio(a: Any, b: Any) -> Any:
    """a / b, and 0 where b is 0."""
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(np.shape(a), np.shape(b))), where=b != 0)


def _finite(paths: dict[str, Vectors], like: Vector) -> Vectors:
    """All points of the paths at which every parameter is finite."""
    points = np.concatenate([np.empty((0, like.size)), *paths.values()])
    return points[np.isfinite(points).all(axis=1)]
