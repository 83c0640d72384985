"""`python -m bench.sklearn_fit`: that both do the same work, its tables and its verdict."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench import sklearn_fit
from bench.nets import CELLS, Cell
from bench.sklearn_fit import PACKAGES, TOLERANCES, compare, data, fits, judged, rows_of, table, told
from gpubp.benchmark.contenders import DifferentWorkError
from gpubp.benchmark.race import Outcome

SMALL, EPOCHS = "64-32-32-10@32", 4


# -- the work ----------------------------------------------------------------------------------------------------------


def test_every_epoch_has_enough_batches_and_ends_with_a_shorter_one() -> None:
    for cell in CELLS.values():
        whole, rest = divmod(rows_of(cell.batch), cell.batch)
        assert whole >= 8
        assert 0 < rest < cell.batch


def test_the_data_are_the_same_in_either_dtype_and_have_every_class() -> None:
    (narrow, y), (wide, same) = (data(7, 5, 100, dtype) for dtype in TOLERANCES)
    assert (narrow.dtype, wide.dtype, wide.shape) == (np.float32, np.float64, (100, 7))
    np.testing.assert_array_equal(narrow, wide)
    np.testing.assert_array_equal(y, same)
    assert np.bincount(y).min() > 3


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_both_run_all_epochs_to_the_same_losses(dtype: str) -> None:
    for solver in sklearn_fit.SOLVERS:
        outcomes = [
            Outcome(
                SimpleNamespace(name=name), losses=fits(package, (8, 4, 3), 300, "relu", solver, dtype, EPOCHS).step()
            )
            for name, package in PACKAGES.items()
        ]
        compare(outcomes, EPOCHS, TOLERANCES[dtype])
        assert [outcome.error for outcome in outcomes] == [None, None]
        assert outcomes[0].losses[0] > outcomes[0].losses[-1]


@pytest.mark.parametrize(
    "losses", [[1.0] * 3, [1.0, 1.0, 1.003, 1.0], [1.0, 1.0, 1.0, 1.2], [1.0, 1.0, 1.0, float("nan")], []], ids=str
)
def test_other_losses_are_refused(losses: list[float]) -> None:
    ours, theirs = Outcome(SimpleNamespace(name="gpubp"), losses=losses), Outcome(None, losses=[1.0] * EPOCHS)
    compare([ours, theirs], EPOCHS, TOLERANCES["float32"])
    assert isinstance(ours.error, DifferentWorkError)
    assert theirs.error is None


# -- what is told ------------------------------------------------------------------------------------------------------


def result(ratio: float | None) -> dict[str, Any]:
    """Of a cell, as far as it is told."""
    ran = [] if ratio is None else ["gpubp", "sklearn"]
    return {
        "steps": 325,
        "ratios": dict(zip(ran, (1.0, ratio), strict=False)),
        "ratio_quartiles": {name: [0.9996, 7.0] for name in ran},
        "median_us": {name: 2000.0 for name in ran},
        "quartiles_us": {name: [1500.0, 2500.0] for name in ran},
        "losses": {name: [0.5, 0.25] for name in ran},
        "refused": [] if ran else ["gpubp"],
        "left_out": {} if ran else {"gpubp": ["its losses are 1"]},
    }


def report(**ratios: Any) -> dict[str, Any]:
    """Of these ratios by dtype, the small net's first."""
    tables = []
    for dtype, given in ratios.items():
        cells = {name: result(ratio) for name, ratio in zip(CELLS, given, strict=False)}
        tables.append({"activation": "relu", "solver": "adam", "dtype": dtype, "cells": cells})
    return {"tables": tables}


def test_the_verdict_is_each_dtypes_own() -> None:
    found = report(float32=[5.0, 2.0], float64=[4.999, 1.0])
    narrow, wide = (told(judged(found, dtype), dtype) for dtype in TOLERANCES)
    assert narrow.splitlines()[2:] == [
        "- faster than scikit-learn in all 2 cells: met.",
        f"- ≥ 5 times as fast on {SMALL}: met.",
        "- geometric mean of the ratios ≥ 2.5: 3.162, met.",
    ]
    assert wide.splitlines()[2:] == [
        "- faster than scikit-learn in all 2 cells: **not met** in 784-128-10@32, relu, adam",
        f"- ≥ 5 times as fast on {SMALL}: **not met** in {SMALL}, relu, adam",
        "- geometric mean of the ratios ≥ 2.5: 2.235, **not met**.",
    ]


def test_a_cell_that_was_refused_is_not_met() -> None:
    found = report(float32=[8.0, None])
    shown = told(judged(found, "float32"), "float32")
    assert "all 2 cells: **not met** in 784-128-10@32, relu, adam" in shown
    assert "unknown, **not met**" in shown
    lines = table(found["tables"][0]["cells"]).splitlines()
    assert lines[2] == f"| {SMALL} | 325 | 2.0 ± 0.50 | 2.0 ± 0.50 | **8.000** | 0.999 to 7.000 | 0.2500 |"
    assert lines[3].startswith("| 784-128-10@32 | 325 | refused |")


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.check
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sklearn_fit, "CELLS", {"small": Cell("small", (8, 4, 3), 300)})
    monkeypatch.setattr(sklearn_fit, "foreign_load", lambda: 0.2)
    chosen = ["--cells", "small", "--solver", "momentum", "--activation", "tanh"]
    quick = ["--epochs", "4", "--rounds", "3", "--seconds", "0.01", "--threads", "1", "--json", str(tmp_path / "f")]
    assert sklearn_fit.main([*chosen, *quick]) == 0
    shown, said = capsys.readouterr()
    assert [line[4:] for line in shown.splitlines() if line.startswith("### ")] == [
        "tanh, momentum, float32",
        "tanh, momentum, float64",
        "float32",
        "float64",
    ]
    assert "Others used more than 5% of this machine before 2 of 2 cells." in shown
    assert "small, tanh, momentum, float64: others use 20%" in said
    written = json.loads((tmp_path / "f").read_text())
    for each in written["tables"]:
        found = each["cells"]["small"]
        assert {name: len(times) for name, times in found["rounds_us"].items()} == {"gpubp": 3, "sklearn": 3}
        assert len(found["losses"]["gpubp"]) == EPOCHS
    assert written["verdict"]["float32"]["ratios"].keys() == {"small, tanh, momentum"}


def test_work_that_differs_is_told_and_is_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    racers: Any = [SimpleNamespace(name=name, versions={}) for name in PACKAGES]

    def prepare(racers: list[Any], cell: tuple[Any, ...], turn: float) -> list[Outcome]:
        assert cell == ((64, 32, 32, 10), 32, "relu", "adam", "float32", EPOCHS)
        curves = [[2.0] * EPOCHS, [1.0] * EPOCHS]
        return [Outcome(racer, losses=losses, steps=1) for racer, losses in zip(racers, curves, strict=True)]

    def take_turns(outcomes: list[Outcome], rounds: int) -> None:
        for outcome in outcomes:
            outcome.seconds = [] if outcome.error else [1e-3] * rounds

    monkeypatch.setattr(sklearn_fit, "prepare", prepare)
    monkeypatch.setattr(sklearn_fit, "take_turns", take_turns)
    monkeypatch.setattr(sklearn_fit, "foreign_load", lambda: 0.0)
    options: Any = SimpleNamespace(epochs=EPOCHS, rounds=3, seconds=1.0)
    found = sklearn_fit.run_cell(racers, options, SMALL, "relu", "adam", "float32")
    assert "gpubp: its losses are [2.0" in capsys.readouterr().err
    assert (found["refused"], found["ratios"]) == (["gpubp"], {})
    tables = [{"activation": "relu", "solver": "adam", "dtype": "float32", "cells": {SMALL: found}}]
    machine = {"cpu": "x", "cores": 1, "threads": 1, "python": "3", "date": "2026-01-01"}
    made = {"tables": tables, "machine": machine, "versions": {}, "settings": {"rounds": 3, "epochs": EPOCHS}}
    monkeypatch.setattr(
        sklearn_fit, "measure", lambda options: {**made, "verdict": {"float32": judged(made, "float32")}}
    )
    assert sklearn_fit.main([]) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--solver", "lbfgs"], "'lbfgs' is not known; choose from adam, momentum"),
        (["--dtype", ","], "--dtype needs a name"),
        (["--epochs", "0"], "need a positive number"),
        (["--rounds", "0"], "need a positive number"),
        (["--seconds", "nan"], "need a positive number"),
        (["--threads", "0"], "--threads one from 1 to"),
        (["--json", "nowhere/f.json"], "there is no folder 'nowhere'"),
    ],
)
def test_usage(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        sklearn_fit.main(arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
