"""Options that several commands share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def shared(command: Command) -> Command:
    """--device, --seed, --json, -q and -v."""
    for option in (
        click.option("-v", "--verbose", is_flag=True, help="Say more on stderr."),
        click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object."),
        click.option(
            "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of weights, shuffles and dropout."
        ),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
    ):
        command = option(command)
    return command


def widths(ctx: click.Context, param: click.Parameter, value: str) -> list[int]:
    """The widths of hidden layers: 256,128; none for no hidden layer."""
    parts = [] if value == "none" else value.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r} is not a list of positive widths such as 256,128 (or none)", ctx, param)
    return [int(part) for part in parts]


def batch_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    """A positive number of rows, or full."""
    if value is None or value == "full":
        return value
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is neither a positive number of rows nor full", ctx, param)
    return int(value)
