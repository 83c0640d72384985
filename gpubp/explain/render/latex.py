"""A document as LaTeX in ASCII: tables by booktabs, formulas by amsmath, ready to be compiled."""

from gpubp.explain.document import Block, Document, Formula, Heading, Paragraph, Table, Tone, Verdict
from gpubp.explain.render import RIGHT, WRONG, printable
from gpubp.explain.render.layout import Column, arranged, columns, wrapped
from gpubp.explain.render.tex import mathematics, text

TABLE_WIDTH, FORMULA_WIDTH = 100, 85  # characters that find room on a line
GAP = 2  # characters between columns
MOST_LINES = 30  # of a table that is kept on one page
PREAMBLE = r"""\documentclass[a4paper,fleqn]{article}
\usepackage[margin=2cm]{geometry}
\usepackage{amsmath,amssymb,array,booktabs,longtable,xcolor}
\definecolor{good}{HTML}{146C43}
\definecolor{bad}{HTML}{B02A37}
\setlength{\parindent}{0pt}
\setlength{\parskip}{6pt}
\setlength{\tabcolsep}{4pt}
\setlength{\LTleft}{0pt}
\renewcommand{\arraystretch}{1.1}
\begin{document}
"""
TONES: dict[Tone, str] = {
    "plain": "%s",
    "strong": r"\textbf{\boldmath %s}",
    "faint": r"\textcolor{gray}{%s}",
    "good": r"\textcolor{good}{%s}",
    "bad": r"\textcolor{bad}{%s}",
}


def latex(document: Document) -> str:
    """A whole document, to be compiled once; twice where a table is longer than a page."""
    blocks = "\n\n".join(_block(block) for block in document.blocks)
    return f"{PREAMBLE}\n\\section*{{{text(document.title)}}}\n\n{blocks}\n\n\\end{{document}}\n"


def _block(block: Block) -> str:
    match block:
        case Heading(words):
            return f"\\subsection*{{{text(words)}}}"
        case Paragraph(words, tone):
            return TONES[tone] % text(words)
        case Formula(line):
            return _formula(printable(line))
        case Verdict(ok, words):
            return TONES["good" if ok else "bad"] % f"{text(RIGHT if ok else WRONG)} {text(words)}"
        case Table():
            return _table(block)


def _formula(line: str) -> str:
    """On one line, or on one for each side of it; a long side on several."""
    head, *sides = [line] if len(line) <= FORMULA_WIDTH else line.split(" = ")
    rows = [f"&{mathematics(part)}" for part in wrapped(head, FORMULA_WIDTH)]
    for side in sides:
        first, *others = wrapped(side, FORMULA_WIDTH)
        rows += [f"&= {mathematics(first)}", *(f"&\\quad {{}}{mathematics(other)}" for other in others)]
    if sides and len(head) <= FORMULA_WIDTH // 3:
        rows[:2] = [mathematics(head) + rows[1]]
    return "\\begin{align*}\n" + " \\\\\n".join(rows) + "\n\\end{align*}"


def _table(table: Table) -> str:
    """One table, or several below one another where it is too wide."""
    groups = arranged(columns(table, printable), TABLE_WIDTH, GAP)
    caption = [f"\\textit{{{text(table.caption)}}}"] if table.caption else []
    return "\n\n".join([*caption, *(_part(table, group) for group in groups)])


def _part(table: Table, group: list[tuple[Column, int]]) -> str:
    kinds = "".join(_kind(column, width) for column, width in group)
    names = " & ".join(_name(column, width) for column, width in group)
    cells = [_cells(table, column, width) for column, width in group]
    rows = "".join(" & ".join(row) + " \\\\\n" for row in zip(*cells, strict=True))
    long = len(rows.splitlines()) + rows.count("\\newline") > MOST_LINES
    kind, end = ("longtable", "\\endhead\n") if long else ("tabular", "")
    return (
        f"{{\\small\\begin{{{kind}}}{{@{{}}{kinds}@{{}}}}\n\\toprule\n{names} \\\\\n\\midrule\n{end}"
        f"{rows}\\bottomrule\n\\end{{{kind}}}}}"
    )


def _kind(column: Column, width: int) -> str:
    if column.numeric:
        return "r"
    return "l" if column.wanted <= width else rf">{{\raggedright\arraybackslash}}p{{{0.5 * width:g}em}}"


def _name(column: Column, width: int) -> str:
    lines = [text(line) for line in wrapped(column.name, width)]
    stacked, side = " \\\\ ".join(lines), "r" if column.numeric else "l"
    return stacked if len(lines) == 1 else f"\\shortstack[{side}]{{{stacked}}}"


def _cells(table: Table, column: Column, width: int) -> list[str]:
    """A column's entries; beside one that is marked as bad the others leave room for the mark."""
    entries = [[line.strip() for line in lines] for lines in column.lines(width)]
    marked = column.numeric and any(lines[0].endswith(WRONG) for lines in entries)
    cells = []
    for row, lines in zip(table.rows, entries, strict=True):
        content = " \\newline ".join(text(line) for line in lines)
        is_wrong = marked and lines[0].endswith(WRONG)
        if isinstance(row[column.index].content, int | float):
            content = f"${mathematics(lines[0].removesuffix(f' {WRONG}'))}$" + f" {text(WRONG)}" * is_wrong
        room = rf"\phantom{{ {text(WRONG)}}}" * (marked and not is_wrong)
        cells.append((TONES[row[column.index].tone] % content if content else "") + room)
    return cells
