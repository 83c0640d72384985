"""The peers' benchmark, `python -m bench.peers`: one training step of gpubp and of others, rounds interleaved.

Every contender lives in its own process and takes its turn while the others sleep. It starts from the same weights,
batch and labels, must reach the reference's losses and parameters before it is timed, and has the same threads.
A ratio is the median over rounds of (its time / gpubp's time in the same round): above 1, gpubp is faster.

Exit codes: 0 whoever is faster, 1 a contender was refused, as it computed something else; 2 usage.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from bench import verdict
from bench.nets import CELLS, SEED
from gpubp.benchmark.contenders import BUILDERS, DifferentWorkError, Setting
from gpubp.benchmark.contract import CHECKED_STEPS, tolerances
from gpubp.benchmark.machine import BUSY, foreign_load, machine
from gpubp.benchmark.problem import ACTIVATIONS, OPTIMIZERS
from gpubp.benchmark.race import Outcome, prepare, take_turns
from gpubp.benchmark.timing import SETTLE_SECONDS, quartiles
from gpubp.benchmark.workers import Racer, racing
from gpubp.processor import cores
from gpubp.whole import write_whole

PEERS = ["torch", "torch-compile", "jax", "sklearn"]


def run_cell(
    name: str, activation: str, optimizer: str, racers: list[Racer], rounds: int, seconds: float
) -> dict[str, Any]:
    """Build, check and time every contender on one cell; whoever is refused or fails is left out, and named."""
    time.sleep(SETTLE_SECONDS)
    load, cell, called = foreign_load(), CELLS[name], f"{name}, {activation}, {optimizer}"
    outcomes = prepare(racers, (cell.sizes, cell.batch, activation, SEED, optimizer), seconds / rounds)
    take_turns(outcomes, rounds)
    for outcome in outcomes:
        if isinstance(outcome.error, DifferentWorkError):
            say(f"{called}: {outcome.racer.name} is refused, it does not compute the reference: {outcome.error}")
        elif outcome.error:
            say(f"{called}: {outcome.racer.name} is left out: {outcome.error}")
    tolerance, _ = tolerances(activation, optimizer)
    agreed = ", ".join(f"{each.racer.name} {each.losses[-1]:.6f}" for each in outcomes if each.losses)
    say(f"{called}: the same losses to {tolerance:g} after {CHECKED_STEPS} steps: {agreed}")
    if (load or 0) > BUSY:
        say(f"{called}: others use {load:.0%} of this machine: do not trust these figures")
    return {"foreign_load": load, "loss_tolerance": tolerance, **figures(outcomes)}


def figures(outcomes: list[Outcome]) -> dict[str, Any]:
    """What the JSON says of a cell, by contender."""
    ran = {outcome.racer.name: outcome for outcome in outcomes if not outcome.error}
    times = {name: [each * 1e6 for each in outcome.seconds] for name, outcome in ran.items()}
    mine = times.get("gpubp", [])
    by_round = {name: [a / b for a, b in zip(t, mine, strict=True)] for name, t in times.items() if mine}
    return {
        "losses": {name: outcome.losses for name, outcome in ran.items() if outcome.losses},
        "notes": {name: outcome.note for name, outcome in ran.items()},
        "left_out": {outcome.racer.name: list(outcome.error.args) for outcome in outcomes if outcome.error},
        "refused": [o.racer.name for o in outcomes if isinstance(o.error, DifferentWorkError)],
        "rounds_us": times,
        "steps_a_round": {name: outcome.steps for name, outcome in ran.items()},
        "median_us": {name: statistics.median(t) for name, t in times.items()},
        "quartiles_us": {name: quartiles(t)[::2] for name, t in times.items()},
        "ratios": {name: statistics.median(r) for name, r in by_round.items()},
        "ratio_quartiles": {name: quartiles(r)[::2] for name, r in by_round.items()},
    }


def versions(report: dict[str, Any]) -> str:
    """What it was measured on, in a line."""
    where = report["machine"]
    found = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    threads = f"{where['cpu']}, {where['cores']} cores, {where['threads']} threads"
    return f"{threads}; Python {where['python']}, {found}; {where['date'][:10]}."


def table(cells: dict[str, Any], names: list[str]) -> str:
    """Markdown: a row a cell; each entry is the median, half the distance of the quartiles, and the ratio."""
    names = ["gemms", *(name for name in names if name != "gemms")]
    head = ["cell", "GEMMs alone", *names[1:], "GEMMs' share of gpubp"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for cell, result in cells.items():
        row = [cell]
        for name in names:
            if name not in result["median_us"]:
                row.append("refused" if name in result["refused"] else "left out")
                continue
            low, high = result["quartiles_us"][name]
            text = f"{number(result['median_us'][name])} ± {number((high - low) / 2)}"
            ratio = result["ratios"].get(name)
            row.append(text if ratio is None or name in ("gpubp", "gemms") else f"{text} (**{ratio:.2f}**)")
        share = result["ratios"].get("gemms")
        row.append("" if share is None else f"{share:.0%}")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def measure(options: argparse.Namespace, able: list[str], report: dict[str, Any]) -> None:
    """Fill the report, cell by cell, and keep it in the file asked for as far as it is."""
    setting = Setting(threads=options.threads)
    with racing([(name, setting) for name in able]) as racers:
        for activation, optimizer in product(options.activation, options.optimizer):
            cells: dict[str, Any] = {}
            report["tables"].append({"activation": activation, "optimizer": optimizer, "cells": cells})
            for cell in options.cells:
                cells[cell] = run_cell(cell, activation, optimizer, racers, options.rounds, options.seconds)
                report["versions"] = {k: v for racer in racers for k, v in racer.versions.items()}
                report["verdict"] = verdict.report(judged(report))
                if options.json:
                    write_whole(options.json, (json.dumps(report, indent=1) + "\n").encode())


def judged(report: dict[str, Any]) -> list[verdict.Judgement]:
    return [
        verdict.judge(f"{cell}, {each['activation']}, {each['optimizer']}", result["rounds_us"])
        for each in report["tables"]
        for cell, result in each["cells"].items()
    ]


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    add = parser.add_argument
    options: list[tuple[str, list[str], list[str], str]] = [
        ("--cells", list(CELLS), list(CELLS), "of"),
        ("--activation", list(ACTIVATIONS), ["sigmoid"], "a table for each, of"),
        ("--optimizer", list(OPTIMIZERS), ["sgd"], "a table for each, of"),
        ("--against", PEERS, PEERS, "of"),
    ]
    for option, known, default, text in options:
        told = f"{text} {', '.join(known)} (default {'all' if default == known else ','.join(default)})"
        add(option, type=names(known), default=default, metavar="NAME,...", help=told)
    add("--rounds", type=int, default=9, metavar="N", help="turns of each contender (default 9)")
    add("--seconds", type=float, default=1.0, metavar="S", help="timed seconds a contender and cell (default 1)")
    add("--threads", type=int, default=cores(), metavar="N", help="threads of every contender (default: all cores)")
    add("--json", type=new_file, metavar="FILE", help="write every figure here, after every cell")
    given = parser.parse_args(arguments)
    for option in ("cells", "activation", "optimizer"):
        if not getattr(given, option):
            parser.error(f"--{option} needs a name")
    if given.rounds < 1 or not 0 < given.seconds < math.inf or not 1 <= given.threads <= cores():
        parser.error(f"--rounds and --seconds need a positive number, --threads one from 1 to {cores()}")
    return given


def names(known: list[str]) -> Callable[[str], list[str]]:
    """What takes apart the value of an option that lists some of these."""

    def parse(text: str) -> list[str]:
        given = list(dict.fromkeys(name for name in text.split(",") if name))
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not known; choose from {', '.join(known)}")
        return given

    return parse


def new_file(text: str) -> Path:
    """The value of an option that names a file to be written: better found out now than after minutes."""
    path = Path(text)
    if not path.resolve().parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    return path


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    setting = Setting(threads=options.threads)
    wanted = [name for name in BUILDERS if name in ("gemms", "numpy", "gpubp") or name in options.against]
    left_out = {name: reason for name in wanted if (reason := BUILDERS[name].why_not(setting))}
    for name, reason in left_out.items():
        say(f"{name} is left out: {reason}")
    able = [name for name in wanted if name not in left_out]
    report: dict[str, Any] = {
        "machine": machine(options.threads),
        "settings": {"rounds": options.rounds, "seconds": options.seconds},
        "left_out": left_out,
        "tables": [],
    }
    measure(options, able, report)
    print(
        f"{versions(report)}\n\nMicroseconds a step: the median of {options.rounds} rounds ± half the interquartile "
        "range; in brackets the ratio to gpubp: above 1, gpubp is faster."
    )
    for each in report["tables"]:
        print(f"\n### {each['activation']}, {each['optimizer']}\n\n{table(each['cells'], able)}")
    print(f"\n### Against the best peer of each cell\n\n{verdict.told(judged(report))}")
    results = [result for each in report["tables"] for result in each["cells"].values()]
    busy = sum((result["foreign_load"] or 0) > BUSY for result in results)
    if busy:
        print(f"\n**Others used more than {BUSY:.0%} of this machine before {busy} of {len(results)} cells.**")
    return int(any(result["refused"] for result in results))


if __name__ == "__main__":
    sys.exit(main())
