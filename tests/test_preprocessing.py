"""Preprocessing: what it learns from the training rows, what it makes of rows and targets, and back."""

import json
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.data import rows
from gpubp.data.preprocessing import Preprocessing, task_of

ALL = np.arange(50)


@pytest.fixture
def table(rng: np.random.Generator) -> Any:
    return rng.normal(size=(50, 4)) * [1, 1e-3, 1e6, 1] + [0, 5, 1.7e9, -3]


@pytest.fixture
def y(rng: np.random.Generator) -> Any:
    return rng.integers(0, 3, 50)


def test_columns_are_standardised_by_the_training_rows_alone(table: Any, y: Any) -> None:
    train = np.arange(0, 50, 2)
    known = Preprocessing.fit(table, y, train, "classification")
    inputs = known.inputs(table[train])
    assert np.allclose(inputs.mean(axis=0), 0, atol=1e-6)
    assert np.allclose(inputs.std(axis=0), 1)
    table[1::2] = 1e30  # the other rows
    assert Preprocessing.fit(table, y, train, "classification") == known


def test_statistics_do_not_depend_on_chunks(table: Any, y: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Preprocessing.fit(table, y, ALL, "classification")
    monkeypatch.setattr(rows, "CHUNK_BYTES", 8 * 4 * 7)
    parts = Preprocessing.fit(table, y, ALL, "classification")
    assert np.allclose(whole.shift, parts.shift, rtol=1e-14)
    assert np.allclose(whole.scale, parts.scale, rtol=1e-9)


def test_large_numbers_keep_their_differences(table: Any, y: Any) -> None:
    """Seconds since 1970 are 1.7e9, and float32 would round them to multiples of 128 before they are standardised."""
    stamps = 1.7e9 + np.arange(50.0)[:, None]
    inputs = Preprocessing.fit(stamps, y, ALL, "classification").rows(stamps).loaded()
    assert inputs.dtype == np.float32
    assert len(np.unique(inputs)) == 50


def test_constant_columns_become_zero(y: Any) -> None:
    x = np.tile([0.1, 0.0, 3e7], (50, 1))
    assert np.allclose(Preprocessing.fit(x, y, ALL, "classification").inputs(x), 0, atol=1e-12)


def test_bytes_of_images_are_scaled_to_1(rng: np.random.Generator, y: Any) -> None:
    images = rng.integers(0, 256, (50, 3, 3), np.uint8)
    known = Preprocessing.fit(images, y, ALL, "classification", peak=255)
    inputs = known.rows(images).loaded()
    assert np.array_equal(inputs, images.reshape(50, 9).astype(np.float32) * np.float32(1 / 255))
    assert known.shape == (3, 3)


def test_images_of_numbers_are_standardised_as_one(rng: np.random.Generator, y: Any) -> None:
    images = rng.normal(7, 2, (50, 3, 3))
    images[:, 0, 0] = 0  # a pixel that never lights up is not blown up
    inputs = Preprocessing.fit(images, y, ALL, "classification").inputs(images.reshape(50, 9))
    assert (inputs.mean(), inputs.std()) == pytest.approx((0, 1))
    assert len(np.unique(inputs[:, 0])) == 1


@pytest.mark.parametrize(
    ("labels", "names"),
    [(["b", "a", "c"], ["a", "b", "c"]), ([7, -1, 3], [-1, 3, 7]), ([1.0, 0.0, 2.0], [0, 1, 2])],
    ids=str,
)
def test_classes_have_names(labels: list[Any], names: list[Any]) -> None:
    y = np.array(labels * 10)
    known = Preprocessing.fit(np.zeros((30, 2)), y, np.arange(30), "classification")
    assert known.classes == names
    assert known.outputs == 3
    assert [known.classes[index] for index in known.targets(y)] == labels * 10


def test_classes_that_look_like_numbers_where_others_are_text() -> None:
    known = Preprocessing.fit(np.zeros((30, 2)), np.array(["1", "2", "x"] * 10), np.arange(30), "classification")
    assert known.targets(np.array([2.0, 1.0])).tolist() == [1, 0]


def test_values_beyond_all_reason_are_refused(table: Any, y: Any) -> None:
    table[3, 2] = 1e300
    with pytest.raises(gpubp.DataError, match="column 'c' are too large to be standardised"):
        Preprocessing.fit(table, y, ALL, "classification", features=list("abcd"))


def test_values_are_standardised_and_back(rng: np.random.Generator) -> None:
    y = rng.normal(2e5, 4e4, (50, 2))
    known = Preprocessing.fit(np.zeros((50, 1)), y, ALL, "regression")
    targets = known.targets(y)
    assert np.allclose(targets.mean(axis=0), 0)
    assert np.allclose(targets.std(axis=0), 1)
    assert np.allclose(known.values(targets), y)
    single = Preprocessing.fit(np.zeros((50, 1)), y[:, 0], ALL, "regression")
    assert single.targets(y[:, 0]).shape == (50, 1)


def test_it_travels_as_json(table: Any, y: Any) -> None:
    for task in ("classification", "regression"):
        known = Preprocessing.fit(table, y, ALL, task, features=list("abcd"), target="t")
        assert Preprocessing.from_config(json.loads(json.dumps(known.config()))) == known


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": 1},
        {"shape": 3},
        {"shape": [3.0]},
        {"shape": [0]},
        {"shift": None},
        {"scale": ["1"]},
        {"features": [1, 2]},
        {"features": ["a", "\ud800"]},
        {"target": 3},
        {"classes": [2**70, 1]},
        {"peak": "255"},
    ],
    ids=str,
)
def test_a_damaged_one_is_refused(change: dict[str, Any]) -> None:
    config = Preprocessing("classification", (2,), [0.0], [1.0], classes=[0, 1]).config()
    assert Preprocessing.from_config(config)
    with pytest.raises(gpubp.ModelFileError, match="preprocessing cannot be read"):
        Preprocessing.from_config({**config, **change})


@pytest.mark.parametrize("config", [None, {}, [1]], ids=str)
def test_what_is_none_at_all_is_refused(config: Any) -> None:
    with pytest.raises(gpubp.ModelFileError, match="preprocessing cannot be read"):
        Preprocessing.from_config(config)


def test_what_cannot_be_learned_or_was_not(table: Any, y: Any) -> None:
    with pytest.raises(gpubp.DataError, match="species has one class only, 'rose'"):
        Preprocessing.fit(table, np.array(["rose"] * 50), ALL, "classification", target="species")
    known = Preprocessing.fit(table, np.array(["a", "b"] * 25), ALL, "classification", target="species")
    with pytest.raises(gpubp.DataError, match=r"species: row 1 has the class 'c', which is none .*: a, b"):
        known.targets(np.array(["a", "c"]))
    with pytest.raises(gpubp.DataError, match=r"species: row 0 has the class '0', which is none .*: a, b"):
        known.targets(np.array([0.0, 1.0]))
    numbered = Preprocessing.fit(table, np.array([1, 2] * 25), ALL, "classification", target="species")
    with pytest.raises(gpubp.DataError, match=r"species holds text, such as 'a', but .* the classes 1, 2$"):
        numbered.targets(np.array(["a", "1"]))
    values = Preprocessing.fit(table, table[:, :2], ALL, "regression")
    with pytest.raises(gpubp.DataError, match="have 3 columns, but the model predicts 2"):
        values.targets(table[:, :3])


@pytest.mark.parametrize(
    ("y", "task"),
    [
        (np.array(["a", "b"]), "classification"),
        (np.array([3, 5, 8, 8]), "classification"),
        (np.array([3.0, 5.0]), "classification"),
        (np.array([3.0, 5.5]), "regression"),
        (np.arange(21), "regression"),
        (np.tile(np.arange(62), 10), "classification"),
        (np.tile(np.arange(62), 9), "regression"),
        (np.tile(np.arange(1, 63), 10), "regression"),
        (np.zeros((5, 2)), "regression"),
    ],
)
def test_the_task_that_targets_ask_for(y: Any, task: str) -> None:
    assert task_of(y) == task
