"""Times of each kernel, a column sum and a step on NumPy: python -m pytest bench --benchmark-columns=median,iqr."""

from typing import Any

import numpy as np
import pytest

from gpubp.backends.numpy import NumpyBackend
from gpubp.kernel import Kernel
from gpubp.specimens import OWN, arguments

SHAPES = [(32, 32), (128, 256), (4096, 64), (1024, 1024)]
DTYPE = np.float32


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("kernel", OWN, ids=lambda kernel: kernel.name)
def test_kernel(benchmark: Any, kernel: Kernel, shape: tuple[int, int]) -> None:
    backend, args = NumpyBackend(), arguments(kernel, *shape, DTYPE)
    with backend.active():
        benchmark(backend.run, kernel, *args.values())


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_column_sum(benchmark: Any, shape: tuple[int, int]) -> None:
    backend, a = NumpyBackend(), np.random.default_rng(0).random(shape, DTYPE)
    benchmark(backend.column_sum, a, np.empty(shape[1], DTYPE))


@pytest.mark.parametrize("batch", [1, 32, 128, 1024])
def test_step(benchmark: Any, batch: int) -> None:
    """A whole training step of 784-256-128-10, ReLU, Adam."""
    import gpubp

    generator = np.random.default_rng(0)
    net, adam = gpubp.MLP([784, 256, 128, 10], "relu", device="cpu", seed=0), gpubp.Adam()
    x, y = generator.random((batch, 784), DTYPE), generator.integers(0, 10, batch)
    benchmark(net.train_step, x, y, adam)
