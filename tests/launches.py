"""Every launch that the CUDA backend makes for gpubp's own kernels, found without a device."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

import gpubp
from gpubp.backends.launches import Launcher
from gpubp.backends.sources import Launch, RowLaunch
from gpubp.kernel import KERNELS, Kernel
from gpubp.layers import cast
from gpubp.specimens import OWN, arguments


class Pointed(np.ndarray):
    """A NumPy array with the address where CuPy has it."""

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)


def aligned(a: Any) -> Any:
    """A copy that begins at a multiple of 16 bytes."""
    memory = np.empty(a.nbytes + 16, np.uint8)
    start = -memory.ctypes.data % 16
    out = memory[start : start + a.nbytes].view(a.dtype).reshape(a.shape).view(Pointed)
    out[...] = a
    return out


class Recorder:
    """In place of the compiled kernels: remembers the first call of each, (grid, block, arguments)."""

    def __init__(self) -> None:
        self.calls: dict[Launch | RowLaunch, tuple[Any, Any, Any]] = {}

    def function(self, launch: Launch | RowLaunch) -> Callable[..., Any]:
        return lambda *call: self.calls.setdefault(launch, call)


def every_launch() -> dict[Launch | RowLaunch, tuple[Any, Any, Any]]:
    """Rows that packs fit in and that they do not, rows for a warp and for a block, one block of sums and several."""
    recorder = Recorder()
    cupy = SimpleNamespace(ndarray=Pointed, empty=lambda shape, dtype: aligned(np.empty(shape, dtype)))
    launcher = Launcher(cupy, recorder)  # type: ignore[arg-type]
    for dtype in (np.float32, np.float64):
        for kernel in OWN:
            for rows, width in ((3, 12), (130, 5), (2, 2050)) if kernel.kind != "reduction" else ((3, 5), (300, 300)):
                given = arguments(kernel, rows, width, dtype).items()
                args = {name: aligned(arg) if isinstance(arg, np.ndarray) else arg for name, arg in given}
                launcher.run(kernel, tuple(args.values()))
                if kernel.kind == "rowwise" and "w" in args:
                    launcher.run(kernel, tuple((args | {"w": 0.5}).values()))
                if kernel.writes == ("dz",) and kernel.kind == "elementwise":
                    launcher.run_with_column_sum(kernel, tuple(args.values()), args["dz"][0])
        for name in ("adam", "sgd_momentum", "dropout"):  # as a graph launches them, with their numbers on the device
            given = arguments(KERNELS[name], 3, 12, dtype).values()
            launcher.run(KERNELS[name], tuple(aligned(np.asarray(arg, getattr(arg, "dtype", dtype))) for arg in given))
        launcher.numbers([1.0] * 9, aligned(np.zeros(9, dtype)))
        launcher.numbers([1], aligned(np.zeros(1, np.uint32)))
        matrix = aligned(np.zeros((130, 12), dtype))
        table, keys, step = (
            aligned(np.zeros((5, 9), dtype)),
            aligned(np.zeros((5, 2), np.uint32)),
            aligned(np.zeros(1, int)),
        )
        launcher.advance(step, table, keys, table[0], keys[0], matrix[0, :2], aligned(np.zeros((2, 5), dtype)))
        numbers = aligned(np.zeros(130, np.int64))
        launcher.gather(matrix, numbers, aligned(matrix), step, 12)
        if dtype is np.float32:
            launcher.gather(matrix, numbers, aligned(to_half(matrix)), step, 12)
        launcher.one_hot(numbers, matrix, numbers, step, 12)
        launcher.run_with_column_sum(None, (matrix,), matrix[0])
        launcher.one_hot(numbers, matrix)
        for rows in (matrix, aligned(matrix[:, :5])):
            launcher.gather(rows, numbers, aligned(rows))
    for kernel in in_halves():
        for rows, width in ((3, 16), (130, 5)):
            args = halved(kernel, rows, width)
            launcher.run(kernel, tuple(args.values()))
            if kernel.writes == ("dz",):
                launcher.run_with_column_sum(kernel, tuple(args.values()), aligned(np.zeros(width, np.float32)))
    return recorder.calls


def in_halves() -> list[Kernel]:
    """Those that a hidden layer runs in bfloat16."""
    layers = [gpubp.Activation.members[name] for name in sorted(gpubp.Activation.members)]
    kernels = [kernel for layer in layers for kernel in (layer.forward, layer.delta) if kernel]
    return [*(kernel for kernel in kernels if kernel.kind == "elementwise" and kernel.source), KERNELS["dropout"], cast]


def halved(kernel: Kernel, rows: int, width: int) -> dict[str, Any]:
    """Arguments of which the matrices are in bfloat16; a cast reads float32."""
    given = arguments(kernel, rows, width, np.float32)
    return {
        name: aligned(to_half(arg) if arg.shape == (rows, width) and (kernel, name) != (cast, "x") else arg)
        if isinstance(arg, np.ndarray)
        else arg
        for name, arg in given.items()
    }


def to_half(a: Any) -> Any:
    """The upper halves of floats, rounded to the nearest, and of two to the even one."""
    bits = np.ascontiguousarray(a, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(a), np.uint32(0x7FFF), rounded).astype(np.uint16)


def from_half(a: Any) -> Any:
    return (np.asarray(a).astype(np.uint32) << 16).view(np.float32)
