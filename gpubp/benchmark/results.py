"""What a benchmark found, as plain data: a row for each contender, device and batch size, and where a GPU pays."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gpubp.benchmark.race import Outcome
from gpubp.benchmark.timing import quartiles

NAMES = {"gemms": "GEMMs alone"}  # in texts; the others go by their keys


@dataclass(frozen=True)
class Result:
    """One contender on one device at one batch size."""

    batch: int
    device: str
    contender: str
    samples_per_second: float  # the median over the rounds
    low: float  # its quartiles
    high: float
    flops: float  # floating-point operations a second of the step's products, at that rate
    share_of_peak: float | None  # of those of one large product
    share_of_gemms: float | None  # of the rate of the products alone
    times_gpubp: float | None  # a step's time as a multiple of gpubp's, on the same device
    memory_bytes: int | None
    seconds_per_step: list[float]  # by round
    steps_per_round: int
    losses: list[float]  # of the first steps, which are the reference's
    note: str

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles, as a share of the median."""
        return (self.high - self.low) / 2 / self.samples_per_second


def flops_of(sizes: tuple[int, ...], batch: int) -> int:
    """Floating-point operations of a step's products: three a layer, less the first layer's input gradient.

    >>> flops_of((784, 128, 10), 32)
    13090816
    """
    products = [inputs * outputs for inputs, outputs in pairwise(sizes)]
    return 2 * batch * (3 * sum(products) - products[0])


def results_of(
    outcomes: list[Outcome], sizes: tuple[int, ...], batch: int, peaks: dict[str, float] | None = None
) -> list[Result]:
    """Of those that were timed. Ratios are medians over the rounds, each of two turns that followed one another.

    `peaks` are the devices' operations a second in one large product.
    """
    ran = {(each.racer.setting.device, each.racer.name): each for each in outcomes if each.seconds}
    found = []
    for (device, name), outcome in ran.items():
        fast, median, slow = quartiles(outcome.seconds)
        flops, peak = flops_of(sizes, batch) / median, (peaks or {}).get(device)
        found.append(
            Result(
                batch=batch,
                device=device,
                contender=name,
                samples_per_second=batch / median,
                low=batch / slow,
                high=batch / fast,
                flops=flops,
                share_of_peak=flops / peak if peak else None,
                share_of_gemms=_ratio(ran.get((device, "gemms")), outcome),
                times_gpubp=_ratio(outcome, ran.get((device, "gpubp"))),
                memory_bytes=outcome.memory,
                seconds_per_step=outcome.seconds,
                steps_per_round=outcome.steps,
                losses=outcome.losses,
                note=outcome.note,
            )
        )
    return found


def _ratio(above: Outcome | None, below: Outcome | None) -> float | None:
    if above is None or below is None:
        return None
    return quartiles([a / b for a, b in zip(above.seconds, below.seconds, strict=True)])[1]


def left_out(outcomes: list[Outcome], batch: int) -> list[dict[str, Any]]:
    """Who was not timed at this batch size, and why."""
    return [
        absent(each.racer.setting.device, each.racer.name, batch, str(each.error)) for each in outcomes if each.error
    ]


def absent(device: str, contender: str, batch: int | None, reason: str) -> dict[str, Any]:
    """Who was not timed, and why; at any batch size where none is named."""
    return {"device": device, "contender": contender, "batch": batch, "reason": reason}


def curves(results: list[Result]) -> dict[str, dict[int, Result]]:
    """By what is written beside it, each curve's results by batch size; the products alone come last."""
    found: dict[str, dict[int, Result]] = {}
    for row in sorted(results, key=lambda row: (row.contender == "gemms", row.batch)):
        found.setdefault(f"{NAMES.get(row.contender, row.contender)} on {row.device}", {})[row.batch] = row
    return found


def crossover(results: list[Result], device: str) -> int | None:
    """The least batch size measured from which on gpubp is faster on this device than on the CPU, or None.

    >>> rates = {"cpu": [9.0, 20.0, 30.0], "cuda:0": [5.0, 25.0, 90.0]}
    >>> rest = (0.0, 0.0, 0.0, *[None] * 4, [], 1, [], "")
    >>> rows = [Result(2**k, name, "gpubp", rates[name][k], *rest) for name in rates for k in range(3)]
    >>> crossover(rows, "cuda:0")
    2
    """
    rates = {(each.device, each.batch): each.samples_per_second for each in results if each.contender == "gpubp"}
    both = sorted(batch for name, batch in rates if name == device and ("cpu", batch) in rates)
    found = None
    for batch in reversed(both):
        if rates[device, batch] <= rates["cpu", batch]:
            break
        found = batch
    return found
