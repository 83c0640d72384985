"""Every NumPy body keeps its declaration: what it writes, which arrays may be one, in blocks, weights, dropout."""

import inspect
import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from kernel_arguments import OWN, SIZES, arguments, copies, ids, run, shapes

from gpubp.backends.numpy import NumpyBackend
from gpubp.kernel import KERNELS, Kernel
from gpubp.layers import COLUMN_KEY, ROW_KEY, Dropout, mix


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
        dropout = Dropout(rate, 7, 1)
        dropout.run(backend, (keys[0][:, None], keys[1]), np.ones(shape), dropout.key(step), out)
        np.testing.assert_allclose(out[out != 0], 1 / (1 - rate))
        kept.append(out != 0)
    for axis in (0, 1, None):
        count = np.size(kept[0]) if axis is None else shape[axis]
        spread = 5 * math.sqrt(rate * (1 - rate) / count)
        assert np.abs(kept[0].mean(axis=axis) - (1 - rate)).max() < spread
    for other in kept[1:]:  # another step is another, independent mask
        both_kept = (kept[0] & other).mean()
        assert both_kept == pytest.approx((1 - rate) ** 2, abs=5 * math.sqrt(1 / np.size(kept[0])))
