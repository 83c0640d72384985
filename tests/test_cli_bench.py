"""`gpubp bench`: what it measures and prints, who is left out and why, the curve and where a GPU pays."""

import json
import re
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result as Ran
from rich.console import Console
from trained import gpubp_

import gpubp
from gpubp.benchmark.contenders import BUILDERS, Setting
from gpubp.benchmark.report import picture, plot, table
from gpubp.benchmark.results import Result
from gpubp.benchmark.survey import Findings, Survey
from gpubp.cli.bench import WIDTH, batch_sizes, pays, powers_of_two

TINY = ["8-4-3", "--device", "cpu", "--threads", 1, "--seconds", 0.01]
NO_GPU = pytest.mark.skipif(gpubp.get_backend("auto").fallback is None, reason="a GPU is here")
PNG = b"\x89PNG"


def bench(*arguments: object) -> Ran:
    return gpubp_("bench", *arguments)


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubp.benchmark.timing.SETTLE_SECONDS", 0)
    monkeypatch.setattr("gpubp.benchmark.survey.foreign_load", lambda: 0.25)


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_sweep(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    ran = bench(
        *TINY, "--against", "torch-graphs", "--batch-size", "4,8", "--sweep", "-v", "-o", tmp_path / "curve.png"
    )
    assert ran.exit_code == 0, ran.output
    heading, *lines = ran.stdout.splitlines()
    assert heading.startswith("8-4-3, relu, float32; ")
    rows = [line.split() for line in lines if re.search(r"gpubp +[\d,]+ +±|GEMMs alone", line)]
    assert [row[0] for row in rows] == ["4", "GEMMs", "8", "GEMMs"]
    assert all("1.00" in row for row in rows[::2])
    reason = BUILDERS["torch-graphs"].why_not(Setting())
    assert f"left out: torch-graphs on cpu: {reason}" in lines
    assert "         ● gpubp on cpu" in lines
    assert lines[-1] == "no crossover of CPU and GPU can be named: only one of them took part"
    assert [line for line in ran.stderr.splitlines() if line.startswith("batch ")][1].startswith("batch 8: samples/s: ")
    assert "gemms on cpu at 8 rows: NumPy" in ran.stderr.splitlines()
    assert (tmp_path / "curve.png").read_bytes().startswith(PNG)


def test_json_has_everything() -> None:
    ran = bench(*TINY, "--against", "none", "--batch-size", 5, "--activation", "tanh", "--seed", 3, "--json", "-q")
    assert ran.exit_code == 0, ran.output
    assert not [line for line in ran.stderr.splitlines() if line.startswith("batch ")]
    found = json.loads(ran.stdout)
    assert found["network"] == {
        "sizes": [8, 4, 3],
        "activation": "tanh",
        "seed": 3,
        "dtype": "float32",
        "optimizer": "sgd",
    }
    assert {"cpu", "cores", "threads", "python", "date", "foreign_load"} <= set(found["machine"])
    assert (found["machine"]["threads"], found["machine"]["foreign_load"]) == (1, 0.25)
    assert {"gpubp", "numpy"} <= set(found["versions"])
    assert [device["device"] for device in found["devices"]] == ["cpu"]
    assert (found["left_out"], found["crossover"], found["rounds"]) == ([], {}, 7)
    assert found["fallback"] is None
    floor, mine = found["results"]
    assert (floor["contender"], mine["contender"], mine["batch"], mine["device"]) == ("gemms", "gpubp", 5, "cpu")
    assert len(mine["seconds_per_step"]) == 7
    assert len(mine["losses"]) == 3
    assert mine["memory_bytes"] is None or mine["memory_bytes"] > 10 << 20


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["784"], "'784' is not a network such as 784-256-10"),
        (["784-0-10"], "is not a network such as"),
        (["784-256-1"], "two classes or more"),
        (["--batch-size", "32,full"], "'32,full' is not a list of positive numbers of rows such as 32,1024"),
        (["--batch-size", "0"], "is not a list of positive numbers"),
        (["--against", "torch,jaxx"], "'jaxx' is not known; did you mean 'jax'?"),
        (["--activation", "gelu"], "'gelu' is not known"),
        (["--seconds", "nan"], "not a finite number"),
        (["--threads", "100000"], "--threads 100000 is more than the"),
        (["-o", "curve.png"], "add --sweep"),
        (["--sweep", "-o", "curve.jpg"], "a name that ends in .png"),
    ],
)
def test_usage(arguments: list[str], told: str) -> None:
    ran = bench(*arguments)
    assert ran.exit_code == 2
    assert told in ran.stderr


@NO_GPU
def test_a_gpu_that_is_not_there() -> None:
    ran = bench("--device", "cuda")
    assert ran.exit_code == 3
    assert "device='cuda' is not available" in ran.stderr


def test_a_picture_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ran = bench("--sweep", "-o", "curve.png")
    assert ran.exit_code == 1
    assert "pip install 'gpubp[plot]'" in ran.stderr


def test_gpubp_that_fails_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(survey: Survey, *watchers: Any, quiet: bool) -> Findings:
        refused = {"device": "cpu", "contender": "gpubp", "batch": 128, "reason": "its losses are 1"}
        return Findings(survey, 0.5, [row(128, "cpu", 1.0, "gemms")], [refused])

    monkeypatch.setattr(Survey, "run", run)
    ran = bench("--device", "cpu")
    assert ran.exit_code == 1
    assert "others use 50% of this machine" in ran.stderr
    assert "error: gpubp could not be timed: its losses are 1" in ran.stderr


def test_batch_sizes() -> None:
    context: Any = None
    assert batch_sizes(context, context, "1024,32,32") == [32, 1024]
    assert powers_of_two([16, 128]) == [16, 32, 64, 128]
    assert powers_of_two([3, 20]) == [3, 4, 8, 16, 20]
    assert powers_of_two([5]) == [5]


# -- what is shown of a GPU --------------------------------------------------------------------------------------------


def row(batch: int, device: str, rate: float, contender: str = "gpubp") -> Result:
    return Result(
        batch=batch,
        device=device,
        contender=contender,
        samples_per_second=rate,
        low=0.98 * rate,
        high=1.04 * rate,
        share_of_gemms=0.5,
        times_gpubp=1.25,
        memory_bytes=3 << 29,
        seconds_per_step=[batch / rate] * 5,
        steps_per_round=10,
        losses=[2.3, 2.2, 2.1],
        note="",
    )


def sweep(*names: str) -> list[Result]:
    """A CPU that is at its best from the first, and a GPU that is as fast as its launches until it is full."""
    rows = []
    for batch in (16, 64, 256, 1024, 4096, 16384, 65536):
        rows.append(row(batch, "cpu", 190_000))
        rows += [
            row(batch, "cuda:0", batch / (300e-6 + batch / 40e6 + k * 50e-6), name) for k, name in enumerate(names)
        ]
        rows.append(row(batch, "cuda:0", batch / (100e-6 + batch / 60e6), "gemms"))
    return rows


def test_the_table() -> None:
    file = StringIO()
    Console(file=file, width=WIDTH).print(table(sweep("gpubp", "torch-compile")[:4]))
    lines = file.getvalue().splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["batch", "device", "contender", "samples/s", "spread", "of", "floor", "time", "memory"],
        ["16", "cpu", "gpubp", "190,000", "±", "3.0%", "50%", "1.25", "×", "1.5", "GiB"],
        ["cuda:0", "gpubp", "53,262", "±", "3.0%", "50%", "1.25", "×", "1.5", "GiB"],
        ["torch-compile", "45,662", "±", "3.0%", "50%", "1.25", "×", "1.5", "GiB"],
    ]


def test_the_curve() -> None:
    console = Console(file=StringIO(), width=100)
    lines = plot(sweep("gpubp", "torch"), console).plain.splitlines()
    assert lines[0] == "samples/s"
    assert lines[1].startswith("   33.8M ")
    assert lines[1].rstrip().endswith("▲")
    assert lines[-4].split() == ["16", "64", "256", "1024", "4096", "16384", "65536", "batch"]
    assert [line.strip() for line in lines[-3:]] == ["● gpubp on cpu", "▲ gpubp on cuda:0", "■ torch on cuda:0"]
    assert sum(line.count("●") for line in lines) == 8  # one is the legend's
    assert max(map(len, lines)) < 80
    ascii_only: Any = SimpleNamespace(width=80, options=SimpleNamespace(ascii_only=True))
    assert plot(sweep("gpubp"), ascii_only).plain.isascii()


def test_the_picture() -> None:
    pytest.importorskip("matplotlib")
    with_line = picture(sweep("gpubp"), "a net", ("cuda:0", 64))
    assert with_line.startswith(PNG)
    assert with_line != picture(sweep("gpubp"), "a net", None)


@pytest.mark.parametrize(
    ("factor", "told"),
    [
        (1, "cuda:0 is faster than the CPU from 64 rows a batch on"),
        (100, "cuda:0 is faster than the CPU at every batch size tried, from 16 rows on"),
        (1e-4, "cuda:0 is not faster than the CPU at 65,536 rows a batch, the most tried"),
    ],
)
def test_where_a_gpu_pays(factor: float, told: str) -> None:
    rows = [
        row(each.batch, each.device, each.samples_per_second * (factor if each.device != "cpu" else 1))
        for each in sweep("gpubp")
        if each.contender == "gpubp"
    ]
    batches = sorted({each.batch for each in rows})
    survey = Survey((8, 4, 3), "relu", batches, ["gpubp"], [Setting(), Setting("cuda:0")], 1.0)
    assert pays(Findings(survey, None, rows)) == told
