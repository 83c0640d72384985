"""docs/coverage.md: 45 rows, and every name, file, test and command in them is there."""

import inspect
import pkgutil
import re
import shlex

import pytest
from test_docs import ROOT, unknown

import gpubp
from gpubp.cli.explain import EXAMPLES

ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \| (.+) \|$", re.MULTILINE)
ROWS = [match.groups() for match in ROW.finditer((ROOT / "docs" / "coverage.md").read_text(encoding="utf-8"))]
CODE = re.compile(r"`([^`]+)`")


def missing(cell: str) -> list[str]:
    """What of the code in a cell is not there; a plain word is a parameter or field of the name before it."""
    found, owner = [], None
    for code in CODE.findall(cell):
        if re.fullmatch(r"gpubp\.[\w.]+(\(.*\))?", code):
            try:
                owner = pkgutil.resolve_name(code.partition("(")[0])
                if code.endswith(")"):
                    eval(code, {"gpubp": gpubp})
            except (ImportError, AttributeError, TypeError, gpubp.GpubpError) as error:
                found.append(f"{code}: {error}")
        elif code.isidentifier():
            if not callable(owner) or code not in inspect.signature(owner).parameters:
                found.append(f"{code} of {owner}")
        elif reason := not_there(code):
            found.append(f"{code}: {reason}")
    return found


def not_there(code: str) -> str | None:
    """Why a test, a command or a path is not there; None where it is."""
    path, _, test = code.partition("::")
    if test:
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines() if (ROOT / path).is_file() else []
        return None if any(line.startswith(f"def {test}(") for line in lines) else "no such test"
    words = shlex.split(code)
    if words[0] == "python3":
        return None if (ROOT / words[1]).is_file() else "no such file"
    if words[:2] == ["gpubp", "explain"] and words[2] not in EXAMPLES:
        return "no such example"
    if words[0] == "gpubp":
        return unknown(words)
    return None if len(words) == 1 and (ROOT / code).exists() else "no such file"


def test_there_are_45_rows() -> None:
    assert [int(number) for number, *_ in ROWS] == list(range(1, 46))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row[0]))
def test_what_a_row_names_is_there(row: tuple[str, ...]) -> None:
    _, _, where, shown = row
    assert CODE.search(where)
    assert missing(where) == []
    assert missing(shown) == []
    assert any("::" in code or code.startswith(("gpubp ", "python3 ")) for code in CODE.findall(shown))


@pytest.mark.parametrize(
    "cell",
    [
        "`gpubp.MPL`",
        "`gpubp.explain.tracing.trace`",
        "`gpubp.SGD(0.1, momentun=0.9)`",
        "`gpubp.SGD(-1)`",
        "`gpubp.MLP.fit` with `transforms`",
        "`transform`",
        "`gpubp fly`",
        "`gpubp explain two-layers`",
        "`gpubp explain two-layer --wings`",
        "`gpubp/layer.py`",
        "`python3 examples/none.py`",
        "`tests/test_api.py::test_nothing`",
        "`tests/test_nothing.py::test_api`",
        "`z = a W`",
    ],
)
def test_what_is_not_there_is_found(cell: str) -> None:
    assert len(missing(cell)) == 1
