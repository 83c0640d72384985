"""Kernels: every NumPy body keeps its declaration, and every device function computes what its body does."""

import ast
import ctypes
import inspect
import itertools
import math
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.activations import Activation
from gpubp.backends.cupy import declaration, pure_reads, why_not
from gpubp.backends.numpy import NumpyBackend
from gpubp.kernel import KERNELS, SOURCES, Kernel
from gpubp.layers import COLUMN_KEY, ROW_KEY, Dropout, mix
from gpubp.losses import Loss

# Only the library's own: a test module may declare some for itself.
OWN = sorted((k for k in KERNELS.values() if k.body.__module__.startswith("gpubp.")), key=lambda k: k.name)
SOURCED = [kernel for kernel in OWN if kernel.source]
SIZES = (0, 1, 31, 33, 1023)
PACKAGE = Path(gpubp.__file__).parent

# Where an argument has to lie for a kernel to make sense; any other is drawn from a normal distribution.
DOMAINS: dict[str, tuple[float, float]] = {
    **{"rate": (0.01, 0.1), "momentum": (0.5, 0.9), "beta1": (0.8, 0.9), "beta2": (0.9, 0.99), "keep": (0.8, 0.9)},
    **{"epsilon": (1e-8, 1e-6), "root": (1, 3), "decay": (0.01, 0.1), "limit": (0.1, 1), "v": (0, 1)},
    **{
        "slope": (0.01, 0.5),
        "scale": (1, 2),
        "alpha": (0.5, 2),
        "delta": (0.5, 2),
        "q": (0.1, 0.9),
        "factor": (0.5, 2),
    },
    **{"w": (0, 1), "total": (1, 2), "t": (0, 1), "o": (0.1, 0.9)},
}
OUTPUTS_IN = {
    "sigmoid_delta": (0.01, 0.99),
    "tanh_delta": (-0.99, 0.99),
    "softmax_delta": (0.01, 0.99),
}  # what y is there
# Elementwise arguments that are a row or a column beside the arrays.
BROADCAST = {"b": "row", "column": "row", "row": "column"}
WHOLE_NUMBERS = {"row", "column", "key", "threshold"}


def ids(kernel: Kernel) -> str:
    return kernel.name


def is_scalar(kernel: Kernel, name: str) -> bool:
    """Python numbers are annotated as such; so are NumPy's uint32 scalars of dropout, by name."""
    return inspect.get_annotations(kernel.body)[name] is float or name in ("key", "threshold")


def argument(kernel: Kernel, name: str, rows: int, width: int, dtype: Any, rng: np.random.Generator) -> Any:
    """An argument of the shape and the domain that the declaration and the name call for."""
    if name in WHOLE_NUMBERS:
        shape = {"row": (rows, 1), "column": (width,)}.get(name, ())
        return np.uint32(2**31) if name == "threshold" else rng.integers(0, 2**32, shape, np.uint32)[()]
    low, high = OUTPUTS_IN.get(kernel.name, (None, None)) if name == "y" else DOMAINS.get(name, (None, None))
    if is_scalar(kernel, name):
        return float(rng.uniform(low or 0.1, high or 1))
    shape = shape_of(kernel, name, rows, width)
    values = rng.standard_normal(shape) if low is None or high is None else rng.uniform(low, high, shape)
    return np.asarray(values, dtype)


def shape_of(kernel: Kernel, name: str, rows: int, width: int) -> tuple[int, ...]:
    if kernel.kind == "reduction":
        return (
            ()
            if name in kernel.writes
            else (rows * width,)
            if len(kernel.arguments) == 2 and name == "g"
            else (rows, 1)
        )
    if name == "b":
        return (width,)
    if name == "total":
        return ()
    if kernel.kind == "rowwise":
        return (rows, width) if name in kernel.rows else (rows, 1)
    return {"row": (width,), "column": (rows, 1)}.get(BROADCAST.get(name, ""), (rows, width))


def arguments(kernel: Kernel, rows: int, width: int, dtype: Any = np.float64, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    made = {name: argument(kernel, name, rows, width, dtype, rng) for name in kernel.arguments}
    for name in kernel.writes:
        if name not in kernel.reads:
            made[name] = np.full(shape_of(kernel, name, rows, width), np.nan, dtype)  # so that nobody reads it
    return made


def copies(args: dict[str, Any]) -> dict[str, Any]:
    return {name: arg.copy() if isinstance(arg, np.ndarray) else arg for name, arg in args.items()}


def run(kernel: Kernel, args: dict[str, Any]) -> dict[str, Any]:
    """The written arguments after a run with NaN for scratch, so that reading what was not written shows."""
    given = list(args.values())
    like = given[kernel.shaped_like]
    scratch = [np.full(like.shape, np.nan, like.dtype) for _ in range(kernel.scratch)]
    with np.errstate(all="ignore"):
        kernel.body(np, *given, *scratch)
    return {name: args[name] for name in kernel.writes}


def shapes(size: int) -> list[tuple[int, int]]:
    return [(size, 1), (1, size), (size, 3)] if size else [(0, 1), (0, 3)]


# -- declarations ------------------------------------------------------------------------------------------------------


def test_there_are_kernels_of_every_kind() -> None:
    assert {kernel.kind for kernel in OWN} == {"elementwise", "rowwise", "reduction"}
    assert len(OWN) > 40


@pytest.mark.parametrize("kernel", OWN, ids=ids)
def test_the_signature_is_the_bodys(kernel: Kernel) -> None:
    """xp, the arguments in the declared order, then the scratch arrays."""
    names = list(inspect.signature(kernel.body).parameters)
    assert names[0] == "xp"
    assert tuple(names[1 : 1 + len(kernel.arguments)]) == kernel.arguments
    assert len(names) == 1 + len(kernel.arguments) + kernel.scratch
    assert set(kernel.writes) <= set(kernel.arguments)
    assert KERNELS[kernel.name] is kernel


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kernel", OWN, ids=ids)
def test_a_body_writes_what_it_declares_and_only_that(kernel: Kernel, dtype: Any) -> None:
    for rows, width in itertools.chain.from_iterable(map(shapes, SIZES)):
        args = arguments(kernel, rows, width, dtype)
        before = copies(args)
        written = run(kernel, args)
        for name, value in args.items():
            if name not in kernel.writes:
                np.testing.assert_array_equal(value, before[name], err_msg=name)
        for name, value in written.items():
            assert value.dtype == dtype, name
            assert np.isfinite(value).all(), f"{name} was not written everywhere, or from scratch memory"


@pytest.mark.parametrize("kernel", OWN, ids=ids)
def test_a_body_does_not_depend_on_what_its_outputs_held(kernel: Kernel) -> None:
    first, second = arguments(kernel, 33, 3), arguments(kernel, 33, 3)
    for name in kernel.writes:
        if name not in kernel.reads:
            second[name][...] = 7.0
    run(kernel, first)
    run(kernel, second)
    for name in kernel.writes:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def aliases(kernel: Kernel) -> list[tuple[str, str]]:
    """(output, input) that may be one array: any of one shape if elementwise, else those that a network gives."""
    if kernel.kind == "reduction":
        return []
    args = arguments(kernel, 5, 3)
    outputs = [name for name in kernel.writes if name not in kernel.reads]
    inputs = [name for name in kernel.reads if name not in kernel.writes]
    pairs = [
        (out, read)
        for out in outputs
        for read in inputs
        if isinstance(args[read], np.ndarray) and args[out].shape == args[read].shape
    ]
    if kernel.kind == "rowwise":
        pairs = [pair for pair in pairs if pair in {("y", "z"), ("dz", "dy")}]
    return [pair for pair in pairs if args[pair[1]].dtype == np.float64]


@pytest.mark.parametrize(
    ("kernel", "output", "read"),
    [pytest.param(k, *pair, id=f"{k.name}-{pair[0]}-{pair[1]}") for k in OWN for pair in aliases(k)],
)
def test_an_output_may_be_an_input(kernel: Kernel, output: str, read: str) -> None:
    apart, shared = arguments(kernel, 33, 3), arguments(kernel, 33, 3)
    shared[output] = shared[read]
    expected, got = run(kernel, apart), run(kernel, shared)
    for name in kernel.writes:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


def test_the_networks_aliases_are_among_them() -> None:
    assert aliases(KERNELS["softmax_cross_entropy"]) == [("y", "z")]
    assert aliases(KERNELS["softmax_delta"]) == [("dz", "dy")]
    assert ("dz", "dy") in aliases(KERNELS["gelu_delta"])


@pytest.mark.parametrize("block", [1, 7, 64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kernel", OWN, ids=ids)
def test_blocks_of_rows_change_nothing(kernel: Kernel, dtype: Any, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for rows, width in ((1, 33), (33, 1), (31, 3), (65, 5)):
        whole, blocks = arguments(kernel, rows, width, dtype), arguments(kernel, rows, width, dtype)
        backend = NumpyBackend()
        with backend.active():
            backend.run(kernel, *whole.values())
            monkeypatch.setattr("gpubp.backends.numpy.BLOCK", block)
            backend.run(kernel, *blocks.values())
            monkeypatch.undo()
        for name in kernel.writes:
            np.testing.assert_array_equal(blocks[name], whole[name], err_msg=name)


def test_large_arrays_do_run_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubp.backends.numpy.BLOCK", 8)
    seen = []
    body = KERNELS["bias_tanh"].body

    def seeing(xp: Any, z: Any, b: Any, y: Any) -> None:
        seen.append(z.shape)
        body(xp, z, b, y)

    spy = SimpleNamespace(kind="elementwise", scratch=0, shaped_like=2, body=seeing)
    z = np.ones((10, 4))
    NumpyBackend().run(spy, z, np.zeros(4), z)  # type: ignore[arg-type]
    assert seen == [(2, 4)] * 5


WEIGHTED = [
    kernel for kernel in OWN if "w" in kernel.reads and kernel.kind != "elementwise" and kernel.name != "weight_sum"
]


@pytest.mark.parametrize("kernel", WEIGHTED, ids=ids)
def test_one_number_may_be_the_weight_of_all(kernel: Kernel) -> None:
    """An unweighted batch gives one number for w."""
    number, array = arguments(kernel, 33, 3), arguments(kernel, 33, 3)
    number["w"] = 0.25
    array["w"] = np.full(array["w"].shape, 0.25)
    expected, got = run(kernel, array), run(kernel, number)
    for written in kernel.writes:
        np.testing.assert_array_equal(got[written], expected[written], err_msg=written)


def murmur(bits: int) -> int:
    """Murmur3's finalizer, from its description: MurmurHash3, fmix32."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> shift)) * factor % 2**32
    return bits ^ (bits >> 16)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_values_of_dropout(rate: float, dtype: Any, rng: np.random.Generator) -> None:
    args = arguments(KERNELS["dropout"], 33, 5, dtype)
    args |= {"threshold": np.uint32(rate * 2**32), "scale": 1 / (1 - rate)}
    y = run(KERNELS["dropout"], args)["y"]
    for i, j in np.ndindex(33, 5):
        counter = (int(args["row"][i, 0]) + int(args["column"][j]) + int(args["key"])) % 2**32
        kept = murmur(counter) >= rate * 2**32
        assert y[i, j] == pytest.approx(float(args["x"][i, j]) / (1 - rate) * kept, rel=1e-6)
    assert murmur(1) == mix(1) == 0x514E28B7  # the published value of fmix32(1)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_at_its_rate(rate: float) -> None:
    """Over rows, columns and steps alike, within five standard deviations."""
    backend, shape = NumpyBackend(), (400, 100)
    keys = [(np.arange(n, dtype=np.uint32) * np.uint32(k)) for n, k in zip(shape, (ROW_KEY, COLUMN_KEY), strict=True)]
    kept = []
    for step in range(3):
        out = np.empty(shape)
        Dropout(rate, 7, 1).run(backend, (keys[0][:, None], keys[1]), np.ones(shape), step, out)
        np.testing.assert_allclose(out[out != 0], 1 / (1 - rate))
        kept.append(out != 0)
    for axis in (0, 1, None):
        count = np.size(kept[0]) if axis is None else shape[axis]
        spread = 5 * math.sqrt(rate * (1 - rate) / count)
        assert np.abs(kept[0].mean(axis=axis) - (1 - rate)).max() < spread
    for other in kept[1:]:  # another step is another, independent mask
        both_kept = (kept[0] & other).mean()
        assert both_kept == pytest.approx((1 - rate) ** 2, abs=5 * math.sqrt(1 / np.size(kept[0])))


# -- derivatives -------------------------------------------------------------------------------------------------------

STEP = 1e-30
GRID = np.array([-30, -12.5, -4, -1.5, -0.6, -1e-3, 1e-3, 0.25, 0.8, 2, 5, 17, 30])


def pushed(activation: Activation, z: Any, b: Any) -> tuple[Any, Any]:
    """(y, what is saved) of the forward kernel, in the dtype of z."""
    z, y = z.copy(), np.empty_like(z)
    args = dict(zip(activation.forward.arguments, [z, b, *activation.parameters, y], strict=True))
    run(activation.forward, args)
    return y, (y if activation.saves == "y" else z)


def delta_of(activation: Activation, dy: Any, saved: Any) -> Any:
    if activation.delta is None:
        return dy
    dz = np.empty_like(dy)
    run(activation.delta, dict(zip(activation.delta.arguments, [dy, saved, *activation.parameters, dz], strict=True)))
    return dz


def analytic_activations() -> list[str]:
    return [name for name, member in Activation.members.items() if member.analytic]


@pytest.mark.parametrize("name", analytic_activations())
def test_an_analytic_activation_against_its_delta(name: str, rng: np.random.Generator) -> None:
    """Column by column, because a softmax's outputs depend on all of a row."""
    activation = Activation.members[name]()
    z = np.stack([GRID, rng.permutation(GRID), rng.permutation(GRID)], axis=1)
    dy, b = rng.standard_normal(z.shape), np.zeros(3)
    dz = delta_of(activation, dy, pushed(activation, z, b)[1])
    for column in range(3):
        direction = np.zeros(3, complex)
        direction[column] = 1j * STEP
        y, _ = pushed(activation, z.astype(complex), b + direction)
        expected = (dy * y.imag / STEP).sum(axis=1)
        scale = np.maximum(1, np.abs(dy * y.imag / STEP).max(axis=1))
        np.testing.assert_array_less(np.abs(dz[:, column] - expected), 1e-12 * scale)


@pytest.mark.parametrize("name", [n for n in Activation.members if n not in analytic_activations()])
def test_an_activation_with_a_kink_against_its_delta(name: str) -> None:
    activation = Activation.members[name]()
    z, h = GRID[:, None], 1e-6
    y = [pushed(activation, z + shift, np.zeros(1))[0] for shift in (-h, h)]
    dz = delta_of(activation, np.ones_like(z), pushed(activation, z, np.zeros(1))[1])
    np.testing.assert_allclose(dz, (y[1] - y[0]) / (2 * h), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", [n for n in Activation.members if n not in analytic_activations()])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_the_derivative_at_the_kink_is_the_left_one(name: str, zero: float) -> None:
    activation = Activation.members[name]()
    at = np.array([[zero], [-1e-7]])
    y, saved = pushed(activation, at, np.zeros(1))
    got = delta_of(activation, np.ones_like(at), saved)[0, 0]
    left = (y[0, 0] - y[1, 0]) / 1e-7
    right = pushed(activation, np.array([[1e-7]]), np.zeros(1))[0][0, 0] / 1e-7
    assert got == pytest.approx(left, abs=1e-6)
    assert name == "elu" or abs(right - left) > 0.3, "this activation has no kink, so the test proves nothing"


def loss_run(loss: Loss, o: Any, t: Any, w: Any) -> tuple[Any, Any]:
    """(∂C/∂o, ℓ) by the loss's kernel."""
    do, value = np.empty_like(o), np.empty((len(o), 1), o.dtype)
    run(loss.kernel, dict(zip(loss.kernel.arguments, [o, t, w, *loss.parameters, do, value], strict=True)))
    return do, value


def fused_run(loss: Loss, output: type[Activation], z: Any, b: Any, t: Any, w: Any) -> tuple[Any, Any, Any]:
    """(y, ∂C/∂z, ℓ) by the fused kernel."""
    y, dz, value = np.empty_like(z), np.empty_like(z), np.empty((len(z), 1), z.dtype)
    kernel = loss.fused[output]
    run(kernel, dict(zip(kernel.arguments, [z, b, t, w, *loss.parameters, y, dz, value], strict=True)))
    return y, dz, value


def rows_of(low: float, high: float, rng: np.random.Generator, rows: int = 40) -> Any:
    return rng.uniform(max(low, -3) + 1e-3, min(high, 3) - 1e-3, (rows, 3))


FUSED = [(name, output) for name, loss in Loss.members.items() for output in loss.fused]


@pytest.mark.parametrize("name", [n for n, member in Loss.members.items() if member.analytic])
def test_an_analytic_loss_against_its_delta(name: str, rng: np.random.Generator) -> None:
    loss = Loss.members[name]()
    o, t, w = rows_of(*loss.outputs, rng), rows_of(*loss.targets, rng), rng.uniform(0, 2, (40, 1))
    do, _ = loss_run(loss, o, t, w)
    for column in range(3):
        shifted = o.astype(complex)
        shifted[:, column] += 1j * STEP
        derivative = loss_run(loss, shifted, t.astype(complex), w)[1].imag[:, 0] / STEP
        np.testing.assert_allclose(do[:, column], w[:, 0] * derivative, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [n for n, member in Loss.members.items() if not member.analytic])
def test_a_loss_with_a_kink_against_its_delta(name: str, rng: np.random.Generator) -> None:
    loss, h = Loss.members[name](), 1e-6
    o, t, w = rng.uniform(-3, 3, (40, 1)), np.zeros((40, 1)), rng.uniform(0.1, 2, (40, 1))
    o = o[np.abs(np.abs(o) - np.array([[0.0, *loss.parameters]])).min(axis=1) > 1e-3]
    w, t = w[: len(o)], t[: len(o)]
    values = [loss_run(loss, o + shift, t, w)[1] for shift in (-h, h)]
    np.testing.assert_allclose(loss_run(loss, o, t, w)[0], w * (values[1] - values[0]) / (2 * h), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", [n for n, member in Loss.members.items() if not member.analytic])
def test_the_derivative_where_output_and_target_agree_is_0(name: str) -> None:
    o = np.array([[1.5, -2.0]])
    do, value = loss_run(Loss.members[name](), o, o.copy(), 1.0)
    assert not do.any()
    assert not value.any()


@pytest.mark.parametrize(("name", "output"), FUSED)
def test_a_fused_loss_against_its_delta(name: str, output: type[Activation], rng: np.random.Generator) -> None:
    loss = Loss.members[name]()
    z = np.stack([rng.permutation(GRID) for _ in range(3)], axis=1)
    z = np.clip(z, -30, 5) if loss.outputs[1] == np.inf else z
    t = rng.dirichlet(np.ones(3), len(z))
    w = rng.uniform(0, 2, (len(z), 1))
    dz = fused_run(loss, output, z, np.zeros(3), t, w)[1]
    for column in range(3):
        shifted = z.astype(complex)
        shifted[:, column] += 1j * STEP
        derivative = fused_run(loss, output, shifted, np.zeros(3), t.astype(complex), w)[2].imag[:, 0] / STEP
        expected = w[:, 0] * derivative
        np.testing.assert_array_less(np.abs(dz[:, column] - expected), 1e-12 * np.maximum(1, np.abs(expected)))


@pytest.mark.parametrize(("name", "output"), FUSED)
def test_fused_equals_the_chain(name: str, output: type[Activation], rng: np.random.Generator) -> None:
    loss, activation = Loss.members[name](), output()
    z, b, t = rng.uniform(-4, 4, (50, 3)), rng.standard_normal(3), rng.dirichlet(np.ones(3), 50)
    w = rng.uniform(0, 2, (50, 1))
    y, dz, value = fused_run(loss, output, z.copy(), b, t, w)
    chain_y, saved = pushed(activation, z, b)
    do, chain_value = loss_run(loss, chain_y, t, w)
    np.testing.assert_allclose(y, chain_y, rtol=1e-14)
    np.testing.assert_allclose(value, chain_value, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dz, delta_of(activation, do, saved), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "output"), FUSED)
def test_fused_losses_stay_finite(name: str, output: type[Activation], dtype: Any) -> None:
    loss = Loss.members[name]()
    largest = 80.0 if loss.outputs[1] == np.inf else 1e4  # eᶻ itself overflows a float32 at 89
    z = np.array(list(itertools.product([-1e4, -100, 0, min(100, largest), largest], repeat=3)), dtype)
    for hot in range(3):
        t = np.zeros_like(z)
        t[:, hot] = 1
        y, dz, value = fused_run(loss, output, z.copy(), np.zeros(3, dtype), t, 1.0)
        for array in (y, dz, value):
            assert array.dtype == dtype
            assert np.isfinite(array).all()
        assert (value >= 0).all() or loss.outputs[1] == np.inf
    if (
        loss.outputs[1] == 1
    ):  # being wrong by 2 · 10⁴ costs that much, where the chain of the two would give an infinity
        z = np.array([[1e4, -1e4, -1e4]], dtype)
        value = fused_run(loss, output, z, np.zeros(3, dtype), np.array([[0, 1, 0]], dtype), 1.0)[2]
        assert value[0, 0] == pytest.approx(2e4, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", Activation.members)
def test_activations_stay_finite(name: str, dtype: Any) -> None:
    activation = Activation.members[name]()
    z = np.array([[-1e4, -100, -1, 0], [0, 1, 80 if name == "exp" else 100, 80 if name == "exp" else 1e4]], dtype)
    y, saved = pushed(activation, z, np.zeros(4, dtype))
    assert np.isfinite(y).all()
    assert np.isfinite(delta_of(activation, np.ones_like(z), saved)).all()
    low, high = activation.range
    assert ((y >= low) & (y <= high)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [n for n, loss in Loss.members.items() if loss.outputs != (-np.inf, np.inf)])
def test_a_loss_of_a_saturated_output_is_finite(name: str, dtype: Any) -> None:
    """Outputs that rounded to the end of their range, with the target at the other end."""
    loss = Loss.members[name]()
    o, t = np.array([[0, 1], [1, 0]], dtype), np.array([[1, 0], [0, 1]], dtype)
    do, value = loss_run(loss, o, t, 1.0)
    assert np.isfinite(value).all()
    assert not np.isnan(do).any()


# -- values, by formulas written a second time -------------------------------------------------------------------------

SLOPE, CUBIC = math.sqrt(2 / math.pi), 0.044715
LAMBDA, ALPHA = 1.0507009873554805, 1.6732632423543772
FORMULAS: dict[str, Callable[[float], float]] = {
    "identity": lambda z: z,
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)),
    "tanh": lambda z: (math.exp(2 * z) - 1) / (math.exp(2 * z) + 1),
    "relu": lambda z: z if z > 0 else 0.0,
    "leaky_relu": lambda z: z if z > 0 else 0.01 * z,
    "elu": lambda z: z if z > 0 else math.exp(z) - 1,
    "selu": lambda z: LAMBDA * (z if z > 0 else ALPHA * (math.exp(z) - 1)),
    "softplus": lambda z: math.log(1 + math.exp(z)),
    "silu": lambda z: z / (1 + math.exp(-z)),
    "gelu": lambda z: 0.5 * z * (1 + math.tanh(SLOPE * (z + CUBIC * z**3))),
    "exp": math.exp,
}
POINTS = [-6.0, -2.5, -1.0, -0.1, 0.0, 0.3, 1.0, 3.0, 7.5]


@pytest.mark.parametrize("name", FORMULAS)
def test_values_of_activations(name: str) -> None:
    z = np.array(POINTS)[:, None]
    got = pushed(Activation.members[name](), z - 0.25, np.array([0.25]))[0][:, 0]
    np.testing.assert_allclose(got, [FORMULAS[name](point) for point in POINTS], rtol=1e-13, atol=1e-15)


def test_values_of_softmax() -> None:
    got = pushed(Activation.members["softmax"](), np.array([[1.0, 2.0, 4.0]]), np.array([0.0, 1.0, -2.0]))[0][0]
    powers = [math.exp(1), math.exp(3), math.exp(2)]
    np.testing.assert_allclose(got, [power / sum(powers) for power in powers], rtol=1e-14)


def test_gelu_is_the_tanh_form() -> None:
    """It differs from the form with erf by up to 5e-4; published: gelu(1) = 0.841192, against 0.841345 by erf."""
    got = pushed(Activation.members["gelu"](), np.array([[1.0]]), 0.0)[0][0, 0]
    assert got == pytest.approx(0.841192, abs=1e-6)


LOSS_VALUES: list[tuple[Loss, Callable[[float, float], float]]] = [
    (gpubp.SquaredError(), lambda o, t: (o - t) ** 2),
    (gpubp.SquaredError(half=True), lambda o, t: 0.5 * (o - t) ** 2),
    (gpubp.AbsoluteError(), lambda o, t: abs(o - t)),
    (gpubp.Huber(0.3), lambda o, t: 0.5 * (o - t) ** 2 if abs(o - t) <= 0.3 else 0.3 * (abs(o - t) - 0.15)),
    (gpubp.Quantile(0.2), lambda o, t: 0.2 * (t - o) if o < t else 0.8 * (o - t)),
    (gpubp.Poisson(), lambda o, t: o - t * math.log(o)),
    (gpubp.BinaryCrossEntropy(), lambda o, t: -t * math.log(o) - (1 - t) * math.log(1 - o)),
    (gpubp.CrossEntropy(), lambda o, t: -t * math.log(o)),
]


@pytest.mark.parametrize(("loss", "formula"), LOSS_VALUES, ids=lambda v: repr(v) if isinstance(v, Loss) else "")
def test_values_of_losses(loss: Loss, formula: Callable[[float, float], float], rng: np.random.Generator) -> None:
    o, t = rng.uniform(0.05, 0.95, (20, 3)), rng.uniform(0, 1, (20, 3))
    value = loss_run(loss, o, t, 3.0)[1]  # the weight goes into the derivative, not into the value
    expected = [sum(formula(a, b) for a, b in zip(*pair, strict=True)) for pair in zip(o, t, strict=True)]
    np.testing.assert_allclose(value[:, 0], expected, rtol=1e-13)


# -- the device functions ----------------------------------------------------------------------------------------------

FUNCTION = re.compile(
    r"template\s*<typename T>\s*__device__\s+(?:inline\s+|__forceinline__\s+)*void\s+(\w+)\s*\(([^)]*)\)\s*\{(.*?)^\}",
    re.S | re.M,
)
# A number with a point or an exponent, other than directly inside T(...).
DOUBLE = re.compile(r"(?<!T\()(?<![\w.])(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][+-]?\d+)?(?![\w.])")


def sources() -> dict[str, str]:
    return {file.name: file.read_text(encoding="utf-8") for file in SOURCES.iterdir() if file.name.endswith(".cuh")}


def functions(text: str) -> dict[str, list[tuple[str, str]]]:
    """By name: the arguments of each device function, as (type, name)."""
    found = {}
    for name, given, _ in FUNCTION.findall(text):
        pairs = [re.fullmatch(r"\s*(T&?)\s*(\w+)\s*", part) for part in given.split(",")]
        assert all(pairs), f"{name}({given}): each argument is T by value or T& by reference"
        found[name] = [(match[1], match[2]) for match in pairs if match]
    return found


def test_registry_and_sources_agree() -> None:
    for file, text in sources().items():
        declared = {kernel.name: kernel for kernel in SOURCED if kernel.source == file}
        found = functions(text)
        assert text.count("__device__") - text.count("with __device__") == len(found), (
            "a function that this test cannot read"
        )
        assert set(found) == set(declared), file
        for name, kernel in declared.items():
            assert tuple(argument for _, argument in found[name]) == kernel.arguments
            assert {argument for kind, argument in found[name] if kind == "T&"} == set(kernel.writes)
    assert {kernel.source for kernel in SOURCED} <= set(sources())


def test_no_double_literals() -> None:
    """In a float kernel a bare 1.0 drags the expression into double."""
    for file, text in sources().items():
        code = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
        assert not DOUBLE.findall(code), file
    for bad in ("x = 1.0 * y", "y = 2. - x", "a + .5", "b * 1e-7", "c + 3.5e2"):
        assert DOUBLE.search(bad), bad
    for good in ("T(1)", "T(0.5)", "T(1e-7)", "x1 + 2", "1.0f"):
        assert not DOUBLE.search(good), good


C_TYPES = {np.float32: "float", np.float64: "double"}


def loop(kernel: Kernel, ctype: str, symbol: str, scope: str = "") -> str:
    """A C function that calls the device function on each element; one element's reads all come before its writes."""
    written = set(kernel.writes)
    params = ", ".join(f"{'' if name in written else 'const '}{ctype}* {name}" for name in kernel.arguments)
    call = ", ".join(f"{name}[i]" for name in kernel.arguments)
    return (
        f'extern "C" void {symbol}(long n, {params}) {{\n'
        f"  for (long i = 0; i < n; ++i) {scope}{kernel.name}<{ctype}>({call});\n}}\n"
    )


def compiled(folder: Path, text: str) -> ctypes.CDLL:
    source, library = folder / "shim.cpp", folder / "shim.so"
    source.write_text(text, encoding="utf-8")
    command = [
        "g++",
        "-std=c++17",
        "-O1",
        "-ffp-contract=off",
        "-Wall",
        "-Werror",
        "-Wno-unknown-pragmas",
        "-shared",
        "-fPIC",
    ]
    done = subprocess.run(
        [*command, "-I", str(folder), "-o", str(library), str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


HEAD = "#include <math.h>\n#define __device__\n"


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("device")
    text = HEAD
    for file, code in sources().items():
        (folder / file).write_text(code, encoding="utf-8")
        text += f'#include "{file}"\n'
    for kernel in SOURCED:
        for ctype in C_TYPES.values():
            text += loop(kernel, ctype, f"{kernel.name}_{ctype}")
    return compiled(folder, text)


def call(library: ctypes.CDLL, symbol: str, args: list[Any]) -> None:
    pointer = ctypes.c_void_p
    getattr(library, symbol)(ctypes.c_long(args[0].size), *(pointer(a.ctypes.data) for a in args))


def flat(kernel: Kernel, n: int, dtype: Any, seed: int = 0) -> dict[str, Any]:
    """Arguments of n elements each, broadcast already, as a device function sees them."""
    args = arguments(kernel, n, 1, dtype, seed)
    shape = args[kernel.writes[0]].shape
    return {name: np.array(np.broadcast_to(np.asarray(arg, dtype), shape)) for name, arg in args.items()}


def both(
    kernel: Kernel, args: dict[str, Any], run_device: Callable[[list[Any]], None]
) -> Iterator[tuple[str, Any, Any]]:
    """Each written argument: its name, the device function's values, and the NumPy body's in float64."""
    truth = {name: arg.astype(np.float64) for name, arg in args.items()}
    run(kernel, truth)
    device = copies(args)
    run_device(list(device.values()))
    for name in kernel.writes:
        yield name, device[name], truth[name]


def agree(device: Any, truth: Any, dtype: Any, ulps: float = 8) -> bool:
    """Equal to some units in the last place of dtype, subnormals to their spacing, NaN with NaN."""
    info = np.finfo(dtype)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        rounded = truth.astype(dtype)
        ok = (device == rounded) | (np.isnan(device) & np.isnan(rounded))
        ok |= np.abs(device.astype(np.float64) - truth) <= np.maximum(
            ulps * info.eps * np.abs(truth), ulps * float(info.tiny) * info.eps
        )
    return bool(ok.all())


@pytest.mark.toolchain
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [*SIZES, 65537])
@pytest.mark.parametrize("kernel", SOURCED, ids=ids)
def test_a_device_function_computes_what_the_body_does(
    library: ctypes.CDLL, kernel: Kernel, size: int, dtype: Any
) -> None:
    assert kernel.kind == "elementwise", "this comparison calls device functions element by element"
    args = flat(kernel, size, dtype)
    for name, device, truth in both(kernel, args, lambda a: call(library, f"{kernel.name}_{C_TYPES[dtype]}", a)):
        assert agree(device, truth, dtype), name


@pytest.mark.toolchain
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kernel", SOURCED, ids=ids)
def test_a_device_function_on_special_values(library: ctypes.CDLL, kernel: Kernel, dtype: Any) -> None:
    """All combinations of infinities, NaN, zeros, subnormals and huge numbers, against the body in the same dtype."""
    info = np.finfo(dtype)
    special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        30,
        -30,
        88.5,
        -88.5,
        709,
        -709,
        1e4,
        -1e4,
        info.tiny,
        -info.tiny,
        info.tiny / 4,
    ]
    special += [info.smallest_subnormal, info.max / 4, -info.max / 4, np.inf, -np.inf, np.nan]
    free = [name for name in kernel.reads if not is_scalar(kernel, name)]
    grid = np.meshgrid(*[np.array(special, dtype)] * len(free), indexing="ij")
    args = flat(kernel, grid[0].size, dtype)
    for name, values in zip(free, grid, strict=True):
        args[name][...] = values.reshape(args[name].shape)
    reference, device = copies(args), copies(args)
    run(kernel, reference)
    call(library, f"{kernel.name}_{C_TYPES[dtype]}", list(device.values()))
    for name in kernel.writes:
        with np.errstate(over="ignore"):
            assert agree(device[name], reference[name].astype(np.float64), dtype), name


@pytest.mark.toolchain
@pytest.mark.parametrize("kernel", SOURCED, ids=ids)
def test_a_device_function_may_write_over_an_input(library: ctypes.CDLL, kernel: Kernel) -> None:
    for output in (name for name in kernel.writes if name not in kernel.reads):
        for read in pure_reads(kernel):
            apart, shared = flat(kernel, 1023, np.float64), flat(kernel, 1023, np.float64)
            shared[output] = shared[read]
            for args in (apart, shared):
                call(library, f"{kernel.name}_double", list(args.values()))
            np.testing.assert_array_equal(shared[output], apart[output])


SWAPS = {"+": "-", "-": "+", "*": "+", "/": "*", "T(1)": "T(2)", "+ b": ""}


def mutants(kernel: Kernel) -> Iterator[tuple[str, str]]:
    """(what changed, text) of the device function with one change: a sign, an operation, a factor, no bias."""
    for match in FUNCTION.finditer(kernel.code):
        if match[1] != kernel.name:
            continue
        head, body = match[0][: match.start(3) - match.start()], match[3] + "}\n"
        for old, new in SWAPS.items():
            for at in re.finditer(re.escape(old) + (r"\b" if old == "+ b" else ""), body):
                yield f"{old!r} → {new!r} at {at.start()}", head + body[: at.start()] + new + body[at.end() :]
        for factor in re.findall(r"\([^()]*(?:\([^()]*\))?[^()]*\) \* ", body):  # (1 − y) dropped
            yield f"{factor!r} dropped", head + body.replace(factor, "", 1)


@pytest.mark.toolchain
def test_every_mutant_of_a_device_function_is_caught(tmp_path: Path) -> None:
    text = HEAD
    made: list[tuple[Kernel, str, str]] = []
    for kernel in SOURCED:
        before = len(made)
        for change, code in mutants(kernel):
            scope = f"mutant{len(made)}"
            if code.count("(") != code.count(")"):
                continue
            text += f"namespace {scope} {{\n{code}\n}}\n" + loop(kernel, "double", scope + "_run", f"{scope}::")
            made.append((kernel, change, scope + "_run"))
        assert len(made) - before >= 3, f"{kernel.name} has too few mutants to prove anything"
    library = compiled(tmp_path, text)
    for kernel, change, symbol in made:
        args = flat(kernel, 1023, np.float64)
        same = [agree(d, t, np.float64) for _, d, t in both(kernel, args, partial(call, library, symbol))]
        assert not all(same), f"{kernel.name} with {change} passes the comparison"
    changes = [change for kernel, change, _ in made if kernel.name in ("bias_sigmoid", "sigmoid_delta")]
    assert any("+ b" in change for change in changes)
    assert any("dropped" in change and "y" in change for change in changes)


# -- CuPy, without a GPU -----------------------------------------------------------------------------------------------


def test_what_cupy_is_given() -> None:
    sigmoid, delta = declaration(KERNELS["bias_sigmoid"]), declaration(KERNELS["sigmoid_delta"])
    code = (SOURCES / "activations.cuh").read_text(encoding="utf-8")
    assert sigmoid == {
        "in_params": "T z, T b",
        "out_params": "T y",
        "operation": "bias_sigmoid(z, b, y)",
        "name": "gpubp_bias_sigmoid",
        "preamble": code,
    }
    assert (delta["in_params"], delta["out_params"]) == ("T dy, T y", "T dz")
    assert delta["operation"] == "sigmoid_delta(dy, y, dz)"


def test_what_is_read_and_written_is_an_output_to_cupy() -> None:
    assert pure_reads(KERNELS["sgd_momentum"]) == ("g", "rate", "momentum")
    assert pure_reads(KERNELS["bias_gelu"]) == ("b",)


class FakeArray:
    def __init__(self, total: float) -> None:
        self.total = total

    def __add__(self, other: Any) -> "FakeArray":
        return self

    def __matmul__(self, other: Any) -> "FakeArray":
        return self

    def sum(self) -> float:
        return self.total


class FakeDevice:
    def __init__(self, index: int) -> None:
        self.id = index

    def __enter__(self) -> None: ...

    def __exit__(self, *details: object) -> None: ...


class CudaError(RuntimeError): ...


def fake_cupy(count: Any = 1, total: float = 16.0, ones: Callable[..., Any] | None = None) -> Any:
    def get_device_count() -> int:
        if isinstance(count, Exception):
            raise count
        return int(count)

    names = {"getDeviceProperties": lambda index: {"name": b"A Card"}, "CUDARuntimeError": CudaError}
    runtime = SimpleNamespace(getDeviceCount=get_device_count, **names)
    cuda = SimpleNamespace(runtime=runtime, Device=FakeDevice)
    return SimpleNamespace(cuda=cuda, ones=ones or (lambda *args: FakeArray(total)), __version__="14.0")


@pytest.fixture
def with_cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """A function that puts a module, or the error of importing one, in CuPy's place."""

    def install(module: Any) -> None:
        def import_module(name: str) -> Any:
            assert name == "cupy"
            if isinstance(module, Exception):
                raise module
            return module

        monkeypatch.setattr("gpubp.backends.cupy.importlib", SimpleNamespace(import_module=import_module))
        why_not.cache_clear()

    why_not.cache_clear()
    yield install
    why_not.cache_clear()


def broken(*args: Any) -> Any:
    raise OSError("libnvrtc.so.12: cannot open shared object file")


PROBLEMS: dict[str, tuple[Any, list[str]]] = {
    "missing": (
        ModuleNotFoundError("No module named 'cupy'"),
        ["CuPy is not installed", "pip install 'gpubp[cuda12]'"],
    ),
    "broken": (
        ImportError("libcudart.so.12 is missing"),
        ["CuPy is broken (libcudart.so.12 is missing)", "pip install"],
    ),
    "no driver": (
        fake_cupy(CudaError("cudaErrorNoDevice")),
        ["no CUDA driver", "cudaErrorNoDevice", "install an NVIDIA driver"],
    ),
    "none": (fake_cupy(0), ["this machine has 0 CUDA devices", "cuda:0 is not among them"]),
    "wrong": (fake_cupy(1, 15.0), ["wrong matrix product", "check the driver"]),
    "no nvrtc": (fake_cupy(1, ones=broken), ["CuPy cannot run on cuda:0", "libnvrtc.so.12", "gpubp[cuda12]"]),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_cuda_that_is_not_there(with_cupy: Callable[[Any], None], problem: str) -> None:
    module, words = PROBLEMS[problem]
    with_cupy(module)
    with pytest.raises(gpubp.DeviceError) as caught:
        gpubp.get_backend("cuda")
    for word in [*words, "Use device='cpu' or 'auto'"]:
        assert word in str(caught.value)
    backend = gpubp.get_backend("auto")
    assert backend.name == "cpu"
    assert backend.fallback is not None
    assert all(word in backend.fallback for word in words)
    assert gpubp.MLP([2, 2], seed=0).fallback == backend.fallback
    cpu, cuda = gpubp.devices()
    assert (cpu["device"], cpu["available"]) == ("cpu", "yes")
    assert cuda == {"device": "cuda", "available": "no", "reason": backend.fallback}


def test_a_device_that_works(with_cupy: Callable[[Any], None]) -> None:
    with_cupy(fake_cupy(1))
    assert (gpubp.get_backend("auto").name, gpubp.get_backend("auto").fallback) == ("cuda:0", None)
    assert gpubp.get_backend("cpu").fallback is None
    assert [row["device"] for row in gpubp.devices()] == ["cpu", "cuda:0"]
    with pytest.raises(gpubp.DeviceError, match="this machine has 1 CUDA device, cuda:3 is not among them"):
        gpubp.get_backend("cuda:3")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:-1", "", None, 0])
def test_a_device_of_no_kind(device: Any) -> None:
    with pytest.raises(gpubp.DataError, match="device must be"):
        gpubp.get_backend(device)


# -- all arithmetic goes through the backend ---------------------------------------------------------------------------


class Recording(NumpyBackend):
    """Counts what is asked of the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def clear(self) -> None:
        self.products: list[int] = []  # multiplications in each
        self.kernels: list[str] = []
        self.sums = 0

    def matmul(self, a: Any, b: Any, out: Any) -> None:
        self.products.append(a.shape[0] * a.shape[1] * b.shape[1])
        super().matmul(a, b, out)

    def run(self, kernel: Kernel, *args: Any) -> None:
        self.kernels.append(kernel.name)
        super().run(kernel, *args)

    def column_sum(self, a: Any, out: Any) -> None:
        self.sums += 1
        super().column_sum(a, out)


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Recording:
    backend = Recording()
    monkeypatch.setattr("gpubp.mlp.get_backend", lambda device: backend)
    return backend


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_the_products_of_a_step(recording: Recording, depth: int, rng: np.random.Generator) -> None:
    """L forward, L for the weights' gradients, L − 1 for the deltas below: backward costs about twice forward."""
    net = gpubp.MLP([7, *[8] * (depth - 1), 7], seed=0)
    x, y = rng.standard_normal((16, 7)), rng.integers(0, 7, 16)
    net.forward(x)
    assert len(recording.products) == depth
    forward = sum(recording.products)
    recording.clear()
    net.train_step(x, y, gpubp.SGD(0.1))
    assert len(recording.products) == 3 * depth - 1
    first = 16 * net.sizes[0] * net.sizes[1]  # nobody wants ∂C/∂x
    assert sum(recording.products) == 3 * forward - first
    assert recording.sums == depth
    assert recording.kernels == [
        *["bias_sigmoid"] * (depth - 1),
        "softmax_cross_entropy",
        "weighted_sum",
        *["sigmoid_delta"] * (depth - 1),
        "sgd",
    ]


def test_a_trace_has_one_product_more(recording: Recording, rng: np.random.Generator) -> None:
    net = gpubp.MLP([5, 4, 3, 2], output="identity", seed=0)
    net.backprop(rng.standard_normal((6, 5)), rng.standard_normal((6, 2)))
    assert len(recording.products) == 9


def test_a_step_computes_only_through_the_backend(recording: Recording, rng: np.random.Generator) -> None:
    """With products and kernels that do nothing, the parameters stay as they are and the gradients zero."""
    net = gpubp.MLP([5, 4, 2], "relu", seed=0)
    net._network.arena.gradients.fill(0)
    before = net._network.arena.parameters.copy()
    recording.run = recording.matmul = recording.column_sum = lambda *args: None  # type: ignore[method-assign, assignment]
    net.train_step(rng.standard_normal((6, 5)), rng.integers(0, 2, 6), gpubp.SGD(0.1))
    np.testing.assert_array_equal(net._network.arena.parameters, before)
    assert not net._network.arena.gradients.any()


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("module", ["activations", "losses", "optimizers"])
def test_modules_that_compute_do_not_know_numpy(module: str) -> None:
    assert not imports(PACKAGE / f"{module}.py") & {"numpy", "cupy"}


def test_layers_use_numpy_for_constants_only() -> None:
    tree = ast.parse((PACKAGE / "layers.py").read_text(encoding="utf-8"))
    used = {
        n.attr
        for n in ast.walk(tree)
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "np"
    }
    assert used == {"uint32"}


def test_cupy_is_named_in_one_module() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert "cupy" not in imports(path), path
        if path != PACKAGE / "backends" / "cupy.py":
            assert 'import_module("cupy")' not in path.read_text(encoding="utf-8"), path
