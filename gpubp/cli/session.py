"""What one training needs, from its settings alone: the data in its parts, prepared, and a network that fits them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpubp import MLP
from gpubp.data.files import Source, Table, open_data
from gpubp.data.preprocessing import Preprocessing, task_of
from gpubp.data.split import rows_digest, split_rows
from gpubp.errors import DataError
from gpubp.optimizers import Optimizer
from gpubp.scores import ValueScores

EPOCHS, LEAST_STEPS, MOST_STEPS = 60, 2_000, 50_000  # where --epochs does not say


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

    @classmethod
    def prepare(cls, settings: dict[str, Any]) -> "Session":
        source = open_data(settings["data"], settings["target"])
        table, seed = source.train, settings["seed"]
        task = task_of(table.y) if settings["task"] == "auto" else settings["task"]
        labels = _labels(table, source, task)
        rows, test_rows = np.arange(len(table.x)), None
        if source.test is None:
            rows, test_rows = split_rows(len(rows), settings["test"], seed, labels)
        learned, held_out = rows, None
        if isinstance(settings["val"], float):
            parts = split_rows(len(rows), settings["val"], seed, None if labels is None else labels[rows])
            learned, held_out = rows[parts[0]], rows[parts[1]]
        preprocessing = Preprocessing.fit(
            table.x, table.y, learned, task, peak=source.peak, features=source.features, target=source.target
        )

        def pair(part: Table, index: Any) -> tuple[Any, Any]:
            y = part.y if index is None else part.y[index]
            return preprocessing.rows(part.x, index), preprocessing.targets(y)

        if held_out is None:
            other = open_data(settings["val"], source.target, source.features)
            validation = pair(other.train, None)
        else:
            validation = pair(table, held_out)
        test = pair(source.test, None) if source.test else pair(table, test_rows)
        net = _network(settings, preprocessing)
        net.metadata = {
            "preprocessing": preprocessing.config(),
            "data": {
                "name": source.name,
                "sha256": source.sha256,
                "test": None if source.test else settings["test"],
                "seed": seed,
                "digest": None if test_rows is None else rows_digest(test_rows),
            },
        }
        batch_size = settings["batch_size"] or min(128, max(16, len(rows) // 100))
        epochs = settings["epochs"] or _epochs(len(learned), batch_size)
        return cls(source, preprocessing, net, pair(table, learned), validation, test, batch_size, epochs)

    def resolved(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings with what was decided where they leave it open."""
        rate = Optimizer.resolve(settings["optimizer"]).learning_rate if settings["lr"] is None else settings["lr"]
        decided = {"task": self.preprocessing.task, "target": self.source.target, "lr": rate}
        return {**settings, **decided, "batch_size": self.batch_size, "epochs": self.epochs}

    def scores(self) -> dict[str, float]:
        """Of the test rows: loss, and accuracy, or errors in the units of the file."""
        x, y = self.test
        scores = self.net.evaluate(x, y)
        if self.preprocessing.task == "regression":
            errors = ValueScores(self.preprocessing.outputs)
            errors.add(self.preprocessing.values(y), self.preprocessing.values(self.net.forward(x)))
            scores |= errors.overall()
        return scores


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


def absolute(data: str) -> str:
    """A file's path as it can be found from any folder; a data set's name as it is."""
    return os.path.abspath(data) if Path(data).exists() else data
