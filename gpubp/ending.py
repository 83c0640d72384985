"""The end of all processes of a launch when one of them fails: MPI by itself lets the others wait for it for ever."""

import atexit
import os
import signal
import sys
import time
import traceback
from typing import Any

from gpubp.launcher import launch

GRACE = 2.0  # seconds that a process which fails waits for the others to fail as well
DELIVERY = 0.2  # seconds that a launcher gets to pass on what was said: MPICH's drops the rest when it ends all
_reached: list[Any] = []  # the processes, from when they know each other


def know(processes: Any) -> None:
    """From now on ask these."""
    _reached[:] = [processes]


def end_together() -> None:
    """Let an exception that ends this program end all. Where all have it, rank 0 alone says so."""
    usual = sys.excepthook

    def end(*error: Any) -> None:
        rank = launch().rank
        if rank == 0:
            usual(*error)
        if _reached and _reached[0].all_fail():
            return
        if rank:
            if not _reached:
                time.sleep(GRACE)  # by then rank 0 would have ended all
            say(error[1], rank, launch().size)
        abort(1)

    sys.excepthook = end
    atexit.register(_leave)


def _leave() -> None:
    """Those that wait to train with this process are to know that it has ended, as by sys.exit."""
    if _reached:
        _reached[0].leave()


def say(error: BaseException, rank: int, size: int) -> None:
    """In one piece, as others may be saying theirs."""
    sys.stderr.write(f"rank {rank} of {size} fails, and with it all:\n{''.join(traceback.format_exception(error))}")


def abort(code: int) -> None:
    """End all processes, once what they said has got out."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    time.sleep(DELIVERY)
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.COMM_WORLD.Abort(code)
    os.kill(os.getpid(), signal.SIGABRT)  # which a launcher takes for the end of all; an exit code it would not
