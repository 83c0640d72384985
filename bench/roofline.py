"""A model of training steps on an H200: python3 -m bench.roofline prints what it predicts beside each target.

Nothing here has run on a GPU. A kernel takes a launch and the longer of its arithmetic and its bytes; a step is the sum
of its kernels, one after the other, or the host's time where that is longer. What the model leaves out: that kernels
beside each other overlap, clocks that fall under load, and everything it was not told.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from itertools import pairwise, product

from bench.gpu import verdict
from bench.gpu.epochs import MNIST_ROWS
from bench.gpu.peers import BATCHES, MNIST, NETS, PRECISIONS, STREAMED, TELLING, parsed
from gpubp.benchmark.results import flops_of

Sizes = tuple[int, ...]

# Of one H200 two rates were measured: 788e12 in a bfloat16 product of 8192³, 4.3e12 bytes a second read and written.
# The rest is assumed.
FLOPS = {"bfloat16": 788e12, "tf32": 394e12, "float32": 55e12}  # a second, in large products
MEMORY, CACHE, CACHED = 4.3e12, 9e12, 40e6  # bytes a second; of arrays of at most so many bytes, which stay in the L2
PROCESSORS = 132
LAUNCH = 2.2e-6  # seconds, of each kernel in a graph
LAUNCHED = 5.5e-6  # seconds of the host's for each kernel that it launches by itself
REPLAYED, IN_AN_EPOCH = 25e-6, 10e-6  # seconds of the host's for a graph: a step asked for alone, and one of an epoch
LINK, HOST = 50e9, 10e9  # bytes a second: from pinned memory to the device, and of one pass over rows on the host
TILES = {  # of a product: rows, columns, and the share of the rate that such tiles reach
    "bfloat16": ((256, 128, 1.0), (128, 128, 0.88), (128, 64, 0.7), (64, 64, 0.5)),
    "tf32": ((256, 128, 1.0), (128, 128, 0.9), (128, 64, 0.75), (64, 64, 0.55)),
    "float32": ((128, 128, 1.0), (128, 64, 0.9), (64, 64, 0.75), (32, 32, 0.5)),
}
SPLITS, DEEP = (1, 2, 4, 8, 16, 32, 64), 64  # parts of a product's inner dimension, and the least of one
WHOLE = 32 << 20  # bytes of x, above which gpubp launches kernel by kernel (gpubp/backends/graphs.py)
BLOCK_ROWS = 128  # rows, above which column sums take a second kernel (gpubp/backends/launches.py)


def moved(*sizes: float) -> float:
    """Seconds that arrays of so many bytes take, each read or written once."""
    return sum(size / (CACHE if size <= CACHED else MEMORY) for size in sizes)


def passes(*sizes: float) -> float:
    """Seconds of a kernel that does little but read and write these arrays."""
    return LAUNCH + moved(*sizes)


def gemm(m: int, n: int, k: int, precision: str, result: int = 4) -> float:
    """Seconds of a product (m, k) (k, n) whose results have so many bytes each: the best of its tiles and splits.

    Tiles are done in whole waves of one a multiprocessor. Split into parts, the inner dimension gives more tiles, and
    partial sums that are written and read again.
    """
    best = math.inf
    for (rows, columns, share), parts in product(TILES[precision], SPLITS):
        if parts > 1 and k // parts < DEEP:
            continue
        waves = math.ceil(math.ceil(m / rows) * math.ceil(n / columns) * parts / PROCESSORS)
        each = 2 * rows * columns * math.ceil(k / parts / 32) * 32
        sums = moved(*[4 * m * n * parts] * 2) if parts > 1 else 0
        best = min(best, waves * each / (FLOPS[precision] * share / PROCESSORS) + sums)
    item = width(precision)
    return LAUNCH + max(best, moved(item * m * k, item * k * n, result * m * n))


def width(precision: str) -> int:
    """Bytes of an activation."""
    return 2 if precision == "bfloat16" else 4


def arithmetic(sizes: Sizes, batch: int, precision: str) -> float:
    """Seconds of a step's products at the full rate: less is impossible."""
    return flops_of(sizes, batch) / FLOPS[precision]


def products(sizes: Sizes, batch: int, precision: str) -> list[float]:
    """Three a layer, less the first layer's input gradient: the floor that bench.gpu measures, in one graph."""
    item, found = width(precision), []
    for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
        found += [gemm(batch, outputs, inputs, precision, item), gemm(inputs, outputs, batch, precision)]
        found += [gemm(batch, inputs, outputs, precision, item)] if layer else []
    return found


def parameter_bytes(sizes: Sizes) -> int:
    """Of float32 weights and biases."""
    return 4 * sum((inputs + 1) * outputs for inputs, outputs in pairwise(sizes))


def between(sizes: Sizes, batch: int, precision: str) -> list[int]:
    """Bytes of the activations of each hidden layer, and of the float32 outputs."""
    return [width(precision) * batch * units for units in sizes[1:-1]] + [4 * batch * sizes[-1]]


def captured(sizes: Sizes, batch: int, precision: str, optimizer: str = "sgd") -> list[float]:
    """gpubp's step: products of cuBLASLt, one kernel on each side of them, SGD's step in the weights' gradients."""
    *hidden, outputs = between(sizes, batch, precision)
    x, parameters = 4 * batch * sizes[0], parameter_bytes(sizes)
    kernels = [passes(x, x), passes(8 * batch, outputs)]  # rows to where the graph reads them; one-hot targets
    if precision == "bfloat16":
        kernels += [passes(parameters, parameters / 2), passes(x, x / 2), passes(outputs, outputs / 2)]
    kernels += products(sizes, batch, precision)
    kernels += [passes(z, z) for z in hidden]
    kernels += [passes(*[outputs] * 4), passes(4 * batch), passes(outputs)]  # loss and delta, the cost, the bias
    kernels += [passes(z, z, z) for z in hidden]
    kernels += [LAUNCH] * (len(hidden) + 1 if batch > BLOCK_ROWS else 0)  # the rest of the column sums
    return [*kernels, passes(*[parameters] * 7) if optimizer == "adam" else passes(*[4 * sum(sizes[1:])] * 3)]


def compiled(sizes: Sizes, batch: int, precision: str) -> list[float]:
    """torch.compile's step: as many passes over activations, and one over the parameters."""
    layers, parameters = between(sizes, batch, precision), parameter_bytes(sizes)
    kernels = products(sizes, batch, precision) + [passes(layers[-1], layers[-1])]  # the loss
    kernels += [kernel for z in layers for kernel in (passes(z, z), passes(z, z, z))]
    kernels += [passes(parameters, parameters / 2)] if precision == "bfloat16" else []
    return [*kernels, passes(*[parameters] * 3)]


def eager(sizes: Sizes, batch: int, precision: str) -> list[float]:
    """PyTorch's modules: sigmoid, its derivative, column sums and the loss are kernels of their own."""
    layers, parameters = between(sizes, batch, precision), parameter_bytes(sizes)
    kernels = products(sizes, batch, precision) + [passes(*[layers[-1]] * times) for times in (2, 3, 2)]
    kernels += [kernel for z in layers for kernel in (passes(z, z), passes(z, z, z), passes(z))]
    if precision == "bfloat16":  # autocast rounds weights one by one, and widens their gradients
        kernels += [passes(4 * a * b, 2 * a * b) for a, b in pairwise(sizes) for _ in range(2)]
    return [*kernels, passes(*[parameters] * 3)]


def ours(sizes: Sizes, batch: int, precision: str) -> float:
    """Seconds of gpubp-captured's step."""
    kernels = captured(sizes, batch, precision)
    host = REPLAYED if 4 * batch * sizes[0] <= WHOLE else LAUNCHED * len(kernels)
    return max(sum(kernels), host)


def graphs(sizes: Sizes, batch: int, precision: str) -> float:
    """Seconds of torch-graphs's step."""
    return max(sum(compiled(sizes, batch, precision)), REPLAYED)


def torch(sizes: Sizes, batch: int, precision: str) -> float:
    """Seconds of PyTorch's eager step: a node of autograd costs more of the host's time than the kernel it launches."""
    kernels = eager(sizes, batch, precision)
    host = LAUNCHED * (len(kernels) + 2 * (len(sizes) - 1)) + 6e-6 * (len(sizes) - 1) + 20e-6
    return max(sum(kernels), host)


def epoch(cell: str, rows: int, optimizer: str) -> tuple[float, float]:
    """Seconds of gpubp-captured's epoch from the device, and of its products alone."""
    sizes, batch, precision = parsed(cell)
    steps = math.ceil(rows / batch)
    step = max(LAUNCH + sum(captured(sizes, batch, precision, optimizer)), IN_AN_EPOCH)  # one kernel finds its numbers
    return steps * step, steps * sum(products(sizes, batch, precision))


def streamed_share(cell: str) -> tuple[float, float, float, float]:
    """The rate of rows from the host over that of resident ones, and seconds a batch: step, copy, passes on the host.

    The host gathers a batch, and writes it into pinned memory; both, and the copy, go on beside the step before.
    """
    sizes, batch, precision = parsed(cell)
    step, nbytes = sum(captured(sizes, batch, precision)), 4 * batch * sizes[0]
    copy, host = nbytes / LINK, 2 * nbytes / HOST
    return step / max(step, copy, host), step, copy, host


def predicted(cell: str) -> dict[str, float]:
    """Of a cell: seconds by design, and the ratios that targets are of."""
    work = parsed(cell)
    found = {"arithmetic": arithmetic(*work), "products": sum(products(*work))}
    found |= {"ours": ours(*work), "graphs": graphs(*work), "eager": torch(*work)}
    return found | {
        "peer": min(found["graphs"], found["eager"]) / found["ours"],
        "speedup": found["eager"] / found["ours"],
        "share": found["products"] / found["eager"],
        "over": found["ours"] / found["products"],
    }


def cells() -> list[str]:
    return [f"{net}@{batch} {precision}" for net, batch, precision in product(NETS, BATCHES, PRECISIONS)]


def targets() -> Iterator[tuple[str, str, str, bool]]:
    """What is wanted, the bound, what the model predicts, and whether that is within it."""
    table = {cell: predicted(cell) for cell in cells()}
    worst = min(table, key=lambda cell: table[cell]["peer"])
    least, mean = table[worst]["peer"], statistics.geometric_mean(found["peer"] for found in table.values())
    yield (
        f"best peer / ours, in each of {len(table)} cells",
        f"≥ {verdict.NEAR}",
        f"{least:.2f} on {worst}",
        (least >= verdict.NEAR),
    )
    yield "its geometric mean", f"≥ {verdict.MEAN}", f"{mean:.2f}", mean >= verdict.MEAN
    little = {cell: found["speedup"] for cell, found in table.items() if found["share"] < verdict.LITTLE}
    least_of = f"eager / ours, in the {len(little)} cells where products take < {verdict.LITTLE:.0%} of eager's time"
    slowest = min(little, key=lambda cell: little[cell])
    speedup = little[slowest]
    yield least_of, f"≥ {verdict.EAGER:g}", f"{speedup:.2f} on {slowest}", speedup >= verdict.EAGER
    for precision in PRECISIONS:
        over = table[cell := f"{verdict.FLOOR_CELLS} {precision}"]["over"]
        yield f"{cell}: ours / products alone", f"≤ {verdict.FLOOR}", f"{over:.2f}", over <= verdict.FLOOR
    for optimizer in ("sgd", "adam"):
        seconds, floor = epoch(MNIST, MNIST_ROWS, optimizer)
        told = f"{1e3 * seconds:.1f} ms, of which products {1e3 * floor:.1f}"
        what = f"an epoch of {MNIST}, {optimizer}"
        yield what, f"≤ {1e3 * verdict.EPOCH_SECONDS:g} ms", told, seconds <= verdict.EPOCH_SECONDS
    share, step, copy, host = streamed_share(STREAMED)
    told = f"{share:.0%}: step {1e3 * step:.2f} ms, copy {1e3 * copy:.2f}, passes on the host {1e3 * host:.2f}"
    yield f"streamed / resident, {STREAMED}", f"≥ {verdict.STREAMED_SHARE:.0%}", told, share >= verdict.STREAMED_SHARE


def markdown() -> str:
    lines = ["| target | wanted | predicted | within |", "|---|---|---|---|"]
    lines += [f"| {what} | {bound} | {told} | {'yes' if held else '**no**'} |" for what, bound, told, held in targets()]
    columns = ["cell", "arithmetic", "products alone", "gpubp-captured", "torch-graphs", "torch"]
    columns += ["best peer / ours", "eager / ours", "products / eager", "ours / products"]
    lines += ["", "Microseconds a step, and ratios:", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for cell in (f"{net} {precision}" for net in TELLING for precision in PRECISIONS):
        found = predicted(cell)
        times = (f"{1e6 * found[name]:,.1f}" for name in ("arithmetic", "products", "ours", "graphs", "eager"))
        ratios = (f"{found['peer']:.2f}", f"{found['speedup']:.2f}", f"{found['share']:.0%}", f"{found['over']:.2f}")
        lines.append(f"| {' | '.join((cell, *times, *ratios))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
