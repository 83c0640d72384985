"""Ctrl-C and the signals of schedulers, as a flag that a training looks at after each step."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import isfunction
from types import FrameType
from typing import Any

# SIGUSR1 is what Slurm can be told to send some time before a job's end. Windows has none.
ENDING = [signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]

# Modules in C, while they are imported, may swallow a KeyboardInterrupt or let Python end by a fatal error: 1 of 350
# `gpubp train` that got a signal in their first 0.6 s. matplotlib's made a TypeError of it.
FRAGILE = ("importlib._bootstrap", "matplotlib")


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a flag, so that training ends with a whole step; a second one interrupts as usual.

    So too the signals of ENDING, where the program has a handler that raises KeyboardInterrupt.
    """
    pressed, usual = threading.Event(), _interrupting()

    def press(signum: int, frame: Any) -> None:
        try:
            usual[signum](signum, frame)
        except KeyboardInterrupt:
            pressed.set()
            restore()

    def restore() -> None:
        for signum, handler in usual.items():
            signal.signal(signum, handler)

    for signum in usual:
        signal.signal(signum, press)
    try:
        yield pressed.is_set
    finally:
        restore()


def _interrupting() -> dict[int, Callable[[int, Any], Any]]:
    """The handlers of signals that may end a training: the program's, and Python's own of Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING)}
    return {
        number: handler
        for number, handler in handlers.items()
        if isfunction(handler) or handler is signal.default_int_handler
    }


def fragile_frames(frame: FrameType | None) -> int:
    """How many are, among this one and its callers, of code that an exception from nowhere may break."""
    found = 0
    while frame is not None:
        found += str(frame.f_globals.get("__name__")).startswith(FRAGILE)
        frame = frame.f_back
    return found
