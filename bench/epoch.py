"""An epoch of a data set, `python -m bench.epoch --data mnist.npz`: gpubp and its peers, each training as it does best.

The network is (pixels)-512-256-(classes), ReLU, by Adam, in batches of 128 rows, in float32: on MNIST 784-512-256-10.
An epoch is all rows once, in a new order, from arrays in memory. Every contender starts from the same weights, lives in
its own process with the same threads, and takes its turn while the others sleep; the first epoch, in which compilers
work, is not timed. The losses over all rows after the first and the last epoch show that nobody skips work.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench.epoch_contenders import EPOCHS, EpochBooth, read
from bench.peers import PEERS, figures, names, new_file, say, versions
from gpubp.benchmark.contenders import BUILDERS, Setting
from gpubp.benchmark.machine import BUSY, foreign_load, machine
from gpubp.benchmark.race import Outcome, prepare, take_turns
from gpubp.benchmark.workers import FailedError, racing
from gpubp.errors import DataError
from gpubp.processor import cores
from gpubp.whole import write_whole


def measured(path: Path, names: list[str], threads: int, rounds: int) -> dict[str, Any]:
    """What the JSON says."""
    report: dict[str, Any] = {"machine": machine(threads), "foreign_load": foreign_load(), "rounds": rounds}
    with racing([(name, Setting(threads=threads)) for name in names], booth=EpochBooth) as racers:
        outcomes = prepare(racers, (path,), 1.0, say=lambda racer: say(f"{racer.name}: the first epoch"))
        take_turns(outcomes, rounds)
        for outcome in outcomes:
            add_last_loss(outcome)
        found = {key: value for racer in racers for key, value in racer.versions.items()}
    return {**report, "versions": found, "memory": {o.racer.name: o.memory for o in outcomes}, **figures(outcomes)}


def add_last_loss(outcome: Outcome) -> None:
    if outcome.error is None:
        try:
            outcome.losses.append(outcome.racer.ask("loss"))
        except FailedError as error:
            outcome.error = error


def told(report: dict[str, Any]) -> str:
    """Markdown: a row a contender, the fastest first."""
    lines = [
        versions(report),
        "",
        f"Seconds an epoch: the median of {report['rounds']} ± half the interquartile range; the ratio is the median "
        f"of (its time / gpubp's in the same round): above 1, gpubp is faster. The loss is that of all rows.",
        "",
        f"| contender | s an epoch | / gpubp | loss after 1 epoch | after {1 + report['rounds']} | how |",
        "|---|---|---|---|---|---|",
    ]
    for name, median in sorted(report["median_us"].items(), key=lambda entry: entry[1]):
        low, high = report["quartiles_us"][name]
        ratio = f"**{report['ratios'][name]:.2f}**" if name in report["ratios"] else "-"
        first, last = report["losses"][name]
        lines.append(
            f"| {name} | {median / 1e6:.3f} ± {(high - low) / 2e6:.3f} | {ratio} | {first:.4f} | {last:.4f} "
            f"| {report['notes'][name]} |"
        )
    lines += ["", *(f"Left out: {name}: {reason[0]}" for name, reason in report["left_out"].items())]
    if (report["foreign_load"] or 0) > BUSY:
        lines.append(f"**Others used {report['foreign_load']:.0%} of this machine: do not trust these figures.**")
    return "\n".join(lines).rstrip()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.epoch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="FILE.npz", help="with x_train, bytes or floats, and y_train")
    add("--rounds", type=int, default=7, metavar="N", help="timed epochs of each contender (default 7)")
    add("--threads", type=int, default=cores(), metavar="N", help="threads of every contender (default: all cores)")
    add("--against", type=names(PEERS), default=PEERS, metavar="NAME,...", help=f"of {', '.join(PEERS)} (default all)")
    add("--json", type=new_file, metavar="FILE", help="write every figure here")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or not 1 <= options.threads <= cores():
        parser.error(f"--rounds needs a positive number, --threads one from 1 to {cores()}")
    try:
        read(options.data)
    except DataError as error:
        parser.error(str(error))
    setting, able = Setting(threads=options.threads), []
    for name in EPOCHS:
        if name == "gpubp" or name in options.against:
            if reason := BUILDERS[name].why_not(setting):
                say(f"{name} is left out: {reason}")
            else:
                able.append(name)
    report = measured(options.data, able, options.threads, options.rounds)
    if options.json:
        write_whole(options.json, (json.dumps(report, indent=1) + "\n").encode())
    print(told(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
