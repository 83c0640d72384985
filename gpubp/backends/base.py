"""What a device must be able to do: about a dozen operations, each written into an array that the caller gives."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp.errors import DeviceError
from gpubp.kernel import Array, Kernel
from gpubp.memory import Scratch

if TYPE_CHECKING:
    from gpubp.data.rows import Unread


class OutOfMemoryError(DeviceError):
    """The device has no room for what was asked of it."""


class Backend(ABC):
    """One device. Layers, losses and optimizers do all their arithmetic through it and never ask which one it is.

    Every network has a backend object of its own, because the scratch memory of its kernels is not to be shared between
    threads.
    """

    name: str  # "cpu", "cuda:0"
    xp: Any  # the array module: numpy or cupy
    fallback: str | None = None  # why "auto" gave the CPU
    precision: str | None = None  # of products, where it is not that of the arrays
    # Whether a captured step costs the host next to nothing, so that epochs are to be run from the device.
    replays = False
    # Whether v ← μ v + g inside a product is quicker than after it. On 2 cores it took 0.91 to 1.06 times as long.
    folds_momentum = False

    def __init__(self) -> None:
        self.scratch = Scratch(self)

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What `gpubp devices` shows: device, available, name, library and more."""

    def itemsize(self, dtype: Any) -> int:
        return int(np.dtype(dtype).itemsize)

    @abstractmethod
    def active(self) -> AbstractContextManager[Any]:
        """The context that every public call runs in: the right device is current, floating-point warnings are off.

        The warnings are not missed: gpubp reports non-finite results itself, with the step and the layer.
        """

    def owns(self, a: Any) -> bool:
        """Whether this is an array on this device."""
        return isinstance(a, self.xp.ndarray)

    @abstractmethod
    def asarray(self, a: Any, dtype: Any) -> Array:
        """`a` on this device, C-contiguous, in this dtype; the same array where it already is."""

    @abstractmethod
    def to_numpy(self, a: Array) -> Any:
        """`a` on the host; waits for the device."""

    def host_copy(self, a: Array | None) -> Any:
        """A NumPy copy that shares nothing with `a`; None stays None."""
        return None if a is None else np.array(self.to_numpy(a))

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self.xp.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self.xp.zeros(shape, dtype)

    def copy(self, source: Array, out: Array) -> None:
        """out ← source, element by element."""
        out[...] = source

    def copied(self, source: Array, out: Array | None = None) -> Array:
        """A copy of `source`, in `out` where one is at hand."""
        if out is None:
            out = self.empty(source.shape, source.dtype)
        self.copy(source, out)
        return out

    @abstractmethod
    def free_memory(self) -> int:
        """Bytes that arrays may still take; 0 where nobody tells."""

    def holds(self, nbytes: int) -> bool:
        """Whether a data set of this size may lie on the device as a whole."""
        return True

    def uploaded(self, batches: Iterable[list["Unread"]], dtype: Any) -> Iterator[list[Array]]:
        """Batches of rows on the host as device arrays; each batch holds until the next is asked for."""
        for batch in batches:
            yield [self.asarray(unread.values(), dtype) for unread in batch]

    @abstractmethod
    def matmul(self, a: Array, b: Array, out: Array) -> None:
        """out ← a b, where `out` is C-contiguous and overlaps neither; transposed views go as flags, never copied."""

    def chosen_plans(self) -> dict[str, Any]:
        """By product, which of a library's plans was chosen by timing them, and the times."""
        return {}

    def can_accumulate(self, x: Array, parameters: Array) -> bool:
        """Whether `accumulate` may take a gradient step in the very product that is the gradient, for this batch."""
        return False

    def accumulate(self, a: Array, b: Array, alpha: Any, beta: Any, out: Array) -> None:
        """out ← beta · out + alpha · a b, with two numbers, under the conditions of `matmul`."""
        raise NotImplementedError

    @abstractmethod
    def column_sum(self, a: Array, out: Array) -> None:
        """out[j] ← Σ_i a[i, j], in a fixed order."""

    @abstractmethod
    def gather(self, a: Array, rows: Array, out: Array) -> None:
        """out[i] ← a[rows[i]]; the row numbers are in range."""

    @abstractmethod
    def one_hot(self, labels: Array, out: Array) -> None:
        """out[i, k] ← 1 where k = labels[i], else 0; the labels are int64 and in range."""

    @abstractmethod
    def run(self, kernel: Kernel, *args: Any) -> None:
        """Launch a kernel on its arguments, in the order of its declaration."""

    def run_on_product(self, a: Array, b: Array, kernel: Kernel, *args: Any) -> None:
        """The first argument ← a b, as by `matmul`, then the kernel, such as a layer's bias and activation."""
        self.matmul(a, b, args[0])
        self.run(kernel, *args)

    def run_with_column_sum(self, kernel: Kernel, *args: Any, sums: Array) -> None:
        """Launch a kernel and sums[j] ← Σ_i of its last argument, which it writes: the delta and the bias gradient."""
        self.run(kernel, *args)
        self.column_sum(args[-1], sums)

    def beside(self, work: Callable[[], None]) -> Any:
        """Do what nothing that follows needs before it waits for this; a captured step does both at once."""
        work()

    def wait(self, work: Any) -> None:
        """Wait for work that was begun beside; what is asked of the device next may use its results and its memory."""
        return

    def capture(self, step: Callable[..., None], *slots: Any) -> Callable[..., None] | None:
        """A function that does with other arrays of these shapes and dtypes, and other numbers, what `step` does.

        None where this device has nothing quicker than the step itself. `slots` are arrays on this device, floats,
        NumPy's uint32 and None, of which a step may make nothing but arguments of the operations here. Arrays without
        dimensions are what it writes, all others it reads. It may be run once with stand-ins that hold nothing, and
        then computes nothing.
        """
        return None

    # -- only where `replays` is true: what a step that was captured does by itself --

    def gather_step(self, a: Array, rows: Array, step: Array, stride: int, out: Array) -> None:
        """out[i] ← a[rows[step · stride + i]], the step being on the device; `out` may be in bfloat16."""
        raise NotImplementedError

    def one_hot_step(self, labels: Array, rows: Array, step: Array, stride: int, out: Array) -> None:
        """out[i, k] ← 1 where k = labels[rows[step · stride + i]], else 0."""
        raise NotImplementedError

    def advance(
        self, step: Array, table: Array, keys: Array, now: Array, keys_now: Array, results: Array, log: Array
    ) -> None:
        """step ← step + 1; log[:, step − 1] ← results, now ← table[step] and keys_now ← keys[step]."""
        raise NotImplementedError

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the device has done everything asked of it."""
