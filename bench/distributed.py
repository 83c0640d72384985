"""Training in two processes against one, `python -m bench.distributed`: the speed-up, and what each step spends where.

784-1024-1024-10, ReLU and softmax, float32, batches of 2048 rows in all: by one process of one thread, by two of one
thread each under `mpiexec`, and by one of two threads. Every turn is a new start, whose first epoch is not timed; in
each round all take their turns. A figure is the median over the rounds, the speed-up that of (two processes' rows a
second / one's in the same round); whole epochs are timed, with all that `fit` does between them.

A step of several processes is cut at four moments: gradients of its own rows, waiting for the slowest process, the sum
of all gradients, the optimizer's step; the rest lies between two steps. Waiting is told from summing by the moment at
which the last process came, on the clock that all processes of one machine share.

Exit codes: 0 whatever the speed-up, 1 a run failed, 2 usage, or MPI is missing.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.distributed_child import PARTS
from bench.peers import names, new_file, number, say, versions
from gpubp.benchmark.machine import BUSY, foreign_load, machine
from gpubp.benchmark.timing import quartiles
from gpubp.extras import to_install
from gpubp.launcher import launch
from gpubp.processor import cores
from gpubp.whole import write_whole

ROOT = Path(__file__).resolve().parents[1]
SIZES, BATCH = (784, 1024, 1024, 10), 2048
OPTIMIZERS = ["sgd", "adam"]
SUMS = (4_000, 40_000, 400_000, 1_000_000, 4_000_000, 10_000_000, 40_000_000)  # bytes
WANTED = 1.8  # times the rows a second of one process
STEADY = 3  # rounds of which a median may be told by itself
OF_A_BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
CHOICES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # which would not be the machine's own


@dataclass(frozen=True)
class Contender:
    processes: int
    threads: int


CONTENDERS = {"one": Contender(1, 1), "two": Contender(2, 1), "threads": Contender(1, 2)}


# -- starting them -----------------------------------------------------------------------------------------------------


class FailedError(Exception):
    """A turn ended with an error."""


def mpiexec() -> str | None:
    """Beside this Python, where `pip install mpich` puts it, or on the PATH."""
    return shutil.which("mpiexec", path=os.path.dirname(sys.executable)) or shutil.which("mpiexec")


def missing() -> str | None:
    """Why no processes can be started that reach each other; None where they can."""
    probe = subprocess.run([sys.executable, "-c", "from mpi4py import MPI"], capture_output=True, text=True)
    if probe.returncode:
        return f"mpi4py cannot be used ({(probe.stderr.strip().splitlines() or ['it ends without a word'])[-1]})"
    return None if mpiexec() else "there is no mpiexec beside this Python or on the PATH"


def environment(threads: int) -> dict[str, str]:
    """This process's, with so many threads and the BLAS kernels that the machine itself would choose."""
    kept = {name: value for name, value in os.environ.items() if name not in CHOICES}
    return kept | dict.fromkeys(OF_A_BLAS, str(threads)) | {"GPUBP_DISTRIBUTED": "auto"}


def command(processes: int, task: dict[str, Any]) -> list[str]:
    """One process is started by itself."""
    started = [] if processes == 1 else [str(mpiexec()), "-n", str(processes)]
    return [*started, sys.executable, "-m", "bench.distributed_child", json.dumps(task)]


def ran(contender: Contender, task: dict[str, Any], patience: float = 300) -> dict[str, Any]:
    """What rank 0 found in a new start, with the share of the machine that others used meanwhile."""
    before = usage()
    line = command(contender.processes, task)
    try:
        done = subprocess.run(
            line, cwd=ROOT, env=environment(contender.threads), capture_output=True, text=True, timeout=patience
        )
    except subprocess.TimeoutExpired:
        raise FailedError(f"{contender} has not ended after {patience:g} s") from None
    if done.returncode:
        raise FailedError(f"{contender} ended with {done.returncode}:\n{done.stderr.strip()}")
    return {**parsed_answer(done.stdout), "others": others(before, usage())}


def parsed_answer(output: str) -> dict[str, Any]:
    """The last line that is an object of JSON: libraries may have said something before it."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            answer: dict[str, Any] = json.loads(line)
            return answer
    raise FailedError(f"no answer in {output!r}")


def usage() -> tuple[float, float, float] | None:
    """Seconds of all cores that passed, that were not idle, and that ended children of this process used."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return None
    ticks, used = os.sysconf("SC_CLK_TCK"), os.times()
    return sum(fields) / ticks, (sum(fields) - fields[3] - fields[4]) / ticks, used.children_user + used.children_system


def others(before: tuple[float, float, float] | None, after: tuple[float, float, float] | None) -> float | None:
    """The share of the machine that neither idled nor was ours.

    >>> others((100.0, 50.0, 20.0), (120.0, 62.0, 30.0))
    0.1
    """
    if before is None or after is None:
        return None
    total, busy, ours = (b - a for a, b in zip(before, after, strict=True))
    return max(0.0, busy - ours) / max(total, 1e-9)


# -- the rounds --------------------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The whole report, kept in the file asked for as far as it is."""
    report: dict[str, Any] = {
        "machine": {**machine(1), "openblas_coretype": None},  # the processes are not given it
        "versions": {},
        "settings": {name: getattr(options, name) for name in ("rounds", "steps", "epochs", "batch")},
        "sizes": list(options.sizes),
        "foreign_load": [],
        "sums": [],
        "turns": {optimizer: {name: [] for name in CONTENDERS} for optimizer in options.optimizer},
    }
    order = list(CONTENDERS)
    for each in range(options.rounds):
        say(f"round {each + 1} of {options.rounds}")
        report["foreign_load"].append(foreign_load())
        report["sums"].append(ran(CONTENDERS["two"], {"what": "sums", "sizes": list(SUMS)}))
        for optimizer in options.optimizer:
            task = {"what": "train", "sizes": list(options.sizes), "batch": options.batch, "optimizer": optimizer}
            for name in order[each % 3 :] + order[: each % 3]:
                turn = ran(CONTENDERS[name], {**task, "steps": options.steps, "epochs": options.epochs})
                report["versions"] |= turn.pop("versions")
                report["turns"][optimizer][name].append(turn)
        if options.json:
            write_whole(options.json, (json.dumps(report, indent=1) + "\n").encode())
    return report


def rows_a_second(report: dict[str, Any], turn: dict[str, Any]) -> float:
    settings = report["settings"]
    return float(settings["batch"] * settings["steps"] / statistics.median(turn["seconds"]))


def disturbed(turn: dict[str, Any]) -> bool:
    return (turn["others"] or 0) > BUSY


def ratios(report: dict[str, Any], optimizer: str) -> list[float]:
    """Two processes' rows a second over one's, by round."""
    turns = report["turns"][optimizer]
    rates = ([rows_a_second(report, turn) for turn in turns[name]] for name in ("two", "one"))
    return [two / one for two, one in zip(*rates, strict=True)]


def quiet(report: dict[str, Any], optimizer: str) -> list[int]:
    """The rounds in which others left all turns of an optimizer alone."""
    turns = report["turns"][optimizer].values()
    return [number for number, of_round in enumerate(zip(*turns, strict=True)) if not any(map(disturbed, of_round))]


def counted(report: dict[str, Any], optimizer: str) -> list[int]:
    """The rounds of which medians are told: the quiet ones where there are some, else all."""
    calm = quiet(report, optimizer)
    return calm if len(calm) >= STEADY else list(range(len(report["turns"][optimizer]["one"])))


def chosen(values: list[Any], rounds: list[int]) -> list[Any]:
    return [values[number] for number in rounds]


# -- telling it --------------------------------------------------------------------------------------------------------


def spread(values: list[float], scale: float = 1.0) -> str:
    """The median ± half the interquartile range."""
    low, middle, high = quartiles(values)
    return f"{number(middle * scale)} ± {number((high - low) / 2 * scale)}"


def speeds(report: dict[str, Any]) -> str:
    """Markdown: a row an optimizer, in rows a second."""
    lines = [
        "| optimizer | 1 process | 2 processes | 1 process, 2 threads | speed-up of 2 processes | its quartiles "
        f"| rounds | of all rounds | ≥ {WANTED} |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for optimizer, turns in report["turns"].items():
        rounds, found = counted(report, optimizer), ratios(report, optimizer)
        rates = [spread([rows_a_second(report, turn) for turn in chosen(turns[name], rounds)]) for name in CONTENDERS]
        low, middle, high = quartiles(chosen(found, rounds))
        kind = "quiet ones" if len(quiet(report, optimizer)) >= STEADY else "all"
        judged = "met" if middle >= WANTED else "**not met**"
        row = [optimizer, *rates, f"**{middle:.2f}**", f"{low:.2f} to {high:.2f}", f"{len(rounds)}, {kind}"]
        row += [f"{statistics.median(found):.2f}, of {len(found)}", judged]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def shares(report: dict[str, Any]) -> str:
    """Markdown: the parts of a step, in milliseconds."""
    lines = ["| a step of | " + " | ".join(PARTS) + " | in all |", "|---" * (2 + len(PARTS)) + "|"]
    for optimizer, turns in report["turns"].items():
        rounds = counted(report, optimizer)
        for name, processes in (("one", "1 process"), ("two", "2 processes")):
            of_rounds = [turn["parts"] for turn in chosen(turns[name], rounds)]
            cells = [spread([each[part] for each in of_rounds], 1e3) for part in PARTS]
            if name == "one":
                cells[1:4] = ["-"] * 3
            whole = spread([sum(each.values()) for each in of_rounds], 1e3)
            lines.append(f"| {optimizer}, {processes} | " + " | ".join([*cells, whole]) + " |")
    return "\n".join(lines)


def sums_told(report: dict[str, Any]) -> str:
    """Markdown: a row a size; bytes a second are those of the vector."""
    calm = [turn for turn in report["sums"] if not disturbed(turn)] or report["sums"]
    lines = ["| bytes | ms | GB/s |", "|---|---|---|"]
    for size in SUMS:
        seconds = [turn["sums"][str(size)] for turn in calm]
        low, middle, high = (1e3 * each for each in quartiles(seconds))
        lines.append(f"| {size:,} | {middle:.3g} ({low:.3g} to {high:.3g}) | {size / middle / 1e6:.2f} |")
    return "\n".join(lines)


def told(report: dict[str, Any]) -> str:
    settings, net = report["settings"], "-".join(map(str, report["sizes"]))
    turns = [turn for of_one in report["turns"].values() for each in of_one.values() for turn in each]
    summed = next(turn["bytes"] for each in report["turns"].values() for turn in each["two"])
    lines = [
        versions(report),
        "",
        f"{net}, batches of {settings['batch']:,} rows in all, {settings['steps']} steps an epoch: rows a second of "
        "whole epochs, the median over the rounds ± half the interquartile range. Quiet are rounds in which others "
        f"used at most {BUSY:.0%} of this machine in each turn; where there are {STEADY} of them, no others count.",
        "",
        speeds(report),
        "",
        f"Milliseconds of the parts of a step. The sum is of {summed:,} bytes, {report['sums'][0]['how']}. One process "
        "has its optimizer's step among the gradients.",
        "",
        shares(report),
        "",
        "A sum over 2 processes, one right after the other: the median and the quartiles.",
        "",
        sums_told(report),
    ]
    if count := sum(map(disturbed, turns)):
        lines += ["", f"**Others used more than {BUSY:.0%} of this machine in {count} of {len(turns)} turns.**"]
    return "\n".join(lines)


# -- the command -------------------------------------------------------------------------------------------------------


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.distributed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    known = ", ".join(OPTIMIZERS)
    add("--optimizer", type=names(OPTIMIZERS), default=OPTIMIZERS, metavar="NAME,...", help=f"of {known} (default all)")
    add("--rounds", type=int, default=5, metavar="N", help="turns of each (default 5: under 2 minutes on 2 cores)")
    add("--steps", type=int, default=10, metavar="N", help="of an epoch (default 10)")
    add("--epochs", type=int, default=2, metavar="N", help="timed in a turn (default 2)")
    add("--batch", type=int, default=BATCH, metavar="ROWS", help=f"of all processes together (default {BATCH})")
    add("--sizes", type=layers, default=SIZES, metavar="N,N,...", help="of the layers (default 784,1024,1024,10)")
    add("--json", type=new_file, metavar="FILE", help="write every figure here, after every round")
    options = parser.parse_args(arguments)
    if not options.optimizer:
        parser.error("--optimizer needs a name")
    if min(options.rounds, options.steps, options.epochs) < 1 or options.batch < 2:
        parser.error("--rounds, --steps and --epochs need a positive number, --batch one of 2 or more")
    if launch().size > 1:
        parser.error("start it by itself: it starts the processes under mpiexec")
    if reason := missing():
        parser.error(f"{reason}: " + to_install("mpi", "'gpubp[mpi]'", "python -m bench.distributed"))
    return options


def layers(text: str) -> tuple[int, ...]:
    """The value of --sizes."""
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) < 2 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"needs two or more positive numbers, such as 784,128,10, got {text!r}")
    return sizes


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    if cores() < 2:
        say("this machine gives one core only: two processes will take turns on it")
    try:
        report = measure(options)
    except FailedError as error:
        say(f"error: {error}")
        return 1
    print(told(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
