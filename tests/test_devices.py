"""`gpubp devices`: the list, the text for a bug report, and --check, for people and as JSON."""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result as Run
from trained import gpubp_, in_a_terminal

import gpubp
from gpubp import parity
from gpubp.backends import detection
from gpubp.backends.numpy import NumpyBackend
from gpubp.cli import device_check, processes
from gpubp.kernel import KERNELS, Kernel
from gpubp.parity import Result

CPU = {
    **{"device": "cpu", "available": "yes", "name": "A Processor", "cores": 4, "memory": 8 << 30},
    **{"library": "NumPy 2.4.6", "blas": "openblas 0.3.31 Haswell", "blas_threads": 4},
    "kernels": "native kernels (g++), 4 threads",
}
GPU = {
    **{"device": "cuda:0", "available": "yes", "name": "A Card", "compute_capability": "9.0"},
    **{"memory": 16 << 30, "memory_free": 15 << 30, "library": "CuPy 14.2.0"},
    **{"driver": "13.0", "runtime": "13.2", "nvrtc": "13.1"},
    "steps": "launched kernel by kernel: GPUBP_GRAPHS=0",
}
MPI = {
    **{
        "device": "mpi",
        "available": "yes",
        "library": "MPICH 5.0.2",
        "mpi4py": "4.1.2",
        "sums": "by NCCL, on the GPUs",
    },
    "ranks": [
        {"host": "a", "device": "cuda:0", "name": "A Card", "cores": 4},
        {"host": "b", "device": "cpu", "name": "A Processor", "cores": 1},
    ],
}
NCCL = {"device": "nccl", "available": "yes", "library": "NCCL 2.28.9"}
BROKEN = {"device": "cuda:1", "available": "no", "reason": "NVRTC was not found; pip install 'cupy-cuda13x[ctk]'"}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One with a GPU that works and one that does not; both compute by NumPy."""
    monkeypatch.setattr(gpubp, "devices", lambda: [CPU, GPU, BROKEN], raising=False)
    monkeypatch.setattr(processes, "rows", lambda: [MPI, NCCL])

    def backend(device: str) -> NumpyBackend:
        found = NumpyBackend()
        found.name = {"auto": "cuda:0", "cuda": "cuda:0"}.get(device, device)
        return found

    monkeypatch.setattr(device_check, "get_backend", backend)
    monkeypatch.setattr(gpubp, "get_backend", backend, raising=False)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few kernels, small arrays and no measured GB/s."""
    monkeypatch.setattr(parity, "SHAPES", [(33, 31)])
    monkeypatch.setattr(parity, "OWN", [KERNELS["bias_sigmoid"], KERNELS["sigmoid_delta"]])
    monkeypatch.setattr(device_check, "TIMED_ROWS", {"cpu": 0, "cuda": 0})


def test_a_machine_with_gpus(machine: None) -> None:
    assert gpubp_("devices").stdout.splitlines() == [
        "cpu      A Processor, 4 cores, 8.0 GiB of memory",
        "         NumPy 2.4.6, openblas 0.3.31 Haswell on 4 threads",
        "         native kernels (g++), 4 threads",
        "cuda:0   A Card, compute capability 9.0, 15.0 of 16.0 GiB free",
        "         CuPy 14.2.0, CUDA 13.2, NVRTC 13.1, driver for CUDA 13.0",
        "         steps are launched kernel by kernel: GPUBP_GRAPHS=0",
        "cuda:1   not available",
        "         NVRTC was not found",
        "         pip install 'cupy-cuda13x[ctk]'",
        "mpi      MPICH 5.0.2, mpi4py 4.1.2: 2 processes",
        "         rank 0 on a: cuda:0, A Card",
        "         rank 1 on b: cpu, 1 core",
        "         gradients are added up by NCCL, on the GPUs",
        "nccl     NCCL 2.28.9",
        "         experimental: no two GPUs have run it yet",
    ]


def test_no_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    lines = [line.strip() for line in gpubp_("devices").stdout.splitlines()]
    place = lines.index("mpi    not available")
    assert lines[place + 1 : place + 3] == ["mpi4py is not installed", "pip install mpi4py mpich"]


def test_why_kernels_are_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the remedy on a line of its own."""
    row = {**CPU, "kernels": "NumPy's kernels: no C++ compiler is on the PATH; install g++"}
    monkeypatch.setattr(gpubp, "devices", lambda: [row, BROKEN], raising=False)
    lines = gpubp_("devices").stdout.splitlines()
    assert [line.strip() for line in lines[2:4]] == [
        "NumPy's kernels: no C++ compiler is on the PATH",
        "install g++",
    ]
    assert lines[4].startswith("cuda:1")


def test_this_machine() -> None:
    lines = gpubp_("devices").stdout.splitlines()
    rows = gpubp.devices()
    named = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert named == [*(row["device"] for row in rows), "mpi", "nccl"]
    assert f"NumPy {np.__version__}" in lines[1]
    found = json.loads(gpubp_("devices", "--json").stdout)["devices"]
    assert [row["device"] for row in found] == [row["device"] for row in rows]
    assert found[0] == rows[0]


def test_a_remedy_is_on_a_line_of_its_own_however_narrow_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "why_not", lambda index: "CuPy is not installed; pip install 'cupy-cuda13x[ctk]'")
    monkeypatch.setenv("GPUBP_NATIVE", "0")
    lines = gpubp_("devices", COLUMNS="30").stdout.splitlines()
    assert [line.strip() for line in lines[4:6]] == ["CuPy is not installed", "pip install 'cupy-cuda13x[ctk]'"]


@pytest.mark.skipif(os.name != "posix", reason="terminals as POSIX has them")
@pytest.mark.parametrize("colour", [True, False])
def test_colours_in_a_terminal_only_where_they_are_wanted(colour: bool) -> None:
    output = in_a_terminal("devices", columns=100, colour=colour)
    assert (b"\x1b[1;32mcpu" in output) is colour


def test_the_exit_code_says_whether_a_device_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpubp_("devices", "--device", "cpu").exit_code == 0
    monkeypatch.setattr(detection, "why_not", lambda index: "there is none")
    for options in ([], ["--check"], ["--report"], ["--json"]):
        result = gpubp_("devices", "--device", "cuda:5", *options)
        assert (result.exit_code, result.stdout) == (3, "")
        assert "there is none" in result.stderr


# -- for a bug report --------------------------------------------------------------------------------------------------


def test_what_a_bug_report_says(machine: None, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    for name in ("kernel.cubin", "one.so", "another.so"):
        (tmp_path / "cache" / name).write_bytes(b"code")
    variables = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "GPUBP_CACHE": str(tmp_path / "cache")}
    variables |= {"CUDA_VISIBLE_DEVICES": "0,1", "CUPY_TF32": "1", "CXX": "nowhere"}
    variables |= {"SECRET": "hush", "GPUBP_COMMAND": "gpubp"}
    text = gpubp_("devices", "--report", **variables).stdout
    lines = text.splitlines()
    assert all(line.startswith("- ") for line in lines)
    assert lines[0].startswith(f"- gpubp {gpubp.__version__}, Python 3.")
    assert re.fullmatch(r"- (no CuPy: .+|CuPy [\d.]+, driver \S+, runtime \S+, nvrtc \S+)", lines[1])
    assert lines[2].startswith("- CXX='nowhere' is not on the PATH")
    drives = f"NumPy 2.4.6, {CPU['blas']} on 4 threads; {CPU['kernels']}"
    assert lines[3] == f"- cpu: {'A Processor, 4 cores, 8.0 GiB of memory'}; {drives}"
    assert lines[4].startswith("- cuda:0: A Card, compute capability 9.0")
    assert lines[5] == "- cuda:1: not available, NVRTC was not found; pip install 'cupy-cuda13x[ctk]'"
    assert lines[6].startswith("- packages: ")
    assert lines[7] == f"- compiled kernels: 2 for the processor and 1 for GPUs in {os.path.join('~', 'cache')}"
    assert "CUDA_VISIBLE_DEVICES=0,1, CUPY_TF32=1" in lines[8]
    assert "CXX=nowhere" in lines[8]
    assert "hush" not in text
    assert "GPUBP_COMMAND" not in text
    assert str(tmp_path) not in text


def test_a_bug_report_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Any:
        raise ModuleNotFoundError("No module named 'cupy'", name="cupy")

    monkeypatch.setattr(detection, "cupy", none)
    assert "\n- no CuPy: ModuleNotFoundError: No module named 'cupy'\n" in gpubp_("devices", "--report").stdout


@pytest.mark.toolchain
def test_a_bug_report_names_the_compiler() -> None:
    assert re.search(r"^- g\+\+ .*\d+\.\d+", gpubp_("devices", "--report", CXX="g++").stdout, re.MULTILINE)


@pytest.mark.parametrize("other", ["--check", "--json"])
def test_a_bug_report_is_printed_alone(other: str) -> None:
    result = gpubp_("devices", "--report", other)
    assert result.exit_code == 2
    assert "leave out --check and --json" in result.stderr


# -- whether a device computes what it should --------------------------------------------------------------------------


def checked(*options: str, code: int = 0) -> Run:
    result = gpubp_("devices", "--check", *options)
    assert result.exit_code == code, result.output
    return result


def test_all_is_well(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUBP_NATIVE", "0")
    result = checked("--device", "cpu")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("cpu: ")
    assert lines[1] == "NumPy's kernels: GPUBP_NATIVE=0"
    assert lines[2].split() == ["float32", "float64"]
    assert lines[3].split() == ["operation", *["error", "tolerance", "GB/s"] * 2]
    assert re.fullmatch(r"bias_sigmoid +\S+e-08 +4\.8e-07 +0 +8\.9e-16 +ok", lines[4])
    assert lines[-1] == f"cpu: all {2 * (len(lines) - 6)} results are within their tolerances"
    assert all(len(line) <= 80 for line in lines)
    assert result.stderr == ""


@pytest.mark.toolchain
def test_native_kernels_are_checked_and_have_the_exact_sigmoids_bits(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBP_NATIVE", "1")
    lines = checked("--device", "cpu").stdout.splitlines()
    assert re.fullmatch(r"native kernels \(.+\), \d+ threads?", lines[1])
    assert re.fullmatch(r"exact sigmoid, bits +0 +0 +ok", lines[-3])
    found = json.loads(checked("--device", "cpu", "--json").stdout)
    assert found["kernels"] == {"cpu": lines[1]}
    assert found["checks"][-1]["name"] == "exact sigmoid, bits"


def test_json(quick: None) -> None:
    found = json.loads(checked("--device", "cpu", "--json").stdout)
    assert found["ok"] is True
    first, second = found["checks"][:2]
    assert (first["device"], first["name"], first["dtype"]) == ("cpu", "bias_sigmoid", "float32")
    assert (second["name"], second["dtype"], second["error"]) == ("bias_sigmoid", "float64", 0)
    assert 0 < first["error"] <= first["tolerance"]
    assert first["gb_per_s"] is None
    assert first["ok"] is True


def test_every_device_that_can_be_used_or_the_one_named(machine: None, quick: None) -> None:
    result = checked("--json", code=1)  # NumPy has not the exact sigmoid's bits
    assert {each["device"] for each in json.loads(result.stdout)["checks"]} == {"cpu", "cuda:0"}
    assert "cuda:1 was not checked: NVRTC was not found" in result.stderr
    assert checked("-q", "--device", "cpu").stderr == ""
    for device in ("cuda", "cuda:0"):
        result = checked("--json", "--device", device, code=1)
        assert {each["device"] for each in json.loads(result.stdout)["checks"]} == {"cuda:0"}
    result = checked("--device", "cuda", code=1)
    (bits,) = [line for line in result.stdout.splitlines() if line.startswith("exact sigmoid, bits  ")]
    assert bits.endswith("OFF")
    assert "cuda:0: 1 of " in result.stdout


class BrokenBackend(NumpyBackend):
    """The sigmoid's delta lacks a factor in float32, and its forward pass is NaN in float64."""

    def run(self, kernel: Kernel, *args: Any) -> None:
        super().run(kernel, *args)
        if kernel.name == "sigmoid_delta" and args[0].dtype == np.float32:
            args[-1][...] *= 1.0001
        if kernel.name == "bias_sigmoid" and args[0].dtype == np.float64:
            args[-1][...] = np.nan


def test_a_device_that_errs(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_check, "get_backend", lambda device: BrokenBackend())
    result = checked("--device", "cpu", code=1)
    lines = {line.split("  ")[0]: line for line in result.stdout.splitlines()}
    assert lines["bias_sigmoid"].endswith("OFF")
    assert " nan " in lines["bias_sigmoid"]
    assert lines["sigmoid_delta"].endswith("OFF")
    assert lines["column sum"].endswith("ok")
    *_, total, first, second = result.stdout.splitlines()
    assert re.fullmatch(r"cpu: 3 of \d+ results are off", total)
    assert first == "bias_sigmoid in float64: a result is not a number"
    both = r"sigmoid_delta in float32, sigmoid_delta \+ sum in float32"
    assert re.fullmatch(both + r": the largest error is \S+e-05, the tolerance 4.77e-07", second)
    assert result.stderr == "to report this: gpubp devices --report\n"
    found = json.loads(checked("--device", "cpu", "--json", code=1).stdout)
    assert found["ok"] is False
    off = {(each["name"], each["dtype"]): each["error"] for each in found["checks"] if not each["ok"]}
    assert off["bias_sigmoid", "float64"] is None  # JSON has no NaN
    assert off["sigmoid_delta", "float32"] > 1e-5


def test_what_stopped_a_check_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(backend: Any, dtype: str, timed_rows: int) -> Iterator[Result]:
        yield Result("sgd", dtype, float("nan"), 0.0, problem="DeviceError: kernel gpubp_sgd does not compile")
        yield Result("gather", dtype, 0.0, 0.0, 4023.7)

    monkeypatch.setattr(device_check, "check", check)
    lines = checked("--device", "cpu", code=1).stdout.splitlines()
    assert lines[4].split() == ["sgd", "-", "-", "-", "-", "OFF"]
    assert lines[5].split() == ["gather", "0", "0", "4024", "0", "0", "4024", "ok"]
    assert lines[-1] == "sgd in float32, sgd in float64: DeviceError: kernel gpubp_sgd does not compile"


@pytest.mark.check
def test_this_machines_processor_is_right() -> None:
    """Everything, with GB/s."""
    found = json.loads(checked("--device", "cpu", "--json").stdout)
    assert len(found["checks"]) > 120
    speeds = [each["gb_per_s"] for each in found["checks"] if each["name"] in KERNELS]
    assert all(speed > 0 for speed in speeds)
