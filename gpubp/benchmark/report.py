"""A benchmark for people: the table, and the curve of samples per second against batch size."""

from itertools import pairwise
from math import log10
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gpubp.benchmark.results import Result

NAMES = {"gemms": "GEMMs alone"}
COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")
MARKS, LETTERS = "●▲■◆○△□◇", "abcdefghijklmnop"
HEIGHT, LEAST_COLUMN, LABEL = 12, 6, 8  # of the curve, in characters


def table(results: list[Result]) -> Table:
    """A row a result, batch sizes and devices in their order, the products alone last."""
    shown = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False, pad_edge=False)
    shown.add_column("batch", justify="right")
    shown.add_column("device")
    shown.add_column("contender")
    for heading in ("samples/s", "spread", "of floor", "time", "memory"):
        shown.add_column(heading, justify="right")
    last: tuple[int, str] | None = None
    for row in sorted(results, key=lambda row: (row.batch, row.device != "cpu", row.contender == "gemms")):
        batch, device = last or (None, None)
        if batch not in (None, row.batch):
            shown.add_row()
        styles = {"gpubp": "bold green", "gemms": "dim"}
        shown.add_row(
            "" if batch == row.batch else f"{row.batch:,}",
            "" if (batch, device) == (row.batch, row.device) else row.device,
            NAMES.get(row.contender, row.contender),
            f"{row.samples_per_second:,.0f}",
            f"± {row.spread:.1%}",
            "" if row.share_of_gemms is None or row.contender == "gemms" else f"{row.share_of_gemms:.0%}",
            "" if row.times_gpubp is None else f"{row.times_gpubp:.2f} ×",
            size(row.memory_bytes),
            style=styles.get(row.contender, ""),
        )
        last = (row.batch, row.device)
    return shown


def legend(results: list[Result], rounds: int) -> str:
    """How to read the table."""
    devices = {row.device for row in results}
    memory = ["all of the process, Python and its libraries too" if "cpu" in devices else ""]
    memory += ["on a GPU its arrays" if devices - {"cpu"} else ""]
    return (
        f"samples/s  the median of {rounds} turns, and half the distance of their quartiles; every\n"
        "           contender has its own process, and reached the losses of a float64 reference\n"
        "of floor   the share of the rate of the matrix products (GEMMs) of the step alone\n"
        "time       of a step, as a multiple of the time of gpubp on the same device\n"
        f"memory     {'; '.join(filter(None, memory))}"
    )


def size(count: int | None) -> str:
    """Bytes, for people.

    >>> size(1536), size(3 * 2**30), size(None)
    ('2 KiB', '3.0 GiB', '-')
    """
    if count is None:
        return "-"
    for unit, power in (("GiB", 30), ("MiB", 20)):
        if count >= 1 << power:
            value = count / (1 << power)
            return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
    return f"{count / 1024:.0f} KiB"


def curves(results: list[Result]) -> dict[str, dict[int, Result]]:
    """By what is written beside it, each curve's results by batch size; the products alone come last."""
    found: dict[str, dict[int, Result]] = {}
    for row in sorted(results, key=lambda row: (row.contender == "gemms", row.batch)):
        found.setdefault(f"{NAMES.get(row.contender, row.contender)} on {row.device}", {})[row.batch] = row
    return found


def plot(results: list[Result], console: Console) -> Text:
    """Samples per second against batch size, both logarithmic: a mark for each result, dots between them."""
    drawn = {name: line for name, line in curves(results).items() if not name.startswith(NAMES["gemms"])}
    ascii_only = console.options.ascii_only
    marks = LETTERS if ascii_only or len(drawn) > len(MARKS) else MARKS
    dot = "." if ascii_only else "·"
    batches = sorted({batch for line in drawn.values() for batch in line})
    rates = [row.samples_per_second for line in drawn.values() for row in line.values()]
    low, high = log10(min(rates)), log10(max(rates))
    column = max(LEAST_COLUMN, min(9, (console.width - LABEL - 2) // len(batches)))
    cells = [[(" ", "")] * (column * len(batches)) for _ in range(HEIGHT)]

    def row_of(rate: float) -> int:
        return round((high - log10(rate)) / ((high - low) or 1) * (HEIGHT - 1))

    styles = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(drawn)}
    for (name, line), mark in reversed(list(zip(drawn.items(), marks, strict=False))):  # the first is drawn on top
        places = [(batches.index(batch) * column + column // 2, row.samples_per_second) for batch, row in line.items()]
        for (x, rate), (next_x, next_rate) in pairwise(places):
            for between in range(x + 1, next_x):
                part = (between - x) / (next_x - x)
                height = row_of(rate ** (1 - part) * next_rate**part)
                if cells[height][between][0] in (" ", dot):
                    cells[height][between] = (dot, styles[name])
        for x, rate in places:
            cells[row_of(rate)][x] = (mark, styles[name])
    text = Text().append("samples/s\n", "dim")
    for height, line_cells in enumerate(cells):
        told = {0: high, HEIGHT - 1: low}.get(height)
        text.append(f"{'' if told is None else short(10**told):>{LABEL}} ", "dim")
        for letter, style in line_cells:
            text.append(letter, style)
        text.append("\n")
    text.append(" " * (LABEL + 1) + "".join(f"{batch:^{column}}" for batch in batches) + " batch\n", "dim")
    for name, mark in zip(drawn, marks, strict=False):
        text.append(f"{' ' * LABEL} {mark} {name}\n", styles[name])
    text.rstrip()
    return text


def short(value: float) -> str:
    """Three digits and a unit, for an axis.

    >>> short(128), short(65536), short(2_340_000)
    ('128', '65.5k', '2.34M')
    """
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


def picture(results: list[Result], title: str, crossing: tuple[str, int] | None) -> bytes:
    """The curves as a PNG, with the quartiles, the products alone dashed, and the batch from which a GPU is faster."""
    from io import BytesIO

    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes: Any = figure.add_subplot(xlabel="batch size", ylabel="samples/s", xscale="log", yscale="log", title=title)
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
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=150, format="png")
    return drawn.getvalue()
