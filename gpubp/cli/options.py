"""Options that several commands share."""

import re
import tomllib
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from gpubp.registry import did_you_mean

Command = TypeVar("Command", bound=Callable[..., Any])


class Number(click.FloatRange):
    """A finite number in a range; click's own lets nan and inf through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class Name(click.Choice):  # type: ignore[type-arg]  # it takes one since click 8.2
    """One of these names; of others the nearest is said."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value not in self.choices:
            self.fail(f"{value!r} is not known; {did_you_mean(str(value), list(self.choices))}", param, ctx)
        return super().convert(value, param, ctx)


def known_device(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """A device's name; whether it is there is another question."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,9})?", value):
        raise click.BadParameter(f"{value!r} is not one of auto, cpu, cuda, cuda:N", ctx, param)
    return value


def shared(command: Command) -> Command:
    """--device, --seed, --json, -q and -v."""
    for option in (
        click.option("-v", "--verbose", is_flag=True, help="Say more on stderr."),
        click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object."),
        click.option(
            "--seed",
            type=click.IntRange(0, 2**64 - 1),
            default=0,
            show_default=True,
            help="Of weights, shuffles and dropout.",
        ),
        click.option(
            "--device", callback=known_device, default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
        ),
    ):
        command = option(command)
    return command


def complete_data(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For the shell: the data sets' names, and files."""
    from gpubp.data.files import NAMES

    names = [CompletionItem(name) for name in NAMES if name.startswith(incomplete)]
    return [*names, CompletionItem(incomplete, type="file")]


def share_or_file(ctx: click.Context, param: click.Parameter, value: str) -> float | str:
    """A share strictly between 0 and 1, or the name of a file."""
    try:
        share = float(value)
    except ValueError:
        return value
    if not 0 < share < 1:
        raise click.BadParameter(f"{value!r} is neither a share between 0 and 1 nor a file", ctx, param)
    return share


def config_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    """Take what a TOML file sets as the defaults of the other options: hidden = [256, 128], batch-size = 64."""
    if value is None:
        return
    try:
        settings = tomllib.loads(value.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise click.BadParameter(f"{str(value)!r} cannot be read as TOML: {reason}", ctx, param) from None
    names = {name.lstrip("-"): each.name for each in ctx.command.params for name in each.opts}
    flags = {each.name for each in ctx.command.params if isinstance(each, click.Option) and each.is_flag}
    defaults: dict[str, Any] = {}
    for key, setting in settings.items():
        known = names.get(key.replace("_", "-"))
        if known is None or known in ("config", "resume"):
            near = did_you_mean(key, sorted(name for name in names if len(name) > 1))
            raise click.BadParameter(f"{str(value)!r} sets {key!r}, which is no setting; {near}", ctx, param)
        if isinstance(setting, dict):
            raise click.BadParameter(f"{str(value)!r} has a table {key!r}; settings stand at the top", ctx, param)
        if known in defaults:
            raise click.BadParameter(f"{str(value)!r} sets {key!r} by two of its names; remove one", ctx, param)
        text = ",".join(map(str, setting)) if isinstance(setting, list) else str(setting)
        defaults[known] = setting if known in flags else text
    ctx.default_map = defaults


def widths(ctx: click.Context, param: click.Parameter, value: str) -> list[int]:
    """The widths of hidden layers: 256,128; none for no hidden layer."""
    parts = [] if value == "none" else value.split(",")
    if not all(map(positive, parts)):
        raise click.BadParameter(f"{value!r} is not a list of positive widths such as 256,128 (or none)", ctx, param)
    return [int(part) for part in parts]


def positive(text: str) -> bool:
    """Whether this is a positive whole number, and not one of so many digits that Python refuses to read it."""
    return bool(re.fullmatch(r"\s*[0-9]{1,18}\s*", text)) and int(text) > 0


def batch_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    """A positive number of rows, or full."""
    if value is None or value == "full":
        return value
    if not positive(value):
        raise click.BadParameter(f"{value!r} is neither a positive number of rows nor full", ctx, param)
    return int(value)
