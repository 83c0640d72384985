"""The CPU: NumPy and its BLAS. In float64 it is the truth that every other backend is measured against."""

from contextlib import AbstractContextManager
from math import prod
from typing import Any

import numpy as np

from gpubp import processor
from gpubp.backends.base import Backend, OutOfMemoryError
from gpubp.kernel import Array, Kernel

# A kernel body is a chain of whole-array operations; on blocks of this many elements the chain stays in a cache of
# 1 MiB. Of 2¹² to 2¹⁸, this was the fastest at 4096 x 1024 and 1024 x 1024 float32 on a 2-core EPYC (Zen 5); below
# twice that, whole was.
BLOCK = 65536


# NumPy copies what it broadcasts or casts into a buffer that each call allocates; its own 8192 elements are 64 KiB of
# float64. At 1024 a step's operations stay below 16 KiB (tests/test_memory.py), at the same speed within 2 %.
BUFFER = 1024


# NumPy aligns to 16 bytes, so that every load of a 64-byte vector straddles two cache lines: 0 to 8 % of a step by
# bench/choices.py.
ALIGNMENT = 64


class Quiet(np.errstate):
    """NumPy without floating-point warnings and with small buffers; leaving it restores both."""

    def __enter__(self) -> None:
        super().__enter__()
        np.setbufsize(BUFFER)


class NumpyBackend(Backend):
    name = "cpu"
    xp = np

    def __init__(self, fallback: str | None = None, why: str | None = None) -> None:
        """`why` says why kernels are NumPy's, where compiled ones were to be had."""
        super().__init__()
        self.fallback, self._why = fallback, why
        self._ones: dict[Any, Array] = {}
        self._row_starts = np.empty(0, np.int64)  # 0, width, 2 width, ...: kept, so that a warm step allocates nothing
        self._row_width = 0

    def describe(self) -> dict[str, Any]:
        kernels = "NumPy's kernels" + (f": {self._why}" if self._why else "")
        return {"device": "cpu", "available": "yes", **processor.facts(), "kernels": kernels}

    def active(self) -> AbstractContextManager[Any]:
        return Quiet(all="ignore")

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        if not shape:
            return np.empty(shape, dtype)
        size = prod(shape) * self.itemsize(dtype)
        try:
            memory = np.empty(size + ALIGNMENT, np.uint8)
        except MemoryError:
            raise OutOfMemoryError(f"{size:,} bytes cannot be had") from None
        start = -memory.ctypes.data % ALIGNMENT
        return memory[start : start + size].view(dtype).reshape(shape)

    def free_memory(self) -> int:
        return processor.available_memory()

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        out = self.empty(shape, dtype)
        out.fill(0)
        return out

    def asarray(self, a: Any, dtype: Any) -> Array:
        return np.ascontiguousarray(a, dtype)

    def to_numpy(self, a: Array) -> Any:
        return np.asarray(a)

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        a.dot(b, out)  # half a microsecond less than np.matmul at 32 x 32 x 32

    def column_sum(self, a: Array, out: Array) -> None:
        ones = self._ones.get(a.dtype)
        if ones is None or len(ones) < len(a):
            ones = self._ones[a.dtype] = np.ones(len(a), a.dtype)
        ones[: len(a)].dot(a, out)  # 82 µs by np.add.reduce and 13 so at 4096 x 64 (bench/choices.py)

    def gather(self, a: Array, rows: Array, out: Array) -> None:
        a.take(rows, 0, out, "clip")  # "clip" because the default mode copies `out` first

    def one_hot(self, labels: Array, out: Array) -> None:
        rows, width = out.shape
        if self._row_width != width or len(self._row_starts) < rows:
            self._row_starts, self._row_width = np.arange(0, out.size, width), width
        (places,) = self.scratch.take(1, labels)
        np.add(self._row_starts[:rows], labels, places)
        out.fill(0)
        out.put(places, 1)

    def run(self, kernel: Kernel, *args: Any) -> None:
        like = args[kernel.shaped_like]
        if like.size > 2 * BLOCK and kernel.kind != "reduction":
            self._run_in_blocks(kernel, args, like)
        elif kernel.scratch:
            kernel.body(np, *args, *self.scratch.take(kernel.scratch, like))
        else:
            kernel.body(np, *args)

    def _run_in_blocks(self, kernel: Kernel, args: tuple[Any, ...], like: Array) -> None:
        rows = len(like)
        step = max(1, BLOCK * rows // like.size)
        # A bias (W,) or a scalar is the same for every row; what has the output's dimensions is cut with it.
        cut = [getattr(arg, "ndim", -1) == like.ndim for arg in args]
        for start in range(0, rows, step):
            block = [arg[start : start + step] if by_rows else arg for arg, by_rows in zip(args, cut, strict=True)]
            kernel.body(np, *block, *self.scratch.take(kernel.scratch, block[kernel.shaped_like]))

    def synchronize(self) -> None:
        pass
