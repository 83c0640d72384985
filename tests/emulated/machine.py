"""The emulated machine: what a test may set and count, the memory of its devices, and the order of its streams."""

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any
from weakref import WeakSet, ref

import numpy as np
from emulator.kernels import FORWARD, EmulationError

RUNTIME = 13000  # the CUDA version of the pretended CuPy
ALIGNMENT = 512  # of what CuPy's pool gives
STATUS = {
    35: "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version",
    100: "cudaErrorNoDevice: no CUDA-capable device is detected",
    101: "cudaErrorInvalidDevice: invalid device ordinal",
    900: "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing",
    904: "cudaErrorStreamCaptureUnjoined: capturing stream has unjoined work",
}


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(STATUS[status])
        self.status = status


CUDARuntimeError.__module__ = "cupy_backends.cuda.api.runtime"  # by which a backend knows CuPy's errors


class OutOfMemoryError(MemoryError):
    def __init__(self, size: int, total: int) -> None:
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes).")


class DynamicLibNotFoundError(RuntimeError):
    pass


class Stream:
    """Work is done at once, but later work must have been told, by events or the host, to wait for it."""

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None
    ) -> None:
        self.time = 0  # how much work it was given
        self.seen: dict[Stream, int] = {}  # how much of each stream's work comes before its next
        self.capture: Graph | None = None  # what its work is recorded in
        self.ptr = id(self)

    def __enter__(self) -> "Stream":
        MACHINE.streams.append(self)
        return self

    def __exit__(self, *details: object) -> None:
        MACHINE.streams.pop()

    def begin_capture(self, mode: int | None = None) -> None:
        if self is MACHINE.null_stream:
            raise CUDARuntimeError(900)
        self.capture = Graph(self)

    def end_capture(self) -> "Graph":
        graph, self.capture = self.capture, None
        assert graph is not None
        graph.finish()
        return graph

    def record(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        if self.capture:
            event.capture = self.capture
            self.capture.add(self, "record", event)
        else:
            event.capture, event.time = None, MACHINE.clock
            event.seen = {**self.seen, self: self.time}
        return event

    def wait_event(self, event: "Event") -> None:
        if event.capture or self.capture:
            if not event.capture:
                raise EmulationError("a captured stream waits for an event that was not recorded in its capture")
            self.capture = event.capture
            self.capture.add(self, "wait_event", event)
        else:
            merge(self.seen, event.seen)

    def synchronize(self) -> None:
        self.record().synchronize()


class Graph:
    """What was asked of a stream, and of those that waited for it, while it was captured; a launch does it all."""

    def __init__(self, origin: Stream) -> None:
        self.origin = origin
        self.parts: list[tuple[Stream, str, Any]] = []

    def add(self, stream: Stream, kind: str, what: Any) -> None:
        self.parts.append((stream, kind, what))

    def finish(self) -> None:
        """Every stream that was drawn in must have been waited for."""
        last = {stream: place for place, (stream, _, _) in enumerate(self.parts)}
        for stream, place in last.items():
            stream.capture = None
            _, kind, event = self.parts[place]
            joined = any(part == (self.origin, "wait_event", event) for part in self.parts[place:])
            if stream is not self.origin and not (kind == "record" and joined):
                raise CUDARuntimeError(904)

    def launch(self, stream: Any = None) -> None:
        here = stream or MACHINE.stream
        if here.capture:
            raise EmulationError("a graph is launched while its stream is captured")
        MACHINE.launched["graph"] += 1
        streams: dict[Stream, Stream] = {self.origin: here}
        events: dict[Any, Event] = {}
        for recorded, kind, what in self.parts:
            with streams.setdefault(recorded, Stream()) as running:
                if kind == "work":
                    what()
                elif kind == "record":
                    events[what] = running.record()
                else:
                    running.wait_event(events[what])


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.seen: dict[Stream, int] = {}
        self.capture: Graph | None = None
        self.time = 0.0

    def record(self, stream: "Stream | None" = None) -> None:
        (stream or MACHINE.stream).record(self)

    def synchronize(self) -> None:
        MACHINE.wait_for(self.seen)


Times = dict[Stream, int]  # how much of each stream's work


def merge(seen: Times, more: Times) -> None:
    for stream, time in more.items():
        seen[stream] = max(time, seen.get(stream, 0))


class Pool:
    """CuPy's memory pool on one device: what is freed stays with the pool."""

    def __init__(self) -> None:
        self.used = self.held = 0
        self.freed: dict[Stream, int] = {}  # the work on what was freed, which new memory may still be in

    def used_bytes(self) -> int:
        return self.used

    def free_bytes(self) -> int:
        return self.held - self.used

    def total_bytes(self) -> int:
        return self.held

    def free_all_blocks(self, stream: Any = None) -> None:
        self.held = self.used

    def take(self, size: int) -> None:
        if self.used + size > MACHINE.capacity:
            raise OutOfMemoryError(size, self.held)
        self.used += size
        self.held = max(self.held, self.used)


class Memory:
    """One allocation, or memory of another library's: its bytes, and who wrote and read them last."""

    def __init__(self, nbytes: int, foreign: Any = None) -> None:
        self.size = 0
        self.pool = MACHINE.pool
        # By the bytes from one place to another: who wrote them last, and who read them since.
        self.spans: dict[tuple[int, int], tuple[Times, Times]] = {(0, sys.maxsize): ({}, dict(self.pool.freed))}
        MACHINE.check_device()
        MACHINE.refuse_capture("memory is allocated")
        self.device = MACHINE.device
        if foreign is not None:
            self.bytes = foreign
            return
        size = -(-nbytes // ALIGNMENT) * ALIGNMENT
        self.pool.take(size)
        self.size = size
        MACHINE.allocations += 1
        room = np.full(size + ALIGNMENT, 0xFF, np.uint8)  # NaN to whoever reads what nobody wrote
        start = -room.ctypes.data % ALIGNMENT
        self.bytes = room[start : start + nbytes]
        MACHINE.memories.add(self)

    def __del__(self) -> None:
        self.pool.used -= self.size
        for written, read in self.spans.values():
            merge(self.pool.freed, read)
            merge(self.pool.freed, written)

    def use(self, write: bool, begin: int = 0, end: int = sys.maxsize) -> None:
        """The next work of the current stream reads or writes the bytes from `begin` to `end`."""
        if self.pool is not MACHINE.pool:
            raise EmulationError(f"an array of device {self.device} or of an earlier test is used on {MACHINE.device}")
        stream = MACHINE.stream
        for (first, last), (written, read) in self.spans.items():
            if first < end and begin < last:
                for other, time in [*written.items(), *(read.items() if write else ())]:
                    if other is not stream and max(stream.seen.get(other, 0), MACHINE.host_seen.get(other, 0)) < time:
                        raise EmulationError(
                            "an array is used on a stream that has not waited for another stream's work on it: "
                            "record an event there, wait_event here"
                        )
        stream.time += 1
        MACHINE.issued[stream] = stream.time
        written, read = self.spans.setdefault((begin, end), ({}, {}))
        if write:
            written.clear()
            read.clear()
        (written if write else read)[stream] = stream.time


Used = tuple[Memory, bool, int, int]  # whether it is written, from which byte, and to which


class Machine:
    """What `install` gives to a test. Its first block of attributes may be set, the second counts."""

    def __init__(self) -> None:
        self.devices = 1
        self.driver = 13000  # what driverGetVersion gives; 0 where there is no driver
        self.missing: set[str] = set()  # of "nvrtc" and "cublas"
        self.wrong_matmul = False
        self.compile_error: str | None = None  # NVRTC's log
        self.order, self.seed = FORWARD, 0  # of the threads and blocks
        self.capacity = 8 << 30
        self.plans = 1  # of cuBLASLt's for each product
        self.slower: dict[int, float] = {}  # the milliseconds that each takes beyond one

        self.clock = 0.0  # milliseconds of products
        self.launched: Counter[str] = Counter()  # by kernel; CuPy's own as "cupy.add"
        self.allocations = self.copies_to_device = self.copies_to_host = self.waits = 0

        self.device = 0
        self.memories: WeakSet[Memory] = WeakSet()
        self.pools: dict[int, Pool] = {}
        self.null_stream = Stream()
        self.streams = [self.null_stream]  # the last is current
        self.issued: dict[Stream, int] = {}  # how much work each stream was given
        self.host_seen: dict[Stream, int] = {}  # how much of it the host knows to be done
        self.pinned: list[tuple[Any, bytes, Stream, int]] = []  # what is being copied from pinned memory

    def do(self, work: Callable[[], None], *used: Used) -> None:
        """Work of the current stream, now or when its graph is launched."""
        places = [(ref(memory), write, begin, end) for memory, write, begin, end in used]

        def begin() -> None:
            for place, write, first, last in places:
                memory = place()
                if memory is None:
                    raise EmulationError("a graph uses memory that was freed")
                memory.use(write, first, last)
            work()

        if self.stream.capture:
            self.stream.capture.add(self.stream, "work", begin)
        else:
            begin()

    def refuse_capture(self, what: str) -> None:
        if self.streams[-1].capture:
            raise EmulationError(f"while a stream is captured {what}")

    def used_at(self, address: int, nbytes: int, write: bool) -> Used:
        """The use of so many bytes from an address."""
        for memory in self.memories:
            begin = address - memory.bytes.ctypes.data
            if 0 <= begin <= memory.bytes.nbytes - nbytes:
                return memory, write, begin, begin + nbytes
        raise EmulationError(f"there is no memory at {address:#x}")

    def limit_memory(self, nbytes: int) -> None:
        """The memory of each device."""
        self.capacity = nbytes

    @property
    def stream(self) -> Stream:
        return self.streams[-1]

    @property
    def pool(self) -> Pool:
        return self.pools.setdefault(self.device, Pool())

    def check_device(self) -> None:
        if self.driver < RUNTIME // 1000 * 1000:
            raise CUDARuntimeError(35)
        if self.devices == 0:
            raise CUDARuntimeError(100)

    def need(self, library: str) -> None:
        if library in self.missing:
            message = f"lib{library}.so: cannot open shared object file"
            raise DynamicLibNotFoundError(message) if library == "nvrtc" else ImportError(message)

    def wait_for(self, seen: dict[Stream, int]) -> None:
        """The host waits."""
        self.check_pinned()
        self.waits += 1
        merge(self.host_seen, seen)

    def synchronize(self) -> None:
        self.refuse_capture("the device is waited for")
        self.wait_for(self.issued)

    def check_pinned(self) -> None:
        self.pinned = [entry for entry in self.pinned if self.host_seen.get(entry[2], 0) < entry[3]]
        for view, content, *_ in self.pinned:
            if view.tobytes() != content:
                raise EmulationError("pinned memory was written before the copy from it had been waited for")


MACHINE = Machine()
