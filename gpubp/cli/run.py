"""The folder of a training run: config.json, history.jsonl, loss.png, checkpoint.safetensors and model.safetensors."""

import json
import platform
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubp import __version__
from gpubp.callbacks import Callback
from gpubp.errors import GpubpError
from gpubp.whole import write_whole

if TYPE_CHECKING:
    from gpubp.history import History
    from gpubp.mlp import MLP

CHECKPOINT, MODEL, CONFIG, HISTORY, CURVE = (
    "checkpoint.safetensors",
    "model.safetensors",
    "config.json",
    "history.jsonl",
    "loss.png",
)


def new_folder(out: Path | None, name: str) -> Path:
    """The folder asked for, or the first of runs/NAME, runs/NAME-2, ... not there yet; no run is overwritten."""
    paths = (Path("runs") / (name if n == 1 else f"{name}-{n}") for n in count(1))
    folder = out or next(path for path in paths if not path.exists())
    taken = [name for name in (MODEL, CHECKPOINT) if (folder / name).exists()]
    if taken:
        raise GpubpError(
            f"{str(folder)!r} holds a run already ({taken[0]}); choose another --out, or go on with it by --resume"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).touch()
    except OSError as error:
        raise GpubpError(
            f"cannot write into the folder {str(folder)!r}: {error.strerror}; choose another with --out"
        ) from None
    return folder


def write_config(folder: Path, settings: dict[str, Any], net: "MLP") -> None:
    """Everything that decides what this run computes, and what it ran on."""
    import numpy as np

    versions = {"gpubp": __version__, "python": platform.python_version(), "numpy": np.__version__}
    machine = {"device": net.device, "machine": platform.machine(), "system": platform.platform()}
    structure = {"sizes": net.sizes, "parameters": net.parameter_count}
    config = {"settings": settings, "data": net.metadata["data"], "network": structure, "versions": versions, **machine}
    write_whole(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


class HistoryFile(Callback):
    """history.jsonl grows by a line an epoch, so that it can be followed; a resumed run writes it anew first."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_epoch_end(self, net: "MLP", record: dict[str, Any]) -> None:
        try:
            with self.path.open("w" if record["epoch"] == 1 else "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise GpubpError(f"cannot write {str(self.path)!r}: {error.strerror}") from None


def draw_loss(history: "History", path: Path) -> bool:
    """The loss curve as a picture, where matplotlib is installed and there is something to draw."""
    if len(history) < 2:
        return False
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel="loss", yscale="log")
    axes.plot(history["epoch"], history["loss"], label="training")
    if "validation_loss" in history.columns:
        axes.plot(history["epoch"], history["validation_loss"], label="validation")
    if history.best_epoch:
        axes.axvline(history.best_epoch, color="grey", linestyle=":", label=f"best: epoch {history.best_epoch}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    return True
