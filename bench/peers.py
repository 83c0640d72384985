"""The peers' benchmark, `python -m bench.peers`: one training step of gpubp and of others, rounds interleaved.

Every contender lives in its own process and takes its turn while the others sleep. It starts from the same weights,
batch and labels, must reach the reference's losses and parameters before it is timed, and has the same threads.
A ratio is the median over rounds of (its time / gpubp's time in the same round): above 1, gpubp is faster.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from bench.nets import CELLS, SEED
from gpubp.benchmark.contenders import BUILDERS, DifferentWorkError, Setting
from gpubp.benchmark.contract import CHECKED_STEPS, TOLERANCES
from gpubp.benchmark.machine import BUSY, foreign_load, machine
from gpubp.benchmark.race import Outcome, prepare, take_turns
from gpubp.benchmark.timing import SETTLE_SECONDS, quartiles
from gpubp.benchmark.workers import Racer, racing
from gpubp.processor import cores

PEERS = ["torch", "torch-compile", "jax", "sklearn"]
LOSS_TOLERANCE, _ = TOLERANCES["float32"]


def run_cell(name: str, racers: list[Racer], rounds: int, seconds: float) -> dict[str, Any]:
    """Build, check and time every contender on one cell; DifferentWorkError where one is to be refused."""
    time.sleep(SETTLE_SECONDS)
    load, cell = foreign_load(), CELLS[name]
    outcomes = prepare(racers, (cell.sizes, cell.batch, "sigmoid", SEED), seconds / rounds)
    for outcome in outcomes:
        if isinstance(outcome.error, DifferentWorkError):
            raise DifferentWorkError(
                f"{outcome.racer.name} does not compute what the reference computes: {outcome.error}"
            )
    take_turns(outcomes, rounds)
    for outcome in outcomes:
        if outcome.error:
            say(f"{name}: {outcome.racer.name} is left out: {outcome.error}")
    return {"foreign_load": load, **figures(outcomes)}


def figures(outcomes: list[Outcome]) -> dict[str, Any]:
    """What the JSON says of a cell, by contender."""
    ran = {outcome.racer.name: outcome for outcome in outcomes if not outcome.error}
    times = {name: [each * 1e6 for each in outcome.seconds] for name, outcome in ran.items()}
    base = "gpubp" if "gpubp" in times else "numpy"
    paired = times.get(base, [])
    by_round = {name: [a / b for a, b in zip(t, paired, strict=True)] for name, t in times.items() if paired}
    return {
        "losses": {name: outcome.losses for name, outcome in ran.items() if outcome.losses},
        "notes": {name: outcome.note for name, outcome in ran.items()},
        "left_out": {outcome.racer.name: list(outcome.error.args) for outcome in outcomes if outcome.error},
        "rounds_us": times,
        "steps_a_round": {name: outcome.steps for name, outcome in ran.items()},
        "median_us": {name: statistics.median(t) for name, t in times.items()},
        "quartiles_us": {name: quartiles(t)[::2] for name, t in times.items()},
        "ratios_to": base,
        "ratios": {name: statistics.median(r) for name, r in by_round.items()},
        "ratio_quartiles": {name: quartiles(r)[::2] for name, r in by_round.items()},
    }


def table(report: dict[str, Any], names: list[str]) -> str:
    """Markdown: a row a cell; each entry is the median, half the distance of the quartiles, and the ratio."""
    where, cells = report["machine"], report["cells"]
    base = next(iter(cells.values()))["ratios_to"]
    head = ["cell", "GEMMs alone", *(n for n in names if n != "gemms"), f"GEMMs' share of {base}"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        f"{where['cpu']}, {where['cores']} cores, {where['threads']} threads; Python {where['python']}, {versions}; "
        f"{where['date'][:10]}.",
        "",
        f"Microseconds a step: the median of {report['settings']['rounds']} rounds ± half the interquartile range; "
        f"in brackets the ratio to {base}: above 1, {base} is faster.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for cell, result in cells.items():
        row = [cell]
        for name in ["gemms", *(n for n in names if n != "gemms")]:
            if name not in result["median_us"]:
                row.append("left out")
                continue
            low, high = result["quartiles_us"][name]
            text = f"{number(result['median_us'][name])} ± {number((high - low) / 2)}"
            ratio = result["ratios"].get(name)
            row.append(text if ratio is None or name in (base, "gemms") else f"{text} (**{ratio:.2f}**)")
        share = result["ratios"].get("gemms")
        row.append("" if share is None else f"{share:.0%}")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cells", default=",".join(CELLS), metavar="NAME,...", help="of " + ", ".join(CELLS))
    add("--rounds", type=int, default=9, metavar="N", help="turns of each contender (default 9)")
    add("--seconds", type=float, default=2.0, metavar="S", help="timed seconds a contender and cell (default 2)")
    add("--threads", type=int, default=cores(), metavar="N", help="threads of every contender (default: all cores)")
    add("--json", metavar="FILE", help="write every figure here")
    add("--against", default=",".join(PEERS), metavar="NAME,...", help="of " + ", ".join(PEERS))
    options = parser.parse_args(arguments)
    cells, peers = ([n for n in text.split(",") if n] for text in (options.cells, options.against))
    for what, asked, known in (("cell", cells, list(CELLS)), ("peer", peers, PEERS)):
        for name in asked:
            if name not in known:
                parser.error(f"there is no {what} {name!r}; choose from {', '.join(known)}")
    if not cells or options.rounds < 1 or options.seconds <= 0 or not 1 <= options.threads <= cores():
        parser.error(
            f"--cells needs a name, --rounds and --seconds a positive number, --threads one from 1 to {cores()}"
        )

    names = [n for n in BUILDERS if n in ("gemms", "numpy", "gpubp") or n in peers]
    setting = Setting(threads=options.threads)
    left_out = {name: reason for name in names if (reason := BUILDERS[name].why_not(setting))}
    for name, reason in left_out.items():
        say(f"{name} is left out: {reason}")
    names = [n for n in names if n not in left_out]
    report: dict[str, Any] = {
        "machine": machine(options.threads),
        "settings": {"rounds": options.rounds, "seconds": options.seconds, "loss_tolerance": LOSS_TOLERANCE},
        "left_out": left_out,
        "cells": {},
    }
    try:
        with racing([(name, setting) for name in names]) as racers:
            for cell in cells:
                result = report["cells"][cell] = run_cell(cell, racers, options.rounds, options.seconds)
                agreed = ", ".join(f"{n} {losses[-1]:.6f}" for n, losses in result["losses"].items())
                say(f"{cell}: the same losses to {LOSS_TOLERANCE:g} after {CHECKED_STEPS} steps: {agreed}")
                if (result["foreign_load"] or 0) > BUSY:
                    say(f"{cell}: others use {result['foreign_load']:.0%} of this machine: do not trust these figures")
    except DifferentWorkError as error:
        say(f"refused: {error}")
        return 1
    report["versions"] = {k: v for racer in racers for k, v in racer.versions.items()}
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    print(table(report, names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
