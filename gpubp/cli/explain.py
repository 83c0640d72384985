"""`gpubp explain`: one step of gradient descent with all its numbers, of an example or of a user's own network."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpubp.cli import tell
from gpubp.cli.options import Number, complete_data, shared
from gpubp.explain.document import Block, Cell, Document, Heading, Paragraph, Table
from gpubp.explain.showing import Showing
from gpubp.registry import did_you_mean

if TYPE_CHECKING:
    from gpubp.cli.model import Model
    from gpubp.data.source import Table as Samples
    from gpubp.explain.trace import Trace

SUFFIXES = (".html", ".md", ".tex", ".json", ".png", ".svg")
DATA = (".csv", ".tsv", ".parquet", ".npz", ".npy")
EXAMPLES = ("sparse", "two-layer", "softmax", "chain", "columns", "one-weight")
MOST_INPUTS = 20  # that are listed with their columns' names


def known_format(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """A file whose ending says what to write."""
    if value is not None and value.suffix not in SUFFIXES:
        raise click.BadParameter(f"{str(value)!r} must end in one of {', '.join(SUFFIXES)}", ctx, param)
    return value


@click.command(short_help="Show one step of backpropagation with all its numbers.")
@click.argument("what", metavar="[EXAMPLE|MODEL]", required=False)
@click.argument("data", required=False, shell_complete=complete_data)
@click.option(
    "--sample", "samples", type=click.IntRange(0), multiple=True, help="A row of DATA, from 0; several make a batch."
)
@click.option("--weight", metavar="NAME", help="The chain rule for one weight or bias: w5, b2, W[1][0,1].")
@click.option("--lr", "--learning-rate", "lr", type=Number(0, min_open=True), help="Of the step; the default is 0.1.")
@click.option("--target", metavar="COL", help="The target, where it is another than in training.")
@click.option("--full", is_flag=True, help="Print wide layers in full.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    callback=known_format,
    metavar="FILE",
    help=".html, .md, .tex, .json, .png or .svg.",
)
@shared
@click.pass_context
def command(
    ctx: click.Context,
    what: str | None,
    data: str | None,
    samples: tuple[int, ...],
    weight: str | None,
    lr: float | None,
    target: str | None,
    full: bool,
    out: Path | None,
    device: str,
    seed: int,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Show one step of gradient descent with all its numbers: forward, backward, the update, and what it brought.

    EXAMPLE is a worked example of an article, its numbers beside the true ones: sparse, two-layer, softmax, chain,
    columns or one-weight; without any they are listed. MODEL is a saved model or a run's folder, DATA a file as it was
    trained on. Of a file with a training and a test part the rows of the test part are counted.

    \b
    gpubp explain two-layer
    gpubp explain two-layer --weight w1
    gpubp explain runs/digits digits --sample 17
    gpubp explain runs/flowers flowers.csv --sample 3 --weight w5 -o w5.html

    Weights are numbered from w1, row by row through W[0], W[1], ...; biases from b1. --weight shows the factors of its
    gradient and, for a hidden weight, every path along which the error travels to it. -o writes it all as a page, as
    Markdown or LaTeX, as JSON with every digit, or as a picture of the network.
    """
    if what is None:
        if out is not None:
            raise click.UsageError("-o needs an example, or a MODEL and DATA, to be written", ctx)
        _list(as_json)
        return
    if what in EXAMPLES and data is not None and not Path(what).exists():
        raise click.UsageError(f"the example {what} takes no DATA; it has its own", ctx)
    shown: Showing
    if what in EXAMPLES and data is None:
        for option, given in (("--sample", samples), ("--lr", lr), ("--target", target)):
            if given:
                raise click.UsageError(f"{option} is for a MODEL and DATA; the example {what} has its own", ctx)
        shown = _example(what, weight, device)
    elif data is None:
        from gpubp.data.files import NAMES

        if what in NAMES or Path(what).suffix in DATA:
            raise click.UsageError(f"{what} is data; explain takes a model first: gpubp explain MODEL {what}", ctx)
        if Path(what).exists():
            raise click.UsageError(f"DATA is missing: gpubp explain {what} DATA", ctx)
        raise click.UsageError(f"{what!r} is neither an example nor a model; {did_you_mean(what, list(EXAMPLES))}", ctx)
    else:
        shown = _model(Path(what), data, samples or (0,), weight, lr or 0.1, target, full, device, quiet)
    if out is not None:
        _write(shown, out)
        tell(quiet, f"written to {out}")
    elif as_json:
        click.echo(shown.to_json())
    else:
        from gpubp.cli.report import console

        console().print(shown)


@dataclass(frozen=True)
class Explained(Showing):
    """A step of a user's own network, with what is known of its samples."""

    trace: "Trace"
    title: str
    opening: list[Block]
    weight: str | None
    full: bool

    def document(self) -> Document:
        told = self.trace.weight(self.weight).document() if self.weight else self.trace.document(self.full)
        return Document(f"{self.title}: {told.title}", [*self.opening, *told.blocks])

    def facts(self) -> dict[str, Any]:
        return self.trace.weight(self.weight).facts() if self.weight else self.trace.facts()

    def picture(self, path: str | PathLike[str]) -> None:
        self.trace.picture(path, self.weight)


def _list(as_json: bool) -> None:
    """The examples, and how to go on."""
    import json

    from gpubp.cli import command_line
    from gpubp.cli.report import console
    from gpubp.explain.articles import ARTICLES

    if as_json:
        click.echo(json.dumps({name: article.summary for name, article in ARTICLES.items()}))
        return
    rows: list[list[Cell | str | float | None]] = [
        [Cell(name, "strong"), article.summary] for name, article in ARTICLES.items()
    ]
    blocks: list[Block] = [
        Table.of(["example", "what it is"], rows),
        Paragraph(f"One of them: {command_line('explain', 'two-layer')}"),
        Paragraph(f"Your own network: {command_line('explain', 'MODEL', 'DATA')}"),
    ]
    from gpubp.explain.render.terminal import terminal

    console().print(terminal(Document("Worked examples of backpropagation", blocks)))


def _example(name: str, weight: str | None, device: str) -> Showing:
    from gpubp.explain.articles import ARTICLES

    article = ARTICLES[name](device)
    return article if weight is None else article.trace.weight(weight)


def _model(
    path: Path,
    data: str,
    samples: tuple[int, ...],
    weight: str | None,
    lr: float,
    target: str | None,
    full: bool,
    device: str,
    quiet: bool,
) -> Explained:
    """The step that the model would take on these rows of the file."""
    import numpy as np

    from gpubp import trace
    from gpubp.cli.model import load_model
    from gpubp.errors import DataError

    known = load_model(path, device)
    source = known.open(data, target, needs_target=True)
    table, note = source.train, None
    if source.test is not None:
        table, note = source.test, f"{data} has a test part: its {len(source.test.x)} rows are counted"
    tell(quiet, source.chosen, note)
    if outside := [sample for sample in samples if sample >= len(table.x)]:
        raise DataError(f"--sample {outside[0]}: {data!r} has {len(table.x)} rows, counted 0 to {len(table.x) - 1}")
    index = np.array(samples)
    _, inputs, _ = next(known.run((table, index)))
    targets = known.targets(table)[index]
    step = trace(known.net, inputs, targets, lr)
    return Explained(step, _named(samples, data), _opening(known, table, samples, step), weight, full)


def _named(samples: tuple[int, ...], data: str) -> str:
    listed = ", ".join(map(str, samples[:5])) + ", ..." * (len(samples) > 5)
    return f"{'row' if len(samples) == 1 else 'rows'} {listed} of {data}"


def _opening(model: "Model", table: "Samples", samples: tuple[int, ...], step: "Trace") -> list[Block]:
    """What each sample is, what the network takes it for, and what its inputs and outputs are called."""
    from gpubp.cli.report import displayed

    blocks: list[Block] = [Heading("What goes in")]
    for row, sample in enumerate(samples[:MOST_INPUTS]):
        blocks.append(Paragraph(f"row {sample}: {_decision(model, table, sample, step.before.outputs[row])}"))
    features, width = model.preprocessing.features, len(step.x[0])
    if features and width <= MOST_INPUTS and len(samples) == 1:
        raw = table.x[samples[0]].reshape(-1)
        rows: list[list[Cell | str | float | None]] = [
            [step.names.unit(0, i), features[i], float(raw[i]), float(step.x[0, i])] for i in range(width)
        ]
        blocks.append(Table.of(["unit", "column", "in the file", "x, as prepared"], rows))
    if (classes := model.preprocessing.classes) and 2 < len(classes) <= MOST_INPUTS:
        named = (f"{step.names.unit(len(step.layers), k)} = {displayed(name)}" for k, name in enumerate(classes))
        blocks.append(Paragraph(f"The outputs are the classes {', '.join(named)}."))
    return blocks


def _decision(model: "Model", table: "Samples", sample: int, outputs: Any) -> str:
    """The truth, and the network's opinion before the step."""
    import numpy as np

    from gpubp.cli.report import displayed

    known, truth = model.preprocessing, table.y[sample]
    if known.classes is None:
        values = known.values(outputs.astype(np.float64))
        told = " ".join(f"{value:.6g}" for value in values)
        return f"the value is {' '.join(f'{value:g}' for value in np.atleast_1d(truth))}, predicted {told}"
    shares = model.decisions.probabilities(outputs[None])[0]
    winner = int(model.decisions.decide(outputs[None])[0])
    names = [displayed(name) for name in known.classes]
    verdict = "rightly" if model.targets(table)[sample] == winner else "wrongly"
    return f"the class is {displayed(truth)}, {verdict} taken for {names[winner]} with probability {shares[winner]:.1%}"


def _write(shown: Showing, out: Path) -> None:
    """The page, the text or the picture that the file's name asks for."""
    from gpubp.cli.streams import output
    from gpubp.explain.render.html import page

    if out.suffix in (".png", ".svg"):
        shown.picture(out)
        return
    makers = {
        ".html": lambda: page(shown.document()),
        ".md": shown.to_markdown,
        ".tex": shown.to_latex,
        ".json": shown.to_json,
    }
    text = makers[out.suffix]()
    with output(out) as stream:
        stream.write((text.rstrip("\n") + "\n").encode())
