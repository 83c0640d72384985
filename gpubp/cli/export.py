"""`gpubp export`: a saved model in a form that does not need gpubp, or an estimator of scikit-learn as a model."""

import json
from pathlib import Path

import click

from gpubp.cli.options import shared

MODEL_FILE = ".safetensors"  # gpubp's own format, which has no need to be compared


def known_format(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    """A file whose ending says what to write."""
    from gpubp.export import FORMATS

    known = [*FORMATS, MODEL_FILE]
    if value.suffix not in known:
        raise click.BadParameter(f"{str(value)!r} must end in one of {', '.join(known)}", ctx, param)
    return value


@click.command(short_help="Write a saved model, or scikit-learn's, as ONNX or as NumPy arrays.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    callback=known_format,
    required=True,
    metavar="FILE",
    help="A .onnx, .npz or .safetensors file.",
)
@shared
def command(model: Path, out: Path, device: str, seed: int, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Export MODEL, a file or a run's folder, with its preprocessing, so that it takes raw data elsewhere.

    \b
    gpubp export runs/flowers -o flowers.onnx
    gpubp export runs/flowers -o flowers.npz
    gpubp export flowers.joblib -o flowers.safetensors

    What is written as .onnx or .npz is read back and compared with MODEL on 256 random rows, drawn by --seed; the
    largest difference is printed. Where it is above 0.001 the export fails and no file is written.

    .onnx (pip install 'gpubp[onnx]') is a graph in float32. Its input `x` takes any number of raw rows as float32, in
    the shape of the samples that the model was trained on. A classifier's outputs are `label`, the class by name, and
    `probabilities`, one column a class in the order of `classes` in the file's metadata; a regression's are `values`.

    .npz holds plain arrays for NumPy alone: `shift` and `scale`, `weight_0`, `bias_0`, `weight_1`, ..., the names of
    the `activations` (with `slope_0` or `alpha_0` where they take a setting), `task` (classes, binary, labels or
    values), `classes`, or `target_shift` and `target_scale`.

    From raw rows x follow y = (x.reshape(len(x), -1) - shift) * scale, then for each layer l
    y = f(y @ weight_l + bias_l). A label is classes[y.argmax(axis=1)], values are y * target_scale + target_shift.

    .safetensors is a model file of gpubp's own, without the rest of a run's folder.

    MODEL may also be a .joblib, .pkl or .pickle file with a fitted MLPClassifier or MLPRegressor, of scikit-learn or of
    gpubp.sklearn, alone or in a Pipeline behind a StandardScaler or a MinMaxScaler. Such a file is a pickle: reading it
    runs the code that is in it, so read only those that you trust.
    """
    from gpubp.cli.model import load_model
    from gpubp.cli.streams import output
    from gpubp.export import ROWS, export

    known = load_model(model, device)
    if out.suffix == MODEL_FILE:
        known.net.save(out)
        click.echo(json.dumps({"file": str(out)}) if as_json else f"model exported to {out}")
        return
    exported = export(known.net, known.preprocessing, out.suffix, seed)
    with output(out) as stream:
        stream.write(exported.content)
    if as_json:
        facts = {"file": str(out), "largest_difference": exported.largest_difference}
        click.echo(json.dumps({**facts, "rows": ROWS, "compared_with": exported.judge}))
    else:
        click.echo(f"model exported to {out}")
        click.echo(f"largest difference on {ROWS} random rows, by {exported.judge}: {exported.largest_difference:.1e}")
