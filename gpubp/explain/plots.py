"""The figures of landscapes and curves."""

from itertools import cycle, pairwise
from math import floor, log10
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp.errors import DataError
from gpubp.explain.figures import new_figure

if TYPE_CHECKING:
    from gpubp.explain.landscapes import Landscape
    from gpubp.explain.one_weight import Curves

# Okabe and Ito's, which can be told apart by those who see fewer colours.
COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#0072B2", "#56B4E9", "#F0E442", "#000000")
GROUND = ("#F3F8FD", "#B9D5EA", "#5C9CCB", "#1F5E9E", "#0B3161")  # a low cost is light
NOWHERE = {"facecolor": "#DDDDDD", "hatch": "////", "edgecolor": "white"}  # under costs that are not finite
WIDTH = 6.0  # inches: a column of a page
LEVELS = 20
LOGARITHMIC = 100  # the greatest cost over the median from which the levels are powers
SPREAD = 1e3  # times the median one, and as much below it: costs beyond have the colour of the end
FEW = 40  # records of a path up to which each is a dot
ARROW = 0.03  # of the panel's width or height: shorter steps have no arrow
FAR = 1e3  # widths or heights outside the panel: from there on matplotlib's arithmetic overflows


def draw_landscape(landscape: "Landscape") -> Any:
    """Contours of the cost, the paths from start to end, marks, the least cost of the grid, and the caption."""
    first, second, least = landscape.minimum
    figure, axes = _figure(1, 1, 5.0, landscape.caption)
    panel = axes[0, 0]
    panel.set(xlim=landscape.first[[0, -1]], ylim=landscape.second[[0, -1]])
    panel.set(xlabel=landscape.labels[0], ylabel=landscape.labels[1])
    _contours(figure, panel, landscape)
    for (label, points), colour in zip(landscape.paths.items(), cycle(COLOURS), strict=False):
        _path(panel, points, colour, label or "path")
    if landscape.paths:
        panel.plot([], [], "o", color="white", markeredgecolor="black", label="start")
        panel.plot([], [], "o", color="black", label="end")
    elif not landscape.marks:
        panel.plot(*landscape.centre, "ko", markeredgecolor="white", label=f"the network: {landscape.cost:.4g}")
    cross = {"markersize": 7, "markeredgewidth": 1.5, "clip_on": False}
    panel.plot(first, second, "kx", label=f"least of the grid: {least:.4g}", **cross)
    for label, (a, b, cost) in landscape.marks.items():
        panel.plot(a, b, "o", color="white", markeredgecolor="black", markersize=14)
        panel.plot(a, b, marker=f"${label}$", color="black", linestyle="none", markersize=7, label=f"{cost:.4g}")
    if not np.isfinite(landscape.costs).all():
        panel.fill_between([], [], label="not finite", **NOWHERE)
    legend = figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize="small")
    for text in legend.get_texts():
        text.set_parse_math(False)  # a label is the user's, and may hold a $
    return figure


def _contours(figure: Any, panel: Any, landscape: "Landscape") -> None:
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, PowerNorm
    from matplotlib.ticker import LogLocator

    norm: Any
    ticks: Any
    costs = np.ma.masked_invalid(landscape.costs)
    low, high, logarithmic = levels_between(costs.compressed())
    if logarithmic:
        levels, norm = np.geomspace(low, high, LEVELS + 1), LogNorm(low, high)
        ticks = [tick for tick in np.asarray(LogLocator().tick_values(low, high)) if low <= tick <= high]
        names = [f"{tick:g}" for tick in ticks]
    else:  # near a minimum a cost grows as the square of the distance
        levels, norm = low + (high - low) * np.linspace(0, 1, LEVELS + 1) ** 2, PowerNorm(0.5, low, high)
        levels[-1] = high  # not an ulp below it, where the greatest cost would be a hole
        ticks = levels[::4]
        names = [f"{round(tick, 2 - floor(log10(high - low))):g}" for tick in ticks]
    beyond = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    extend = beyond[bool(costs.min() < low), bool(costs.max() > high)]
    place = landscape.first, landscape.second, costs
    ground = LinearSegmentedColormap.from_list("cost", GROUND)
    panel.patch.set(**NOWHERE)
    surface = panel.contourf(*place, levels, cmap=ground, norm=norm, extend=extend)
    panel.contour(*place, levels, colors="black", linewidths=0.4, alpha=0.3)
    bar = figure.colorbar(surface, label="cost C", pad=0.02)
    bar.set_ticks(ticks, labels=names)
    bar.outline.set_visible(False)
    bar.ax.minorticks_off()


def levels_between(costs: Any) -> tuple[float, float, bool]:
    """The least and the greatest level of contours of finite costs, and whether those between are to be powers.

    >>> levels_between(np.array([0.0, 1.0, 1.5]))
    (0.0, 1.5, False)
    >>> levels_between(np.array([1e-9, 1e-3, 1.0, 10.0, 1e30]))
    (0.001, 1000.0, True)
    """
    low, high, median = float(costs.min()), float(costs.max()), float(np.median(costs))
    if low >= 0 and median and high > LOGARITHMIC * median:
        return max(low, median / SPREAD), min(high, median * SPREAD), True
    apart = 0.0 if high > low else max(0.5, abs(low) / 2)
    return low - apart, high + apart, False


def _path(panel: Any, points: Any, colour: str, label: str) -> None:
    """A line with a white edge from an open circle to a full one, and a dot for each record where there are few."""
    from matplotlib.patheffects import withStroke

    points = _in_reach(panel, points)
    edge = [withStroke(linewidth=3.4, foreground="white")]
    panel.plot(*points.T, color=colour, linewidth=1.8, path_effects=edge, label=label)
    _dots(panel, points, colour)


def _dots(panel: Any, points: Any, colour: str) -> None:
    if len(points) <= FEW:
        panel.plot(*points.T, ".", color=colour, markersize=5)
    # The start is the larger one, to be seen where the end lies upon it.
    panel.plot(*points[0], "o", color="white", markeredgecolor=colour, markeredgewidth=1.5, markersize=8)
    panel.plot(*points[-1], "o", color=colour, markeredgecolor="white", markersize=6.5)


def draw_curves(curves: "Curves") -> Any:
    """a(w) and C(w) beside each other, with the tangent to C at the network's own value."""
    many = curves.outputs[0].size > len(COLOURS)
    figure, axes = _figure(1, 2, 3.0, _others(curves) + many * f" Of the outputs the first {len(COLOURS)} are shown.")
    outputs, costs = axes[0]
    _outputs(outputs, curves)
    _cost(costs, curves)
    for (_, points), colour in zip(curves.paths.items(), cycle(COLOURS[1:]), strict=False):
        _steps(costs, points, colour)
    reach = np.array([-0.5, 0.5]) * np.ptp(curves.values)
    slope = f"slope ∂C/∂{curves.name} = {curves.slope:.4g}"
    costs.plot(curves.value + reach, curves.cost + curves.slope * reach, "--", color=COLOURS[0], label=slope)
    costs.plot(curves.value, curves.cost, "o", color=COLOURS[0], label=f"{curves.name} = {curves.value:.4g}")
    costs.legend(frameon=False, fontsize="x-small")
    outputs.axvline(curves.value, color=COLOURS[0], linestyle=":")
    return figure


def draw_paths(curves: "Curves") -> Any:
    """C(w) once for each path."""
    if not curves.paths:
        raise DataError("there is no path to draw; give curves a path=DescentPath or a dict {label: DescentPath}")
    columns = min(2, len(curves.paths))
    rows = -(-len(curves.paths) // columns)
    figure, axes = _figure(rows, columns, 0.4 + 2.1 * rows, _others(curves))
    for panel in axes.flat[len(curves.paths) :]:
        panel.set_visible(False)
    for panel, (label, points), colour in zip(axes.flat, curves.paths.items(), cycle(COLOURS), strict=False):
        _cost(panel, curves)
        _steps(panel, points, colour)
        panel.set_title(label or "path", fontsize="medium", parse_math=False)
        panel.label_outer()
    return figure


def _others(curves: "Curves") -> str:
    if not curves.others:
        return ""
    told = f"All other parameters ({curves.others:,}) are as they are"
    return told + ("; along the path they move." if curves.paths else ".")


def _cost(panel: Any, curves: "Curves") -> None:
    """C(w), in a frame that holds the whole curve."""
    finite = curves.costs[np.isfinite(curves.costs)]
    if not finite.size:
        raise DataError(f"the cost is nowhere finite on this range of {curves.name}; choose a smaller span")
    margin = 0.06 * (np.ptp(finite) or 1.0)
    panel.plot(curves.values, curves.costs, color="black", linewidth=1.5, zorder=1)
    panel.set(xlabel=curves.name, ylabel="cost C", xlim=curves.values[[0, -1]])
    panel.set_ylim(finite.min() - margin, finite.max() + margin)
    _plain(panel)


def _steps(panel: Any, points: Any, colour: str) -> None:
    """A path's records as dots, with arrows for the steps that are long enough to have one."""
    points = _in_reach(panel, points)
    if len(points) > FEW:
        panel.plot(*points.T, color=colour)
    _dots(panel, points, colour)
    for here, there in pairwise(points):
        if np.abs((there - here) / _frame(panel)).max() > ARROW:
            style = {"arrowstyle": "->", "color": colour}
            arrow = panel.annotate("", there, here, arrowprops=style, annotation_clip=False)
            arrow.arrow_patch.set_clip_box(panel.bbox)  # a step may lead out of the panel


def _frame(panel: Any) -> Any:
    """The width and the height of a panel, in its coordinates."""
    return np.ptp([panel.get_xlim(), panel.get_ylim()], axis=1)


def _in_reach(panel: Any, points: Any) -> Any:
    """Points of a path, NaN where it is too far away to be drawn."""
    middle = np.mean([panel.get_xlim(), panel.get_ylim()], axis=1)
    near = (np.abs(points - middle) < FAR * _frame(panel)).all(axis=1)
    return np.where(near[:, None], points, np.nan)


def _outputs(panel: Any, curves: "Curves") -> None:
    """a(w): a curve for each sample and output, the first ones where there are many."""
    _, samples, outputs = curves.outputs.shape
    names = [
        " ".join([f"x[{sample}]"] * (samples > 1) + [f"o{output + 1}"] * (outputs > 1))
        for sample in range(samples)
        for output in range(outputs)
    ]
    lines = curves.outputs.reshape(len(curves.values), -1).T
    colours = COLOURS if len(lines) > 1 else ("black",)
    for name, line, colour in zip(names, lines, colours, strict=False):
        panel.plot(curves.values, line, color=colour, label=name)
    if len(lines) > 1:
        panel.legend(frameon=False, fontsize="x-small")
    panel.set(xlabel=curves.name, ylabel="output a", xlim=curves.values[[0, -1]])
    _plain(panel)


def _plain(panel: Any) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.3)


def _figure(rows: int, columns: int, height: float, caption: str) -> tuple[Any, Any]:
    figure = new_figure(WIDTH, height)
    if caption:
        figure.supxlabel(fill(caption, 100), fontsize="x-small", color="dimgrey")
    return figure, figure.subplots(rows, columns, squeeze=False)
