"""How text is fitted into a line of so many characters: words, formulas, the columns of a table."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from rich.cells import cell_len, chop_cells

from gpubp.explain.document import Table
from gpubp.explain.render import WRONG, entry

NUMBER = re.compile(rf"-?[\d,]+((?:\.\d+)?(?:e[-+]\d+)?(?: {WRONG})?)")
PIECE = re.compile(r"(?:(?:[=·*→←+−-]|->|<-) )?\S+")  # an operator stays with what follows it


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters, broken at spaces, but not behind an operator; too long words are cut.

    >>> wrapped("w5 · f'(z_h1) · x1", 12)
    ['w5', "· f'(z_h1)", '· x1']
    """
    lines = [""]
    for piece in (part for each in PIECE.findall(text) for part in chop_cells(each, width)):
        joined = f"{lines[-1]} {piece}".lstrip()
        if cell_len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(piece)
    return lines


def formula_lines(text: str, width: int) -> list[str]:
    """A formula on one line, or one line for each of its sides, the = signs under one another.

    >>> formula_lines("∂C/∂w5 = ∂C/∂o1 · h1 = -0.5 · 0.25 = -0.125", 30)
    ['∂C/∂w5 = ∂C/∂o1 · h1', '       = -0.5 · 0.25', '       = -0.125']
    """
    if cell_len(text) <= width:
        return [text]
    head, *sides = text.split(" = ")
    indent = cell_len(head) if cell_len(head) <= width // 3 else 2
    lines = [] if indent == cell_len(head) else wrapped(head, width)
    for side in sides:
        first, *others = wrapped(side, max(width - indent - 3, 1))
        start = head if not lines else " " * indent
        lines += [f"{start} = {first}", *(" " * (indent + 3) + other for other in others)]
    return lines


def aligned(texts: list[str]) -> list[str]:
    """Numbers with spaces behind them, so that to the right their decimal points stand under one another.

    >>> aligned(["0.25", "-1.5e-05", "3"])
    ['0.25   ', '-1.5e-05', '3      ']
    """
    tails = [len(match[1]) if (match := NUMBER.fullmatch(text)) else None for text in texts]
    longest = max((tail for tail in tails if tail is not None), default=0)
    return [text if tail is None else text + " " * (longest - tail) for text, tail in zip(texts, tails, strict=True)]


@dataclass(frozen=True)
class Column:
    """A column of a table: its name and its entries, numbers with their points under one another."""

    index: int
    name: str
    entries: list[str]
    numeric: bool

    @property
    def wanted(self) -> int:
        """How wide it is where there is room."""
        return max(1, *map(cell_len, (self.name, *self.entries)))

    def least(self, longest: int) -> int:
        """How wide it must be: a number is never broken, and a word where it is longer than this."""
        whole, broken = (self.entries, [self.name]) if self.numeric else ([], [self.name, *self.entries])
        pieces = [piece for text in broken for piece in PIECE.findall(text)]
        return max([1, *map(cell_len, whole), *(min(cell_len(piece), longest) for piece in pieces)])

    def lines(self, width: int) -> list[list[str]]:
        """The lines of each entry."""
        return [[text] if self.numeric else wrapped(text, width) for text in self.entries]


def columns(table: Table, spelled: Callable[[str], str]) -> list[Column]:
    """A table's columns, their texts as `spelled`."""
    made = []
    for k, (name, numeric) in enumerate(zip(table.columns, table.numeric, strict=True)):
        entries = [entry(row[k]) for row in table.rows]
        made.append(Column(k, spelled(name), list(map(spelled, aligned(entries) if numeric else entries)), numeric))
    return made


def arranged(every: list[Column], width: int, gap: int) -> list[list[tuple[Column, int]]]:
    """The columns with their widths; in several groups where they are too wide to stand beside one another.

    The first column, which names the rows, is in each group.
    """
    least = [column.least(width // 3) for column in every]
    groups: list[list[int]] = [[]]
    for k in range(len(every)):
        if len(groups[-1]) > 1 and sum(least[other] + gap for other in groups[-1]) + least[k] > width:
            groups.append([0])
        groups[-1].append(k)
    fitted = []
    for group in filter(None, groups):
        room = width - gap * (len(group) - 1)
        widths = _fitted([every[k].wanted for k in group], [least[k] for k in group], room)
        fitted.append([(every[k], each) for k, each in zip(group, widths, strict=True)])
    return fitted


def _fitted(wanted: list[int], least: list[int], room: int) -> list[int]:
    """As wanted, or the widest made narrower, but none less than its least."""
    widths = list(wanted)
    while sum(widths) > room and widths != least:
        slack = [width if width > low else 0 for width, low in zip(widths, least, strict=True)]
        widths[slack.index(max(slack))] -= 1
    return widths
