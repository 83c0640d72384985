"""gpubp against its peers on the GPU, and against itself on the CPU, by the contenders of gpubp.benchmark."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

from bench.gpu import epochs
from bench.gpu.child import Child, UnansweredError
from bench.gpu.products import step_seconds
from bench.gpu.timing import us
from bench.verdict import thousandths
from gpubp.benchmark.contenders import DifferentWorkError, Setting
from gpubp.benchmark.race import Outcome, take_turns
from gpubp.benchmark.timing import quartiles
from gpubp.benchmark.workers import FailedError, Racer, racing
from gpubp.processor import cores

NETS = {
    "784-128-10": (784, 128, 10),
    "784-1024-1024-10": (784, 1024, 1024, 10),
    "784-4096-4096-10": (784, 4096, 4096, 10),
    "64x9": (64,) * 9,
    "784-2048x6-10": (784, *(2048,) * 6, 10),
    "128x17": (128,) * 17,
}
BATCHES = (128, 1024, 8192, 65536)
TELLING = [  # steps, the most telling first
    "784-1024-1024-10@8192",
    "784-1024-1024-10@128",
    "64x9@65536",
    "784-128-10@128",
    "784-4096-4096-10@65536",
    "784-1024-1024-10@1024",
    "64x9@1024",
    "784-2048x6-10@8192",
    "128x17@1024",
    "784-128-10@8192",
]
PRECISIONS = ("tf32", "float32", "bfloat16")
OURS = ("gpubp", "gpubp-captured")
CONTENDERS = ["gemms", *OURS, "torch-compile", "torch-graphs", "jax", "torch"]
MORE = [*TELLING[:5], "784-2048x6-10@8192"]  # those that are timed in every precision
AUTOTUNED = ["784-1024-1024-10@8192 tf32", "784-1024-1024-10@128 tf32", "128x17@1024 tf32"]
EPOCHS = ["784-128-10@128 tf32", "784-1024-1024-10@8192 tf32", "784-1024-1024-10@8192 bfloat16"]
MNIST = "784-512-256-10@128 float32"  # an epoch of 60000 rows by Adam
STREAMED = "784-4096-4096-10@8192 tf32"  # whose steps take longer than the way of their batch to the device
SWEEP = (1, 8, 64, 256, 1024, 4096, 16384)
ROUNDS = 7
TURN = 0.03  # seconds
PATIENCE = 60.0  # seconds that one contender may take to be built, and again to be calibrated
AUTOTUNING = 240.0  # the same of one that tries products first
ALONE = ("torch", "torch-autotune")  # what builds them times variants, on a device that nobody else is to use
CLEAR = 4.0  # times faster, from where larger batches tell nothing new


class Stable:
    """The contenders' processes, kept from cell to cell; one that failed is replaced when it is next wanted."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, Setting], tuple[Racer, contextlib.ExitStack]] = {}

    def racers(self, entries: Iterable[tuple[str, Setting]]) -> list[Racer]:
        found = []
        for entry in entries:
            if entry not in self._kept:
                stack = contextlib.ExitStack()
                self._kept[entry] = (stack.enter_context(racing([entry]))[0], stack)
            found.append(self._kept[entry][0])
        return found

    def dismiss(self, racers: Iterable[Racer]) -> None:
        for racer in racers:
            kept = self._kept.pop((racer.name, racer.setting), None)
            if kept:
                racer.process.kill()  # it may hang, and would not hear that it is to stop
                kept[1].close()


STABLE = Stable()


def race(entries: list[tuple[str, Setting]], sizes: tuple[int, ...], batch: int) -> dict[str, Outcome]:
    """Build, check and time these contenders on one cell; whoever fails is left out with the reason."""
    outcomes = [Outcome(racer) for racer in STABLE.racers(entries)]
    together = [outcome for outcome in outcomes if outcome.racer.name not in ALONE]  # compilers take their time
    with ThreadPoolExecutor(max(1, len(together))) as pool:
        list(pool.map(lambda outcome: build(outcome, sizes, batch), together))
    for outcome in outcomes:
        if outcome.racer.name in ALONE:
            build(outcome, sizes, batch)
    for outcome in outcomes:
        calibrate(outcome)
    try:
        take_turns(outcomes, ROUNDS)
    except FailedError:
        STABLE.dismiss(outcome.racer for outcome in outcomes)
        raise
    STABLE.dismiss(outcome.racer for outcome in outcomes if outcome.error)
    return {outcome.racer.name: outcome for outcome in outcomes}


def build(outcome: Outcome, sizes: tuple[int, ...], batch: int) -> None:
    try:
        patience = AUTOTUNING if outcome.racer.name == "torch-autotune" else PATIENCE
        built = outcome.racer.ask("build", sizes, batch, "sigmoid", 0, seconds=patience)
        outcome.note, outcome.losses = built["note"], built["losses"]
    except (FailedError, DifferentWorkError) as error:
        outcome.error = error


def calibrate(outcome: Outcome) -> None:
    if outcome.error is None:
        try:
            estimate = outcome.racer.ask("calibrate", TURN / 2, seconds=PATIENCE)
            outcome.steps = max(1, round(TURN / estimate))
        except FailedError as error:
            outcome.error = error


def parsed(cell: str) -> tuple[tuple[int, ...], int, str]:
    """The sizes, the batch and the precision of "64x9@1024 tf32"."""
    net, precision = cell.split(" ")
    name, batch = net.split("@")
    sizes = NETS[name] if name in NETS else tuple(map(int, name.split("-")))
    return sizes, int(batch), precision


def step(cell: str, device: str = "cuda", contenders: Iterable[str] = CONTENDERS) -> dict[str, Any]:
    """Microseconds of a training step, beside those of its matrix products alone."""
    sizes, batch, precision = parsed(cell)
    setting = Setting(device, precision, cores())
    outcomes = race([(name, setting) for name in contenders], sizes, batch)
    found: dict[str, Any] = {}
    floor = None
    if setting.kind == "cuda":
        try:
            floor = step_seconds(sizes, batch, precision)
            found["GEMMs in a graph"] = {"µs": us(floor)}
        except Exception as error:  # the steps are timed: they are not to be lost with their floor
            found["GEMMs in a graph"] = {"left out": f"{type(error).__name__}: {error}"}
    ours = {name: outcomes[name] for name in OURS if name in outcomes and outcomes[name].seconds}
    return found | {name: row(outcome, ours, floor) for name, outcome in outcomes.items()}


def autotuned(cell: str) -> dict[str, Any]:
    """The same of torch.compile(mode="max-autotune"), which takes long to build."""
    return step(cell, contenders=[*OURS, "torch-autotune"])


def row(outcome: Outcome, ours: dict[str, Outcome], floor: float | None) -> dict[str, Any]:
    """The median, half the distance of the quartiles, and ratios: above 1, gpubp is faster, and far from the floor.

    The least and the greatest of n paired ratios are an interval for their median that misses it once in 2ⁿ⁻¹ times:
    of ROUNDS, less than 5 %. Ratios to ours are rounded down: none is to look better than it is.
    """
    if outcome.error:
        return {"left out": str(outcome.error)}
    low, middle, high = quartiles(outcome.seconds)
    found: dict[str, Any] = {"µs": us(middle), "±": us((high - low) / 2)}
    for name, base in ours.items():
        ratios = sorted(a / b for a, b in zip(outcome.seconds, base.seconds, strict=True))
        found[f"/ {name}"] = rounded_down(median(ratios))
        found[f"/ {name}, from and to"] = [rounded_down(ratios[0]), rounded_down(ratios[-1])]
    if floor:
        found["/ GEMMs"] = round(middle / floor, 2)
    if outcome.memory is not None:
        found["peak MiB"] = outcome.memory >> 20
    return {**found, "note": outcome.note}


def rounded_down(ratio: float) -> float:
    return float(thousandths(ratio))


def crossover(net: str, device: str = "cuda", batches: Iterable[int] = SWEEP) -> dict[str, Any]:
    """gpubp on the CPU and on the GPU, with ever larger batches until the GPU is clearly ahead."""
    found: dict[str, Any] = {}
    wins_from = None
    for batch in batches:
        times = []
        for where in ("cpu", device):
            outcome = race([("gpubp", Setting(where, "float32", cores()))], NETS[net], batch)["gpubp"]
            if outcome.error:
                raise outcome.error
            times.append(median(outcome.seconds))
        ratio = times[0] / times[1]
        found[f"@{batch}"] = {"CPU, µs": us(times[0]), "GPU, µs": us(times[1]), "CPU / GPU": round(ratio, 2)}
        wins_from = (wins_from or batch) if ratio > 1 else None
        if ratio > CLEAR:
            break
    return {**found, "the GPU wins from": {"batch": wins_from}}


def epoch(cell: str, device: str = "cuda") -> dict[str, Any]:
    """Seconds of an epoch over rows that are on the device, each contender in a process that has the GPU for itself."""
    sizes, batch, precision = parsed(cell)
    found: dict[str, Any] = {}
    for name in ("gpubp", "gpubp_captured", "torch", "torch_compile", "torch_graphs", "jax"):
        found[name] = asked(name, sizes, batch, Setting(device, precision, cores()))
    return found


def mnist(cell: str, device: str = "cuda") -> dict[str, Any]:
    """Seconds of an epoch by Adam over as many rows as MNIST has, on the device."""
    sizes, batch, precision = parsed(cell)
    setting = Setting(device, precision, cores())
    given = (sizes, batch, setting, epochs.MNIST_ROWS, "adam")
    return {name: asked(name, *given) for name in ("gpubp", "gpubp_captured", "torch")}


def streaming(cell: str, device: str = "cuda") -> dict[str, Any]:
    """Rows a second of an epoch whose rows lie on the device, and of one whose rows come from the host."""
    sizes, batch, precision = parsed(cell)
    setting = Setting(device, precision, cores())
    found: dict[str, Any] = {}
    for name in ("gpubp", "gpubp_captured"):
        resident, streamed = (asked(each, sizes, batch, setting) for each in (name, f"{name}_streamed"))
        found |= {name: resident, f"{name}_streamed": streamed}
        if "rows/s" in resident and "rows/s" in streamed:
            streamed["of resident"] = rounded_down(streamed["rows/s"] / resident["rows/s"])
    return found


def asked(name: str, *given: Any) -> dict[str, Any]:
    """What a function of `epochs` answers in a process of its own."""
    child = Child()
    try:
        return dict(child.ask(f"bench.gpu.epochs:{name}", given, PATIENCE))
    except UnansweredError as error:
        return {"left out": str(error)}
    finally:
        child.end()


def steps() -> list[str]:
    """Every net and batch in TF32, and a few in each precision; the most telling first."""
    every = [f"{net}@{batch}" for net in NETS for batch in BATCHES]
    rest = [cell for cell in every if cell not in TELLING]
    first, *others = PRECISIONS
    in_others = [f"{cell} {precision}" for cell in MORE for precision in others]
    return [*(f"{cell} {first}" for cell in TELLING), *in_others, *(f"{cell} {first}" for cell in rest)]
