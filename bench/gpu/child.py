"""A process for whatever may crash or hang: it calls functions by name, and its end is not ours."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

TAIL = 2000  # characters of its last words that are kept


class UnansweredError(Exception):
    """Why a call has no answer, and what the process said last."""

    def __init__(self, reason: str, last_words: str = "") -> None:
        super().__init__(reason)
        self.last_words = last_words


class Child:
    """One process, started when it is first asked, and again when it is asked after it has failed."""

    def __init__(self) -> None:
        self._process: BaseProcess | None = None

    def ask(self, function: str, arguments: tuple[Any, ...], seconds: float) -> Any:
        """What `function`, "module:name", returns there; UnansweredError if it raises, dies or takes longer."""
        if self._process is None:
            self._start()
        assert self._process is not None
        try:
            self._pipe.send((function, arguments))
            if not self._pipe.poll(seconds):
                raise self._ended(f"no answer within {seconds:.0f} s")
            verdict, answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(5)
            raise self._ended(f"its process ended with {outcome(self._process.exitcode)}") from None
        if verdict == "answer":
            return answer
        raise self._ended(answer) if verdict == "spoilt" else UnansweredError(answer, self._last_words())

    def end(self) -> None:
        """Kill it, with whatever it started."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):  # gone, or not yet the head of its group
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.kill()
        self._process.join(5)
        self._pipe.close()
        self._log.close()
        self._process = None

    def _start(self) -> None:
        self._log = tempfile.NamedTemporaryFile(prefix="gpubp-bench-", suffix=".log")  # noqa: SIM115 (closed by end)
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        # No daemon, which might have no processes of its own; the harness ends it whatever happens.
        self._process = context.Process(target=serve, args=(there, self._log.name))
        self._process.start()
        there.close()

    def _last_words(self) -> str:
        return Path(self._log.name).read_text(errors="replace")[-TAIL:].strip()

    def _ended(self, reason: str) -> UnansweredError:
        error = UnansweredError(reason, self._last_words())
        self.end()
        return error


def outcome(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def serve(pipe: Connection, log: str) -> None:
    """The life of a child: call what it is told to, until nobody listens any more."""
    os.setsid()  # so that it can be killed with whatever it starts
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), stream)
    faulthandler.enable()
    with contextlib.suppress(EOFError, OSError):
        while True:
            function, arguments = pipe.recv()
            pipe.send(call(function, arguments))


def call(function: str, arguments: tuple[Any, ...]) -> tuple[str, Any]:
    module, name = function.split(":")
    try:
        return "answer", getattr(importlib.import_module(module), name)(*arguments)
    except (Exception, SystemExit) as error:  # whatever it is, it is the report
        traceback.print_exc()
        return ("failed" if sound() else "spoilt"), f"{type(error).__name__}: {error}"[:TAIL]


def sound() -> bool:
    """Whether this process's device still works: after an invalid access every later call fails as well."""
    cupy: Any = sys.modules.get("cupy")
    try:
        if cupy:
            cupy.cuda.runtime.deviceSynchronize()
    except Exception:
        return False
    return True
