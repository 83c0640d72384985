"""The picture of a training that was watched: its loss, and for each layer deltas, gradients, updates and units."""

from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp.explain.figures import new_figure

if TYPE_CHECKING:
    from gpubp.explain.diagnosis import Diagnosis

WIDTH, HEIGHT = 10.0, 6.0  # inches
LETTERS = 135  # of the headline in a line of that width
SICK, FAINT = "#B3261E", "#767676"
DOTS = 12  # records up to which each is a dot as well
NAMED = 6  # hidden layers that are all named; of more every second, third, ...
DECADES = 1.5  # an axis over fewer powers of ten has twos and fives as well
SHOWN_IN = {  # the panels that a finding shows in
    "vanishing gradients": ("delta", "profile"),
    "exploding gradients": ("delta", "profile"),
    "dead units": ("rest",),
    "saturated units": ("rest",),
    "learning rate too large": ("loss", "update"),
    "learning rate too small": ("loss", "update"),
}


def draw(watch: "Diagnosis") -> Any:
    """A figure of six panels; what is wrong stands above them, and where it shows the title is red."""
    figure = new_figure(WIDTH, HEIGHT)
    from matplotlib import colormaps

    panels = figure.subplot_mosaic([["loss", "delta", "profile"], ["update", "gradient", "rest"]])
    colours = colormaps["viridis"](np.linspace(0.05, 0.85, len(watch.layers)))
    found = watch.findings()
    sick = {panel for finding in found for panel in SHOWN_IN[finding.name]}
    titles = {
        "loss": _loss(panels["loss"], watch),
        "delta": _layers(panels["delta"], watch, "delta", "deltas ‖∂ℓ/∂z‖", colours),
        "profile": _profile(panels["profile"], watch, colours),
        "update": _layers(panels["update"], watch, "update", "updates ‖ΔW‖ / ‖W‖ of each epoch", colours),
        "gradient": _layers(panels["gradient"], watch, "gradient", "gradients ‖∂C/∂W‖", colours),
        "rest": _rest(panels["rest"], watch, colours),
    }
    for name, title in titles.items():
        _dress(panels[name], title, name in sick, watch)
    _legend(figure, panels["delta"].lines, watch)
    headline = [f"{finding.name}: {finding.seen}" for finding in found]
    headline = headline or [f"nothing wrong in {len(watch.records) - 1} epochs"]
    text = "\n".join(fill(line[0].upper() + line[1:], LETTERS) for line in headline)
    figure.suptitle(text, x=0.01, ha="left", fontsize="medium", color=SICK if found else "black")
    return figure


# -- panels: each draws, and returns its title -------------------------------------------------------------------------


def _layers(axes: Any, watch: "Diagnosis", name: str, title: str, colours: Any) -> str:
    """One line a layer, from the first's dark to the output's light."""
    epochs, values = _column(watch, name)
    for line, colour in zip(values.T, colours, strict=False):
        axes.plot(epochs, line, color=colour, **_dots(watch))
    _powers_of_ten(axes, values)
    return title


def _loss(axes: Any, watch: "Diagnosis") -> str:
    for name, label, colour in (("training_loss", "training rows", "black"), ("loss", "rows watched", FAINT)):
        epochs, values = _column(watch, name)
        axes.plot(epochs, values, color=colour, label=label, **_dots(watch))
    if watch.baseline is not None:
        axes.axhline(watch.baseline, color=FAINT, linestyle=":", label="always the mean")
    levels = np.concatenate([line.get_ydata() for line in axes.lines]).astype(np.float64)
    if np.nanmin(levels) > 0 and np.nanmax(levels) > 10 * np.nanmin(levels):
        _powers_of_ten(axes, levels)
    else:
        axes.set_ylim(min(0, np.nanmin(levels)))
    axes.legend(frameon=False, fontsize="x-small")
    return "loss"


def _profile(axes: Any, watch: "Diagnosis", colours: Any) -> str:
    """Deltas over the layers: a broken line at first, a whole one now."""
    epochs, values = _column(watch, "delta")
    layers = np.arange(values.shape[1])
    for record, style in {0: "--", len(epochs) - 1: "-"}.items():
        when = "before training" if epochs[record] == 0 else f"after epoch {epochs[record]}"
        axes.plot(layers, values[record], style, color=FAINT, zorder=1, label=when)
        axes.scatter(layers, values[record], color=colours, s=25, zorder=2)
    _powers_of_ten(axes, values[[0, -1]])
    shown = _named(watch)
    axes.set_xticks(list(shown), [name.removeprefix("hidden ") for name in shown.values()])
    axes.set_xlabel("hidden layer")
    axes.legend(frameon=False, fontsize="x-small")
    return "deltas, layer by layer"


def _rest(axes: Any, watch: "Diagnosis", colours: Any) -> str:
    """Dead or saturated shares, whichever a layer may have; the saturated ones in broken lines where there are both."""
    kinds: dict[str, str] = {}
    for kind in ("dead", "saturated"):
        epochs, shares = _column(watch, kind)
        for layer in np.flatnonzero(~np.isnan(shares).all(axis=0)):
            style = kinds.setdefault(kind, "--" if kinds else "-")
            axes.plot(epochs, shares[:, layer], style, color=colours[layer], **_dots(watch))
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    return f"{' (—), '.join(kinds)}{' (- -)' * (len(kinds) - 1)} units" if kinds else "no units that could die"


# -- what they share ---------------------------------------------------------------------------------------------------


def _column(watch: "Diagnosis", name: str) -> tuple[Any, Any]:
    """The epochs, and a quantity after each, (epochs,) or (epochs, layers), with NaN for what is missing."""
    records = [record for record in watch.records if record[name] != []]  # there is no update before the first epoch
    values = np.array([record[name] for record in records], np.float64)
    return np.array([record["epoch"] for record in records]), values


def _dots(watch: "Diagnosis") -> dict[str, Any]:
    return {"marker": "o" if len(watch.records) <= DOTS else "", "markersize": 3}


def _powers_of_ten(axes: Any, values: Any) -> None:
    """A logarithmic axis, where there is anything to show on it."""
    from matplotlib.ticker import LogLocator, NullLocator

    positive = values[values > 0]
    if not positive.size:
        return
    low, high = np.log10([positive.min(), positive.max()])
    middle, half = (low + high) / 2, max(0.5, (high - low) / 2 + 0.1)
    axes.set_yscale("log")
    axes.set_ylim(10 ** (middle - half), 10 ** (middle + half))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if 2 * half < DECADES else (1,), numticks=8))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _named(watch: "Diagnosis") -> dict[int, str]:
    """The names of the layers that are named, the last always."""
    last = len(watch.layers) - 1
    every = max(1, -(-last // NAMED))
    return {layer: f"hidden {layer + 1}" for layer in range(0, last - every // 2, every)} | {last: "output"}


def _dress(axes: Any, title: str, sick: bool, watch: "Diagnosis") -> None:
    from matplotlib.ticker import MaxNLocator

    colour, weight = (SICK, "bold") if sick and axes.lines else ("black", "normal")
    axes.set_title(title, fontsize="medium", loc="left", color=colour, weight=weight)
    if not axes.lines:
        axes.set_axis_off()
    if not axes.get_xlabel():
        axes.set(xlabel="epoch", xlim=(watch.records[0]["epoch"] - 0.5, watch.records[-1]["epoch"] + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)


def _legend(figure: Any, lines: Any, watch: "Diagnosis") -> None:
    shown = _named(watch)
    handles = [lines[layer] for layer in shown]
    figure.legend(handles, list(shown.values()), loc="outside lower center", ncols=len(shown), frameon=False)
