"""docs/derivation.md: every equation names the line of gpubp that computes it, and that line is there."""

import ast
import re
from dataclasses import dataclass, replace

import pytest
from test_docs import BLOCK, ROOT

TEXT = (ROOT / "docs" / "derivation.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"^\((\d+)\) ", re.MULTILINE)
POINTER = re.compile(r"^- \((\d+)\) `([\w.]+)` in \[`(gpubp/[\w/]+\.py)`\]\(\.\./\3\): `(.+)`$", re.MULTILINE)


@dataclass(frozen=True)
class Pointer:
    equation: int
    function: str
    file: str
    line: str

    def __str__(self) -> str:
        return f"({self.equation}) {self.function}"


POINTERS = [Pointer(int(found[1]), *found.group(2, 3, 4)) for found in POINTER.finditer(TEXT)]


def sections(text: str) -> list[tuple[str, str]]:
    """(equations, what stands between them and the next ones) of the page."""
    blocks = [match for match in BLOCK.finditer(text) if match["language"] == "text"]
    ends = [match.start() for match in blocks[1:]] + [len(text)]
    return [(match["body"], text[match.end() : end]) for match, end in zip(blocks, ends, strict=True)]


def strays(text: str) -> list[str]:
    """What could be an equation that no number and no pointer would be asked of."""
    unnumbered = [
        line for body, _ in sections(text) for line in body.splitlines() if not re.match(r"\(\d+\) | {6}", line)
    ]
    outside = BLOCK.sub("", text)
    displayed = [line for line in outside.splitlines() if line.startswith(("    ", "\t", "$$")) or line.count("$") > 1]
    others = [match[0] for match in BLOCK.finditer(text) if match["language"] not in ("text", "python", "console")]
    return unnumbered + displayed + others


def wrong(pointer: Pointer) -> str | None:
    """What is wrong with a pointer; None where the line stands in the function, once."""
    path = ROOT / pointer.file
    if not path.is_file():
        return "no such file"
    source = path.read_text(encoding="utf-8")
    nodes: list[ast.AST] = [ast.parse(source)]
    for name in pointer.function.split("."):
        kinds = (ast.FunctionDef, ast.ClassDef)
        nodes = [n for node in nodes for n in getattr(node, "body", []) if isinstance(n, kinds) and n.name == name]
    if len(nodes) != 1:
        return f"{len(nodes)} definitions of that name"
    lines = (ast.get_source_segment(source, nodes[0]) or "").splitlines()
    count = sum(line.split("  # ")[0].strip() == pointer.line for line in lines)
    return None if count == 1 else f"the line stands there {count} times"


def test_the_equations_are_numbered_through() -> None:
    numbers = [int(number) for body, _ in sections(TEXT) for number in NUMBER.findall(body)]
    assert len(numbers) == 30
    assert numbers == list(range(1, 31))
    assert strays(TEXT) == []


def test_an_equation_without_a_number_is_seen() -> None:
    for more in (
        "\n```text\nz = a W\n```\n",
        "\n$$z = a W$$\n",
        "\n    z = a W\n",
        "\n```math\n(31) z\n```\n",
        "\n$z$ and $a$\n",
    ):
        assert strays(TEXT + more), more


def test_the_pointers_of_equations_stand_under_them() -> None:
    for body, below in sections(TEXT):
        numbers = NUMBER.findall(body)
        pointers = [found[1] for found in POINTER.finditer(below)]
        assert sorted(set(pointers), key=int) == numbers, body
    assert len(POINTERS) == len(re.findall(r"^- \(", TEXT, re.MULTILINE)), "one is not written as the others are"


@pytest.mark.parametrize("pointer", POINTERS, ids=str)
def test_the_line_is_there(pointer: Pointer) -> None:
    assert wrong(pointer) is None


def test_a_pointer_that_is_wrong_is_found() -> None:
    pointer = POINTERS[0]
    assert wrong(replace(pointer, file="gpubp/layer.py")) == "no such file"
    assert wrong(replace(pointer, function="Backend.runs")) == "0 definitions of that name"
    assert wrong(replace(pointer, function="Backend.run_with_column_sum")) == "the line stands there 0 times"
    assert wrong(replace(pointer, line=pointer.line.replace("b,", "b.T,"))) == "the line stands there 0 times"
