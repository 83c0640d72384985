"""One process that trains a network by itself: what `gpubp.distributed.Processes` is for several."""

import platform
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from itertools import pairwise
from typing import Any

from gpubp.launcher import shared


class Alone:
    """All that there is to agree on is what this process knows."""

    rank, size = 0, 1
    host = platform.node()
    supervised = False  # whether somebody else sees to it that all end when one fails

    def part(self, rows: int) -> slice:
        """Which of so many rows are this process's."""
        return slice(0, rows) if self.size == 1 else self.parts(rows)[self.rank]

    def parts(self, rows: int) -> list[slice]:
        """Those of all processes, by rank; of fewer rows no process has more."""
        each, more = divmod(rows, self.size)
        ends = [rank * each + min(rank, more) for rank in range(self.size + 1)]
        return [slice(start, end) for start, end in pairwise(ends)]

    def of_all(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        return [value]

    def of_first(self, value: Any) -> Any:
        """The value of rank 0."""
        return value

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return flag

    def rows_of_all(self, part: Any, rows: int) -> Any:
        """A host array of so many rows, of which each process has its part."""
        return part

    def agree(self, **facts: Any) -> None:
        """DataError, in all processes, for a fact that is not the same in all."""

    def meet(self) -> None:
        """Wait for all."""

    def adder(self, backend: Any) -> Any:
        """What adds up vectors of this backend over all processes; None where there is one process."""
        return None

    def together(self) -> AbstractContextManager[None]:
        """What all processes do at once: an exception that not all of them raise ends all."""
        return nullcontext()


ALONE = Alone()
COMMUNICATOR: ContextVar[Any] = ContextVar("communicator", default="auto")  # what `gpubp.distributed.using` has set


def processes() -> Alone:
    """Those that are to train together; MPI is not even looked for where no launcher is at work."""
    if (chosen := COMMUNICATOR.get()) is None or (chosen == "auto" and not shared()):
        return ALONE
    from gpubp.distributed import resolve

    return resolve(chosen)
