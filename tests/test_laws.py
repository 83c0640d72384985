"""The laws of the design that no single function can break: imports, ownership, staleness."""

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp

ROOT = Path(__file__).resolve().parents[1]
OPTIONAL = ["cupy", "sklearn", "matplotlib", "torch", "rich", "click", "safetensors", "polars", "onnx", "scipy"]


def python(code: str) -> Any:
    """What a new interpreter prints, as JSON."""
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        f"import sys, json, time; sys.path.insert(0, {str(ROOT)!r}); {code}",
    ]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_importing_gpubp_imports_nothing_optional() -> None:
    loaded = python("import gpubp; gpubp.MLP; print(json.dumps(sorted(sys.modules)))")
    assert "gpubp.mlp" in loaded
    assert not {name.split(".")[0] for name in loaded} & set(OPTIONAL)


def test_the_names_are_there_before_they_are_used() -> None:
    """The package imports what it is asked for; completion and `import *` are to see everything at once."""
    assert python("import gpubp; print(json.dumps('numpy' in sys.modules))") is False
    assert "MLP" in python("import gpubp; print(json.dumps(dir(gpubp)))")
    assert python("from gpubp import *; print(json.dumps([MLP.__name__, losses.__name__]))") == ["MLP", "gpubp.losses"]
    assert python("from gpubp import checks, data; print(json.dumps(data.load_dataset.__name__))") == "load_dataset"
    assert python("import gpubp; print(json.dumps(hasattr(gpubp, 'mpl')))") is False


def test_a_network_on_the_cpu_needs_no_cupy() -> None:
    code = "import gpubp; gpubp.MLP([2, 2], device='cpu').forward([[1, 2]]); print(json.dumps(list(sys.modules)))"
    assert "cupy" not in python(code)


def test_importing_gpubp_is_fast() -> None:
    """150 ms beyond NumPy's own time; in one of five, because other work on the machine only ever adds."""
    code = "import numpy; t = time.perf_counter(); import gpubp; gpubp.MLP; print(time.perf_counter() - t)"
    assert any(python(code) < 0.150 for _ in range(5))
    whole = "t = time.perf_counter(); import gpubp; gpubp.MLP; print(time.perf_counter() - t)"
    assert any(python(whole) < 0.5 for _ in range(5))


# -- what is returned is the user's ------------------------------------------------------------------------------------


@pytest.fixture(params=["softmax", "sigmoid", "identity"])
def net(request: pytest.FixtureRequest) -> gpubp.MLP:
    """One that saves z in one layer and y in another, with a mask."""
    mask = np.random.default_rng(3).integers(0, 2, (8, 6))
    options: dict[str, Any] = {"masks": [None, mask, None], "dropout": 0.25, "device": "cpu", "seed": 0}
    return gpubp.MLP([5, 8, 6, 3], ["gelu", "tanh"], request.param, **options)


def data(net: gpubp.MLP, rows: int = 12, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 5)).astype("float32")
    return x, np.eye(3, dtype="float32")[rng.integers(0, 3, rows)]


def arrays_in(value: Any) -> list[Any]:
    """Every array in a result: of a list, a tuple, a Backprop."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, list | tuple):
        return [array for entry in value for array in arrays_in(entry)]
    if isinstance(value, gpubp.Backprop):
        return arrays_in(list(vars(value).values()))
    return []


def calls(net: gpubp.MLP) -> dict[str, Callable[[Any, Any], Any]]:
    found: dict[str, Callable[[Any, Any], Any]] = {
        "forward": lambda x, y: net.forward(x),
        "predict": lambda x, y: net.predict(x),
        "backprop": lambda x, y: net.backprop(x, y),
        "get_parameters": lambda x, y: net.get_parameters(),
        "train_step": lambda x, y: net.train_step(x, y, gpubp.SGD(0.1)),
    }
    if net.activations[-1].name != "identity":
        found["predict_proba"] = lambda x, y: net.predict_proba(x)
    return found


CALLS = ["forward", "predict", "predict_proba", "backprop", "get_parameters", "train_step"]


@pytest.mark.parametrize("name", CALLS)
def test_a_result_does_not_change_later(net: gpubp.MLP, name: str) -> None:
    if name not in calls(net):
        pytest.skip("a regression has no probabilities")
    x, y = data(net)
    result = calls(net)[name](x, y)
    kept = copy.deepcopy(result)
    assert arrays_in(result), "a result without arrays proves nothing"
    other_x, other_y = data(net, 12, seed=1)
    for later in calls(net).values():
        later(other_x, other_y)
    net.fit(other_x, other_y, epochs=1, batch_size=4, verbose=0)
    net.set_parameters(*(None if part is None else part for part in copy.deepcopy(net.get_parameters())))
    for got, was in zip(arrays_in(result), arrays_in(kept), strict=True):
        np.testing.assert_array_equal(got, was)


@pytest.mark.parametrize("name", [name for name in CALLS if name != "train_step"])
def test_writing_into_a_result_changes_nothing(net: gpubp.MLP, name: str) -> None:
    if name not in calls(net):
        pytest.skip("a regression has no probabilities")
    x, y = data(net)
    kept_x, kept_y = x.copy(), y.copy()
    expected = {other: copy.deepcopy(call(x, y)) for other, call in calls(net).items() if other != "train_step"}
    result = calls(net)[name](x, y)
    for array in arrays_in(result):
        assert array.flags.writeable
        array[...] = 77
    np.testing.assert_array_equal(x, kept_x)
    np.testing.assert_array_equal(y, kept_y)
    for other, was in expected.items():
        for got, old in zip(arrays_in(calls(net)[other](x, y)), arrays_in(was), strict=True):
            np.testing.assert_array_equal(got, old, err_msg=other)


def test_results_share_no_memory(net: gpubp.MLP) -> None:
    """Neither with the network's vectors and buffers, nor with each other, nor with what the user gave."""
    x, y = data(net)
    network = net._network
    results = [array for call in calls(net).values() for array in arrays_in(call(x, y))]
    arena = network.arena
    inner = [arena.parameters, arena.gradients, *network._buffers._workspace.buffers.values()]
    inner += list(network.backend.scratch._buffers.values())
    for at, array in enumerate(results):
        assert not any(np.shares_memory(array, other) for other in [*inner, x, y, *results[:at]])


def test_a_train_steps_loss_is_a_new_0d_array(net: gpubp.MLP) -> None:
    x, y = data(net)
    optimizer = gpubp.SGD(0.1)
    losses = [net.train_step(x, y, optimizer) for _ in range(3)]
    assert [loss.shape for loss in losses] == [()] * 3
    values = [float(loss) for loss in losses]
    assert len(set(values)) == 3
    losses[0][...] = 5
    assert float(losses[1]) == values[1]


def test_the_inputs_are_not_written(net: gpubp.MLP) -> None:
    x, y = data(net)
    kept = x.copy(), y.copy()
    weights = np.ones(12, "float32")
    for call in calls(net).values():
        call(x, y)
    net.evaluate(x, y, weights)
    net.backprop(x, y, weights)
    net.fit(x, y, epochs=2, batch_size=5, sample_weight=weights, validation=0.25, verbose=0)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(y, kept[1])
    np.testing.assert_array_equal(weights, 1)


def test_parameters_given_are_copied(net: gpubp.MLP) -> None:
    weights, biases = net.get_parameters()
    net.set_parameters(weights, biases)
    kept = copy.deepcopy(net.get_parameters())
    for array in [*weights, *biases]:
        array[...] = 9
    for got, was in zip(arrays_in(net.get_parameters()), arrays_in(kept), strict=True):
        np.testing.assert_array_equal(got, was)


def test_gradients_given_are_not_changed(net: gpubp.MLP) -> None:
    x, y = data(net)
    traced = net.backprop(x, y)
    kept = copy.deepcopy(traced)
    net.apply_gradients(traced.weight_grads, traced.bias_grads, gpubp.Adam(weight_decay=0.1))
    for got, was in zip(arrays_in(traced), arrays_in(kept), strict=True):
        np.testing.assert_array_equal(got, was)


def test_a_history_does_not_change_later(net: gpubp.MLP) -> None:
    x, y = data(net)
    history = net.fit(x, y, epochs=2, batch_size=4, validation=(x, y), verbose=0)
    kept = copy.deepcopy(history.records)
    net.fit(x, y, epochs=3, batch_size=4, verbose=0)
    assert history.records == kept
    assert len(history.records) == 2


def test_only_weights_and_biases_are_live(net: gpubp.MLP) -> None:
    x, _ = data(net)
    before = net.forward(x)
    net.weights[2][...] *= 2
    net.biases[0][...] += 0.5  # type: ignore[index]
    assert not np.array_equal(net.forward(x), before)
    with pytest.raises(TypeError):  # replacing a view would change nothing in the network, so it is refused
        net.weights[0] = net.weights[0]  # type: ignore[index]
    for given in (net.sizes, net.activations):
        given.clear()
    assert net.sizes == [5, 8, 6, 3]
    assert len(net.activations) == 3


# -- nothing is stale --------------------------------------------------------------------------------------------------


def poison(net: gpubp.MLP) -> int:
    """Fill with NaN every buffer whose content must not matter; returns how many there were."""
    network = net._network
    buffers = [view for view in [*network.arena.weight_grads, *network.arena.bias_grads] if view is not None]
    buffers += list(network._buffers._workspace.buffers.values())
    buffers += list(network.backend.scratch._buffers.values())
    for buffer in buffers:
        buffer.fill(np.nan if buffer.dtype.kind == "f" else -(2**40))
    return len(buffers)


@pytest.mark.parametrize("name", [*CALLS, "evaluate", "fit", "apply_gradients"])
def test_what_buffers_held_does_not_matter(net: gpubp.MLP, name: str) -> None:
    """Each call on a network whose memory is full of NaN gives what it gives on a fresh copy, bit for bit."""
    x, y = data(net)
    for warm in calls(net).values():
        warm(x, y)
    fresh = pickle.loads(pickle.dumps(net))
    labels = y.argmax(axis=1) if net.activations[-1].name == "softmax" else y
    net.backprop(x, labels)
    assert poison(net) > 8

    def used(which: gpubp.MLP) -> Any:
        table = calls(which)
        if name == "fit":
            options: dict[str, Any] = {
                "optimizer": gpubp.Adam(),
                "metrics": [],
                "clip_norm": 0.5,
                "batch_size": 5,
                "verbose": 0,
            }
            losses = which.fit(x, labels, epochs=2, sample_weight=np.linspace(0, 1, 12), **options).records
            return [np.array([record["loss"] for record in losses]), *arrays_in(which.get_parameters())]
        if name == "evaluate":
            return [np.array(list(which.evaluate(x, labels, np.linspace(0, 1, 12)).values()))]
        if name == "apply_gradients":
            ones = (
                [np.ones(w.shape) for w in which.weights],
                [b if b is None else np.ones(b.shape) for b in which.biases],
            )
            which.apply_gradients(*ones, gpubp.Adam(0.01, weight_decay=0.1))
            return which.get_parameters()
        if name not in table:
            pytest.skip("a regression has no probabilities")
        return [table[name](x, labels), which.get_parameters()]

    got, expected = arrays_in(used(net)), arrays_in(used(fresh))
    assert len(got) == len(expected) > 0
    for a, b in zip(got, expected, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)


def test_the_alignments_gaps_stay_zero(net: gpubp.MLP) -> None:
    """A norm over the flat vector would otherwise count what is no parameter."""
    x, y = data(net)
    arena = net._network.arena
    for optimizer in (gpubp.Adam(weight_decay=0.1), gpubp.SGD(0.1, 0.9), gpubp.Adagrad(), gpubp.RMSprop()):
        net.train_step(x, y, optimizer)
    for flat, views in (
        (arena.parameters, [*arena.weights, *arena.biases]),
        (arena.gradients, [*arena.weight_grads, *arena.bias_grads]),
    ):
        total = sum(float((view.astype("float64") ** 2).sum()) for view in views if view is not None)
        assert float((flat.astype("float64") ** 2).sum()) == pytest.approx(total, rel=1e-12)
        assert flat.size > sum(prod(view.shape) for view in views if view is not None), "this network has no gaps"
