"""What `gpubp devices` says of MPI and NCCL, by which several processes train one network."""

import os
import shutil
import sys
from importlib import metadata
from typing import Any

from gpubp.alone import processes
from gpubp.backends import get_backend, nccl
from gpubp.cli import command_line
from gpubp.distributed import install, library
from gpubp.processor import cores


def rows() -> list[dict[str, Any]]:
    """Of each its version, or why it cannot be used and what would mend that; of the processes what each has."""
    return [_mpi(), _nccl()]


def _mpi() -> dict[str, Any]:
    try:
        import mpi4py

        started = processes()
        if started.size == 1:
            mpi4py.rc.initialize = False  # to ask for its version it need not be started
        found = {"library": library(), "mpi4py": metadata.version("mpi4py")}
    except ModuleNotFoundError:
        return {"device": "mpi", "available": "no", "reason": f"mpi4py is not installed; {install()}"}
    except RuntimeError as error:
        return {"device": "mpi", "available": "no", "reason": f"no MPI library was found ({error}); {install()}"}
    backend = get_backend("auto")
    here = {"host": started.host, "device": backend.name, "name": backend.describe()["name"], "cores": cores()}
    ranks, adder = started.of_all(here), started.adder(backend)
    return {"device": "mpi", "available": "yes", **found, "ranks": ranks, "sums": adder.how if adder else None}


def _nccl() -> dict[str, Any]:
    reason = nccl.why_not_installed()
    if reason is None:
        return {"device": "nccl", "available": "yes", "library": f"NCCL {nccl.version()}"}
    return {"device": "nccl", "available": "no", "reason": reason}


def lines(row: dict[str, Any]) -> list[str]:
    """What there is to say of one that can be used."""
    if row["device"] == "nccl":
        return [row["library"], "experimental: no two GPUs have run it yet"]
    ranks = row["ranks"]
    first = f"{row['library']}, mpi4py {row['mpi4py']}"
    if len(ranks) == 1:
        return [first, f"one process; several share each batch: {_mpiexec()} -n 2 {command_line('train', 'DATA')}"]
    return [
        f"{first}: {len(ranks)} processes",
        *(f"rank {rank} on {at['host']}: {at['device']}, {_has(at)}" for rank, at in enumerate(ranks)),
        f"gradients are added up {row['sums']}",
    ]


def _mpiexec() -> str:
    """On the PATH, or beside this Python, where the extra installs it."""
    beside = shutil.which("mpiexec", path=os.path.dirname(sys.executable))
    return "mpiexec" if shutil.which("mpiexec") or not beside else os.path.relpath(beside)


def _has(rank: dict[str, Any]) -> str:
    if rank["device"] != "cpu":
        return str(rank["name"])
    return f"{rank['cores']} core{'s' * (rank['cores'] != 1)}"
