"""Several "processes" of one training as threads of this one, which meet as MPI's do: what tests need no MPI for."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import gpubp.mlp
from gpubp.alone import ALONE, Alone
from gpubp.distributed import Processes

TIMEOUT = 30.0  # seconds, after which whoever waits for the others fails
LEAVE = 0.1  # seconds for the others to leave the last place where all met


class Meeting:
    """Where the threads meet: each leaves a value and takes those of all."""

    def __init__(self, size: int) -> None:
        self.values: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=TIMEOUT)

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.values[rank] = value
        self.barrier.wait()
        found = list(self.values)
        self.barrier.wait()
        return found


class Member(Alone):
    """One of them."""

    agree = Processes.agree

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.size, self.meeting = rank, len(meeting.values), meeting
        self.sums = 0  # of vectors that were added up

    def of_all(self, value: Any) -> list[Any]:
        return self.meeting.exchange(self.rank, value)

    def of_first(self, value: Any) -> Any:
        return self.of_all(value)[0]

    def any(self, flag: bool) -> bool:
        return any(self.of_all(flag))

    def rows_of_all(self, part: Any, rows: int) -> Any:
        return np.concatenate(self.of_all(part))

    def adder(self, backend: Any) -> Any:
        return self

    def add(self, vector: Any) -> None:
        self.sums += 1
        vector[...] = sum(self.of_all(vector.copy()))


_member = threading.local()


@contextmanager
def _in_place_of_mpi() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpubp.mlp, "processes", lambda: getattr(_member, "value", ALONE))
        yield


def run(size: int, work: Callable[[Alone], Any]) -> list[Any]:
    """What `work` returns, or the exception that it raises, in each of so many threads."""
    if size == 1:
        return [work(ALONE)]
    meeting, results = Meeting(size), [None] * size

    def one(rank: int) -> None:
        _member.value = Member(rank, meeting)
        try:
            results[rank] = work(_member.value)
        except Exception as error:  # the test looks at it
            results[rank] = error
            time.sleep(LEAVE)
            meeting.barrier.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    with _in_place_of_mpi():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return results
