"""What each process of a turn of `python -m bench.distributed` does: it trains or adds up vectors, and times that."""

import json
import statistics
import sys
import time
from itertools import pairwise
from typing import Any

import numpy as np

import gpubp
from bench.nets import SEED
from gpubp.alone import processes
from gpubp.benchmark.machine import versions_of
from gpubp.distributed import Adder, library
from gpubp.steps import SharedSteps, Steps

PARTS = ("gradients", "wait", "sum", "optimizer", "rest")  # of a step
SUMMED = 100_000_000  # bytes that are added up, in all, of each size, within the limits of COUNTS
COUNTS = (5, 1000)
Calls = list[tuple[float, float]]  # when each begins and ends, on the clock of the machine


def main(text: str) -> None:
    """What one of the processes of a turn runs; rank 0 tells what was found, in a line of JSON."""
    task = json.loads(text)
    what = task.pop("what")
    found = train(**task) if what == "train" else sums(**task)
    if not processes().rank:
        print(json.dumps(found), flush=True)


def train(sizes: list[int], batch: int, steps: int, epochs: int, optimizer: str) -> dict[str, Any]:
    """Seconds of each epoch but the first, and of the parts of their steps."""
    group = processes()
    taken = watched(SharedSteps if group.size > 1 else Steps, "take")
    added = watched(Adder, "add")
    generator = np.random.default_rng(SEED)
    x = generator.random((batch * steps, sizes[0]), np.float32)
    y = generator.integers(0, sizes[-1], len(x))
    net, ends = gpubp.MLP(sizes, "relu", device="cpu", seed=SEED), list[float]()
    net.fit(
        x,
        y,
        epochs=1 + epochs,
        batch_size=batch,
        optimizer=optimizer,
        verbose=0,
        callbacks=[lambda net, record: ends.append(time.perf_counter())],
    )
    of_all = group.of_all((taken[steps:], added[steps:]))
    return {
        "seconds": [after - before for before, after in pairwise(ends)],
        "parts": parts([of_one for of_one, _ in of_all], [of_one for _, of_one in of_all], steps),
        "bytes": int(net._network.arena.sums.nbytes),
        "versions": versions_of("gpubp", ("numpy",)) | ({"MPI": library()} if group.size > 1 else {}),
        "kernels": gpubp.get_backend("cpu").describe()["kernels"],
    }


def watched(owner: type, method: str) -> Calls:
    """When each call of a method begins and ends, from now on."""
    plain, calls = getattr(owner, method), Calls()

    def timed(*given: Any) -> Any:
        began = time.perf_counter()
        result = plain(*given)
        calls.append((began, time.perf_counter()))
        return result

    setattr(owner, method, timed)
    return calls


def parts(taken: list[Calls], added: list[Calls], steps: int) -> dict[str, float]:
    """Seconds of each part, the mean over steps and ranks; they add up to a step.

    `taken` and `added` hold, by rank, when each step and each sum began and ended; an epoch has so many steps. One
    process adds nothing, so that its step is all gradients.
    """
    found: dict[str, list[float]] = {part: [] for part in PARTS}
    for rank, of_steps in enumerate(taken):
        for place, (began, ended) in enumerate(of_steps):
            came, had = added[rank][place] if added[rank] else (ended, ended)
            last = max(of_rank[place][0] for of_rank in added) if added[rank] else ended
            pieces = (came - began, last - came, had - last, ended - had)
            for part, seconds in zip(PARTS, pieces, strict=False):
                found[part].append(seconds)
            if (place + 1) % steps:
                found["rest"].append(of_steps[place + 1][0] - ended)
    return {part: statistics.fmean(seconds) if seconds else 0.0 for part, seconds in found.items()}


def sums(sizes: list[int]) -> dict[str, Any]:
    """By bytes, the median seconds of a sum over all processes, one right after the other, as `fit` does it."""
    group, backend, found = processes(), gpubp.get_backend("cpu"), {}
    adder = group.adder(backend)
    for size in sizes:
        vector, seconds = np.zeros(size // 4, np.float32), []
        group.meet()
        for _ in range(2 + count(size)):
            began = time.perf_counter()
            adder.add(vector)
            seconds.append(time.perf_counter() - began)
        found[str(size)] = statistics.median(seconds[2:])
    return {"sums": found, "how": adder.how}


def count(size: int) -> int:
    """How many sums of vectors of so many bytes are timed.

    >>> count(4_000), count(1_000_000), count(40_000_000)
    (1000, 100, 5)
    """
    low, high = COUNTS
    return min(high, max(low, SUMMED // size))


if __name__ == "__main__":
    main(sys.argv[1])
