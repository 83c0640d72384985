"""The processes of a launch as one program: the first one speaks, and all end when one fails."""

import io
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpubp import ending
from gpubp.errors import DataError, GpubpError
from gpubp.launcher import launch, shared

SHARING = ("train", "devices")  # the commands that know of other processes


@contextmanager
def together(command: str | None) -> Iterator[None]:
    """Run one of gpubp's commands in all processes.

    What the others than rank 0 say is held back, and said only where one of them fails alone.
    """
    if not shared() or command not in SHARING:
        yield
        return
    usual, held = sys.stderr, io.StringIO()
    if launch().rank:
        sys.stdout, sys.stderr = open(os.devnull, "w", encoding="utf-8"), held  # noqa: SIM115
    processes, code = None, 1
    try:
        processes = _world()
        yield
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except KeyboardInterrupt:  # while MPI was starting
        print("interrupted", file=sys.stderr)
        code = 130
    except BaseException as error:
        traceback.print_exception(error)
    if code and processes is not None:
        _end(processes, code, held.getvalue(), usual)
    sys.exit(code)


def _world() -> Any:
    from gpubp.distributed import world

    try:
        processes = world()
    except GpubpError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(4 if isinstance(error, DataError) else 3)
    processes.supervised = True
    return processes


def _end(processes: Any, code: int, said: str, stderr: Any) -> None:
    """Exit with the greatest of all codes where all fail together, and end all where not."""
    sys.stdout.flush()
    if processes.all_fail():
        sys.exit(max(processes.of_all(code)))
    if processes.rank:
        stderr.write("".join(f"rank {processes.rank}: {line}\n" for line in said.splitlines()))
        stderr.flush()
    ending.abort(code)
