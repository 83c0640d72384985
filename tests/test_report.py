"""How scores look: aligned and whole in a pipe, coloured in a terminal, safe whatever the classes are called."""

import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console
from trained import flowers, gpubp_, run, train

from gpubp.cli.report import class_report, value_report
from gpubp.scores import ClassScores, ValueScores


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flowers(tmp_path_factory.mktemp("report") / "flowers.csv")


@pytest.fixture(scope="module")
def model(table: Path) -> Path:
    return train(table.with_name("run"), table, "classification")


def report(names: list[Any], truths: Any, decided: Any, width: int = 80, **options: Any) -> list[str]:
    """The lines of a report."""
    scores = ClassScores(len(names))
    scores.add(np.asarray(truths), np.asarray(decided))
    file = StringIO()
    console = Console(file=file, width=width, highlight=False, _environ={}, **options)
    class_report(console, scores, 0.25, names, "rows of flowers")
    return file.getvalue().splitlines()


def test_a_report_as_a_whole() -> None:
    truths, decided = [0] * 30 + [1] * 10 + [2] * 9, [0] * 28 + [1, 1] + [1] * 7 + [0] * 3 + [2] * 9
    assert report(["cat", "dog", "a fish"], truths, decided) == [
        "accuracy  89.80%  44 of 49 rows of flowers",
        "                  78.24% to 95.56% with 95% confidence",
        "loss      0.2500",
        "",
        "class    precision    recall        F1   support",
        "cat         90.32%    93.33%    91.80%        30",
        "dog         77.78%    70.00%    73.68%        10",
        "a fish     100.00%   100.00%   100.00%         9",
        "",
        "           cat     dog  a fish",
        "cat         28       2       0",
        "dog          3       7       0",
        "a fish       0       0       9",
        "a row for each true class, a column for what it was taken for",
        "",
        "dog taken for cat: 3 of 10",
        "cat taken for dog: 2 of 30",
    ]


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("names", [list(range(20)), ["x" * 70, "犬は大きい", "z"], ["a\x1b[31mb\nc", "[bold]d[/]", ""]])
def test_columns_are_aligned_and_nothing_is_cut(names: list[Any], width: int, rng: np.random.Generator) -> None:
    truths, decided = rng.integers(0, len(names), (2, 500))
    lines = report(names, truths, decided, width)
    blank = [number for number, line in enumerate(lines) if not line]
    table = lines[blank[0] + 1 : blank[1]]
    assert len(table) == len(names) + 1
    assert len({cell_len(line) for line in table}) == 1
    matrix = lines[blank[1] + 1 : blank[2]] if len(blank) > 2 else []
    assert len({cell_len(line) for line in matrix[:-1]}) <= 1
    assert all(cell_len(line) <= width for line in matrix[:-1])
    if matrix:
        found = [[int(cell) for cell in line.split()[-len(names) :]] for line in matrix[1:-1]]
        assert np.sum(found) == 500
    else:
        assert (width < 200 and len(names) == 20) or width == 40
    assert not re.search(r"[\x00-\x1f]", "".join(lines))
    for name in names:
        assert any(line.startswith(str(name)[:1] or "(empty)") for line in table)
    assert "[bold]d[/]" not in names or any("[bold]d[/] taken for" in line for line in lines)


def test_many_classes(rng: np.random.Generator) -> None:
    truths = rng.integers(0, 99, 3000)
    decided = np.where(rng.random(3000) < 0.7, truths, truths // 2)
    lines = report([f"class {k}" for k in range(100)], truths, decided, 200)
    assert "the 10 classes of 100 with the lowest F1" in lines
    assert sum("taken for" in line for line in lines) == 10
    assert len(lines) == 3 + 1 + 1 + 10 + 1 + 1 + 10
    f1 = [float(line.split()[-2].rstrip("%")) for line in lines[5:15]]
    assert f1 == sorted(f1)
    assert "nan" not in "".join(lines)


def test_what_has_no_score_is_a_dash() -> None:
    lines = report(["a", "b", "c"], [0, 0, 1], [0, 0, 0])
    assert lines[5:8] == [
        "a          66.67%   100.00%   80.00%         2",
        "b               -     0.00%    0.00%         1",
        "c               -         -        -         0",
    ]


def test_values() -> None:
    scores, file = ValueScores(1), StringIO()
    scores.add(np.array([[1000.0], [3000.0]]), np.array([[1500.0], [3000.0]]))
    value_report(Console(file=file, highlight=False, _environ={}), scores, 0.125, "price", "rows of houses")
    assert file.getvalue().splitlines() == [
        "R²    0.875   on 2 rows of houses",
        "RMSE  353.55  in the units of price",
        "MAE   250",
        "loss  0.125   as training measures it",
    ]


def test_colours_by_share() -> None:
    truths, decided = [0] * 100 + [1] * 4, [0] * 99 + [1] + [1] * 1 + [0] * 3
    coloured = report(["a", "b"], truths, decided, force_terminal=True, color_system="truecolor")
    backgrounds = [re.findall(r"48;2;(\d+);(\d+);(\d+)", line) for line in coloured[9:11]]
    (right, rare), (frequent, half) = [[tuple(map(int, colour)) for colour in row] for row in backgrounds]
    assert right[1] > right[0]
    assert half[1] > half[0]
    assert right[1] > half[1], "stronger with the share"
    assert frequent[0] > rare[0] > rare[1]
    plain = report(["a", "b", "c"], truths, decided, force_terminal=True, color_system="truecolor", no_color=True)
    assert not re.search(r"\x1b\[[\d;]*(3|4)\d(;|m)", "".join(plain))
    assert plain[10].replace("\x1b[2m", "").replace("\x1b[0m", "").split() == ["a", "99", "1", "0"]


# -- where it is printed -----------------------------------------------------------------------------------------------


def test_in_a_pipe(model: Path, table: Path) -> None:
    result = run("evaluate", model, table, env={"TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "80"})
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout
    assert result.stdout == gpubp_("evaluate", model, table).stdout
    assert result.stderr == ""


def test_where_only_ascii_can_be_printed(tmp_path: Path) -> None:
    data = tmp_path / "names.csv"
    data.write_text("a,kind\n" + "1.5,Käfer\n-1.5,犬\n" * 20, encoding="utf-8")
    run_folder = train(tmp_path / "run", data, "classification", "kind")
    result = run("evaluate", run_folder, data, env={"PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0, result.stderr
    assert "K?fer" in result.stdout
    assert result.stdout.isascii()
    classes = json.loads(run("evaluate", run_folder, data, "--json", env={"PYTHONIOENCODING": "ascii"}).stdout)[
        "classes"
    ]
    assert [each["name"] for each in classes] == ["Käfer", "犬"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_json_on_a_full_disk(model: Path, table: Path) -> None:
    """As with the text that test_cli_full_disk.py asks for."""
    with open("/dev/full", "w") as full:
        result = run("evaluate", model, table, "--json", stdout=full)
    assert result.returncode == 1
    assert result.stderr == "error: cannot write to standard output: No space left on device\n"


def test_help() -> None:
    page = gpubp_("evaluate", "--help")
    assert page.exit_code == 0
    assert not re.search(r"<.*>", page.stdout)
    assert all(word in page.stdout for word in ("--split", "--min", "--max", "--target", "exit code 5"))
