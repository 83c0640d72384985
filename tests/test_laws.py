"""The laws of the design that no single function can break: allocation, staleness, ownership, imports, memory."""

import copy
import gc
import json
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.losses import Loss
from gpubp.optimizers import Optimizer

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 16 << 10  # bytes that 100 warm steps may add to the peak, whatever the batch


def sample(rows: int, dtype: str = "float32", inputs: int = 20, classes: int = 10) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, inputs)).astype(dtype), rng.integers(0, classes, rows)


# -- a warm step allocates nothing -------------------------------------------------------------------------------------


def growth(call: Callable[[], Any], times: int = 100) -> int:
    """How far the peak of 100 calls rises above what was held before them."""
    for _ in range(3):
        call()
    gc.collect()
    tracemalloc.start()
    try:
        call()  # what the tracer itself and Python's caches keep
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(times):
            call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def masks() -> list[Any]:
    return [np.random.default_rng(1).integers(0, 2, (20, 32)), None, None]


SETTINGS: dict[str, tuple[dict[str, Any], Callable[[], Optimizer]]] = {
    "sigmoid, SGD": ({}, lambda: gpubp.SGD(0.1)),
    "relu, dropout, Adam, decay": (
        {"activation": "relu", "dropout": [0.2, 0.5, 0.5]},
        lambda: gpubp.Adam(weight_decay=0.01),
    ),
    "relu, dropout, float64": ({"activation": "relu", "dropout": 0.5, "dtype": "float64"}, lambda: gpubp.AdamW()),
    "tanh, masks, float64": (
        {"activation": "tanh", "masks": masks(), "dtype": "float64"},
        lambda: gpubp.SGD(0.1, 0.9, nesterov=True),
    ),
    "gelu": ({"activation": "gelu"}, lambda: gpubp.RMSprop()),
    "softplus, silu": ({"activation": ["softplus", "silu"]}, lambda: gpubp.Adagrad()),
    "elu, leaky_relu": ({"activation": ["elu", "leaky_relu"]}, lambda: gpubp.SGD(0.01, 0.9)),
    "selu, no bias": ({"activation": "selu", "use_bias": False}, lambda: gpubp.SGD(0.01)),
    "softmax within": ({"activation": "softmax", "dtype": "float64"}, lambda: gpubp.SGD(0.01)),
}


@pytest.mark.parametrize("kind", ["labels", "one-hot", "weights"])
@pytest.mark.parametrize("rows", [1, 32, 4096])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_warm_step_allocates_nothing(name: str, rows: int, kind: str) -> None:
    options, optimizer = SETTINGS[name][0], SETTINGS[name][1]()
    dtype = options.get("dtype", "float32")
    net = gpubp.MLP([20, 32, 24, 10], **options, device="cpu", seed=0)
    x, y = sample(rows, dtype)
    targets = np.eye(10, dtype=dtype)[y] if kind == "one-hot" else y
    weights = np.ones(rows, dtype) if kind == "weights" else None
    times = 100 if rows < 4096 or name == "sigmoid, SGD" else 20  # what a step keeps does not grow with the batch
    assert growth(lambda: net.train_step(x, targets, optimizer, weights), times) < LIMIT


def accepted() -> list[tuple[str, str]]:
    """Each loss after each of four outputs, where MLP takes the two together."""
    pairs = []
    for loss, output in product(Loss.members, ["identity", "sigmoid", "softmax", "exp"]):
        try:
            gpubp.MLP([1, 1], output=output, loss=loss, device="cpu", seed=0)
        except gpubp.DataError:
            continue
        pairs.append((loss, output))
    return pairs


@pytest.mark.parametrize("rows", [1, 32, 4096])
@pytest.mark.parametrize(("loss", "output"), accepted())
def test_no_loss_allocates(loss: str, output: str, rows: int) -> None:
    """Fused where the output belongs to the loss, by the chain of two kernels elsewhere."""
    net = gpubp.MLP([20, 32, 10], "tanh", output, loss, device="cpu", seed=0)
    x, y = sample(rows)
    targets, optimizer = np.eye(10, dtype="float32")[y], gpubp.SGD(0.001)
    assert growth(lambda: net.train_step(x, targets, optimizer), 20) < LIMIT


@pytest.mark.parametrize("rows", [1, 32, 4096])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_clipping_does_not_allocate(rows: int, dropout: float) -> None:
    """clip_norm is an argument of fit alone, so this asks the step under it."""
    net = gpubp.MLP([20, 32, 10], "relu", dropout=dropout, device="cpu", seed=0)
    x, y = sample(rows)
    network, optimizer, cost = net._network, gpubp.Adam(weight_decay=0.1), np.empty((), "float32")

    def step() -> None:
        with network.backend.active():
            network.update(x, y, None, optimizer, cost, clip_norm=0.5)

    assert growth(step) < LIMIT


@pytest.mark.parametrize("width", [1, 3, 70, 1000, 1500])
def test_no_width_allocates(width: int) -> None:
    """NumPy chooses by the length of a row whether to copy what it broadcasts."""
    net = gpubp.MLP([20, width, 10], device="cpu", seed=0)
    x, y = sample(700)
    optimizer = gpubp.SGD(0.1)
    assert growth(lambda: net.train_step(x, y, optimizer), 30) < LIMIT


def test_the_last_short_batch_costs_nothing() -> None:
    net = gpubp.MLP([20, 32, 10], device="cpu", seed=0)
    x, y = sample(4096)
    optimizer = gpubp.SGD(0.1)

    def epoch() -> None:
        for start in range(0, 4096, 1000):
            net.train_step(x[start : start + 1000], y[start : start + 1000], optimizer)

    assert growth(epoch, 20) < LIMIT


def test_batches_of_ever_new_sizes_keep_little() -> None:
    net = gpubp.MLP([4, 5, 3], device="cpu", seed=0)
    x, y = sample(1500, "float32", 4, 3)
    optimizer = gpubp.SGD(0.1)
    net.train_step(x, y, optimizer)
    gc.collect()
    tracemalloc.start()
    try:
        for rows in range(1, 1500):
            net.train_step(x[:rows], y[:rows], optimizer)
        assert tracemalloc.get_traced_memory()[0] < 400_000  # 1.1 MB where every size's views are kept
    finally:
        tracemalloc.stop()


def test_growth_would_be_seen() -> None:
    """The measure itself: one forgotten temporary of a batch of 4096 is 16 KiB and more."""
    a = np.ones((4096, 10), "float32")
    assert growth(lambda: a + 1) > 10 * LIMIT
    kept: list[Any] = []
    assert growth(lambda: kept.append(np.ones(100))) > LIMIT
    assert growth(lambda: np.add(a, 1, out=a)) < LIMIT / 10


def test_small_buffers_are_gone_after_a_call() -> None:
    """gpubp asks NumPy for small buffers and no warnings inside its calls only."""
    net = gpubp.MLP([20, 10], device="cpu", seed=0)
    before = np.getbufsize(), np.geterr()
    x, y = sample(4)
    net.forward(x)
    net.train_step(x, y, gpubp.SGD(0.1))
    with pytest.raises(gpubp.ShapeError):
        net.forward(x[:, :3])
    assert (np.getbufsize(), np.geterr()) == before


# -- memory ------------------------------------------------------------------------------------------------------------

MEMORY: dict[str, tuple[dict[str, Any], Callable[[], Optimizer], int]] = {
    # and the state vectors of each optimizer
    "sgd": ({}, lambda: gpubp.SGD(0.1), 0),
    "momentum": ({"activation": "relu"}, lambda: gpubp.SGD(0.1, 0.9), 1),
    "adam, gelu saves z": ({"activation": "gelu"}, lambda: gpubp.Adam(), 2),
}


@pytest.mark.parametrize("name", MEMORY)
@pytest.mark.parametrize(("sizes", "rows"), [([64, 256, 256, 256, 10], 4096), ([400, 900, 700, 30], 64)])
def test_the_memory_of_a_step(name: str, sizes: list[int], rows: int) -> None:
    """Parameters, gradients, optimizer state, activations, two delta buffers, scratch, targets; within a tenth."""
    options, make, states = MEMORY[name]
    x, y = sample(rows, "float32", sizes[0])
    gc.collect()
    tracemalloc.start()
    try:
        net = gpubp.MLP(sizes, **options, device="cpu", seed=0)
        if rows < 1000:  # where drawing the first weights, in float64, takes more than a step does
            tracemalloc.reset_peak()
        optimizer = make()
        for _ in range(2):
            net.train_step(x, y, optimizer)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    widths = sizes[1:]
    parameters = 4 * sum(m * n + n for m, n in zip(sizes, widths, strict=False))
    saved = 4 * rows * (sum(widths) + sum(n for n, f in zip(widths, net.activations, strict=True) if f.saves == "z"))
    deltas = 4 * rows * (max(widths[-1::-2]) + max(widths[-2::-2]))
    scratch = 4 * sum(buffer.size for buffer in net._network.backend.scratch._buffers.values() if buffer.itemsize == 4)
    targets = 4 * rows * widths[-1] + 8 * 2 * rows
    expected = (2 + states) * parameters + saved + deltas + scratch + targets
    assert peak == pytest.approx(expected, rel=0.1)
    assert held == pytest.approx(peak, rel=0.02), "what a warm step needs beyond what it keeps"
    # Kernels of a batch run on blocks, so scratch is small beside it; an optimizer's covers at most the flat vector.
    block = 2 * 65536  # elements up to which a body runs on the whole array
    assert scratch <= 4 * 2 * max(block, max(widths)) or scratch <= 1.01 * parameters


def test_a_larger_batch_frees_the_smaller_ones_buffers() -> None:
    """Growing costs what is needed then, not both; and a smaller batch takes rows of what is there."""
    net = gpubp.MLP([20, 400, 10], "tanh", device="cpu", seed=0)
    small, large = sample(2000), sample(4000)
    optimizer = gpubp.SGD(0.1)
    net.train_step(*small, optimizer)
    gc.collect()
    tracemalloc.start()
    try:
        net.train_step(*large, optimizer)
        held, peak = tracemalloc.get_traced_memory()
        assert peak == pytest.approx(held, rel=0.05)
        net.train_step(*small, optimizer)
        assert tracemalloc.get_traced_memory()[0] == pytest.approx(held, rel=0.01)
    finally:
        tracemalloc.stop()
    sizes = {name: buffer.size for name, buffer in net._network._workspace.buffers.items()}
    assert sizes["y0"] == 4000 * 400


def test_an_arena_is_one_vector_each() -> None:
    net = gpubp.MLP([5, 7, 3], use_bias=[True, False], dtype="float64", device="cpu", seed=0)
    arena = net._network.arena
    for views, flat in (
        ([*net.weights, net.biases[0]], arena.parameters),
        ([*arena.weight_grads, arena.bias_grads[0]], arena.gradients),
    ):
        base = flat.__array_interface__["data"][0]
        ends: list[int] = []
        for view in views:
            start = view.__array_interface__["data"][0] - base
            assert start % 256 == 0, "aligned to 256 bytes"
            assert start >= (ends[-1] if ends else 0), "in order, without overlap"
            ends.append(start + view.nbytes)
            assert np.shares_memory(view, flat)
        assert ends[-1] <= flat.nbytes
    assert net.biases[1] is None


# -- imports -----------------------------------------------------------------------------------------------------------

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
    loaded = python("import gpubp; print(json.dumps(sorted(sys.modules)))")
    assert "gpubp.mlp" in loaded
    assert not {name.split(".")[0] for name in loaded} & set(OPTIONAL)


def test_a_network_on_the_cpu_needs_no_cupy() -> None:
    code = "import gpubp; gpubp.MLP([2, 2], device='cpu').forward([[1, 2]]); print(json.dumps(list(sys.modules)))"
    assert "cupy" not in python(code)


def test_importing_gpubp_is_fast() -> None:
    """150 ms beyond NumPy's own time; the least of five, because other work on the machine only ever adds."""
    code = "import numpy; t = time.perf_counter(); import gpubp; print(time.perf_counter() - t)"
    assert min(python(code) for _ in range(5)) < 0.150
    whole = "t = time.perf_counter(); import gpubp; print(time.perf_counter() - t)"
    assert min(python(whole) for _ in range(5)) < 0.5


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
    inner = [arena.parameters, arena.gradients, *network._workspace.buffers.values()]
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
    views = net.weights, net.biases
    views[0].clear()  # the lists are the user's, too
    views[1].clear()
    assert (len(net.weights), len(net.biases)) == (3, 3)
    for given in (net.sizes, net.activations):
        given.clear()
    assert net.sizes == [5, 8, 6, 3]
    assert len(net.activations) == 3


# -- nothing is stale --------------------------------------------------------------------------------------------------


def poison(net: gpubp.MLP) -> int:
    """Fill with NaN every buffer whose content must not matter; returns how many there were."""
    network = net._network
    buffers = [view for view in [*network.arena.weight_grads, *network.arena.bias_grads] if view is not None]
    buffers += list(network._workspace.buffers.values())
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
