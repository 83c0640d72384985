"""bench.gpu without a GPU: its harness with questions that fail, its page of results, its races on the CPU."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.gpu import epochs, kernels, parity, peers, probe, products, verdict
from bench.gpu.__main__ import listing, main, missing, path_of, wrong
from bench.gpu.child import Child, UnansweredError
from bench.gpu.harness import Cell, Clock, run
from bench.gpu.plan import PARTS, cells
from bench.gpu.results import Results, UnusableError, read
from gpubp.backends.detection import why_not
from gpubp.benchmark.contract import Setting

MACHINE = {
    "device": "Imagined",
    "driver": "1.2",
    "cpu": "some cores",
    "python": "3",
    "gpubp": "0",
    "versions": {"numpy": "2"},
    "commit": "abc",
    "date": "today",
}
QUESTIONS = """
import os, signal, subprocess, time

def fine(name): return {"name": name, "process": os.getpid()}
def raises(name): raise ValueError("of no use")
def crashes(name): os.kill(os.getpid(), signal.SIGSEGV)
def hangs(name):
    print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
    time.sleep(60)
def reads(name): return {"so far": open(name).read()}
"""


@pytest.fixture(autouse=True, scope="module")
def _questions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A module that child processes find."""
    folder = tmp_path_factory.mktemp("questions")
    (folder / "imagined.py").write_text(QUESTIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


def imagined(kind: str, name: str = "cell", part: str = "part", estimate: float = 0.0, limit: float = 30.0) -> Cell:
    return Cell(part, kind, name, f"imagined:{kind}", group=part, estimate=estimate, limit=limit)


def results(path: Path, planned: list[Cell], earlier: Path | None = None) -> Results:
    return Results(path / "results.json", MACHINE, map(str, planned), earlier)


def quiet(text: str) -> None:
    pass


# -- the harness -------------------------------------------------------------------------------------------------------


@pytest.mark.check
def test_whatever_fails_the_rest_is_asked_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    planned = [
        imagined("fine", "first"),
        imagined("raises"),
        imagined("fine", "second"),
        imagined("crashes"),
        imagined("hangs", limit=1),
        imagined("reads", str(file)),
    ]
    run(planned, Clock(60, {}), results(tmp_path, planned), quiet)
    found = read(file)["cells"]
    assert found["part/raises/cell"]["failed"] == "ValueError: of no use"
    assert "in raises" in found["part/raises/cell"]["last_words"]
    assert found["part/crashes/cell"]["failed"] == "its process ended with SIGSEGV"
    assert "Fatal Python error: Segmentation fault" in found["part/crashes/cell"]["last_words"]
    assert found["part/hangs/cell"]["failed"] == "no answer within 1 s"
    first, second = (found[f"part/fine/{name}"]["answer"]["process"] for name in ("first", "second"))
    assert first == second  # an exception leaves the process of a group as it is
    so_far = json.loads(found[f"part/reads/{file}"]["answer"]["so far"])
    assert set(so_far["cells"]) == set(map(str, planned[:-1]))  # each was on the disk before the next was asked
    child = int(found["part/hangs/cell"]["last_words"])
    assert not Path(f"/proc/{child}").exists() or "(sleep) Z" in Path(f"/proc/{child}/stat").read_text()


def test_another_group_has_another_process(tmp_path: Path) -> None:
    planned = [imagined("fine", part="one"), imagined("fine", part="two")]
    kept = results(tmp_path, planned)
    run(planned, Clock(60, {}), kept, quiet)
    assert len({record["answer"]["process"] for record in kept.cells.values()}) == 2


def test_what_the_budget_does_not_reach_is_listed(tmp_path: Path) -> None:
    planned = [imagined("fine", "long", estimate=100), imagined("fine", "short"), imagined("fine", "b", part="capped")]
    kept = results(tmp_path, planned)
    run(planned, Clock(20, {"capped": -1}), kept, quiet)
    assert kept.unreached == read(kept.path)["unreached"] == ["part/fine/long", "capped/fine/b"]
    assert "## Not reached\n\n- part/fine/long\n- capped/fine/b\n" in kept.path.with_suffix(".md").read_text()


def test_resuming_runs_what_is_missing_and_then_what_failed(tmp_path: Path) -> None:
    planned = [imagined("fine", name) for name in ("failed", "done", "new")]
    first = results(tmp_path, [*planned, imagined("fine", "not asked now")])
    first.put("part/fine/failed", {"failed": "no luck"})
    first.put("part/fine/done", {"answer": {"it": 1}})
    first.put("another part/kept/too", {"answer": {}})
    asked = missing(planned, first.path)
    assert [cell.name for cell in asked] == ["new", "failed"]
    (tmp_path / "second").mkdir()
    second = results(tmp_path / "second", planned, first.path)
    run(asked, Clock(60, {}), second, quiet)
    merged = read(second.path)
    assert {name: record["run"] for name, record in merged["cells"].items()} == {
        "part/fine/failed": 1,
        "part/fine/done": 0,
        "another part/kept/too": 0,
        "part/fine/new": 1,
    }
    assert len(merged["runs"]) == 2
    assert not second.failed
    assert second.unreached == ["part/fine/not asked now"]


def test_only_results_of_the_same_device_are_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = results(tmp_path, []).path
    with pytest.raises(UnusableError, match="is of 'Imagined' and this is 'Another'"):
        Results(tmp_path / "new.json", {**MACHINE, "device": "Another"}, [], file)
    file.write_text("{}")
    for earlier, told in ((file, "is no results file"), (tmp_path / "no.json", "cannot be read: No such file")):
        assert main(["--resume", str(earlier)]) == 2
        found = capsys.readouterr().err
        assert told in found
        assert "give the .json that an earlier run wrote" in found
        assert "Error" not in found


def test_a_page_shows_answers_failures_and_runs(tmp_path: Path) -> None:
    kept = results(tmp_path, [])
    kept.put("probe/copy/device", {"answer": {"16 MiB": {"GB/s": 4321.4, "right": True}, "1 GiB": {"GB/s": 0.12345}}})
    kept.put("probe/copy/host", {"answer": {"GB/s": 1.0, "right": False, "list": ["a|b", 2]}})
    kept.put("probe/launch/x", {"failed": "two\nlines"})
    page = kept.path.with_suffix(".md").read_text()
    assert "Run 0: Imagined, driver 1.2; some cores; Python 3, numpy 2; gpubp 0, commit abc; today." in page
    assert (
        "## probe/copy\n\n"
        "|  | of | GB/s | right | list |\n"
        "|---|---|---|---|---|\n"
        "| device | 16 MiB | 4,321 | yes |  |\n"
        "| device | 1 GiB | 0.123 |  |  |\n"
        "| host |  | 1 | **no** | a\\|b; 2 |\n"
    ) in page
    assert "## Without an answer\n\n- probe/launch/x: two lines\n" in page


def test_a_wrong_answer_is_found_wherever_it_says_so() -> None:
    assert wrong({"a": {"b": {"right": False}}})
    assert wrong({"passed": 3, "failed": 1})
    assert not wrong({"a": {"right": True}, "failed": 0, "note": "right"})
    assert not wrong(None)


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(why_not(0) is None, reason="there is a GPU")
def test_without_a_gpu_it_ends_at_once_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path)]) == 3
    assert capsys.readouterr().err.startswith("device='cuda' is not available: ")
    assert not list(tmp_path.iterdir())


def test_a_dry_run_lists_the_cells_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run", "--budget", "100000"]) == 0
    printed = capsys.readouterr().out.splitlines()
    within, cut = split_at_the_line(printed)
    planned = [str(cell) for part in PARTS for cell in cells(part)]
    assert within == [name for name in planned if name not in cut]
    assert not [name for name in cut if name.startswith("peers/")]  # which has no cap of its own
    assert len(set(planned)) == len(planned)
    assert [part for part, _ in itertools.groupby(within, lambda name: name.split("/")[0])] == list(PARTS)
    assert main(["--dry-run", "--only", "peers,probe"]) == 0
    assert "parity/" not in capsys.readouterr().out


def split_at_the_line(printed: list[str]) -> tuple[list[str], list[str]]:
    """The cells that a dry run says are reached, and those after the line."""
    lines = [number for number, line in enumerate(printed) if line.startswith("---")] or [len(printed)]
    names = [line.split("  ")[-1] for line in printed]
    return names[: lines[0]], names[lines[0] + 1 :]


def test_a_dry_run_shows_where_the_budget_cuts() -> None:
    planned = [imagined("fine", "a", estimate=30), imagined("fine", "b", estimate=50), imagined("fine", estimate=10)]
    printed = listing(planned, 45).splitlines()
    assert split_at_the_line(printed) == (["part/fine/a", "part/fine/cell"], ["part/fine/b"])  # as a run would skip it
    assert printed[2].startswith("--- not reached within 45 s")
    assert "---" not in listing(planned, 90)


@pytest.mark.skipif(os.name != "posix", reason="pipes close otherwise")
def test_a_reader_that_leaves_gets_no_traceback() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "bench.gpu", "--dry-run"]
    ran = subprocess.run(command, cwd=parity.ROOT, stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    assert (ran.returncode, ran.stderr) == (1, "")


@pytest.mark.parametrize("given", [["--only", "proof"], ["--only", ","], ["--budget", "-5"], ["--budget", "nan"]])
def test_what_it_cannot_do_is_a_usage_error(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(given)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert f"error: {given[0]} " in told
    assert ("--only needs" in told) == (given[1] == ",")


def test_every_cell_has_a_function_that_takes_its_name() -> None:
    known = {"probe": probe, "products": products, "parity": parity, "kernels": kernels, "peers": peers}
    planned = [cell for part in PARTS for cell in cells(part)]
    for cell in planned:
        module, function = cell.function.removeprefix("bench.gpu.").split(":")
        assert callable(getattr(known[module], function))
        assert cell.estimate < cell.limit
    assert sum(cell.estimate for cell in planned if cell.part == "probe") <= 90


def test_the_file_is_named_after_the_device_unless_it_is_resumed() -> None:
    assert path_of("NVIDIA H200", Path("x"), None).name.startswith("gpu-nvidia-h200-2")
    assert path_of("NVIDIA H200", Path("x"), Path("y/old.json")) == Path("x/old.json")


# -- parity and peers --------------------------------------------------------------------------------------------------


def test_a_report_of_pytest_is_counted() -> None:
    found = parity.counts(
        '<testsuites><testsuite><testcase name="a"/><testcase name="b"><failure message="off by one">...</failure>'
        '</testcase><testcase name="c"><skipped/></testcase><testcase name="d"><error message="broke"/></testcase>'
        "</testsuite></testsuites>"
    )
    assert found == {"passed": 1, "failed": 2, "skipped": 1, "failures": ["b: off by one", "d: broke"]}


@pytest.mark.check
def test_the_files_with_gpu_tests_are_known() -> None:
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "--collect-only", "-q", "-p", "no:cacheprovider", "tests"]
    listed = subprocess.run(command, cwd=parity.ROOT, capture_output=True, text=True, check=True).stdout
    files = {line.split("::")[0].removeprefix("tests/") for line in listed.splitlines() if "::" in line}
    assert files == set(parity.FILES)


def test_the_peers_cells_cover_every_net_and_batch_once() -> None:
    names = peers.steps()
    assert names[0] == "784-1024-1024-10@8192 tf32"
    every = set(itertools.product(peers.NETS.values(), peers.BATCHES, ("tf32",)))
    assert {peers.parsed(name) for name in names if name.endswith("tf32")} == every
    more = [name.split()[0] for name in names if name.endswith("bfloat16")]
    assert more == [name.split()[0] for name in names if name.endswith("float32")] == peers.MORE
    assert len(set(names)) == len(names)
    assert set(peers.AUTOTUNED) < set(names)


def test_all_of_it_fits_into_three_runs_of_ten_minutes() -> None:
    assert sum(cell.estimate for part in PARTS for cell in cells(part)) < 1700


@pytest.fixture
def _hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(peers, "ROUNDS", 3)
    monkeypatch.setattr(peers, "TURN", 0.005)
    monkeypatch.setattr(peers, "cores", lambda: 1)
    yield
    peers.STABLE.dismiss([racer for racer, _ in list(peers.STABLE._kept.values())])


@pytest.mark.check
@pytest.mark.usefixtures("_hurried")
def test_a_race_leaves_out_who_fails_and_replaces_who_died() -> None:
    contenders = ["gemms", "gpubp", "torch-graphs"]  # the last does not run on a CPU
    found = peers.step("64x9@128 float32", "cpu", contenders)
    assert list(found) == contenders
    assert found["gpubp"]["/ gpubp"] == 1
    low, high = found["gemms"]["/ gpubp, from and to"]
    assert low <= found["gemms"]["/ gpubp"] <= high
    assert 0 < found["gemms"]["µs"] < found["gpubp"]["µs"] * 10
    assert "CUDA only" in found["torch-graphs"]["left out"]
    (gpubp,) = (racer for racer, _ in peers.STABLE._kept.values() if racer.name == "gpubp")
    os.kill(gpubp.process.pid or 0, 9)
    assert "process ended" in peers.step("64x9@128 float32", "cpu", ["gpubp"])["gpubp"]["left out"]
    assert peers.step("64x9@128 float32", "cpu", ["gpubp"])["gpubp"]["µs"] > 0


@pytest.mark.usefixtures("_hurried")
def test_the_crossover_is_where_the_gpu_stays_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {("cpu", 1): 1.0, ("gpu", 1): 2.0, ("cpu", 8): 3.0, ("gpu", 8): 2.0, ("cpu", 64): 9.0, ("gpu", 64): 2.0}

    def race(entries: Any, sizes: Any, batch: int) -> dict[str, Any]:
        where = "cpu" if entries[0][1].device == "cpu" else "gpu"
        return {"gpubp": SimpleNamespace(error=None, seconds=[seconds[where, batch]])}

    monkeypatch.setattr(peers, "race", race)
    found = peers.crossover("64x9")
    assert found["the GPU wins from"] == {"batch": 8}
    assert list(found) == ["@1", "@8", "@64", "the GPU wins from"]  # at 64 it is clearly ahead: no need for more


def test_an_epoch_is_what_one_more_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)

    def train(count: int) -> None:
        clock.now += 10 + 2 * count

    monkeypatch.setattr(epochs, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    assert epochs.per_epoch(train) == {"s": 2, "rows/s": epochs.ROWS / 2, "first, s": 12}


@pytest.mark.parametrize(
    "name",
    ["gpubp", *(pytest.param(n, marks=pytest.mark.check) for n in ("torch", "torch_graphs", "jax"))],
)
def test_epochs_of_every_contender(name: str) -> None:
    if name != "gpubp":
        pytest.importorskip(name.split("_")[0])
    child = Child()
    try:  # in a process of its own, as in a run: frameworks do not mix, nor mind our filters of warnings
        found = child.ask(f"bench.gpu.epochs:{name}", ((64, 8, 4), 16384, Setting("cpu")), 120)
    finally:
        child.end()
    assert found["rows/s"] == pytest.approx(65536 / found["s"])


def test_a_child_is_started_again_after_its_end() -> None:
    child = Child()
    try:
        with pytest.raises(UnansweredError, match="SIGSEGV"):
            child.ask("imagined:crashes", ("x",), 10)
        start = time.monotonic()
        assert child.ask("imagined:fine", ("x",), 10)["name"] == "x"
        assert time.monotonic() - start < 10
    finally:
        child.end()


def row(us: float, ratio: float, low: float, high: float) -> dict[str, Any]:
    found: dict[str, Any] = {"µs": us}
    for ours in peers.OURS:
        found |= {f"/ {ours}": ratio, f"/ {ours}, from and to": [low, high]}
    return found


CELLS: dict[str, Any] = {
    "peers/step/784-1024-1024-10@128 tf32": {
        "GEMMs in a graph": {"µs": 10},
        "gpubp": row(20, 1.6, 1.5, 1.7),
        "gpubp-captured": row(12, 1, 1, 1),
        "torch": row(80, 4.0, 3.5, 4.5),
        "jax": row(19, 0.95, 0.9, 0.96),
        "torch-graphs": {"left out": "it failed"},
    },
    "peers/autotuned/784-1024-1024-10@128 tf32": {"gpubp": row(20, 1, 1, 1), "torch-autotune": row(18, 0.9, 0.9, 0.9)},
    "peers/step/784-4096-4096-10@65536 tf32": {
        "GEMMs in a graph": {"µs": 10},
        "gpubp": row(12.502, 1, 1, 1),
        "gpubp-captured": row(12.4, 1, 1, 1),
        "torch": row(15, 1.25, 0.96, 1.3),
    },
    f"peers/mnist/{peers.MNIST}": {"gpubp": {"s": 0.03}, "gpubp_captured": {"s": 0.02}},
    f"peers/streaming/{peers.STREAMED}": {"gpubp_streamed": {"of resident": 0.95}, "gpubp_captured_streamed": {}},
}


def judged(cells: dict[str, Any]) -> list[str]:
    """The page's parts: before ours, by default, captured."""
    return "\n".join(verdict.told({name: {"answer": cell} for name, cell in cells.items()})).split("### ")


def test_the_targets_are_judged_for_each_of_ours() -> None:
    _, default, captured = judged(CELLS)
    assert "| 784-1024-1024-10@128 tf32 | torch-autotune | 0.9 | 0.9 | 0.9 | **no** |" in default
    assert "| 784-4096-4096-10@65536 tf32 | torch | 1.25 | 0.96 | 1.3 | open |" in default
    assert "in each of 36 cells: **not met** (yes in 0, no in 1, open in 1, not reached 34)" in default
    assert "geometric mean 1.060 of 2 cells, ≥ 1.05 is wanted: met" in default
    assert "of it, ≥ 3 is wanted: 4.0, met" in default
    products = "784-4096-4096-10@65536 {}: its time / that of its products alone, ≤ 1.25 is wanted: "
    assert products.format("tf32") + "1.250, **not met**" in default  # 1.2502
    assert products.format("tf32") + "1.240, met" in captured
    assert products.format("bfloat16") + "not reached" in default
    assert f"an epoch of {peers.MNIST}, ≤ 25 ms are wanted: 30.00 ms, **not met**" in default
    assert f"an epoch of {peers.MNIST}, ≤ 25 ms are wanted: 20.00 ms, met" in captured
    assert f"streaming {peers.STREAMED}, ≥ 0.9 of the resident rate is wanted: 0.95, met" in default
    assert f"streaming {peers.STREAMED}, ≥ 0.9 of the resident rate is wanted: not reached" in captured
    told = "gpubp-captured is 1.264 times as fast as gpubp in the geometric mean of 2 cells, and slower in 0: "
    assert captured.endswith(told + "the better default is gpubp-captured.")


def test_the_targets_that_were_not_reached_are_told() -> None:
    cell = "peers/step/64x9@1024 tf32"
    _, default, _ = judged({cell: {"gpubp": row(20, 1, 1, 1), "jax": row(20, 1.0, 0.99, 1.0)}})
    assert default.count("not reached\n") == 6
    assert "in each of 36 cells: open (yes in 1, no in 0, open in 0, not reached 35)" in default
    every = {f"peers/step/{name}": {"gpubp": row(9, 1, 1, 1), "jax": row(9, 1.0, 0.97, 1.0)} for name in peers.steps()}
    assert "in each of 36 cells: met (yes in 36" in judged(every)[1]
    assert judged({"probe/copy/device": {"GB/s": 1.0}}) == [""]


def test_ratios_are_rounded_down() -> None:
    """That 0.9699 does not look like 0.97."""
    ours, peer = (SimpleNamespace(seconds=[s], error=None, memory=None, note="") for s in (1.0, 0.9699))
    found = peers.row(peer, {"gpubp": ours}, None)  # type: ignore[arg-type,dict-item]
    assert (found["/ gpubp"], found["/ gpubp, from and to"]) == (0.969, [0.969, 0.969])


def test_a_streamed_epoch_is_held_against_a_resident_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"gpubp": 200.0, "gpubp_streamed": 190.0, "gpubp_captured": 300.0, "gpubp_captured_streamed": 150.0}
    monkeypatch.setattr(peers, "asked", lambda name, *given: {"rows/s": rates[name]})
    found = peers.streaming(peers.STREAMED)
    assert found["gpubp_streamed"]["of resident"] == 0.95
    assert found["gpubp_captured_streamed"]["of resident"] == 0.5


def test_what_times_variants_is_built_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    building, alone, both = set[str](), list[str](), threading.Barrier(2)

    def build(outcome: Any, sizes: Any, batch: int) -> None:
        building.add(outcome.racer.name)
        if outcome.racer.name in ("gpubp", "jax"):
            both.wait(5)  # fails unless the other is being built as well
        elif building == {outcome.racer.name}:
            alone.append(outcome.racer.name)
        building.remove(outcome.racer.name)

    names = ["gpubp", "torch", "torch-autotune", "jax"]
    racers = [SimpleNamespace(name=name, setting=Setting()) for name in names]
    monkeypatch.setattr(peers, "STABLE", SimpleNamespace(racers=lambda entries: racers, dismiss=list))
    monkeypatch.setattr(peers, "build", build)
    monkeypatch.setattr(peers, "calibrate", lambda outcome: None)
    monkeypatch.setattr(peers, "take_turns", lambda outcomes, rounds: None)
    peers.race([(name, Setting()) for name in names], (8, 4), 2)
    assert alone == ["torch", "torch-autotune"]
