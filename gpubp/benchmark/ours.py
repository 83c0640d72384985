"""The contenders that need no peer: gpubp, the products of its step alone, and a step written by hand in NumPy."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from gpubp.benchmark.contract import Contender, Setting
from gpubp.benchmark.problem import BETAS, EPSILON, MOMENTUM, Problem
from gpubp.benchmark.timing import timed
from gpubp.errors import DeviceError
from gpubp.kernel import Array

PEAK_WIDTHS = {"cpu": 2048, "cuda": 8192}  # of a product that keeps all of the device busy for some 20 to 100 ms


def gpubp_step(problem: Problem, setting: Setting) -> Contender:
    import gpubp

    net, optimizer = network_and_optimizer(problem, setting)
    backend = gpubp.get_backend(setting.device)
    x, labels = backend.asarray(problem.x, "float32"), backend.asarray(problem.labels, "int64")
    return Contender(
        lambda: net.train_step(x, labels, optimizer),
        lambda loss: float(backend.to_numpy(loss)),
        partial(all_parameters, net),
        backend.synchronize,
        partial(_pool, backend, setting),
    )


def captured_step(problem: Problem, setting: Setting) -> Contender:
    """The same with steps captured in CUDA graphs, which is off by default; in a process of its own."""
    os.environ["GPUBP_GRAPHS"] = "1"
    return replace(gpubp_step(problem, setting), note="captured in a CUDA graph")


def network_and_optimizer(problem: Problem, setting: Setting) -> tuple[Any, Any]:
    """gpubp's own, about to take the problem's first step."""
    import gpubp

    precision = None
    if setting.kind == "cuda":
        _begin_on_cuda(gpubp.get_backend(setting.device).xp, setting)
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
    rate = problem.learning_rate
    match problem.optimizer:
        case "adam":
            return net, gpubp.Adam(rate, *BETAS, EPSILON)
        case "momentum":
            return net, gpubp.SGD(rate, MOMENTUM)
    return net, gpubp.SGD(rate)


def all_parameters(net: Any) -> list[Array]:
    """As Contender wants them."""
    weights, biases = net.get_parameters()
    return [*weights, *biases]


def gemms(problem: Problem, setting: Setting) -> Contender:
    """The floor: three products a layer, less the first layer's input gradient, each into a buffer it owns.

    On the CPU they are NumPy's, and OpenBLAS shares each out among its threads as it likes to. Whoever shares them out
    in another way, as gpubp's native backend does, or has another BLAS, may go below.
    """
    import numpy as np

    import gpubp
    from gpubp.backends.numpy import NumpyBackend

    backend, n = NumpyBackend() if setting.kind == "cpu" else gpubp.get_backend(setting.device), len(problem.x)
    if setting.precision == "bfloat16":
        raise DeviceError("CuPy alone multiplies no bfloat16; the products in a graph are those of cuBLASLt")
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


def peak_flops(setting: Setting) -> float:
    """Floating-point operations a second of one square product, at its best of several."""
    import numpy as np

    import gpubp
    from gpubp.backends.numpy import NumpyBackend

    backend = NumpyBackend() if setting.kind == "cpu" else gpubp.get_backend(setting.device)
    if setting.kind == "cuda":
        _begin_on_cuda(backend.xp, setting)
    width = PEAK_WIDTHS[setting.kind]
    values = np.random.default_rng(0).random((width, width), np.float32)
    with backend.active():
        a, out = backend.asarray(values, "float32"), backend.empty((width, width), "float32")
        seconds = [timed(partial(backend.matmul, a, a, out), backend.synchronize, 1) for _ in range(6)]
    return 2 * width**3 / min(seconds)


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
    gradients = np.empty_like(parameters)

    def views(flat: Array) -> list[Array]:
        ends = np.cumsum([p.size for p in start])
        return [v.reshape(p.shape) for v, p in zip(np.split(flat, ends[:-1]), start, strict=True)]

    depth, mine, grads = len(problem.weights), views(parameters), views(gradients)
    ws, bs, dws, dbs = mine[:depth], mine[depth:], grads[:depth], grads[depth:]
    hs = [x] + [np.empty((n, size), np.float32) for size in problem.sizes[1:]]
    ds, ss = [np.empty_like(h) for h in hs], [np.empty_like(h) for h in hs]
    # Arrays without dimensions: a NumPy or Python scalar costs twice the call at these sizes.
    share = np.array(1 / n, np.float32)
    ones, class_ones, means = np.ones(n, np.float32), np.ones(classes, np.float32), np.full(n, 1 / n, np.float32)
    # Softmax works on (classes, n): a reduction over the rows of a tall array of ten columns is five times slower.
    z: Array = np.empty((classes, n), np.float32)
    picked = np.empty(n, np.float32)
    top: Array = np.empty(n, np.float32)
    at = problem.labels * n + np.arange(n)
    activate, derive = _in_place(problem.activation)
    update = _update_in_place(problem, parameters, gradients)

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
        update()
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


def _update_in_place(problem: Problem, parameters: Array, gradients: Array) -> Callable[[], Any]:
    """The problem's update of these parameters by these gradients, one vector each; it may write over the gradients."""
    import numpy as np

    velocity, square, scratch = (np.zeros_like(parameters) for _ in range(3))
    learning_rate, (decay, square_decay) = problem.learning_rate, BETAS
    rate, momentum, beta1, rest1, beta2, rest2 = (
        np.array(v, np.float32) for v in (learning_rate, MOMENTUM, decay, 1 - decay, square_decay, 1 - square_decay)
    )
    step = 0

    def sgd() -> None:
        np.subtract(parameters, np.multiply(gradients, rate, gradients), parameters)

    def with_momentum() -> None:
        np.multiply(velocity, momentum, velocity)
        np.add(velocity, gradients, velocity)
        np.subtract(parameters, np.multiply(velocity, rate, scratch), parameters)

    def adam() -> None:
        nonlocal step
        step += 1
        root = (1 - square_decay**step) ** 0.5  # on √v and ε alike, and then on the rate
        np.multiply(velocity, beta1, velocity)
        np.add(velocity, np.multiply(gradients, rest1, scratch), velocity)
        np.multiply(gradients, gradients, gradients)
        np.multiply(square, beta2, square)
        np.add(square, np.multiply(gradients, rest2, gradients), square)
        np.add(np.sqrt(square, scratch), EPSILON * root, scratch)
        np.divide(velocity, scratch, scratch)
        np.multiply(scratch, learning_rate * root / (1 - decay**step), scratch)
        np.subtract(parameters, scratch, parameters)

    return {"sgd": sgd, "momentum": with_momentum, "adam": adam}[problem.optimizer]
