"""Progress of a training on stderr.

It is a live table and loss curve in a terminal, one line an epoch elsewhere, nothing when silent.
"""

import sys
import time
from math import ceil, isfinite, log10
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from gpubp.history import History

if TYPE_CHECKING:
    from gpubp.mlp import MLP

PLAIN_LINES = 30  # at most about this many lines where there is no terminal
LIVE_ROWS = 6
LABEL_WIDTH, LEAST_WIDTH, MOST_WIDTH = 11, 24, 56  # of the loss curve, in characters
BRAILLE_DOTS = (
    (0x01, 0x08),
    (0x02, 0x10),
    (0x04, 0x20),
    (0x40, 0x80),
)  # Unicode's dot bits by row and column of a cell


class Progress:
    """Silent: the base of the two that speak."""

    def __init__(self, net: "MLP", epochs: int, steps: int) -> None:
        self.net, self.epochs, self.steps = net, epochs, steps

    @staticmethod
    def of(verbose: int, net: "MLP", epochs: int, steps: int) -> "Progress":
        if not verbose:
            return Progress(net, epochs, steps)
        drawn = sys.stderr.isatty() and (sys.stderr.encoding or "").lower().startswith("utf")
        return (Live if drawn else Plain)(net, epochs, steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def step(self, step: int) -> None:
        """A step of the epoch is done."""

    def epoch(self, record: dict[str, Any]) -> None:
        """An epoch is done."""

    def finished(self, history: History) -> None:
        """Training has ended."""


def summary(record: dict[str, Any], epochs: int) -> str:
    """One epoch as a line of text."""
    scores = "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in scores_of(record).items())
    return f"epoch {record['epoch']}/{epochs}  {scores}  {record['samples_per_second']:,.0f} samples/s"


def scores_of(record: dict[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in record.items()
        if name not in ("epoch", "learning_rate", "seconds", "samples_per_second")
    }


def ending(history: History) -> str:
    """Why training ended, where that is not because all epochs are done; and which weights were kept."""
    texts = {
        "early stopping": "stopped early",
        "callback": "stopped by a callback",
        "interrupted": "interrupted; what was learned so far is kept" if len(history) else "interrupted",
    }
    text = texts.get(history.stopped, "")
    if history.best_epoch and history.stopped != "interrupted" and history.best_epoch < len(history):
        text += f"{'; ' if text else ''}restored the weights of epoch {history.best_epoch}, the best"
    return text


class Plain(Progress):
    """One line for each of at most about 30 epochs: for files, pipes and logs."""

    def epoch(self, record: dict[str, Any]) -> None:
        every = ceil(self.epochs / PLAIN_LINES)
        if record["epoch"] % every == 0 or record["epoch"] in (1, self.epochs):
            _say(summary(record, self.epochs))

    def finished(self, history: History) -> None:
        if ending(history):
            _say(ending(history))


def _say(line: str) -> None:
    """In one piece, as other processes may write to the same place."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


class Live(Progress):
    """A panel that redraws itself: the last epochs, the loss curve, and how far this epoch is."""

    def __init__(self, net: "MLP", epochs: int, steps: int) -> None:
        super().__init__(net, epochs, steps)
        from rich.console import Console
        from rich.live import Live as RichLive

        self.records: list[dict[str, Any]] = []
        self.done, self.began, self.end = 0, time.monotonic(), ""
        self._live = RichLive(get_renderable=self.render, console=Console(stderr=True), refresh_per_second=8)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def step(self, step: int) -> None:
        self.done = step

    def epoch(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        self.done = 0

    def finished(self, history: History) -> None:
        self.end = ending(history)

    def render(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        parts: list[Any] = [Text(repr(self.net), style="dim")]
        if self.records:
            table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
            best = self._best()
            for name in ("epoch", *scores_of(self.records[-1]), "rate", "samples/s"):
                table.add_column(name.replace("validation_", "val. ").replace("_", " "), justify="right")
            for record in self.records[-LIVE_ROWS:]:
                cells = [str(record["epoch"]), *(f"{value:.4f}" for value in scores_of(record).values())]
                cells += [f"{record['learning_rate']:.2g}", f"{record['samples_per_second']:,.0f}"]
                table.add_row(*cells, style="green" if record is best else "")
            parts.append(table)
        if len(self.records) > 1:
            losses = [
                [record[name] for record in self.records]
                for name in ("loss", "validation_loss")
                if name in self.records[0]
            ]
            width = self._live.console.width - LABEL_WIDTH
            if width >= LEAST_WIDTH:
                parts.append(loss_curve(losses, min(width, MOST_WIDTH)))
        if self.end:
            parts.append(Text(self.end, style="yellow"))
        elif len(self.records) < self.epochs:
            epoch = min(len(self.records) + 1, self.epochs)
            of = f"/{self.steps}" if self.steps else ""
            parts.append(
                Text(
                    f"epoch {epoch}/{self.epochs}, step {self.done}{of}, {time.monotonic() - self.began:.0f} s",
                    style="cyan",
                )
            )
        return Group(*parts)

    def _best(self) -> dict[str, Any]:
        column = "validation_loss" if "validation_loss" in self.records[0] else "loss"
        return min(self.records, key=lambda record: record[column])


def loss_curve(series: list[list[float]], width: int, height: int = 6) -> Any:
    """Loss against epoch as braille dots on a logarithmic scale: training loss in cyan, validation loss in magenta."""
    from rich.text import Text

    values = [value for line in series for value in line if isfinite(value) and value > 0]
    low, high = (min(values), max(values)) if values else (1.0, 1.0)
    scale = (log10(high) - log10(low)) or 1.0
    cells = [[[0, 0] for _ in range(width)] for _ in range(height)]
    for which, line in enumerate(series):
        for column in range(2 * width):
            value = line[round(column * (len(line) - 1) / (2 * width - 1))]
            if isfinite(value) and value > 0:
                row = round((log10(high) - log10(value)) / scale * (4 * height - 1))
                cells[row // 4][column // 2][which] |= BRAILLE_DOTS[row % 4][column % 2]
    text = Text()
    for row, line_cells in enumerate(cells):
        label = f"{high:9.3g} " if row == 0 else f"{low:9.3g} " if row == height - 1 else " " * 10
        text.append(label, style="dim")
        for training, validation in line_cells:
            text.append(
                chr(0x2800 + (training | validation)), style="magenta" if validation and not training else "cyan"
            )
        text.append("\n")
    text.append(" " * 10)
    text.append("loss", style="cyan")
    if len(series) > 1:
        text.append("  validation loss", style="magenta")
    return text
