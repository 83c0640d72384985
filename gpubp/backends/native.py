"""The CPU with compiled kernels: the device functions of `kernels/`, in float32, on several threads.

What is in float64, or has no device function, runs its NumPy body as on `NumpyBackend`, the reference.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpubp.backends.arguments import TYPES, UnsuitableError, bound, contiguous, matrix, typed
from gpubp.backends.native_sources import NativeKernel
from gpubp.backends.numpy import NumpyBackend
from gpubp.backends.tape import ADD_ROWS, GATHER, ONE_HOT, PRODUCT, WIDE_PRODUCT, Number, Player, Tape, engine
from gpubp.kernel import Array, Kernel

LEAST_PART = 8192  # elements of a kernel that are worth a thread
LEAST_PART_FLOPS = 500_000  # of a product
NARROW = 256  # elements of rows that are taken together
BLOCK_ROWS = 64  # the fewest rows whose column sums are a part
MOST_BLOCKS = 64  # of column sums
ZERO, ONE = np.float32(0), np.float32(1)
MOST_PLAYERS = 1024  # of single operations: each is a few kilobytes
CHUNK = 65536  # elements of a total that are a part


class NativeBackend(NumpyBackend):
    def __init__(self, fallback: str | None = None) -> None:
        super().__init__(fallback)
        self._engine = engine()
        self._recorded: Tape | None = None
        self._partial: Array = None
        self._players: dict[Any, Callable[..., None] | None] = {}  # of single operations, by what they are given

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "kernels": self._engine.describe()}

    def __reduce__(self) -> Any:  # of copies and pickles, which may be opened where there is no compiler
        from gpubp.backends import cpu

        return cpu, (self.fallback,)

    def capture(self, step: Callable[..., None], *slots: Any) -> Callable[..., None] | None:
        stand_ins = tuple(stand_in(value, slot) for slot, value in enumerate(slots))
        self._recorded = tape = Tape(stand_ins)
        try:
            step(*stand_ins)
        finally:
            self._recorded = None
        return Player(self._engine, tape)

    def _do(self, record: Callable[..., None], reference: Callable[..., None], *args: Any) -> None:
        """Put an operation on the tape that is recorded; else play the one kept for arguments of such shapes."""
        if self._recorded is None and any(isinstance(arg, np.ndarray) and arg.dtype.char == "d" for arg in args):
            reference(self, *args)
            return
        if self._recorded is not None:
            try:
                record(self._recorded, *args)
            except UnsuitableError:
                self._recorded.call(reference, self, *args)
            return
        kind = (reference, *map(shape_of, args))
        if kind not in self._players:
            if len(self._players) >= MOST_PLAYERS:
                self._players.clear()
            self._players[kind] = self.capture(partial(self._do, record, reference), *args)
        if player := self._players[kind]:
            player(*args)

    def copy(self, source: Array, out: Array) -> None:
        if self._recorded is None:
            super().copy(source, out)
        else:
            self._recorded.call(NumpyBackend.copy, self, source, out)

    def run(self, kernel: Kernel, *args: Any) -> None:
        self._do(self._kernel, NumpyBackend.run, kernel, *args)

    def run_with_column_sum(self, kernel: Kernel, *args: Any, sums: Array) -> None:
        if kernel.kind == "elementwise":
            self._do(self._columns, _run_with_column_sum, kernel, sums, *args)
        else:
            super().run_with_column_sum(kernel, *args, sums=sums)

    def column_sum(self, a: Array, out: Array) -> None:
        self._do(self._column_sum, NumpyBackend.column_sum, a, out)

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        self._do(self._product, NumpyBackend.matmul, a, b, out)

    def can_accumulate(self, x: Array, parameters: Array) -> bool:
        # The lowest layer's product reads x when the layers above have taken their step.
        return self._engine.blas is not None and x.dtype == np.float32 and not np.may_share_memory(x, parameters)

    def accumulate(self, a: Array, b: Array, alpha: Any, beta: Any, out: Array) -> None:
        self._do(self._accumulation, _accumulate, a, b, alpha, beta, out)

    def gather(self, a: Array, rows: Array, out: Array) -> None:
        self._do(self._gather, NumpyBackend.gather, a, rows, out)

    def one_hot(self, labels: Array, out: Array) -> None:
        self._do(self._one_hot, NumpyBackend.one_hot, labels, out)

    # -- what goes on the tape; UnsuitableError, with nothing on it, where native code cannot do it --

    def _kernel(self, tape: Tape, kernel: Kernel, *args: Any) -> None:
        like = args[kernel.shaped_like]
        if kernel.source is None:
            raise UnsuitableError
        parameters, words = self._bound(kernel, args, like)
        rows, width = matrix(like)
        if kernel.kind == "reduction":
            self._total(tape, kernel, parameters[:-1], words[:-1], like, args[-1])
        elif like.size == 0:
            return
        elif kernel.kind == "rowwise":
            self._add(tape, native_kernel("rowwise", kernel, parameters), words, rows, width)
        else:
            if not any(kind.startswith(("Row", "Column")) for kind, _ in parameters):
                rows, width = like.size, 1
            elif (abreast := side_by_side(rows, width, parameters)) > 1:
                for i, (kind, _) in enumerate(parameters):
                    words[i] = self._repeated(tape, words[i], abreast) if kind.startswith("Row") else words[i]
                rows, width = rows // abreast, width * abreast
            self._add(tape, native_kernel("elementwise", kernel, parameters), words, rows, width)

    def _repeated(self, tape: Tape, row: Array, times: int) -> Array:
        """A row beside itself, as often."""
        out, first = self.empty((times, row.size), row.dtype), np.zeros(times, np.int64)
        tape.add(GATHER, [row, first, out], times, row.nbytes, times, False)
        return out

    def _bound(self, kernel: Kernel, args: tuple[Any, ...], like: Array) -> tuple[list[tuple[str, str]], list[Any]]:
        if like.dtype != np.float32:
            raise UnsuitableError
        plain = tuple(arg.value if isinstance(arg, Number) else arg for arg in args)
        parameters, words = bound(kernel, plain, like, np.ndarray)
        return parameters, [arg if isinstance(arg, Number) else word for arg, word in zip(args, words, strict=True)]

    def _add(self, tape: Tape, operation: Any, words: list[Any], rows: int, width: int) -> None:
        """Add an operation whose rows may be shared out, as many to each thread."""
        parts = min(self._engine.threads, max(1, rows * width // LEAST_PART))
        grain = -(-rows // parts)
        if width == 1 and parts > 1:
            grain = -(-grain // 16) * 16  # threads that write into one cache line wait for each other
        tape.add(operation, words, rows, width, grain, True)

    def _total(
        self, tape: Tape, kernel: Kernel, parameters: list[tuple[str, str]], words: list[Any], like: Array, total: Array
    ) -> None:
        if not like.size:
            raise UnsuitableError
        parts = -(-like.size // CHUNK)
        out = total if parts == 1 else self._room(parts)
        tape.add(native_kernel("reduction", kernel, parameters), [out, *words], like.size, 1, CHUNK, True)
        if parts > 1:
            tape.add(ADD_ROWS, [out, total, parts], 1, 1, 1, False)

    def _column_sum(self, tape: Tape, a: Array, out: Array) -> None:
        self._columns(tape, None, out, a)

    def _columns(self, tape: Tape, kernel: Kernel | None, sums: Array, *args: Any) -> None:
        """An elementwise kernel, or none, and the sums of its last argument's columns."""
        last = args[-1]
        if last.dtype != np.float32 or not last.size or (kernel and kernel.source is None):
            raise UnsuitableError
        contiguous(sums)
        if kernel:
            parameters, words = self._bound(kernel, args, last)
        else:
            parameters, words = [(typed("In", last, last), "a")], [last]
        rows, width = last.shape
        of_rows = any(kind.startswith("Row") for kind, _ in parameters)
        abreast = 1 if of_rows else side_by_side(rows, width, parameters)
        rows, width = rows // abreast, width * abreast
        grain = max(BLOCK_ROWS, -(-rows // MOST_BLOCKS))
        parts = -(-rows // grain)
        out = sums if parts * abreast == 1 else self._room(parts * width)
        shared = last.size >= 2 * LEAST_PART
        tape.add(native_kernel("columns", kernel, parameters), [out, *words], rows, width, grain, shared)
        if out is not sums:
            tape.add(ADD_ROWS, [out, sums, parts * abreast], 1, width // abreast, 1, False)

    def _room(self, size: int) -> Array:
        """Memory for partial sums; a tape holds on to what it had when a larger one takes its place."""
        if self._partial is None or self._partial.size < size:
            self._partial = self.empty((size,), np.float32)
        return self._partial[:size]

    def _accumulation(self, tape: Tape, a: Array, b: Array, alpha: Any, beta: Any, out: Array) -> None:
        numbers = [each if isinstance(each, Number) else np.float32(each) for each in (alpha, beta)]
        self._product(tape, a, b, out, *numbers)

    def _product(self, tape: Tape, a: Array, b: Array, out: Array, alpha: Any = ONE, beta: Any = ZERO) -> None:
        """out ← alpha a b + beta out."""
        blas = self._engine.blas
        if blas is None or not all(each.dtype == np.float32 and each.size for each in (a, b, out)):
            raise UnsuitableError
        contiguous(out)
        flipped = [not each.flags.c_contiguous for each in (a, b)]
        contiguous(*(each.T if flip else each for each, flip in zip((a, b), flipped, strict=True)))
        (m, k), n = a.shape, b.shape[1]
        down, across = grid(m, n, min(self._engine.threads, max(1, 2 * m * n * k // LEAST_PART_FLOPS)))
        words = [blas.sgemm, a, b, out, alpha, beta, *flipped, m, n, k, down, across, blas.sgemv]
        tape.add(WIDE_PRODUCT if blas.wide else PRODUCT, words, down * across, 1, 1, True)

    def _gather(self, tape: Tape, a: Array, rows: Array, out: Array) -> None:
        contiguous(a, rows, out)
        if not out.size or rows.dtype != np.int64 or a.dtype != out.dtype:
            raise UnsuitableError
        self._add(tape, GATHER, [a, rows, out], len(out), out.nbytes // len(out))

    def _one_hot(self, tape: Tape, labels: Array, out: Array) -> None:
        if out.dtype != np.float32 or not out.size or labels.dtype != np.int64:
            raise UnsuitableError
        contiguous(labels, out)
        self._add(tape, ONE_HOT, [labels, out], *out.shape)


def stand_in(value: Any, slot: int) -> Any:
    """What a step is recorded with: for an array one of its shape on one element, an address that no other has."""
    if isinstance(value, np.ndarray):
        return as_strided(np.empty(1, value.dtype), value.shape, value.strides)
    return Number(value, slot) if isinstance(value, int | float | np.generic) else value


def shape_of(arg: Any) -> Any:
    """What an argument has in common with those that the same tape can be played with."""
    if isinstance(arg, np.ndarray):
        return arg.shape, arg.dtype.char, arg.strides
    return type(arg) if isinstance(arg, int | float | np.generic) else arg


def _run_with_column_sum(backend: NumpyBackend, kernel: Kernel, sums: Array, *args: Any) -> None:
    """The reference of the fused pass: one after the other."""
    NumpyBackend.run(backend, kernel, *args)
    NumpyBackend.column_sum(backend, args[-1], sums)


def _accumulate(backend: NumpyBackend, a: Array, b: Array, alpha: Any, beta: Any, out: Array) -> None:
    out *= np.float32(beta)
    out += np.float32(alpha) * a.dot(b)


def native_kernel(template: str, kernel: Kernel | None, parameters: list[tuple[str, str]]) -> NativeKernel:
    name, source = (kernel.name, kernel.source) if kernel else (None, None)
    return NativeKernel(template, name, source, TYPES["f"], tuple(parameters))


def side_by_side(rows: int, width: int, parameters: list[tuple[str, str]]) -> int:
    """How many rows are taken as one: narrow ones leave most of a vector's lanes without work."""
    if any(kind.startswith("Column") for kind, _ in parameters):
        return 1
    return next((count for count in (32, 16) if width * count <= NARROW and rows % count == 0), 1)


def grid(m: int, n: int, threads: int) -> tuple[int, int]:
    """How many parts down and across give each thread the least to read of both factors."""
    fits = [(down, threads // down) for down in range(1, threads + 1) if threads % down == 0]
    return min(fits, key=lambda fit: m / fit[0] + n / fit[1])
