"""Batches of arrays: every row once an epoch, in the order asked for, however many batches are gathered at once."""

from typing import Any

import numpy as np
import pytest

from gpubp.backends import get_backend
from gpubp.data import batches

ROWS = 23
X, TARGETS, WEIGHTS = np.arange(3.0 * ROWS).reshape(ROWS, 3), np.arange(ROWS), np.arange(ROWS) / 7


def epoch(size: int, order: Any) -> list[list[Any]]:
    made = batches.ArrayBatches(get_backend("cpu"), X, TARGETS, WEIGHTS, size, True, 0)
    return [[column.copy() for column in batch] for batch in made.in_order(order)]


@pytest.mark.parametrize("gathered", [1, 12, 24, 30, 1 << 13])  # of x the rows of 1, 1, 2, 2 and all batches of 4
def test_every_batch_has_the_rows_of_its_part_of_the_order(gathered: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "GATHERED", gathered)
    order = np.random.default_rng(0).permutation(ROWS)
    found = epoch(4, order)
    assert [len(x) for x, _, _ in found] == [4, 4, 4, 4, 4, 3]
    for column, all_rows in enumerate((X, TARGETS, WEIGHTS)):
        np.testing.assert_array_equal(np.concatenate([batch[column] for batch in found]), all_rows[order])


def test_small_batches_are_gathered_together(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, calls = get_backend("cpu"), []
    gather = type(backend).gather
    monkeypatch.setattr(type(backend), "gather", lambda *given: (calls.append(len(given[-1])), gather(*given))[1])
    monkeypatch.setattr(batches, "GATHERED", 24)
    epoch(4, np.arange(ROWS))
    assert sorted(calls) == [7, 8, 8, ROWS, ROWS]  # x two batches at a time; targets and weights at once
