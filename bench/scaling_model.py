"""A model of data-parallel training on 1 to 1,024 H200s, `python -m bench.scaling_model`: what it predicts, and why.

Nothing here is measured. On P GPUs a step on B rows takes

    T(B, P) = max(compute(B / P) + sum(n, P), host(P)),    sum(n, P) = 2 (P − 1) / P · n / bandwidth + latency(P),

compute as bench.roofline has it, n bytes of gradients, and nothing of the sum hidden, as gpubp adds all gradients up
after the backward pass. The efficiency is T(B, 1) / (P T(B, P)) where the batch B is fixed (strong scaling), and
T(b, 1) / T(P b, P) where each GPU has b rows (weak scaling). With overlap a sum would hide behind the products of the
backward pass, at best all of them: T = compute + max(0, sum − backward).
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import log2
from pathlib import Path
from typing import Any

from bench.peers import names, new_file
from bench.roofline import LAUNCH, RATES, REPLAY, Step
from gpubp.explain.figures import new_figure, save

NETS = {
    "784-512-256-10": (784, 512, 256, 10),
    "784-1024-1024-10": (784, 1024, 1024, 10),
    "784-2048x6-10": (784, *(2048,) * 6, 10),
}
GPUS = tuple(2**k for k in range(11))
TOLD = (8, 64, 1024)
BATCH, ROWS = 65536, 8192  # of all GPUs together, and of each: the same on 8

NODE_GPUS = 8  # that NVLink joins, as in an HGX or DGX H200
NVLINK = 450e9  # bytes a second, each way, of a GPU: half of the 900 GB/s of NVIDIA's data sheet
INFINIBAND = 8 * 50e9  # of a node, each way: one 400 Gb/s port a GPU, all of which carry a part of each sum
REACHED = 0.92  # of either, by a protocol that sends 120 bytes of data in each 128 (NCCL's LL128)
# Microseconds, from the constants by which NCCL itself chooses (src/graph/tuning.cc, Tree and LL128): once, from a
# GPU to the next in a node, and from a node to the next. A tree goes up and down, through a chain in each node.
BASE, ACROSS_NVLINK, ACROSS_NODES = 14e-6, 1.25e-6, 8.5e-6
FLAG = 2e-6  # seconds, assumed, of a message between two hosts: each step all ask whether anybody is to stop


def latency(gpus: int) -> float:
    """Seconds of a sum of nothing: base + 2 ((GPUs a node − 1) · across NVLink + log2(nodes) · across nodes)."""
    if gpus == 1:
        return 0.0
    here = min(gpus, NODE_GPUS)
    return BASE + 2 * ((here - 1) * ACROSS_NVLINK + log2(gpus / here) * ACROSS_NODES)


def bandwidth(gpus: int) -> float:
    """Bytes a second through each link of the rings: NVLink's, or between nodes that of their ports, if it is less."""
    return REACHED * (NVLINK if gpus <= NODE_GPUS else min(NVLINK, INFINIBAND))


def summed(size: float, gpus: int) -> float:
    """Seconds of an all-reduce of so many bytes: 2 (P − 1) / P · bytes / bandwidth + latency."""
    return 2 * (gpus - 1) / gpus * size / bandwidth(gpus) + latency(gpus)


def host(gpus: int) -> float:
    """Seconds of the host's: graphs of the gradients and of the optimizer's step, the sum between them, the flag."""
    return 2 * REPLAY + LAUNCH + FLAG * log2(gpus)


@dataclass(frozen=True)
class Shared:
    """A step by Adam on `rows` rows a GPU; its properties are seconds."""

    sizes: tuple[int, ...]
    rows: int
    gpus: int
    precision: str = "float32"

    @cached_property
    def step(self) -> Step:
        return Step(self.sizes, self.rows, self.precision)

    @property
    def bytes(self) -> int:
        """Of the vector that is added up, in float32: gradients of weights and biases, the cost, the sum of weights."""
        return sum(self.step.weights) + 4 * sum(self.sizes[1:]) + 8

    @property
    def compute(self) -> float:
        """As one GPU does it, with Adam's step in place of SGD's."""
        return self.step.captured() + self.step.device("adam") - self.step.device()

    @property
    def sum(self) -> float:
        return summed(self.bytes, self.gpus)

    @property
    def backward(self) -> float:
        """The products of the backward pass, behind which a sum could hide."""
        return sum(seconds for which, _, seconds in self.step.products() if which != "forward")

    @property
    def seconds(self) -> float:
        if self.gpus == 1:
            return self.compute
        return max(self.compute + self.sum, host(self.gpus))

    @property
    def overlapped(self) -> float:
        """At best."""
        if self.gpus == 1:
            return self.compute
        return max(self.compute + max(0.0, self.sum - self.backward), host(self.gpus))


def strong(sizes: tuple[int, ...], gpus: int, precision: str = "float32") -> tuple[Shared, float, float]:
    """A step on BATCH rows in all; its efficiency as it is, and with overlap at best."""
    alone, shared = Shared(sizes, BATCH, 1, precision), Shared(sizes, BATCH // gpus, gpus, precision)
    return shared, alone.seconds / (gpus * shared.seconds), alone.seconds / (gpus * shared.overlapped)


def weak(sizes: tuple[int, ...], gpus: int, precision: str = "float32") -> tuple[Shared, float, float]:
    """A step on ROWS rows a GPU; its efficiency as it is, and with overlap at best."""
    alone, shared = Shared(sizes, ROWS, 1, precision), Shared(sizes, ROWS, gpus, precision)
    return shared, alone.seconds / shared.seconds, alone.seconds / shared.overlapped


Scaling = Callable[[tuple[int, ...], int, str], tuple[Shared, float, float]]
SCALINGS: dict[str, Scaling] = {f"strong, {BATCH:,} rows in all": strong, f"weak, {ROWS:,} rows a GPU": weak}


# -- telling it --------------------------------------------------------------------------------------------------------


def table(precision: str) -> str:
    """Markdown: a row for each network, scaling and number of GPUs."""
    lines = [
        "| network | scaling | GPUs | rows a GPU | compute, µs | sum, µs | of it latency | speed-up | efficiency "
        "| overlapped, at best |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for net, sizes in NETS.items():
        for name, scaling in SCALINGS.items():
            for gpus in TOLD:
                shared, efficiency, best = scaling(sizes, gpus, precision)
                row = [net, name.partition(",")[0], f"{gpus:,}", f"{shared.rows:,}"]
                row += [f"{1e6 * seconds:,.0f}" for seconds in (shared.compute, shared.sum, latency(gpus))]
                row += [f"{gpus * efficiency:,.1f}", f"{efficiency:.0%}", f"{best:.0%}"]
                lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def told(precisions: list[str]) -> str:
    lines = ["Predictions of a model; nothing here is measured."]
    lines += [f"\n### {precision}\n\n{table(precision)}" for precision in precisions]
    return "\n".join(lines)


# -- the picture -------------------------------------------------------------------------------------------------------


COLOURS = dict(zip(NETS, ("#C04A00", "#0072B2", "#007A5E"), strict=True))


def draw(precision: str = "float32") -> Any:
    """A figure with a panel for strong and one for weak scaling: efficiency against GPUs, overlapped dashed."""
    figure = new_figure(10.4, 4.4)
    for number, (name, scaling) in enumerate(SCALINGS.items(), 1):
        axes = figure.add_subplot(1, 2, number)
        for net, sizes in NETS.items():
            found = [scaling(sizes, gpus, precision) for gpus in GPUS]
            style = {"color": COLOURS[net], "marker": "o", "markersize": 3.5}
            axes.plot(GPUS, [100 * efficiency for _, efficiency, _ in found], label=net, **style)
            best = [100 * overlapped for _, _, overlapped in found]
            axes.plot(GPUS, best, color=COLOURS[net], linestyle="--", linewidth=1)
        axes.axvline(NODE_GPUS, color="#767676", linewidth=0.8, linestyle=":")
        axes.text(NODE_GPUS * 0.93, 2, "one node", fontsize="small", color="#595959", ha="right", va="bottom")
        axes.set_title(f"{name}: predicted, {precision}", fontsize="medium")
        _dress(axes)
        if number == 1:
            axes.set_ylabel("efficiency, %")
        else:  # where the lower half is free
            axes.plot([], [], color="#595959", linestyle="--", linewidth=1, label="the same, overlapped at best")
            axes.legend(frameon=False, loc="center", bbox_to_anchor=(0.6, 0.4))
    return figure


def _dress(axes: Any) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(GPUS, [f"{gpus:,}" for gpus in GPUS], fontsize="small")
    axes.minorticks_off()
    axes.set_ylim(0, 104)
    axes.set_xlabel("GPUs")
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


# -- the command -------------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scaling_model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, known = parser.add_argument, list(RATES)
    told_of = f"of {', '.join(known)} (default float32,tf32; the picture shows the first)"
    add("--precision", type=names(known), default=["float32", "tf32"], metavar="NAME,...", help=told_of)
    add("--plot", type=new_file, metavar="FILE", help="draw it here, as .png or .svg: docs/pictures/distributed.svg")
    options = parser.parse_args(arguments)
    if not options.precision:
        parser.error("--precision needs a name")
    print(told(options.precision))
    if options.plot:
        save(draw(options.precision[0]), Path(options.plot))
    return 0


if __name__ == "__main__":
    sys.exit(main())
