"""Which rows of a file a model is scored on, and its scores there."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp.cli.model import Model, Part
from gpubp.data.split import rows_digest, split_rows
from gpubp.errors import DataError
from gpubp.scores import ClassScores, ValueScores

if TYPE_CHECKING:
    from gpubp.data.source import Source


@dataclass(frozen=True)
class Choice:
    """The rows to score."""

    parts: list[Part]
    rows: str  # what they are
    note: str | None = None  # what the user did not ask for and should know


def choose(model: Model, source: "Source", data: str, split: str | None) -> Choice:
    """The rows that training held out, if this is what it was trained on; else a test part, or all; or as told."""
    train, test, facts = source.train, source.test, model.data
    same = facts is not None and facts["sha256"] == source.sha256
    if split == "all":
        return Choice([(table, None) for table in (train, test) if table is not None], f"rows of {source.name}")
    if facts is not None and same and test is None and facts["test"] is not None:
        learned, held_out = _split_again(model, source, facts)
        if split == "train":
            return Choice([(train, learned)], f"training rows of {source.name}")
        return Choice([(train, held_out)], f"held-out rows of {source.name}")
    why = f"{data} is not the file it was trained on"
    if facts is None:
        why = f"{model.path!s} does not say what it was trained on"
    if test is None:
        if split:
            raise DataError(f"{why}, and {data!r} has no test part of its own; use --split all")
        learned = "" if facts is None else ", of which it may have learned some"
        as_it_is = "" if model.prepared else ", as they are"
        return Choice(
            [(train, None)],
            f"rows of {source.name}",
            f"{why}: scoring all of its {len(train.x)} rows{as_it_is}{learned}",
        )
    if split == "train":
        return Choice([(train, None)], f"training rows of {source.name}")
    note = None if same or split else f"{why}: scoring its test part of {len(test.x)} rows"
    return Choice([(test, None)], f"test rows of {source.name}", note)


def _split_again(model: Model, source: "Source", facts: dict[str, Any]) -> tuple[Any, Any]:
    """(training rows, held-out rows) as they were in training."""
    labels = model.targets(source.train) if model.preprocessing.classes else None
    learned, held_out = split_rows(len(source.train.x), facts["test"], facts["seed"], labels)
    if rows_digest(held_out) != facts["digest"]:
        raise DataError(
            f"the rows of {source.name} that training held out cannot be found again: NumPy {np.__version__} draws "
            "others, or another target was trained on; use --split all, or a file of rows that it has not seen"
        )
    return learned, held_out


def score(model: Model, parts: list[Part], data: str) -> tuple[ClassScores | ValueScores, float]:
    """The scores, and the loss as training measures it, over all parts."""
    task, outputs = model.decisions.task, model.net.sizes[-1]
    mean, loss = model.net.loss.reduction == "mean", 0.0
    scores = ValueScores(outputs) if task == "values" else ClassScores(max(2, outputs), labels=task == "labels")
    for table, index in parts:
        targets = model.targets(table) if index is None else model.targets(table)[index]
        for where, inputs, told in model.run((table, index)):
            truths = targets[where]
            loss += model.net.evaluate(inputs, truths)["loss"] * (len(inputs) if mean else 1)
            if isinstance(scores, ValueScores):
                scores.add(model.preprocessing.values(truths), model.preprocessing.values(told))
            else:
                scores.add(truths.astype(np.int64), model.decisions.decide(told))
    if not scores.samples:
        raise DataError(f"{data!r} has no rows to score")
    return scores, loss / scores.samples if mean else loss


def facts(scores: ClassScores | ValueScores, loss: float, names: list[Any]) -> dict[str, Any]:
    """The scores as one plain object: a number that is not finite is None, and so is a share of nothing."""
    if isinstance(scores, ValueScores):
        found: dict[str, Any] = {**scores.overall(), "loss": loss, "samples": scores.samples}
        if len(scores.rmse) > 1:
            found["outputs"] = _records({"rmse": scores.rmse, "mae": scores.mae, "r2": scores.r2})
        return {name: _plain(value) for name, value in found.items()}
    low, high = scores.interval
    columns = {"precision": scores.precision, "recall": scores.recall, "f1": scores.f1, "support": scores.truths}
    found = {"accuracy": scores.accuracy, "accuracy_low": low, "accuracy_high": high, "loss": _plain(loss)}
    found |= {"samples": scores.samples, "classes": _records({"name": np.array(names, object), **columns})}
    return found if scores.confusion is None else {**found, "confusion": scores.confusion.tolist()}


def _records(columns: dict[str, Any]) -> list[dict[str, Any]]:
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, map(_plain, row), strict=True)) for row in rows]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
