"""What one training needs, from its settings alone: the data in its parts, prepared, and a network that fits them."""

import os
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from gpubp import MLP
from gpubp.alone import Alone
from gpubp.data.files import NAMES, Source, Table, open_data
from gpubp.data.preprocessing import Preprocessing, task_of
from gpubp.data.rows import too_large
from gpubp.data.split import rows_digest, split_rows
from gpubp.errors import DataError
from gpubp.optimizers import Optimizer
from gpubp.scores import ValueScores

EPOCHS, LEAST_STEPS, MOST_STEPS = 60, 2_000, 50_000  # where --epochs does not say
WATCHED = 256  # rows that a diagnosis looks at


@dataclass
class Session:
    """Pairs of inputs and targets as the network takes them, and what they came from."""

    source: Source
    preprocessing: Preprocessing
    net: MLP
    train: tuple[Any, Any]
    validation: tuple[Any, Any]
    test: tuple[Any, Any]
    batch_size: int | str
    epochs: int
    processes: Alone  # that train together

    @classmethod
    def prepare(cls, settings: dict[str, Any], processes: Alone) -> "Session":
        """What rank 0 looks through as a whole, such as for means and digests, the other processes take from it."""
        files = ("data", "val", "target")  # which may be called otherwise on another machine
        processes.agree(**{name: value for name, value in settings.items() if name not in files})
        source = _opened(processes, settings["data"], settings["target"])
        table = source.train
        task = task_of(table.y) if settings["task"] == "auto" else settings["task"]
        learned, held_out, test_rows = _split(settings, source, _labels(table, source, task))
        fit = partial(Preprocessing.fit, peak=source.peak, features=source.features, target=source.target)
        known = processes.of_first(None if processes.rank else fit(table.x, table.y, learned, task))
        other = _opened(processes, settings["val"], source.target, source.features) if held_out is None else None
        if other:
            _check_alike(known, other, settings["val"])
        validation = _part(known, other.train) if other else _part(known, table, held_out)
        test = _part(known, source.test) if source.test else _part(known, table, test_rows)
        train = _part(known, table, learned)
        if not processes.any(too_large(*(x.shape for x, _ in (train, validation, test)))):
            train, validation, test = ((x.loaded(), y) for x, y in (train, validation, test))
        net = _network(settings, known)
        net.metadata = {"preprocessing": known.config(), "data": _data(settings, source, other, test_rows)}
        seen = len(learned) + (0 if held_out is None else len(held_out))
        batch_size = settings["batch_size"] or min(128, max(16, seen // 100))
        epochs = settings["epochs"] or _epochs(len(learned), batch_size)
        return cls(source, known, net, train, validation, test, batch_size, epochs, processes)

    def understood(self, settings: dict[str, Any]) -> str:
        """What is about to be trained, in two lines."""
        known, rows = self.preprocessing, [len(y) for _, y in (self.train, self.validation, self.test)]
        what = f"{len(known.classes)} classes" if known.classes else "a regression"
        target = f" of {known.target!r}" if known.target else ""
        settings = self.resolved(settings)
        device = "the CPU" if self.net.device == "cpu" else self.net.device
        if self.processes.size > 1:
            device = f"{self.processes.size} processes, rank 0 on {device}"
        return (
            f"{what}{target} from {self.net.sizes[0]} inputs: {rows[0]} rows to train, {rows[1]} to validate, "
            f"{rows[2]} to test\n{self.epochs} epochs in batches of {self.batch_size}, "
            f"{settings['optimizer']} at {settings['lr']:g}, on {device}"
        )

    def portable(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings with files by paths that can be found from any folder; names stay as they are."""
        names = ("data", "val") if self.source.features else ("data", "val", "target")  # a table's target is a column
        files = {name: settings[name] for name in names if isinstance(settings[name], str)}
        found = {
            name: os.path.abspath(file) for name, file in files.items() if file not in NAMES and os.path.exists(file)
        }
        return {**settings, **found}

    def resolved(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings with what was decided where they leave it open."""
        rate = Optimizer.resolve(settings["optimizer"]).learning_rate if settings["lr"] is None else settings["lr"]
        decided = {"task": self.preprocessing.task, "target": self.source.target or settings["target"], "lr": rate}
        return {**settings, **decided, "batch_size": self.batch_size, "epochs": self.epochs}

    def watched(self) -> tuple[Any, Any]:
        """Some training rows at equal distances, as a file may be sorted."""
        x, y = self.train
        rows = np.unique(np.linspace(0, len(y) - 1, WATCHED).astype(int))
        return x[rows], y[rows]

    def scores(self) -> dict[str, float]:
        """Of the test rows: loss, and accuracy, or errors in the units of the file."""
        x, y = self.test
        scores = self.net.evaluate(x, y)
        if self.preprocessing.task == "regression":
            errors = ValueScores(self.preprocessing.outputs)
            errors.add(self.preprocessing.values(y), self.preprocessing.values(self.net.forward(x)))
            scores |= errors.overall()
        return scores


def _opened(processes: Alone, data: str, target: str | None, features: list[str] | None = None) -> Source:
    source = open_data(data, target, features, trusted=processes.rank > 0)
    return replace(source, sha256=processes.of_first(source.sha256))


def _split(settings: dict[str, Any], source: Source, labels: Any) -> tuple[Any, Any, Any]:
    """The numbers of the rows to learn from, to validate on and to test on; None for those of another file or part."""
    rows, test_rows = np.arange(len(source.train.x)), None
    if source.test is None:
        rows, test_rows = _share("test", len(rows), settings, labels)
    if not isinstance(settings["val"], float):
        return rows, None, test_rows
    left = None if labels is None else labels[rows]
    learned, held_out = _share("val", len(rows), settings, left)
    return rows[learned], rows[held_out], test_rows


def _share(option: str, rows: int, settings: dict[str, Any], labels: Any) -> tuple[Any, Any]:
    try:
        return split_rows(rows, settings[option], settings["seed"], labels)
    except DataError:
        raise DataError(
            f"--{option} {settings[option]:g} of {rows} rows of {settings['data']!r} leaves one part without rows; "
            "choose another share, or give more rows"
        ) from None


def _check_alike(known: Preprocessing, other: Source, file: str) -> None:
    """Refuse to validate on samples of another kind than those that are learned."""
    shape = other.train.x.shape[1:]
    if np.prod(shape) != np.prod(known.shape):
        raise DataError(f"the samples of {file!r} have shape {shape}, but those to learn from have {known.shape}")
    if other.features is None and (other.peak is None) != (known.peak is None):
        kinds = ("bytes, as images" if peak else "numbers" for peak in (other.peak, known.peak))
        raise DataError("{!r} holds {}, but those to learn from are {}; convert them".format(file, *kinds))


def _part(known: Preprocessing, table: Table, index: Any = None) -> tuple[Any, Any]:
    """Inputs, still unread, and targets."""
    return known.rows(table.x, index), known.targets(table.y if index is None else table.y[index])


def _data(settings: dict[str, Any], source: Source, other: Source | None, test_rows: Any) -> dict[str, Any]:
    """What the model remembers of its data, so that `evaluate` finds the rows that were held out."""
    return {
        "name": source.name,
        "sha256": source.sha256,
        "validation": other and other.sha256,
        "test": None if source.test else settings["test"],
        "seed": settings["seed"],
        "digest": None if test_rows is None else rows_digest(test_rows),
    }


def _epochs(rows: int, batch_size: int | str) -> int:
    """Enough steps for few rows, and an end in sight for many."""
    steps = 1 if batch_size == "full" else -(-rows // int(batch_size))
    return max(1, min(max(EPOCHS, -(-LEAST_STEPS // steps)), MOST_STEPS // steps))


def _labels(table: Table, source: Source, task: str) -> Any:
    """Class numbers to stratify by; None for a regression."""
    name, y = source.target or "y", table.y
    if task == "regression":
        if y.dtype.kind == "U":
            raise DataError(f"{name} holds text such as {str(y[0])!r}, so --task regression cannot be")
        return None
    if y.dtype.kind != "U" and (y.ndim > 1 or not (y == np.floor(y)).all()):
        raise DataError(f"{name} does not hold one class a row but numbers; use --task regression")
    return np.unique(y, return_inverse=True)[1]


def _network(settings: dict[str, Any], preprocessing: Preprocessing) -> MLP:
    inputs = int(np.prod(preprocessing.shape))
    return MLP(
        [inputs, *settings["hidden"], preprocessing.outputs],
        settings["activation"],
        "softmax" if preprocessing.task == "classification" else "identity",
        dropout=settings["dropout"],
        device=settings["device"],
        seed=settings["seed"],
    )
