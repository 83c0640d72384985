"""The emulated device for several processes of a launch: a GPU each, and an NCCL that adds up by MPI."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import emulated_cupy
import numpy as np
from mpi4py import MPI


@contextmanager
def gpus() -> Iterator[list[int]]:
    """Put them in place, four on this machine; the list is of the sizes of what is added up."""
    sums: list[int] = []
    library = ModuleType("cupy.cuda.nccl")

    class NcclCommunicator:
        def __init__(self, ndev: int, commId: bytes, rank: int) -> None:
            assert (ndev, rank) == (MPI.COMM_WORLD.size, MPI.COMM_WORLD.rank)
            assert MPI.COMM_WORLD.allgather(commId) == [b"the same in all"] * ndev

        def allReduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int) -> None:  # noqa: N802
            assert (sendbuf, op) == (recvbuf, 0)
            kind = {7: ctypes.c_float, 8: ctypes.c_double}[datatype]
            vector = np.ctypeslib.as_array((kind * count).from_address(sendbuf))
            MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, vector)
            sums.append(count)

    found: dict[str, Any] = {
        "available": True,
        "get_unique_id": lambda: b"the same in all",
        "get_version": lambda: 22809,
        "NCCL_FLOAT32": 7,
        "NCCL_FLOAT64": 8,
        "NCCL_SUM": 0,
        "NcclCommunicator": NcclCommunicator,
    }
    vars(library).update(found)
    with emulated_cupy.install() as machine:
        machine.devices = 4
        sys.modules["cupy.cuda.nccl"] = library
        yield sums
