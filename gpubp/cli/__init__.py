"""The command line: `gpubp train`, `evaluate`, `predict`, `export`, `bench`, `devices`.

Results go to stdout, progress to stderr, and errors to an exit code.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from gpubp import __version__
from gpubp.errors import DataError, DeviceError, GpubpError, ShapeError
from gpubp.interruption import ENDING, fragile_frames
from gpubp.registry import did_you_mean

EXIT_FAILURE, EXIT_DEVICE, EXIT_DATA, EXIT_SCORE, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 3, 4, 5, 130, 143
LATER = 0.01  # seconds until a signal that met fragile code comes again


class Group(click.Group):
    """A group whose commands' modules are imported only when they run, and whose errors become exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["train", "evaluate", "predict", "explain", "check", "export", "bench", "devices"]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        from importlib import import_module

        if name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"gpubp.cli.{name}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"No such command {args[0]!r}; {did_you_mean(args[0], known)}")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **extra: Any) -> Any:
        from gpubp.cli.streams import complete_streams, give_up_streams
        from gpubp.cli.together import together

        complete_streams()
        given = args[0] if args else extra.get("args") or sys.argv[1:]
        try:
            with together(next(iter(given), None)):
                return super().main(*args, **extra)
        except OSError as error:  # a full disk behind standard output: files have errors of their own
            what = error.filename or "cannot write to standard output"
            with suppress(OSError):
                click.echo(f"error: {what}: {error.strerror or error}", err=True)
            give_up_streams()
            sys.exit(EXIT_FAILURE)

    def invoke(self, ctx: click.Context) -> Any:
        from gpubp.cli.streams import give_up_streams

        try:
            with terminable(ctx):
                try:
                    return super().invoke(ctx)
                finally:
                    sys.stdout.flush()
        except GpubpError as error:
            click.echo(f"error: {error}", err=True)
            from gpubp.backends.base import OutOfMemoryError  # here, as it costs NumPy

            missing = isinstance(error, DeviceError) and not isinstance(error, OutOfMemoryError)
            code = EXIT_DEVICE if missing else EXIT_FAILURE
            ctx.exit(EXIT_DATA if isinstance(error, DataError | ShapeError) else code)
        except KeyboardInterrupt:  # training itself ends with a saved model; this is before or after it
            click.echo("interrupted", err=True)
            ctx.exit(interrupted_code(ctx))
        except BrokenPipeError:  # the reader of our output left
            give_up_streams()
            ctx.exit(EXIT_FAILURE)
        except MemoryError as error:
            remedy = "a smaller network or smaller batches take less"
            click.echo(f"error: there is not enough memory: {error or 'none is left'}; {remedy}", err=True)
            ctx.exit(EXIT_FAILURE)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Train multi-layer perceptrons by backpropagation, on the CPU or on a CUDA GPU.

    \b
    gpubp train digits          learn handwriting and save the model
    gpubp evaluate MODEL DATA   score a saved model on rows that it has not seen
    gpubp predict MODEL DATA    its decisions on new rows
    gpubp explain two-layer     one step of backpropagation with all its numbers, of an example or a model
    gpubp check MODEL DATA      whether its gradients are right
    gpubp export MODEL -o FILE  the model for ONNX or NumPy
    gpubp bench                 how fast a network trains here, beside PyTorch and others
    gpubp devices               what can be computed on here, and why not on more

    Exit codes: 0 ok, 1 failure, 2 usage, 3 the device asked for is not there, 4 bad data, 5 a score that --min or --max
    asks for was missed, 130 interrupted, 143 terminated.
    """


class Interrupted(KeyboardInterrupt):
    """Not a plain KeyboardInterrupt, for each of which Python ends by SIGINT where it met an exec, caught or not."""


@contextmanager
def terminable(ctx: click.Context) -> Iterator[None]:
    """Let SIGTERM and SIGUSR1 end what runs as Ctrl-C does, in good order, but for the exit code.

    What is too fragile for them comes to its end first, and by then there may be nothing left to end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, again = fragile_frames(sys._getframe()), dict[int, threading.Timer]()

    def end(signum: int, frame: Any) -> None:
        if fragile_frames(frame) > before:
            again[signum] = threading.Timer(LATER, os.kill, (os.getpid(), signum))
            again[signum].start()
            return
        if signum != signal.SIGINT:
            ctx.meta["gpubp.interrupted"] = EXIT_TERMINATED
        raise Interrupted

    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING)}
    free = [number for number, handler in usual.items() if handler in (signal.SIG_DFL, signal.default_int_handler)]
    for number in free:
        signal.signal(number, end)
    try:
        yield
    finally:
        for timer in again.values():
            timer.cancel()
        for number in free:
            signal.signal(number, usual[number])


def interrupted_code(ctx: click.Context) -> int:
    """The exit code of what was interrupted: by Ctrl-C, or by SIGTERM."""
    return int(ctx.meta.get("gpubp.interrupted", EXIT_INTERRUPTED))


def tell(quiet: bool, *notes: str | bool | None) -> None:
    """What the user should know, on stderr; what is not there is left out."""
    for note in notes:
        if note and not quiet:
            click.echo(note, err=True)


def command_line(*arguments: str) -> str:
    """What a user types to run gpubp with these arguments, as it was started this time."""
    import shlex

    return f"{os.environ.get('GPUBP_COMMAND', 'gpubp')} {shlex.join(arguments)}"
