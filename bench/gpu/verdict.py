"""What the GPU's results say of gpubp: each target, as its steps are by default and as they are captured."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from bench.gpu.peers import MNIST, OURS, PRECISIONS, STREAMED, steps
from bench.verdict import thousandths

NEAR, MEAN = 0.97, 1.05  # the best peer's time over ours: in every cell, and in the geometric mean
EAGER, LITTLE = 3.0, 0.15  # PyTorch eager's time over ours, where the products are a smaller share of eager's
FLOOR, FLOOR_CELLS = 1.25, "784-4096-4096-10@65536"
EPOCH_SECONDS, STREAMED_SHARE = 0.025, 0.9
NOT_PEERS = ("gemms", "GEMMs in a graph", *OURS)
NOT_REACHED = "not reached"

Answer = Mapping[str, Mapping[str, Any]]


def told(cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Markdown: for each of ours a row for each cell of the peers' steps, and the targets; then which is the better."""
    answers = {name.removeprefix("peers/"): record["answer"] for name, record in cells.items() if "answer" in record}
    raced = {name: cell_of(answers, name) for name in steps()}
    if not any(raced.values()):
        return []
    return ["", "## Targets", *(line for ours in OURS for line in section(ours, answers, raced)), *better(raced)]


def cell_of(answers: Mapping[str, Answer], name: str) -> Answer:
    """A cell's rows, with that of the contender that is timed in a race of its own."""
    own = answers.get(f"autotuned/{name}", {})
    return {**answers.get(f"step/{name}", {}), **{peer: row for peer, row in own.items() if peer not in NOT_PEERS}}


def section(ours: str, answers: Mapping[str, Answer], raced: Mapping[str, Answer]) -> list[str]:
    rows = {name: found for name, answer in raced.items() if (found := best(answer, ours))}
    verdicts = [near(low, high) for _, _, low, high in rows.values()]
    targets = [*against_the_best(rows, verdicts, len(raced)), *others(answers, raced, ours)]
    return [
        *("", f"### {ours}", ""),
        f"| cell | best peer | its time / ours | from | to | ≥ {NEAR} |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {peer} | {ratio} | {low} | {high} | {verdict} |"
            for (name, (peer, ratio, low, high)), verdict in zip(rows.items(), verdicts, strict=True)
        ),
        *("", *(f"- {line}" for line in targets)),
    ]


def best(answer: Answer, ours: str) -> tuple[str, float, float, float] | None:
    """The fastest peer of a cell, its time over ours, and the interval of that ratio."""
    peers = {name: row for name, row in answer.items() if name not in NOT_PEERS and f"/ {ours}" in row}
    if not peers:
        return None
    name = min(peers, key=lambda peer: peers[peer][f"/ {ours}"])
    return name, peers[name][f"/ {ours}"], *peers[name][f"/ {ours}, from and to"]


def near(low: float, high: float) -> str:
    """Met where the whole interval is; open where only a part of it is."""
    return "yes" if low >= NEAR else "**no**" if high < NEAR else "open"


def met(holds: bool) -> str:
    return "met" if holds else "**not met**"


def against_the_best(rows: Mapping[str, Any], verdicts: list[str], planned: int) -> Iterator[str]:
    """In every cell that is planned, and in the geometric mean of those reached."""
    yes, no, missing = verdicts.count("yes"), verdicts.count("**no**"), planned - len(verdicts)
    whole = NOT_REACHED if not rows else met(False) if no else met(True) if yes == planned else "open"
    counts = f"yes in {yes}, no in {no}, open in {len(verdicts) - yes - no}, {NOT_REACHED} {missing}"
    yield f"≥ {NEAR} in each of {planned} cells: {whole} ({counts})"
    if rows:
        mean = statistics.geometric_mean(ratio for _, ratio, _, _ in rows.values())
        yield f"geometric mean {thousandths(mean)} of {len(rows)} cells, ≥ {MEAN} is wanted: {met(mean >= MEAN)}"
    else:
        yield f"geometric mean, ≥ {MEAN} is wanted: {NOT_REACHED}"


def others(answers: Mapping[str, Answer], raced: Mapping[str, Answer], ours: str) -> Iterator[str]:
    """The targets that are not of the best peer."""
    what = f"PyTorch eager's time / ours where products are < {LITTLE:.0%} of it, ≥ {EAGER:g} is wanted"
    little = {name: answer["torch"][f"/ {ours}"] for name, answer in raced.items() if of_launches(answer, ours)}
    for name, ratio in little.items():
        yield f"{name}: {what}: {ratio}, {met(ratio >= EAGER)}"
    if not little:
        yield f"{what}: {NOT_REACHED}"
    for name in (f"{FLOOR_CELLS} {precision}" for precision in PRECISIONS):
        floor, mine = (raced.get(name, {}).get(part, {}).get("µs") for part in ("GEMMs in a graph", ours))
        found = f"{mine / floor:.3f}, {met(mine <= FLOOR * floor)}" if mine and floor else NOT_REACHED
        yield f"{name}: its time / that of its products alone, ≤ {FLOOR} is wanted: {found}"
    mine = ours.replace("-", "_")
    seconds = answers.get(f"mnist/{MNIST}", {}).get(mine, {}).get("s")
    found = f"{1000 * seconds:.2f} ms, {met(seconds <= EPOCH_SECONDS)}" if seconds else NOT_REACHED
    yield f"an epoch of {MNIST}, ≤ {1000 * EPOCH_SECONDS:g} ms are wanted: {found}"
    share = answers.get(f"streaming/{STREAMED}", {}).get(f"{mine}_streamed", {}).get("of resident")
    found = f"{share}, {met(share >= STREAMED_SHARE)}" if share else NOT_REACHED
    yield f"streaming {STREAMED}, ≥ {STREAMED_SHARE} of the resident rate is wanted: {found}"


def of_launches(answer: Answer, ours: str) -> bool:
    """Whether the products are a small share of PyTorch eager's time."""
    floor, eager = answer.get("GEMMs in a graph", {}), answer.get("torch", {})
    return "µs" in floor and f"/ {ours}" in eager and bool(floor["µs"] < LITTLE * eager["µs"])


def better(raced: Mapping[str, Answer]) -> list[str]:
    """Which of ours is the better default: of all cells together, never one for this cell and one for that."""
    default, other = OURS
    ratios = [row for answer in raced.values() if (row := answer.get(default, {}).get(f"/ {other}"))]
    if not ratios:
        return []
    mean = statistics.geometric_mean(ratios)
    slower = sum(ratio < 1 for ratio in ratios)
    told = f"{other} is {thousandths(mean)} times as fast as {default} in the geometric mean of {len(ratios)} cells"
    return ["", f"{told}, and slower in {slower}: the better default is {other if mean > 1 else default}."]
