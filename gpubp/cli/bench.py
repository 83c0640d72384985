"""`gpubp bench`: how fast a network trains on the devices at hand, beside the peers installed and beside its floor."""

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpubp.benchmark.problem import ACTIVATIONS
from gpubp.cli import interrupted_code, tell
from gpubp.cli.options import Name, Number, positive, shared
from gpubp.errors import GpubpError
from gpubp.registry import did_you_mean

if TYPE_CHECKING:
    from gpubp.backends import Backend
    from gpubp.benchmark.results import Result
    from gpubp.benchmark.survey import Findings
    from gpubp.benchmark.workers import Racer

PEERS = ["torch", "torch-compile", "torch-graphs", "jax", "sklearn"]
SECONDS, SWEEP_SECONDS = 1.0, 0.3
LEAST, MOST, MOST_WITH_GPU = 16, 4096, 65536  # batch sizes of a sweep


class Activation(Name):
    """Of those that can be compared."""

    def fail(self, message: str, param: click.Parameter | None = None, ctx: click.Context | None = None) -> Any:
        super().fail(f"{message}: those that gpubp and every one of its peers have", param, ctx)


def layer_sizes(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Widths from the inputs to the outputs: 784-256-10."""
    parts = value.split("-")
    refuse_long_numbers(parts, ctx, param)
    if len(parts) < 2 or not all(map(positive, parts)):
        meant = "-".join(re.findall("[0-9]+", value)) if re.fullmatch(r"[0-9]+([,;:x×/ -]+[0-9]+)+", value) else ""
        near = f"; did you mean {meant}?" if meant else ""
        raise click.BadParameter(
            f"{value!r} is not a network such as 784-256-10: inputs, hidden layers and classes{near}", ctx, param
        )
    if int(parts[-1]) < 2:
        raise click.BadParameter(
            f"{value!r} ends in one class; every contender learns by softmax, which needs two classes or more",
            ctx,
            param,
        )
    return tuple(map(int, parts))


def batch_sizes(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int]:
    """Positive numbers of rows, in order; none where none were given."""
    parts = [] if value is None else value.split(",")
    refuse_long_numbers(parts, ctx, param)
    if not all(map(positive, parts)):
        raise click.BadParameter(f"{value!r} is not a list of positive numbers of rows such as 32,1024", ctx, param)
    return sorted({int(part) for part in parts})


def refuse_long_numbers(parts: list[str], ctx: click.Context, param: click.Parameter) -> None:
    for part in parts:
        if re.fullmatch("[0-9]{19,}", part):
            raise click.BadParameter(f"{part[:19]}... is too large: a number of {len(part)} digits", ctx, param)


def peers(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
    """Names of peers, all or none."""
    if value in ("all", "none"):
        return PEERS if value == "all" else []
    for name in value.split(","):
        if name in ("all", "none"):
            raise click.BadParameter(f"{value!r}: {name} stands alone; give all, none, or names of peers", ctx, param)
        if name not in PEERS:
            near = did_you_mean(name, [*PEERS, "all", "none"])
            raise click.BadParameter(f"{name!r} is not known; {near}", ctx, param)
    return [name for name in PEERS if name in value.split(",")]


@click.command(short_help="How fast a network trains here, and others beside it.")
@click.argument("sizes", default="784-256-10", callback=layer_sizes)
@click.option(
    "--activation", type=Activation(list(ACTIVATIONS)), default="relu", show_default=True, help="Of hidden layers."
)
@click.option("--batch-size", callback=batch_sizes, metavar="N,...", help="Rows a step: 32,1024; the default is 128.")
@click.option(
    "--against",
    callback=peers,
    default="torch,jax,sklearn",
    show_default=True,
    metavar="NAME,...",
    help=f"Of {', '.join(PEERS)}; all or none.",
)
@click.option(
    "--sweep", is_flag=True, help="The batch sizes given and every power of two between, and the curve; see above."
)
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw the curve of a sweep.")
@click.option(
    "--seconds", type=Number(0, min_open=True), help="Timed for each line of the table; 1, or 0.3 in a sweep."
)
@click.option("--threads", type=click.IntRange(1), help="Of the CPU, for every contender; the default is all.")
@shared
@click.pass_context
def command(
    ctx: click.Context,
    sizes: tuple[int, ...],
    activation: str,
    batch_size: list[int],
    against: list[str],
    sweep: bool,
    out: Path | None,
    seconds: float | None,
    threads: int | None,
    device: str,
    seed: int,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Time training steps of a network of these SIZES, on the CPU and the first GPU, against the peers installed.

    \b
    gpubp bench
    gpubp bench 784-1024-1024-10 --batch-size 32,1024 --against torch,torch-compile
    gpubp bench 64-32-10 --device cpu --against none
    gpubp bench --sweep --device auto --against none -o sweep.png

    A step is forward, backward and plain gradient descent in float32, with softmax, cross entropy and uniform data.
    Every contender lives in a process of its own and must reach the losses of a float64 reference before it is timed;
    then they take turns. Beside each stands the rate at which the step's matrix products alone go: the floor.
    torch-compile and torch-graphs need up to a minute for each batch size, so they take part only when named.

    --sweep takes the batch sizes given, two at least, and every power of two between the least and the greatest: 20,30
    has none, so those two alone are measured. Without --batch-size it goes from 16 to 4096 rows, with a GPU to 65536.
    It names the batch size from which the GPU is faster than the CPU.

    A batch that memory has no room for is left out. Ctrl-C shows what is finished.
    """
    from gpubp.benchmark.contenders import Setting
    from gpubp.benchmark.survey import Survey
    from gpubp.processor import cores

    if threads is not None and threads > cores():
        raise click.UsageError(f"--threads {threads} is more than the {cores()} that this process may use", ctx)
    if sweep and len(batch_size) == 1:
        told = f"--sweep goes from one batch size to another, got {batch_size[0]} alone: --batch-size 16,4096"
        raise click.UsageError(told, ctx)
    check_picture(ctx, out, sweep)
    backends = devices_at_hand(device)
    tell(quiet, backends[0].fallback and f"no GPU takes part: {backends[0].fallback}")
    if sweep:
        batch_size = powers_of_two(batch_size or [LEAST, MOST if len(backends) == 1 else MOST_WITH_GPU])
    settings = [Setting(backend.name, threads=threads or cores()) for backend in backends]
    survey = Survey(
        sizes,
        activation,
        batch_size or [128],
        ["gemms", "gpubp", *against],
        settings,
        seconds or (SWEEP_SECONDS if sweep else SECONDS),
        seed,
    )
    with Progress(quiet) as progress:
        found = survey.run(progress.begins, progress.done, quiet=not verbose)
    if found.interrupted and not found.results:
        raise KeyboardInterrupt
    if as_json:
        devices = [backend.describe() for backend in backends]
        click.echo(json.dumps({**found.report(), "devices": devices, "fallback": backends[0].fallback}))
        tell(quiet, warning(found))
    elif found.results:
        show(found, backends, sweep)
    notes = (f"{called(row)} at {row.batch} rows: {row.note}" for row in found.results if row.note)
    tell(quiet or not verbose, *notes)
    if out and found.results:
        draw(out, found, backends)
        tell(quiet, f"curve drawn in {out}")
    if found.interrupted:
        tell(quiet, "interrupted: the batch sizes that were finished are shown")
        ctx.exit(interrupted_code(ctx))
    refuse_failure(found)


def refuse_failure(found: "Findings") -> None:
    """An error where nothing was measured, or gpubp failed; that others did, or had no room, is told and no failure."""
    from gpubp.benchmark.report import absences

    if not found.results:
        raise GpubpError("\n".join(["nothing was measured", *absences(found.refused + found.left_out)]))
    for entry in found.left_out:
        if entry["contender"] == "gpubp":
            raise GpubpError(f"gpubp could not be timed at {entry['batch']:,} rows: {entry['reason']}")


def check_picture(ctx: click.Context, out: Path | None, sweep: bool) -> None:
    """Whether the picture asked for can be drawn; better found out now than after a minute."""
    from importlib.util import find_spec

    from gpubp.extras import to_install

    if out and not sweep:
        raise click.UsageError("--out draws the curve of a sweep; add --sweep", ctx)
    if out and out.suffix != ".png":
        raise click.UsageError(f"--out {str(out)!r} is to be a PNG: a name that ends in .png", ctx)
    if out and not find_spec("matplotlib"):
        install = to_install("plot", "'gpubp[plot]'", "bench ...")
        raise GpubpError(f"--out needs matplotlib: {install}, or leave it out; the curve is printed too")
    if out and (reason := obstacle(out)):
        raise GpubpError(f"cannot write {str(out)!r}: {reason}; choose another place")


def obstacle(out: Path) -> str | None:
    """What keeps a file from being written, as far as can be told beforehand."""
    folder = out.resolve().parent
    if not folder.is_dir():
        return f"there is no folder {str(out.parent)!r}"
    if out.is_dir():
        return "it is a folder"
    return None if os.access(folder, os.W_OK) else f"no file can be made in {str(out.parent)!r}"


def devices_at_hand(device: str) -> "list[Backend]":
    """The device asked for; of "auto" the CPU, and the first GPU where one works."""
    from gpubp.backends import get_backend

    backend = get_backend(device)
    return [backend] if device != "auto" or backend.name == "cpu" else [get_backend("cpu"), backend]


def powers_of_two(batches: list[int]) -> list[int]:
    """These, and every power of two between the least and the greatest of them."""
    between = [1 << power for power in range(batches[-1].bit_length()) if batches[0] < 1 << power < batches[-1]]
    return sorted({*batches, *between})


class Progress:
    """On stderr: what is going on, where that is a terminal, and a line for each batch size that is done."""

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console

        self.quiet = quiet
        self.status = Console(stderr=True, quiet=quiet).status("starting a process for each contender")

    def __enter__(self) -> "Progress":
        self.status.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.status.__exit__(*error)

    def begins(self, batch: int, racer: "Racer") -> None:
        from gpubp.benchmark.results import NAMES

        self.status.update(f"batch {batch}: {NAMES.get(racer.name, racer.name)} on {racer.setting.device}")

    def done(self, batch: int, results: "list[Result]") -> None:
        rates = (f"{called(row)} {row.samples_per_second:,.0f}" for row in results)
        tell(self.quiet, f"batch {batch}: samples/s: {', '.join(rates)}" if results else f"batch {batch}: all failed")


def called(row: "Result") -> str:
    from gpubp.benchmark.results import NAMES

    return f"{NAMES.get(row.contender, row.contender)} on {row.device}"


def show(found: "Findings", backends: "list[Backend]", sweep: bool) -> None:
    """The table, who was left out, how to read it, and of a sweep the curve and where a GPU pays."""
    from rich.text import Text

    from gpubp.benchmark.report import WIDE, absences, fitting, legend, plot, table, width_of
    from gpubp.benchmark.survey import ROUNDS
    from gpubp.cli.report import console

    to = console()
    room = to.width if to.is_terminal or "COLUMNS" in os.environ else max(to.width, WIDE)  # a pipe has no width
    to.print(Text(f"{title(found)}; {where(found, backends)}"), soft_wrap=True)
    if found.busy:
        to.print(Text(warning(found), "yellow"), soft_wrap=True)
    figures = fitting(found.results, room)
    drawn = table(found.results, figures)
    to.width = max(room, width_of(drawn))
    to.print("", drawn, "", Text(legend(found.results, figures, ROUNDS, room), "dim"), sep="\n", crop=False)
    for line in absences(found.refused + found.left_out):
        to.print(Text(line), soft_wrap=True)
    if sweep:
        curve = plot(found.results, room, to.options.ascii_only)
        to.print(Text("\n").append_text(curve), no_wrap=True, crop=False, overflow="ignore")
        if told := pays(found):
            to.print(Text("\n" + told), soft_wrap=True)


def warning(found: "Findings") -> str:
    """What is to be said of a machine that others use."""
    return f"others use {found.foreign_load:.0%} of this machine: do not trust these figures" if found.busy else ""


def title(found: "Findings") -> str:
    return f"{'-'.join(map(str, found.survey.sizes))}, {found.survey.activation}, float32"


def where(found: "Findings", backends: "list[Backend]") -> str:
    """The processors, and how many threads of the CPU's take part."""
    from gpubp.benchmark.machine import machine

    its = machine(found.survey.settings[0].threads)
    gpus = [backend.describe()["name"] for backend in backends if backend.name != "cpu"]
    threads = f"{its['threads']} thread{'s' if its['threads'] > 1 else ''}"
    return ", ".join([f"{its['cpu']} ({threads} on {its['cores']} cores)", *gpus])


def pays(found: "Findings") -> str:
    """From which batch size a GPU is faster than the CPU; nothing where only one of them took part."""
    batches, told = sorted({row.batch for row in found.results}), []
    for device, batch in found.crossovers.items():
        if batch is None:
            told.append(f"{device} is not faster than the CPU at {batches[-1]:,} rows a batch, the most tried")
        elif batch == batches[0]:
            told.append(f"{device} is faster than the CPU at every batch size tried, from {batch:,} rows on")
        else:
            told.append(f"{device} is faster than the CPU from {batch:,} rows a batch on")
    return "\n".join(told)


def draw(path: Path, found: "Findings", backends: "list[Backend]") -> None:
    from datetime import date

    from gpubp.benchmark.picture import picture
    from gpubp.whole import write_whole

    crossing = next(((device, batch) for device, batch in found.crossovers.items() if batch is not None), None)
    caption = f"{where(found, backends)}; {date.today()}"
    write_whole(path, picture(found.results, title(found), caption, crossing))
