"""`gpubp check`: hold the gradients of a saved model, or another implementation's, against numerical derivatives."""

import json
from collections.abc import Iterator
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpubp.cli import EXIT_FAILURE, tell
from gpubp.cli.options import complete_data, shared

if TYPE_CHECKING:
    from rich.text import Text

    from gpubp.cli.model import Model, Part
    from gpubp.explain.gradients import GradientReport

ROWS = 32


@click.command(short_help="Check the gradients of a saved model.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", shell_complete=complete_data)
@click.option("--samples", type=click.IntRange(1), help=f"Rows of DATA; {ROWS}, or with --gradients all of them.")
@click.option(
    "--gradients",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A .npz of gradients to check instead.",
)
@click.option("--target", metavar="COL", help="The target, where it is another than in training.")
@shared
@click.pass_context
def command(
    ctx: click.Context,
    model: Path,
    data: str,
    samples: int | None,
    file: Path | None,
    target: str | None,
    device: str,
    seed: int,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Check that backpropagation in MODEL, a file or a run's folder, gives the derivatives of its cost on rows of DATA.

    They are computed on --device, and held against numerical derivatives by NumPy in float64: by complex step where the
    network is analytic, as everything built in is, else by central differences. Up to 5000 parameters all are checked,
    beyond that one random direction of each tensor. The exit code is 1 if any gradient is wrong.

    \b
    gpubp check runs/digits digits
    gpubp check runs/flowers flowers.csv --samples 100 --seed 1
    gpubp check runs/flowers flowers.csv --gradients mine.npz

    The rows are drawn by --seed. Rows at a kink, such as where the z of a ReLU is 0, have no derivative and are left
    out.

    --gradients checks another implementation's: those of the model's cost, the mean of the losses of all rows of DATA,
    or of the first --samples, prepared as in training. FILE holds weight_0, bias_0, weight_1, ... of shape
    (inputs, outputs) and (outputs,), or 0.weight, 0.bias, 2.weight, ... of shape (outputs, inputs) and (outputs,), as
    PyTorch names those of nn.Sequential. What is not in FILE is not checked.
    """
    from gpubp import check_gradients
    from gpubp.cli.gradient_file import not_in, read_gradients
    from gpubp.cli.model import load_model
    from gpubp.cli.report import console

    known = load_model(model, device)
    gradients = None if file is None else read_gradients(file, known.net)
    source = known.open(data, target, needs_target=True)
    y = known.targets(source.train)
    if gradients is None:
        rows, note = clear_rows(known, source.train, y, samples or ROWS, seed)
    else:
        rows, note = first_rows(len(y), samples), not_in(gradients, known.net)
    tell(quiet, source.chosen, note, verbose and known.net.fallback)
    report = check_gradients(known.net, inputs(known, (source.train, rows)), y[rows], gradients)
    if as_json:
        click.echo(json.dumps({**facts(report), "rows": len(rows)}, allow_nan=False))
    else:
        whose = f"computed on {known.net.device} in {known.net.dtype}" if file is None else f"from {file.name}"
        out = console()
        for line in shown(report, f"{len(rows)} row{'s' * (len(rows) != 1)} of {source.name}, gradients {whose}"):
            out.print(line, soft_wrap=True)
    if not report.ok:
        ctx.exit(EXIT_FAILURE)


def clear_rows(model: "Model", table: Any, y: Any, wanted: int, seed: int) -> tuple[Any, str | None]:
    """(the numbers of rows that are at no kink, drawn by the seed; what is to be said of those left out)."""
    import numpy as np

    from gpubp.explain.kinks import find, refuse
    from gpubp.explain.reference import Reference

    drawn = np.random.default_rng(seed).choice(len(y), min(len(y), 2 * wanted), replace=False)
    known = Reference.of(model.net, inputs(model, (table, drawn)), y[drawn])
    found = find(known, float(np.finfo(model.net.dtype).eps))
    kinks = {int(drawn[kink.sample]): kink for kink in reversed(found)}
    clear = [row for row in drawn.tolist() if row not in kinks][:wanted]
    if not clear:
        refuse([replace(kink, sample=int(drawn[kink.sample])) for kink in found], len(drawn))
    used = drawn if len(clear) < wanted else drawn[: drawn.tolist().index(clear[-1])]
    left = [row for row in used.tolist() if row in kinks]
    rows = f"row{'s' * (len(left) != 1)} at a kink"
    return np.array(clear), f"{len(left)} {rows} left out: in row {left[0]} {kinks[left[0]]}" if left else None


def first_rows(rows: int, wanted: int | None) -> Any:
    import numpy as np

    return np.arange(min(rows, wanted or rows))


def inputs(model: "Model", part: "Part") -> Any:
    """The network's inputs for these rows."""
    import numpy as np

    return np.concatenate([x for _, x, _ in model.run(part)])


def shown(report: "GradientReport", about: str) -> Iterator["Text"]:
    """The verdict, the error of each tensor, the worst entry, and what may be the matter."""
    from rich.text import Text

    verdict = ("gradients right", "bold green") if report.ok else ("gradients WRONG", "bold red")
    lost = [tensor for tensor in report.tensors if tensor.lost]
    if lost and len(lost) == len(report.tensors):
        verdict = ("gradients too small to tell", "bold yellow")
    yield Text.assemble(verdict, f"  by {report.method}")
    yield Text(about, "dim")
    yield Text()
    width = max((len(tensor.name) for tensor in report.tensors), default=0)
    yield Text(f"{'gradient':{width}}     error  tolerance", "dim")
    for tensor in report.tensors:
        remark = ("ok", "green") if tensor.ok else ("WRONG", "bold red")
        if tensor.ok and tensor.lost:
            remark = ("too small to tell", "yellow")
        yield Text.assemble(f"{tensor.name:{width}}  {tensor.error:8.1e}  {tensor.tolerance:9.0e}  ", remark)
    yield Text()
    if not report.tensors:
        yield Text("there is nothing to check: every weight is masked")
        return
    yield Text(f"worst at {report.where}")
    yield Text(f"given      {report.given: .15g}")
    yield Text(f"numerical  {report.numerical: .15g}")
    if report.layer is not None:
        yield Text(f"wrong from layer {report.layer} down, counted from 0: look there first")
    if lost:
        yield Text("rounding may be as large as what is too small to tell; more --samples may help")
    if not report.ok and report.hint:
        yield Text(report.hint)


def facts(report: "GradientReport") -> dict[str, Any]:
    """For JSON, which has neither NaN nor infinity."""
    shared = ("ok", "where", "error", "tolerance", "given", "numerical", "layer")

    def plain(thing: Any, *names: str) -> dict[str, Any]:
        values = {name: getattr(thing, name) for name in (*names, *shared)}
        return {name: None if isinstance(v, float) and not isfinite(v) else v for name, v in values.items()}

    return {**plain(report, "method"), "tensors": [plain(tensor, "name", "lost") for tensor in report.tensors]}
