"""Scores of a network's decisions on many rows, which are given some at a time and never kept."""

from math import sqrt
from typing import Any

import numpy as np

Z_95 = 1.959963984540054  # 95 % of a normal distribution lie within so many standard deviations


def wilson(right: int, samples: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share of which `right` of `samples` were seen; Wilson 1927.

    Unlike p ± z √(p (1 − p) / n) it is of use near 0 and 1 and for few samples.
    """
    share, z2 = right / samples, Z_95 * Z_95
    centre = (share + z2 / (2 * samples)) / (1 + z2 / samples)
    reach = Z_95 * sqrt(share * (1 - share) / samples + z2 / (4 * samples**2)) / (1 + z2 / samples)
    low = 0.0 if right == 0 else centre - reach  # exact there, where the difference would leave a rounding error
    high = 1.0 if right == samples else centre + reach
    return low, high


class ClassScores:
    """Of each class: in how many rows it was the truth, in how many it was decided on, in how many both.

    Rows have one class each, an index; or, with `labels`, each class is 0 or 1 in every row, and a row is right if all
    of them are.
    """

    def __init__(self, classes: int, labels: bool = False) -> None:
        self.samples = self.right = 0
        self.confusion = None if labels else np.zeros((classes, classes), np.int64)  # truth by decision
        self.truths, self.decided, self.hits = np.zeros((3, classes), np.int64)

    def add(self, truths: Any, decided: Any) -> None:
        """Take note of some rows: class indices (n,), or with `labels` 0 and 1, (n, classes)."""
        self.samples += len(truths)
        if self.confusion is None:
            self.right += int((truths == decided).all(axis=1).sum())
            self.truths += truths.sum(axis=0)
            self.decided += decided.sum(axis=0)
            self.hits += (truths & decided).sum(axis=0)
            return
        np.add.at(self.confusion, (truths, decided), 1)
        hits = truths[truths == decided]
        self.right += len(hits)
        for counts, classes in ((self.truths, truths), (self.decided, decided), (self.hits, hits)):
            counts += np.bincount(classes, minlength=len(counts))

    @property
    def accuracy(self) -> float:
        return self.right / self.samples

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.right, self.samples)

    @property
    def precision(self) -> Any:
        """Of the rows decided on as a class, the share that is of it; NaN for a class never decided on."""
        return _shares(self.hits, self.decided)

    @property
    def recall(self) -> Any:
        """Of the rows of a class, the share that was found; NaN for a class without rows."""
        return _shares(self.hits, self.truths)

    @property
    def f1(self) -> Any:
        """The harmonic mean of precision and recall; NaN for a class that neither was there nor was decided on."""
        return _shares(2 * self.hits, self.truths + self.decided)

    def most_confused(self, count: int) -> list[tuple[int, int, int]]:
        """The pairs (truth, decision) most often mistaken, with how often, the most frequent first."""
        if self.confusion is None:
            return []
        truths, decided = np.nonzero(self.confusion)  # of 10,000 classes, few of the 10^8 pairs
        wrong = truths != decided
        truths, decided = truths[wrong], decided[wrong]
        mistakes = self.confusion[truths, decided]
        order = np.argsort(-mistakes, kind="stable")[:count]
        return [(int(truths[i]), int(decided[i]), int(mistakes[i])) for i in order]


def _shares(part: Any, whole: Any) -> Any:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


class ValueScores:
    """Errors of predicted values, for each output and over all of them; a target's spread is merged part by part."""

    def __init__(self, outputs: int) -> None:
        self.samples = 0
        self.squares, self.absolutes, self.mean, self.spread = np.zeros((4, outputs))

    def add(self, targets: Any, values: Any) -> None:
        """Take note of some rows, (n, outputs) each."""
        with np.errstate(over="ignore", invalid="ignore"):  # then a score is infinite, and says so itself
            count, errors = len(targets), values - targets
            self.squares += (errors**2).sum(axis=0)
            self.absolutes += np.abs(errors).sum(axis=0)
            # Σ (t − t̄)² of two parts is the sum of theirs and of what the distance of their means adds; Chan 1979.
            mean, total = targets.mean(axis=0), self.samples + count
            distance = mean - self.mean
            self.spread += ((targets - mean) ** 2).sum(axis=0) + distance**2 * self.samples * count / total
            self.mean += distance * count / total
            self.samples = total

    @property
    def rmse(self) -> Any:
        """√ of the mean of (o − t)², of each output."""
        return np.sqrt(self.squares / self.samples)

    @property
    def mae(self) -> Any:
        """The mean of |o − t|, of each output."""
        return self.absolutes / self.samples

    @property
    def r2(self) -> Any:
        """1 − Σ (o − t)² / Σ (t − t̄)², of each output; for a constant target 1 where it is met, else 0."""
        constant = np.where(self.squares == 0, 1.0, 0.0)
        return 1 - np.divide(self.squares, self.spread, out=1 - constant, where=self.spread > 0)

    def overall(self) -> dict[str, float]:
        """The scores over all outputs, as `MLP.evaluate` defines them."""
        rmse = np.sqrt(self.squares.mean() / self.samples)
        return {"rmse": float(rmse), "mae": float(self.mae.mean()), "r2": float(self.r2.mean())}
