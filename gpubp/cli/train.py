"""`gpubp train`: from a data set to a saved model, its test accuracy, and the samples it got most wrong."""

import json
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import click

from gpubp.activations import Activation
from gpubp.cli import EXIT_INTERRUPTED, command_line, score_line
from gpubp.cli.options import Number, batch_size, shared, widths
from gpubp.errors import GpubpError
from gpubp.optimizers import Optimizer
from gpubp.schedules import Schedule

POSITIVE = Number(0, min_open=True)
FRACTION = Number(0, 1, min_open=True, max_open=True)


@click.command(short_help="Train a network and save it.")
@click.argument("data")
@click.option("--hidden", callback=widths, default="256,128", show_default=True, help="Hidden layers: 256,128 or none.")
@click.option(
    "--activation",
    type=click.Choice(sorted(Activation.members)),
    default="relu",
    show_default=True,
    help="Of hidden layers.",
)
@click.option("--dropout", type=Number(0, 1, max_open=True), default=0.2, show_default=True, help="Of hidden units.")
@click.option(
    "--optimizer", type=click.Choice(sorted(Optimizer.members)), default="adam", show_default=True, help="By name."
)
@click.option("--lr", "--learning-rate", "lr", type=POSITIVE, help="Learning rate; the default is the optimizer's own.")
@click.option(
    "--schedule", type=click.Choice(sorted(Schedule.members)), default="cosine", show_default=True, help="Of the rate."
)
@click.option("--weight-decay", type=Number(0), default=0.0, show_default=True, help="On weights, not biases.")
@click.option("--epochs", type=click.IntRange(1), default=60, show_default=True, help="Passes over the rows.")
@click.option("--batch-size", callback=batch_size, help="Rows a step, or full; the default is n / 100, from 16 to 128.")
@click.option("--val", type=FRACTION, default=0.1, show_default=True, help="Share of the training rows to validate on.")
@click.option("--test", type=FRACTION, default=0.2, show_default=True, help="Share of all rows held out for the test.")
@click.option("--patience", type=click.IntRange(1), help="Stop after so many epochs without a better validation loss.")
@click.option("--class-weight", type=click.Choice(["balanced"]), help="Let every class count the same.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Results folder; the default is a new one in runs/.")
@shared
def command(
    data: str,
    hidden: list[int],
    batch_size: int | str | None,
    test: float,
    val: float,
    lr: float | None,
    patience: int | None,
    out: Path | None,
    device: str,
    seed: int,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **settings: Any,
) -> None:
    """Train a network on DATA (digits) and save it.

    \b
    gpubp train digits
    gpubp train digits --hidden 256,128 --dropout 0.2 --epochs 60 --schedule cosine
    """
    from gpubp import MLP
    from gpubp.data.datasets import load_dataset

    dataset = load_dataset(data)
    train_rows, test_rows = dataset.split(test)
    sizes = [dataset.x.shape[1], *hidden, dataset.classes]
    net = MLP(sizes, settings.pop("activation"), dropout=settings.pop("dropout"), device=device, seed=seed)
    if net.fallback and verbose:
        click.echo(f"on the CPU: {net.fallback}", err=True)
    folder = _folder(out, dataset.name)
    try:
        history = net.fit(
            dataset.x[train_rows],
            dataset.y[train_rows],
            batch_size=batch_size or min(128, max(16, len(train_rows) // 100)),
            learning_rate=lr,
            validation=val,
            early_stopping=patience,
            metrics="accuracy",
            verbose=0 if quiet else 1,
            **settings,
        )
    except BaseException:
        with suppress(OSError):  # it is not empty
            folder.rmdir()
        raise
    net.metadata = {"data": dataset.name, "test": test}
    model = folder / "model.safetensors"
    net.save(model)
    history.save(folder / "history.jsonl")
    scores = net.evaluate(dataset.x[test_rows], dataset.y[test_rows])
    if as_json:
        seconds = sum(record["seconds"] for record in history)
        run = {"epochs": len(history), "seconds": seconds, "model": str(model), "stopped": history.stopped}
        click.echo(json.dumps({**scores, **run}))
    else:
        _report(net, dataset, test_rows, scores, model)
    if history.stopped == "interrupted":
        sys.exit(EXIT_INTERRUPTED)


def _folder(out: Path | None, name: str) -> Path:
    """The folder asked for, or the first of runs/NAME, runs/NAME-2, ... not there yet, so no model is overwritten."""
    paths = (Path("runs") / (name if n == 1 else f"{name}-{n}") for n in count(1))
    folder = out or next(path for path in paths if not path.exists())
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GpubpError(
            f"cannot make the folder {str(folder)!r}: {error.strerror}; choose another with --out"
        ) from None
    return folder


def _report(net: Any, dataset: Any, rows: Any, scores: dict[str, float], model: Path) -> None:
    from rich.console import Console

    from gpubp.cli.pictures import most_wrong

    console = Console(highlight=False)
    accuracy, rest = score_line(scores, len(rows))
    console.print(f"[bold green]test {accuracy}[/]{rest}")
    console.print(f"model saved to {model}", soft_wrap=True)
    console.print(f"evaluate it: [bold]{command_line('evaluate', str(model), dataset.name)}[/]", soft_wrap=True)
    if dataset.image and not console.options.ascii_only:  # half-blocks are not ASCII
        console.print("\nthe two it got most wrong:")
        x, y, colour = dataset.x[rows], dataset.y[rows], console.color_system is not None
        console.print(most_wrong(x, y, net.predict_proba(x), dataset.image, colour=colour))
