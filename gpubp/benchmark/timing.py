"""How a step is timed: warm, many steps a turn, waited for inside the timed region, the contenders in turns."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

LEAST_ROUNDS = 5  # of which a median and quartiles may be told
# OpenBLAS's threads spin for some 25 ms after their last call, OpenMP's for a few: not into the next one's turn.
SETTLE_SECONDS = 0.05


def timed(step: Callable[[], Any], wait: Callable[[], Any], count: int) -> float:
    """Seconds a step, of `count` steps; the clock stops when the device has done them all."""
    start = time.perf_counter()
    for _ in range(count):
        step()
    wait()
    return (time.perf_counter() - start) / count


def estimated(step: Callable[[], Any], wait: Callable[[], Any], seconds: float) -> float:
    """Seconds a step, from as many as fit in about `seconds`; the first, which may compile, is not counted."""
    timed(step, wait, 1)
    count = 1
    while True:
        each = timed(step, wait, count)
        if each * count >= seconds / 2:
            return each
        count *= 2


def in_turns(turns: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each turn returned, by round; every round begins with another contender."""
    names, times = list(turns), {name: list[float]() for name in turns}
    for number in range(rounds):
        first = number % max(1, len(names))
        for name in names[first:] + names[:first]:
            time.sleep(SETTLE_SECONDS)
            times[name].append(turns[name]())
    return times


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile.

    >>> quartiles([5.0, 1.0, 2.0, 4.0, 3.0])
    (2.0, 3.0, 4.0)
    """
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high
