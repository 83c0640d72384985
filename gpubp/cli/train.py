"""`gpubp train`: from a file to a saved model, its score on rows it has never seen, and a run that can be resumed."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from gpubp.activations import Activation
from gpubp.cli import command_line, interrupted_code, tell
from gpubp.cli.options import Name, Number, batch_size, complete_data, config_file, share_or_file, shared, widths
from gpubp.errors import DataError, DivergenceError, GpubpError
from gpubp.optimizers import Optimizer
from gpubp.schedules import Schedule

if TYPE_CHECKING:
    from gpubp.cli.session import Session
    from gpubp.explain.diagnosis import Diagnosis
    from gpubp.history import History
    from gpubp.mlp import MLP

POSITIVE = Number(0, min_open=True)
FRACTION = Number(0, 1, min_open=True, max_open=True)


@click.command(short_help="Train a network on a file and save it.")
@click.argument("data", required=False, shell_complete=complete_data)
@click.option("--target", metavar="COL", help="The target: a column's name or number, or the .npy file of y.")
@click.option(
    "--task",
    type=Name(["auto", "classification", "regression"]),
    default="auto",
    show_default=True,
    help="auto: text and few different whole numbers are classes.",
)
@click.option("--hidden", callback=widths, default="256,128", show_default=True, help="Hidden layers: 256,128 or none.")
@click.option(
    "--activation",
    type=Name(sorted(Activation.members)),
    default="relu",
    show_default=True,
    help="Of hidden layers.",
)
@click.option("--dropout", type=Number(0, 1, max_open=True), default=0.2, show_default=True, help="Of hidden units.")
@click.option("--optimizer", type=Name(sorted(Optimizer.members)), default="adam", show_default=True, help="By name.")
@click.option("--lr", "--learning-rate", "lr", type=POSITIVE, help="Learning rate; the default is the optimizer's own.")
@click.option(
    "--schedule", type=Name(sorted(Schedule.members)), default="cosine", show_default=True, help="Of the rate."
)
@click.option("--weight-decay", type=Number(0), default=0.0, show_default=True, help="On weights, not biases.")
@click.option(
    "--epochs",
    type=click.IntRange(1),
    help="Passes over the rows; the default is 60, but no fewer than take 2,000 steps and no more than take 50,000.",
)
@click.option("--batch-size", callback=batch_size, help="Rows a step, or full; the default is n / 100, from 16 to 128.")
@click.option(
    "--val",
    metavar="SHARE|FILE",
    callback=share_or_file,
    default="0.1",
    show_default=True,
    help="To validate on after each epoch: a share of the training rows, or a file like DATA.",
)
@click.option(
    "--test",
    type=FRACTION,
    default=0.2,
    show_default=True,
    help="Share of all rows held out for the test, where DATA has no test part of its own.",
)
@click.option("--patience", type=click.IntRange(1), help="Stop after so many epochs without a better validation loss.")
@click.option("--class-weight", type=Name(["balanced"]), help="Let every class count the same.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Results folder; the default is a new one in runs/.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="DIR", help="Go on with an interrupted run.")
@click.option("--diagnose", is_flag=True, help="Watch every layer learn, and say what is wrong and what to do.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    is_eager=True,
    expose_value=False,
    callback=config_file,
    help="Take settings from a TOML file; options given as well win.",
)
@shared
@click.pass_context
def command(
    ctx: click.Context,
    /,
    out: Path | None,
    resume: Path | None,
    diagnose: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **settings: Any,
) -> None:
    """Train a network on DATA, score it on rows it has not seen, and save it.

    DATA is digits, mnist, fashion-mnist, or a file: .npz, .npy, .csv, .parquet or IDX. Where it has no test part of
    its own, 20 % of its rows are held out. Tables are standardised, images scaled to 0..1; the model keeps how, and
    the names of columns and classes, so that `predict` takes rows as they stand in the file.

    \b
    gpubp train digits
    gpubp train flowers.csv --target species --hidden 32,16 --epochs 200 --patience 20
    gpubp train mnist.npz --hidden 512,256 --epochs 12 -o runs/mnist
    gpubp train --resume runs/mnist

    After every epoch a checkpoint is written. Ctrl-C and a termination lose the unfinished epoch alone, and --resume
    goes on to the very same weights; only --epochs may then be another.

    --diagnose looks at deltas, gradients, updates and units of every layer after every epoch, on a few of the training
    rows, tells in words what it sees, and leaves diagnosis.png and diagnosis.json in the results folder.
    """
    from gpubp.alone import processes as those_of_launch
    from gpubp.cli.run import CHECKPOINT, abandon, new_folder
    from gpubp.resume import Checkpoint

    processes = those_of_launch()
    leads = processes.rank == 0  # the others write nothing
    if resume:
        if out:
            raise click.UsageError("--out is for a new run; a resumed one stays in its folder", ctx)
        checkpoint = processes.of_first(_opened(resume) if leads else None)
        settings = _resumed(ctx, settings, checkpoint.run["settings"])
    elif settings["data"] is None:
        raise click.UsageError("DATA is missing: digits, or a file such as flowers.csv", ctx)
    if settings["data"] == "-":
        raise click.UsageError("a training cannot be resumed or evaluated without its data: give a file, not -", ctx)

    from gpubp.cli.session import Session
    from gpubp.explain.diagnosis import Diagnosis

    data = settings["data"]
    session = Session.prepare(settings, processes)
    tell(quiet, session.source.chosen, session.understood(settings), verbose and _where(session.net))
    if not resume:
        folder = processes.of_first(new_folder(out, session.source.name) if leads else None)
        settings = session.portable(settings)
        checkpoint = Checkpoint(folder / CHECKPOINT, run={"settings": settings, "data": session.net.metadata["data"]})
    elif {**checkpoint.run["data"], "name": session.source.name} != session.net.metadata["data"]:
        raise DataError(f"{data!r} is not, or no longer, the file that {str(resume)!r} was trained on")
    watch = Diagnosis(*session.watched()) if diagnose and leads else None
    try:
        history = _train(session, checkpoint, settings, watch, verbose=not quiet)
    except BaseException as error:
        if not resume and leads:
            abandon(folder)
        if watch and isinstance(error, DivergenceError):
            _say_why(watch, checkpoint.path.parent if resume or watch.records[1:] else None, as_json)
        if isinstance(error, DivergenceError):
            processes.of_first(None)  # which has written what it had to
        raise
    if leads:
        _finish(session, checkpoint.path.parent, history, watch, data, as_json)
    processes.of_first(None)
    tell(quiet, *_remarks(session, history, resumed=len(checkpoint.history)))
    if history.stopped == "interrupted":
        sys.exit(interrupted_code(ctx))


def _opened(folder: Path) -> Any:
    """The checkpoint in this folder of a run."""
    from gpubp.cli.run import CHECKPOINT
    from gpubp.resume import Checkpoint

    if not os.path.lexists(folder / CHECKPOINT):
        raise GpubpError(f"{str(folder)!r} holds no {CHECKPOINT}: there is nothing to resume; start it anew")
    checkpoint = Checkpoint(folder / CHECKPOINT, resume=True)
    if "settings" not in checkpoint.run:
        raise GpubpError(f"the checkpoint in {str(folder)!r} was written from Python; resume it there")
    return checkpoint


def _resumed(ctx: click.Context, given: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """The settings of the run, of which the command line may change only what does not change its course."""
    settings = dict(kept)
    for name, value in given.items():
        if ctx.get_parameter_source(name) in (ParameterSource.DEFAULT, None):
            continue
        if name in ("data", "device", "epochs"):
            settings[name] = value
        elif value != kept[name]:
            option = "--" + name.replace("_", "-")
            raise click.UsageError(
                f"{option} {value} differs from the run to be resumed, which has {_told(kept[name])}", ctx
            )
    return settings


def _told(setting: Any) -> str:
    return "its default" if setting is None else str(setting)


def _where(net: "MLP") -> str | None:
    """Why training is on the CPU, or how steps are taken on a GPU."""
    if net.fallback:
        return f"on the CPU: {net.fallback}"
    steps = net._network.backend.describe().get("steps")
    return steps and f"on {net.device}, steps are {steps}"


def _train(
    session: "Session", checkpoint: Any, settings: dict[str, Any], watch: "Diagnosis | None", verbose: bool
) -> "History":
    from gpubp.cli.run import RunFiles

    processes = session.processes
    files = RunFiles(checkpoint.path.parent, session.resolved(settings), checkpoint.history, processes.size)
    return session.net.fit(
        *session.train,
        epochs=session.epochs,
        batch_size=session.batch_size,
        optimizer=settings["optimizer"],
        learning_rate=settings["lr"],
        schedule=settings["schedule"],
        weight_decay=settings["weight_decay"],
        validation=session.validation,
        early_stopping=settings["patience"],
        class_weight=settings["class_weight"],
        metrics="accuracy" if session.preprocessing.classes else "r2",
        callbacks=[*([] if processes.rank else [files]), checkpoint, *([watch] if watch else [])],
        verbose=int(verbose),
    )


def _finish(
    session: "Session", folder: Path, history: "History", watch: "Diagnosis | None", data: str, as_json: bool
) -> None:
    """Save the model, say how good it is and, where it was watched, what is wrong with it."""
    from gpubp.cli.diagnosis import findings, tell_diagnosis, write_diagnosis
    from gpubp.cli.run import CURVE, HISTORY, MODEL, draw_loss

    resume = command_line("train", "--resume", str(folder))
    if not len(history):
        click.echo(f"interrupted in the first epoch; go on with it: {resume}", err=True)
        return
    session.net.save(folder / MODEL)
    history.save(folder / HISTORY)
    scores = session.scores()
    if as_json:
        seconds = sum(record["seconds"] for record in history)
        run = {"epochs": len(history), "seconds": seconds, "model": str(folder / MODEL), "stopped": history.stopped}
        click.echo(json.dumps({**scores, "samples": len(session.test[1]), **run, **findings(watch)}))
    else:
        _report(session, scores, folder / MODEL, data, resume if history.stopped == "interrupted" else None)
    draw_loss(history, folder / CURVE)
    if watch and watch.records[1:]:
        remark = write_diagnosis(watch, folder)
        if not as_json:
            tell_diagnosis(watch, remark)


def _say_why(watch: "Diagnosis", folder: Path | None, as_json: bool) -> None:
    """Of a training that diverged, before its error; `folder` is that of a run that can be gone on with."""
    from gpubp.cli.diagnosis import findings, tell_diagnosis, write_diagnosis

    remark = write_diagnosis(watch, folder) if folder else ""
    if as_json:
        click.echo(json.dumps(findings(watch)))
    else:
        tell_diagnosis(watch, remark)


def _remarks(session: "Session", history: "History", resumed: int) -> Iterator[str]:
    """What the user may not have expected."""
    if resumed == len(history) and history.stopped != "interrupted":
        more = (
            "it stopped early" if history.stopped == "early stopping" else f"--epochs {2 * resumed} would give it more"
        )
        yield f"the run had finished its {resumed} epochs: nothing was trained; {more}"
    losses = history["validation_loss"] if len(history) else []
    if history.best_epoch is None and losses and min(losses) < 0.8 * losses[-1]:
        best = losses.index(min(losses))
        yield (
            f"the validation loss was best in epoch {best + 1}: {losses[best]:.4g}, and {losses[-1]:.4g} at the end; "
            f"with --patience {max(10, len(history) // 10)} training stops early and keeps the best weights"
        )


def _report(session: "Session", scores: dict[str, float], model: Path, data: str, resume: str | None) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    samples = len(session.test[1])
    if "accuracy" in scores:
        headline = f"accuracy {scores['accuracy']:.2%}"
        rest = f" ({round(scores['accuracy'] * samples)} of {samples}), loss {scores['loss']:.4f}"
    else:
        headline = f"R² {scores['r2']:.4f}"
        rest = f" on {samples} rows, RMSE {scores['rmse']:.4g}, MAE {scores['mae']:.4g}, loss {scores['loss']:.4f}"
    console.print(Text.assemble((f"test {headline}", "bold green"), rest))
    console.print(Text(f"model saved to {model}"), soft_wrap=True)
    if resume:
        console.print(Text.assemble("go on with it: ", (resume, "bold")), soft_wrap=True)
    evaluate = command_line("evaluate", str(model.parent), data)
    console.print(Text.assemble("evaluate it: ", (evaluate, "bold")), soft_wrap=True)
    shape, classes, images = session.preprocessing.shape, session.preprocessing.classes, session.source.peak
    if classes and images and len(shape) == 2 and not console.options.ascii_only:  # half-blocks are not ASCII
        from gpubp.cli.pictures import LARGE, most_wrong
        from gpubp.cli.report import displayed

        if shape[1] <= LARGE:
            x, y = session.test
            colour = console.color_system is not None
            console.print("\nthe two it got most wrong:")
            names = [displayed(name) for name in classes]
            console.print(most_wrong(x, y, session.net.predict_proba(x), shape, names, colour))
