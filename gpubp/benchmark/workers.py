"""The process that each contender lives in, and what the one that holds the race asks of it through a pipe.

In a shared process a library's idle threads spin into the next one's turn, and the OpenMP runtime, the thread counts
and the environment are the first one's. On 2 cores, sharing made PyTorch's step of 784-128-10 at 32 rows 1.2 to 1.7
times slower, with the pause or without (the others were the same within noise): it would have flattered us.
"""

import contextlib
import gc
import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from gpubp.benchmark.contenders import BUILDERS, Contender, DifferentWorkError, Setting, check
from gpubp.benchmark.machine import forget_peak, resident_peak, versions_of
from gpubp.benchmark.ours import peak_flops
from gpubp.benchmark.problem import Problem, make_problem
from gpubp.benchmark.timing import estimated, timed
from gpubp.errors import GpubpError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
WARM_UP = {"cpu": 10, "cuda": 2}  # a turn begins with one untimed step in so many: caches, threads and clocks awake


class FailedError(GpubpError):
    """A contender could not be built or run. Its second argument, where there is one, is the traceback."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass
class Racer:
    """A contender seen from here: its process and the pipe to it."""

    name: str
    setting: Setting
    process: BaseProcess
    pipe: Connection
    versions: dict[str, str] = field(default_factory=dict)
    ended: str = ""  # why there is nobody to ask any more

    def ask(self, command: str, *arguments: Any, seconds: float | None = None) -> Any:
        """The answer. Raises DifferentWorkError or FailedError, the latter too when `seconds` are over."""
        if self.ended:
            raise FailedError(self.ended)
        try:
            if command != "hello":  # a worker speaks first, once
                self.pipe.send((command, arguments))
            if self.pipe.poll(seconds):
                verdict, answer = self.pipe.recv()
            else:
                self.process.kill()
                self.ended = f"not ready after {seconds:g} s"
        except (EOFError, OSError):
            self.process.join(1)
            self.ended = f"its process ended (exit code {self.process.exitcode})"
        if self.ended:
            raise FailedError(self.ended)
        if verdict == "different":
            raise DifferentWorkError(answer)
        if verdict == "failed":
            raise FailedError(*answer)
        return answer


class Booth:
    """Where one contender lives, and what it can be asked."""

    def __init__(self, name: str, setting: Setting) -> None:
        self.name, self.setting = name, setting
        self.contender: Contender | None = None

    def answer(self, command: str, arguments: tuple[Any, ...]) -> tuple[str, Any]:
        """The verdict, and what was asked for or why it cannot be had."""
        try:
            return "ok", getattr(self, command)(*arguments)
        except DifferentWorkError as error:
            return "different", str(error)
        except Exception as error:  # whatever a peer raises is the report
            first = next(iter(str(error).splitlines()), "")
            kind = "not enough memory" if isinstance(error, MemoryError) else type(error).__name__
            told = first if isinstance(error, GpubpError) else f"{kind}: {first}"
            return "failed", (told, traceback.format_exc())

    def build(self, *cell: Any) -> dict[str, Any]:
        """Make the contender for this cell, the arguments of `make_problem`, and hold it against the reference."""
        self.contender = None
        problem: Problem = make_problem(*cell)
        contender = BUILDERS[self.name](problem, self.setting)
        losses = check(contender, problem, self.setting.precision)
        self.contender = contender
        versions = versions_of(self.name, BUILDERS[self.name].distributions)
        return {"losses": losses, "note": contender.note, "versions": versions}

    def calibrate(self, seconds: float) -> float:
        """Seconds a step, of a contender that is warm."""
        assert self.contender is not None
        gc.collect()
        gc.freeze()  # what the import left behind is not the step's garbage
        estimate = partial(estimated, self.contender.step, self.contender.wait, seconds)
        estimate()
        forget_peak()
        return estimate()

    def peak(self) -> float:
        """Floating-point operations a second of one large product on the setting's device."""
        return peak_flops(self.setting)

    def run(self, steps: int) -> float:
        """Seconds a step, in one turn."""
        assert self.contender is not None
        timed(self.contender.step, self.contender.wait, 1 + steps // WARM_UP[self.setting.kind])
        return timed(self.contender.step, self.contender.wait, steps)

    def memory(self) -> int | None:
        """The peak of bytes: of the GPU's memory, or of all that this process had of the CPU's."""
        assert self.contender is not None
        return resident_peak() if self.setting.kind == "cpu" else self.contender.memory()


@contextlib.contextmanager
def racing(
    entries: list[tuple[str, Setting]], quiet: bool = False, booth: type[Booth] = Booth
) -> Iterator[list[Racer]]:
    """A process for each of these contenders, all with the threads of their settings, until the end of the block."""
    context = multiprocessing.get_context("spawn")
    racers: list[Racer] = []
    try:
        for name, setting in entries:
            here, there = context.Pipe()
            process = context.Process(target=worker, args=(there, name, setting, quiet, booth), daemon=True)
            with _environment(dict.fromkeys(THREAD_VARIABLES, str(setting.threads))):
                process.start()
            there.close()
            racers.append(Racer(name, setting, process, here))
        for racer in racers:
            with contextlib.suppress(FailedError):  # whoever asks next hears it again
                racer.ask("hello")
        yield racers
        for racer in racers:
            with contextlib.suppress(OSError):
                racer.pipe.send(("stop", ()))
        for racer in racers:
            racer.process.join(5)
    finally:
        for racer in racers:
            racer.process.kill()
            racer.process.join()
            racer.pipe.close()


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Environment variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def worker(pipe: Connection, name: str, setting: Setting, quiet: bool, booth: type[Booth]) -> None:
    """The life of a contender's process: build a cell, run so many steps when told, and block on the pipe between."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who holds the race
    if quiet:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    if hasattr(os, "sched_setaffinity"):
        # The one setting of threads that all contenders obey: XLA has no other.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: setting.threads])
    if name in ("gpubp", "gpubp-captured", "gemms"):
        import_module("gpubp.api")  # before NumPy
    home = booth(name, setting)
    pipe.send(("ok", "ready"))
    with contextlib.suppress(EOFError, OSError):  # the one who held the race is gone
        while (request := pipe.recv())[0] != "stop":
            pipe.send(home.answer(*request))
