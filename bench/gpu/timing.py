"""How long calls take on a CUDA device: by events, as a graph without gaps between launches, and on the host alone."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

Call = Callable[[], object]
BLOCKS = 5  # of calls; the median counts
SECONDS = 0.015  # a block


def us(seconds: float) -> float:
    return round(seconds * 1e6, 2)


def captured(body: Call) -> Call:
    """What `body` launches, as one CUDA graph that the call replays on the current stream."""
    import cupy

    cupy.cuda.Device().synchronize()  # the arrays are ready: the stream below waits for no other
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        body()  # what is compiled or allocated at a first call is no part of the graph
        stream.synchronize()
        stream.begin_capture()
        try:
            body()
        except BaseException:
            with contextlib.suppress(Exception):  # a capture that failed cannot be ended without another error
                stream.end_capture()
            raise
        graph = stream.end_capture()

    def replay(held: Any = body) -> None:  # the body holds the arrays that the graph works on
        graph.launch()

    return replay


def device_seconds(call: Call, seconds: float = SECONDS) -> float:
    """Seconds a call, by events on a stream of its own: the device's time, or the launches' where they take longer."""
    import cupy

    start, stop = cupy.cuda.Event(), cupy.cuda.Event()
    stream = cupy.cuda.Stream(non_blocking=True)

    def block(count: int) -> float:
        start.record(stream)
        for _ in range(count):
            call()
        stop.record(stream)
        stop.synchronize()
        return float(cupy.cuda.get_elapsed_time(start, stop)) * 1e-3 / count

    cupy.cuda.Device().synchronize()
    with stream:
        block(2)
        count = max(1, min(1000, int(seconds / max(block(3), 1e-7))))
        return statistics.median(block(count) for _ in range(BLOCKS))


def replayed_seconds(calls: Sequence[Call], seconds: float = SECONDS) -> float:
    """Seconds a call when all of them are replayed as one graph: what the device needs, without the launches."""

    def body() -> None:
        for call in calls:
            call()

    return device_seconds(captured(body), seconds) / len(calls)


def host_seconds(call: Call, count: int = 200) -> tuple[float, float]:
    """Seconds that the host spends on a call, and seconds a call until the device has done it as well."""
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    issuing, doing = [], []
    with stream:
        for _ in range(20):
            call()
        for _ in range(BLOCKS):
            stream.synchronize()
            start = time.perf_counter()
            for _ in range(count):
                call()
            issued = time.perf_counter()
            stream.synchronize()
            issuing.append((issued - start) / count)
            doing.append((time.perf_counter() - start) / count)
    return statistics.median(issuing), statistics.median(doing)
