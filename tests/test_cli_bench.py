"""`gpubp bench`: what it measures and prints, who is left out and why, the curve and where a GPU pays."""

import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result as Ran
from rich.console import Console
from trained import gpubp_

import gpubp
from gpubp.backends import get_backend
from gpubp.benchmark.contenders import BUILDERS, Setting
from gpubp.benchmark.memory import USABLE, too_large
from gpubp.benchmark.picture import picture, rates_to_mark
from gpubp.benchmark.report import FIGURES, fitting, legend, plot, table, width_of
from gpubp.benchmark.results import Result
from gpubp.benchmark.survey import Findings, Survey
from gpubp.benchmark.workers import FailedError
from gpubp.cli.bench import batch_sizes, pays, powers_of_two

TINY = ["8-4-3", "--device", "cpu", "--threads", 1, "--seconds", 0.01]
NO_GPU = pytest.mark.skipif(gpubp.get_backend("auto").fallback is None, reason="a GPU is here")
PNG = b"\x89PNG"


def bench(*arguments: object, **environment: str) -> Ran:
    return gpubp_("bench", *arguments, **environment)


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubp.benchmark.timing.SETTLE_SECONDS", 0)
    monkeypatch.setattr("gpubp.benchmark.survey.foreign_load", lambda: 0.25)


@pytest.fixture
def _imagined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contenders without processes: all fail at 13 rows, gpubp alone at 14, and at 15 the user has had enough."""

    def racing(entries: list[tuple[str, Setting]], quiet: bool) -> Any:
        return nullcontext([SimpleNamespace(name=n, setting=s, versions={}, ask=asked(n)) for n, s in entries])

    def asked(name: str) -> Callable[..., Any]:
        def ask(command: str, *arguments: Any, seconds: float | None = None) -> Any:
            if command == "build":
                batch = arguments[1]
                if batch == 13 or (batch, name) == (14, "gpubp"):
                    raise FailedError("no luck")
                if batch == 15:
                    raise KeyboardInterrupt
            return {"build": {"losses": [], "note": "", "versions": {}}, "memory": 1 << 20}.get(command, 1e-3)

        return ask

    monkeypatch.setattr("gpubp.benchmark.survey.racing", racing)


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
    assert lines[-1] == "         ● gpubp on cpu"  # one device has no crossover to tell of
    assert lines[0] == "others use 25% of this machine: do not trust these figures"
    assert "gemms" not in ran.output
    assert [line for line in ran.stderr.splitlines() if line.startswith("batch ")][1].startswith("batch 8: samples/s: ")
    assert "GEMMs alone on cpu at 8 rows: NumPy" in ran.stderr.splitlines()
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
        (["784-256-1"], "'784-256-1' ends in one class; every contender learns by softmax"),
        (["784,256,10"], "did you mean 784-256-10?"),
        (["784x256x10"], "did you mean 784-256-10?"),
        ([f"784-{10**22}-10"], "is too large: a number of 23 digits"),
        (["--batch-size", f"{10**22}"], "is too large: a number of 23 digits"),
        (["--batch-size", "32,full"], "'32,full' is not a list of positive numbers of rows such as 32,1024"),
        (["--batch-size", "0"], "is not a list of positive numbers"),
        (["--against", "torch,jaxx"], "'jaxx' is not known; did you mean 'jax'?"),
        (["--against", "none,torch"], "none stands alone"),
        (["--against", "jax,all"], "all stands alone"),
        (["--activation", "gelu"], "those that gpubp and every one of its peers have"),
        (["--sweep", "--batch-size", "32"], "--sweep goes from one batch size to another, got 32 alone"),
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


@pytest.mark.parametrize("command", ["gpubp", "python3 dev.py"])
def test_what_is_missing_and_how_to_install_it(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ran = bench("--sweep", "-o", "curve.png", GPUBP_COMMAND=command)
    assert ran.exit_code == 1
    pip = command == "gpubp"
    assert ("pip install 'gpubp[plot]'" if pip else "GPUBP_EXTRAS=plot python3 dev.py bench ...") in ran.stderr
    monkeypatch.setattr("gpubp.benchmark.contenders.find_spec", lambda name: None)
    monkeypatch.setenv("GPUBP_COMMAND", command)
    peer = "pip install jax" if pip else "GPUBP_EXTRAS=peers python3 dev.py bench ..."
    assert BUILDERS["jax"].why_not(Setting()) == f"not installed ({peer})"


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("nowhere/x.png", "there is no folder"),
        ("folder.png", "it is a folder"),
        ("locked/x.png", "no file can be made in"),
    ],
)
def test_a_picture_that_cannot_be_written(
    path: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(Survey, "run", None)  # refused before anything is measured
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "locked")  # root may write anywhere
    ran = bench("--sweep", "-o", tmp_path / path)
    assert ran.exit_code == 1
    assert told in ran.stderr


@pytest.mark.usefixtures("_imagined")
def test_a_batch_without_room_is_refused_and_the_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubp.processor.available_memory", lambda: 1 << 20)
    small = [*TINY, "--against", "none", "--batch-size", "16,1000000000"]
    ran = bench(*small)
    assert ran.exit_code == 0, ran.output
    assert re.search(r"16 +cpu +gpubp", ran.stdout)
    told = "GEMMs alone, gpubp on cpu at 1,000,000,000 rows: 2 contenders need about "
    assert f"left out: {told}" in ran.stdout
    assert re.search(r"the largest batch that fits has about \d,\d00 rows", ran.stdout)
    found = json.loads(bench(*small, "--json").stdout)
    assert [(row["batch"], row["contender"]) for row in found["results"]] == [(16, "gemms"), (16, "gpubp")]
    assert [entry["batch"] for entry in found["left_out"]] == [10**9, 10**9]

    monkeypatch.setattr("gpubp.benchmark.survey.prepare", None)  # nobody is asked to build anything
    for sizes, batch, reason in (
        ("8-4-3", 10**9, "the largest batch"),
        ("100000-100000-10", 128, "so large a network"),
    ):
        ran = bench(sizes, "--device", "cpu", "--against", "none", "--batch-size", batch)
        assert ran.exit_code == 1
        assert "error: nothing was measured" in ran.stderr
        assert reason in ran.stderr


@pytest.mark.usefixtures("_imagined")
def test_a_batch_at_which_all_fail() -> None:
    ran = bench(*TINY, "--against", "none", "--batch-size", "8,13")
    assert ran.exit_code == 1  # gpubp failed
    assert re.search(r"8 +cpu +gpubp", ran.stdout)
    assert "left out: GEMMs alone, gpubp on cpu at 13 rows: no luck" in ran.stdout
    assert "batch 13: all failed" in ran.stderr
    assert "error: gpubp could not be timed at 13 rows: no luck" in ran.stderr
    ran = bench(*TINY, "--against", "none", "--batch-size", "13", "--json")
    assert ran.exit_code == 1
    assert "nothing was measured\nleft out: GEMMs alone, gpubp on cpu at 13 rows: no luck" in ran.stderr
    assert json.loads(ran.stdout)["results"] == []


@pytest.mark.usefixtures("_imagined")
def test_without_a_peak_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpubp.benchmark import survey

    imagined = survey.racing

    def racing(entries: list[tuple[str, Setting]], quiet: bool) -> Any:
        def asked(ask: Callable[..., Any], command: str, *arguments: Any, **limit: Any) -> Any:
            if command == "peak":
                raise FailedError("no room for a large product")
            return ask(command, *arguments, **limit)

        racers = imagined(entries, quiet).__enter__()
        for racer in racers:
            racer.ask = partial(asked, racer.ask)
        return nullcontext(racers)

    monkeypatch.setattr(survey, "racing", racing)
    found = json.loads(bench(*TINY, "--against", "none", "--batch-size", 8, "--json", "-q").stdout)
    assert found["peak_flops"] == {}
    assert [row["share_of_peak"] for row in found["results"]] == [None, None]


@pytest.mark.usefixtures("_imagined")
def test_gpubp_that_fails_is_a_failure() -> None:
    ran = bench(*TINY, "--against", "none", "--batch-size", 14, "-q")
    assert ran.exit_code == 1
    assert "GEMMs alone" in ran.stdout
    assert "others use 25% of this machine" in ran.stdout  # whatever -q says
    assert ran.stderr == "error: gpubp could not be timed at 14 rows: no luck\n"


@pytest.mark.usefixtures("_imagined")
def test_an_interruption_keeps_what_is_finished(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    given = [*TINY, "--against", "none", "--batch-size", "4,15", "--sweep", "-o", tmp_path / "curve.png"]
    ran = bench(*given)
    assert ran.exit_code == 130
    assert re.search(r"8 +cpu +gpubp", ran.stdout)
    assert "● gpubp on cpu" in ran.stdout
    assert "interrupted" in ran.stderr
    assert (tmp_path / "curve.png").read_bytes().startswith(PNG)
    ran = bench(*given, "--json")
    assert ran.exit_code == 130
    assert [row["batch"] for row in json.loads(ran.stdout)["results"]] == [4, 4, 8, 8]
    assert json.loads(ran.stdout)["interrupted"] is True
    ran = bench(*TINY, "--against", "none", "--batch-size", 15)
    assert (ran.exit_code, ran.stdout) == (130, "")


def test_what_has_room() -> None:
    a_row, parameters = 2 * (4 * (8 + 3 * 7) + 32), 5 * 3 + 9 * 4  # of 8-4-3 in two contenders
    free = round((parameters * 16 + 100 * a_row) / USABLE) + 1
    assert too_large((8, 4, 3), 100, "cuda", 2, free) is None
    told = too_large((8, 4, 3), 101, "cuda", 2, free)
    assert told is not None
    assert told.endswith("the largest batch that fits has about 100 rows")
    assert too_large((8, 4, 3), 100, "cpu", 2, free) is not None  # where the reference is computed too
    assert too_large((8, 4, 3), 100, "cuda", 3, free) is not None
    assert too_large((8, 4, 3), 10**9, "cpu", 2, 0) is None  # nobody tells what is free
    assert get_backend("cpu").free_memory() > 1 << 20


def test_batch_sizes() -> None:
    context: Any = None
    assert batch_sizes(context, context, "1024,32,32") == [32, 1024]
    assert powers_of_two([16, 128]) == [16, 32, 64, 128]
    assert powers_of_two([3, 20]) == [3, 4, 8, 16, 20]
    assert powers_of_two([20, 30]) == [20, 30]
    assert powers_of_two([16, 50, 64]) == [16, 32, 50, 64]


# -- what is shown of a GPU --------------------------------------------------------------------------------------------


def row(batch: int, device: str, rate: float, contender: str = "gpubp") -> Result:
    return Result(
        batch=batch,
        device=device,
        contender=contender,
        samples_per_second=rate,
        low=0.98 * rate,
        high=1.04 * rate,
        flops=2e6 * rate,
        share_of_peak=0.25,
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
    Console(file=file, width=100).print(table(sweep("gpubp", "torch-compile")[:4], list(FIGURES)))
    lines = file.getvalue().splitlines()
    assert [line.split() for line in lines[:4]] == [
        [
            "batch",
            "device",
            "contender",
            "samples/s",
            "spread",
            "TFLOP/s",
            "of",
            "peak",
            "of",
            "floor",
            "time",
            "memory",
        ],
        ["16", "cpu", "gpubp", "190,000", "±", "3.0%", "0.38", "25%", "50%", "1.25", "×", "1.5", "GiB"],
        ["cuda:0", "gpubp", "53,262", "±", "3.0%", "0.107", "25%", "50%", "1.25", "×", "1.5", "GiB"],
        ["torch-compile", "45,662", "±", "3.0%", "0.0913", "25%", "50%", "1.25", "×", "1.5", "GiB"],
    ]


@pytest.mark.parametrize(
    ("width", "dropped"),
    [
        (100, ()),
        (90, ("memory",)),
        (80, ("spread", "memory")),
        (70, ("spread", "TFLOP/s", "memory")),
        (60, ("spread", "TFLOP/s", "of peak", "memory")),
        (20, ("spread", "TFLOP/s", "of peak", "of floor", "time", "memory")),
    ],
)
def test_a_narrow_table_drops_columns_and_cuts_no_figure(width: int, dropped: tuple[str, ...]) -> None:
    rows = sweep("gpubp", "torch-compile")
    figures = fitting(rows, width)
    assert [heading for heading in FIGURES if heading not in figures] == list(dropped)
    needed = width_of(table(rows, figures))
    assert needed <= max(width, 45)
    told = legend(rows, figures, 7, width).splitlines()
    assert max(map(len, told)) <= max(width, 40)
    assert {line[:9].strip() for line in told} - {""} == {*figures, *(["not shown"] if dropped else [])}
    assert ("medians over pairs of turns" in " ".join(map(str.strip, told))) == ("of floor" in figures)


@pytest.mark.usefixtures("_imagined")
def test_a_narrow_terminal_and_a_pipe() -> None:
    narrow = bench(*TINY, "--against", "none", "--batch-size", 8, COLUMNS="60").stdout
    assert max(len(line) for line in narrow.splitlines()[2:]) <= 60
    assert re.search("not shown +spread, TFLOP/s, of peak, memory", narrow)
    assert "1.0 MiB" in bench(*TINY, "--against", "none", "--batch-size", 8, COLUMNS="100").stdout


def test_the_curve() -> None:
    lines = plot(sweep("gpubp", "torch"), 100).plain.splitlines()
    assert lines[0] == "samples/s"
    assert lines[1].startswith("   33.8M ")
    assert lines[1].rstrip().endswith("▲")
    assert lines[-4].split() == ["16", "64", "256", "1024", "4096", "16384", "65536", "batch"]
    assert [line.strip() for line in lines[-3:]] == ["● gpubp on cpu", "▲ gpubp on cuda:0", "■ torch on cuda:0"]
    assert sum(line.count("●") for line in lines) == 8  # one is the legend's
    assert max(map(len, lines)) < 80
    assert plot(sweep("gpubp"), 80, ascii_only=True).plain.isascii()
    narrow = plot(sweep("gpubp"), 40).plain.splitlines()
    assert max(map(len, narrow)) <= 40
    assert narrow[-3].split() == ["16", "256", "4096", "65536", "batch"]
    marks = {place for line in narrow[:-3] for place, letter in enumerate(line) if letter in "●▲"}
    assert all(marks & set(range(*name.span())) for name in re.finditer("[0-9]+", narrow[-3]))  # each under its mark


def test_the_picture() -> None:
    pytest.importorskip("matplotlib")
    with_line = picture(sweep("gpubp"), "a net", "a processor", ("cuda:0", 64))
    assert with_line.startswith(PNG)
    assert with_line != picture(sweep("gpubp"), "a net", "a processor", None)
    assert with_line != picture(sweep("gpubp"), "a net", "another", ("cuda:0", 64))


@pytest.mark.parametrize("low", [0.3, 7.0, 61_000.0, 3e6])
@pytest.mark.parametrize("factor", [1.0, 1.01, 1.5, 3.9, 4.1, 90, 1e3, 1e5])
def test_the_axis_has_several_ticks_around_all_rates(low: float, factor: float) -> None:
    pytest.importorskip("matplotlib")
    ticks = rates_to_mark(low, low * factor)
    assert 2 <= len(ticks) <= 12
    assert ticks[0] <= low <= low * factor <= ticks[-1]


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
    assert pays(Findings(survey, None, [each for each in rows if each.device == "cpu"])) == ""
