"""bench.distributed and bench.scaling_model: parts of steps, quiet rounds, and what can be worked out by hand."""

import doctest
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import gpubp
from bench import distributed, distributed_child, scaling_model
from bench.distributed import FailedError, main, parsed_answer, told
from bench.distributed_child import parts, watched
from bench.roofline import LAUNCH, REPLAY, Step
from bench.scaling_model import GPUS, NETS, Shared, draw, host, latency, strong, summed, weak

NET = NETS["784-1024-1024-10"]


@pytest.mark.parametrize("module", [distributed, distributed_child])
def test_doctests(module: Any) -> None:
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


# -- the parts of a step -----------------------------------------------------------------------------------------------


def test_a_step_is_cut_where_the_last_process_came() -> None:
    """Two ranks, two steps an epoch: the second rank comes 2 s later to the first sum, and 1 s sooner to the second."""
    taken = [[(0, 12), (13, 27)], [(0, 13), (15, 27)]]
    added = [[(6, 10), (20, 24)], [(8, 10), (19, 24)]]
    found = parts(taken, added, steps=2)
    assert found == {
        "gradients": (6 + 7 + 8 + 4) / 4,
        "wait": (2 + 0 + 0 + 1) / 4,
        "sum": (2 + 4 + 2 + 4) / 4,
        "optimizer": (2 + 3 + 3 + 3) / 4,
        "rest": (1 + 2) / 2,
    }


def test_what_lies_between_two_epochs_is_no_part_of_a_step() -> None:
    assert parts([[(0, 1), (2, 3), (100, 101), (102, 103)]], [[]], steps=2)["rest"] == 1
    assert parts([[(0, 1), (50, 51)]], [[]], steps=1)["rest"] == 0


def test_a_step_of_one_process_is_all_gradients() -> None:
    found = parts([[(0, 4), (5, 8)]], [[]], steps=2)
    assert found == {"gradients": 3.5, "wait": 0, "sum": 0, "optimizer": 0, "rest": 1}


def test_calls_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    class Owner:
        def take(self, value: int) -> int:
            return value + 1

    calls = watched(Owner, "take")
    assert [Owner().take(1), Owner().take(2)] == [2, 3]
    assert len(calls) == 2
    assert calls[0][0] <= calls[0][1] <= calls[1][0] <= calls[1][1]


# -- starting processes ------------------------------------------------------------------------------------------------


def test_the_answer_is_the_last_line_of_json() -> None:
    assert parsed_answer('a warning\n{"seconds": [1]}\n{"seconds": [2]}\nbye\n') == {"seconds": [2]}
    with pytest.raises(FailedError, match="no answer in 'nothing'"):
        parsed_answer("nothing")


def test_children_choose_their_own_kernels_of_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("GPUBP_DISTRIBUTED", "off")
    found = distributed.environment(2)
    assert "OPENBLAS_CORETYPE" not in found
    assert found["OMP_NUM_THREADS"] == found["OPENBLAS_NUM_THREADS"] == "2"
    assert found["GPUBP_DISTRIBUTED"] == "auto"
    assert found["PATH"]


def test_one_process_is_started_without_mpiexec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "mpiexec", lambda: "/there/mpiexec")
    assert distributed.command(2, {})[:3] == ["/there/mpiexec", "-n", "2"]
    assert distributed.command(2, {"a": 1})[3:] == distributed.command(1, {"a": 1})
    assert json.loads(distributed.command(1, {"a": 1})[-1]) == {"a": 1}


def test_without_mpi_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("GPUBP_COMMAND", raising=False)
    said = "Traceback\nModuleNotFoundError: No module named 'mpi4py'"
    for code, launcher, why in ((1, "/mpiexec", "No module named 'mpi4py'"), (0, None, "there is no mpiexec")):
        probe = subprocess.CompletedProcess([], code, "", said)
        monkeypatch.setattr(subprocess, "run", lambda *_, probe=probe, **__: probe)
        monkeypatch.setattr(distributed, "mpiexec", lambda launcher=launcher: launcher)
        with pytest.raises(SystemExit) as stopped:
            main([])
        assert stopped.value.code == 2
        shown = capsys.readouterr().err
        assert why in shown
        assert "pip install 'gpubp[mpi]'" in shown


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--optimizer", "lion"], "'lion' is not known; choose from sgd, adam"),
        (["--optimizer", ","], "--optimizer needs a name"),
        (["--rounds", "0"], "need a positive number"),
        (["--batch", "1"], "--batch one of 2 or more"),
        (["--sizes", "784"], "two or more positive numbers"),
        (["--sizes", "784,0"], "two or more positive numbers"),
        (["--json", "/no/where/x.json"], "there is no folder '/no/where'"),
    ],
)
def test_bad_options_are_refused(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "missing", lambda: None)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert why in capsys.readouterr().err


def test_it_is_not_to_be_started_by_mpiexec(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert "start it by itself" in capsys.readouterr().err


def test_a_failed_turn_ends_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.CompletedProcess([], 3, "", "it broke\n")
    monkeypatch.setattr(distributed, "missing", lambda: None)
    monkeypatch.setattr(distributed, "foreign_load", lambda: 0.0)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert main(["--rounds", "1"]) == 1
    assert "ended with 3:\nit broke" in capsys.readouterr().err


# -- what is told ------------------------------------------------------------------------------------------------------


def report(*rounds: tuple[float, float, float]) -> dict[str, Any]:
    """Of rounds of (seconds of one process, of two, what others used meanwhile)."""

    def turn(seconds: float, others: float) -> dict[str, Any]:
        share = dict.fromkeys(distributed.PARTS, seconds / 50)
        return {"seconds": [seconds, 9 * seconds, seconds], "parts": share, "bytes": 1234, "others": others}

    one = [turn(first, 0.0) for first, _, _ in rounds]
    two = [turn(second, others) for _, second, others in rounds]
    sums = {str(size): size / 1e9 for size in distributed.SUMS}
    return {
        "machine": {"cpu": "a cpu", "cores": 2, "threads": 1, "python": "3", "date": "2026-11-23T00:00:00"},
        "versions": {"gpubp": "0"},
        "settings": {"rounds": len(rounds), "steps": 10, "epochs": 3, "batch": 100},
        "sizes": [4, 3],
        "sums": [{"sums": sums, "how": "by MPI", "others": 0.0}],
        "turns": {"sgd": {"one": one, "two": two, "threads": one}},
    }


def test_rounds_are_paired_and_the_disturbed_left_out_where_enough_are_quiet() -> None:
    rounds = [(2.0, 1.0, 0.0), (4.0, 2.0, 0.01), (3.0, 3.0, 0.5), (1.0, 0.5, 0.05)]
    found = report(*rounds)
    assert distributed.rows_a_second(found, found["turns"]["sgd"]["one"][0]) == 500
    assert distributed.ratios(found, "sgd") == [2, 2, 1, 2]
    assert distributed.counted(found, "sgd") == [0, 1, 3]
    few = report(*rounds[:3])
    assert distributed.quiet(few, "sgd") == [0, 1]
    assert distributed.counted(few, "sgd") == [0, 1, 2]


@pytest.mark.parametrize(("seconds", "judged"), [(1.0, "met"), (1.2, "**not met**")])
def test_the_page_judges_the_speed_up(seconds: float, judged: str) -> None:
    lines = told(report(*[(2.0, seconds, 0.0)] * 3)).splitlines()
    (row,) = [line for line in lines if line.startswith("| sgd | ")]
    assert row.split(" | ")[4] == f"**{2 / seconds:.2f}**"
    assert row.endswith(f"| {judged} |")
    assert "| sgd, 1 process | 40.0 ± 0.00 | - | - | - | 40.0 ± 0.00 | 200 ± 0.00 |" in lines
    assert "| 4,000,000 | 4 (4 to 4) | 1.00 |" in lines
    assert "1,234 bytes, by MPI" in "\n".join(lines)
    assert "Others used" not in "\n".join(lines)


def test_the_page_says_that_others_were_busy() -> None:
    page = told(report((2.0, 1.0, 0.3)))
    assert page.endswith("**Others used more than 5% of this machine in 1 of 3 turns.**")
    assert "| 1, all |" in page


@pytest.mark.check
@pytest.mark.mpi
def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two real processes: a step is the sum of its parts, and the vector that is added up is that of the network."""
    file = tmp_path / "found.json"
    small = ["--rounds", "1", "--steps", "4", "--epochs", "2", "--batch", "64", "--sizes", "20,16,3"]
    assert main([*small, "--json", str(file)]) == 0
    assert "| adam, 2 processes |" in capsys.readouterr().out
    found = json.loads(file.read_text())
    assert "MPI" in found["versions"]
    assert "host memory" in found["sums"][0]["how"]
    for turns in found["turns"].values():
        kernels = {name: turn["kernels"] for name, (turn,) in turns.items()}
        if "threads" in kernels["threads"]:  # native ones
            assert "1 thread" in kernels["one"]
            assert "1 thread" in kernels["two"]
        (two,), (one,) = turns["two"], turns["one"]
        assert 0 <= two["bytes"] - 4 * (20 * 16 + 16 + 16 * 3 + 3 + 2) < 1024
        assert min(two["parts"][part] for part in ("gradients", "sum", "optimizer", "rest")) > 0
        assert one["parts"]["sum"] == 0 < one["parts"]["gradients"]
        for turn in (one, two):
            assert len(turn["seconds"]) == 2
            within = sum(turn["parts"].values()) * 8 - turn["parts"]["rest"] * 2  # of two epochs of four steps
            assert 0 < within < 1.1 * sum(turn["seconds"])


# -- the model ---------------------------------------------------------------------------------------------------------


def test_the_latency_is_that_of_a_tree() -> None:
    found = {gpus: 1e6 * latency(gpus) for gpus in (1, 2, 8, 16, 1024)}
    chain = 14 + 2 * 7 * 1.25
    assert found == pytest.approx({1: 0, 2: 16.5, 8: chain, 16: chain + 2 * 8.5, 1024: chain + 2 * 7 * 8.5})


def test_a_ring_carries_nearly_twice_the_bytes() -> None:
    assert summed(1e9, 1) == 0
    assert summed(1e9, 2) - latency(2) == pytest.approx(1e9 / (0.92 * 450e9))
    assert summed(1e9, 8) - latency(8) == pytest.approx(1.75e9 / (0.92 * 450e9))
    assert summed(1e9, 16) - latency(16) == pytest.approx(2 * 15 / 16 * 1e9 / (0.92 * 400e9))


@pytest.mark.parametrize("sizes", NETS.values(), ids=NETS)
def test_the_bytes_are_those_that_training_adds_up(sizes: tuple[int, ...]) -> None:
    """But for what aligns each layer's."""
    arena = gpubp.MLP(list(sizes), device="cpu", seed=0)._network.arena
    assert 0 <= arena.sums.nbytes - Shared(sizes, 8, 2).bytes < 1024


def test_a_step_is_compute_and_all_of_the_sum() -> None:
    step = Step(NET, 1024, "float32")
    compute = step.captured() + step.device("adam") - step.device()
    shared = Shared(NET, 1024, 64)
    assert shared.compute == pytest.approx(compute)
    assert step.captured() < compute
    assert shared.seconds == pytest.approx(compute + summed(shared.bytes, 64))
    assert Shared(NET, 1024, 1).seconds == pytest.approx(compute)


@pytest.mark.parametrize(("rows", "gpus", "whole"), [(1024, 64, True), (64, 1024, False)])
def test_a_sum_hides_behind_the_products_of_the_backward_pass(rows: int, gpus: int, whole: bool) -> None:
    shared, products = Shared(NET, rows, gpus), Step(NET, rows, "float32").products()
    backward = sum(seconds for which, _, seconds in products if which in ("delta", "weights"))
    assert (shared.sum < backward) is whole
    assert shared.overlapped == pytest.approx(shared.compute + max(0, shared.sum - backward))


def test_a_small_step_takes_the_hosts_time() -> None:
    small = Shared((8, 8, 2), 4, 2)
    assert host(2) == pytest.approx(2 * REPLAY + LAUNCH + 2e-6)
    assert small.compute + small.sum < small.seconds == small.overlapped == host(2)


def test_efficiency_is_speed_over_gpus() -> None:
    alone = Shared(NET, 65536, 1).seconds
    shared, efficiency, _ = strong(NET, 64)
    assert shared.rows == 1024
    assert efficiency == pytest.approx(alone / (64 * shared.seconds))
    shared, efficiency, _ = weak(NET, 64)
    assert shared.rows == 8192
    assert efficiency == pytest.approx(Shared(NET, 8192, 1).seconds / shared.seconds)
    assert strong(NET, 8)[0] == weak(NET, 8)[0]


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("sizes", NETS.values(), ids=NETS)
def test_nothing_gains_from_more_gpus_but_speed(sizes: tuple[int, ...], precision: str) -> None:
    for scaling in (strong, weak):
        found = [scaling(sizes, gpus, precision) for gpus in GPUS]
        assert [efficiency for _, efficiency, _ in found[:1]] == [1]
        assert all(efficiency <= best for _, efficiency, best in found)
    efficiencies = [weak(sizes, gpus, precision)[1] for gpus in GPUS]
    assert efficiencies == sorted(efficiencies, reverse=True)


def test_the_table_says_that_it_predicts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "model.svg"
    assert scaling_model.main(["--precision", "tf32", "--plot", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Predictions of a model; nothing here is measured."
    assert sum(line.startswith("| 784-") for line in lines) == len(NETS) * 2 * 3
    shared, efficiency, best = strong(NET, 64, "tf32")
    (row,) = [line for line in lines if line.startswith("| 784-1024-1024-10 | strong | 64 |")]
    assert row.endswith(f"| {1e6 * shared.sum:.0f} | 82 | {64 * efficiency:.1f} | {efficiency:.0%} | {best:.0%} |")
    assert b"<svg" in picture.read_bytes()


def test_the_picture_has_a_panel_for_each_scaling() -> None:
    figure = draw()
    assert [axes.get_title().partition(",")[0] for axes in figure.axes] == ["strong", "weak"]
    for axes, scaling in zip(figure.axes, (strong, weak), strict=True):
        assert "predicted" in axes.get_title()
        lines = [line for line in axes.lines if len(line.get_xdata()) == len(GPUS)]
        assert len(lines) == 2 * len(NETS)
        assert lines[2].get_ydata()[6] == pytest.approx(100 * scaling(NET, 64)[1])
        assert lines[3].get_ydata()[6] == pytest.approx(100 * scaling(NET, 64)[2])
        assert lines[3].get_linestyle() == "--"
