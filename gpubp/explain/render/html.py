"""A document as HTML, without scripts or anything from elsewhere: a fragment for a notebook, and a whole page."""

from html import escape

from gpubp.explain.document import Block, Cell, Document, Formula, Heading, Paragraph, Table, Verdict
from gpubp.explain.render import RIGHT, WRONG, entry, printable

# Colours of text and ground are the notebook's own; the green and the red are told from white and from black alike.
STYLE = """
.gpubp { max-width: 60em; line-height: 1.5; }
.gpubp h1 { font-size: 1.3em; margin: 0 0 .3em; }
.gpubp h2 { font-size: 1.05em; margin: 1.6em 0 .4em; }
.gpubp p { margin: .3em 0; }
.gpubp .scroll { overflow-x: auto; margin: .6em 0 1em; }
.gpubp table { border-collapse: collapse; border: 0; margin: 0; font-size: .95em; }
.gpubp table caption { caption-side: top; text-align: left; font-style: italic; padding: .2em 0; color: inherit; }
.gpubp table tr, .gpubp table tr:nth-child(even) { background: none; }
.gpubp table th, .gpubp table td { border: 0; padding: .15em 1.4em .15em 0; text-align: left; vertical-align: top; \
font-weight: normal; white-space: normal; max-width: none; }
.gpubp table tr > :last-child { padding-right: 0; }
.gpubp table thead th { border-bottom: 1px solid; vertical-align: bottom; opacity: .7; }
.gpubp table .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.gpubp .formula { font: .92em ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.gpubp .formula span { display: inline-block; }
.gpubp .strong { font-weight: bold !important; }
.gpubp .faint { opacity: .65; }
.gpubp .good { color: #1a9159; }
.gpubp .verdict { margin-top: 1em; }
.gpubp .bad { color: #dc3f45; }
"""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font-family: system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def html(document: Document) -> str:
    """A fragment that stands by itself."""
    blocks = "\n".join(map(_block, document.blocks))
    return f'<div class="gpubp">\n<style>{STYLE}</style>\n<h1>{_text(document.title)}</h1>\n{blocks}\n</div>'


def page(document: Document) -> str:
    """A whole page, in a browser's light or dark colours."""
    return PAGE.format(title=_text(document.title), body=html(document))


def _text(text: str) -> str:
    """Escaped; a line is broken before a dot of multiplication, never behind it."""
    return escape(printable(text)).replace(" · ", " ·&nbsp;")


def _block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{_text(text)}</h2>"
        case Paragraph(text, tone):
            return f"<p{_class(tone)}>{_text(text)}</p>"
        case Formula(text):
            return f'<p class="formula">{_formula(text)}</p>'
        case Verdict(ok, text):
            mark, tone = (RIGHT, "good") if ok else (WRONG, "bad")
            return f"<p{_class('verdict', tone)}><strong>{mark}</strong> {_text(text)}</p>"
        case Table():
            return _table(block)


def _formula(text: str) -> str:
    """A formula that is broken before an equals sign, if it must be broken."""
    first, *sides = _text(text).split(" = ")
    return " ".join([f"<span>{first}</span>", *(f"<span>= {side}</span>" for side in sides)])


def _table(table: Table) -> str:
    caption = f"<caption>{_text(table.caption)}</caption>\n" if table.caption else ""
    names = "".join(
        f'<th scope="col"{_class(*_kind(numeric))}>{_text(name)}</th>'
        for name, numeric in zip(table.columns, table.numeric, strict=True)
    )
    rows = "\n".join(_row(row, table.numeric) for row in table.rows)
    return (
        f'<div class="scroll"><table>\n{caption}<thead><tr>{names}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n'
        "</table></div>"
    )


def _row(row: tuple[Cell, ...], numeric: tuple[bool, ...]) -> str:
    cells = []
    for k, cell in enumerate(row):
        tag, scope = ("td", "") if k else ("th", ' scope="row"')
        cells.append(f"<{tag}{scope}{_class(*_kind(numeric[k]), cell.tone)}>{_text(entry(cell))}</{tag}>")
    return f"<tr>{''.join(cells)}</tr>"


def _kind(numeric: bool) -> list[str]:
    return ["number"] if numeric else []


def _class(*names: str) -> str:
    present = " ".join(name for name in names if name not in ("", "plain"))
    return f' class="{present}"' if present else ""
