"""CUDA GPUs through CuPy: the plain route, right first.

This is the only module that imports CuPy, and it does so only when a GPU is asked for. An elementwise kernel with a
device function in `kernels/` becomes a `cupy.ElementwiseKernel` with that file as its preamble; any other kernel runs
its NumPy body on CuPy arrays.
"""

import functools
import importlib
from contextlib import AbstractContextManager
from typing import Any

from gpubp.backends.base import Backend
from gpubp.kernel import Array, Kernel

INSTALL = "pip install 'cupy-cuda13x[ctk]', or 'cupy-cuda12x[ctk]' for a driver older than CUDA 13, brings all it needs"


@functools.cache
def why_not(index: int = 0) -> str | None:
    """Why this GPU cannot be used, with what would mend it; None if it can.

    To know, it runs one kernel and one matrix product.
    """
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        trouble = "not installed" if isinstance(error, ModuleNotFoundError) else f"broken ({error})"
        return f"CuPy is {trouble}; {INSTALL}"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no CUDA driver or device was found ({error}); install an NVIDIA driver"
    if index >= count:
        return f"this machine has {count} CUDA device{'s' * (count != 1)}, cuda:{index} is not among them"
    try:
        with cupy.cuda.Device(index):
            a = cupy.ones((2, 2), "float32")
            works = float((a @ (a + 1)).sum()) == 16.0
    except (RuntimeError, ImportError, OSError) as error:  # what a missing NVRTC or cuBLAS, or an old driver, raises
        return f"CuPy cannot run on cuda:{index} ({type(error).__name__}: {error}); {INSTALL}"
    return None if works else f"cuda:{index} gave a wrong matrix product; check the driver and CuPy's installation"


class CupyBackend(Backend):
    """One CUDA device."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.xp = importlib.import_module("cupy")
        self.name = f"cuda:{index}"
        self._device = self.xp.cuda.Device(index)
        self._compiled: dict[str, Any] = {}

    def describe(self) -> dict[str, str]:
        properties = self.xp.cuda.runtime.getDeviceProperties(self._device.id)
        return {
            "device": self.name,
            "available": "yes",
            "name": properties["name"].decode(),
            "library": f"CuPy {self.xp.__version__}",
        }

    def active(self) -> AbstractContextManager[Any]:
        device: AbstractContextManager[Any] = self._device
        return device

    def asarray(self, a: Any, dtype: Any) -> Array:
        return self.xp.ascontiguousarray(self.xp.asarray(a, dtype))

    def to_numpy(self, a: Array) -> Any:
        return self.xp.asnumpy(a)

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        self.xp.matmul(a, b, out=out)

    def column_sum(self, a: Array, out: Array) -> None:
        self.xp.sum(a, axis=0, out=out)

    def gather(self, a: Array, rows: Array, out: Array) -> None:
        self.xp.take(a, rows, axis=0, out=out)

    def one_hot(self, labels: Array, out: Array) -> None:
        out[...] = labels[:, None] == self.xp.arange(out.shape[1])

    def run(self, kernel: Kernel, *args: Any) -> None:
        if kernel.kind == "elementwise" and kernel.source is not None:
            named = dict(zip(kernel.arguments, args, strict=True))
            self._elementwise(kernel)(
                *(named[name] for name in pure_reads(kernel)), *(named[name] for name in kernel.writes)
            )
        else:
            like = args[kernel.shaped_like]
            kernel.body(self.xp, *args, *self.scratch.take(kernel.scratch, like))

    def _elementwise(self, kernel: Kernel) -> Any:
        if kernel.name not in self._compiled:
            self._compiled[kernel.name] = self.xp.ElementwiseKernel(**declaration(kernel))
        return self._compiled[kernel.name]

    def synchronize(self) -> None:
        self._device.synchronize()


def pure_reads(kernel: Kernel) -> tuple[str, ...]:
    """What a kernel reads and does not write: CuPy wants the arguments written last."""
    return tuple(name for name in kernel.reads if name not in kernel.writes)


def declaration(kernel: Kernel) -> dict[str, str]:
    """The arguments of `cupy.ElementwiseKernel`: the device function as preamble, and a body that is one call of it."""
    return {
        "in_params": ", ".join(f"T {name}" for name in pure_reads(kernel)),
        "out_params": ", ".join(f"T {name}" for name in kernel.writes),
        "operation": f"{kernel.name}({', '.join(kernel.arguments)})",
        "name": f"gpubp_{kernel.name}",
        "preamble": kernel.code,
    }
