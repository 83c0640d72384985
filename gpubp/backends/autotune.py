"""Which of cuBLASLt's plans for a product is the fastest on this device: timed when it is first asked for, then kept.

Off unless GPUBP_AUTOTUNE=1: the first plan is the same in every run, whereas of two that are timed as nearly equal
either may be chosen by another machine, and another plan may sum in another order.
"""

import json
import os
from typing import Any

from gpubp.backends import cublaslt
from gpubp.backends.detection import facts
from gpubp.backends.kept import Kept
from gpubp.errors import DataError
from gpubp.kernel import Array

TRIED, ROUNDS = 8, 7  # plans, and timed products of each, of which the median counts
CLEARLY = 0.97  # of the first plan's time: what another has to stay below


def wanted() -> bool:
    value = os.environ.get("GPUBP_AUTOTUNE", "0")
    if value not in ("0", "1"):
        raise DataError(f"GPUBP_AUTOTUNE must be '0' or '1', got {value!r}")
    return value == "1"


class Choices:
    """Of one device and one version of cuBLASLt, in a file that processes share."""

    def __init__(self, cupy: Any, device: int) -> None:
        self._cupy, self._device, self._kept = cupy, device, Kept()
        known = facts(device)
        words = (known["name"], known["compute_capability"], str(cublaslt.library().cublasLtGetVersion()))
        self._file = f"plans-{'-'.join(words)}.json".replace(" ", "-").lower()
        self.made: dict[str, Any] = {}  # those of this process: what was chosen, and of what
        self._choices: dict[str, Any] = self._read()

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._kept.path(self._file).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there, or damaged: timed anew
            return {}
        return found if isinstance(found, dict) else {}

    def choose(
        self,
        key: str,
        product: cublaslt.Product,
        alignments: tuple[int, int, int],
        arrays: tuple[Array, Array, Array, Array],
        scalars: Any,
    ) -> None:
        """Plan a product, to be computed by the plan that is fastest; `arrays` are its A, B, D and workspace."""
        product.plan(self._device, TRIED, alignments)
        choice = self._choices.get(key)
        if not isinstance(choice, dict) or not 0 <= choice.get("plan", -1) < len(product.plans):
            seconds = [self._seconds(product, index, *arrays, scalars) for index in range(len(product.plans))]
            best = min(range(len(seconds)), key=seconds.__getitem__)
            best = best if seconds[best] < CLEARLY * seconds[0] else 0
            choice = {"plan": best, "microseconds": [round(1e6 * each, 2) for each in seconds]}
            self._choices = {**self._read(), **self._choices, key: choice}
            self._kept.keep(self._file, json.dumps(self._choices, indent=1).encode())
        product.chosen = choice["plan"]
        self.made[key] = choice

    def _seconds(
        self,
        product: cublaslt.Product,
        index: int,
        a: Array,
        b: Array,
        d: Array,
        workspace: Array,
        scalars: Any,
    ) -> float:
        """The median time of a plan, on what A and B hold, into memory that nobody needs."""
        cuda = self._cupy.cuda
        stream, out, product.chosen = cuda.get_current_stream(), self._cupy.zeros_like(d), index
        times = []
        for _ in range(1 + ROUNDS):
            begin, end = cuda.Event(), cuda.Event()
            begin.record(stream)
            product(a, b, out, workspace, stream, scalars)
            end.record(stream)
            end.synchronize()
            times.append(cuda.get_elapsed_time(begin, end) / 1000)
        return float(sorted(times[1:])[ROUNDS // 2])
