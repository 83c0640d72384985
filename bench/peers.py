"""The peers' benchmark, `python -m bench.peers`: one training step of gpubp and of others, rounds interleaved.

Every contender lives in its own process and takes its turn while the others sleep. It starts from the same weights,
batch and labels, must reach the reference's losses and parameters before it is timed, and has the same threads.
A ratio is the median over rounds of (its time / gpubp's time in the same round): above 1, gpubp is faster.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bench.contenders import BUILDERS, CHECKED_STEPS, LOSS_TOLERANCE, MODULES, DifferentWorkError, worker
from bench.nets import CELLS

PEERS = ["torch", "torch-compile", "jax", "sklearn"]
# OpenBLAS threads spin for some 25 ms after their last call, OpenMP's for a few: not into the next one's turn.
SETTLE_SECONDS = 0.05
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class FailedError(Exception):
    """A contender could not be built or run."""


@dataclass
class Racer:
    """A contender seen from here: its process and the pipe to it."""

    name: str
    process: BaseProcess
    pipe: Connection
    versions: dict[str, str] = field(default_factory=dict)

    def ask(self, command: str, argument: Any) -> Any:
        try:
            if command != "hello":  # a worker speaks first, once
                self.pipe.send((command, argument))
            verdict, answer = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise FailedError(f"its process ended (exit code {self.process.exitcode})") from error
        if verdict == "different":
            raise DifferentWorkError(f"{self.name} does not compute what the reference computes: {answer}")
        if verdict == "failed":
            raise FailedError(*answer)
        return answer


# One process each: in a shared one, a library's idle threads spin into the next one's turn, and the OpenMP runtime, the
# thread counts and the environment are the first one's. On 2 cores, sharing made PyTorch's step of 784-128-10 at 32
# rows 1.2 to 1.7 times slower, with the pause or without (the others were the same within noise): it would have
# flattered us.
def start(names: list[str], threads: int) -> list[Racer]:
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    context = multiprocessing.get_context("spawn")
    racers = []
    for name in names:
        here, there = context.Pipe()
        process = context.Process(target=worker, args=(there, name, threads), daemon=True)
        process.start()
        there.close()
        racers.append(Racer(name, process, here))
    for racer in racers:
        racer.ask("hello", None)
    return racers


def stop(racers: list[Racer]) -> None:
    for racer in racers:
        with contextlib.suppress(OSError):
            racer.pipe.send(("stop", None))
        racer.process.join(5)
        if racer.process.is_alive():
            racer.process.kill()


def foreign_load(seconds: float = 0.3) -> float | None:
    """The share of the machine that others use while every contender sleeps; None where the system does not tell."""

    def ticks() -> tuple[int, int]:
        fields = [int(f) for f in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    try:
        total, idle = ticks()
        time.sleep(seconds)
        total_after, idle_after = ticks()
    except OSError:
        return None
    return 1 - (idle_after - idle) / max(1, total_after - total)


def quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def run_cell(cell: str, racers: list[Racer], rounds: int, seconds: float) -> dict[str, Any]:
    """Build, check and time every contender on one cell."""
    time.sleep(SETTLE_SECONDS)
    result: dict[str, Any] = {"foreign_load": foreign_load(), "losses": {}, "notes": {}, "left_out": {}}
    running, steps = [], {}
    for racer in racers:
        try:
            built = racer.ask("build", cell)
            per_step = racer.ask("calibrate", max(0.02, seconds / rounds / 2))
        except FailedError as error:
            result["left_out"][racer.name] = list(error.args)
            say(f"{cell}: {racer.name} is left out: {error.args[0]}")
            continue
        racer.versions = built["versions"]
        result["notes"][racer.name] = built["note"]
        if built["losses"]:
            result["losses"][racer.name] = built["losses"]
        steps[racer.name] = max(1, round(seconds / rounds / per_step))
        running.append(racer)
    times: dict[str, list[float]] = {racer.name: [] for racer in running}
    for turn in range(rounds):
        first = turn % max(1, len(running))
        for racer in running[first:] + running[:first]:
            time.sleep(SETTLE_SECONDS)
            times[racer.name].append(racer.ask("run", steps[racer.name]) * 1e6)
    result["rounds_us"], result["steps_a_round"] = times, steps
    result["median_us"] = {name: statistics.median(t) for name, t in times.items()}
    result["quartiles_us"] = {name: quartiles(t) for name, t in times.items()}
    base = "gpubp" if "gpubp" in times else "numpy"
    result["ratios_to"], paired = base, times.get(base, [])
    by_round = {name: [a / b for a, b in zip(t, paired, strict=True)] for name, t in times.items() if paired}
    result["ratios"] = {name: statistics.median(r) for name, r in by_round.items()}
    result["ratio_quartiles"] = {name: quartiles(r) for name, r in by_round.items()}
    return result


def machine(threads: int) -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    return {
        "cpu": model,
        "cores": cores(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE"),  # what the user asked for; the versions say what runs
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    left_out = {n: "not installed" for n in names if n in MODULES and importlib.util.find_spec(MODULES[n]) is None}
    for name, reason in left_out.items():
        say(f"{name} is left out: {reason}")
    names = [n for n in names if n not in left_out]
    report: dict[str, Any] = {
        "machine": machine(options.threads),
        "settings": {"rounds": options.rounds, "seconds": options.seconds, "loss_tolerance": LOSS_TOLERANCE},
        "left_out": left_out,
        "cells": {},
    }
    racers = start(names, options.threads)
    try:
        for cell in cells:
            result = report["cells"][cell] = run_cell(cell, racers, options.rounds, options.seconds)
            agreed = ", ".join(f"{n} {losses[-1]:.6f}" for n, losses in result["losses"].items())
            say(f"{cell}: the same losses to {LOSS_TOLERANCE:g} after {CHECKED_STEPS} steps: {agreed}")
            if (result["foreign_load"] or 0) > 0.05:
                say(f"{cell}: others use {result['foreign_load']:.0%} of this machine: do not trust these figures")
    except DifferentWorkError as error:
        say(f"refused: {error}")
        return 1
    finally:
        stop(racers)
    report["versions"] = {k: v for racer in racers for k, v in racer.versions.items()}
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    print(table(report, names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
