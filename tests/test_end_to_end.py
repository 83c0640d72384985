"""From a file to predictions: every kind of file goes through train, evaluate, predict and export, and all agree."""

import csv
import gzip
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import nextafter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars
import pytest
from trained import flowers, gpubp_, prices

pytestmark = pytest.mark.usefixtures("undrawn")
SETTINGS = ["--hidden", "8", "--epochs", "30", "--batch-size", "16", "--lr=0.05", "--dropout=0", "--device", "cpu"]
GENERATOR = np.random.default_rng(4)
KINDS = GENERATOR.integers(0, 3, 90)
CLOUDS = GENERATOR.normal(KINDS[:, None] * [8.0, -0.2, 1.0], [6.0, 0.3, 1.0])
IMAGES = (GENERATOR.integers(0, 160, (90, 3, 4)) + 40 * KINDS[:, None, None]).astype(np.uint8)
NAMES = np.array(["étoile", "a, b", "🌙"])


@dataclass(frozen=True)
class Case:
    """A file to train on, the files that `predict` then takes, and what stands in those, one after the other."""

    data: Path
    files: list[Path]
    x: Any
    y: Any
    held_out: int


def table(path: Path) -> tuple[Any, Any]:
    """(numbers, text) of a CSV file, read without gpubp."""
    with path.open(newline="", encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    return np.array([row[:-1] for row in rows], np.float64), np.array([row[-1] for row in rows])


def csv_of_classes(folder: Path) -> Case:
    data = flowers(folder / "flowers.csv")
    return Case(data, [data], *table(data), held_out=24)


def csv_of_values(folder: Path) -> Case:
    data = prices(folder / "prices.csv")
    x, y = table(data)
    return Case(data, [data], x, y.astype(np.float64), held_out=18)


def parquet(folder: Path) -> Case:
    data = folder / "stars.parquet"
    columns = {f"column {i}": CLOUDS[:, i] for i in range(3)}
    frame = polars.DataFrame({"class": NAMES[KINDS], **columns, "whole": np.arange(90), "odd": np.arange(90) % 2 == 1})
    frame.with_columns(polars.col("class").cast(polars.Categorical)).write_parquet(data)
    return Case(data, [data], np.column_stack([CLOUDS, np.arange(90), np.arange(90) % 2]), NAMES[KINDS], held_out=18)


def idx(folder: Path) -> Case:
    for part, rows in (("train", slice(60)), ("t10k", slice(60, None))):
        for kind, array in (("images-idx3", IMAGES[rows]), ("labels-idx1", KINDS[rows].astype(np.uint8))):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    files = [folder / f"{part}-images-idx3-ubyte.gz" for part in ("train", "t10k")]
    return Case(files[0], files, IMAGES, KINDS, held_out=30)


def npz(folder: Path) -> Case:
    data, y = folder / "stored.npz", np.array([-1, 5, 7])[KINDS]
    np.savez(data, x=CLOUDS.astype(np.float32), y=y)
    return Case(data, [data], CLOUDS.astype(np.float32), y, held_out=18)


def npy(folder: Path) -> Case:
    y = np.column_stack([CLOUDS @ [1.0, 5.0, 0.0], CLOUDS @ [0.0, 300.0, 9.0]]) + 40
    for name, array in (("x", CLOUDS), ("y", y)):
        np.save(folder / f"{name}.npy", array)
    return Case(folder / "x.npy", [folder / "x.npy"], CLOUDS, y, held_out=18)


@dataclass(frozen=True)
class Run:
    """A training, and what it printed."""

    case: Case
    folder: Path
    scores: dict[str, Any]


def trained(case: Case, folder: Path, *options: object) -> dict[str, Any]:
    result = gpubp_("train", case.data, *SETTINGS, "-q", "--json", "-o", folder, *options)
    assert result.exit_code == 0, result.output
    scores: dict[str, Any] = json.loads(result.stdout)
    return scores


@pytest.fixture(
    scope="module", params=[csv_of_classes, csv_of_values, parquet, idx, npz, npy], ids=lambda f: f.__name__
)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("end-to-end")
    write: Callable[[Path], Case] = request.param
    case = write(folder)
    return Run(case, folder / "run", trained(case, folder / "run"))


def evaluated(run: Run, *options: object) -> dict[str, Any]:
    result = gpubp_("evaluate", run.folder, run.case.data, "--json", "--device", "cpu", *options)
    assert result.exit_code == 0, result.output
    scores: dict[str, Any] = json.loads(result.stdout)
    return scores


def predicted(run: Run, *options: object) -> Any:
    """The predictions for all files, as an array."""
    out, found = run.folder / "out.npy", []
    for file in run.case.files:
        result = gpubp_("predict", run.folder, file, "-q", "-o", out, "--device", "cpu", *options)
        assert result.exit_code == 0, result.output
        found.append(np.load(out))
    return np.concatenate(found)


def exported(run: Run, ending: str) -> Path:
    out = run.folder / f"exported{ending}"
    result = gpubp_("export", run.folder, "-o", out, "--device", "cpu")
    assert result.exit_code == 0, result.output
    return out


def classifies(run: Run) -> bool:
    return "accuracy" in run.scores


def test_evaluate_repeats_what_train_measured(run: Run) -> None:
    found = evaluated(run)
    assert found["samples"] == run.scores["samples"] == run.case.held_out
    names = ["accuracy"] if classifies(run) else ["r2", "rmse", "mae"]
    assert [found[name] for name in names] == pytest.approx([run.scores[name] for name in names], rel=1e-5)
    assert found["loss"] == pytest.approx(run.scores["loss"], rel=1e-5)
    assert found[names[0]] > 0.5  # it learned


def test_requirements_decide_on_the_exit_code(run: Run) -> None:
    loss = evaluated(run)["loss"]
    for bound, code in ((loss, 0), (nextafter(loss, 0), 5)):
        result = gpubp_("evaluate", run.folder, run.case.data, "-q", "--max", f"loss={bound!r}", "--device", "cpu")
        assert result.exit_code == code, result.output
        assert result.stderr.startswith("loss ") is (code == 5)


def test_predictions_are_those_that_evaluate_scores(run: Run) -> None:
    decided, truth = predicted(run), run.case.y
    assert decided.shape == truth.shape
    found = evaluated(run, "--split", "all")
    assert found["samples"] == len(truth)
    if classifies(run):
        assert np.mean(decided == truth) == found["accuracy"]
        assert {record["name"]: record["support"] for record in found["classes"]} == {
            name: int(np.sum(truth == name)) for name in np.unique(truth).tolist()
        }
    else:
        assert np.sqrt(np.mean((decided - truth) ** 2)) == pytest.approx(found["rmse"], rel=1e-5)
        assert np.mean(np.abs(decided - truth)) == pytest.approx(found["mae"], rel=1e-5)


def test_onnxruntime_says_the_same_of_raw_rows(run: Run) -> None:
    session = onnxruntime.InferenceSession(exported(run, ".onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"x": run.case.x.astype(np.float32)}), strict=True))
    if classifies(run):
        np.testing.assert_allclose(found["probabilities"], predicted(run, "--proba"), rtol=0, atol=1e-5)
        assert found["label"].tolist() == predicted(run).tolist()
    else:
        values = predicted(run).reshape(len(run.case.x), -1)
        assert found["values"].shape == values.shape
        np.testing.assert_allclose(found["values"], values, rtol=1e-5, atol=1e-5)


def test_plain_arrays_say_the_same_of_raw_rows(run: Run) -> None:
    with np.load(exported(run, ".npz")) as arrays:
        y = (run.case.x.reshape(len(run.case.x), -1) - arrays["shift"]) * arrays["scale"]
        hidden = np.maximum(y @ arrays["weight_0"] + arrays["bias_0"], 0)
        y = hidden @ arrays["weight_1"] + arrays["bias_1"]
        assert arrays["activations"].tolist() == ["relu", "softmax" if classifies(run) else "identity"]
        if classifies(run):
            labels = arrays["classes"][y.argmax(axis=1)] if "classes" in arrays else y.argmax(axis=1)
            assert labels.tolist() == predicted(run).tolist()
        else:
            values = y * arrays["target_scale"] + arrays["target_shift"]
            np.testing.assert_allclose(values, predicted(run).reshape(values.shape), rtol=1e-5, atol=1e-5)


def test_a_seed_decides_on_every_bit(run: Run, tmp_path: Path) -> None:
    model = (run.folder / "model.safetensors").read_bytes()
    for seed in (0, 1):
        trained(run.case, tmp_path / f"seed-{seed}", "--seed", seed)
        assert ((tmp_path / f"seed-{seed}" / "model.safetensors").read_bytes() == model) is (seed == 0)


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 2, 0)], ids=str)
def test_columns_may_stand_in_any_order(order: tuple[int, ...], tmp_path: Path) -> None:
    for write, suffix in ((csv_of_classes, ".csv"), (parquet, ".parquet")):
        folder = tmp_path / suffix[1:]
        folder.mkdir()
        run = Run(case := write(folder), folder / "run", trained(case, folder / "run"))
        read, save = (polars.read_csv, "write_csv") if suffix == ".csv" else (polars.read_parquet, "write_parquet")
        frame = read(case.data)
        columns = [frame.columns[i] for i in order] + frame.columns[3:]
        assert columns != frame.columns
        getattr(frame.select(columns), save)(folder / f"permuted{suffix}")
        other = Run(Case(case.data, [folder / f"permuted{suffix}"], case.x, case.y, 0), run.folder, {})
        np.testing.assert_array_equal(predicted(other, "--proba"), predicted(run, "--proba"))
        result = gpubp_("evaluate", run.folder, folder / f"permuted{suffix}", "--json", "--device", "cpu")
        assert json.loads(result.stdout)["accuracy"] == evaluated(run, "--split", "all")["accuracy"]
