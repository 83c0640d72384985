"""What a launcher's variables say, and what follows from them where there is no MPI: cores, GPUs, errors."""

import os
import subprocess
import sys
from typing import Any

import pytest

import gpubp
from gpubp import processor
from gpubp.alone import ALONE, processes
from gpubp.backends import detection, nccl
from gpubp.data.rows import IN_MEMORY, too_large
from gpubp.distributed import using, world
from gpubp.launcher import LOCAL_RANK, LOCAL_SIZE, RANK, SIZE, Launch, launch

MPICH = {"PMI_SIZE": "8", "PMI_RANK": "5", "MPI_LOCALNRANKS": "4", "MPI_LOCALRANKID": "1"}
CRAY = {"PMI_SIZE": "8", "PMI_RANK": "5", "PMI_LOCAL_SIZE": "4", "PMI_LOCAL_RANK": "1"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
SRUN = {
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_LOCALID": "1",
}


@pytest.fixture(autouse=True)
def by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SIZE, *RANK, *LOCAL_SIZE, *LOCAL_RANK, "GPUBP_DISTRIBUTED"):
        monkeypatch.delenv(name, raising=False)


def launched(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("variables", [MPICH, CRAY, OPEN_MPI, SRUN], ids=["MPICH", "Cray", "Open MPI", "srun"])
def test_launchers(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, variables)
    assert launch() == Launch(size=8, rank=5, local_size=4, local_rank=1)


def test_mpiexec_within_a_job_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own numbers count, as srun started one process a machine there."""
    launched(monkeypatch, {**SRUN, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", **MPICH})
    assert launch() == Launch(8, 5, 4, 1)


@pytest.mark.parametrize(
    "variables", [{}, {"PMI_SIZE": "1", "PMI_RANK": "0"}, {"SLURM_NTASKS": "4"}, {"PMI_SIZE": "x"}]
)
def test_a_program_by_itself(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the batch script of a job with several tasks, which only srun starts."""
    launched(monkeypatch, variables)
    assert launch() == Launch(1, 0, 1, 0)
    assert processes() is ALONE
    assert world() is ALONE


@pytest.mark.parametrize(
    ("here", "mine", "expected"),
    [
        (8, 8, 2),  # four processes share eight cores
        (8, 2, 2),  # each was given two
        (2, 2, 1),  # more processes than cores
        (64, 8, 8),  # of a larger machine
    ],
)
def test_processes_share_the_cores(here: int, mine: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, MPICH)
    monkeypatch.setattr(os, "cpu_count", lambda: here)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(mine)), raising=False)
    assert processor.cores() == expected


def test_processes_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    half = (IN_MEMORY // 8, 1)  # of float32
    assert not too_large(half)
    launched(monkeypatch, MPICH)
    assert too_large(half)


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 0), (2, 1), (4, 1)])
def test_each_process_takes_another_gpu(count: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(detection, "count", lambda: count)
    monkeypatch.setattr(detection, "why_not", lambda index: asked.append(index) or "none")
    launched(monkeypatch, MPICH)
    assert gpubp.get_backend("auto").name == "cpu"
    with pytest.raises(gpubp.DeviceError):
        gpubp.get_backend("cuda")
    with pytest.raises(gpubp.DeviceError):
        gpubp.get_backend("cuda:3")
    assert asked == [expected, expected, 3]


# -- errors ------------------------------------------------------------------------------------------------------------


def test_processes_that_cannot_reach_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, {**MPICH, "PMI_FD": "77"})
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(gpubp.DeviceError, match=r"pip install mpi4py mpich, or .* GPUBP_DISTRIBUTED=off"):
        gpubp.MLP([1, 1], output="identity").fit([[1.0]], [1.0], verbose=0)
    monkeypatch.setenv("GPUBP_DISTRIBUTED", "off")
    assert len(gpubp.MLP([1, 1], output="identity").fit([[1.0]], [1.0], epochs=2, verbose=0)) == 2


def test_a_setting_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, {**MPICH, "GPUBP_DISTRIBUTED": "on"})
    with pytest.raises(gpubp.DataError, match="GPUBP_DISTRIBUTED must be 'auto' or 'off', got 'on'"):
        gpubp.MLP([1, 1], output="identity").fit([[1.0]], [1.0], verbose=0)


@pytest.mark.parametrize("communicator", ["world", 3, object])
def test_what_is_no_communicator(communicator: Any) -> None:
    net = gpubp.MLP([1, 1], output="identity")
    with using(communicator), pytest.raises(gpubp.DataError, match="a communicator of mpi4py, None or"):
        net.fit([[1.0]], [1.0], verbose=0)
    assert processes() is ALONE


def test_training_by_itself_needs_no_mpi() -> None:
    """Nor loads it where it is installed."""
    code = (
        "import sys, gpubp; gpubp.MLP([1, 1], output='identity', device='cpu').fit([[1.0]], [1.0], verbose=0);"
        "print([name for name in sys.modules if name.startswith(('mpi4py', 'gpubp.distributed', 'gpubp.ending'))])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# -- NCCL --------------------------------------------------------------------------------------------------------------


def test_why_there_is_no_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    class Runtime:
        runtimeGetVersion = staticmethod(lambda: 13020)  # noqa: N815

    class Cupy:
        cuda = type("cuda", (), {"runtime": Runtime})

    def missing() -> Any:
        raise ModuleNotFoundError("No module named 'cupy'")

    def broken() -> Any:
        raise OSError("libnccl.so.2: cannot open shared object file")

    monkeypatch.setattr(nccl, "cupy", lambda: Cupy)
    for found, said in (
        (missing, "CuPy is not installed"),
        (broken, "CuPy cannot load it (OSError: libnccl.so.2: cannot open shared object file)"),
        (lambda: type("nccl", (), {"available": False}), "NCCL is not installed; pip install nvidia-nccl-cu13"),
        (lambda: type("nccl", (), {"available": True}), None),
    ):
        monkeypatch.setattr(nccl, "cupy_nccl", found)
        assert nccl.why_not_installed() == said
    assert nccl.why_not(gpubp.get_backend("cpu")) == "there is no GPU"
