"""CUDA GPUs through CuPy: arrays and matrix products are CuPy's, kernels with a device function are compiled templates.

What has no device function runs its NumPy body on CuPy arrays or, where it is declared with a line of CUDA, as a
`cupy.ElementwiseKernel`. `CupyBackend(index, tuned=False)` runs everything that way: slower, and easy to read.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp.backends.arguments import HALF, UnsuitableError
from gpubp.backends.base import Backend, OutOfMemoryError
from gpubp.backends.cubins import cubins_of
from gpubp.backends.detection import cupy, facts
from gpubp.backends.graphs import LARGEST, Captured, why_not_captured
from gpubp.backends.launches import Launcher
from gpubp.backends.products import EPILOGUES, Products
from gpubp.backends.sources import digest
from gpubp.backends.uploads import uploaded
from gpubp.errors import DeviceError
from gpubp.kernel import SOURCES, Array, Kernel

if TYPE_CHECKING:
    from gpubp.data.rows import Unread

STAGED = 64 << 20  # bytes: for a host array that is larger CuPy is not to make, and keep, a pinned copy
ROOM = 0.8  # the share of free memory that a data set may take; the rest is for parameters and batches


class CupyBackend(Backend):
    """One CUDA device."""

    folds_momentum = True  # it saves the gradient's way to memory and back

    def __init__(self, index: int, tuned: bool = True, precision: str | None = None) -> None:
        super().__init__()
        self.xp = cupy()
        self.name = f"cuda:{index}"
        self._device = self.xp.cuda.Device(index)
        self._tuned = tuned
        self._launcher = Launcher(self.xp, cubins_of(self.xp, index))
        self._elementwise: dict[Kernel, Any] = {}
        self._stream: Any = None  # the last that was used
        self.precision = precision
        self.replays = tuned and why_not_captured() is None
        self._products = Products(self.xp, precision, index) if self.replays or precision else None
        self._streams: list[Any] = []  # the one that is captured, and the one beside it: made when they are needed
        self._side: Any = None  # the latter, while a step is rehearsed or recorded
        self._reasons: list[str] | None = None  # while a step is rehearsed: why it cannot be captured

    def describe(self) -> dict[str, Any]:
        steps = why_not_captured() or "captured in CUDA graphs, products by cuBLASLt"
        return {"device": self.name, "available": "yes", **facts(self._device.id), "steps": steps}

    @contextmanager
    def active(self) -> Iterator[None]:
        cuda = self.xp.cuda
        try:
            with self._device:
                self._follow(cuda.get_current_stream())
                yield
        except cuda.memory.OutOfMemoryError as error:
            raise self._no_room(error) from None
        except RuntimeError as error:  # of CUDA's runtime, its driver or cuBLAS
            if not type(error).__module__.startswith("cupy"):
                raise
            remedy = "start the program anew, and see what gpubp devices --check says of the device"
            raise DeviceError(f"{self.name} failed: {error}; {remedy}") from None

    def _follow(self, stream: Any) -> None:
        """Where the user has changed to another stream, let it wait for what was asked of this network on the last."""
        if self._stream is not None and stream != self._stream:
            stream.wait_event(self._stream.record())
        self._stream = stream

    def _no_room(self, error: Exception) -> OutOfMemoryError:
        return OutOfMemoryError(f"{self.name} has too little memory: {str(error).rstrip('.')}")

    def free_memory(self) -> int:
        """Bytes that arrays may still take: what the device has left and what CuPy's pool holds unused."""
        with self._device:
            free: int = self._device.mem_info[0] + self.xp.get_default_memory_pool().free_bytes()
            return free

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        try:
            return super().empty(shape, dtype)
        except self.xp.cuda.memory.OutOfMemoryError as error:
            raise self._no_room(error) from None

    def holds(self, nbytes: int) -> bool:
        return nbytes <= ROOM * self.free_memory()

    def owns(self, a: Any) -> bool:
        return isinstance(a, self.xp.ndarray) and a.device.id == self._device.id

    def asarray(self, a: Any, dtype: Any) -> Array:
        if isinstance(a, np.ndarray) and a.nbytes > STAGED:
            out = self.xp.empty(a.shape, dtype)
            out.set(np.ascontiguousarray(a, dtype))
            return out
        return self.xp.ascontiguousarray(self.xp.asarray(a, dtype))

    def to_numpy(self, a: Array) -> Any:
        return self.xp.asnumpy(a)

    def uploaded(self, batches: Iterable[list["Unread"]], dtype: Any) -> Iterator[list[Array]]:
        return uploaded(self.xp, batches, dtype)

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        if self._products is None or not self._launched(self._products.multiply, a, b, out):
            self.xp.matmul(a, b, out=out)

    def run_on_product(self, a: Array, b: Array, kernel: Kernel, *args: Any) -> None:
        if self._products is not None and kernel.name in EPILOGUES:
            with contextlib.suppress(UnsuitableError):
                self._products.multiply_and_run(kernel, a, b, *args)
                return
        super().run_on_product(a, b, kernel, *args)

    def can_accumulate(self, x: Array, parameters: Array) -> bool:
        if self._products is None or not x.size:
            return False
        # The lowest layer's product reads x when the layers above have taken their step.
        begin, other = x.data.ptr, parameters.data.ptr
        return bool(begin + x.nbytes <= other or other + parameters.nbytes <= begin)

    def accumulate(self, a: Array, b: Array, alpha: Any, beta: Any, out: Array) -> None:
        assert self._products is not None
        self._products.multiply(a, b, out, alpha, beta)

    def chosen_plans(self) -> dict[str, Any]:
        choices = self._products.choices if self._products else None
        return choices.made if choices else {}

    # -- captured steps (gpubp/backends/graphs.py) --

    def capture(self, step: Callable[..., None], *slots: Any) -> Callable[..., None] | None:
        arrays = [slot for slot in slots if self.owns(slot)]
        small = sum(array.nbytes for array in arrays) <= LARGEST and all(array.size for array in arrays)
        return Captured(self, step, slots) if self.replays and small else None

    def beside(self, work: Callable[[], None]) -> Any:
        if self._side is None:
            work()
            return None
        self._side.wait_event(self.xp.cuda.get_current_stream().record())
        with self._side:
            self._aside(True)
            work()
            self._aside(False)
            return self._side.record()

    def wait(self, work: Any) -> None:
        if work is not None:
            self.xp.cuda.get_current_stream().wait_event(work)

    def _aside(self, aside: bool) -> None:
        """Kernels that run at once have scratch memory each."""
        self._launcher.aside = aside
        if self._products:
            self._products.aside = aside

    def _two_streams(self) -> list[Any]:
        """Always the same: CuPy's memory pool keeps what was allocated on a stream for that stream."""
        if not self._streams:
            self._streams = [self.xp.cuda.Stream(non_blocking=True) for _ in range(2)]
        return self._streams

    @contextmanager
    def _forking(self) -> Iterator[None]:
        """What may go beside goes to a stream of its own."""
        _, self._side = self._two_streams()
        try:
            yield
        finally:
            self._side = None
            self._aside(False)

    def rehearsed(self, step: Callable[..., None], slots: tuple[Any, ...]) -> list[str]:
        """Run a step; the reasons, if any, why it cannot be captured."""
        reasons: list[str] = []
        self._reasons = reasons
        try:
            with self._forking():
                step(*slots)
        finally:
            self._reasons = None
        return list(dict.fromkeys(reasons))

    def recorded(self, step: Callable[..., None], slots: tuple[Any, ...]) -> tuple[Any, list[Any]]:
        """A graph of a step that has been rehearsed, and the arrays whose memory it uses."""
        stream, _ = self._two_streams()
        kept: list[Any] = []
        self._launcher.kept = kept
        try:
            with stream, self._forking():
                stream.begin_capture()
                try:
                    step(*slots)
                finally:
                    graph = stream.end_capture()
        finally:
            self._launcher.kept = None
        return graph, kept

    def move(self, source: Array, out: Array) -> None:
        """out ← source, of one shape and dtype; `out` is contiguous."""
        if source.flags.c_contiguous:
            out.data.copy_from_device_async(source.data, out.nbytes)
        else:
            self.copy(source, out)

    def gather_step(self, a: Array, rows: Array, step: Array, stride: int, out: Array) -> None:
        self._launcher.gather(a, rows, out, step, stride)

    def one_hot_step(self, labels: Array, rows: Array, step: Array, stride: int, out: Array) -> None:
        self._launcher.one_hot(labels, out, rows, step, stride)

    def advance(
        self, step: Array, table: Array, keys: Array, now: Array, keys_now: Array, results: Array, log: Array
    ) -> None:
        self._launcher.advance(step, table, keys, now, keys_now, results, log)

    def put(self, values: list[Any], out: Array) -> None:
        """Numbers to the device."""
        self._launcher.numbers(values, out)

    def column_sum(self, a: Array, out: Array) -> None:
        if not self._launched(self._launcher.run_with_column_sum, None, (a,), out):
            self.xp.sum(a, axis=0, out=out)

    def gather(self, a: Array, rows: Array, out: Array) -> None:
        if not self._launched(self._launcher.gather, a, rows, out):
            self.xp.take(a, rows, axis=0, out=out)

    def one_hot(self, labels: Array, out: Array) -> None:
        if not self._launched(self._launcher.one_hot, labels, out):
            out[...] = labels[:, None] == self.xp.arange(out.shape[1])

    def run(self, kernel: Kernel, *args: Any) -> None:
        if kernel.source is None or not self._launched(self._launcher.run, kernel, args):
            self._run_plainly(kernel, args)

    def run_with_column_sum(self, kernel: Kernel, *args: Any, sums: Array) -> None:
        fusible = kernel.kind == "elementwise" and kernel.source is not None
        if not fusible or not self._launched(self._launcher.run_with_column_sum, kernel, args, sums):
            super().run_with_column_sum(kernel, *args, sums=sums)

    def _launched(self, launch: Callable[..., None], *args: Any) -> bool:
        """Whether a template did it."""
        if not self._tuned:
            return False
        try:
            launch(*args)
        except UnsuitableError:
            self._cannot_capture("arrays lie in memory as no compiled kernel takes them")
            return False
        return True

    def _cannot_capture(self, reason: str) -> None:
        if self._reasons is not None:
            self._reasons.append(reason)

    def _run_plainly(self, kernel: Kernel, args: tuple[Any, ...]) -> None:
        """Through a `cupy.ElementwiseKernel` where the kernel is one element's work in CUDA, else by the NumPy body."""
        if any(getattr(arg, "dtype", None) == HALF for arg in args):
            raise DeviceError(f"kernel {kernel.name!r} has no device function that could run in precision='bfloat16'")
        if kernel.kind != "elementwise" or (kernel.source is None and kernel.cuda is None):
            like = args[kernel.shaped_like]
            self._cannot_capture(f"kernel {kernel.name!r} runs its NumPy body, as it has neither source= nor cuda=")
            kernel.body(self.xp, *args, *self.scratch.take(kernel.scratch, like))
            return
        named = dict(zip(kernel.arguments, args, strict=True))
        try:
            self._compiled(kernel, named)(*(named[name] for name in (*pure_reads(kernel), *kernel.writes)))
        except self.xp.cuda.compiler.CompileException as error:
            raise DeviceError(f"kernel {kernel.name!r} does not compile:\n{error}") from None

    def _compiled(self, kernel: Kernel, named: dict[str, Any]) -> Any:
        if kernel not in self._elementwise:
            whole = {name for name, value in named.items() if getattr(value, "dtype", None) == "uint32"}
            self._elementwise[kernel] = self.xp.ElementwiseKernel(**declaration(kernel, whole))
        return self._elementwise[kernel]

    def synchronize(self) -> None:
        self._device.synchronize()


def pure_reads(kernel: Kernel) -> tuple[str, ...]:
    """What a kernel reads and does not write: CuPy wants the arguments written last."""
    return tuple(name for name in kernel.reads if name not in kernel.writes)


def declaration(kernel: Kernel, whole: Collection[str] = ()) -> dict[str, Any]:
    """The arguments of `cupy.ElementwiseKernel`: the line of CUDA, or a call of the device function.

    `whole` names the arguments that are uint32.
    """
    types = {name: "uint32" if name in whole else "T" for name in kernel.arguments}
    return {
        "in_params": ", ".join(f"{types[name]} {name}" for name in pure_reads(kernel)),
        "out_params": ", ".join(f"{types[name]} {name}" for name in kernel.writes),
        "operation": kernel.cuda or f"{kernel.name}<T>({', '.join(kernel.arguments)})",
        "name": f"gpubp_{kernel.name}",
        "preamble": f'#include "{kernel.source}"' if kernel.source else "",
        # CuPy keeps what it compiled by source and options, and does not see into what is included.
        "options": ("-std=c++17", f"-I{SOURCES}", f"-DGPUBP_SOURCES=0x{digest()}"),
    }
