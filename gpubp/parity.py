"""Parity: everything that a backend computes, against NumPy in float64 on the same numbers.

Arguments are drawn in the dtype under test, and the truth is the NumPy body in float64 on those very numbers, so all
that may differ is the rounding inside an operation. Errors are in units of a scale, the size of what was rounded; ε is
the dtype's spacing at 1.

A kernel: its scale for y is |y| and what rounding does to y on the way, found by Monte Carlo arithmetic (Parker 1997):
the body runs some times in float64 with a random relative error of about δ in each input and each operation's result,
and the greatest change of y over δ counts. An operation may err by 4 ε, since exp, the exact sigmoid and their like err
by up to 3 themselves; where n terms are summed, their n roundings of random sign make it 4 ε √n.
A matrix product of depth K: 4 ε √K, of |A| |B|. Column sums of n rows: 4 ε √n, of Σ |a|.
Gathered rows, one-hot rows and the bits of the exact sigmoid: 0.
Ten training steps: ten times that of the longest sum in a step, of the largest parameter. The optimizers divide by no
less than their rate, so that none magnifies the rounding of a gradient that is nearly nothing.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from math import inf, isnan, nan, sqrt
from random import Random
from typing import Any

import numpy as np

from gpubp.activations import bias_sigmoid
from gpubp.backends.base import Backend
from gpubp.backends.native import NativeBackend
from gpubp.backends.numpy import NumpyBackend
from gpubp.kernel import Array, Kernel
from gpubp.network import Network
from gpubp.optimizers import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from gpubp.specimens import OWN, arguments, copies, run
from gpubp.structure import Structure

__all__ = ["OWN", "Result", "arguments", "check"]

ROUNDINGS = 4  # ε of one operation
STEP = 2.0**-26  # δ: as far above float64's own roundings as below where effects are no longer proportional
DRAWS = 8  # that all of them leave less than a third of an effect happens once in 10⁵
# Nothing, one number, odd sizes, aligned ones, rows longer than a block has threads, many rows.
SHAPES = [(0, 3), (1, 1), (33, 31), (64, 128), (5, 2051), (1023, 65)]
TIMED_WIDTH = 1024
TIMED = 0.004  # seconds that one measurement of GB/s takes at least
SIZES, BATCH, STEPS = [20, 48, 32, 5], 64, 10  # of the training
OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "plain SGD": SGD,
    "SGD": partial(SGD, momentum=0.9, weight_decay=0.01),
    "RMSprop": partial(RMSprop, epsilon=0.001),
    "Adagrad": partial(Adagrad, epsilon=0.01),
    "Adam": partial(Adam, epsilon=0.001),
    "AdamW": partial(AdamW, epsilon=0.001),
}
# SHA-256 of what the exact sigmoid makes of every 65521st pattern of 32 bits; by g++ in tests/test_parity.py.
SIGMOID_BITS = "860fa93c857f9b89"


@dataclass(frozen=True)
class Result:
    """How one operation fared in one dtype."""

    name: str
    dtype: str
    error: float  # the largest; NaN where something was not finite, or nothing came of it
    tolerance: float
    gb_per_s: float | None = None  # 10⁹ bytes read and written per second
    problem: str | None = None  # why nothing came of it

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance  # which NaN is not


Outcome = tuple[float, float, float | None]  # of a check: error, tolerance, GB/s


def check(backend: Backend, dtype: str, timed_rows: int = 0) -> Iterator[Result]:
    """Run everything on the backend; GB/s are measured on this many rows of 1024, or not at all."""
    for name, run_check in _checks(backend, dtype, timed_rows).items():
        try:
            with backend.active():
                result = Result(name, dtype, *run_check())
        except Exception as trouble:  # a kernel that does not compile must not hide how the others fare
            result = Result(name, dtype, nan, 0.0, problem=f"{type(trouble).__name__}: {trouble}")
        yield result


def _checks(backend: Backend, dtype: str, timed_rows: int) -> dict[str, Callable[[], Outcome]]:
    found: dict[str, Callable[[], Outcome]]
    found = {kernel.name: partial(_kernel, backend, kernel, dtype, timed_rows) for kernel in OWN}
    for kernel in OWN:
        if kernel.kind == "elementwise" and kernel.writes == ("dz",):
            found[f"{kernel.name} + sum"] = partial(_delta_and_bias, backend, kernel, dtype, timed_rows)
    found["column sum"] = partial(_column_sum, backend, dtype, timed_rows)
    found["gather"] = partial(_gather, backend, dtype, timed_rows)
    found["one-hot"] = partial(_one_hot, backend, dtype, timed_rows)
    for which in ("A B", "Aᵀ B", "A Bᵀ"):
        found[f"matrix product {which}"] = partial(_product, backend, dtype, which)
    for name, make in OPTIMIZERS.items():
        found[f"{STEPS} steps of {name}"] = partial(_training, backend, dtype, make)
    if dtype == "float32" and (backend.name != "cpu" or isinstance(backend, NativeBackend)):
        found["exact sigmoid, bits"] = partial(_sigmoid_bits, backend)
    return found


# -- errors and tolerances ---------------------------------------------------------------------------------------------


def tolerance(dtype: str, terms: int = 1) -> float:
    return ROUNDINGS * float(np.finfo(dtype).eps) * sqrt(max(terms, 1))


def terms(kernel: Kernel, rows: int, width: int) -> int:
    """How many terms are summed in one result."""
    return {"elementwise": 1, "rowwise": width, "reduction": rows * width}[kernel.kind]


def largest(got: Any, truth: Any, scale: Any = 1) -> float:
    """The largest error in units of the scale; NaN where anything is not finite."""
    with np.errstate(all="ignore"):
        error = np.abs(np.asarray(got, np.float64) - truth)
        return float(np.max(np.where(error == 0, 0, error / scale), initial=0))


@cache
def _noise() -> Any:
    return 1 + STEP * np.random.default_rng(0).standard_normal(1 << 17)


class Noisy:
    """NumPy, but for a random relative error of about one STEP in the result of every operation on floats."""

    def __init__(self) -> None:
        self._rng = Random(0)

    def add_to(self, a: Any) -> Any:
        start = self._rng.randrange(_noise().size - np.size(a))
        return a * _noise()[start : start + np.size(a)].reshape(np.shape(a))

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)
        return partial(self._off, function) if isinstance(function, np.ufunc) else function

    def _off(self, function: Any, *args: Any, **options: Any) -> Any:
        result = function(*args, **options)
        if result.dtype.kind != "f":
            return result
        if "out" not in options:
            return self.add_to(result)
        options["out"][...] = self.add_to(result)
        return options["out"]


def truth_of(kernel: Kernel, args: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of each written argument the truth and its scale."""
    exact = {name: arg.astype(np.float64) if _is_float(arg) else arg for name, arg in args.items()}
    given = [name for name in kernel.reads if _is_float(exact[name]) or isinstance(exact[name], float)]
    truth, noisy = run(kernel, copies(exact)), Noisy()
    effect = {name: np.zeros_like(value) for name, value in truth.items()}
    for _ in range(DRAWS):
        near = run(kernel, copies(exact) | {name: noisy.add_to(exact[name]) for name in given}, noisy)
        effect = {name: np.maximum(effect[name], np.abs(near[name] - truth[name]) / STEP) for name in truth}
    return truth, {name: np.abs(truth[name]) + effect[name] for name in truth}


def _is_float(a: Any) -> bool:
    return isinstance(a, np.ndarray) and a.dtype.kind == "f"


def _worst(found: list[tuple[float, float]]) -> tuple[float, float]:
    """Of pairs of an error and its tolerance the one that fails, or comes nearest to it."""
    return max(found, key=lambda pair: inf if isnan(pair[0]) else pair[0] / pair[1])


# -- on the device -----------------------------------------------------------------------------------------------------


def on_device(backend: Backend, a: Any) -> Any:
    """A copy of a NumPy array, of its own shape even where that is (); numbers are as they are."""
    return backend.copied(backend.asarray(a, a.dtype).reshape(a.shape)) if isinstance(a, np.ndarray) else a


def poisoned(backend: Backend, shape: tuple[int, ...], dtype: str) -> Array:
    return on_device(backend, np.full(shape, np.nan, dtype))


def normal(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def tiled(backend: Backend, a: Any, times: int) -> Array:
    """The rows of a NumPy array on the device, this many times over."""
    rows, source = len(a), on_device(backend, a)
    out = backend.empty((rows * times, *a.shape[1:]), a.dtype)
    for start in range(0, rows * times, rows):
        backend.copy(source, out[start : start + rows])
    return out


def large_arguments(backend: Backend, kernel: Kernel, dtype: str, timed_rows: int) -> tuple[list[Any], int]:
    """Arguments of this many rows of 1024 elements, and the bytes that a run reads and writes."""
    rows, width = (64 * TIMED_WIDTH, 1) if kernel.kind == "reduction" else (64, TIMED_WIDTH)
    made, nbytes = [], 0
    for name, arg in arguments(kernel, rows, width, dtype).items():
        longer = np.shape(arg)[:1] == (rows,)  # which a bias, a total and a number are not
        made.append(tiled(backend, arg, timed_rows // 64) if longer else on_device(backend, arg))
        if isinstance(arg, np.ndarray):
            nbytes += made[-1].nbytes * ((name in kernel.reads) + (name in kernel.writes))
    return made, nbytes


def speed(backend: Backend, nbytes: int, launch: Callable[..., object], *args: Any, **named: Any) -> float:
    """GB/s: the best of three measurements, each of as many launches as make it long enough."""

    def seconds(launches: int) -> float:
        start = time.perf_counter()
        for _ in range(launches):
            launch(*args, **named)
        backend.synchronize()
        return (time.perf_counter() - start) / launches

    seconds(1)  # what is compiled and allocated at first use
    launches = 1 + int(TIMED / seconds(1))
    return nbytes / min(seconds(launches) for _ in range(3)) / 1e9


# -- what is checked ---------------------------------------------------------------------------------------------------


def _kernel(backend: Backend, kernel: Kernel, dtype: str, timed_rows: int) -> Outcome:
    found = []
    for rows, width in SHAPES:
        limit = tolerance(dtype, terms(kernel, rows, width))
        args = arguments(kernel, rows, width, dtype)
        found += [(error, limit) for error in _errors(backend, kernel, args)]
        if kernel.kind == "rowwise" and "w" in kernel.reads:  # one number for all rows: an unweighted batch
            found += [(error, limit) for error in _errors(backend, kernel, args | {"w": 0.25})]
    gb_per_s = None
    if timed_rows:
        large, nbytes = large_arguments(backend, kernel, dtype, timed_rows)
        gb_per_s = speed(backend, nbytes, backend.run, kernel, *large)
    return *_worst(found), gb_per_s


def _errors(backend: Backend, kernel: Kernel, args: dict[str, Any]) -> Iterator[float]:
    """Of outputs apart from the inputs, and where a network has them so, of y over z and dz over dy."""
    truth, scale = truth_of(kernel, args)
    pairs = {out: read for out, read in (("y", "z"), ("dz", "dy")) if out in kernel.writes and read in kernel.reads}
    in_place = {out: read for out, read in pairs.items() if read not in kernel.writes}
    for shared in [{}, in_place] if in_place else [{}]:
        device = {name: on_device(backend, arg) for name, arg in args.items()}
        device |= {out: device[read] for out, read in shared.items()}
        backend.run(kernel, *device.values())
        for name in kernel.writes:
            yield largest(backend.to_numpy(device[name]), truth[name], scale[name])
        kept = (name for name in kernel.reads if name not in kernel.writes and name not in shared.values())
        if not all(np.array_equal(backend.to_numpy(device[name]), args[name]) for name in kept if np.ndim(args[name])):
            yield inf  # it wrote where it may only read


def _delta_and_bias(backend: Backend, kernel: Kernel, dtype: str, timed_rows: int) -> Outcome:
    """The delta in place, and the bias gradient with it: its column sums."""
    found = []
    for rows, width in SHAPES:
        args = arguments(kernel, rows, width, dtype)
        truth, scale = truth_of(kernel, args)
        device, sums = {name: on_device(backend, arg) for name, arg in args.items()}, poisoned(backend, (width,), dtype)
        device["dz"] = device["dy"]
        backend.run_with_column_sum(kernel, *device.values(), sums=sums)
        found.append((largest(backend.to_numpy(device["dz"]), truth["dz"], scale["dz"]), tolerance(dtype)))
        limit = tolerance(dtype, rows)
        found.append((largest(backend.to_numpy(sums), truth["dz"].sum(axis=0), scale["dz"].sum(axis=0)), limit))
    gb_per_s = None
    if timed_rows:
        large, nbytes = large_arguments(backend, kernel, dtype, timed_rows)
        sums = poisoned(backend, (TIMED_WIDTH,), dtype)
        gb_per_s = speed(backend, nbytes, backend.run_with_column_sum, kernel, *large, sums=sums)
    return *_worst(found), gb_per_s


def _column_sum(backend: Backend, dtype: str, timed_rows: int) -> Outcome:
    found = []
    for rows, width in SHAPES:
        a, out = normal((rows, width), dtype), poisoned(backend, (width,), dtype)
        backend.column_sum(on_device(backend, a), out)
        exact = a.astype(np.float64)
        error = largest(backend.to_numpy(out), exact.sum(axis=0), np.abs(exact).sum(axis=0))
        found.append((error, tolerance(dtype, rows)))
    gb_per_s = None
    if timed_rows:
        large = tiled(backend, normal((64, TIMED_WIDTH), dtype), timed_rows // 64)
        gb_per_s = speed(backend, large.nbytes, backend.column_sum, large, poisoned(backend, (TIMED_WIDTH,), dtype))
    return *_worst(found), gb_per_s


def _gather(backend: Backend, dtype: str, timed_rows: int) -> Outcome:
    """Rows of a matrix, and class indices."""
    rng, errors = np.random.default_rng(0), []
    for rows, width in SHAPES:
        if rows == 0:
            continue
        order = rng.integers(0, rows, rows + 7)
        for a in (normal((rows, width), dtype), rng.integers(0, width, rows)):
            out = backend.empty((len(order), *a.shape[1:]), a.dtype)
            backend.gather(on_device(backend, a), on_device(backend, order), out)
            errors.append(largest(backend.to_numpy(out), a[order]))
    gb_per_s = None
    if timed_rows:
        large = tiled(backend, normal((64, TIMED_WIDTH), dtype), timed_rows // 64)
        order, out = on_device(backend, rng.permutation(timed_rows)), backend.copied(large)
        gb_per_s = speed(backend, 2 * large.nbytes, backend.gather, large, order, out)
    return float(np.max(errors)), 0.0, gb_per_s


def _one_hot(backend: Backend, dtype: str, timed_rows: int) -> Outcome:
    errors = []
    for rows, width in SHAPES:
        labels, out = np.random.default_rng(0).integers(0, width, rows), poisoned(backend, (rows, width), dtype)
        backend.one_hot(on_device(backend, labels), out)
        errors.append(largest(backend.to_numpy(out), labels[:, None] == np.arange(width)))
    gb_per_s = None
    if timed_rows:
        large, out = np.arange(timed_rows) % TIMED_WIDTH, poisoned(backend, (timed_rows, TIMED_WIDTH), dtype)
        gb_per_s = speed(backend, out.nbytes, backend.one_hot, on_device(backend, large), out)
    return float(np.max(errors)), 0.0, gb_per_s


def _product(backend: Backend, dtype: str, which: str) -> Outcome:
    """x W of the forward pass, xᵀ dz or dz Wᵀ of the backward pass."""
    a, b = normal((65, 784), dtype, 0), normal((784, 33), dtype, 1)
    left, right, out = on_device(backend, a), on_device(backend, b), poisoned(backend, (65, 33), dtype)
    if which == "Aᵀ B":
        left = on_device(backend, a.T.copy()).T
    elif which == "A Bᵀ":
        right = on_device(backend, b.T.copy()).T
    backend.matmul(left, right, out)
    a, b = a.astype(np.float64), b.astype(np.float64)
    return largest(backend.to_numpy(out), a @ b, np.abs(a) @ np.abs(b)), tolerance(dtype, len(b)), None


def _sigmoid_bits(backend: Backend) -> Outcome:
    z = sigmoid_patterns()
    y = on_device(backend, z)
    backend.run(bias_sigmoid, y, on_device(backend, np.zeros(1, np.float32)), y)
    return float(digest(backend.to_numpy(y)) != SIGMOID_BITS), 0.0, None


def sigmoid_patterns() -> Any:
    """Numbers of every sign and exponent, subnormal ones, infinities and NaN among them; (N, 1)."""
    return np.arange(0, 2**32, 65521).astype(np.uint32).view(np.float32).reshape(-1, 1)


def digest(y: Any) -> str:
    """Of the bits; every NaN is one."""
    return hashlib.sha256(np.where(np.isnan(y), np.float32(np.nan), y).tobytes()).hexdigest()[:16]


def _training(backend: Backend, dtype: str, make: Callable[[], Optimizer]) -> Outcome:
    """Ten steps from the same parameters on the same batches, with dropout."""
    networks = [_network(backend, dtype), _network(NumpyBackend(), "float64")]
    device, truth = (network.arena for network in networks)
    for ours, theirs in zip(truth.weights, device.weights, strict=True):
        ours[...] = backend.to_numpy(theirs)
    optimizers = [make(), make()]
    costs = [network.backend.empty((), network.dtype) for network in networks]
    errors = []
    for step in range(STEPS):
        x, labels = normal((BATCH, SIZES[0]), dtype, step), np.arange(BATCH) % SIZES[-1]
        for network, optimizer, cost in zip(networks, optimizers, costs, strict=True):
            here = network.backend
            network.update(here.asarray(x, network.dtype), here.asarray(labels, "int64"), None, optimizer, cost)
        got, exact = backend.to_numpy(costs[0]), costs[1]
        errors.append(largest(got, exact, np.abs(exact)))
    for got, exact in zip([*device.weights, *device.biases], [*truth.weights, *truth.biases], strict=True):
        errors.append(largest(backend.to_numpy(got), exact, np.abs(truth.parameters).max()))
    return float(np.max(errors)), STEPS * tolerance(dtype, max(*SIZES, BATCH)), None


def _network(backend: Backend, dtype: str) -> Network:
    structure = Structure.build(SIZES, ["tanh", "gelu"], "softmax", None, True, None, 0.2, None, dtype)
    network = Network(structure, backend, seed=0)
    network.draw()
    return network
