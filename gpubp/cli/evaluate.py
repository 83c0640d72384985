"""`gpubp evaluate`: score a saved model, on the rows that its training held out unless others are asked for."""

import json
from math import isfinite
from pathlib import Path
from typing import Any

import click

from gpubp.cli import EXIT_SCORE, tell
from gpubp.cli.options import Name, complete_data, shared
from gpubp.registry import did_you_mean

CLASS_SCORES = ["accuracy", "accuracy_low", "accuracy_high", "loss", "samples"]
VALUE_SCORES = ["rmse", "mae", "r2", "loss", "samples"]
Requirement = tuple[str, float]


def requirements(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> list[Requirement]:
    """Names of scores and their bounds."""
    known, bounds = list(dict.fromkeys(CLASS_SCORES + VALUE_SCORES)), []
    for value in values:
        name, equals, number = value.partition("=")
        if not equals:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE, such as accuracy=0.98", ctx, param)
        if name not in known:
            raise click.BadParameter(f"{name!r} is no score; {did_you_mean(name, known)}", ctx, param)
        try:
            bound = float(number)
        except ValueError:
            bound = float("nan")
        if not isfinite(bound):
            raise click.BadParameter(f"{number!r} in {value!r} is not a finite number", ctx, param)
        if name.startswith("accuracy") and not 0 <= bound <= 1:
            raise click.BadParameter(f"{value!r}: an accuracy is a share from 0 to 1, such as 0.98", ctx, param)
        bounds.append((name, bound))
    return bounds


@click.command(short_help="Score a saved model on held-out data.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", shell_complete=complete_data)
@click.option("--split", type=Name(["test", "train", "all"]), help="The rows to score; the default is explained above.")
@click.option(
    "--min", "least", multiple=True, callback=requirements, metavar="NAME=VALUE", help="Exit with 5 if it is less."
)
@click.option(
    "--max", "most", multiple=True, callback=requirements, metavar="NAME=VALUE", help="Exit with 5 if it is more."
)
@click.option("--target", metavar="COL", help="The target, where it is another than in training.")
@shared
@click.pass_context
def command(
    ctx: click.Context,
    model: Path,
    data: str,
    split: str | None,
    least: list[Requirement],
    most: list[Requirement],
    target: str | None,
    device: str,
    seed: int,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Score MODEL, a file or a run's folder, on rows of DATA that it has not seen.

    Of the file that it was trained on those are exactly the rows that training held out; of any other file all rows,
    or its test part where it has one. --split says otherwise.

    \b
    gpubp evaluate runs/digits digits
    gpubp evaluate runs/flowers flowers.csv --split train
    gpubp evaluate runs/mnist mnist.npz --min accuracy=0.98 --max loss=0.1
    gpubp evaluate runs/digits digits --json

    Classes get the accuracy with its 95% interval, the loss, precision and recall, and what was taken for what;
    a regression gets R², RMSE and MAE in the units of the file. --min and --max take accuracy, accuracy_low,
    accuracy_high, rmse, mae, r2, loss and samples, any number of times, and make a score that fails exit code 5.
    """
    from gpubp.cli.model import load_model
    from gpubp.cli.report import class_report, console, value_report
    from gpubp.cli.scoring import choose, facts, score
    from gpubp.scores import ClassScores

    known = load_model(model, device)
    measured = VALUE_SCORES if known.decisions.task == "values" else CLASS_SCORES
    for name, _ in least + most:
        if name not in measured:
            raise click.UsageError(f"this model has no {name}, but {', '.join(measured)}", ctx)
    source = known.open(data, target, needs_target=True)
    choice = choose(known, source, data, split)
    tell(quiet, source.chosen, choice.note, verbose and known.net.fallback)
    scores, loss = score(known, choice.parts, data)
    names = known.preprocessing.classes or list(range(known.preprocessing.outputs))
    results = facts(scores, loss, names)
    if as_json:
        click.echo(json.dumps(results, allow_nan=False))
    elif isinstance(scores, ClassScores):
        class_report(console(), scores, loss, names, choice.rows)
    else:
        value_report(console(), scores, loss, known.preprocessing.target, choice.rows)
    failures = unmet(results, least, most)
    for failure in failures:
        click.echo(failure, err=True)
    if failures:
        ctx.exit(EXIT_SCORE)


def unmet(scores: dict[str, Any], least: list[Requirement], most: list[Requirement]) -> list[str]:
    """What is to be said of each requirement that these scores do not meet; one that is not finite meets none."""
    failures = []
    for bounds, sign, word in ((least, 1, "below"), (most, -1, "above")):
        for name, bound in bounds:
            value = scores[name]
            if value is None:
                failures.append(f"{name} is not a finite number")
            elif sign * value < sign * bound:
                failures.append(f"{name} {_told(value, bound)} is {word} {bound:g}")
    return failures


def _told(value: float, bound: float) -> str:
    """A figure short enough to read, and long enough to be seen to differ from the bound."""
    short = f"{value:.4g}"
    return short if float(short) != bound else repr(value)
