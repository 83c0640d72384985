"""A document: what gpubp has to show, as plain blocks, before it becomes a terminal's text, HTML, Markdown or LaTeX."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Tone = Literal["plain", "strong", "faint", "good", "bad"]


@dataclass(frozen=True)
class Cell:
    """A table's entry: a number, right-aligned, or a text; the tone says what to think of it."""

    content: str | float | None  # None is an empty cell
    tone: Tone = "plain"

    @property
    def text(self) -> str:
        return "" if self.content is None else self.content if isinstance(self.content, str) else figure(self.content)


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Formula:
    """A line of mathematics in Unicode: ∂C/∂w5 = ∂C/∂o1 · f'(z_o1) · h1 = ..."""

    text: str


@dataclass(frozen=True)
class Table:
    """Columns named at the top; the first entry of each row names the row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""

    @classmethod
    def of(cls, columns: list[str], rows: list[list[Cell | str | float | None]], caption: str = "") -> "Table":
        """From plain contents; those that are no cells yet become plain ones."""
        cells = tuple(tuple(c if isinstance(c, Cell) else Cell(c) for c in row) for row in rows)
        return cls(tuple(columns), cells, caption)

    @cached_property
    def numeric(self) -> tuple[bool, ...]:
        """Of each column whether it holds a number, and is aligned to the right."""
        columns = ([row[k].content for row in self.rows] for k in range(len(self.columns)))
        return tuple(any(isinstance(content, int | float) for content in column) for column in columns)


@dataclass(frozen=True)
class Verdict:
    """What comes of it all, and why."""

    ok: bool
    text: str


Block = Heading | Paragraph | Formula | Table | Verdict


@dataclass
class Document:
    title: str
    blocks: list[Block] = field(default_factory=list)


def figure(value: float) -> str:
    """A number with six digits after the point, or in powers of ten where these would not show it."""
    value += 0.0  # -0 becomes 0
    return f"{value:.6f}" if value == 0 or 1e-4 <= abs(value) < 1e6 else f"{value:.4e}"
