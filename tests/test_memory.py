"""The laws of memory: a warm step allocates nothing, and what a step holds is what its formula says."""

import gc
import tracemalloc
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.losses import Loss
from gpubp.optimizers import Optimizer

LIMIT = 16 << 10  # bytes that 100 warm steps may add to the peak, whatever the batch


def sample(rows: int, dtype: str = "float32", inputs: int = 20, classes: int = 10) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, inputs)).astype(dtype), rng.integers(0, classes, rows)


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


@pytest.mark.check
def test_batches_of_ever_new_sizes_keep_little() -> None:
    net = gpubp.MLP([4, 5, 3], device="cpu", seed=0)
    x, y = sample(3000, "float32", 4, 3)
    optimizer = gpubp.SGD(0.1)
    net.train_step(x, y, optimizer)
    gc.collect()
    tracemalloc.start()
    try:
        for rows in range(1, 3000):
            net.train_step(x[:rows], y[:rows], optimizer)
        # 2.2 MB where every size's views are kept, 30 with their tapes; of 64 sizes it is 1 MB at most
        assert tracemalloc.get_traced_memory()[0] < 1_600_000
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
    sizes = {name: buffer.size for name, buffer in net._network._buffers._workspace.buffers.items()}
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
