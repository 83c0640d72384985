"""`gpubp evaluate`: score a saved model on the rows that its training held out."""

import json
from pathlib import Path

import click

from gpubp.cli import score_line
from gpubp.cli.options import shared


@click.command(short_help="Score a saved model on held-out data.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data")
@shared
def command(model: Path, data: str, device: str, seed: int, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Score MODEL on the part of DATA that its training held out.

    \b
    gpubp evaluate runs/digits/model.safetensors digits
    """
    from gpubp import DataError, load
    from gpubp.data.datasets import load_dataset

    if model.is_dir():
        model = model / "model.safetensors"
    net, dataset = load(model, device), load_dataset(data)
    if "data" not in net.metadata:
        raise DataError(
            f"{str(model)!r} does not say which rows it was trained on, as it was saved from Python; "
            "score it there, by net.evaluate on rows that it has not seen"
        )
    if net.metadata["data"] != dataset.name:
        raise DataError(f"{str(model)!r} was trained on {net.metadata['data']!r}, not on {dataset.name!r}")
    _, rows = dataset.split(net.metadata["test"])
    scores = net.evaluate(dataset.x[rows], dataset.y[rows])
    if as_json:
        click.echo(json.dumps({**scores, "samples": len(rows)}))
    else:
        click.echo("".join(score_line(scores, len(rows))))
