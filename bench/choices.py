"""What the choices in docs/decisions.md rest on: each way of doing a thing against the other, in turns, in one run.

python -m bench.choices prints microseconds, the medians over the rounds, and the ratio.
"""

import ctypes
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import gpubp
from gpubp.backends.blas import Blas, blas
from gpubp.backends.numpy import NumpyBackend
from gpubp.losses import softmax_cross_entropy

ROUNDS, SECONDS = 15, 0.02
Ways = tuple[Callable[[], Any], Callable[[], Any]]


class Unaligned(NumpyBackend):
    """Arrays where NumPy puts them."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return np.empty(shape, dtype)


class BySize(NumpyBackend):
    """OpenBLAS on one thread for products below FLOPS."""

    FLOPS = 8e6

    def __init__(self, found: Blas) -> None:
        super().__init__()
        self._set_threads, self._given = ctypes.PYFUNCTYPE(None, ctypes.c_int)(found.set_threads), found.threads()

    def matmul(self, a: Any, b: Any, out: Any) -> None:
        small = 2 * a.size * b.shape[1] < self.FLOPS
        if small:
            self._set_threads(1)
        super().matmul(a, b, out)
        if small:
            self._set_threads(self._given)


def medians(ways: Ways) -> list[float]:
    counts = []
    for way in ways:
        way()
        start = time.perf_counter()
        way()
        counts.append(max(1, int(SECONDS / (time.perf_counter() - start))))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for way, count, seconds in zip(ways, counts, times, strict=True):
            start = time.perf_counter()
            for _ in range(count):
                way()
            seconds.append((time.perf_counter() - start) / count)
    return [1e6 * statistics.median(seconds) for seconds in times]


def step(sizes: list[int], batch: int, backend: NumpyBackend) -> Callable[[], Any]:
    generator, sgd = np.random.default_rng(0), gpubp.SGD()
    net = gpubp.MLP(sizes, device="cpu", seed=0)
    network = net._network
    net._network = type(network)(network.structure, backend, net.seed)
    net._network.draw()
    x, y = generator.random((batch, sizes[0]), np.float32), generator.integers(0, sizes[-1], batch)
    return lambda: net.train_step(x, y, sgd)


def softmax(rows: int, classes: int = 10) -> Ways:
    generator = np.random.default_rng(0)
    z, y, dz, s, r = (generator.random((rows, classes), np.float32) for _ in range(5))
    b, t = np.zeros(classes, np.float32), np.eye(classes, dtype=np.float32)[generator.integers(0, classes, rows)]
    loss, column = np.empty((rows, 1), np.float32), s[:, :1]

    def by_rows() -> None:
        np.add(z, b, out=y)
        np.subtract(y, y.max(axis=1, keepdims=True, out=column), out=y)
        np.multiply(y, t, out=dz).sum(axis=1, keepdims=True, out=loss)
        np.exp(y, out=y).sum(axis=1, keepdims=True, out=column)
        np.divide(y, column, out=y)
        np.subtract(np.log(column, out=column), loss, out=loss)
        np.multiply(np.subtract(y, t, out=dz), 1 / rows, out=dz)

    return lambda: softmax_cross_entropy.body(np, z, b, t, 1 / rows, y, dz, loss, s, r), by_rows


def column_sum(rows: int, columns: int) -> Ways:
    backend, a, out = NumpyBackend(), np.ones((rows, columns), np.float32), np.empty(columns, np.float32)
    return lambda: backend.column_sum(a, out), lambda: np.add.reduce(a, 0, None, out)


def sigmoid(rows: int, columns: int) -> Ways:
    z = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
    y = np.empty_like(z)

    def by_exp() -> None:
        np.divide(1, np.add(np.exp(np.negative(z, out=y), out=y), 1, out=y), out=y)

    def by_tanh() -> None:
        np.add(np.multiply(np.tanh(np.multiply(z, 0.5, out=y), out=y), 0.5, out=y), 0.5, out=y)

    return by_exp, by_tanh


def main() -> None:
    deep = [784, *[64] * 8, 10]
    choices: dict[str, Ways] = {
        "buffers on 64 bytes | on 16: 784-128-10 at 32": tuple(
            step([784, 128, 10], 32, kind()) for kind in (NumpyBackend, Unaligned)
        ),
        "the same: eight layers of 64 at 4096": tuple(step(deep, 4096, kind()) for kind in (NumpyBackend, Unaligned)),
        "softmax by columns | by rows: 32 x 10": softmax(32),
        "the same: 4096 x 10": softmax(4096),
        "column sums by ones | by reduce: 32 x 32": column_sum(32, 32),
        "the same: 4096 x 64": column_sum(4096, 64),
        "sigmoid by exp | by tanh: 128 x 512": sigmoid(128, 512),
    }
    if found := blas():
        for sizes, batch in ([784, 128, 10], 32), ([128, 128, 128, 10], 128):
            name = f"BLAS threads as they are | by size: {'-'.join(map(str, sizes))} at {batch}"
            choices[name] = step(sizes, batch, NumpyBackend()), step(sizes, batch, BySize(found))
    print("| kept, against | kept | other | other / kept |\n|---|---|---|---|")
    for name, ways in choices.items():
        kept, other = medians(ways)
        print(f"| {name.replace('|', 'against')} | {kept:.1f} | {other:.1f} | {other / kept:.2f} |")


if __name__ == "__main__":
    main()
