"""The command line: `gpubp train`, `evaluate`, `devices`.

Results go to stdout, progress to stderr, and errors to an exit code.
"""

import os
import sys
from typing import Any

import click

from gpubp import __version__
from gpubp.errors import DataError, DeviceError, GpubpError, ShapeError

EXIT_FAILURE, EXIT_DEVICE, EXIT_DATA, EXIT_INTERRUPTED = 1, 3, 4, 130


class Group(click.Group):
    """A group whose commands' modules are imported only when they run, and whose errors become exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["train", "evaluate", "devices"]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        from importlib import import_module

        if name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"gpubp.cli.{name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GpubpError as error:
            click.echo(f"error: {error}", err=True)
            code = EXIT_DEVICE if isinstance(error, DeviceError) else EXIT_FAILURE
            ctx.exit(EXIT_DATA if isinstance(error, DataError | ShapeError) else code)
        except KeyboardInterrupt:  # training itself ends with a saved model; this is before or after it
            click.echo("interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:  # the reader of our output left
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(EXIT_FAILURE)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Train multi-layer perceptrons by backpropagation, on the CPU or on a CUDA GPU.

    \b
    gpubp train digits          learn handwriting and save the model
    gpubp evaluate MODEL DATA   score a saved model
    gpubp devices               what can be computed on here, and why not on more

    Exit codes: 0 ok, 1 failure, 2 usage, 3 the device asked for is not there, 4 bad data, 130 interrupted.
    """


def command_line(*arguments: str) -> str:
    """What a user types to run gpubp with these arguments, as it was started this time."""
    import shlex

    return f"{os.environ.get('GPUBP_COMMAND', 'gpubp')} {shlex.join(arguments)}"


def score_line(scores: dict[str, float], samples: int) -> tuple[str, str]:
    """A classifier's scores for people: the accuracy, and what follows it."""
    right = round(scores["accuracy"] * samples)
    return f"accuracy {scores['accuracy']:.2%}", f" ({right} of {samples}), loss {scores['loss']:.4f}"
