"""Which cells there are, in the order in which they are asked, and how long each should take."""

from __future__ import annotations

from bench.gpu import kernels, parity, peers, probe, products
from bench.gpu.harness import Cell
from gpubp.backends import cublaslt

START = 5.0  # seconds until a new process has CuPy, a context on the device and gpubp
PATIENCE = 4  # times what it should take, beside the start of processes, that a cell may take

PARTS = ("probe", "parity", "kernels", "peers")
# What a part may take of the budget, so that those after it are reached.
CAPS = {"probe": 90.0, "parity": 120.0, "kernels": 100.0}


def cells(part: str) -> list[Cell]:
    """The cells of one part, in their order."""
    return {"probe": of_probe, "parity": of_parity, "kernels": of_kernels, "peers": of_peers}[part]()


def question(part: str, function: str, names: list[str], seconds: float, group: str = "") -> list[Cell]:
    """Cells by one function of this package, "module:name"; the first pays for the process of their group."""
    path = f"bench.gpu.{function}"
    return [
        Cell(
            part=part,
            question=function.split(":")[1],
            name=name,
            function=path,
            group=group or path,
            estimate=seconds + (START if place == 0 else 0),
            limit=PATIENCE * seconds + 3 * START,
        )
        for place, name in enumerate(names)
    ]


def of_probe() -> list[Cell]:
    accumulating = [kind for kind, types in cublaslt.KINDS.items() if types.result == types.scale == cublaslt.R_32F]
    return [
        *question("probe", "probe:bits", ["exact sigmoid"], 5),
        *question("probe", "probe:cubin", ["cupy.RawModule(path=)"], 2),
        *question("probe", "products:capture", accumulating, 0.5),
        *question("probe", "products:in_place", list(cublaslt.KINDS), 0.5),
        *question("probe", "products:epilogues", list(cublaslt.KINDS), 0.5),
        *question("probe", "probe:launch", list(probe.LAUNCHES), 0.5),
        *question("probe", "products:gemm", products.SHAPES, 1.5),
        *question("probe", "probe:copy", list(probe.COPIES), 1),
    ]


def of_parity() -> list[Cell]:
    return [
        *question("parity", "parity:check", ["float32", "float64"], 15),
        *question("parity", "parity:suite", parity.BACKEND, 60),
        *question("parity", "parity:suite", parity.ON_TOP, 10),
    ]


def of_kernels() -> list[Cell]:
    return [
        *question("kernels", "kernels:bias_gradient", kernels.with_bias_gradient(), 1.5, "kernels"),
        *question("kernels", "kernels:kernel", kernels.with_source(), 1.5, "kernels"),
        *question("kernels", "kernels:gather", ["128x784", "8192x784", "65536x784", "65536x64"], 1, "kernels"),
    ]


def of_peers() -> list[Cell]:
    steps = question("peers", "peers:step", peers.steps(), 20, "peers")
    autotuned = question("peers", "peers:autotuned", peers.AUTOTUNED, 60, "peers")
    crossovers = question("peers", "peers:crossover", list(peers.NETS)[:2], 12, "peers")
    epochs = question("peers", "peers:epoch", peers.EPOCHS, 60, "peers")
    mnist = question("peers", "peers:mnist", [peers.MNIST], 30, "peers")
    streaming = question("peers", "peers:streaming", [peers.STREAMED], 40, "peers")
    few = 5  # steps that tell more than anything else
    return [*steps[:few], *mnist, *streaming, *autotuned[:1], *steps[few:], *crossovers, *epochs, *autotuned[1:]]
