"""Launches of the templates in `kernels/` on CuPy arrays: which instance, how many blocks, which arguments."""

from typing import Any

import numpy as np

from gpubp.backends.arguments import COMPUTED, TYPES, UnsuitableError, bound, contiguous, matrix, typed
from gpubp.backends.cubins import Cubins
from gpubp.backends.sources import NUMBERS, THREADS, Launch, RowLaunch
from gpubp.kernel import Array, Kernel

MOST_BLOCKS = 4096  # more would only queue; every template goes round with its grid
WIDE = 1024  # columns from which a row is given to a whole block
BLOCK_ROWS = 128  # the fewest rows whose column sums are worth a block of their own
MOST_SUMS = 1024  # blocks over the columns of a matrix
TERMS = 16  # accesses of a thread that are worth another block of a total
WORDS = {16: "Pack<unsigned, 4>", 8: "Pack<unsigned, 2>", 4: "unsigned", 1: "unsigned char"}  # by bytes


class Launcher:
    """Runs declared kernels that have a device function, and the operations that need no kernel, on one device."""

    def __init__(self, cupy: Any, cubins: Cubins) -> None:
        self._cupy, self._cubins = cupy, cubins
        self._partial: dict[Any, Array] = {}  # by dtype and `aside`: the blocks' sums on their way to one
        self.aside = False  # whether launches run at the same time as others
        self.kept: list[Any] | None = None  # while a graph is recorded: what its launches read and write

    def run(self, kernel: Kernel, args: tuple[Any, ...]) -> None:
        """Launch the kernel's template; UnsuitableError, with nothing launched, where it cannot take the arguments."""
        like = args[kernel.shaped_like]
        parameters, values = bound(kernel, args, like, self._cupy.ndarray)
        rows, width = matrix(like)
        if kernel.kind != "elementwise" and any("Half" in kind for kind, _ in parameters):
            raise UnsuitableError  # whose functions are given pointers
        if kernel.kind == "reduction":
            self._total(kernel, parameters[:-1], values[:-1], like, args[-1])
        elif like.size == 0:
            return
        elif kernel.kind == "rowwise":
            lanes = THREADS if width > WIDE else power_of_two(min(width, 32))
            launch = launch_of("rowwise", kernel, like, lanes, parameters)
            self._start(launch, (blocks(rows * lanes),), (THREADS,), (rows, width), *values)
        else:
            wide = widest(like, values)
            launch = launch_of("elementwise", kernel, like, wide, parameters)
            self._start(launch, (blocks(-(-like.size // wide)),), (THREADS,), (like.size, width), *values)

    def run_with_column_sum(self, kernel: Kernel | None, args: tuple[Any, ...], sums: Array) -> None:
        """Launch an elementwise kernel, and sums[j] ← Σ_i of its last argument in the same pass; None only sums."""
        last = args[-1]
        rows, width = matrix(last)
        parameters, values = bound(kernel, args, last, self._cupy.ndarray) if kernel else (summed(last), [last])
        wide = widest(last, args)
        while width % wide:
            wide //= 2
        across = power_of_two(min(-(-width // wide), 32))
        columns = -(-width // (wide * across))
        # The order of summation depends on the shape alone, so that it is the same on every device.
        block_rows = max(BLOCK_ROWS, -(-rows // max(1, MOST_SUMS // columns)))
        down = max(1, -(-rows // block_rows))
        out = sums if down == 1 else self._room(down * width, sums.dtype)
        launch = launch_of("columns", kernel, last, wide, parameters)
        block = (across, THREADS // across)
        self._start(launch, (columns, down), block, (rows, width, block_rows), out, *values)
        if down > 1:
            partial = out[: down * width]
            launch = launch_of("columns", None, partial, 1, summed(partial))
            across = power_of_two(min(width, 8))  # the more rows at a time, the fewer turns: few blocks are at work
            block = (across, THREADS // across)
            self._start(launch, (-(-width // across), 1), block, (down, width, down), sums, partial)

    def _total(
        self, kernel: Kernel, parameters: list[tuple[str, str]], values: list[Any], like: Array, total: Array
    ) -> None:
        """Σ in two launches, each block's total and the total of those; one does where a block has enough to do."""
        wide = widest(like, values)
        count = blocks(-(-like.size // (wide * TERMS)))
        out = total if count == 1 else self._room(count, like.dtype)
        launch = launch_of("reduction", kernel, like, wide, parameters)
        self._start(launch, (count,), (THREADS,), (like.size, like.size), out, *values)
        if count > 1:
            launch = launch_of("reduction", None, like, 1, summed(out))
            self._start(launch, (1,), (THREADS,), (count, count), total, out)

    def gather(self, a: Array, rows: Array, out: Array, step: Array | None = None, stride: int = 0) -> None:
        """out[i] ← a[rows[i]], or a[rows[step · stride + i]] for a step on the device."""
        contiguous(a, rows, out)
        if out.dtype != a.dtype:  # of float32, which is rounded on the way
            launch = RowLaunch("gather_halves", TYPES[out.dtype.char])
            numbers = (*out.shape, stride)
            self._start(launch, (blocks(out.size),), (THREADS,), numbers, a, rows, step, out)
        elif out.size:
            row_bytes = out.nbytes // len(out)
            word = next(size for size in WORDS if row_bytes % size == 0 and aligned((a, out), size))
            words = row_bytes // word
            grid = (blocks(len(out) * words),)
            if step is None:
                self._start(RowLaunch("gather", WORDS[word]), grid, (THREADS,), (len(out), words), a, rows, out)
            else:
                launch = RowLaunch("gather_step", WORDS[word])
                self._start(launch, grid, (THREADS,), (len(out), words, stride), a, rows, step, out)

    def one_hot(
        self, labels: Array, out: Array, rows: Array | None = None, step: Array | None = None, stride: int = 0
    ) -> None:
        """out[i, k] ← 1 where k = labels[i], or labels[rows[step · stride + i]] for a step on the device, else 0."""
        contiguous(labels, out)
        if out.size:
            kind, grid = TYPES[out.dtype.char], (blocks(out.size),)
            if rows is None:
                self._start(RowLaunch("one_hot", kind), grid, (THREADS,), out.shape, labels, out)
            else:
                launch = RowLaunch("one_hot_step", kind)
                self._start(launch, grid, (THREADS,), (*out.shape, stride), labels, rows, step, out)

    def numbers(self, values: list[Any], out: Array) -> None:
        """out[i] ← values[i], numbers of `out`'s own type."""
        kind = out.dtype.type
        launch = RowLaunch("numbers", TYPES[out.dtype.char])
        for first in range(0, len(values), NUMBERS):
            some = [kind(value) for value in values[first : first + NUMBERS]]
            padded = [*some, *[kind(0)] * (NUMBERS - len(some))]
            self._start(launch, (1,), (32,), (len(some),), *padded, out[first : first + len(some)])

    def advance(
        self, step: Array, table: Array, keys: Array, now: Array, keys_now: Array, results: Array, log: Array
    ) -> None:
        """step += 1; the results of the step before go into the log, the numbers of this one to where it reads them."""
        launch = RowLaunch("advance", TYPES[log.dtype.char])
        numbers = (log.shape[1], table.shape[1], keys.shape[1])
        self._start(launch, (1,), (THREADS,), numbers, step, table, keys, now, keys_now, results, log)

    def _start(
        self,
        launch: Launch | RowLaunch,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        numbers: tuple[int, ...],
        *values: Any,
    ) -> None:
        if self.kept is not None:
            self.kept.append(values)
        self._cubins.function(launch)(grid, block, (*map(np.int64, numbers), *values))

    def _room(self, size: int, dtype: Any) -> Array:
        room = self._partial.get((dtype, self.aside))
        if room is None or room.size < size:
            room = self._partial[dtype, self.aside] = self._cupy.empty((size,), dtype)
        return room


def launch_of(
    template: str, kernel: Kernel | None, like: Array, width: int, parameters: list[tuple[str, str]]
) -> Launch:
    name, source = (kernel.name, kernel.source) if kernel else (None, None)
    computed = TYPES[np.dtype(COMPUTED[like.dtype.char]).char]
    return Launch(template, name, source, computed, width, tuple(parameters))


def summed(a: Array) -> list[tuple[str, str]]:
    """The parameter of a launch without a device function."""
    return [(typed("In", a, a), "a")]


def blocks(threads: int) -> int:
    return max(1, min(-(-threads // THREADS), MOST_BLOCKS))


def power_of_two(count: int) -> int:
    """The least power of two that is not smaller."""
    return 1 << max(0, count - 1).bit_length()


def widest(like: Array, values: Any) -> int:
    """How many elements one access moves: 16 bytes, or one element where an array begins elsewhere."""
    arrays = [value for value in values if not isinstance(value, np.generic | float)]
    return 16 // like.dtype.itemsize if aligned(arrays) else 1


def aligned(arrays: Any, size: int = 16) -> bool:
    return all(a.data.ptr % size == 0 for a in arrays)
