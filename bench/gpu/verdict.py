"""What the GPU's results say of gpubp: each target, as its steps are by default and as they are captured."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from bench.gpu.peers import MNIST, OURS, STREAMED

NEAR, MEAN = 0.97, 1.05  # the best peer's time over ours: in every cell, and in the geometric mean
EAGER, LITTLE = 3.0, 0.15  # PyTorch eager's time over ours, where the products are a smaller share of eager's
FLOOR, FLOOR_CELLS = 1.25, "784-4096-4096-10@65536"
EPOCH_SECONDS, STREAMED_SHARE = 0.025, 0.9
NOT_PEERS = ("gemms", "GEMMs in a graph", *OURS)

Answers = Mapping[str, Mapping[str, Any]]


def told(cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Markdown: a row for each cell of the peers' steps, then the targets."""
    answers = {name.removeprefix("peers/"): record["answer"] for name, record in cells.items() if "answer" in record}
    steps = {name.removeprefix("step/"): answer for name, answer in answers.items() if name.startswith("step/")}
    lines = [line for ours in OURS for line in section(ours, answers, steps)]
    return ["", "## Targets", *lines] if lines else []


def section(ours: str, answers: Mapping[str, Answers], steps: Mapping[str, Answers]) -> list[str]:
    rows = [(name, *found) for name, answer in steps.items() if (found := best(answer, ours))]
    if not rows:
        return []
    mean = statistics.geometric_mean(row[2] for row in rows)
    sums = [f"geometric mean {mean:.3f}, ≥ {MEAN} is wanted: {met(mean >= MEAN)}", *targets(answers, steps, ours)]
    return [
        *("", f"### {ours}", ""),
        f"| cell | best peer | its time / ours | from | to | ≥ {NEAR} |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {peer} | {ratio} | {low} | {high} | {near(low, high)} |"
            for name, peer, ratio, low, high in rows
        ),
        *("", *(f"- {line}" for line in sums)),
    ]


def best(answer: Answers, ours: str) -> tuple[str, float, float, float] | None:
    """The fastest peer of a cell, its time over ours, and the interval of that ratio."""
    peers = {name: row for name, row in answer.items() if name not in NOT_PEERS and f"/ {ours}" in row}
    if not peers:
        return None
    name = min(peers, key=lambda peer: peers[peer]["µs"])
    return name, peers[name][f"/ {ours}"], *peers[name][f"/ {ours}, from and to"]


def near(low: float, high: float) -> str:
    """Met where the whole interval is; open where only a part of it is."""
    return "yes" if low >= NEAR else "**no**" if high < NEAR else "open"


def met(holds: bool) -> str:
    return "met" if holds else "**not met**"


def targets(answers: Mapping[str, Answers], steps: Mapping[str, Answers], ours: str) -> Iterator[str]:
    """The other targets, of as many cells as were reached."""
    for cell, answer in steps.items():
        floor, eager, mine = (answer.get(name, {}) for name in ("GEMMs in a graph", "torch", ours))
        if "µs" in floor and f"/ {ours}" in eager and floor["µs"] < LITTLE * eager["µs"]:
            ratio = eager[f"/ {ours}"]
            yield f"{cell}: PyTorch eager takes {ratio} times as long, ≥ {EAGER:g} is wanted: {met(ratio >= EAGER)}"
        if cell.startswith(FLOOR_CELLS) and "/ GEMMs" in mine:
            ratio = mine["/ GEMMs"]
            yield f"{cell}: {ratio} times the products alone, ≤ {FLOOR} is wanted: {met(ratio <= FLOOR)}"
    epoch = answers.get(f"mnist/{MNIST}", {}).get(ours.replace("-", "_"), {})
    if "s" in epoch:
        held = met(epoch["s"] <= EPOCH_SECONDS)
        yield f"an epoch of {MNIST}: {1000 * epoch['s']:.1f} ms, ≤ {1000 * EPOCH_SECONDS:g} are wanted: {held}"
    share = answers.get(f"streaming/{STREAMED}", {}).get("streamed / resident", {}).get("share")
    if share is not None and ours == "gpubp":
        held = met(share >= STREAMED_SHARE)
        yield f"streaming {STREAMED}: {share} of the resident rate, ≥ {STREAMED_SHARE} is wanted: {held}"
