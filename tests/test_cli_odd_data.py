"""Data that is odd but right goes through train, evaluate, predict and export: few rows, many classes, any names."""

import csv
import io
import json
import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trained import gpubp_

import gpubp

pytestmark = pytest.mark.usefixtures("undrawn")
SETTINGS = ["--epochs", "2", "--hidden", "3", "--device", "cpu"]
NAMES = ["a,b", 'say "c"', "two\nlines", "ünï🌙", "  spaced  ", "-", "=1+1", "'", "NaN!", "a" * 900]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(rows: list[list[Any]], name: str = "data.csv") -> None:
    with open(name, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def output(*arguments: object) -> str:
    result = gpubp_(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def through(rows: int, *options: object, data: str = "data.csv") -> list[str]:
    """What `predict` says of each row of a file that has been trained on, after all commands have taken it."""
    trained = json.loads(output("train", data, *SETTINGS, *options, "-q", "--json", "-o", "run"))
    scores = json.loads(output("evaluate", "run", data, "--json"))
    assert (scores["loss"], scores["samples"]) == (pytest.approx(trained["loss"], rel=1e-5), trained["samples"])
    assert json.loads(output("evaluate", "run", data, "--json", "--split", "all"))["samples"] == rows
    assert "loss" in output("evaluate", "run", data)
    for ending in (".onnx", ".npz"):
        assert "largest difference" in output("export", "run", "-o", f"out{ending}")
    lines = list(csv.reader(io.StringIO(output("predict", "run", data), newline="")))
    assert lines[0] == ["prediction"]
    assert len(lines) == rows + 1
    return [line[0] for line in lines[1:]]


def numbers(rows: int, columns: int = 2) -> Any:
    return np.random.default_rng(0).normal(size=(rows, columns)).round(3).tolist()


@pytest.mark.parametrize(
    "y",
    [
        ["u"] * 19 + ["v"],
        ["u"] + ["v"] * 19,
        ["u", "v", "u"],
        ["u", "v", "w"],
        list(range(10)),
        [5, 7] * 10,
        [-1, 1] * 10,
        [-3, 0, 1000000] * 7,
        [True, False] * 10,
        ["1", "2", "x", "10"] * 5,
        ["1.0", "2", "1"] * 5,
        [0.5, 1.25, 7] * 5,
        [1e-30 * i + 0.5e-30 for i in range(20)],
        [1e30 * i for i in range(40)],
    ],
    ids=lambda y: str(y[:4]),
)
def test_targets_of_every_kind(y: list[Any]) -> None:
    write([["a", "b", "y"], *([*row, target] for row, target in zip(numbers(len(y)), y, strict=True))])
    found = through(len(y))
    if any(isinstance(target, float) for target in y):
        assert np.isfinite(np.array(found, float)).all()
    else:
        assert set(found) <= {target.removesuffix(".0") for target in map(str, y)}


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_target_may_stand_anywhere(place: int) -> None:
    rows = [["a", "b"], *numbers(20)]
    for number, row in enumerate(rows):
        row.insert(place, "kind" if number == 0 else "uv"[number % 2])
    write(rows)
    by_name = through(20, "--target", "kind")
    for target in (place, place - 3):
        output("train", "data.csv", *SETTINGS, "-q", "-o", f"run{target}", "--target", target)
        assert output("predict", f"run{target}", "data.csv").split()[1:] == by_name


@pytest.mark.parametrize("columns", [1, 300], ids=["one column", "more columns than rows"])
def test_few_and_many_columns(columns: int) -> None:
    write(
        [
            [f"c{i}" for i in range(columns)] + ["y"],
            *([*row, "uv"[i % 2]] for i, row in enumerate(numbers(10, columns))),
        ]
    )
    assert set(through(10)) <= {"u", "v"}


@pytest.mark.parametrize(
    "target", [["uv"[i % 2] for i in range(20)], [0.1 * i for i in range(20)], [2.5] * 20], ids=str
)
@pytest.mark.usefixtures("drawn")
def test_columns_that_are_constant(target: list[Any]) -> None:
    write([["a", "b", "c", "y"], *([7, 1e30, 0, y] for y in target)])
    through(20)
    shift, scale = (gpubp.load("run/model.safetensors").metadata["preprocessing"][name] for name in ("shift", "scale"))
    assert shift == [7, 1e30, 0]
    assert scale == [1, 1, 1]


@pytest.mark.check
def test_names_of_classes_come_back_as_they_were() -> None:
    y = [NAMES[i % len(NAMES)] for i in range(60)]
    write([["a", "b", "y"], *([i % len(NAMES), i / 60, name] for i, name in enumerate(y))])
    kept = [name.strip() for name in NAMES]
    assert set(through(60, "--epochs", "300", "--lr", "0.05", "--hidden", "32", "--dropout", "0")) == set(kept)
    heading, *lines = csv.reader(io.StringIO(output("predict", "run", "data.csv", "--proba"), newline=""))
    classes = [name.removeprefix("probability_") for name in heading[1:]]
    assert sorted(classes) == sorted(kept)
    for name, *shares in lines:
        assert classes[np.argmax([float(share) for share in shares])] == name
    found = json.loads(output("predict", "run", "data.csv", "--json"))["predictions"]
    output("predict", "run", "data.csv", "-o", "out.npy")
    assert found == np.load("out.npy").tolist() == [line[0] for line in lines]
    output("predict", "run", "data.csv", "-o", "predicted.csv")
    with open("predicted.csv", newline="", encoding="utf-8") as file:
        assert [row[0] for row in csv.reader(file)][1:] == found


def test_names_of_columns_of_every_kind() -> None:
    names = ["x" * 50_000, "a,b", 'say "c"', "two\nlines", "ünï🌙", "probability_u", "0", "-1"]
    write([[*names, "y"], *([*row, "uv"[i % 2]] for i, row in enumerate(numbers(20, len(names))))])
    expected = through(20)
    assert gpubp.load("run/model.safetensors").metadata["preprocessing"]["features"] == names
    with open("data.csv", newline="", encoding="utf-8") as file:
        write([row[-2::-1] for row in csv.reader(file)], "turned.csv")
    assert output("predict", "run", "turned.csv").split()[1:] == expected


@pytest.mark.parametrize("classes", [1000, pytest.param(10_000, marks=pytest.mark.check)])
def test_very_many_classes(classes: int) -> None:
    rows = 12 * classes // 10
    write([["a", "y"], *([i, f"class {i % classes}"] for i in range(rows))])
    output("train", "data.csv", "--epochs", "1", "--hidden", "none", "-q", "-o", "run")
    names = gpubp.load("run/model.safetensors").metadata["preprocessing"]["classes"]
    assert len(names) == classes
    lines = output("predict", "run", "data.csv").splitlines()
    assert len(lines) == rows + 1
    assert set(lines[1:]) <= set(names)
    text = output("evaluate", "run", "data.csv")
    assert f"of {rows // 5} held-out rows" in text
    assert len(text.splitlines()) < 40  # the worst classes and the worst mistakes


def test_a_file_that_is_called_like_a_number_or_a_name() -> None:
    for name in ("0.csv", "digits.csv", "...csv", "sp ace.csv", "ünï🌙.csv", "[x]*?.csv"):
        write([["a", "b", "y"], *([*row, "uv"[i % 2]] for i, row in enumerate(numbers(10)))], name)
        trained = json.loads(output("train", *SETTINGS, "-q", "--json", "--", name))
        assert Path(trained["model"]).parent.parent == Path("runs")
        assert json.loads(output("evaluate", "--json", trained["model"], name))["samples"] == 2


@pytest.mark.parametrize("place", ["r[red]", "r[", ":smile:", "a b", "ünï🌙", "it's"])
def test_paths_are_printed_as_they_are(place: str) -> None:
    write([["a", "b", "y"], *([*row, "uv"[i % 2]] for i, row in enumerate(numbers(10)))])
    lines = output("train", "data.csv", *SETTINGS, "-q", "-o", f"{place}/[/]").splitlines()
    assert f"model saved to {place}/[/]/model.safetensors" in lines
    command = next(line for line in lines if line.startswith("evaluate it: "))
    name, *arguments = shlex.split(command.removeprefix("evaluate it: "))[-3:]
    assert "10 rows of data" in output(name, *arguments, "--split", "all")


def test_images_are_drawn_with_the_names_of_their_classes() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4), np.uint8)
    np.savez("named.npz", x=images, y=np.array(["a [cat]", "dog"])[np.arange(20) % 2])
    text = output("train", "named.npz", *SETTINGS, "-q")
    assert re.search(r"a (a \[cat\]|dog), (taken for a (a \[cat\]|dog)|just recognised)", text)
    assert re.search(r"^.* dog +█+ \d+\.\d%", text, re.MULTILINE)
    np.savez("valued.npz", x=images, y=images.mean(axis=(1, 2)))
    assert "wrong" not in output("train", "valued.npz", *SETTINGS, "-q")


def test_runs_that_begin_at_once_get_folders_of_their_own() -> None:
    from gpubp.cli.run import new_folder

    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: new_folder(None, "data"), range(64)))
    assert len(set(folders)) == 64
    assert {str(folder) for folder in folders} == {"runs/data", *(f"runs/data-{number}" for number in range(2, 65))}
