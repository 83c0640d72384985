"""One weight's curves: the outputs a(w) and the cost C(w), all other parameters as they are."""

from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np

from gpubp.explain.descent import Vector, as_vector, resolve_paths
from gpubp.explain.figures import save
from gpubp.explain.plots import draw_curves, draw_paths
from gpubp.explain.scan import CostFunction, find_parameter, points_of, scan_range
from gpubp.mlp import MLP

SHOWN = 8  # samples whose outputs are kept: as many curves as can be told apart


@dataclass(frozen=True, repr=False)
class Curves:
    """What one parameter does: `outputs[k]` and `costs[k]` are those at `values[k]`."""

    name: str  # "w5"
    values: Vector  # (points,)
    outputs: Any  # (points, samples, outputs), of the first 8 samples at most
    costs: Vector  # (points,)
    value: float  # the network's own
    cost: float  # there
    slope: float  # ∂C/∂w there, by backpropagation
    paths: dict[str, Any] = field(default_factory=dict)  # (records, 2): the value, and the cost then
    others: int = 0  # parameters besides this one

    def plot(self, path: str | PathLike[str]) -> None:
        """Draw a(w) and C(w) beside each other into a .png or .svg file, with the tangent and the paths' steps.

        Raises DataError for another suffix, GpubpError where matplotlib is not installed or the file cannot be written.
        """
        save(draw_curves(self), path)

    def plot_paths(self, path: str | PathLike[str]) -> None:
        """Draw C(w) once for each path, all on the same axes: what several learning rates do. Otherwise like `plot`."""
        save(draw_paths(self), path)


def curves(
    net: MLP, x: Any, y: Any, name: str = "w1", *, span: Any = None, points: int = 201, path: Any = None
) -> Curves:
    """a(w) and C(w) for one parameter w of a network, which is left as it is; w ranges over `points` values.

    Arguments:
        name: of the parameter: "w1", "b2", "W[1][0,1]".
        span: ± a number around the parameter's value, or (low, high); None includes the path.
        path: a DescentPath, or a dict {label: DescentPath}. Its costs are the network's own at each record, so that
            they lie on the curve only where no other parameter has moved.

    The costs are in the network's dtype, on its device, dropout off.

    Raises DataError for a name or setting that cannot be used, ShapeError for a path of other shapes.

    The article's a = 1.5 w and C = (a − 0.5)², at w = 0.8:

    >>> net = MLP([1, 1], output="identity", use_bias=False, dtype="float64", seed=0)
    >>> net.set_parameters([[[0.8]]])
    >>> scan = curves(net, [[1.5]], [0.5], span=(0, 1), points=5)
    >>> scan.costs.round(6).tolist(), round(scan.slope, 6)
    ([0.25, 0.015625, 0.0625, 0.390625, 1.0], 2.1)
    """
    paths, count = resolve_paths(path, net), points_of(points)
    parameter, place = find_parameter(net, name)
    theta, cost = as_vector(net), CostFunction(net, x, y)
    value = float(theta[place])
    seen = np.concatenate([[value], *(thetas[:, place] for thetas in paths.values())])
    values = np.linspace(*scan_range(span, value, seen), count)
    here, outputs, costs = cost(theta), [], []
    for w in values:
        theta[place] = w
        costs.append(cost(theta))
        outputs.append(cost.outputs(theta, SHOWN))
    pass_ = net.backprop(x, y)
    gradient = (pass_.weight_grads if parameter.kind == "w" else pass_.bias_grads)[parameter.layer]
    return Curves(
        parameter.name,
        values,
        np.stack(outputs),
        np.array(costs),
        value,
        here,
        slope=float(gradient[parameter.index]),
        paths={label: np.column_stack([thetas[:, place], cost.along(thetas)]) for label, thetas in paths.items()},
        others=theta.size - 1,
    )
