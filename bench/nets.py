"""The nets that the benchmarks time, their data, and two yardsticks in NumPy: the GEMMs alone and a whole step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the parent process of a run never loads NumPy: the workers' thread settings must come first
    import numpy as np

LEARNING_RATE = 0.1


@dataclass(frozen=True)
class Cell:
    """One row of the table: a net and a batch size."""

    name: str
    sizes: tuple[int, ...]
    batch: int


CELLS = {
    cell.name: cell
    for cell in (
        Cell("64-32-32-10@32", (64, 32, 32, 10), 32),
        Cell("784-128-10@32", (784, 128, 10), 32),
        Cell("784-128-10@256", (784, 128, 10), 256),
        Cell("784-256-256-10@128", (784, 256, 256, 10), 128),
        Cell("784-512-256-10@128", (784, 512, 256, 10), 128),
        Cell("784-1024-1024-10@1024", (784, 1024, 1024, 10), 1024),
        Cell("784-64x8-10@4096", (784, *(64,) * 8, 10), 4096),
    )
}


@dataclass
class Problem:
    """What every contender starts from: float32 weights (in, out), biases, one batch and its labels."""

    sizes: tuple[int, ...]
    weights: list[np.ndarray]
    biases: list[np.ndarray]
    x: np.ndarray
    labels: np.ndarray


@dataclass
class Contender:
    """One implementation, ready. `step` returns when the update is done; `loss` reads what `step` returned."""

    step: Callable[[], Any]
    loss: Callable[[Any], float] | None = None
    parameters: Callable[[], list[np.ndarray]] | None = None  # weights (in, out), then biases
    note: str = ""


def make_problem(cell: Cell) -> Problem:
    import numpy as np

    rng = np.random.default_rng(1986)
    pairs = list(zip(cell.sizes, cell.sizes[1:], strict=False))
    limits = [np.sqrt(6 / (i + o)) for i, o in pairs]
    # Uniform pixels, Glorot weights, biases that are not zero: nothing saturates, and a forgotten bias shows.
    return Problem(
        cell.sizes,
        [rng.uniform(-limit, limit, pair).astype(np.float32) for limit, pair in zip(limits, pairs, strict=True)],
        [rng.uniform(-0.1, 0.1, o).astype(np.float32) for _, o in pairs],
        rng.random((cell.batch, cell.sizes[0]), dtype=np.float32),
        rng.integers(0, cell.sizes[-1], cell.batch),
    )


def reference(problem: Problem, steps: int) -> tuple[list[float], list[np.ndarray]]:
    """The textbook in float64: what every contender is held against before it is timed."""
    import numpy as np

    weights = [w.astype(np.float64) for w in problem.weights]
    biases = [b.astype(np.float64) for b in problem.biases]
    rows, losses = np.arange(len(problem.x)), []
    for _ in range(steps):
        hs = [problem.x.astype(np.float64)]
        for w, b in zip(weights[:-1], biases[:-1], strict=True):
            hs.append(1 / (1 + np.exp(-(hs[-1] @ w + b))))
        z = hs[-1] @ weights[-1] + biases[-1]
        log_p = z - z.max(1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
        losses.append(float(-log_p[rows, problem.labels].mean()))
        delta = np.exp(log_p)
        delta[rows, problem.labels] -= 1
        delta /= len(rows)
        for i in reversed(range(len(weights))):
            below = delta @ weights[i].T * hs[i] * (1 - hs[i])
            weights[i] -= LEARNING_RATE * (hs[i].T @ delta)
            biases[i] -= LEARNING_RATE * delta.sum(0)
            delta = below
    return losses, weights + biases


def gemms(problem: Problem, threads: int) -> Contender:
    """The floor: three products a layer, less the first layer's input gradient, each into a buffer it owns."""
    import numpy as np

    n, weights = len(problem.x), problem.weights
    calls: list[tuple[Callable[..., Any], np.ndarray, np.ndarray]] = []
    a = problem.x
    for i, w in enumerate(weights):
        y = np.empty((n, w.shape[1]), np.float32)
        delta = np.random.default_rng(i).random((n, w.shape[1]), dtype=np.float32)
        calls += [(a.dot, w, y), (a.T.dot, delta, np.empty_like(w))]
        if i:
            calls.append((delta.dot, w.T, np.empty_like(a)))
        a = delta  # any values do, but these stay in [0, 1): no NaN, no subnormals

    def step() -> None:
        for dot, right, out in calls:
            dot(right, out)

    return Contender(step)


def plain_numpy(problem: Problem, threads: int) -> Contender:
    """One step written by hand for speed, with buffers made once: what NumPy allows when no library is in the way."""
    import numpy as np

    x, n, classes = problem.x, len(problem.x), problem.sizes[-1]
    start = problem.weights + problem.biases
    parameters = np.concatenate([p.ravel() for p in start])
    gradients, scratch = np.empty_like(parameters), np.empty_like(parameters)

    def views(flat: np.ndarray) -> list[np.ndarray]:
        ends = np.cumsum([p.size for p in start])
        return [v.reshape(p.shape) for v, p in zip(np.split(flat, ends[:-1]), start, strict=True)]

    depth, mine, grads = len(problem.weights), views(parameters), views(gradients)
    ws, bs, dws, dbs = mine[:depth], mine[depth:], grads[:depth], grads[depth:]
    hs = [x] + [np.empty((n, size), np.float32) for size in problem.sizes[1:]]
    ds, ss = [np.empty_like(h) for h in hs], [np.empty_like(h) for h in hs]
    # Arrays without dimensions: a NumPy or Python scalar costs twice the call at these sizes.
    half, one, rate, share = (np.array(v, np.float32) for v in (0.5, 1, LEARNING_RATE, 1 / n))
    ones, class_ones, means = np.ones(n, np.float32), np.ones(classes, np.float32), np.full(n, 1 / n, np.float32)
    # Softmax works on (classes, n): a reduction over the rows of a tall array of ten columns is five times slower.
    z, picked = np.empty((classes, n), np.float32), np.empty(n, np.float32)
    top, at = np.empty(n, np.float32), problem.labels * n + np.arange(n)

    def step() -> np.ndarray:
        for i in range(depth - 1):
            h = hs[i].dot(ws[i], hs[i + 1])
            np.add(h, bs[i], h)
            np.multiply(h, half, h)
            np.tanh(h, h)
            np.multiply(h, half, h)
            np.add(h, half, h)
        hs[-2].dot(ws[-1], hs[-1])
        np.add(hs[-1].T, bs[-1][:, None], z)
        np.maximum.reduce(z, 0, None, top)
        np.subtract(z, top, z)
        z.take(at, None, picked, "clip")
        np.exp(z, z)
        class_ones.dot(z, top)
        np.subtract(np.log(top), picked, picked)
        np.multiply(z, np.divide(share, top, top), z)
        z.ravel()[at] -= share
        np.copyto(ds[-1], z.T)
        for i in reversed(range(depth)):
            hs[i].T.dot(ds[i + 1], dws[i])
            ones.dot(ds[i + 1], dbs[i])
            if i:
                d, s, h = ds[i + 1].dot(ws[i].T, ds[i]), ss[i], hs[i]
                np.subtract(one, h, s)
                np.multiply(s, h, s)
                np.multiply(d, s, d)
        np.multiply(gradients, rate, scratch)
        np.subtract(parameters, scratch, parameters)
        return picked.dot(means)

    return Contender(step, float, lambda: ws + bs)
