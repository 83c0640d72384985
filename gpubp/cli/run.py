"""The folder of a training run: what it was told, what happened, where it stands, its model, and what was wrong."""

import json
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubp import __version__
from gpubp.callbacks import Callback
from gpubp.errors import GpubpError
from gpubp.history import History
from gpubp.whole import write_whole

if TYPE_CHECKING:
    from gpubp.mlp import MLP

CHECKPOINT, MODEL, CONFIG, HISTORY, CURVE, DIAGNOSIS, PICTURE, PLANS = (
    "checkpoint.safetensors",
    "model.safetensors",
    "config.json",
    "history.jsonl",
    "loss.png",
    "diagnosis.json",
    "diagnosis.png",
    "plans.json",
)
RUNS = Path("runs")


def new_folder(out: Path | None, name: str) -> Path:
    """The folder asked for, or the first of runs/NAME, runs/NAME-2, ... not there yet; nothing is overwritten."""
    for file in (MODEL, CHECKPOINT, CONFIG, HISTORY, CURVE, DIAGNOSIS, PICTURE, PLANS):
        if out and os.path.lexists(out / file):
            what = "a run" if file in (MODEL, CHECKPOINT) else "a file of a run's name"
            raise GpubpError(
                f"{str(out)!r} holds {what} already ({file}); choose another --out, or go on with a run by --resume"
            )
    folder = out or RUNS / name
    try:
        (out or RUNS).mkdir(parents=True, exist_ok=True)
        if not out:
            folder = next(path for path in _numbered(folder) if _made(path))
        with tempfile.TemporaryFile(dir=folder):  # better found out now than after an epoch
            return folder
    except OSError as error:
        raise GpubpError(
            f"cannot write into the folder {str(folder)!r}: {error.strerror}; choose another with --out"
        ) from None


def _numbered(path: Path) -> Iterator[Path]:
    """NAME, NAME-2, NAME-3, ..."""
    yield path
    yield from (path.with_name(f"{path.name}-{number}") for number in count(2))


def _made(path: Path) -> bool:
    """Whether this folder could be made: nobody has it, not even another run that begins at the same moment."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def abandon(folder: Path) -> None:
    """Remove a new run that ended before it had learned anything, and its folder if there is nothing else in it."""
    if os.path.exists(folder / HISTORY) and os.path.getsize(folder / HISTORY):
        return
    for file in (CONFIG, HISTORY, CHECKPOINT):
        (folder / file).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
        if folder.parent == RUNS:
            RUNS.rmdir()


def write_config(folder: Path, settings: dict[str, Any], net: "MLP", processes: int) -> None:
    """Everything that decides what this run computes, and what it ran on."""
    import numpy as np

    versions = {"gpubp": __version__, "python": platform.python_version(), "numpy": np.__version__}
    machine: dict[str, Any] = {"device": net.device, "machine": platform.machine(), "system": platform.platform()}
    machine |= {"processes": processes}
    structure = {"sizes": net.sizes, "parameters": net.parameter_count}
    config = {"settings": settings, "data": net.metadata["data"], "network": structure, "versions": versions, **machine}
    write_whole(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


class RunFiles(Callback):
    """config.json, and history.jsonl, which grows by a line an epoch, so that it can be followed.

    Both are begun when the checkpoint is there, so that a folder that holds one of them can be resumed from.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], history: History, processes: int) -> None:
        self.folder, self.settings, self.history, self.processes = folder, settings, history, processes

    def on_fit_begin(self, net: "MLP") -> None:
        write_config(self.folder, self.settings, net, self.processes)
        self.history.save(self.folder / HISTORY)

    def on_epoch_end(self, net: "MLP", record: dict[str, Any]) -> None:
        path = self.folder / HISTORY
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise GpubpError(f"cannot write {str(path)!r}: {error.strerror}") from None

    def on_fit_end(self, net: "MLP", history: History) -> None:
        if plans := net._network.backend.chosen_plans():
            write_whole(self.folder / PLANS, (json.dumps(plans, indent=1) + "\n").encode())


def draw_loss(history: History, path: Path) -> bool:
    """The loss curve as a picture, where matplotlib is installed and there is something to draw."""
    if len(history) < 2:
        return False
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(6, 4), layout="constrained")
    scale = "log" if any(loss > 0 for loss in history["loss"]) else "linear"
    axes = figure.add_subplot(xlabel="epoch", ylabel="loss", yscale=scale)
    axes.plot(history["epoch"], history["loss"], label="training")
    if "validation_loss" in history.columns:
        axes.plot(history["epoch"], history["validation_loss"], label="validation")
    if history.best_epoch:
        axes.axvline(history.best_epoch, color="grey", linestyle=":", label=f"best: epoch {history.best_epoch}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    picture = BytesIO()
    figure.savefig(picture, dpi=150, format="png")
    write_whole(path, picture.getvalue())
    return True
