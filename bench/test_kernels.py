"""Times of each kernel, a column sum and a step on NumPy: python -m pytest bench --benchmark-columns=median,iqr."""

from typing import Any

import numpy as np
import pytest

from gpubp.backends.numpy import NumpyBackend
from gpubp.kernel import KERNELS, Kernel

SHAPES = [(32, 32), (128, 256), (4096, 64), (1024, 1024)]
DTYPE = np.float32


def arguments(kernel: Kernel, shape: tuple[int, int], generator: np.random.Generator) -> list[Any]:
    """Values in (0.05, 0.95), where every kernel is defined, of the shapes that the declaration asks for."""
    rows, columns = shape
    known = {
        "row": np.arange(rows, dtype=np.uint32).reshape(rows, 1),
        "column": np.arange(columns, dtype=np.uint32),
        "key": np.uint32(1),
        "threshold": np.uint32(2**31),
        "total": np.ones((), DTYPE),
    }
    made: list[Any] = []
    for name in kernel.arguments:
        if name in known:
            made.append(known[name])
        elif kernel.body.__annotations__.get(name) is float or (name == "w" and kernel.kind == "rowwise"):
            made.append(0.5)
        elif name == "loss" and kernel.kind == "rowwise":
            made.append(np.empty((rows, 1), DTYPE))
        else:
            size = (columns,) if name == "b" else (rows * columns,) if kernel.kind == "reduction" else shape
            made.append(generator.uniform(0.05, 0.95, size).astype(DTYPE))
    return made


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("name", sorted(KERNELS))
def test_kernel(benchmark: Any, name: str, shape: tuple[int, int]) -> None:
    backend, kernel = NumpyBackend(), KERNELS[name]
    values = arguments(kernel, shape, np.random.default_rng(0))
    with backend.active():
        benchmark(backend.run, kernel, *values)


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
