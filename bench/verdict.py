"""What the peers' benchmark says of gpubp: cell by cell against the best peer, and over all cells.

A cell is met where gpubp is as fast as the best of PyTorch eager, torch.compile and JAX, or, where the matrix products
alone take nearly all of that one's time, nearly so.
"""

import math
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

BEST_OF = ("torch", "torch-compile", "jax")
FLOOR_SHARE = 0.85  # of the best peer's time: where the products take more, little else can be saved
NEEDED, NEEDED_AT_FLOOR = 1.0, 0.93  # times the best peer's speed
MEANS = {"the best peer": (1.5, "; 1.3 is the least"), "scikit-learn": (3.0, "")}  # geometric means that are wanted


@dataclass(frozen=True)
class Judgement:
    """One cell. Ratios are medians over the rounds; None where gpubp or every peer of BEST_OF is missing."""

    name: str
    best: str | None  # the best peer
    ratio: float | None  # its time over gpubp's
    gemms_share: float | None  # of its time
    sklearn: float | None  # scikit-learn's time over gpubp's

    @property
    def needed(self) -> float:
        return NEEDED_AT_FLOOR if self.gemms_share is not None and self.gemms_share > FLOOR_SHARE else NEEDED

    @property
    def met(self) -> bool:
        return self.ratio is not None and self.ratio >= self.needed


def judge(name: str, rounds: dict[str, list[float]]) -> Judgement:
    """Of a cell where these contenders took these times, by round."""

    def ratio(above: str, below: str) -> float | None:
        if above not in rounds or below not in rounds:
            return None
        return statistics.median(a / b for a, b in zip(rounds[above], rounds[below], strict=True))

    ratios = {peer: found for peer in BEST_OF if (found := ratio(peer, "gpubp")) is not None}
    best = min(ratios, key=lambda peer: ratios[peer], default=None)
    share = None if best is None else ratio("gemms", best)
    return Judgement(name, best, ratios.get(best or ""), share, ratio("sklearn", "gpubp"))


def means(judged: Iterable[Judgement]) -> dict[str, float]:
    """The geometric means over all cells of the best peer's time, and of scikit-learn's, over gpubp's."""
    of = {"the best peer": [each.ratio for each in judged], "scikit-learn": [each.sklearn for each in judged]}
    present = {peer: [ratio for ratio in ratios if ratio is not None] for peer, ratios in of.items()}
    return {peer: statistics.geometric_mean(ratios) for peer, ratios in present.items() if ratios}


def told(judged: list[Judgement]) -> str:
    """Markdown: a row a cell, then the sum of it."""
    lines = [
        "| cell | best peer | its time / gpubp's | GEMMs' share of it | needed | met | scikit-learn's / gpubp's |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in judged:
        ratio, sklearn = ("-" if value is None else thousandths(value) for value in (each.ratio, each.sklearn))
        share = "-" if each.gemms_share is None else f"{each.gemms_share:.1%}"
        answer = "yes" if each.met else "**no**"
        lines.append(
            f"| {each.name} | {each.best or '-'} | {ratio} | {share} | ≥ {each.needed:g} | {answer} | {sklearn} |"
        )
    lost = [each.name for each in judged if not each.met]
    lines += ["", f"Met in {len(judged) - len(lost)} of {len(judged)} cells." + (" Not in:" if lost else "")]
    lines += [f"- {name}" for name in lost]
    for peer, mean in means(judged).items():
        wanted, remark = MEANS[peer]
        answer = "met" if mean >= wanted else "**not met**"
        told = f"Geometric mean of {peer}'s time over gpubp's: {mean:.3f}"
        lines += ["", f"{told}; ≥ {wanted:g} is wanted{remark}: {answer}."]
    return "\n".join(lines)


def thousandths(value: float) -> str:
    """Rounded down, so that what is lost never looks won.

    >>> thousandths(0.9996)
    '0.999'
    """
    return f"{math.floor(1000 * value) / 1000:.3f}"


def report(judged: list[Judgement]) -> dict[str, Any]:
    """The same, for JSON."""
    return {
        "cells": [{**asdict(each), "needed": each.needed, "met": each.met} for each in judged],
        "geometric_means": means(judged),
    }
