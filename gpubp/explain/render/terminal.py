"""A document in a terminal, by rich, as wide as that is; and as plain text, always 100 columns wide."""

from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO

from rich.box import Box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

from gpubp.explain.document import Block, Document, Formula, Heading, Paragraph, Table, Tone, Verdict
from gpubp.explain.render import RIGHT, WRONG, printable
from gpubp.explain.render.ascii import ascii_text
from gpubp.explain.render.layout import Column, arranged, columns, formula_lines, wrapped

STYLES: dict[Tone, str] = {"plain": "", "strong": "bold", "faint": "dim", "good": "green", "bad": "red"}
PLAIN_WIDTH = 100
LEAST_WIDTH = 30  # of a terminal
INDENT, GAP = 2, 3  # of everything below a heading, and between columns
RULE = Box("    \n    \n ── \n    \n    \n    \n    \n    \n")  # a line under the columns' names, and no more
ASCII_RULE = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


def terminal(document: Document) -> RenderableType:
    """For rich's console; where the output's encoding has no Greek, ∂C/∂w5 is dC/dw5."""
    return _Rendering(document)


def plain(document: Document) -> str:
    """The same without colours, and the same everywhere."""
    file = StringIO()
    console = Console(
        file=file, width=PLAIN_WIDTH, color_system=None, force_terminal=False, force_jupyter=False, legacy_windows=False
    )
    console.print(terminal(document))
    return file.getvalue().rstrip("\n")


@dataclass(frozen=True)
class _Rendering:
    document: Document

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        layout = _Layout(max(options.max_width, LEAST_WIDTH) - INDENT, options.ascii_only)
        yield Text(layout.text(self.document.title), "bold")
        above: Block | None = None
        for block in self.document.blocks:
            if isinstance(block, Heading) or (not isinstance(above, Heading) and apart(above, block)):
                yield Text()
            inner, indent = options.update(width=layout.width), 0 if isinstance(block, Heading) else INDENT
            for part in layout.parts(block):
                for line in console.render_lines(part, inner, pad=False):
                    yield from tidied(line, indent)
            above = block


def tidied(line: list[Segment], indent: int) -> Iterator[Segment]:
    """Indented, and without spaces at its end."""
    text = "".join(segment.text for segment in line).rstrip()
    yield Segment(" " * indent if text else "")
    yield from Segment.adjust_line_length(line, cell_len(text), pad=False)
    yield Segment.line()


def apart(above: Block | None, below: Block) -> bool:
    """Whether a line is left free between them."""
    return isinstance(above, Table) or isinstance(below, Table | Verdict)


@dataclass(frozen=True)
class _Layout:
    """How blocks are laid out in a given width."""

    width: int
    ascii_only: bool

    def text(self, text: str) -> str:
        return ascii_text(printable(text)) if self.ascii_only else printable(text)

    def parts(self, block: Block) -> list[RenderableType]:
        match block:
            case Table():
                return self.table(block)
            case Formula(text):
                return [Text("\n".join(formula_lines(self.text(text), self.width)))]
            case Verdict(ok, text):
                mark = self.text(f"{RIGHT if ok else WRONG} ")
                return [Text.assemble((mark, "bold"), self.text(text), style="green" if ok else "red")]
            case Paragraph(text, tone):
                return [Text(self.text(text), STYLES[tone])]
            case Heading(text):
                return [Text(self.text(text), "bold")]

    def table(self, table: Table) -> list[RenderableType]:
        """A table, or several below one another where it is too wide."""
        every = columns(table, self.text)
        gap, groups = GAP, arranged(every, self.width, GAP)
        if len(groups) > 1:
            gap, groups = GAP - 1, arranged(every, self.width, GAP - 1)
        parts: list[RenderableType] = [Text(self.text(table.caption), "italic")] if table.caption else []
        for number, group in enumerate(groups):
            parts += [Text(" ")] * (number > 0)
            parts.append(self.part(table, group, gap))
        return parts

    def part(self, table: Table, group: list[tuple[Column, int]], gap: int) -> RenderableType:
        entries = [column.lines(width) for column, width in group]
        drawn = RichTable(
            box=ASCII_RULE if self.ascii_only else RULE,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1, 0, gap - 2),
            header_style="dim",
            border_style="dim",
            leading=int(any(len(lines) > 1 for column in entries for lines in column)),  # free lines between rows
        )
        for column, width in group:
            drawn.add_column(_set(wrapped(column.name, width), column, width), width=width, no_wrap=True)
        for row, *cells in zip(table.rows, *entries, strict=True):
            styles = [STYLES[row[column.index].tone] for column, _ in group]
            drawn.add_row(*(_set(lines, *each, style) for lines, each, style in zip(cells, group, styles, strict=True)))
        return drawn


def _set(lines: list[str], column: Column, width: int, style: str = "") -> Text:
    """Lines to the left, or to the right; rich would drop the spaces behind a number."""
    indents = [" " * (width - cell_len(line)) * column.numeric for line in lines]
    return Text("\n".join(map("".join, zip(indents, lines, strict=True))), style)
