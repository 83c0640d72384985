"""A document in every form: the same numbers, escaped texts, tones, narrow and poor terminals, LaTeX that compiles."""

import io
import re
from collections.abc import Callable
from html.parser import HTMLParser

import numpy as np
import pytest
from markdown_it import MarkdownIt
from matplotlib.mathtext import MathTextParser
from rich.console import Console
from worked import EXAMPLES, build, inputs, targets

import gpubp
from gpubp.explain.document import Cell, Document, Formula, Heading, Paragraph, Table, Verdict, figure
from gpubp.explain.render.html import html, page
from gpubp.explain.render.latex import latex
from gpubp.explain.render.markdown import markdown
from gpubp.explain.render.terminal import plain, terminal
from gpubp.explain.render.tex import mathematics, text

SICK = "<b>&amp; a|b \\ {x} $5 50% #1 *x* _y_ ~ ^ `q` \x1b[31m\n\ud800\u202e 花 é “z” -- [l](u)"
CELLS = [
    [Cell("w5"), Cell(-0.048756), Cell(0.704876, "strong"), Cell("x1 → h1", "faint")],
    [Cell("W[1][0,1]"), Cell(1.25e-7, "bad"), Cell(None), Cell("∂C/∂o1 · f'(z_o1)", "good")],
    [Cell("sum"), Cell(12345.5, "good"), Cell(-0.0), Cell("")],
]
TABLE = Table(("name", "gradient ∂C/∂w", "after", "what"), tuple(map(tuple, CELLS)), "Layer 0: W[0] (2, 2)")
NUMBERS = [["-0.048756", "0.704876"], ["1.2500e-07"], ["12345.500000", "0.000000"]]


def shown(document: Document, width: int = 100, encoding: str = "utf-8", colour: bool = False) -> str:
    """What a terminal of that width and encoding gets."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace", newline="")
    system = "standard" if colour else None
    console = Console(file=file, width=width, force_terminal=colour, color_system=system, _environ={})
    console.print(terminal(document))
    file.flush()
    return file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


def step(name: str = "hill") -> gpubp.Trace:
    example = EXAMPLES[name]
    return gpubp.trace(build(example), inputs(example), targets(example), example.get("learning_rate", 0.1))


# -- every form read back ----------------------------------------------------------------------------------------------


class Cells(HTMLParser):
    """The rows of all tables of a page, and its other texts."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.open = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.open = self.open and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.open:
            self.rows[-1][-1] += data
        else:
            self.texts.append(data)


def read_html(content: str) -> list[list[str]]:
    parser = Cells()
    parser.feed(content)
    return [[cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row] for row in parser.rows[1:]]


def rendered(content: str) -> str:
    """The HTML of Markdown, by the parser that rich has."""
    return str(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(content))


def read_markdown(content: str) -> list[list[str]]:
    return read_html(rendered(content))


def read_latex(content: str) -> list[list[str]]:
    body = re.search(r"\\midrule\n(.*?)\\bottomrule", content, re.DOTALL)
    assert body
    rows = [line.removesuffix(" \\\\").split(" & ") for line in body[1].splitlines()]
    return [[_unset(cell) for cell in row] for row in rows]


def _unset(cell: str) -> str:
    cell = re.sub(r"\\phantom\{.*\}", "", cell).replace(r"\boldmath ", "")
    cell = re.sub(r"^\\text(?:bf|color\{\w+\})\{(.*)\}$", r"\1", cell).replace(r" $\times$", " ✗")
    powers = re.sub(r"\\cdot 10\^\{(-?)(\d)\}", r"e\g<1>0\2", cell)
    return powers.strip("$") if re.fullmatch(r"\$[-\d.e]+\$( ✗)?", powers) is None else powers.replace("$", "")


def read_terminal(content: str) -> list[list[str]]:
    lines = content.split("─\n")[1].splitlines()
    return [re.split(r" {2,}", line.strip()) for line in lines]


FORMS: dict[str, tuple[Callable[[Document], str], Callable[[str], list[list[str]]]]] = {
    "terminal": (shown, read_terminal),
    "plain": (plain, read_terminal),
    "html": (html, read_html),
    "page": (page, read_html),
    "markdown": (markdown, read_markdown),
    "latex": (latex, read_latex),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same_numbers(form: str) -> None:
    write, read = FORMS[form]
    rows = read(write(Document("t", [TABLE])))
    found = [[re.sub(" ✗$", "", cell) for cell in row if re.match(r"-?\d", cell)] for row in rows]
    assert found == NUMBERS


@pytest.mark.parametrize("form", ["html", "page", "markdown"])
def test_every_cell_comes_back_as_it_was(form: str) -> None:
    write, read = FORMS[form]
    expected = [[cell.text + " ✗" * (cell.tone == "bad") for cell in row] for row in CELLS]
    assert read(write(Document("t", [TABLE]))) == expected


@pytest.mark.parametrize("form", FORMS)
def test_what_is_bad_is_marked_without_colours_too(form: str) -> None:
    write, read = FORMS[form]
    marked = [cell for row in read(write(Document("t", [TABLE]))) for cell in row if cell.endswith("✗")]
    assert marked == ["1.2500e-07 ✗"]


@pytest.mark.parametrize("form", FORMS)
def test_any_text_is_printed_and_nothing_else_happens(form: str) -> None:
    table = Table.of([SICK, "n"], [[SICK, 1.0]], SICK)
    blocks = [Heading(SICK), Paragraph(SICK, "strong"), Formula(SICK), table, Verdict(False, SICK), Paragraph("")]
    written = FORMS[form][0](Document(SICK, blocks))
    assert "\x1b" not in written
    assert "\u202e" not in written
    written.encode()
    empty = Document("", [Table.of([], []), Table.of(["a", "b"], []), Formula(""), Verdict(True, "")])
    assert FORMS[form][0](empty)


@pytest.mark.parametrize("form", [page, lambda document: rendered(markdown(document))], ids=["page", "markdown"])
def test_no_text_becomes_markup(form: Callable[[Document], str]) -> None:
    tables = [Table.of([SICK], [[SICK]], SICK), Table.of(["n"], [["- 1. #"]])]
    lines = [
        Paragraph("[x]: no link"),
        Paragraph("- no list"),
        Paragraph("1. no list"),
        Paragraph("# no heading"),
        Paragraph("==="),
        Paragraph("+ a"),
    ]
    blocks = [Heading(SICK), Paragraph(SICK, "strong"), Formula(SICK), *tables, Verdict(True, SICK), *lines]
    parser = Cells()
    parser.feed(form(Document(SICK, blocks)))
    assert not {"b", "script", "img", "link", "a", "ul", "ol", "hr", "s"} & set(parser.tags)
    assert (parser.tags.count("h1"), parser.tags.count("h2")) == (1, 1)
    told = "<b>&amp; a|b \\ {x} $5 50% #1 *x* _y_ ~ ^ `q` ?[31m ?? 花 é “z” -- [l](u)"
    assert parser.rows == [[told], [told], ["n"], ["- 1. #"]]
    written = " ".join(" ".join(parser.texts).split())
    assert written.count(told) == 6 + (form is page), (
        "title, heading, paragraph, formula, caption, verdict; a page's name"
    )
    assert written.endswith("[x]: no link - no list 1. no list # no heading === + a")


def test_html_has_classes_for_numbers_and_tones() -> None:
    written = html(Document("t", [TABLE, Paragraph("p", "faint"), Verdict(False, "v")]))
    assert '<th scope="row">w5</th><td class="number">-0.048756</td><td class="number strong">0.704876</td>' in written
    assert '<td class="number bad">1.2500e-07 ✗</td>' in written
    assert '<p class="faint">p</p>' in written
    assert '<p class="verdict bad">' in written
    assert all(f".{name} {{" in written for name in ("number", "strong", "faint", "good", "bad", "verdict"))


def test_a_page_needs_nothing_from_elsewhere() -> None:
    written = page(Document("t", [TABLE]))
    assert written.startswith("<!doctype html>")
    assert '<meta charset="utf-8">' in written
    assert not re.search(r"https?:|src=|@import|url\(|<script", written)
    assert "<html" not in html(Document("t", [TABLE]))
    colours = re.findall(r"[^-]color: ([^;]+);", html(Document("t", [TABLE])))
    assert set(colours) == {"inherit", "#1a9159", "#dc3f45"}, "no black or white: a notebook may be light or dark"


def test_markdown_escapes_no_more_than_it_must() -> None:
    written = markdown(Document("t", [Paragraph(SICK), Table.of(["a|b"], [["c|d"]])]))
    assert r"\<b\>\&amp; a\|b \\ {x} \$5 50% \#1 \*x\* \_y\_ \~ ^ \`q\`" in written
    assert r"[l]\(u)" in written
    assert r"| a\|b |" in written
    assert markdown(Document("t", [Paragraph("z_o1 is -0.5")])).endswith("\nz_o1 is -0.5\n")
    assert markdown(Document("t", [Formula("a`b")])).endswith("\n`` a`b ``\n")


# -- terminals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [32, 60, 80, 100])
def test_a_terminal_of_any_width_shows_whole_numbers(width: int) -> None:
    document = step().weight("w1").document()
    for written in (shown(document, width), shown(Document("t", [TABLE]), width)):
        assert max(map(len, written.splitlines())) <= width
        assert "…" not in written
    for number in ("-0.048756", "1.2500e-07 ✗", "12345.500000"):
        assert number in written
    narrow = shown(document, width)
    for term in step().weight("w1").paths:
        assert figure(term.product) in narrow


def test_decimal_points_stand_under_one_another() -> None:
    rows = [[name, value] for name, value in (("a", 0.25), ("b", 1.5e-9), ("c", Cell(-1234.5, "bad")), ("d", 3.0))]
    lines = shown(Document("t", [Table.of(["", "n"], rows)])).split("─\n")[1].splitlines()
    assert len({line.index(".") for line in lines}) == 1
    assert len(lines) == 4


def test_tones_are_colours_of_a_terminal() -> None:
    blocks = [Paragraph("s", "strong"), Paragraph("f", "faint"), Paragraph("g", "good"), Paragraph("b", "bad")]
    written = shown(Document("t", [*blocks, Verdict(True, "yes"), Verdict(False, "no"), TABLE]), colour=True)
    for code in ("1ms", "2mf", "32mg", "31mb", "1;32m✓", "1;31m✗", "31m1.2500e-07 ✗", "1m0.704876"):
        assert f"\x1b[{code}" in re.sub("m +", "m", written), code
    assert "\x1b" not in shown(Document("t", [TABLE]))


def test_plain_text_is_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    document = step().document()
    usual = plain(document)
    for name, value in {"COLUMNS": "40", "FORCE_COLOR": "1", "TERM": "dumb", "JPY_PARENT_PID": "1"}.items():
        monkeypatch.setenv(name, value)
    assert plain(document) == usual == str(step())
    assert max(map(len, usual.splitlines())) <= 100
    assert not [line for line in usual.splitlines() if line != line.rstrip()]


def test_a_terminal_without_greek_gets_letters() -> None:
    written = shown(step().weight("w1").document(), 80, "ascii")
    assert "dC/dw1 = dC/dh1 * f'(z_h1) * x1" in written
    assert "o1 -> h1" in written
    assert "ok: the sum over 2 paths" in written
    assert "?" not in written
    assert "W^(1)_12 = s(z)" in shown(Document("t", [Paragraph("W⁽¹⁾₁₂ = σ(z)")]), 80, "ascii")


def test_a_long_formula_is_broken_at_its_equals_signs() -> None:
    document = step().weight("w1").document()
    assert "∂C/∂w1 = ∂C/∂h1 · f'(z_h1) · x1 = (-0.132306) · 0.242497 · 2.000000 = -0.064168" in plain(document)
    lines = [line.strip() for line in shown(document, 50).splitlines()]
    start = lines.index("∂C/∂w1 = ∂C/∂h1 · f'(z_h1) · x1")
    assert lines[start + 1 : start + 3] == ["= (-0.132306) · 0.242497 · 2.000000", "= -0.064168"]


# -- LaTeX -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unicode", "tex"),
    [
        ("∂C/∂w12", r"\partial C/\partial w_{12}"),
        ("f'(z_o1)", "f'(z_{o1})"),
        ("W[0][1,0]", "W^{(0)}_{1,0}"),
        ("W⁽¹⁾₁₂ a⁽¹⁾ᵀ", r"W^{(1)}_{12}\,a^{(1)T}"),
        ("w1 ← 0.3 - 0.1 · (-1.5e-05)", r"w_{1} \leftarrow  0.3 - 0.1 \cdot  (-1.5\cdot 10^{-5})"),
        ("h1²", "h_{1}{}^{2}"),
        ("softmax(z)", r"\mathrm{softmax}(z)"),
        ("‖y - ŷ‖²", r"\|y - \hat{y}\|{}^{2}"),
        ("1,000 paths", r"1{,}000\,\mathrm{paths}"),
    ],
)
def test_mathematics_becomes_tex(unicode: str, tex: str) -> None:
    assert mathematics(unicode) == tex


@pytest.mark.parametrize(
    ("unicode", "tex"),
    [
        ("a column x_y of 5 % & more", r"a column x\_y of 5 \% \& more"),
        ("the delta of w5 (W[0][1,0]), -0.5.", "the delta of $w_{5}$ ($W^{(0)}_{1,0}$), $-0.5$."),
        ("Part 2 - on z - 1", r"Part 2 -- on $z$ $-$ 1"),
        ("a unit is a = f(z)", "a unit is $a$ $=$~$f(z)$"),
        ("I see 3 x 4", r"I see 3 $\times$~4"),
        ('a "word" --flag <b> [x] ß', "a ``word'' -{}-flag $<$b$>$ {[}$x$] ?"),
        ("naïve café", r"na\"{i}ve caf\'{e}"),
        ("\\ ~ ^ {}", r"\textbackslash{} \textasciitilde{} \textasciicircum{} \{\}"),
    ],
)
def test_text_becomes_tex(unicode: str, tex: str) -> None:
    assert text(unicode) == tex


def documents() -> list[Document]:
    deep = step("four-layer-softmax-tanh")
    return [step().document(), step().weight("b1").document(), deep.weight("w1").document()]


def test_latex_is_balanced_ascii_with_valid_formulas() -> None:
    parser = MathTextParser("path")
    for document in documents():
        written = latex(document)
        assert written.isascii()
        bare = re.sub(r"\\[{}]", "", written)
        assert bare.count("{") == bare.count("}")
        assert re.findall(r"\\begin\{(.*?)\}", written) == _nested(re.findall(r"\\(begin|end)\{(.*?)\}", written))
        blocks = re.findall(r"begin\{align\*\}\n(.*?)\n\\end", written, re.DOTALL)
        rows = [row for block in blocks for row in block.split("\\\\")]
        formulas = {*re.findall(r"\$(.+?)\$", written), *(row.replace("&", "") for row in rows)} - {"\\checkmark"}
        assert len(formulas) > 20
        for formula in formulas:
            parser.parse(f"${formula.strip()}$")


def _nested(marks: list[tuple[str, str]]) -> list[str]:
    """The names of environments in the order they begin; fails where they do not close in order."""
    begun, stack = [], []
    for mark, name in marks:
        if mark == "begin":
            begun.append(name)
            stack.append(name)
        else:
            assert stack.pop() == name
    assert not stack
    return begun


def test_wide_and_long_tables_stay_on_the_page() -> None:
    wide = Table.of([f"column {k}" for k in range(20)], [[0.5] * 20])
    parts = re.findall(r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}", latex(Document("t", [wide])))
    assert len(parts) > 1
    assert sum(map(len, parts)) == 20 + len(parts) - 1, "the names of the rows are in each part"
    words = Table.of(["a", "b"], [["word " * 40, 1.0]])
    assert re.search(r"p\{[\d.]+em\}r", latex(Document("t", [words])))
    many = Table.of(["n"], [[float(k)] for k in range(100)])
    assert "\\begin{longtable}" in latex(Document("t", [many]))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.1, "0.100000"),
        (-0.0, "0.000000"),
        (1e-5, "1.0000e-05"),
        (2e6, "2.0000e+06"),
        (np.nan, "nan"),
        (np.inf, "inf"),
    ],
)
def test_figures(value: float, told: str) -> None:
    assert figure(value) == told
