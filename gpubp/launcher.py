"""What an MPI launcher (mpiexec, srun) says of the processes that it started, by the variables that it sets."""

import os
import re
from typing import NamedTuple

# By MPICH and Intel's MPI, Open MPI, MVAPICH, and Slurm's srun: the first that is set holds. Cray's mpiexec names
# size and rank as MPICH does, but calls the local ones PMI_LOCAL_SIZE and PMI_LOCAL_RANK.
SIZE = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
RANK = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID")
LOCAL_SIZE = (
    "MPI_LOCALNRANKS",
    "PMI_LOCAL_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MV2_COMM_WORLD_LOCAL_SIZE",
    "SLURM_STEP_TASKS_PER_NODE",  # "4(x2),3": of the first machines
)
LOCAL_RANK = (
    "MPI_LOCALRANKID",
    "PMI_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "SLURM_LOCALID",
)


class Launch(NamedTuple):
    """How many processes were started, in all and on this machine, and which of them this is."""

    size: int = 1
    rank: int = 0
    local_size: int = 1
    local_rank: int = 0


def launch() -> Launch:
    """A program that was started by itself is the only one of its launch."""
    size = _first(SIZE, 1)
    return Launch(size, _first(RANK, 0), _first(LOCAL_SIZE, 1), _first(LOCAL_RANK, 0)) if size > 1 else Launch()


def shared() -> bool:
    """Whether there are several processes, which are to train together."""
    return launch().size > 1 and os.environ.get("GPUBP_DISTRIBUTED") != "off"


def _first(names: tuple[str, ...], default: int) -> int:
    found = (re.match("[0-9]{1,9}", os.environ.get(name, "")) for name in names)
    return next((int(match[0]) for match in found if match), default)
