"""A document as GitHub's Markdown: pipe tables, formulas as code."""

import re

from gpubp.explain.document import Block, Cell, Document, Formula, Heading, Paragraph, Table, Tone, Verdict
from gpubp.explain.render import RIGHT, WRONG, entry, printable

SPECIAL = re.compile(
    r"[\\`*<>|$~#]"  # whatever stands beside them
    r"|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"  # within a word it is no emphasis
    r"|(?<=\])[(:]|&(?=#?\w+;)"  # of a link, of an entity
)
OF_A_LIST = re.compile(r"^(\d*)([-+=.)])(?= |=|-|$)")  # or of a heading, at the start of a line
TONES: dict[Tone, str] = {"plain": "%s", "strong": "**%s**", "faint": "*%s*", "good": "%s", "bad": "%s"}


def markdown(document: Document) -> str:
    blocks = "".join(f"\n{_block(block)}\n" for block in document.blocks)
    return f"# {_text(document.title)}\n{blocks}"


def _text(text: str) -> str:
    return SPECIAL.sub(r"\\\g<0>", " ".join(printable(text).split()))


def _toned(text: str, tone: Tone) -> str:
    return TONES[tone] % text if text else ""


def _block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {_text(text)}"
        case Paragraph(text, tone):
            return _toned(OF_A_LIST.sub(r"\1\\\2", _text(text)), tone)
        case Formula(text):
            return _code(printable(text))
        case Verdict(ok, text):
            return f"**{RIGHT if ok else WRONG}** {_text(text)}"
        case Table():
            return _table(block)


def _code(text: str) -> str:
    """As it is; between more backquotes than stand in it."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if fence == "`" else f"{fence} {text} {fence}"


def _table(table: Table) -> str:
    rows = [[_text(name) for name in table.columns], *([_cell(cell) for cell in row] for row in table.rows)]
    columns = [_column(list(texts), right) for texts, right in zip(zip(*rows, strict=True), table.numeric, strict=True)]
    caption = f"*{_text(table.caption)}*\n\n" if table.caption else ""
    return caption + "\n".join(f"| {' | '.join(line)} |" for line in zip(*columns, strict=True))


def _column(texts: list[str], right: bool) -> list[str]:
    """Its name, the line below it, its entries, all of one length."""
    width = max(3, *map(len, texts))
    rule = f"{'-' * (width - 1)}{':' if right else '-'}"
    name, *entries = [f"{text:>{width}}" if right else f"{text:<{width}}" for text in texts]
    return [name, rule, *entries]


def _cell(cell: Cell) -> str:
    return _toned(_text(entry(cell)), cell.tone)
