"""What the parts of native code are worth: a training step with all of them against one without, in turns, in one run.

python -m bench.native [CELL ...] prints microseconds a step, the medians over the rounds, and the ratio to all of it:
above 1, the part pays. A cell's last rows are beside a process that keeps one core busy.
"""

import contextlib
import copy
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import gpubp
from bench.nets import CELLS, SEED
from gpubp.backends.arguments import UnsuitableError
from gpubp.backends.native import NativeBackend
from gpubp.backends.numpy import NumpyBackend
from gpubp.backends.tape import Tape, engine
from gpubp.benchmark.timing import estimated, in_turns, timed
from gpubp.network import Network

ROUNDS, SECONDS = 11, 0.1
SPIN = "import time\nwhile True: time.perf_counter()"


class NumpyProducts(NativeBackend):
    """Products are NumPy's, on OpenBLAS's threads."""

    def _product(self, tape: Tape, *args: Any) -> None:
        raise UnsuitableError

    def can_accumulate(self, x: Any, parameters: Any) -> bool:
        return False


class OneByOne(NativeBackend):
    """Nothing is captured: each operation is a tape of its own."""

    def capture(self, step: Callable[..., None], *slots: Any) -> None:
        return None


class Apart(NativeBackend):
    """Plain gradient steps are kernels of their own."""

    def can_accumulate(self, x: Any, parameters: Any) -> bool:
        return False


class OneThread(NativeBackend):
    def __init__(self) -> None:
        super().__init__()
        self._engine = copy.copy(engine())
        self._engine.threads = 1


BACKENDS: dict[str, Callable[[], NumpyBackend]] = {
    "all of it": NativeBackend,
    "NumPy alone": NumpyBackend,
    "products by NumPy": NumpyProducts,
    "nothing captured": OneByOne,
    "the step apart from its product": Apart,
    "one thread": OneThread,
}


def step(name: str, backend: NumpyBackend) -> Callable[[], Any]:
    cell, generator = CELLS[name], np.random.default_rng(SEED)
    net = gpubp.MLP(cell.sizes, device="cpu", seed=0)
    net._network = Network(net._network.structure, backend, 0)
    with backend.active():
        net._network.draw()
    x = generator.random((cell.batch, cell.sizes[0]), np.float32)
    return partial(net.train_step, x, generator.integers(0, cell.sizes[-1], cell.batch), gpubp.SGD())


def nothing() -> None:
    pass


def medians(steps: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Microseconds a step."""
    counts = {name: max(1, int(SECONDS / estimated(each, nothing, SECONDS))) for name, each in steps.items()}
    turns = {name: partial(timed, each, nothing, counts[name]) for name, each in steps.items()}
    return {name: 1e6 * statistics.median(times) for name, times in in_turns(turns, ROUNDS).items()}


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    """A process that keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    print("| cell | without | µs a step | ratio to all of it |\n|---|---|---|---|")
    for cell in sys.argv[1:] or CELLS:
        steps = {name: step(cell, make()) for name, make in BACKENDS.items()}
        quiet = medians(steps)
        with neighbour():
            busy = medians({name: steps[name] for name in ("all of it", "NumPy alone", "one thread")})
        whole = quiet["all of it"]
        for name, each in {**quiet, **{f"{name}, beside a busy process": t for name, t in busy.items()}}.items():
            print(f"| {cell} | {name} | {each:,.1f} | {each / whole:.2f} |", flush=True)


if __name__ == "__main__":
    main()
