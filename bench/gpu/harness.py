"""Asking one cell after another within a budget of seconds; whatever fails, the next is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.gpu.child import Child, UnansweredError
from bench.gpu.results import Results


@dataclass(frozen=True)
class Cell:
    """One thing to find out: by a function called with the cell's name, in the process of its group."""

    part: str
    question: str
    name: str
    function: str  # "module:name"
    group: str  # cells of one group that follow each other share a process while it works
    estimate: float  # seconds that it should take
    limit: float  # seconds that it may take

    def __str__(self) -> str:
        return f"{self.part}/{self.question}/{self.name}"


class Clock:
    """What is left of the budget, and of what one part may take of it."""

    def __init__(self, budget: float, caps: Mapping[str, float], seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._end = seconds() + budget
        self._caps, self._ends = caps, dict[str, float]()

    def left(self, part: str) -> float:
        now = self._seconds()
        part_end = self._ends.setdefault(part, now + self._caps.get(part, float("inf")))
        return min(self._end, part_end) - now


def run(cells: Iterable[Cell], clock: Clock, results: Results, say: Callable[[str], object]) -> None:
    """Ask every cell that fits into the time left, and keep each answer as soon as it is there."""
    child, group = Child(), ""
    try:
        for cell in cells:
            left = clock.left(cell.part)
            if left < cell.estimate:
                continue
            if cell.group != group:
                child.end()
                group = cell.group
            start = time.monotonic()
            record: dict[str, Any]
            try:
                record = {"answer": child.ask(cell.function, (cell.name,), min(cell.limit, left))}
            except UnansweredError as error:
                record = {"failed": str(error), "last_words": error.last_words}
            seconds = round(time.monotonic() - start, 1)
            results.put(str(cell), {**record, "seconds": seconds})
            outcome, *_ = record.get("failed", "answered").splitlines()
            say(f"{cell}: {outcome} ({seconds} s)")
    finally:
        child.end()
