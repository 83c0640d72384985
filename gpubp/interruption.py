"""Ctrl-C and the signals of schedulers, as a flag that a training looks at after each step."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import isfunction
from typing import Any

# SIGUSR1 is what Slurm can be told to send some time before a job's end. Windows has none.
ENDING = [signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a flag, so that training ends with a whole step; a second one interrupts as usual.

    So too the signals of ENDING for which the program has a handler that raises KeyboardInterrupt.
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
    """The handlers of signals that are to end a training: Python's own of Ctrl-C, and the program's of others."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING)}
    if handlers[signal.SIGINT] is not signal.default_int_handler:  # ignored, say, as in the background of a shell
        del handlers[signal.SIGINT]
    return {number: handler for number, handler in handlers.items() if number == signal.SIGINT or isfunction(handler)}
