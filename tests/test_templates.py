"""The templates in kernels/ on the emulator: the order of threads changes no bit, and bugs in templates are caught."""

from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp import parity
from gpubp.backends.sources import headers
from gpubp.kernel import KERNELS, Kernel
from gpubp.specimens import OWN, arguments

pytestmark = [pytest.mark.check, pytest.mark.toolchain]


@pytest.fixture(autouse=True)
def few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that threads go round their loops on small arrays."""
    monkeypatch.setattr("gpubp.backends.launches.MOST_BLOCKS", 2)


def bits(backend: Any, kernel: Kernel, rows: int, width: int, dtype: Any) -> list[bytes]:
    args = arguments(kernel, rows, width, dtype)
    device = {name: parity.on_device(backend, arg) for name, arg in args.items()}
    with backend.active():
        backend.run(kernel, *device.values())
        written = [backend.to_numpy(device[name]).tobytes() for name in kernel.writes]
        if kernel.kind == "elementwise" and kernel.writes == ("dz",):
            sums = backend.empty((width,), np.dtype(dtype).name)
            backend.run_with_column_sum(kernel, *device.values(), sums=sums)
            written.append(backend.to_numpy(sums).tobytes())
    return written


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kernel", OWN, ids=lambda kernel: kernel.name)
def test_the_order_of_threads_changes_no_bit(emulated: Any, kernel: Kernel, dtype: Any) -> None:
    backend = gpubp.get_backend("cuda")
    for rows, width in [(130, 5), (70, 64), (3, 1500)]:
        results = []
        for emulated.order in range(3):
            results.append(bits(backend, kernel, rows, width, dtype))
        assert results[0] == results[1] == results[2]


# (file, old text, new text, what runs it): each changes what some thread, or the last element, row or column does.
BUGS = {
    "no last elements": ("elementwise.cuh", "if (rest < count) elements<1>", "if (false) elements<1>", "sgd"),
    "a pack too far apart": ("elementwise.cuh", "i += threads * V)", "i += threads * V + V)", "sgd"),
    "a column late": ("arguments.cuh", "return at;", "return at + 1;", "softmax_cross_entropy"),
    "a bias that does not begin anew": (
        "arguments.cuh",
        "column + 1 == width ? 0 : column + 1",
        "column + 1",
        "bias_tanh",
    ),
    "a row that does not end": ("arguments.cuh", "here = {here.row + 1, 0};", "here.column = 0;", "dropout"),
    "no barrier before the sum": ("columns.cuh", "    __syncthreads();\n", "", "tanh_delta"),
    "half of the sum": ("columns.cuh", "half = blockDim.y / 2", "half = blockDim.y / 4", "tanh_delta"),
    "a block's last row": (
        "columns.cuh",
        "smaller(top + block_rows, rows)",
        "smaller(top + block_rows, rows - 1)",
        "tanh_delta",
    ),
    "a lane left out": ("rowwise.cuh", "apart = Count / 2", "apart = Count / 4", "softmax_delta"),
    "a warp left out": ("rowwise.cuh", "warp < Lanes / 32", "warp < Lanes / 32 - 1", "softmax_delta"),
    "a row in two": ("rowwise.cuh", "row += threads / Lanes", "row += threads / Lanes + 1", "squared_error"),
    "no last terms": ("reduction.cuh", "if (rest < count) [&]", "if (false) [&]", "squared_norm"),
    "every block's total in one place": ("reduction.cuh", "totals[blockIdx.x]", "totals[0]", "squared_norm"),
    "NaN dropped": ("portable.cuh", "return a != a ? a : most;", "return most;", "bias_relu"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_in_a_template_fails_parity(emulated: Any, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    file, old, new, name = BUGS[bug]
    assert right(name)
    source = headers()[file]
    assert old in source
    monkeypatch.setattr("gpubp.backends.cubins.headers", lambda: {**headers(), file: source.replace(old, new)})
    gpubp.backends.cubins.cubins_of.cache_clear()
    for emulated.order in range(3):
        if not right(name):
            return
    pytest.fail(f"{name} passes with {bug}")


def right(name: str) -> bool:
    """Whether the kernel, and its column sums, agree with NumPy in float64, on rows for a warp and a block, and NaN."""
    kernel, backend = KERNELS[name], gpubp.get_backend("cuda")
    with backend.active():
        for rows, width in [(130, 5), (66, 1500), (5000, 12)]:
            args = arguments(kernel, rows, width, np.float32)
            truth, scale = parity.truth_of(kernel, args)
            device = {key: parity.on_device(backend, arg) for key, arg in args.items()}
            backend.run(kernel, *device.values())
            limit = parity.tolerance("float32", parity.terms(kernel, rows, width))
            for written in kernel.writes:
                error = parity.largest(backend.to_numpy(device[written]), truth[written], scale[written])
                if not error <= limit:
                    return False
            if kernel.kind == "elementwise" and kernel.writes == ("dz",):
                sums = parity.poisoned(backend, (width,), "float32")
                device = {key: parity.on_device(backend, arg) for key, arg in args.items()}
                backend.run_with_column_sum(kernel, *device.values(), sums=sums)
                error = parity.largest(backend.to_numpy(sums), truth["dz"].sum(0), scale["dz"].sum(0))
                if not error <= parity.tolerance("float32", rows):
                    return False
        nan = backend.copied(backend.asarray(np.full((4, 4), np.nan, np.float32), "float32"))
        if name == "bias_relu":
            backend.run(kernel, nan, nan[0], nan)
            return bool(np.isnan(backend.to_numpy(nan)).all())
    return True
