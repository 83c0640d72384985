"""The contenders that need no peer: gpubp, the products of its step alone, and a step written by hand in NumPy."""

from collections.abc import Callable
from functools import partial
from typing import Any

from gpubp.benchmark.contract import Contender, Setting
from gpubp.benchmark.problem import LEARNING_RATE, Problem
from gpubp.kernel import Array


def gpubp_step(problem: Problem, setting: Setting) -> Contender:
    import gpubp

    backend = gpubp.get_backend(setting.device)
    precision = None
    if setting.kind == "cuda":
        _begin_on_cuda(backend.xp, setting)
        precision = None if setting.precision == "float32" else setting.precision
    net = gpubp.MLP(
        problem.sizes,
        problem.activation,
        "softmax",
        device=setting.device,
        precision=precision,
        dtype="float32",
        seed=0,
    )
    net.set_parameters(problem.weights, problem.biases)
    optimizer = gpubp.SGD(LEARNING_RATE)
    x, labels = backend.asarray(problem.x, "float32"), backend.asarray(problem.labels, "int64")

    def parameters() -> list[Array]:
        weights, biases = net.get_parameters()
        return [*weights, *biases]

    return Contender(
        lambda: net.train_step(x, labels, optimizer),
        lambda loss: float(backend.to_numpy(loss)),
        parameters,
        backend.synchronize,
        partial(_pool, backend, setting),
    )


def gemms(problem: Problem, setting: Setting) -> Contender:
    """The floor: three products a layer, less the first layer's input gradient, each into a buffer it owns."""
    import numpy as np

    import gpubp

    backend, n = gpubp.get_backend(setting.device), len(problem.x)
    if setting.kind == "cuda":
        _begin_on_cuda(backend.xp, setting)
    # Any values do, but these stay in [0, 1): no NaN, no subnormals.
    block = np.random.default_rng(0).random(1 << 16, np.float32)
    calls: list[tuple[Callable[..., Any], Array, Array]] = []

    def product(a: Array, b: Array) -> None:
        multiply = a.dot if setting.kind == "cpu" else partial(backend.matmul, a)
        calls.append((multiply, b, backend.empty((a.shape[0], b.shape[1]), "float32")))

    def step() -> None:
        for multiply, right, out in calls:
            multiply(right, out)

    a = backend.asarray(problem.x, "float32")
    for layer, weight in enumerate(problem.weights):
        w = backend.asarray(weight, "float32")
        delta = backend.asarray(np.resize(block, (n, w.shape[1])), "float32")
        product(a, w)
        product(a.T, delta)
        if layer:
            product(delta, w.T)
        a = delta
    return Contender(
        step,
        wait=backend.synchronize,
        memory=partial(_pool, backend, setting),
        note="NumPy" if setting.kind == "cpu" else "CuPy, each product launched by itself",
    )


def _begin_on_cuda(cupy: Any, setting: Setting) -> None:
    """CuPy on the setting's device, with its precision whatever CUPY_TF32 says, and with an empty memory pool."""
    cupy.cuda.Device(setting.index).use()
    wanted = "COMPUTE_TYPE_TF32" if setting.precision == "tf32" else "COMPUTE_TYPE_FP32"
    cupy._core.set_compute_type("float32", getattr(cupy._core._routines_linalg, wanted))
    cupy.get_default_memory_pool().free_all_blocks()


def _pool(backend: Any, setting: Setting) -> int | None:
    """The bytes that CuPy's pool has taken: it keeps what it once had, so this is the peak."""
    if setting.kind == "cpu":
        return None
    pool = backend.xp.get_default_memory_pool()
    return int(pool.used_bytes() + pool.free_bytes())


def plain_numpy(problem: Problem, setting: Setting) -> Contender:
    """One step written by hand for speed, with buffers made once: what NumPy allows when no library is in the way."""
    import numpy as np

    x, n, classes = problem.x, len(problem.x), problem.sizes[-1]
    start = problem.weights + problem.biases
    parameters = np.concatenate([p.ravel() for p in start])
    gradients, scratch = np.empty_like(parameters), np.empty_like(parameters)

    def views(flat: Array) -> list[Array]:
        ends = np.cumsum([p.size for p in start])
        return [v.reshape(p.shape) for v, p in zip(np.split(flat, ends[:-1]), start, strict=True)]

    depth, mine, grads = len(problem.weights), views(parameters), views(gradients)
    ws, bs, dws, dbs = mine[:depth], mine[depth:], grads[:depth], grads[depth:]
    hs = [x] + [np.empty((n, size), np.float32) for size in problem.sizes[1:]]
    ds, ss = [np.empty_like(h) for h in hs], [np.empty_like(h) for h in hs]
    # Arrays without dimensions: a NumPy or Python scalar costs twice the call at these sizes.
    rate, share = (np.array(v, np.float32) for v in (LEARNING_RATE, 1 / n))
    ones, class_ones, means = np.ones(n, np.float32), np.ones(classes, np.float32), np.full(n, 1 / n, np.float32)
    # Softmax works on (classes, n): a reduction over the rows of a tall array of ten columns is five times slower.
    z: Array = np.empty((classes, n), np.float32)
    picked = np.empty(n, np.float32)
    top: Array = np.empty(n, np.float32)
    at = problem.labels * n + np.arange(n)
    activate, derive = _in_place(problem.activation)

    def step() -> Array:
        for i in range(depth - 1):
            h = hs[i].dot(ws[i], hs[i + 1])
            np.add(h, bs[i], h)
            activate(h)
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
                d = ds[i + 1].dot(ws[i].T, ds[i])
                derive(hs[i], ss[i])
                np.multiply(d, ss[i], d)
        np.multiply(gradients, rate, scratch)
        np.subtract(parameters, scratch, parameters)
        return picked.dot(means)

    return Contender(step, float, lambda: ws + bs)


def _in_place(activation: str) -> tuple[Callable[[Array], Any], Callable[[Array, Array], Any]]:
    """The activation, written over its argument, and its derivative from the output h, written into s."""
    import numpy as np

    zero, half, one = (np.array(v, np.float32) for v in (0, 0.5, 1))

    def sigmoid(h: Array) -> None:
        np.multiply(h, half, h)
        np.tanh(h, h)
        np.multiply(h, half, h)
        np.add(h, half, h)

    def sigmoid_derivative(h: Array, s: Array) -> None:
        np.subtract(one, h, s)
        np.multiply(s, h, s)

    def tanh_derivative(h: Array, s: Array) -> None:
        np.multiply(h, h, s)
        np.subtract(one, s, s)

    known: dict[str, tuple[Callable[[Array], Any], Callable[[Array, Array], Any]]] = {
        "relu": (lambda h: np.maximum(h, zero, out=h), np.sign),
        "sigmoid": (sigmoid, sigmoid_derivative),
        "tanh": (lambda h: np.tanh(h, h), tanh_derivative),
    }
    return known[activation]
