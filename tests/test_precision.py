"""TF32 and bfloat16: how far their rounding takes results from float64, in kernels, in passes and in trainings."""

import os
from typing import Any

import numpy as np
import pytest
from launches import from_half, halved, in_halves, to_half
from test_graphs import LABELS, ROWS, bits, history

import gpubp
from gpubp import specimens
from gpubp.backends.products import Products
from gpubp.data import load_dataset
from gpubp.kernel import Kernel
from gpubp.layers import cast

pytestmark = pytest.mark.toolchain

# The unit roundoff of each: 10 and 7 bits after the point.
ROUNDOFF = {"tf32": 2.0**-11, "bfloat16": 2.0**-8}
BOTH = list(ROUNDOFF)


def net(precision: str | None, captured: bool = True, **settings: Any) -> gpubp.MLP:
    settings = {"activation": ["sigmoid", "gelu"], "seed": 0, **settings}
    made = gpubp.MLP([6, 5, 4, 3], precision=precision, device="cuda", **settings)
    made._network.backend.replays = captured
    return made


# -- kernels -----------------------------------------------------------------------------------------------------------


def test_rounding_to_bfloat16(cuda: str) -> None:
    """Every pattern of a float's upper half; below, at and above the middle between it and the next."""
    patterns = np.arange(1 << 16, dtype=np.uint32) << 16
    x = np.concatenate([patterns + np.uint32(low) for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]).view(np.float32)
    backend = gpubp.get_backend(cuda)
    with backend.active():
        half, back = backend.empty(x.shape, "uint16"), backend.empty(x.shape, "float32")
        backend.run(cast, backend.asarray(x, "float32"), half)
        backend.run(cast, half, back)
        got, wide = backend.to_numpy(half), backend.to_numpy(back)
    finite = ~np.isnan(x)
    assert (got[finite] == to_half(x)[finite]).all()
    assert np.isnan(wide[~finite]).all()
    assert (wide[finite] == from_half(got)[finite]).all()


@pytest.mark.parametrize("kernel", in_halves(), ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("shape", [(33, 31), (130, 64)], ids=str)
def test_kernels_round_what_they_write_and_nothing_else(cuda: str, kernel: Kernel, shape: tuple[int, int]) -> None:
    args = halved(kernel, *shape)
    truth = {
        name: from_half(arg).astype(np.float64)
        if getattr(arg, "dtype", None) == np.uint16
        else np.asarray(arg, np.float64)
        if isinstance(arg, np.ndarray) and arg.dtype == np.float32
        else arg
        for name, arg in args.items()
    }
    expected = specimens.run(kernel, truth)
    backend = gpubp.get_backend(cuda)
    with backend.active():
        given = {n: backend.asarray(a, a.dtype) if isinstance(a, np.ndarray) else a for n, a in args.items()}
        sums = backend.empty((shape[1],), "float32")
        fused = kernel.writes == ("dz",)
        if fused:
            backend.run_with_column_sum(kernel, *given.values(), sums=sums)
        else:
            backend.run(kernel, *given.values())
        for name in kernel.writes:
            error = np.abs(from_half(backend.to_numpy(given[name])) - expected[name])
            # One rounding to bfloat16, and float32's before it, which may also tip the other.
            assert (error <= ROUNDOFF["bfloat16"] * 1.01 * np.abs(expected[name]) + 1e-6).all()
        if fused:
            np.testing.assert_allclose(backend.to_numpy(sums), expected["dz"].sum(axis=0), rtol=1e-4, atol=1e-4)


# -- passes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", BOTH)
def test_a_pass_is_close_and_not_the_same(cuda: str, precision: str) -> None:
    made, exact = net(precision), gpubp.MLP([6, 5, 4, 3], ["sigmoid", "gelu"], dtype="float64", device="cpu", seed=0)
    got, truth = made.forward(ROWS), exact.forward(ROWS)
    # Three layers, each with rounded factors and, in bfloat16, a rounded result; slopes and weights are about 1.
    assert 0 < np.abs(got - truth).max() <= 3 * 3 * ROUNDOFF[precision]
    assert not np.array_equal(got, net(None).forward(ROWS))
    assert got.dtype == np.float32


@pytest.mark.parametrize("precision", BOTH)
def test_gradients_are_as_close(cuda: str, precision: str) -> None:
    """Those of a training step, by what plain gradient descent moves; backprop computes in float32 beside bfloat16."""
    made, exact = net(precision), gpubp.MLP([6, 5, 4, 3], ["sigmoid", "gelu"], dtype="float64", device="cpu", seed=0)
    before, truth = made.get_parameters(), exact.backprop(ROWS, LABELS)
    made.train_step(ROWS, LABELS, gpubp.SGD(1.0))
    for moved, gradients in zip(made.get_parameters(), (truth.weight_grads, truth.bias_grads), strict=True):
        for place, gradient in enumerate(gradients):
            step = before[gradients is truth.bias_grads][place] - moved[place]
            error = np.linalg.norm(step - gradient) / np.linalg.norm(gradient)
            assert error <= 12 * ROUNDOFF[precision]  # three products forward and three back, two roundings each
    shown = net(precision).backprop(ROWS, LABELS)
    allowed = 12 * (ROUNDOFF["tf32"] if precision == "tf32" else 2.0**-20)
    for got, gradient in zip(shown.weight_grads, truth.weight_grads, strict=True):
        assert np.linalg.norm(got - gradient) <= allowed * np.linalg.norm(gradient)


@pytest.mark.parametrize("precision", BOTH)
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_captured_and_uncaptured_trainings_give_the_same_bits(
    cuda: str, monkeypatch: pytest.MonkeyPatch, precision: str, optimizer: str
) -> None:
    monkeypatch.setenv("GPUBP_GRAPHS", "1")
    results = []
    for captured in (True, False):
        made = net(precision, captured, dropout=[0.2, 0.5, 0.2])
        chosen = gpubp.SGD(0.1, 0.9) if optimizer == "momentum" else optimizer
        results.append((history(made, optimizer=chosen), bits(made)))
    assert results[0] == results[1]


def test_an_epoch_rounds_its_rows_as_it_gathers_them(emulated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that of the casts two are left: the weights and the last delta."""
    monkeypatch.setenv("GPUBP_GRAPHS", "1")
    history(net("bfloat16"), epochs=1)
    assert emulated.launched["gpubp_gather_halves"] == 5
    assert emulated.launched["gpubp_cast"] == 2 * 5


@pytest.mark.parametrize("precision", BOTH)
def test_wide_last_layers_and_losses_of_their_own(cuda: str, precision: str) -> None:
    """The output layer computes in float32 whatever its loss, and the delta below it is as close."""
    for output, loss in (("identity", "squared_error"), ("tanh", "huber"), ("sigmoid", "binary_cross_entropy")):
        y = np.random.default_rng(5).random((70, 9))
        made, exact = (
            gpubp.MLP([6, 5, 9], "relu", output, loss, seed=0, **where)
            for where in ({"precision": precision, "device": "cuda"}, {"dtype": "float64", "device": "cpu"})
        )
        losses = [[float(each.train_step(ROWS, y, optimizer)) for _ in range(3)] for each, optimizer in
                  ((made, gpubp.SGD(0.05)), (exact, gpubp.SGD(0.05)))]  # fmt: skip
        np.testing.assert_allclose(*losses, rtol=6 * ROUNDOFF[precision])


def test_one_layer_alone(cuda: str) -> None:
    made, exact = (
        gpubp.MLP([6, 3], seed=0, **where)
        for where in ({"precision": "bfloat16", "device": "cuda"}, {"dtype": "float64", "device": "cpu"})
    )
    for _ in range(3):
        losses = [float(each.train_step(ROWS, LABELS, gpubp.SGD(0.1))) for each in (made, exact)]
    np.testing.assert_allclose(*losses, rtol=3 * ROUNDOFF["bfloat16"])


def test_divergence_in_bfloat16_names_the_layer(cuda: str) -> None:
    made = net("bfloat16", activation="relu")
    with pytest.raises(gpubp.DivergenceError, match="the outputs of layer 2 of 3"):
        history(made, optimizer=gpubp.SGD(1e30), epochs=5)


def test_weights_that_the_user_writes_are_those_of_the_next_pass(cuda: str) -> None:
    made = net("bfloat16")
    before = made.forward(ROWS)
    made.weights[0][...] = 0
    assert not np.array_equal(made.forward(ROWS), before)


def differences(data: Any, sizes: list[int], precision: str, epochs: int, batch_size: int) -> list[float]:
    """Percent points by which the accuracy on the test set is above float32's, for three seeds."""
    x_train, y_train, x_test, y_test = data

    def accuracy(kind: str | None, seed: int) -> float:
        made = gpubp.MLP(sizes, "relu", precision=kind, device="cuda", seed=seed)
        made.fit(x_train, y_train, epochs=epochs, batch_size=batch_size, learning_rate=0.005, verbose=0)
        return float(100 * made.evaluate(x_test, y_test)["accuracy"])

    return [accuracy(precision, seed) - accuracy(None, seed) for seed in range(3)]


@pytest.mark.check
@pytest.mark.parametrize("precision", BOTH)
def test_digits_are_learnt_as_well(cuda: str, precision: str) -> None:
    """One digit of the test set is 0.28 of a percent point."""
    digits = load_dataset("digits")
    x_train, x_test, y_train, y_test = gpubp.train_test_split(digits.x, digits.y)
    found = differences((x_train, y_train, x_test, y_test), [64, 32, 10], precision, 12, 64)
    assert abs(np.mean(found)) <= 0.4


@pytest.mark.check
@pytest.mark.skipif("GPUBP_MNIST" not in os.environ, reason="GPUBP_MNIST=mnist.npz is not set")
@pytest.mark.parametrize("precision", BOTH)
def test_mnist_is_learnt_as_well(cuda: str, precision: str) -> None:
    with np.load(os.environ["GPUBP_MNIST"]) as data:
        x = [data[name].reshape(-1, 784) / np.float32(255) for name in ("x_train", "x_test")]
        found = differences((x[0], data["y_train"], x[1], data["y_test"]), [784, 128, 10], precision, 2, 512)
    print(f"{precision}: {found}")
    assert abs(np.mean(found)) <= 0.2


# -- what it can be asked of -------------------------------------------------------------------------------------------


def test_tf32_keeps_ten_bits_of_the_factors(emulated: Any) -> None:
    cupy = gpubp.get_backend("cuda").xp
    one, out = cupy.asarray(np.ones((1, 1), np.float32)), cupy.empty((1, 1), "float32")
    for last, kept in ((2.0**-10, 2.0**-10), (2.0**-12, 0.0)):
        a = cupy.asarray(np.array([[1 + last]], np.float32))
        Products(cupy, "tf32").multiply(a, one, out)
        assert out.get() == 1 + kept
        Products(cupy, None).multiply(a, one, out)
        assert out.get() == 1 + np.float32(last)


@pytest.mark.parametrize("precision", BOTH)
def test_copies_files_and_other_devices(emulated: Any, tmp_path: Any, precision: str) -> None:
    made = net(precision)
    made.save(tmp_path / "model.safetensors")
    assert made.copy().precision == precision
    assert gpubp.load(tmp_path / "model.safetensors").precision == precision
    assert gpubp.load(tmp_path / "model.safetensors", device="cpu").precision is None
    assert made.to("cpu").precision is None


def test_precision_is_of_float32_alone() -> None:
    with pytest.raises(gpubp.DataError, match="precision='tf32' needs dtype='float32', got dtype='float64'"):
        gpubp.MLP([2, 2], precision="tf32", dtype="float64")
    with pytest.raises(gpubp.DataError, match="precision must be None, 'tf32' or 'bfloat16', got 'half'"):
        gpubp.MLP([2, 2], precision="half")


def test_bfloat16_refuses_hidden_layers_that_it_cannot_compute(emulated: Any) -> None:
    with pytest.raises(gpubp.DataError, match="activation 'softmax' cannot be a hidden layer's in precision='bf"):
        net("bfloat16", activation="softmax")
    backend = gpubp.get_backend("cuda")
    halves = backend.zeros((4, 4), "uint16")
    with pytest.raises(gpubp.DeviceError, match="kernel 'softmax_delta' has no device function that could run"):
        backend.run(gpubp.kernel.KERNELS["softmax_delta"], halves, halves, halves)


def test_an_old_gpu_is_refused(emulated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpubp.get_backend("cuda").xp.cuda.Device, "compute_capability", "75")
    with pytest.raises(gpubp.DeviceError, match=r"precision='tf32' needs compute capability 8\.0, cuda:0 has 7\.5"):
        net("tf32")
