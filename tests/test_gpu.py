"""The CUDA path against the CPU path, on a real device; without one these skip, or fail under GPUBP_REQUIRE_GPU=1."""

from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.activations import Activation, bias_sigmoid, sigmoid_delta

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1), (31, 33), (1023, 65)])
def test_the_sigmoid_pair(dtype: str, shape: tuple[int, int], rng: np.random.Generator) -> None:
    backend = gpubp.get_backend("cuda")
    a, b = rng.normal(0, 5, shape).astype(dtype), rng.normal(size=shape[1]).astype(dtype)
    for kernel, args in ((bias_sigmoid, (a, b)), (sigmoid_delta, (a, rng.random(shape).astype(dtype)))):
        expected = np.empty(shape)
        kernel.body(np, *(arg.astype(np.float64) for arg in args), expected, *[np.empty(shape)] * kernel.scratch)
        given = [backend.asarray(arg, dtype) for arg in args]
        out = backend.empty(shape, dtype)
        with backend.active():
            backend.run(kernel, *given, out)
        np.testing.assert_allclose(backend.to_numpy(out), expected, rtol=8 * float(np.finfo(dtype).eps), atol=1e-37)


@pytest.mark.parametrize("activation", sorted(Activation.members))
def test_a_backward_pass(activation: str, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(17, 5)), rng.integers(0, 3, 17)
    nets = [gpubp.MLP([5, 7, 3], activation, dtype="float64", seed=0, device=device) for device in ("cpu", "cuda")]
    on_cpu, on_gpu = (net.backprop(x, y) for net in nets)
    for name in ("outputs", "input_grad"):
        np.testing.assert_allclose(getattr(on_gpu, name), getattr(on_cpu, name), rtol=1e-10, atol=1e-14)
    for name in ("zs", "deltas", "weight_grads", "bias_grads"):
        for a, b in zip(getattr(on_gpu, name), getattr(on_cpu, name), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("optimizer", sorted(gpubp.Optimizer.members))
def test_training_does_not_drift(optimizer: str, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(64, 5)), rng.integers(0, 3, 64)
    settings: dict[str, Any] = {"dtype": "float64", "seed": 0, "dropout": 0.3}
    nets = [gpubp.MLP([5, 7, 3], "tanh", device=device, **settings) for device in ("cpu", "cuda")]
    losses = [net.fit(x, y, epochs=5, batch_size=32, optimizer=optimizer, verbose=0)["loss"] for net in nets]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-9)
    for a, b in zip(nets[1].get_parameters()[0], nets[0].get_parameters()[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)
