"""Samples that stay on disk: they give the bits that the same samples in memory give, in less memory than they take."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.data import rows
from gpubp.data.rows import Rows

N, WIDTH = 700, 6


@pytest.fixture
def x(rng: np.random.Generator) -> Any:
    return rng.normal(size=(N, WIDTH)).astype(np.float32)


@pytest.fixture
def y(x: Any) -> Any:
    return (x[:, 0] > x[:, 1]).astype(int)


@pytest.fixture
def on_disk(x: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """x as a memory map that is too large for memory, and whose passes take many chunks."""
    monkeypatch.setattr(rows, "IN_MEMORY", x.nbytes - 1)
    monkeypatch.setattr(rows, "CHUNK_BYTES", 8 * WIDTH * 100)
    np.save(tmp_path / "x.npy", x)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def network(output: str = "softmax") -> gpubp.MLP:
    return gpubp.MLP([WIDTH, 9, 2], "relu", output, dropout=0.2, seed=3, device="cpu")


SETTINGS: dict[str, dict[str, Any]] = {
    "shuffled": {},
    "in order": {"shuffle": False},
    "validated": {"validation": 0.2, "metrics": "accuracy", "early_stopping": 1},
    "weighted": {"class_weight": "balanced", "sample_weight": np.linspace(0, 1, N)},
    "full batch": {"batch_size": "full"},
    "transformed": {"transform": lambda x: -x},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_training_gives_the_same_bits(x: Any, y: Any, on_disk: Any, settings: dict[str, Any]) -> None:
    results = []
    for samples in (x, on_disk, Rows(on_disk)):
        net = network()
        history = net.fit(samples, y, epochs=3, verbose=0, **{"batch_size": 32, **settings})
        results.append([history["loss"], *(array.tobytes() for array in net.get_parameters()[0])])
    assert results[0] == results[1] == results[2]


def test_what_it_reads_are_batches(x: Any, y: Any, on_disk: Any) -> None:
    """A training that took all rows into memory would read more than a chunk at once."""
    read = []

    def seen(part: Any) -> Any:
        read.append(len(part))
        return part

    network().fit(Rows(on_disk, seen), y, epochs=1, batch_size=32, verbose=0)
    assert max(read) == 100
    assert sum(read) == 2 * N  # once to look for what is not finite, once to train


def test_scores_and_predictions(x: Any, y: Any, on_disk: Any) -> None:
    net = network()
    assert net.evaluate(on_disk, y) == net.evaluate(x, y)
    for method in (net.forward, net.predict, net.predict_proba):
        assert np.array_equal(method(on_disk), method(x))
        assert type(method(on_disk)) is np.ndarray


def test_steps_take_memory_maps_too(x: Any, y: Any, on_disk: Any) -> None:
    a, b = network(), network()
    losses = [float(net.train_step(xs[:50], y[:50], gpubp.SGD(0.1))) for net, xs in ((a, x), (b, on_disk))]
    assert losses[0] == losses[1]
    assert np.array_equal(a.backprop(x[:5], y[:5]).input_grad, b.backprop(on_disk[:5], y[:5]).input_grad)


def test_rows_are_chosen_and_prepared(x: Any) -> None:
    some = Rows(x.reshape(N, 2, 3), lambda part: part * 2, np.array([5, 3, 8, 1])).select(np.array([2, 0]))
    assert some.shape == (2, WIDTH)
    assert np.array_equal(some[:], x[[8, 5]] * 2)
    assert np.array_equal(some[np.array([1])], x[[5]] * 2)
    assert np.array_equal(some.loaded("float64"), x[[8, 5]].astype(float) * 2)


def test_what_is_not_finite_is_found_on_disk(on_disk: Any, x: Any, y: Any, tmp_path: Path) -> None:
    x[432, 4] = np.nan
    np.save(tmp_path / "bad.npy", x)
    bad = np.load(tmp_path / "bad.npy", mmap_mode="r")
    for call in (lambda: network().fit(bad, y, verbose=0), lambda: network().evaluate(bad, y)):
        with pytest.raises(gpubp.DataError, match=r"^x has 1 values .* row 432, column 4"):
            call()
    with pytest.raises(gpubp.DataError, match=r"^validation x has 1 values .* row 432, column 4"):
        network().fit(x[:9], y[:9], validation=(bad, y), verbose=0)


def test_shapes_and_kinds_are_checked(on_disk: Any, y: Any) -> None:
    with pytest.raises(gpubp.ShapeError, match=r"\(700, 6\), but \(N, 5\)"):
        gpubp.MLP([5, 2], device="cpu").fit(on_disk, y)
    with pytest.raises(gpubp.ShapeError, match="flatten"):
        network().predict(on_disk.reshape(N, 2, 3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_share_rows_that_only_have_to_be_moved(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the others are prepared by one."""
    monkeypatch.setattr(rows, "cores", lambda: 3)
    source = np.random.default_rng(0).random((3000, 300), np.float32)
    parts: list[slice] = []

    def in_parts(out: Any, work: Any) -> None:
        whole(out, lambda part: (parts.append(part), work(part)))

    whole = rows.in_parts
    monkeypatch.setattr(rows, "in_parts", in_parts)
    for chosen in (np.random.default_rng(1).permutation(3000), slice(7, 2900), np.array([5]), slice(0, 0)):
        unread, out = rows.Unread(rows.Rows(source), chosen), None
        out = np.full(unread.shape, np.nan, dtype)
        unread.into(out)
        assert (out == source[chosen]).all()
    assert len(parts) == (3 + 3 + 1 + 1 if dtype == "float32" else 0)
    doubled = rows.Unread(rows.Rows(source, lambda values: 2 * values, np.arange(5, 50)), np.array([1, 0]))
    out = np.empty(doubled.shape, dtype)
    doubled.into(out)
    assert (out == 2 * source[[6, 5]]).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks as POSIX has them")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_moves_rows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "cores", lambda: 2)
    source, out = np.ones((3000, 300), np.float32), np.zeros((3000, 300), np.float32)
    rows.Rows(source).into(slice(None), out)
    if (child := os.fork()) == 0:
        signal.alarm(20)
        out[:] = 0
        rows.Rows(source).into(slice(None), out)
        os._exit(0 if (out == 1).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
