"""A stand-in for the part of CuPy that gpubp calls, on an emulated CUDA device.

`install` puts it in CuPy's place. What it refuses CuPy refuses, or a device would not forgive: a NumPy array among
device arrays, an argument of no exact width, work on two streams that do not wait for each other. It is no model of
speed, and its arithmetic is NumPy's and g++'s.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from emulated.array import MemoryPointer, PinnedMemoryPointer, apply, ndarray, on_device, view
from emulated.cublaslt import EmulatedCublasLt
from emulated.kernels import CompileException, ElementwiseKernel, Nvrtc, RawModule
from emulated.machine import (
    MACHINE,
    RUNTIME,
    CUDARuntimeError,
    Event,
    Graph,
    Machine,
    Memory,
    OutOfMemoryError,
    Stream,
)

from gpubp.backends import cublaslt


class Device:
    compute_capability = "90"

    def __init__(self, device: int = 0) -> None:
        self.id = device

    def __enter__(self) -> "Device":
        MACHINE.check_device()
        if self.id >= MACHINE.devices:
            raise CUDARuntimeError(101)
        self.before, MACHINE.device = MACHINE.device, self.id
        return self

    def __exit__(self, *details: object) -> None:
        MACHINE.device = self.before

    def synchronize(self) -> None:
        MACHINE.synchronize()

    @property
    def pci_bus_id(self) -> str:
        return f"0000:{self.id:02x}:00.0"

    @property
    def mem_info(self) -> tuple[int, int]:
        with self:
            return MACHINE.capacity - MACHINE.pool.held, MACHINE.capacity


class Runtime:
    CUDARuntimeError = CUDARuntimeError

    def getDeviceCount(self) -> int:  # noqa: N802
        MACHINE.check_device()
        return MACHINE.devices

    def getDeviceProperties(self, device: int) -> dict[str, Any]:  # noqa: N802
        with Device(device):
            return {"name": b"Emulated", "major": 9, "minor": 0, "totalGlobalMem": MACHINE.capacity}

    def driverGetVersion(self) -> int:  # noqa: N802
        return MACHINE.driver

    def runtimeGetVersion(self) -> int:  # noqa: N802
        return RUNTIME


class DLPackOnHost:
    """What says that its memory is a device's, to NumPy as the host's."""

    def __init__(self, producer: Any) -> None:
        self.producer = producer

    def __dlpack__(self, **options: Any) -> Any:
        return self.producer.__dlpack__(max_version=options.get("max_version"))

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


class Cupy(ModuleType):
    __version__ = "14.2.0"
    ndarray, ElementwiseKernel, RawModule = ndarray, ElementwiseKernel, RawModule

    def __init__(self) -> None:
        super().__init__("cupy")
        self.cuda = SimpleNamespace(
            Device=Device,
            Event=Event,
            Graph=Graph,
            MemoryPointer=MemoryPointer,
            Stream=Stream,
            alloc_pinned_memory=alloc_pinned_memory,
            compiler=SimpleNamespace(CompileException=CompileException),
            get_elapsed_time=get_elapsed_time,
            get_current_stream=lambda device_id=-1: MACHINE.stream,
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            nvrtc=Nvrtc(),
            runtime=Runtime(),
        )

    def __getattr__(self, name: str) -> Any:
        """NumPy's function of that name on device arrays, or its constant or type."""
        function = getattr(np, name)
        if not callable(function) or isinstance(function, type):
            return function
        return lambda *args, **options: apply(function, *args, **options)

    def empty(self, shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
        return ndarray(shape, dtype)

    def zeros(self, shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
        array = ndarray(shape, dtype)
        array.use(write=True)
        array.host.fill(0)
        return array

    def asarray(self, a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False) -> Any:
        if isinstance(a, ndarray) and a.memory.device == MACHINE.device:
            return a if dtype in (None, a.dtype) else a.astype(dtype)
        if isinstance(a, ndarray):  # a copy from another device
            a = a.host
        array = on_device(np.asarray(a, dtype, order))
        array.use(write=True)
        MACHINE.copies_to_device += 1
        return array

    def ascontiguousarray(self, a: Any, dtype: Any = None) -> Any:
        array = self.asarray(a, dtype)
        return array if array.flags.c_contiguous else array.copy()

    def asnumpy(self, a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> Any:
        return a.get(stream, order, out) if isinstance(a, ndarray) else np.asarray(a, order=order)

    def from_dlpack(self, array: Any, *, device: Any = None, copy: Any = None) -> ndarray:
        kind, index = array.__dlpack_device__()
        if kind != 2:
            raise BufferError(f"device type {kind} is not CUDA")
        with Device(index):
            host = np.from_dlpack(DLPackOnHost(array))
            return view(host, array.memory if isinstance(array, ndarray) else Memory(0, host))

    def get_default_memory_pool(self) -> Any:
        return MACHINE.pool


def alloc_pinned_memory(size: int) -> PinnedMemoryPointer:
    MACHINE.check_device()
    return PinnedMemoryPointer(1 << (max(size, 1) - 1).bit_length())  # CuPy's pool, too, gives a power of two


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    return end_event.time - start_event.time


def clear_caches() -> None:
    """Make gpubp.backends forget what it has found out about the device."""
    for name, module in list(sys.modules.items()):
        if name.startswith("gpubp.backends"):
            for value in vars(module).values():
                getattr(value, "cache_clear", lambda: None)()


@contextmanager
def install() -> Iterator[Machine]:
    """Put the stand-in in CuPy's place, on a new machine; for a fixture."""
    before, library = sys.modules.get("cupy"), cublaslt.library
    MACHINE.__init__()  # type: ignore[misc]
    sys.modules["cupy"] = Cupy()
    clear_caches()
    emulated = EmulatedCublasLt()
    cublaslt.library = lambda: cublaslt.declared(emulated)
    try:
        yield MACHINE
    finally:
        del sys.modules["cupy"]
        cublaslt.library = library
        if before is not None:
            sys.modules["cupy"] = before
        clear_caches()
