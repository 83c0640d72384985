"""`python -m bench.peers`: its tables and its verdict, that what is asked for is timed, and that wrong work is told."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import peers, verdict
from bench.nets import Cell
from bench.verdict import Judgement, judge, means, told
from gpubp.benchmark.contenders import DifferentWorkError
from gpubp.benchmark.race import Outcome

ROUNDS = {  # by contender, microseconds in three rounds; the machine was slow in the last
    "gemms": [50.0, 52.0, 500.0],
    "gpubp": [100.0, 100.0, 1000.0],
    "torch": [300.0, 300.0, 3000.0],
    "torch-compile": [170.0, 200.0, 1600.0],
    "jax": [150.0, 160.0, 2000.0],
    "sklearn": [900.0, 800.0, 7000.0],
}


# -- the verdict -------------------------------------------------------------------------------------------------------


def test_a_cell_is_judged_round_by_round_against_the_best_peer() -> None:
    found = judge("a cell", ROUNDS)
    assert (found.best, found.ratio) == ("jax", 1.6)  # by round 1.5, 1.6, 2.0; torch-compile 1.7, 2.0, 1.6
    assert found.gemms_share == pytest.approx(52 / 160)
    assert found.sklearn == 8.0
    assert (found.needed, found.met) == (1.0, True)


@pytest.mark.parametrize(
    ("share", "ratio", "needed", "met"),
    [
        (0.5, 1.0, 1.0, True),
        (0.85, 0.999, 1.0, False),
        (0.8501, 0.93, 0.93, True),
        (0.9, 0.929, 0.93, False),
        (None, 0.95, 1.0, False),
        (0.9, None, 0.93, False),
    ],
)
def test_where_the_products_are_nearly_all_a_little_less_is_enough(
    share: float | None, ratio: float | None, needed: float, met: bool
) -> None:
    found = Judgement("a cell", "jax", ratio, share, None)
    assert (found.needed, found.met) == (needed, met)


@pytest.mark.parametrize("missing", ["gpubp", "torch torch-compile jax", "gemms", "sklearn"])
def test_a_cell_that_somebody_is_missing_in(missing: str) -> None:
    found = judge("a cell", {name: times for name, times in ROUNDS.items() if name not in missing.split()})
    judged = {"best": found.best, "gemms_share": found.gemms_share, "sklearn": found.sklearn}
    none = {
        "gpubp": ["best", "gemms_share", "sklearn"],
        "torch torch-compile jax": ["best", "gemms_share"],
        "gemms": ["gemms_share"],
        "sklearn": ["sklearn"],
    }[missing]
    assert [name for name, value in judged.items() if value is None] == none
    assert found.met is (missing in ("gemms", "sklearn"))
    assert "a cell" in told([found])


def test_the_verdict_says_plainly_what_is_lost() -> None:
    won, lost = Judgement("won", "jax", 4.0, 0.3, 8.0), Judgement("lost", "torch", 0.9996, 0.84, 2.0)
    assert means([won, lost]) == pytest.approx({"the best peer": (4 * 0.9996) ** 0.5, "scikit-learn": 4.0})
    lines = told([won, lost]).splitlines()
    assert "| won | jax | 4.000 | 30.0% | ≥ 1 | yes | 8.000 |" in lines
    assert "| lost | torch | 0.999 | 84.0% | ≥ 1 | **no** | 2.000 |" in lines
    assert lines[lines.index("Met in 1 of 2 cells. Not in:") + 1] == "- lost"
    assert "time over gpubp's: 2.000; ≥ 1.5 is wanted; 1.3 is the least: met." in lines[-3]
    assert lines[-1] == "Geometric mean of scikit-learn's time over gpubp's: 4.000; ≥ 3 is wanted: met."
    assert "**not met**" in told([lost]).splitlines()[-1]
    assert "Met in 1 of 1 cells." in told([won]).splitlines()
    assert verdict.report([lost])["cells"][0]["met"] is False


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubp.benchmark.timing.SETTLE_SECONDS", 0)
    monkeypatch.setattr(peers, "foreign_load", lambda: 0.2)
    monkeypatch.setattr(peers, "CELLS", {"small": Cell("small", (8, 4, 3), 5)})


def test_a_table_for_every_pair_and_everything_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, "BEST_OF", ("numpy",))
    pairs = ["--activation", "sigmoid,relu", "--optimizer", "momentum,adam"]
    quick = ["--rounds", "3", "--seconds", "0.003", "--threads", "1", "--against", "", "--json", str(tmp_path / "f")]
    assert peers.main([*pairs, *quick]) == 0
    shown, said = capsys.readouterr()
    assert [line[4:] for line in shown.splitlines() if line.startswith("### ")] == [
        "sigmoid, momentum",
        "sigmoid, adam",
        "relu, momentum",
        "relu, adam",
        "Against the best peer of each cell",
    ]
    assert "| small, relu, adam | numpy | " in shown
    assert "Others used more than 5% of this machine before 4 of 4 cells." in shown
    assert "small, sigmoid, adam: the same losses to 0.0001 after 3 steps: numpy " in said
    report = json.loads((tmp_path / "f").read_text())
    losses = {}
    for each in report["tables"]:
        result = each["cells"]["small"]
        losses[each["activation"], each["optimizer"]] = tuple(round(loss, 4) for loss in result["losses"]["gpubp"])
        assert set(result["rounds_us"]) == {"gemms", "numpy", "gpubp"}
        assert {len(times) for times in result["rounds_us"].values()} == {3}
    assert len(set(losses.values())) == 4  # each pair is another training
    assert report["verdict"]["cells"][0]["best"] == "numpy"


def test_who_computes_something_else_is_refused_and_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    racers: Any = [SimpleNamespace(name=name, versions={}) for name in ("gemms", "gpubp", "jax")]

    def prepare(racers: list[Any], cell: tuple[Any, ...], turn: float) -> list[Outcome]:
        assert cell == ((8, 4, 3), 5, "relu", 1986, "adam")
        outcomes = [Outcome(racer, losses=[1.0], seconds=[1e-3], steps=1) for racer in racers]
        outcomes[-1] = Outcome(racers[-1], DifferentWorkError("its losses are 1"))
        return outcomes

    monkeypatch.setattr(peers, "prepare", prepare)
    monkeypatch.setattr(peers, "take_turns", lambda outcomes, rounds: None)
    result = peers.run_cell("small", "relu", "adam", racers, 1, 1.0)
    assert "jax is refused, it does not compute the reference: its losses are 1" in capsys.readouterr().err
    assert result["refused"] == ["jax"]
    assert "refused" in peers.table({"small": result}, ["gemms", "gpubp", "jax"])
    monkeypatch.setattr(
        peers, "measure", lambda options, able, report: report.update(versions={}, tables=[pair({"small": result})])
    )
    assert peers.main(["--against", ""]) == 1


def pair(cells: dict[str, Any]) -> dict[str, Any]:
    return {"activation": "relu", "optimizer": "adam", "cells": cells}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--optimizer", "adam,rmsprop"], "'rmsprop' is not known; choose from sgd, momentum, adam"),
        (["--activation", "gelu"], "'gelu' is not known"),
        (["--against", "numpy"], "'numpy' is not known"),
        (["--cells", ","], "--cells needs a name"),
        (["--rounds", "0"], "need a positive number"),
        (["--seconds", "nan"], "need a positive number"),
        (["--threads", "0"], "--threads one from 1 to"),
        (["--json", "nowhere/f.json"], "there is no folder 'nowhere'"),
    ],
)
def test_usage(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        peers.main(arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
