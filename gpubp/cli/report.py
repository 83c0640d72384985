"""Scores for people: the table of classes, the confusion matrix, the most confused pairs, the errors of values."""

import sys
from io import TextIOWrapper
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from gpubp.scores import ClassScores, ValueScores

LONGEST_NAME = 24  # characters of a class's name
MOST_CLASSES = 20  # in the tables; of more than these only the worst are shown
LEAST_HEADING = 4  # characters that a column's name must be left with
RIGHT, WRONG = ((24, 62, 54), (26, 127, 100)), ((52, 42, 30), (206, 92, 14))  # from the least share to the greatest
LEAST_STRONGEST = 0.1  # a mistake in less of a class's rows than this never gets the strongest colour


def console() -> Console:
    """Standard output, for texts in which a letter that its encoding lacks becomes a question mark."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False)


def class_report(console: Console, scores: "ClassScores", loss: float, names: list[Any], rows: str) -> None:
    """Of a classifier; `rows` says which rows were scored."""
    low, high = scores.interval
    _facts(
        console,
        ("accuracy", f"{scores.accuracy:.2%}", f"{scores.right} of {scores.samples} {rows}"),
        ("", "", f"{low:.2%} to {high:.2%} with 95% confidence"),
        ("loss", f"{loss:.4f}", ""),
    )
    shown = [displayed(name) for name in names]
    _class_table(console, scores, shown)
    drawn = _confusion(console, scores, shown)
    _most_confused(console, scores, shown, count=5 if drawn else 10)


def value_report(console: Console, scores: "ValueScores", loss: float, target: str | None, rows: str) -> None:
    """Of a regression; `rows` says which rows were scored."""
    overall = scores.overall()
    _facts(
        console,
        ("R²", _figure(overall["r2"]), f"on {scores.samples} {rows}"),
        ("RMSE", _figure(overall["rmse"]), f"in the units of {displayed(target) if target else 'the targets'}"),
        ("MAE", _figure(overall["mae"]), ""),
        ("loss", _figure(loss), "as training measures it"),
    )
    if len(scores.rmse) > 1:
        columns = [scores.rmse, scores.mae, scores.r2]
        lines = [[str(output), *map(_figure, row)] for output, row in enumerate(zip(*columns, strict=True))]
        _table(console, ["output", "RMSE", "MAE", "R²"], lines)


def _facts(console: Console, *facts: tuple[str, str, str]) -> None:
    """Names, figures and what there is to say of them; the first figure is what people came for."""
    widths = [max(len(fact[column]) for fact in facts) for column in (0, 1)]
    for number, (name, figure, remark) in enumerate(facts):
        line = Text(f"{name:{widths[0]}}  ")
        line.append(f"{figure:{widths[1]}}", "bold green" if number == 0 else "")
        line.append(f"  {remark}", "dim")
        line.rstrip()
        _print(console, line)


def _table(console: Console, heading: list[str], lines: list[list[str]]) -> None:
    """The first column to the left, the others to the right."""
    widths = [max(map(cell_len, column)) for column in zip(heading, *lines, strict=True)]
    console.print()
    for number, cells in enumerate([heading, *lines]):
        padded = [set_cell_size(cells[0], widths[0])]
        padded += [f"{cell:>{width}}" for cell, width in zip(cells[1:], widths[1:], strict=True)]
        _print(console, Text("   ".join(padded), "" if number else "dim"))


def _class_table(console: Console, scores: "ClassScores", names: list[str]) -> None:
    import numpy as np

    order = np.arange(len(names))
    if len(names) > MOST_CLASSES:
        order = np.argsort(scores.f1, kind="stable")[: MOST_CLASSES // 2]  # NaN, for nothing to score, comes last
    columns = [[_percent(value) for value in values] for values in (scores.precision, scores.recall, scores.f1)]
    lines = [[names[k], *(column[k] for column in columns), str(scores.truths[k])] for k in order]
    _table(console, ["class", "precision", "recall", "F1", "support"], lines)
    if len(order) < len(names):
        _print(console, Text(f"the {len(order)} classes of {len(names)} with the lowest F1", "dim"))


def _confusion(console: Console, scores: "ClassScores", names: list[str]) -> bool:
    """The matrix of counts, truth by decision, where it fits; a terminal shows each as a share of its row by colour."""
    import numpy as np

    matrix, count = scores.confusion, len(names)
    if matrix is None or count > MOST_CLASSES:
        return False
    coloured = console.is_terminal and not console.no_color and console.color_system is not None
    zero = "0" if console.options.ascii_only or not coloured else "·"
    digits, longest = len(str(matrix.max())), max(map(cell_len, names))
    room = (console.width - longest - 1) // count - 2
    width = max(digits, min(longest, room))
    if room < digits or width < min(longest, LEAST_HEADING):
        return False
    console.print()
    heading = Text(" " * (longest + 1), "dim")
    for name in (_cut(name, width) for name in names):
        heading.append(f" {' ' * (width - cell_len(name))}{name} ")
    heading.rstrip()
    _print(console, heading)
    shares = matrix / np.maximum(scores.truths, 1)[:, None]
    worst = max(LEAST_STRONGEST, (shares * (1 - np.eye(count))).max())
    for truth, name in enumerate(names):
        line = Text(set_cell_size(name, longest + 1))
        for decided, hits in enumerate(matrix[truth].tolist()):
            style = "" if hits else "dim"
            if coloured and hits:
                share = shares[truth, decided]
                style = _shade(RIGHT, share) if truth == decided else _shade(WRONG, share / worst)
            line.append(f" {hits or zero:>{width}} ", style)
        if not coloured:
            line.rstrip()
        _print(console, line)
    _print(console, Text("a row for each true class, a column for what it was taken for", "dim"))
    return True


def _shade(colours: tuple[tuple[int, ...], tuple[int, ...]], strength: float) -> str:
    """White on a colour between these two, nearing the second fast at first, so that no mistake is missed."""
    red, green, blue = (round(low + (high - low) * sqrt(strength)) for low, high in zip(*colours, strict=True))
    return f"rgb(255,255,255) on rgb({red},{green},{blue})"


def _most_confused(console: Console, scores: "ClassScores", names: list[str], count: int) -> None:
    pairs = scores.most_confused(count)
    if pairs:
        console.print()
    for truth, decided, mistakes in pairs:
        _print(console, Text(f"{names[truth]} taken for {names[decided]}: {mistakes} of {scores.truths[truth]}"))


def _print(console: Console, text: Text) -> None:
    """A line as it is: never wrapped, never cut, whatever rich takes the width of a pipe for."""
    console.print(text, no_wrap=True, overflow="ignore", crop=False)


def displayed(name: Any) -> str:
    """A name from a file, fit for a terminal: without control characters, and its middle cut out if it is long."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in str(name)) or "(empty)"
    if cell_len(printable) <= LONGEST_NAME:
        return printable
    end = printable[-(LONGEST_NAME // 3) :]  # long names often differ in their last characters
    while cell_len(end) > LONGEST_NAME // 3:
        end = end[1:]
    return _cut(printable, LONGEST_NAME - cell_len(end)) + end


def _cut(name: str, width: int) -> str:
    return name if cell_len(name) <= width else set_cell_size(name, width - 1).rstrip() + "…"


def _percent(share: float) -> str:
    return f"{share:.2%}" if isfinite(share) else "-"


def _figure(value: float) -> str:
    return f"{value:.5g}"
