"""A model of training steps on an H200: python3 -m bench.roofline prints what it predicts beside each target.

Nothing here is measured on a GPU by this project. A kernel takes its node of a graph, and the longer of its operations
and its bytes; a step is the sum of its kernels, or the host's time where that is longer. What goes beside other work
hides its node, and no more.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product

from bench.gpu import verdict
from bench.gpu.epochs import MNIST_ROWS
from bench.gpu.peers import BATCHES, MNIST, NETS, STREAMED, parsed
from gpubp.backends.graphs import LARGEST
from gpubp.backends.launches import BLOCK_ROWS

# Of one H200 two rates were known: the bfloat16 one, of a product of 8192³, and COPY. The rest is assumed.
RATES = {"tf32": 394e12, "float32": 55e12, "bfloat16": 788e12}  # operations a second, in large products
COPY, CACHE, CACHED = 4.3e12, 9e12, 40e6  # bytes a second; of arrays of at most so many bytes, which stay in the L2
PROCESSORS = 132
NODE = 2.2e-6  # seconds, of each kernel in a graph
LAUNCH = 5.5e-6  # seconds of the host's for each kernel that it launches by itself
REPLAY, EPOCH_REPLAY = 25e-6, 10e-6  # seconds of the host's for a graph: a step asked for alone, and one of an epoch
LINK, GATHER = 50e9, 40e9  # bytes a second: from pinned memory to the device; rows into it, by several threads
TILES = {  # of a product: rows, columns, and the share of the rate that such tiles reach
    "bfloat16": ((256, 128, 1.0), (128, 128, 0.88), (128, 64, 0.7), (64, 64, 0.5)),
    "tf32": ((256, 128, 1.0), (128, 128, 0.9), (128, 64, 0.75), (64, 64, 0.55)),
    "float32": ((128, 128, 1.0), (128, 64, 0.9), (64, 64, 0.75), (32, 32, 0.5)),
}
PARTS, DEEP = (1, 2, 4, 8, 16, 32, 64), 64  # of a product's inner dimension, and the least of one


def moved(*sizes: float) -> float:
    """Seconds that arrays of so many bytes take, each read or written once."""
    return sum(size / (CACHE if size <= CACHED else COPY) for size in sizes)


def gemm(m: int, n: int, k: int, precision: str) -> float:
    """Seconds of a product (m, k) (k, n) alone: the best of its tiles and parts.

    Tiles are done in whole waves of one a multiprocessor. Cut into parts, the inner dimension gives more tiles, and
    partial sums that are written and read again.
    """
    best = math.inf
    for (rows, columns, share), parts in product(TILES[precision], PARTS):
        if parts > 1 and k // parts < DEEP:
            continue
        waves = math.ceil(math.ceil(m / rows) * math.ceil(n / columns) * parts / PROCESSORS)
        operations = 2 * rows * columns * math.ceil(k / parts / 32) * 32
        sums = moved(*[4 * m * n * parts] * 2) if parts > 1 else 0
        best = min(best, waves * operations * PROCESSORS / (RATES[precision] * share) + sums)
    item = item_of(precision)
    return max(best, moved(item * m * k, item * k * n, item * m * n))


def item_of(precision: str) -> int:
    """Bytes of an activation."""
    return 2 if precision == "bfloat16" else 4


@dataclass(frozen=True)
class Step:
    """A training step with sigmoids, softmax and plain SGD; its methods give seconds, by design."""

    sizes: tuple[int, ...]
    batch: int
    precision: str

    def products(self) -> list[tuple[str, int, float]]:
        """Three a layer, less the first layer's input gradient."""
        found = []
        for layer, (inputs, outputs) in enumerate(pairwise(self.sizes)):
            found.append(("forward", layer, gemm(self.batch, outputs, inputs, self.precision)))
            found += [("delta", layer, gemm(self.batch, inputs, outputs, self.precision))] if layer else []
            found.append(("weights", layer, gemm(inputs, outputs, self.batch, self.precision)))
        return found

    def floor(self) -> float:
        """The products alone in one graph, as bench.gpu measures them."""
        return sum(NODE + seconds for _, _, seconds in self.products())

    @property
    def x(self) -> int:
        """Bytes of a batch in float32."""
        return 4 * self.batch * self.sizes[0]

    @property
    def outputs(self) -> int:
        return 4 * self.batch * self.sizes[-1]

    @property
    def hidden(self) -> list[int]:
        """Bytes of the activations of each hidden layer."""
        return [item_of(self.precision) * self.batch * units for units in self.sizes[1:-1]]

    @property
    def weights(self) -> list[int]:
        """Bytes of each layer's, in float32."""
        return [4 * inputs * outputs for inputs, outputs in pairwise(self.sizes)]

    @property
    def second_sums(self) -> int:
        """How many kernels a sum over the rows takes beside its first."""
        return int(self.batch > BLOCK_ROWS)

    def device(self, optimizer: str = "sgd") -> float:
        """gpubp's kernels in one graph: products, one kernel on each side of them, SGD's step in the weights' own.

        The rows are brought to where the graph reads them.
        """
        halves = self.precision == "bfloat16"
        alone = [moved(self.x, self.x), moved(8 * self.batch, self.outputs)]  # rows, one-hot targets
        if halves:
            alone += [moved(size, size / 2) for size in (sum(self.weights), self.x, self.outputs)]
        alone += [moved(z, z) for z in self.hidden] + [moved(*[self.outputs] * 4)]  # the loss, with its delta
        alone += [moved(z, z, z) for z in self.hidden] + [0.0] * self.second_sums * len(self.hidden)
        parameters = sum(self.weights) if optimizer == "adam" else 4 * sum(self.sizes[1:])
        alone += [moved(*[parameters] * (7 if optimizer == "adam" else 3))]
        beside = [moved(4 * self.batch), moved(self.outputs)]  # the cost, the gradient of the last bias
        for which, _, seconds in self.products():
            (beside if which == "weights" else alone).append(seconds)
        return sum(NODE + seconds for seconds in alone) + sum(beside) + NODE  # the last beside ends after the others

    def captured(self) -> float:
        """gpubp with GPUBP_GRAPHS=1, which launches kernel by kernel where a batch is large."""
        if self.x <= LARGEST:
            return max(self.device(), REPLAY)
        kernels = len(self.products()) + (2 + self.second_sums) * len(self.hidden) + 5 + self.second_sums
        return max(self.device() - moved(self.x, self.x) + NODE * len(self.sizes), LAUNCH * kernels)

    def graphs(self) -> float:
        """torch.compile with CUDA graphs: sums of deltas and the weights' steps are kernels of their own."""
        kernels = [moved(z, z) for z in self.hidden] + [moved(z, z, z) for z in self.hidden]
        kernels += [moved(self.outputs, self.outputs)] * 2  # the loss, its delta
        kernels += [moved(z) for z in (*self.hidden, self.outputs)] + [0.0] * self.second_sums * (len(self.sizes) - 1)
        kernels += [moved(w, w, w) for w in self.weights]
        if self.precision == "bfloat16":
            kernels += [moved(size, size / 2) for size in (*self.weights, self.x)]
        return max(self.floor() + sum(NODE + seconds for seconds in kernels), REPLAY)

    def eager(self) -> float:
        """PyTorch's modules, each operation a kernel; where kernels are short it is the host that takes the time."""
        layers, parameters = [*self.hidden, self.outputs], sum(self.weights)
        kernels = [moved(*[self.outputs] * times) for times in (2, 3, 2)]  # of the loss
        kernels += [seconds for z in layers for seconds in (moved(z, z), moved(z, z, z), moved(z))]
        kernels += [moved(*[parameters] * 3)] + [0.0] * self.second_sums * len(layers)
        if self.precision == "bfloat16":  # weights to halves and their gradients back, by layer
            kernels += [moved(size, size / 2) for size in (*self.weights, *self.weights, self.x)]
        launches = len(self.products()) + len(kernels) + 2 * len(layers)  # bookkeeping of gradients
        host = LAUNCH * launches + 6e-6 * len(layers) + 20e-6
        return max(self.floor() + sum(NODE + seconds for seconds in kernels), host)


def step_of(cell: str) -> Step:
    return Step(*parsed(cell))


def epoch(optimizer: str) -> tuple[float, float]:
    """Seconds of an epoch of MNIST from the device, and of its products alone."""
    step = step_of(MNIST)
    steps = math.ceil(MNIST_ROWS / step.batch)
    return steps * max(NODE + step.device(optimizer), EPOCH_REPLAY), steps * step.floor()


def streamed() -> tuple[float, float, float, float]:
    """The rate of rows from the host over that of resident ones; seconds of a batch's step, copy, and host's work.

    The host gathers a batch into pinned memory; that, and the copy, go on beside the step before.
    """
    step = step_of(STREAMED)
    seconds, copy, host = step.device(), step.x / LINK, step.x / GATHER
    return seconds / max(seconds, copy, host), seconds, copy, host


def targets(steps: dict[str, Step]) -> Iterator[tuple[str, str, str]]:
    """What is wanted, how much of it, and what the model predicts. Of the peers it knows PyTorch alone."""
    ratios = {cell: min(step.graphs(), step.eager()) / step.captured() for cell, step in steps.items()}
    least, below = min(ratios, key=lambda cell: ratios[cell]), sum(r < verdict.NEAR for r in ratios.values())
    mean = statistics.geometric_mean(ratios.values())
    yield (
        f"PyTorch's best / ours, {len(steps)} cells",
        f"≥ {verdict.NEAR}",
        f"{ratios[least]:.2f} at least ({least}); below in {below}",
    )
    yield "its geometric mean", f"≥ {verdict.MEAN}", f"{mean:.2f}"
    little = {
        cell: step.eager() / step.captured()
        for cell, step in steps.items()
        if step.floor() < verdict.LITTLE * step.eager()
    }
    slow = min(little, key=lambda cell: little[cell])
    yield (
        f"eager / ours where products are < {verdict.LITTLE:.0%} of eager, {len(little)} cells",
        f"≥ {verdict.EAGER:g}",
        f"{little[slow]:.2f} at least ({slow}); below in {sum(r < verdict.EAGER for r in little.values())}",
    )
    for precision in RATES:
        step = steps[f"{verdict.FLOOR_CELLS} {precision}"]
        over = step.captured() / step.floor()
        yield f"{verdict.FLOOR_CELLS} {precision}, ours / products alone", f"≤ {verdict.FLOOR}", f"{over:.2f}"
    for optimizer in ("sgd", "adam"):
        seconds, floor = epoch(optimizer)
        told = f"{1e3 * seconds:.1f} ms; products alone {1e3 * floor:.1f} ms"
        yield f"an epoch of {MNIST}, {optimizer}", f"≤ {1e3 * verdict.EPOCH_SECONDS:g} ms", told
    share, seconds, copy, host = streamed()
    told = f"{share:.0%}: a step {1e3 * seconds:.1f} ms, its copy {1e3 * copy:.1f} ms, the host's {1e3 * host:.1f} ms"
    yield f"streamed / resident, {STREAMED}", f"≥ {verdict.STREAMED_SHARE:.0%}", told


def told() -> str:
    """Markdown: the targets, then every cell in microseconds."""
    cells = product(NETS, BATCHES, RATES)
    steps = {f"{net}@{batch} {precision}": Step(NETS[net], batch, precision) for net, batch, precision in cells}
    lines = ["| target | wanted | predicted |", "|---|---|---|"]
    lines += [f"| {what} | {wanted} | {predicted} |" for what, wanted, predicted in targets(steps)]
    lines += ["", "| µs a step | products alone | ours | torch-graphs | torch | ours / products | torch / ours |"]
    lines.append("|---" * 7 + "|")
    for cell, step in steps.items():
        floor, ours, graphs, eager = (1e6 * s for s in (step.floor(), step.captured(), step.graphs(), step.eager()))
        times = f"{floor:,.0f} | {ours:,.0f} | {graphs:,.0f} | {eager:,.0f}"
        lines.append(f"| {cell} | {times} | {ours / floor:.2f} | {eager / ours:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(told())
