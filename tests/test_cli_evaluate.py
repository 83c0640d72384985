"""`gpubp evaluate`: which rows are scored, that the figures are right, how they look, and the exit codes."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trained import SPECIES, flowers, gpubp_, prices, train

import gpubp
from gpubp.data.files import open_data
from gpubp.data.preprocessing import Preprocessing
from gpubp.data.split import split_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def table(folder: Path) -> Path:
    return flowers(folder / "flowers.csv")


@pytest.fixture(scope="module")
def model(folder: Path, table: Path) -> Path:
    return train(folder / "classes", table, "classification")


@pytest.fixture(scope="module")
def valuer(folder: Path) -> Path:
    return train(folder / "values", prices(folder / "prices.csv"), "regression")


@pytest.fixture(scope="module")
def parts(folder: Path) -> Path:
    """An .npz with a test part of its own, and classes called 3 and 7."""
    generator = np.random.default_rng(5)
    y = generator.integers(0, 2, 90)
    x = (generator.normal(size=(90, 2)) + y[:, None]).astype(np.float32)
    y = 3 + 4 * y
    np.savez(folder / "parts.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    return folder / "parts.npz"


def scores(*arguments: object) -> dict[str, Any]:
    result = gpubp_("evaluate", *arguments, "--json", "--device", "cpu")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def by_hand(model: Path, table: Path, rows: Any) -> tuple[Any, Any, float]:
    """(class indices, predicted ones, loss) of these rows."""
    net, source = gpubp.load(model / "model.safetensors", "cpu"), open_data(str(table), "species")
    known = Preprocessing.from_config(net.metadata["preprocessing"])
    x, y = known.inputs(source.train.x[rows]), known.targets(source.train.y[rows])
    return y, net.predict(x), net.evaluate(x, y)["loss"]


def rows_of(table: Path) -> dict[str, Any]:
    y = open_data(str(table), "species").train.y
    learned, held_out = split_rows(len(y), 0.2, 3, np.unique(y, return_inverse=True)[1])
    return {"train": learned, "test": held_out, "all": np.arange(len(y))}


# -- which rows, and the figures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["test", "train", "all", None])
def test_the_rows_that_training_held_out(model: Path, table: Path, split: str | None) -> None:
    found = scores(model, table, *([] if split is None else ["--split", split]))
    truth, told, loss = by_hand(model, table, rows_of(table)[split or "test"])
    assert found["samples"] == len(truth)
    assert found["accuracy"] == np.mean(truth == told)
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    assert 0 < found["accuracy_low"] < found["accuracy"] < found["accuracy_high"] < 1
    matrix = np.zeros((3, 3), int)
    np.add.at(matrix, (truth, told), 1)
    assert found["confusion"] == matrix.tolist()
    assert [each["name"] for each in found["classes"]] == SPECIES
    assert [each["support"] for each in found["classes"]] == np.bincount(truth).tolist()
    assert [each["recall"] for each in found["classes"]] == pytest.approx(matrix.diagonal() / matrix.sum(axis=1))
    assert set(found) == {
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "loss",
        "samples",
        "classes",
        "confusion",
    }


def test_a_copy_is_the_same_file_and_another_file_is_not(model: Path, table: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.csv"
    copy.write_bytes(table.read_bytes())
    assert scores(model, copy) == scores(model, table)
    copy.write_text(table.read_text() + "1,2,setosa\n")
    result = gpubp_("evaluate", model / "model.safetensors", copy)
    assert (
        result.stderr
        == f"{copy} is not the file it was trained on: scoring all of its 121 rows, of which it may have learned some\n"
    )
    assert " of 121 rows of copy" in result.stdout
    assert gpubp_("evaluate", model, copy, "-q").stderr == ""
    assert scores(model, copy)["samples"] == 121
    for split in ("test", "train"):
        result = gpubp_("evaluate", model, copy, "--split", split)
        assert result.exit_code == 4
        assert "no test part of its own; use --split all" in result.stderr


def test_a_file_with_a_test_part(folder: Path, parts: Path, tmp_path: Path) -> None:
    model = train(tmp_path / "run", parts, "classification")
    assert [scores(model, parts, "--split", split)["samples"] for split in ("test", "train", "all")] == [30, 60, 90]
    result = gpubp_("evaluate", model, parts)
    assert result.stderr == ""
    assert " of 30 test rows of parts" in result.stdout
    assert [each["name"] for each in scores(model, parts)["classes"]] == [3, 7]
    other = tmp_path / "other.npz"
    np.savez(other, **{name: array[1:] for name, array in np.load(parts).items()})
    result = gpubp_("evaluate", model, other)
    assert result.stderr == f"{other} is not the file it was trained on: scoring its test part of 29 rows\n"
    assert scores(model, other, "--split", "train")["samples"] == 59


def test_rows_are_scored_alike_in_chunks_of_any_size(
    model: Path, valuer: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [(model, folder / "flowers.csv"), (valuer, folder / "prices.csv")]
    whole = [scores(*pair, "--split", "all") for pair in pairs]
    monkeypatch.setattr("gpubp.cli.model.MOST_ROWS", 7)
    for pair, expected in zip(pairs, whole, strict=True):
        found = scores(*pair, "--split", "all")
        assert found.pop("loss") == pytest.approx(expected.pop("loss"), rel=1e-5)
        assert found == pytest.approx(expected, rel=1e-6) if "r2" in found else found == expected


def test_a_regression_in_the_units_of_the_file(valuer: Path, folder: Path) -> None:
    found = scores(valuer, folder / "prices.csv", "--split", "all")
    net, source = gpubp.load(valuer / "model.safetensors", "cpu"), open_data(str(folder / "prices.csv"), "price")
    known = Preprocessing.from_config(net.metadata["preprocessing"])
    values = known.values(net.forward(known.inputs(source.train.x)))[:, 0]
    errors = values - source.train.y
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert found["mae"] == pytest.approx(np.mean(np.abs(errors)))
    assert found["r2"] == pytest.approx(1 - np.sum(errors**2) / np.sum((source.train.y - source.train.y.mean()) ** 2))
    assert found["rmse"] > 20
    assert found["loss"] < 1
    assert set(found) == {"rmse", "mae", "r2", "loss", "samples"}
    text = gpubp_("evaluate", valuer, folder / "prices.csv", "--split", "all").stdout
    assert re.search(rf"^R² +{found['r2']:.5g} +on 90 rows of prices\n", text)
    assert re.search(rf"^RMSE +{found['rmse']:.5g} +in the units of price\n", text, re.M)


def test_the_target_may_be_called_otherwise(model: Path, table: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed.csv"
    renamed.write_text(table.read_text().replace("species", "kind"))
    assert scores(model, renamed, "--target", "kind")["samples"] == 120
    assert gpubp_("evaluate", model, renamed).exit_code == 4


def test_rows_that_cannot_be_found_again(model: Path, table: Path, tmp_path: Path) -> None:
    net = gpubp.load(model / "model.safetensors")
    net.metadata["data"]["digest"] = "0" * 64
    net.save(tmp_path / "model.safetensors")
    result = gpubp_("evaluate", tmp_path, table)
    assert result.exit_code == 4
    assert "cannot be found again" in result.stderr
    assert scores(tmp_path, table, "--split", "all")["samples"] == 120


def test_a_class_that_was_not_trained_on(model: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("length,width,species\n1,2,setosa\n1,2,rose\n")
    result = gpubp_("evaluate", model, tmp_path / "new.csv")
    assert result.exit_code == 4
    assert "'rose', which is none of those that were trained on" in result.stderr


def test_a_share_of_nothing_is_null(model: Path, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("length,width,species\n0,0,setosa\n")
    classes = scores(model, tmp_path / "one.csv")["classes"]
    assert classes[2] == {"name": SPECIES[2], "precision": None, "recall": None, "f1": None, "support": 0}


def test_a_value_too_far_away_is_named_by_its_row_in_the_file(tmp_path: Path) -> None:
    data = prices(tmp_path / "prices.csv")
    model = train(tmp_path / "run", data, "regression")
    _, held_out = split_rows(90, 0.2, 3)
    net = gpubp.load(model / "model.safetensors")
    net.metadata["preprocessing"] |= {"shift": [0.0], "scale": [2e38]}
    net.save(model / "model.safetensors")
    x = open_data(str(data), "price").train.x[held_out]
    far = np.flatnonzero(np.abs(x).max(axis=1) * 2e38 > np.finfo(np.float32).max)[0]
    assert held_out[far] > far > 0
    result = gpubp_("evaluate", model, data)
    assert result.exit_code == 4
    assert f"row {held_out[far]} (counted from 0) overflows float32" in result.stderr


# -- models that were saved from Python --------------------------------------------------------------------------------


def saved(path: Path, sizes: list[int], output: str, **metadata: Any) -> Path:
    net = gpubp.MLP(sizes, "tanh", output, device="cpu", seed=1)
    net.metadata = metadata
    net.save(path)
    return path


def test_a_model_saved_from_python(tmp_path: Path, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(50, 3)), rng.integers(0, 4, 50)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    path = saved(tmp_path / "plain.safetensors", [3, 5, 4], "softmax")
    result = gpubp_("evaluate", path, tmp_path / "data.npz")
    assert result.exit_code == 0, result.output
    assert result.stderr == f"{path} does not say what it was trained on: scoring all of its 50 rows, as they are\n"
    net = gpubp.load(path, "cpu")
    found = scores(path, tmp_path / "data.npz")
    assert found["accuracy"] == np.mean(net.predict(x) == y)
    assert found["loss"] == pytest.approx(net.evaluate(x, y)["loss"], rel=1e-6)
    assert [each["name"] for each in found["classes"]] == [0, 1, 2, 3]


def test_one_sigmoid(tmp_path: Path, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(40, 3)), rng.integers(0, 2, 40)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    path = saved(tmp_path / "plain.safetensors", [3, 5, 1], "sigmoid")
    found = scores(path, tmp_path / "data.npz")
    assert found["accuracy"] == np.mean(gpubp.load(path, "cpu").predict(x) == y)
    assert np.sum(found["confusion"]) == 40


def test_several_sigmoids(tmp_path: Path, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(40, 3)), rng.integers(0, 2, (40, 2))
    np.savez(tmp_path / "data.npz", x=x, y=y)
    path = saved(tmp_path / "plain.safetensors", [3, 5, 2], "sigmoid")
    found = scores(path, tmp_path / "data.npz")
    told = gpubp.load(path, "cpu").predict(x)
    assert found["accuracy"] == np.mean((told == y).all(axis=1))
    assert [each["support"] for each in found["classes"]] == y.sum(axis=0).tolist()
    assert "confusion" not in found
    assert "taken for" not in gpubp_("evaluate", path, tmp_path / "data.npz").stdout


def test_several_values(tmp_path: Path, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    np.savez(tmp_path / "data.npz", x=x, y=y)
    path = saved(tmp_path / "plain.safetensors", [3, 5, 2], "identity")
    found = scores(path, tmp_path / "data.npz")
    expected = gpubp.load(path, "cpu").evaluate(x, y)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert len(found["outputs"]) == 2
    assert np.mean([each["mae"] for each in found["outputs"]]) == pytest.approx(found["mae"])
    assert re.search(r"^output +RMSE +MAE +R²\n0 ", gpubp_("evaluate", path, tmp_path / "data.npz").stdout, re.M)


@pytest.mark.parametrize(
    ("sizes", "complaint"), [([3, 2], "y has the class 2|y: row 0 has the class 2"), ([4, 3], "takes (4,)")]
)
def test_data_that_does_not_fit(sizes: list[int], complaint: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((4, 3)), y=np.array([2, 0, 1, 1]))
    result = gpubp_("evaluate", saved(tmp_path / "plain.safetensors", sizes, "softmax"), tmp_path / "data.npz")
    assert result.exit_code == 4, result.output
    assert any(part in result.stderr for part in complaint.split("|"))


def test_text_for_a_model_that_predicts_numbers(tmp_path: Path, table: Path) -> None:
    path = saved(tmp_path / "plain.safetensors", [2, 1], "identity")
    result = gpubp_("evaluate", path, table)
    assert result.exit_code == 4, result.output
    assert "species holds text" in result.stderr or "y holds text" in result.stderr


FIT: dict[str, Any] = {"task": "classification", "shape": [2], "shift": [0.0], "scale": [1.0], "classes": [0, 1, 2]}


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [3]},
        {"shape": None},
        {"shape": ["a"]},
        {"shift": "0"},
        {"shift": [0.0, 0.0, 0.0]},
        {"scale": ["x"]},
        {"scale": [10**400]},
        {"scale": None},
        {"classes": ["a", "b"]},
        {"classes": ["a", "b", 3]},
        {"classes": [[0], [1], [2]]},
        {"classes": None},
        {"features": ["one"]},
        {"features": 7},
        {"unknown": 1},
        {"task": None, "classes": None, "target_shift": [0.0] * 3, "target_scale": [1.0] * 3},
    ],
    ids=str,
)
def test_preprocessing_that_cannot_be(change: dict[str, Any], table: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "plain.safetensors", [2, 3], "softmax", preprocessing={**FIT, **change})
    result = gpubp_("evaluate", path, table)
    assert result.exit_code == 1, result.output
    assert re.match(r"error: .*(says of its data what cannot be|cannot read)", result.stderr)


@pytest.mark.parametrize("data", [None, "digits", {}, {"name": 1, "sha256": "", "test": 0.2, "seed": 0, "digest": ""}])
def test_facts_that_cannot_be(data: Any, table: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "plain.safetensors", [2, 3], "softmax", preprocessing=FIT, data=data)
    result = gpubp_("evaluate", path, table)
    assert result.exit_code == 1, result.output
    assert "says of its data what cannot be" in result.stderr


# -- requirements ------------------------------------------------------------------------------------------------------


def test_requirements(model: Path, table: Path) -> None:
    found = scores(model, table)
    met = ["--min", f"accuracy={found['accuracy']}", "--max", f"loss={found['loss'] + 1e-6}", "--min", "samples=24"]
    assert gpubp_("evaluate", model, table, *met).exit_code == 0
    result = gpubp_("evaluate", model, table, *met, "--min", "accuracy=0.999", "--max", "samples=1e1", "-q")
    assert result.exit_code == 5
    assert result.stderr == f"accuracy {found['accuracy']:.4g} is below 0.999\nsamples 24 is above 10\n"
    assert result.stdout == gpubp_("evaluate", model, table).stdout
    result = gpubp_("evaluate", model, table, "--max", "accuracy_low=0.1", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (5, found)


def test_a_score_just_below_the_bound_is_told_apart_from_it(model: Path, table: Path) -> None:
    loss = scores(model, table)["loss"]
    bound = float(f"{loss:.4g}")
    option, word = ("--min", "below") if loss < bound else ("--max", "above")
    result = gpubp_("evaluate", model, table, option, f"loss={bound}", "-q")
    assert result.stderr == f"loss {loss!r} is {word} {bound:g}\n"


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("acuracy=0.9", "did you mean 'accuracy'?"),
        ("accuracy", "is not NAME=VALUE"),
        ("accuracy=", "'' in 'accuracy=' is not a finite number"),
        ("accuracy=high", "is not a finite number"),
        ("accuracy=nan", "is not a finite number"),
        ("loss=inf", "is not a finite number"),
        ("accuracy=98", "a share from 0 to 1"),
        ("rmse=3", "this model has no rmse"),
    ],
)
def test_requirements_that_cannot_be(value: str, complaint: str, model: Path, table: Path) -> None:
    for option in ("--min", "--max"):
        result = gpubp_("evaluate", model, table, option, value)
        assert result.exit_code == 2, result.output
        assert complaint in result.stderr
        assert result.stdout == ""
