"""The picture of `python -m bench.scaling`: a panel for what grows, time solid and memory dashed, in log-log.

Thin lines go as the arithmetic does and meet the last point. Both axes of a panel have as many decades, so that lines
of one exponent are parallel.
"""

from math import log10
from typing import TYPE_CHECKING, Any

from gpubp.explain.figures import new_figure

if TYPE_CHECKING:
    from bench.growth import Growth
    from bench.scaling import Curve

TIME, MEMORY, GUIDE = "#0072B2", "#C04A00", "#767676"
FACES = ("full", "none")  # the markers of a panel's first curve and of its second
TICKS = 5  # sizes below an axis, at most
ROOM = 0.25  # above the curves, for the legend, as a share of their height
BELOW = 0.15  # by which memory's last point stands below time's


def draw(curves: "list[Curve]") -> Any:
    """A figure with a panel for each of what grows."""
    panels: dict[str, list[Curve]] = {}
    for curve in curves:
        panels.setdefault(curve.grows, []).append(curve)
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(5.2 * columns, 4.2 * rows)
    for number, (grows, shown) in enumerate(panels.items(), 1):
        _panel(figure.add_subplot(rows, columns, number), grows, shown)
    return figure


def _panel(axes: Any, grows: str, curves: "list[Curve]") -> None:
    beside, lines = axes.twinx(), []
    for curve, face in zip(curves, FACES, strict=False):
        of = f" of {curve.done.split(',')[0]}" if len(curves) > 1 else ""
        style, fits = {"marker": "o", "markersize": 4, "fillstyle": face}, curve.fits
        for where, name, colour, dashes, measured, arithmetic in (
            (axes, "time", TIME, "-", curve.seconds, curve.flops),
            (beside, "memory", MEMORY, "--", curve.peaks, curve.bytes),
        ):
            guide = [value / arithmetic[-1] * measured[-1] for value in arithmetic]
            (thin,) = where.plot(curve.sizes, guide, color=GUIDE, linewidth=0.8, label="as the arithmetic", zorder=1)
            label = f"{name}{of}: {_told(fits[name])}"
            lines += where.plot(curve.sizes, measured, color=colour, linestyle=dashes, label=label, **style)
    axes.legend(handles=[*lines, thin], frameon=False, fontsize="small", loc="upper left")
    axes.set_title(f"{grows}: {curves[0].done}" if len(curves) == 1 else grows, fontsize="medium")
    _dress(axes, beside, curves)


def _told(fit: "Growth") -> str:
    return f"n$^{{{fit.exponent:.2f}}}$ ± {fit.error:.2f}, arithmetic n$^{{{fit.arithmetic:.2f}}}$"


def _dress(axes: Any, beside: Any, curves: "list[Curve]") -> None:
    """Scales, limits and ticks."""
    from matplotlib.ticker import EngFormatter, LogLocator

    drawn = {where: [log10(y) for line in where.lines for y in line.get_ydata()] for where in (axes, beside)}
    decades = max(max(ys) - min(ys) for ys in drawn.values())
    for where, unit, colour in ((axes, "s", TIME), (beside, "B", MEMORY)):
        where.set_xscale("log")
        where.set_yscale("log")
        top = max(drawn[where]) + (ROOM + (BELOW if where is beside else 0)) * decades
        where.set_ylim(10 ** (top - (1.05 + ROOM + BELOW) * decades), 10**top)
        where.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,)))
        where.yaxis.set_major_formatter(EngFormatter(unit))
        where.tick_params(axis="y", colors=colour)
        where.minorticks_off()
        where.spines["top"].set_visible(False)
    sizes = curves[0].sizes
    ticks = sizes[:: -(len(sizes) // TICKS + (len(sizes) % TICKS > 0))]
    axes.set_xticks(ticks, [f"{size:,}" for size in ticks])
    axes.grid(alpha=0.3)
