"""The CUDA path against the CPU path: on the emulated device everywhere, on a real one where there is one."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sampled import sampled

import gpubp
from gpubp import parity
from gpubp.activations import Activation
from gpubp.data import load_dataset
from gpubp.data.arrays import DeviceRows
from gpubp.kernel import KERNELS
from gpubp.losses import Loss

EPS = {"float32": 2.0**-23, "float64": 2.0**-52}
# In float64 g++ would compile as many kernels again for the emulator.
DTYPES = ["float32", pytest.param("float64", marks=pytest.mark.check)]


def pair(sizes: list[int], *args: Any, **settings: Any) -> tuple[gpubp.MLP, gpubp.MLP]:
    """The same network in float64 on the CPU, the truth, and on the GPU."""
    dtype = settings.pop("dtype", "float64")
    on_cpu = gpubp.MLP(sizes, *args, **settings, dtype="float64", device="cpu", seed=0)
    on_gpu = gpubp.MLP(sizes, *args, **settings, dtype=dtype, device="cuda", seed=0)
    on_gpu.set_parameters(*on_cpu.get_parameters())
    return on_cpu, on_gpu


def close(got: Any, truth: Any, dtype: str, roundings: float) -> None:
    """Equal to so many roundings of the largest value."""
    assert got.dtype == dtype
    limit = roundings * EPS[dtype] * max(1e-30, float(np.abs(truth).max(initial=0)))
    np.testing.assert_allclose(got, truth, rtol=0, atol=limit)


# -- kernels -----------------------------------------------------------------------------------------------------------


@pytest.mark.check  # for the emulator g++ compiles a hundred kernels
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_operation_is_right(cuda: str, dtype: str) -> None:
    """What `gpubp devices --check` runs."""
    results = list(parity.check(gpubp.get_backend(cuda), dtype))
    assert len(results) > 60
    assert not [result for result in results if not result.ok]


NAMES = ["bias_sigmoid", "sigmoid_delta", "dropout", "softmax_cross_entropy", "adam", "squared_norm"]


@pytest.mark.parametrize("tuned", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_every_size_strided_and_shifted(cuda: str, name: str, tuned: bool, large: int) -> None:
    """Views of wider arrays go by the body, arrays that begin anywhere by single elements."""
    backend = gpubp.get_backend(cuda)
    backend._tuned = tuned
    kernel = KERNELS[name]
    for rows, width in [(0, 3), (1, 1), (31, 33), (33, 31), (1023, 5), (1, large)]:
        args = parity.arguments(kernel, rows, width, np.float32)
        truth, scale = parity.truth_of(kernel, args)
        limit = parity.tolerance("float32", parity.terms(kernel, rows, width))
        for place in (contiguous, strided, shifted):
            device = {key: place(backend, arg) if isinstance(arg, np.ndarray) else arg for key, arg in args.items()}
            with backend.active():
                backend.run(kernel, *device.values())
            for written in kernel.writes:
                error = parity.largest(backend.to_numpy(device[written]), truth[written], scale[written])
                assert error <= limit, (written, rows, width, place)


def contiguous(backend: Any, a: Any) -> Any:
    return backend.copied(backend.asarray(a, a.dtype).reshape(a.shape))


def strided(backend: Any, a: Any) -> Any:
    """Every other column of a wider array."""
    if not a.ndim:
        return contiguous(backend, a)
    wide = backend.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    view = wide[..., ::2]
    view[...] = backend.asarray(a, a.dtype)
    return view


def shifted(backend: Any, a: Any) -> Any:
    """One element behind a 16-byte boundary."""
    flat = backend.zeros((a.size + 1,), a.dtype)
    view = flat[1:].reshape(a.shape)
    view[...] = backend.asarray(a, a.dtype).reshape(a.shape)
    return view


def test_dropout_drops_the_same_units(cuda: str, rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((67, 20)), rng.integers(0, 3, 67)
    nets = pair([20, 33, 3], "relu", dropout=[0.25, 0.5])
    for net in nets:
        net.train_step(x, y, gpubp.SGD(0.1))
    masks = []
    for net in nets:
        batch = net._network.batch(67, True)
        masks.append([np.asarray(net._network.backend.to_numpy(slot.dropped)) == 0 for slot in batch.layers])
    assert 0.2 < masks[0][0].mean() < 0.3
    for on_cpu, on_gpu in zip(*masks, strict=True):
        np.testing.assert_array_equal(on_gpu, on_cpu)


# -- passes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", sampled(sorted(Activation.members), ["gelu", "relu", "sigmoid", "softmax"]))
def test_a_backward_pass(cuda: str, activation: str, dtype: str, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(70, 5)).astype(dtype), rng.integers(0, 3, 70)
    on_cpu, on_gpu = (net.backprop(x, y) for net in pair([5, 36, 3], activation, dtype=dtype))
    assert on_gpu.loss == pytest.approx(on_cpu.loss, rel=64 * EPS[dtype])
    for name in ("outputs", "input_grad", "sample_losses"):
        close(getattr(on_gpu, name), getattr(on_cpu, name), dtype, 128)
    for name in ("zs", "deltas", "weight_grads", "bias_grads", "activation_grads"):
        for got, truth in zip(getattr(on_gpu, name), getattr(on_cpu, name), strict=True):
            close(got, truth, dtype, 128)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", sampled(sorted(Loss.members), ["binary_cross_entropy", "cross_entropy", "huber"]))
def test_every_loss(cuda: str, loss: str, dtype: str, rng: np.random.Generator) -> None:
    output = {"cross_entropy": "softmax", "binary_cross_entropy": "sigmoid", "poisson": "exp"}.get(loss, "identity")
    x = rng.normal(size=(40, 6))
    y = rng.integers(0, 2, (40, 4)).astype(float) if output != "softmax" else rng.integers(0, 4, 40)
    weights = rng.random(40)
    on_cpu, on_gpu = pair([6, 8, 4], "tanh", output, loss, dtype=dtype)
    for given in (None, weights):
        passes = [net.backprop(x, y, given) for net in (on_cpu, on_gpu)]
        close(passes[1].deltas[0], passes[0].deltas[0], dtype, 64)
        close(passes[1].sample_losses, passes[0].sample_losses, dtype, 64)
    assert on_gpu.evaluate(x, y, weights) == pytest.approx(on_cpu.evaluate(x, y, weights), rel=1e3 * EPS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", sorted(gpubp.Optimizer.members))
def test_ten_steps_do_not_drift(cuda: str, optimizer: str, dtype: str, rng: np.random.Generator) -> None:
    """The optimizers divide by no less than epsilon, so that a gradient that is nearly nothing is not magnified."""
    x, y = rng.normal(size=(64, 5)).astype(dtype), rng.integers(0, 3, 64)
    steady = {} if optimizer == "sgd" else {"epsilon": 1e-3}
    made = [gpubp.Optimizer.members[optimizer](weight_decay=0.01, **steady) for _ in range(2)]
    nets = pair([5, 33, 3], "sigmoid", dropout=0.3, dtype=dtype)
    for net, own in zip(nets, made, strict=True):
        for _ in range(10):
            net.train_step(x, y, own)
    for truth, got in zip(*(net.get_parameters()[0] for net in nets), strict=True):
        close(got, truth, dtype, 2000)


def test_a_whole_training_follows_the_cpu(cuda: str) -> None:
    """Digits, clipped, scheduled, validated: the losses of each epoch and the decisions at the end."""
    digits = load_dataset("digits")
    x, y = digits.x[:600], digits.y[:600]
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 50, "validation": 0.2, "clip_norm": 1.0, "verbose": 0}
    nets = pair([64, 32, 10], "tanh", dtype="float32")
    histories = [net.fit(x, y, **settings) for net in nets]
    for name in ("loss", "validation_loss"):
        np.testing.assert_allclose(histories[1][name], histories[0][name], rtol=1e-4)
    truth, got = (net.predict(x) for net in nets)
    assert (got == truth).mean() > 0.995


@pytest.mark.check
@pytest.mark.skipif("GPUBP_MNIST" not in os.environ, reason="GPUBP_MNIST=mnist.npz (x_train, y_train) is not set")
def test_an_mnist_epoch_follows_the_cpu(cuda: str) -> None:
    """The loss of every step of an epoch in float32, within a thousandth."""
    with np.load(os.environ["GPUBP_MNIST"]) as data:
        x, y = data["x_train"].reshape(60000, 784) / np.float32(255), data["y_train"]
    losses = []

    class Losses(gpubp.Callback):
        def on_step_end(self, net: gpubp.MLP, step: int, loss: Any) -> None:
            losses[-1].append(float(loss))

    for net in pair([784, 128, 10], "sigmoid", dtype="float32"):
        losses.append([])
        net.fit(x, y, epochs=1, batch_size=128, optimizer="sgd", learning_rate=0.5, callbacks=[Losses()], verbose=0)
    assert len(losses[0]) == 469
    assert losses[0][-1] < 0.5
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


# -- memory and data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, False])
def test_streamed_batches_give_the_bits_of_resident_ones(
    cuda: str, shuffle: bool, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = rng.standard_normal((330, 7)).astype(np.float32), rng.integers(0, 2, 330)
    results = []
    for room in (0.8, 0.0):
        monkeypatch.setattr("gpubp.backends.cupy.ROOM", room)
        net = gpubp.MLP([7, 16, 2], "relu", device=cuda, seed=0)
        assert isinstance(net._finite(x), DeviceRows) == (not room)
        history = net.fit(x, y, epochs=3, batch_size=32, shuffle=shuffle, validation=0.2, verbose=0)
        results.append((history["loss"], history["validation_loss"], net.get_parameters()[0][0].tobytes()))
    assert results[0] == results[1]


def test_a_model_goes_to_the_gpu_and_back(cuda: str, rng: np.random.Generator, tmp_path: Path) -> None:
    x, y = rng.standard_normal((40, 4)), rng.integers(0, 3, 40)
    net = gpubp.MLP([4, 8, 3], device="cpu", seed=0)
    adam = gpubp.Adam()
    net.train_step(x, y, adam)
    before = net.predict_proba(x)
    net.to(cuda)
    assert net.device == "cuda:0"
    np.testing.assert_allclose(net.predict_proba(x), before, rtol=1e-5)
    net.train_step(x, y, adam)  # whose moments came along
    net.save(tmp_path / "model.safetensors")
    loaded = gpubp.load(tmp_path / "model.safetensors", device="cpu")
    np.testing.assert_allclose(loaded.predict_proba(x), net.predict_proba(x), rtol=1e-5)
    assert pickle.loads(pickle.dumps(net)).device == "cuda:0"
