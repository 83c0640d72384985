"""The CUDA backend's Python on the emulated device: what it launches, waits for, keeps, and says of failures."""

import importlib
import json
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import gpubp
from gpubp.cli import main
from gpubp.kernel import KERNELS

pytestmark = pytest.mark.toolchain


def cupy() -> Any:
    return importlib.import_module("cupy")


@pytest.fixture
def step(emulated: Any, rng: np.random.Generator) -> Any:
    """A function that takes a training step of a network, on arrays that lie on the device."""
    net = gpubp.MLP([20, 32, 24, 10], "relu", dropout=[0, 0.5, 0], device="cuda", seed=0)
    x, y = cupy().asarray(rng.standard_normal((64, 20)), "float32"), cupy().asarray(rng.integers(0, 10, 64))
    optimizer = gpubp.Adam()
    return lambda: net._network.update(x, y, None, optimizer, net._network.backend.empty((), "float32"))


def test_the_launches_of_a_step(emulated: Any, step: Any) -> None:
    step()
    emulated.launched.clear()
    step()
    ours = {name: count for name, count in emulated.launched.items() if name.startswith("gpubp")}
    assert ours == {
        "gpubp_bias_relu": 2,
        "gpubp_dropout": 2,
        "gpubp_one_hot": 1,
        "gpubp_softmax_cross_entropy": 1,
        "gpubp_weighted_sum": 1,
        "gpubp_columns": 1,  # the output layer's bias gradient, whose delta comes with the loss
        "gpubp_relu_delta": 2,  # with the bias gradient
        "gpubp_adam": 1,
    }
    assert emulated.launched["cupy.matmul"] == 8
    assert sum(emulated.launched.values()) == 11 + 8


def test_a_warm_step_waits_for_nothing_and_keeps_the_memory(emulated: Any, step: Any) -> None:
    step()
    before = emulated.waits, emulated.copies_to_host, emulated.copies_to_device, emulated.pool.total_bytes()
    for _ in range(20):
        step()
    assert (emulated.waits, emulated.copies_to_host, emulated.copies_to_device, emulated.pool.total_bytes()) == before


def test_nothing_is_leaked(emulated: Any, rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((50, 4)), rng.integers(0, 3, 50)

    def train() -> None:
        gpubp.MLP([4, 8, 3], device="cuda", seed=0).fit(x, y, epochs=1, batch_size=20, verbose=0)

    train()
    used = emulated.pool.used_bytes()
    train()
    assert emulated.pool.used_bytes() == used


# -- a user's own kernel -----------------------------------------------------------------------------------------------


@pytest.fixture
def softsign() -> Any:
    """An activation whose kernels have a line of CUDA."""

    @gpubp.elementwise("z, b -> y", cuda="T s = z + b; y = s / (1 + fabs(s))")
    def bias_softsign(xp: Any, z: Any, b: Any, y: Any) -> None:
        xp.add(z, b, out=y)
        xp.divide(y, 1 + xp.absolute(y), out=y)

    @gpubp.elementwise("dy, y -> dz", cuda="dz = dy * (1 - fabs(y)) * (1 - fabs(y))")
    def softsign_delta(xp: Any, dy: Any, y: Any, dz: Any) -> None:
        xp.multiply(dy, (1 - xp.absolute(y)) ** 2, out=dz)

    class Softsign(gpubp.Activation):
        forward, delta = bias_softsign, softsign_delta

    yield Softsign
    del gpubp.Activation.members["softsign"], KERNELS["bias_softsign"], KERNELS["softsign_delta"]


def test_a_line_of_cuda_is_one_kernel(emulated: Any, softsign: Any, rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((30, 5)), rng.integers(0, 3, 30)
    passes = [
        gpubp.MLP([5, 7, 3], softsign(), dtype="float64", device=d, seed=0).backprop(x, y) for d in ("cpu", "cuda")
    ]
    for on_cpu, on_gpu in zip(
        passes[0].weight_grads + passes[0].bias_grads, passes[1].weight_grads + passes[1].bias_grads, strict=True
    ):
        np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-12, atol=1e-15)
    assert emulated.launched["gpubp_softsign_delta"] == 1
    assert emulated.launched["gpubp_bias_softsign"] == 1


def test_a_wrong_line_of_cuda_is_named(emulated: Any, softsign: Any) -> None:
    object.__setattr__(softsign.forward, "cuda", "y = nonsense(z)")
    with pytest.raises(gpubp.DeviceError, match=r"kernel 'bias_softsign' does not compile"):
        gpubp.MLP([5, 7, 3], softsign(), device="cuda", seed=0).forward(np.zeros((2, 5)))


def test_without_cuda_the_body_runs_on_the_device(emulated: Any, softsign: Any, rng: np.random.Generator) -> None:
    for kernel in (softsign.forward, softsign.delta):
        object.__setattr__(kernel, "cuda", None)
    x, y = rng.standard_normal((30, 5)), rng.integers(0, 3, 30)
    net = gpubp.MLP([5, 7, 3], softsign(), device="cuda", seed=0)
    history = net.fit(x, y, epochs=3, verbose=0)
    assert history["loss"][-1] < history["loss"][0]
    assert emulated.launched["cupy.absolute"] > 0


# -- memory ------------------------------------------------------------------------------------------------------------


def test_out_of_memory_says_what_was_asked_and_what_fits(emulated: Any, rng: np.random.Generator) -> None:
    net = gpubp.MLP([10, 100, 100, 2], device="cuda", seed=0)
    x, y = rng.standard_normal((40000, 10)).astype(np.float32), rng.integers(0, 2, 40000)
    emulated.limit_memory(emulated.pool.used_bytes() + (8 << 20))
    with pytest.raises(
        gpubp.DeviceError, match=r"cuda:0 has too little memory: Out of memory allocating [\d,]+ bytes"
    ) as caught:
        net.fit(x, y, epochs=1, batch_size=40000, verbose=0)
    text = str(caught.value)
    del caught  # and with it the frames that hold the arrays
    assert "give a smaller batch_size" in text
    fits = int(text.split("has about ")[1].split()[0])
    assert 1000 < fits < 40000
    history = net.fit(x, y, epochs=1, batch_size=int(0.8 * fits), verbose=0)  # and the network is as it was
    assert history.stopped == "finished"


def test_parameters_that_do_not_fit(emulated: Any) -> None:
    emulated.limit_memory(1 << 20)
    with pytest.raises(gpubp.DeviceError, match=r"cuda:0 has too little memory: Out of memory allocating"):
        gpubp.MLP([1000, 1000, 10], device="cuda")


@pytest.mark.check
def test_the_batch_that_fits_is_nearly_the_largest(emulated: Any) -> None:
    """The buffers of the failed try are gone when free memory is asked for."""
    net = gpubp.MLP([100, 4096, 4096, 10], device="cuda", seed=0)
    emulated.limit_memory(emulated.pool.used_bytes() + (64 << 20))
    x, y = np.zeros((4000, 100), np.float32), np.zeros(4000, int)
    with pytest.raises(gpubp.DeviceError) as caught:
        net.train_step(x, y, gpubp.SGD(0.1))
    fits = int(str(caught.value).split("has about ")[1].split()[0])
    assert 900 < fits < 1024  # of 64 KiB a row: two activations and two deltas
    del caught
    net.train_step(x[:900], y[:900], gpubp.SGD(0.1))


def test_another_stream_waits_for_the_last(emulated: Any, rng: np.random.Generator) -> None:
    """The stand-in refuses work on a stream that does not."""
    x, y = rng.standard_normal((30, 4)), rng.integers(0, 3, 30)
    net = gpubp.MLP([4, 8, 3], device="cuda", seed=0)
    for stream in (cupy().cuda.Stream(non_blocking=True), cupy().cuda.Stream(non_blocking=True)):
        with stream:
            net.fit(x, y, epochs=1, verbose=0)
    assert net.predict(x).shape == (30,)


def test_a_large_array_goes_up_without_a_pinned_copy(emulated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = gpubp.get_backend("cuda")
    monkeypatch.setattr("gpubp.backends.cupy.STAGED", 100)
    monkeypatch.setattr(cupy(), "asarray", None)  # calling it would fail
    a = np.arange(60.0).reshape(6, 10)
    np.testing.assert_array_equal(backend.to_numpy(backend.asarray(a.T, "float32")), a.T)


def test_a_device_that_fails_is_named(emulated: Any) -> None:
    net = gpubp.MLP([4, 5, 3], device="cuda", seed=0)
    emulated.devices = 0
    with pytest.raises(gpubp.DeviceError, match=r"cuda:0 failed: cudaErrorNoDevice.*start the program anew"):
        net.forward(np.ones((2, 4)))


def test_a_set_that_does_not_fit_is_streamed(emulated: Any, rng: np.random.Generator) -> None:
    """Two batches' memory is all that it takes, and the copies are made on a stream of their own."""
    x, y = rng.standard_normal((20000, 50)).astype(np.float32), rng.integers(0, 2, 20000)
    net = gpubp.MLP([50, 8, 2], device="cuda", seed=0)
    used = emulated.pool.used_bytes()
    emulated.limit_memory(used + x.nbytes // 2)
    history = net.fit(x, y, epochs=2, batch_size=500, verbose=0)
    assert np.isfinite(history["loss"]).all()
    emulated.limit_memory(8 << 30)


# -- what comes in and goes out ----------------------------------------------------------------------------------------


def test_cupy_arrays_come_back_as_such(emulated: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal((9, 4)).astype(np.float32)
    net = gpubp.MLP([4, 5, 3], device="cuda", seed=0)
    on_device = cupy().asarray(x)
    copies = emulated.copies_to_device
    for call in (net.forward, net.predict_proba):
        result = call(on_device)
        assert isinstance(result, cupy().ndarray)
        np.testing.assert_array_equal(result.get(), call(x))
    assert emulated.copies_to_device == copies + 3  # predict_proba's answer is made on the host, and x came twice


def test_a_tensor_of_another_library_comes_and_goes_without_a_copy(
    emulated: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for a PyTorch CUDA tensor, that speaks DLPack and lies in the device's memory."""
    library = ModuleType("tensors")

    class Tensor:
        def __init__(self, array: Any) -> None:
            self.array = array

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    Tensor.__module__ = "tensors"
    library.from_dlpack = Tensor  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "tensors", library)
    x = cupy().asarray(rng.standard_normal((9, 4)).astype(np.float32))
    net = gpubp.MLP([4, 5, 3], device="cuda", seed=0)
    expected = net.forward(x).get()
    before = emulated.copies_to_device, emulated.copies_to_host
    result = net.forward(Tensor(x))
    assert (emulated.copies_to_device, emulated.copies_to_host) == before
    assert isinstance(result, Tensor)
    np.testing.assert_array_equal(result.array.get(), expected)


def test_a_model_of_a_gpu_opens_without_one(emulated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = gpubp.MLP([4, 5, 3], device="cuda", seed=0)
    net.save(tmp_path / "model.safetensors")
    pickled, expected = pickle.dumps(net), net.predict_proba(np.ones((2, 4)))
    emulated.devices = 0
    gpubp.backends.detection.why_not.cache_clear()
    for loaded in (gpubp.load(tmp_path / "model.safetensors"), pickle.loads(pickled)):
        assert loaded.device == "cpu"
        np.testing.assert_allclose(loaded.predict_proba(np.ones((2, 4))), expected, rtol=1e-6)
    with pytest.raises(gpubp.DeviceError):
        gpubp.load(tmp_path / "model.safetensors", device="cuda")


def test_arrays_of_another_gpu_are_moved(emulated: Any, rng: np.random.Generator) -> None:
    emulated.devices = 2
    x, y = rng.standard_normal((30, 4)).astype(np.float32), rng.integers(0, 3, 30)
    with cupy().cuda.Device(1):
        there = cupy().asarray(x), cupy().asarray(y), cupy().asarray(np.ones(30, np.float32))
    net = gpubp.MLP([4, 8, 3], device="cuda:0", seed=0)
    assert net.evaluate(*there) == net.evaluate(x, y)


def test_a_network_on_the_cpu_refuses_arrays_of_a_gpu(emulated: Any) -> None:
    net = gpubp.MLP([4, 8, 3], device="cpu", seed=0)
    x = cupy().asarray(np.ones((5, 4), np.float32))
    for call in (lambda: net.forward(x), lambda: net.evaluate(np.ones((5, 4)), cupy().asarray(np.ones(5, int)))):
        with pytest.raises(gpubp.DeviceError, match="is on a GPU and this network is on the CPU"):
            call()


def test_pinned_memory_of_another_library_is_the_hosts() -> None:
    class Pinned:
        """As PyTorch's DataLoader(pin_memory=True) gives."""

        def __dlpack__(self, **options: Any) -> Any:
            return np.ones((5, 4), np.float32).__dlpack__()

        def __dlpack_device__(self) -> Any:
            return 3, 0

    assert gpubp.MLP([4, 3], device="cpu", seed=0).forward(Pinned()).shape == (5, 3)


def test_a_step_on_what_lies_there_waits_for_nothing(emulated: Any, rng: np.random.Generator) -> None:
    x, weights = cupy().asarray(np.ones((30, 4), np.float32)), cupy().asarray(np.ones(30, np.float32))
    for output, y in (
        ("softmax", rng.integers(0, 3, 30)),
        ("softmax", np.eye(3)[rng.integers(0, 3, 30)]),
        ("identity", np.ones((30, 3))),
    ):
        net, sgd, there = gpubp.MLP([4, 8, 3], output=output, device="cuda", seed=0), gpubp.SGD(0.1), cupy().asarray(y)
        net.train_step(x, there, sgd, weights)
        before = emulated.waits, emulated.copies_to_host
        net.train_step(x, there, sgd, weights)
        assert (emulated.waits, emulated.copies_to_host) == before


def test_two_devices_do_not_share_memory(emulated: Any, rng: np.random.Generator) -> None:
    emulated.devices = 2
    x, y = rng.standard_normal((30, 4)), rng.integers(0, 3, 30)
    nets = [gpubp.MLP([4, 8, 3], device=f"cuda:{index}", seed=0) for index in (0, 1)]
    losses = [net.fit(x, y, epochs=2, verbose=0)["loss"] for net in nets]
    assert losses[0] == losses[1]
    assert [net.device for net in nets] == ["cuda:0", "cuda:1"]
    nets[1].to("cuda:0")
    np.testing.assert_array_equal(nets[1].predict(x), nets[0].predict(x))


@pytest.mark.usefixtures("undrawn")
def test_the_command_line_trains_there(emulated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(main, [*arguments, "--quiet"], prog_name="gpubp")
        assert result.exit_code == 0, result.output
        return result

    run("train", "digits", "--epochs", "2", "--hidden", "32", "--device", "cuda", "-o", "run")
    assert emulated.launched["gpubp_adam"] > 100
    run("train", "digits", "--epochs", "2", "--hidden", "32", "--device", "cpu", "-o", "run on the cpu")
    evaluations = [("run", "cuda"), ("run", "cpu"), ("run on the cpu", "cpu")]
    scores = [
        json.loads(run("evaluate", model, "digits", "--device", on, "--json").stdout) for model, on in evaluations
    ]
    assert scores[0]["accuracy"] == scores[1]["accuracy"] == pytest.approx(scores[2]["accuracy"], abs=0.02)
    rows = json.loads(run("devices", "--json").stdout)["devices"]
    assert [(row["device"], row["available"], row["name"]) for row in rows][1] == ("cuda:0", "yes", "Emulated")


@pytest.mark.parametrize("cuda", ["", 5, "garbage", "foo = 1", "y == z", "z = 1"])
def test_a_line_of_cuda_that_assigns_nothing_is_refused(cuda: Any) -> None:
    with pytest.raises(gpubp.DataError, match=r"cuda=.* must be CUDA C\+\+ that assigns z and y"):
        gpubp.elementwise("z, b -> z, y", cuda=cuda)


def test_a_line_of_cuda_may_write_two_outputs(emulated: Any, rng: np.random.Generator) -> None:
    @gpubp.elementwise("z, b -> z, y", cuda="z += b; y = sin(z)")
    def bias_sine(xp: Any, z: Any, b: Any, y: Any) -> None:
        xp.sin(xp.add(z, b, out=z), out=y)

    try:
        backend = gpubp.get_backend("cuda")
        z, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 3), 3))
        device = [backend.asarray(a, "float32") for a in (z, b)]
        y = backend.empty((5, 3), "float32")
        backend.run(bias_sine, *device, y)
        np.testing.assert_allclose(backend.to_numpy(device[0]), z + b, rtol=1e-6)
        np.testing.assert_allclose(backend.to_numpy(y), np.sin(z + b), rtol=1e-5, atol=1e-6)
        assert emulated.launched["gpubp_bias_sine"] == 1
    finally:
        del KERNELS["bias_sine"]
