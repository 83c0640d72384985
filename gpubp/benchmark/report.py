"""A benchmark for people: the table, and the curve of samples per second against batch size."""

from collections.abc import Callable
from itertools import pairwise
from math import log10
from textwrap import fill
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gpubp.benchmark.memory import size
from gpubp.benchmark.results import NAMES, Result, curves

FIGURES: dict[str, Callable[[Result], str]] = {
    "samples/s": lambda row: f"{row.samples_per_second:,.0f}",
    "spread": lambda row: f"± {row.spread:.1%}",
    "TFLOP/s": lambda row: f"{row.flops / 1e12:.3g}",
    "of peak": lambda row: "" if row.share_of_peak is None else f"{row.share_of_peak:.0%}",
    "of floor": lambda row: (
        "" if row.share_of_gemms is None or row.contender == "gemms" else f"{row.share_of_gemms:.0%}"
    ),
    "time": lambda row: "" if row.times_gpubp is None else f"{row.times_gpubp:.2f} ×",
    "memory": lambda row: size(row.memory_bytes),
}
DROPPED = (
    "memory",
    "spread",
    "TFLOP/s",
    "of peak",
    "time",
    "of floor",
)  # from the first to the last, where a terminal is narrow
WIDE = 84  # characters of explanations, in however wide a terminal
COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")
MARKS, LETTERS = "●▲■◆○△□◇", "abcdefghijklmnop"
HEIGHT, LABEL = 12, 8  # of the curve, in characters


def table(results: list[Result], figures: list[str]) -> Table:
    """A row a result, batch sizes and devices in their order, the products alone last."""
    shown = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False, pad_edge=False)
    shown.add_column("batch", justify="right")
    shown.add_column("device")
    shown.add_column("contender")
    for heading in figures:
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
            *(FIGURES[heading](row) for heading in figures),
            style=styles.get(row.contender, ""),
        )
        last = (row.batch, row.device)
    return shown


def width_of(shown: Table) -> int:
    """The characters that a table takes when nothing of it is wrapped or cut."""
    return Console(width=1000).measure(shown).maximum


def fitting(results: list[Result], width: int) -> list[str]:
    """The figures for which so many characters are enough; of the others those that matter least go first."""
    figures = list(FIGURES)
    for heading in DROPPED:
        if width_of(table(results, figures)) <= width:
            break
        figures.remove(heading)
    return figures


def legend(results: list[Result], figures: list[str], rounds: int, width: int) -> str:
    """How to read the table, and what a narrow terminal kept out of it."""
    devices = {row.device for row in results}
    memory = ["all of the process, Python and its libraries too" if "cpu" in devices else ""]
    memory += ["on a GPU its arrays" if devices - {"cpu"} else ""]
    meanings = {
        "samples/s": f"the median of {rounds} turns; every contender has its own process, and reached the losses of a "
        "float64 reference",
        "spread": "half the distance of the quartiles of the turns, as a share of the median",
        "TFLOP/s": "10¹² operations a second: those of the step's matrix products over its time",
        "of peak": "the share of the rate of one large product on this device, measured in this run",
        "of floor": "the share of the rate of the matrix products of the step alone (GEMMs alone); this and time are "
        "medians over pairs of turns that followed one another, not ratios of the medians shown",
        "time": "of a step, as a multiple of the time of gpubp on the same device",
        "memory": "; ".join(filter(None, memory)),
    }
    lines = [f"{heading:<9}  {meanings[heading]}" for heading in figures]
    dropped = [heading for heading in FIGURES if heading not in figures]
    lines += [f"not shown  {', '.join(dropped)}: in a wider terminal, or by --json"] if dropped else []
    return "\n".join(fill(line, max(40, min(width, WIDE)), subsequent_indent=" " * 11) for line in lines)


def absences(left_out: list[dict[str, Any]]) -> list[str]:
    """Who was left out and why, in a line for all that share device, batch size and reason."""
    names: dict[tuple[str, int | None, str], list[str]] = {}
    for entry in left_out:
        name = NAMES.get(entry["contender"], entry["contender"])
        names.setdefault((entry["device"], entry["batch"], entry["reason"]), []).append(name)
    return [
        f"left out: {', '.join(who)} on {device}{'' if batch is None else f' at {batch:,} rows'}: {reason}"
        for (device, batch, reason), who in names.items()
    ]


def plot(results: list[Result], width: int, ascii_only: bool = False) -> Text:
    """Samples per second against batch size, both logarithmic: a mark for each result, dots between them."""
    drawn = {name: line for name, line in curves(results).items() if not name.startswith(NAMES["gemms"])}
    marks = LETTERS if ascii_only or len(drawn) > len(MARKS) else MARKS
    dot = "." if ascii_only else "·"
    batches = sorted({batch for line in drawn.values() for batch in line})
    rates = [row.samples_per_second for line in drawn.values() for row in line.values()]
    low, high = log10(min(rates)), log10(max(rates))
    column = max(2, min(9, (width - LABEL - len("  batch")) // len(batches)))
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
    every = -(-(len(str(batches[-1])) + 1) // column)  # which batch sizes have room for their names
    named = "".join(f"{batch:^{column * every}}" for batch in batches[::every])
    named = (" " * (LABEL + 1) + named)[column * (every - 1) // 2 :]  # each under its mark
    text.append(f"{named:{LABEL + 1 + column * len(batches)}} batch\n", "dim")
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
