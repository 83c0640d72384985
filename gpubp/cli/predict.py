"""`gpubp predict`: rows as they stand in a file to the classes or values that a saved model makes of them."""

import json
import os
from collections.abc import Iterator
from math import ceil, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpubp.cli import tell
from gpubp.cli.options import complete_data, shared

if TYPE_CHECKING:
    from gpubp.cli.model import Model, Part


def known_format(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """A file whose name says what to write; a device or a pipe takes CSV, and - is standard output."""
    if value is None or str(value) == "-":
        return None
    if value.suffix not in (".csv", ".npy") and (os.path.isfile(value) or not os.path.exists(value)):
        raise click.BadParameter(f"{str(value)!r} ends neither in .csv nor in .npy, nor is it -", ctx, param)
    return value


@click.command(short_help="Predict the classes or values of new rows.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", shell_complete=complete_data)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    callback=known_format,
    metavar="FILE",
    help="A .csv or .npy file; - is standard output, the default.",
)
@click.option("--proba", is_flag=True, help="The probability of each class as well.")
@click.option("--target", metavar="COL", help="A column that is no input, where the model does not know its name.")
@shared
@click.pass_context
def command(
    ctx: click.Context,
    model: Path,
    data: str,
    out: Path | None,
    proba: bool,
    target: str | None,
    device: str,
    seed: int,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Predict with MODEL, a file or a run's folder, what the rows of DATA are.

    DATA holds rows as they were trained on: columns are found by their names, in whatever order, and scaled as in
    training; a target column is not needed and not looked at. - reads CSV from standard input. Of a file with a
    training and a test part the test part is taken.

    \b
    gpubp predict runs/flowers new.csv
    gpubp predict runs/flowers new.csv --proba -o predictions.csv
    gpubp predict runs/mnist images.npy -o labels.npy
    zcat new.csv.gz | gpubp predict runs/flowers - | sort | uniq -c

    CSV has the columns `prediction` (`prediction_0`, ... where there are several) and, with --proba,
    `probability_CLASS` for each class. NPY holds the predictions: whole numbers, class names, or float64 values; with
    --proba it holds the probabilities instead, one column a class.
    """
    from gpubp.cli.model import load_model
    from gpubp.cli.predictions import write_csv, write_json, write_npy
    from gpubp.cli.streams import output

    known = load_model(model, device)
    if proba and known.decisions.task == "values":
        raise click.UsageError("--proba is for classes, and this model predicts values", ctx)
    if out is not None and os.path.exists(out) and os.path.exists(data) and os.path.samefile(out, data):
        raise click.UsageError(f"--out {out} would overwrite the data; choose another name", ctx)
    source = known.open(data, target, needs_target=False)
    table, note = source.train, None
    if source.test is not None and (Path(data).suffix == ".npz" or not Path(data).is_file()):
        table, note = source.test, f"{data} has a test part: predicting its {len(source.test.x)} rows alone"
    tell(quiet, source.chosen, note, verbose and known.net.fallback)
    chunks = predictions(known, (table, None), proba)
    with output(out) as stream:
        if out is not None and out.suffix == ".npy":
            rows = write_npy(stream, len(table.x), chunks)
        elif out is None and as_json:
            rows = write_json(stream, chunks)
        else:
            rows = write_csv(stream, heading(known, proba), chunks)
    if out is not None:
        if as_json:
            click.echo(json.dumps({"file": str(out), "rows": rows}))
        elif not quiet:
            click.echo(f"{rows} predictions written to {out}", err=True)


def heading(model: "Model", proba: bool) -> list[str]:
    """The names of the columns."""
    known = model.preprocessing
    several = known.classes is None and known.outputs > 1
    names = [f"prediction_{output}" for output in range(known.outputs)] if several else ["prediction"]
    classes = known.classes or range(known.outputs)
    return names + [f"probability_{name}" for name in classes if proba]


def predictions(model: "Model", part: "Part", proba: bool) -> Iterator[tuple[Any, Any]]:
    """Classes by name, or values in the units of the file, some rows at a time; and probabilities where asked for."""
    import numpy as np

    classes, decisions = model.preprocessing.classes, model.decisions
    for _, _, outputs in model.run(part):
        if decisions.task == "values":
            decided = _values(model, outputs)
        else:
            decided = decisions.decide(outputs)
            decided = decided if classes is None else np.array(classes)[decided]
        yield decided, decisions.probabilities(outputs) if proba else None


def _values(model: "Model", outputs: Any) -> Any:
    """Values in the units of the file, to as many decimals as the network's own precision is worth."""
    import numpy as np

    values, scale = model.preprocessing.values(outputs.astype(np.float64)), model.preprocessing.target_scale or [1.0]
    decimals = max(0, ceil(-log10(min(scale) * float(np.finfo(model.net.dtype).eps))))
    if set(scale) != {1.0} and decimals < 16:  # outputs that are the values themselves may be of any size
        values = np.round(values, decimals)
    return values[:, 0] if values.shape[1] == 1 else values
