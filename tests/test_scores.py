"""Scores: against counting by hand, scikit-learn and `MLP.evaluate`, and the same however the rows are cut up."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubp import metrics
from gpubp.scores import ClassScores, ValueScores, wilson

TRUTHS = np.array([0, 0, 0, 0, 1, 1, 1, 2])
DECIDED = np.array([0, 0, 0, 1, 1, 1, 0, 0])


def scored(truths: Any, decided: Any, classes: int, labels: bool = False) -> ClassScores:
    scores = ClassScores(classes, labels)
    scores.add(truths, decided)
    return scores


@pytest.mark.parametrize(
    ("right", "samples", "low", "high"),
    [
        # The roots of (right / samples − p)² = z² p (1 − p) / samples, from 40 decimal digits.
        (81, 263, 0.255288519878, 0.366209576983),
        (15, 148, 0.062386399531, 0.160487241723),
        (0, 20, 0.0, 0.161125158053),
        (29, 29, 0.883030201500, 1.0),
    ],
)
def test_wilson(right: int, samples: int, low: float, high: float) -> None:
    assert wilson(right, samples) == pytest.approx((low, high), abs=1e-11)
    assert wilson(0, samples)[0] == 0
    assert wilson(samples, samples)[1] == 1


@given(st.integers(1, 10**6), st.data())
def test_wilson_holds_the_share_and_mirrors_itself(samples: int, data: Any) -> None:
    right = data.draw(st.integers(0, samples))
    low, high = wilson(right, samples)
    assert 0 <= low <= right / samples <= high <= 1
    assert wilson(samples - right, samples) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_classes_by_hand() -> None:
    scores = scored(TRUTHS, DECIDED, 4)
    assert scores.confusion is not None
    assert scores.confusion.tolist() == [[3, 1, 0, 0], [1, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert (scores.samples, scores.right, scores.accuracy) == (8, 5, 5 / 8)
    np.testing.assert_allclose(scores.precision, [3 / 5, 2 / 3, np.nan, np.nan])
    np.testing.assert_allclose(scores.recall, [3 / 4, 2 / 3, 0, np.nan])
    np.testing.assert_allclose(scores.f1, [2 / 3, 2 / 3, 0, np.nan])
    assert scores.truths.tolist() == [4, 3, 1, 0]
    assert scores.most_confused(2) == [(0, 1, 1), (1, 0, 1)]
    assert scores.most_confused(9) == [(0, 1, 1), (1, 0, 1), (2, 0, 1)]


def test_labels_by_hand() -> None:
    truths = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 0]])
    scores = scored(truths, np.array([[1, 0, 1], [0, 0, 0], [1, 1, 0]]), 3, labels=True)
    assert (scores.samples, scores.right, scores.confusion) == (3, 1, None)
    np.testing.assert_allclose(scores.precision, [1, 0, 1])
    np.testing.assert_allclose(scores.recall, [1, np.nan, 1 / 2])
    np.testing.assert_allclose(scores.f1, [1, 0, 2 / 3])
    assert scores.most_confused(5) == []


@pytest.mark.check
def test_classes_against_scikit_learn(rng: np.random.Generator) -> None:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    truths, decided = rng.integers(0, 7, (2, 500))
    scores = ClassScores(7)
    for start in range(0, 500, 90):
        scores.add(truths[start : start + 90], decided[start : start + 90])
    expected = precision_recall_fscore_support(truths, decided)
    for ours, theirs in zip((scores.precision, scores.recall, scores.f1, scores.truths), expected, strict=True):
        np.testing.assert_allclose(ours, theirs)
    np.testing.assert_array_equal(scores.confusion, confusion_matrix(truths, decided))


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_values_in_parts_are_those_of_the_whole(rng: np.random.Generator, offset: float) -> None:
    targets = rng.normal(offset, [1.0, 3.0], (301, 2))
    values = targets + rng.normal(0, 0.5, (301, 2))
    scores = ValueScores(2)
    for rows in np.split(np.arange(301), [1, 4, 100]):
        scores.add(targets[rows], values[rows])
    expected = {name: metric(targets, values, None) for name, metric in metrics.REGRESSION.items()}
    assert scores.overall() == pytest.approx(expected, rel=1e-9)
    for output in (0, 1):
        one = slice(output, output + 1)
        assert scores.rmse[output] == pytest.approx(metrics.rmse(targets[:, one], values[:, one], None))
        assert scores.mae[output] == pytest.approx(metrics.mae(targets[:, one], values[:, one], None))
        assert scores.r2[output] == pytest.approx(metrics.r2(targets[:, one], values[:, one], None), rel=1e-9)


def test_r2_of_a_constant_target() -> None:
    scores = ValueScores(2)
    scores.add(np.full((4, 2), 3.0), np.array([[3.0, 2.0]] * 4))
    assert scores.r2.tolist() == [1, 0]


def test_errors_too_large_are_infinite_without_a_warning() -> None:
    scores = ValueScores(1)
    scores.add(np.zeros((1, 1)), np.full((1, 1), 1e200))
    assert scores.overall()["rmse"] == np.inf
