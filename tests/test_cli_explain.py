"""`gpubp explain`: the articles' examples and a user's own network, in a terminal and in every kind of file."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from trained import flowers, gpubp_, prices, train

import gpubp
from gpubp.cli.explain import EXAMPLES, SUFFIXES
from gpubp.explain.articles import ARTICLES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("explain")


@pytest.fixture(scope="module")
def table(folder: Path) -> Path:
    return flowers(folder / "flowers.csv")


@pytest.fixture(scope="module")
def model(folder: Path, table: Path) -> Path:
    return train(folder / "classes", table, "classification")


def test_the_examples_are_listed() -> None:
    result = gpubp_("explain")
    assert result.exit_code == 0, result.output
    assert tuple(ARTICLES) == EXAMPLES
    for name in EXAMPLES:
        assert name in result.stdout
    assert set(json.loads(gpubp_("explain", "--json").stdout)) == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_shown(name: str) -> None:
    result = gpubp_("explain", name, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert json.loads(gpubp_("explain", name, "--json", "--device", "cpu").stdout)


def test_two_layer_shows_the_printed_and_the_true_gradient() -> None:
    shown = gpubp_("explain", "two-layer", "--device", "cpu").stdout
    assert "-0.064946" in shown
    assert "-0.064168" in shown


def test_one_weight_of_an_example() -> None:
    shown = gpubp_("explain", "two-layer", "--weight", "w1", "--device", "cpu").stdout
    assert "o2 → h1" in shown
    assert "-0.0641679049645" in shown


def test_a_row_of_a_table_with_its_columns_by_name(model: Path, table: Path) -> None:
    result = gpubp_("explain", model, table, "--sample", 4, "--device", "cpu")
    assert result.exit_code == 0, result.output
    line = table.read_text().splitlines()[5].split(",")
    assert "length" in result.stdout
    assert f"{float(line[0]):.6f}" in result.stdout
    told = " ".join(result.stdout.split())
    assert re.search(r"row 4: the class is .*, (rightly|wrongly) taken for .* with probability [\d.]+%", told)


def test_json_is_the_trace_of_these_rows(model: Path, table: Path) -> None:
    result = gpubp_("explain", model, table, "--sample", 2, "--sample", 7, "--lr", 0.5, "--json", "--device", "cpu")
    facts = json.loads(result.stdout)
    net = gpubp.load(model / "model.safetensors", "cpu")
    known = gpubp.data.Preprocessing.from_config(net.metadata["preprocessing"])
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    raw = np.array([[float(value) for value in rows[row][:2]] for row in (2, 7)])
    names = np.array([",".join(rows[row][2:]).strip('"') for row in (2, 7)])
    expected = gpubp.trace(net, known.inputs(raw), known.targets(names), 0.5)
    assert facts == json.loads(expected.to_json())


def test_a_regression_is_told_in_the_units_of_the_file(folder: Path) -> None:
    data = prices(folder / "prices.csv")
    result = gpubp_("explain", train(folder / "values", data, "regression"), data, "--device", "cpu")
    price = float(data.read_text().splitlines()[1].split(",")[2])
    assert f"the value is {price:g}, predicted " in result.stdout


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_of_file(suffix: str, model: Path, table: Path, tmp_path: Path) -> None:
    out = tmp_path / f"step{suffix}"
    result = gpubp_("explain", model, table, "--weight", "w1", "-o", out, "--device", "cpu")
    assert (result.exit_code, result.stdout) == (0, ""), result.output
    assert str(out) in result.stderr
    start = {
        ".html": b"<!doctype html>",
        ".tex": b"\\documentclass",
        ".json": b"{",
        ".png": b"\x89png",
        ".svg": b"<?xml",
    }
    content = out.read_bytes()
    assert content.lower().startswith(start.get(suffix, b"# "))
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("two-layr",), 2, "two-layer"),
        (("two-layer", "--sample", 1), 2, "--sample is for a MODEL"),
        (("two-layer", "DATA"), 2, "takes no DATA"),
        (("digits",), 2, "digits is data; explain takes a model first"),
        (("-o", "step.md"), 2, "-o needs an example"),
        (("two-layer", "--weight", "w13"), 4, "there are w1 to w8"),
        (("two-layer", "-o", "step.doc"), 2, "must end in one of"),
        (("MODEL",), 2, "DATA is missing"),
        (("MODEL", "DATA", "--sample", 120), 4, "has 120 rows, counted 0 to 119"),
        (("MODEL", "DATA", "--sample", -1), 2, "--sample"),
        (("MODEL", "DATA", "--weight", "v1"), 4, "is not the name of a parameter"),
        (("MODEL", "DATA", "--lr", 0), 2, "--lr"),
        (("MODEL", "none.csv"), 4, "none.csv"),
        (("none", "DATA"), 1, "there is no such file"),
        (("two-layer", "-o", "missing/step.md"), 1, "missing"),
    ],
)
def test_bad_input_is_refused(
    arguments: tuple[object, ...],
    code: int,
    told: str,
    model: Path,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [{"MODEL": model, "DATA": table}.get(str(argument), argument) for argument in arguments]
    result = gpubp_("explain", *given, "--device", "cpu")
    assert result.exit_code == code, result.output
    assert told in result.stderr
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir()), "nothing is written"
