"""Processes that train one network together: what they agree on, what they add up, and how all end when one fails.

MPI carries what passes between them, by mpi4py, and NCCL the gradients of GPUs; docs/scaling.md tells how it is used.
"""

import functools
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpubp import ending
from gpubp.alone import ALONE, COMMUNICATOR, Alone
from gpubp.backends import nccl
from gpubp.backends.base import Backend
from gpubp.backends.blas import blas
from gpubp.errors import DataError, DeviceError, GpubpError
from gpubp.extras import to_install
from gpubp.kernel import Array
from gpubp.launcher import launch, shared
from gpubp.processor import cores

BY_ITSELF = "let each train by itself, by GPUBP_DISTRIBUTED=off"
PATIENCE = 30.0  # seconds of waiting for the others until that is said
POLL = 0.002


class Processes(Alone):
    """Those of an MPI communicator; all of them make this object."""

    def __init__(self, communicator: Any) -> None:
        self.rank, self.size = communicator.Get_rank(), communicator.Get_size()
        self._mpi = mpi()
        self._await(communicator.Ibarrier())
        self._own, self._ends = communicator.Dup(), communicator.Dup()  # apart from what a program sends on it
        self._nccl: dict[str, nccl.Nccl] = {}  # by GPU

    # -- what they agree on --------------------------------------------------------------------------------------------

    def of_all(self, value: Any) -> list[Any]:
        values: list[Any] = self._own.allgather(value)
        return values

    def of_first(self, value: Any) -> Any:
        return self._own.bcast(value)

    def any(self, flag: bool) -> bool:
        here = np.array([flag], np.int8)
        self._own.Allreduce(self._mpi.IN_PLACE, here, self._mpi.MAX)
        return bool(here[0])

    def rows_of_all(self, part: Any, rows: int) -> Any:
        out = np.empty((rows, *part.shape[1:]), part.dtype)
        counts = [out[each].size for each in self.parts(rows)]
        self._own.Allgatherv(np.ascontiguousarray(part), [out, counts])
        return out

    def agree(self, **facts: Any) -> None:
        of_all = self.of_all(facts)
        for name in dict.fromkeys(name for each in of_all for name in each):
            values = [each.get(name) for each in of_all]
            for rank, value in enumerate(values):
                if value != values[0]:
                    raise DataError(
                        f"processes that train together must be given the same, but {name} is {values[0]} in rank 0 "
                        f"and {value} in rank {rank}; give all the same, or {BY_ITSELF}"
                    )

    def meet(self) -> None:
        """Wait for all, and say so where that takes long; GpubpError where a program has ended instead of coming."""
        ended = np.flatnonzero(self._ended(False))
        if len(ended):
            raise GpubpError(
                f"rank {', '.join(map(str, ended))} of {self.size} has come to the end of its program, while rank "
                f"{self.rank} is to train with it: every process has to call fit"
            )

    def leave(self) -> None:
        """At the end of the program: wait for the others to end as well, or to find out that this one has."""
        if not self._mpi.Is_finalized():
            self._ended(True)

    def _ended(self, here: bool) -> Any:
        """Whether each process has come to its end; asked by all, at the start of a training and at the end."""
        of_all = np.empty(self.size, np.int8)
        self._await(self._own.Iallgather(np.array([here], np.int8), of_all), told=here)
        return of_all

    def __repr__(self) -> str:
        return f"rank {self.rank} of {self.size}"

    def _await(self, request: Any, told: bool = False) -> None:
        began = time.monotonic()
        while not request.Test():
            if not told and time.monotonic() - began > PATIENCE:
                told = True
                _say_waiting(self.rank, self.size)
            time.sleep(POLL)

    # -- what they add up ----------------------------------------------------------------------------------------------

    def adder(self, backend: Backend) -> "Adder":
        """What adds up vectors of this backend: NCCL where each process has a GPU of its own, else MPI on the host."""
        reason = nccl.why_not(backend)
        gpu = "" if reason else nccl.gpu(backend)
        found = self.of_all((reason, self.host, gpu))
        reasons = [reason for reason, *_ in found if reason]
        if not reasons and len({tuple(place) for _, *place in found}) < self.size:
            reasons = ["several processes share a GPU"]
        if reasons:
            return Adder(self._own, backend, f"by MPI, through host memory: {reasons[0]}")
        if self.any(gpu not in self._nccl):
            identifier = self.of_first(None if self.rank else nccl.new_identifier())
            self._nccl[gpu] = nccl.Nccl(identifier, self.rank, self.size)
        return NcclAdder(self._own, backend, "by NCCL, on the GPUs", self._nccl[gpu])

    # -- how they end --------------------------------------------------------------------------------------------------

    @contextmanager
    def together(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if not self.supervised and not self.all_fail():
                ending.say(error, self.rank, self.size)
                ending.abort(1)
            raise

    def all_fail(self) -> bool:
        """Asked by a process that fails: whether the others do as well, so that all can end in good order."""
        request, end = self._ends.Ibarrier(), time.monotonic() + ending.GRACE
        while not request.Test():
            if time.monotonic() > end:
                return False
            time.sleep(POLL)
        return True


class Adder:
    """Adds up vectors by MPI."""

    def __init__(self, communicator: Any, backend: Backend, how: str) -> None:
        self._communicator, self._backend, self.how = communicator, backend, how
        self._in_place = mpi().IN_PLACE

    def add(self, vector: Array) -> None:
        """vector ← Σ over all processes, with the same bits in each."""
        host = self._backend.to_numpy(vector)
        self._communicator.Allreduce(self._in_place, host)
        if host is not vector:
            self._backend.copy(self._backend.asarray(host, host.dtype), vector)


class NcclAdder(Adder):
    """Adds up vectors by NCCL, without waiting for the device."""

    def __init__(self, communicator: Any, backend: Backend, how: str, library: nccl.Nccl) -> None:
        super().__init__(communicator, backend, how)
        self._library = library

    def add(self, vector: Array) -> None:
        self._library.add(vector)


@contextmanager
def using(communicator: Any) -> Iterator[None]:
    """Let each `fit` within train in the processes of an mpi4py communicator, which all have to call it.

    None is this process alone, and "auto", as without this, all that an MPI launcher started.

    >>> import gpubp
    >>> net = gpubp.MLP([1, 1], output="identity", seed=0)
    >>> with using(None):  # whatever the other processes do
    ...     history = net.fit([[1.0]], [2.0], epochs=2, verbose=0)
    >>> len(history)
    2
    """
    before = COMMUNICATOR.set(communicator)
    try:
        yield
    finally:
        COMMUNICATOR.reset(before)


def resolve(communicator: Any) -> Alone:
    """The processes of "auto", all that a launcher started; of None, this one; or of an mpi4py communicator."""
    if communicator is None:
        return ALONE
    if isinstance(communicator, str) and communicator == "auto":
        return world()
    if not hasattr(communicator, "Allreduce") or not hasattr(communicator, "Dup"):
        raise DataError(f'a communicator of mpi4py, None or "auto" is needed, got {communicator!r}')
    return _of(communicator) if communicator.Get_size() > 1 else ALONE


def _of(communicator: Any) -> Processes:
    """What MPI keeps with the communicator from its first use on, and lets go with it."""
    key = _keyval()
    processes: Processes | None = communicator.Get_attr(key)
    if processes is None:
        processes = Processes(communicator)
        communicator.Set_attr(key, processes)
    return processes


@functools.cache
def _keyval() -> int:
    return int(mpi().Comm.Create_keyval())


def world() -> Alone:
    """All processes that an MPI launcher started; this one alone where there are no others.

    Raises DeviceError where there are others that cannot be reached.
    """
    setting = os.environ.get("GPUBP_DISTRIBUTED", "auto")
    if setting not in ("auto", "off"):
        raise DataError(f"GPUBP_DISTRIBUTED must be 'auto' or 'off', got {setting!r}")
    return _world() if shared() else ALONE


@functools.cache
def _world() -> Processes:
    started = launch().size
    waiting = threading.Timer(PATIENCE, _say_waiting, (launch().rank, started))
    waiting.start()  # MPI itself waits for all to start it
    try:
        communicator = mpi().COMM_WORLD
    finally:
        waiting.cancel()
    if communicator.Get_size() != started:
        raise DeviceError(
            f"a launcher started {started} processes, but {library()} finds {communicator.Get_size()}: they belong to "
            f"different installations; use the mpiexec of that one, or {BY_ITSELF}"
        )
    processes = _of(communicator)
    found = blas()
    if found and "OPENBLAS_NUM_THREADS" not in os.environ and "OMP_NUM_THREADS" not in os.environ:
        found.limit(min(found.threads(), cores()))
    ending.know(processes)
    return processes


def _say_waiting(rank: int, size: int) -> None:
    others = "every process has to call fit; to train without the others"
    print(f"rank {rank} of {size} has waited {PATIENCE:g} s for the others: {others}, {BY_ITSELF}", file=sys.stderr)
    sys.stderr.flush()


def mpi() -> Any:
    """The module mpi4py.MPI, which starts MPI; DeviceError where it or an MPI library is missing."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # the latter where no MPI library is found
        raise DeviceError(
            f"several processes were started, but they cannot reach each other ({error}); {install()}, or {BY_ITSELF}"
        ) from None
    return MPI


def install() -> str:
    """What brings mpi4py and, where it is packaged, an MPI."""
    return to_install("mpi", "mpi4py mpich")


def library() -> str:
    """The MPI library, by name and version."""
    first = mpi().Get_library_version().split("\n")[0].split(",")[0]  # of MPICH a line, of Open MPI up to a comma
    return " ".join(first.replace("Version:", "").strip("\0").split())
