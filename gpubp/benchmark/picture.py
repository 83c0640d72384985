"""The curves of a sweep as a picture."""

from io import BytesIO
from math import floor, log10
from textwrap import fill
from typing import Any

from gpubp.benchmark.results import NAMES, Result, curves


def picture(results: list[Result], title: str, caption: str, crossing: tuple[str, int] | None) -> bytes:
    """A PNG: the curves with their quartiles, the products alone dashed, and the batch from which a GPU is faster."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes: Any = figure.add_subplot(xlabel="batch size", ylabel="samples/s", xscale="log", yscale="log")
    figure.suptitle(title)
    figure.supxlabel(fill(caption, 110), fontsize="x-small", color="dimgrey")
    for name, line in curves(results).items():
        floor = name.startswith(NAMES["gemms"])
        rows = list(line.values())
        rates = [row.samples_per_second for row in rows]
        spread = [[rate - row.low for rate, row in zip(rates, rows, strict=True)]]
        spread.append([row.high - rate for rate, row in zip(rates, rows, strict=True)])
        style = {"color": "grey", "linestyle": "--"} if floor else {"marker": "o", "markersize": 4, "capsize": 2}
        axes.errorbar(list(line), rates, yerr=spread, label=name, linewidth=1.5, **style)
    if crossing:
        device, batch = crossing
        axes.axvline(batch, color="grey", linestyle=":", label=f"{device} is faster from {batch:,} on")
    batches = sorted({row.batch for row in results})
    axes.set_xticks(batches, list(map(str, batches)))
    ticks = rates_to_mark(min(row.low for row in results), max(row.high for row in results))
    axes.set_yticks(ticks, [f"{tick:,.0f}" if tick >= 10 else f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=150, format="png")
    return drawn.getvalue()


def rates_to_mark(low: float, high: float) -> list[float]:
    """Round numbers from below the least to above the greatest, few enough to be read.

    >>> rates_to_mark(3_000, 90_000)
    [2000.0, 5000.0, 10000.0, 20000.0, 50000.0, 100000.0]
    """
    if high < 4 * low:
        from matplotlib.ticker import MaxNLocator

        return list(map(float, MaxNLocator(5).tick_values(0.98 * low, 1.02 * high)))
    steps = (1, 2, 5) if high < 1e3 * low else (1,)
    powers = range(floor(log10(low)), floor(log10(high)) + 2)
    ticks = [step * 10.0**power for power in powers for step in steps]
    first = max(tick for tick in ticks if tick <= low)
    last = min(tick for tick in ticks if tick >= high)
    return [tick for tick in ticks if first <= tick <= last]
