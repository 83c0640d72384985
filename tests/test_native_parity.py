"""Native kernels compute what NumPy's bodies do, at awkward sizes and on any number of threads."""

from typing import Any

import numpy as np
import pytest
from native_nets import threads

from gpubp import parity
from gpubp.backends.native import NativeBackend
from gpubp.backends.native_sources import NativeKernel
from gpubp.backends.numpy import NumpyBackend
from gpubp.backends.tape import Tape
from gpubp.kernel import KERNELS
from gpubp.parity import OWN, check, largest, normal, on_device, tolerance
from gpubp.specimens import arguments

pytestmark = pytest.mark.toolchain
LARGE = (301, 67)  # elements enough for two threads, and no multiple of a vector
THREADS = pytest.mark.parametrize("cores", [1, 2, 3, pytest.param(8, marks=pytest.mark.check)])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is left to Python, of elements more than none."""
    found: list[Any] = []
    usual = Tape.call

    def call(tape: Tape, function: Any, *args: Any) -> None:
        if max((np.size(arg) for arg in args), default=0) and not any(np.size(arg) == 0 for arg in args):
            found.append((function, args))
        usual(tape, function, *args)

    monkeypatch.setattr(Tape, "call", call)
    return found


def off(backend: NativeBackend) -> list[str]:
    return [result.name for result in check(backend, "float32") if not result.ok]


def test_everything_is_within_its_tolerance(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "SHAPES", [(0, 3), (1, 1), (1, 31), (33, 1), (96, 5), LARGE])
    assert off(NativeBackend()) == []
    assert not calls, "all of it is native"


@pytest.mark.check
@THREADS
def test_everything_at_all_sizes_on_any_number_of_threads(cores: int) -> None:
    with threads(cores, cores):
        assert off(NativeBackend()) == []


@pytest.mark.parametrize(
    ("kind", "name"), [("columns", "column sum"), ("elementwise", "bias_tanh"), ("product", "matrix product A B")]
)
def test_a_part_that_is_left_out_is_found(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "SHAPES", [LARGE])
    monkeypatch.setattr(parity, "OWN", [KERNELS["bias_tanh"], KERNELS["tanh_delta"]])
    add = Tape.add

    def without(tape: Tape, operation: Any, words: Any, rows: int, *cut: Any) -> None:
        kind_of = operation.template if isinstance(operation, NativeKernel) else "product"
        add(tape, operation, words, rows - 1 if kind_of == kind and rows > 1 else rows, *cut)

    monkeypatch.setattr(Tape, "add", without)
    with threads(2, 2):
        assert name in off(NativeBackend())


@THREADS
def test_products_of_awkward_shapes(cores: int, calls: list[Any]) -> None:
    """Of edges that are 1, that are no multiples of 16, and that are too few for so many threads."""
    with threads(cores, cores):
        backend = NativeBackend()
        for m, k, n in [
            (1, 1, 1),
            (1, 7, 1),
            (1, 1031, 517),
            (517, 1031, 1),
            (517, 2, 531),
            (3, 4099, 65),
            (129, 257, 17),
        ]:
            a, b = normal((m, k), "float32", 0), normal((k, n), "float32", 1)
            exact, size = a.astype(np.float64) @ b, np.abs(a.astype(np.float64)) @ np.abs(b)
            for left in (a, a.T.copy().T):
                for right in (b, b.T.copy().T):
                    out = np.full((m, n), np.nan, np.float32)
                    backend.matmul(left, right, out)
                    assert largest(out, exact, size) <= tolerance("float32", k), (m, k, n)
                    out = normal((m, n), "float32", 2)
                    truth, scale = out + 0.25 * exact, np.abs(out) + size
                    backend.accumulate(left, right, 0.25, 1.0, out)
                    assert largest(out, truth, scale) <= tolerance("float32", k), (m, k, n)
    assert not calls


def test_the_bits_of_kernels_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def results() -> list[bytes]:
        backend, found = NativeBackend(), []
        for kernel in OWN:
            device = {name: on_device(backend, arg) for name, arg in arguments(kernel, *LARGE, np.float32).items()}
            backend.run(kernel, *device.values())
            found += [device[name].tobytes() for name in kernel.writes]
            if kernel.kind == "elementwise" and kernel.writes == ("dz",):
                sums = np.empty(LARGE[1], np.float32)
                backend.run_with_column_sum(kernel, *device.values(), sums=sums)
                found.append(sums.tobytes())
        return found

    with threads(1, 1):
        alone = results()
    for cores in (2, 3, 8):
        with threads(cores, cores):
            assert results() == alone, cores


def test_sums_of_very_many_numbers() -> None:
    """More than one part of a total has, and more rows than a block of column sums."""
    with threads(3, 3):
        backend, a = NativeBackend(), normal((70_001, 3), "float32")
        exact = a.astype(np.float64)
        sums, total = np.empty(3, np.float32), np.empty((), np.float32)
        backend.column_sum(a, sums)
        backend.run(KERNELS["squared_norm"], a.ravel(), total)
    assert largest(sums, exact.sum(axis=0), np.abs(exact).sum(axis=0)) <= tolerance("float32", len(a))
    assert largest(total, np.sum(exact**2), np.sum(exact**2)) <= tolerance("float32", a.size)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_rows_of_any_dtype_are_gathered(dtype: str) -> None:
    a, rows = np.arange(3 * 4099).reshape(-1, 3).astype(dtype), np.random.default_rng(0).integers(0, 4099, 9001)
    out = np.empty((9001, 3), dtype)
    with threads(3, 3):
        NativeBackend().gather(a, rows, out)
    np.testing.assert_array_equal(out, a[rows])


def test_arrays_with_gaps_are_numpys() -> None:
    """Though the same operation has come, and comes again, with arrays that lie whole."""
    a, labels = normal((40, 12), "float32"), np.arange(40) % 6
    operations: dict[str, tuple[Any, ...]] = {
        "run": (KERNELS["bias_tanh"], a[:, ::2], np.ones(6, np.float32), np.empty((40, 6), np.float32)),
        "column_sum": (a[::2, :6], np.empty(6, np.float32)),
        "matmul": (a[:, ::2], a[:6, ::2], np.empty((40, 6), np.float32)),
        "gather": (a[:, :6], labels[::2], np.empty((20, 6), np.float32)),
        "one_hot": (labels[::2], np.empty((20, 6), np.float32)),
    }
    backends = NativeBackend(), NumpyBackend()
    for name, args in operations.items():
        whole = [np.ascontiguousarray(arg) if isinstance(arg, np.ndarray) else arg for arg in args]
        for given in (args, whole, args):
            found = []
            for backend in backends:
                given[-1][...] = np.nan
                getattr(backend, name)(*given)
                found.append(given[-1].copy())
            np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6, err_msg=name)


def test_float64_is_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The very bits, as no operation in float64 is put on a tape but the rows that are gathered."""
    monkeypatch.setattr(parity, "SHAPES", [(33, 31)])
    monkeypatch.setattr(parity, "OWN", [KERNELS["bias_sigmoid"], KERNELS["sigmoid_delta"], KERNELS["adam"]])
    ours, numpys = (list(check(backend, "float64")) for backend in (NativeBackend(), NumpyBackend()))
    assert ours == numpys
