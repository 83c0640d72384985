"""Fit time, `python -m bench.sklearn_fit`: gpubp.sklearn.MLPClassifier against scikit-learn's own, rounds interleaved.

A time is that of a whole `fit` on synthetic data, checks of the input included: so many epochs of eight batches or
more, the last of each a shorter one, with scikit-learn's defaults but for what the cell sets and for `tol=0` and
`n_iter_no_change=inf`, so that nobody stops early. Either lives in its own process with the same threads and starts
from the same `random_state`: the losses of the epochs must agree, or nothing is compared. The first two fits, in which
a compiler may work, are not timed. A ratio is the median over rounds of (scikit-learn's time / gpubp's time in the same
round): above 1, gpubp is faster.

Exit codes: 0 whoever is faster, 1 the losses differ, or one of the two failed; 2 usage.
"""

import argparse
import json
import math
import sys
import time
import warnings
from functools import partial
from importlib import import_module
from itertools import product
from statistics import geometric_mean
from typing import Any

from bench.nets import CELLS, SEED
from bench.peers import figures, names, new_file, number, say, versions
from bench.verdict import thousandths
from gpubp.benchmark.contenders import BUILDERS, Contender, DifferentWorkError, Setting
from gpubp.benchmark.machine import BUSY, foreign_load, machine, versions_of
from gpubp.benchmark.race import Outcome, prepare, take_turns
from gpubp.benchmark.timing import SETTLE_SECONDS, timed
from gpubp.benchmark.workers import Booth, Racer, racing
from gpubp.kernel import Array
from gpubp.processor import cores
from gpubp.whole import write_whole

PACKAGES = {"gpubp": "gpubp.sklearn", "sklearn": "sklearn.neural_network"}
SOLVERS = {"adam": {"solver": "adam"}, "momentum": {"solver": "sgd"}}  # scikit-learn's sgd has momentum, Nesterov's
ACTIVATIONS = ("relu", "logistic", "tanh", "identity")
BATCHES, ROWS = 8, 2048  # the least of an epoch
# How far the losses of the first epochs may be apart, as a share, and those of later ones, when rounding has grown: of
# eight layers by Adam, 2e-4 in float32 after three epochs became 1e-2 after ten.
TOLERANCES, FIRST, LATER = {"float32": 1e-3, "float64": 1e-6}, 3, 0.03
SMALL = "64-32-32-10@32"
LEAST, LEAST_ON_SMALL, LEAST_MEAN = 1.0, 5.0, 2.5  # times scikit-learn's speed


# -- one fit -----------------------------------------------------------------------------------------------------------


def rows_of(batch: int) -> int:
    """So many that an epoch has BATCHES batches at least, and the last of them is a third of the others."""
    return max(BATCHES, ROWS // batch) * batch + batch // 3


def data(inputs: int, classes: int, rows: int, dtype: str) -> tuple[Array, Array]:
    """Uniform X, and y that a linear rule gives."""
    import numpy as np

    generator = np.random.default_rng(SEED)
    x = generator.random((rows, inputs), np.float32)
    y = ((x - 0.5) @ generator.normal(size=(inputs, classes)).astype(np.float32)).argmax(axis=1)
    y[:classes] = np.arange(classes)  # none is missing
    return x.astype(dtype, copy=False), y


def fits(
    package: str, sizes: tuple[int, ...], batch: int, activation: str, solver: str, dtype: str, epochs: int, **more: Any
) -> Contender:
    """A contender whose step is a fit, which returns the losses of its epochs."""
    import numpy as np

    make = partial(
        import_module(package).MLPClassifier,
        sizes[1:-1],
        activation,
        batch_size=batch,
        max_iter=epochs,
        tol=0,
        n_iter_no_change=np.inf,
        random_state=SEED,
        **SOLVERS[solver],
        **more,
    )
    x, y = data(sizes[0], sizes[-1], rows_of(batch), dtype)

    def fit() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged
            return make().fit(x, y).loss_curve_

    return Contender(fit, note=package)


class FitBooth(Booth):
    """The process of a contender whose every step is a fit."""

    def build(self, *cell: Any) -> dict[str, Any]:
        more = {"device": self.setting.device} if self.name == "gpubp" else {}
        self.contender = contender = fits(PACKAGES[self.name], *cell, **more)
        losses = [float(loss) for loss in contender.step()]
        versions = versions_of(self.name, ("numpy", *BUILDERS["sklearn"].distributions))
        return {"losses": losses, "note": contender.note, "versions": versions}

    def calibrate(self, seconds: float) -> float:
        """Seconds a fit, of the second."""
        assert self.contender is not None
        return timed(self.contender.step, self.contender.wait, 1)

    def run(self, steps: int) -> float:
        """Seconds a fit; none before it, as a fit begins with nothing that an earlier one has left."""
        assert self.contender is not None
        return timed(self.contender.step, self.contender.wait, steps)


# -- the race ----------------------------------------------------------------------------------------------------------


def run_cell(
    racers: list[Racer], options: argparse.Namespace, name: str, activation: str, solver: str, dtype: str
) -> dict[str, Any]:
    """Both on one cell: what the JSON says."""
    time.sleep(SETTLE_SECONDS)
    load, cell, called = foreign_load(), CELLS[name], f"{name}, {activation}, {solver}, {dtype}"
    work = (cell.sizes, cell.batch, activation, solver, dtype, options.epochs)
    outcomes = prepare(racers, work, options.seconds / options.rounds)
    compare(outcomes, options.epochs, TOLERANCES[dtype])
    take_turns(outcomes, options.rounds)
    for outcome in outcomes:
        if outcome.error:
            say(f"{called}: {outcome.racer.name}: {outcome.error}")
    if (load or 0) > BUSY:
        say(f"{called}: others use {load:.0%} of this machine: do not trust these figures")
    steps = options.epochs * math.ceil(rows_of(cell.batch) / cell.batch)
    return {"foreign_load": load, "steps": steps, **figures(outcomes)}


def compare(outcomes: list[Outcome], epochs: int, tolerance: float) -> None:
    """Refuse gpubp's work where an epoch's loss is not scikit-learn's."""
    if any(outcome.error for outcome in outcomes):
        return
    ours, theirs = (outcome.losses for outcome in outcomes)
    close = [
        math.isclose(a, b, rel_tol=tolerance if epoch < FIRST else LATER)
        for epoch, (a, b) in enumerate(zip(ours, theirs, strict=False))
    ]
    if not (all(close) and len(ours) == len(theirs) == epochs):
        outcomes[0].error = DifferentWorkError(f"its losses are {ours}, scikit-learn's {theirs}")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The whole report, kept in the file asked for as far as it is."""
    report: dict[str, Any] = {
        "machine": machine(options.threads),
        "settings": {"rounds": options.rounds, "seconds": options.seconds, "epochs": options.epochs},
        "tables": [],
    }
    setting = Setting(threads=options.threads)
    with racing([(name, setting) for name in PACKAGES], booth=FitBooth) as racers:
        for of in product(options.activation, options.solver, options.dtype):
            cells: dict[str, Any] = {}
            report["tables"].append({**dict(zip(("activation", "solver", "dtype"), of, strict=True)), "cells": cells})
            for cell in options.cells:
                cells[cell] = run_cell(racers, options, cell, *of)
                report["versions"] = {k: v for racer in racers for k, v in racer.versions.items()}
                report["verdict"] = {dtype: judged(report, dtype) for dtype in options.dtype}
                if options.json:
                    write_whole(options.json, (json.dumps(report, indent=1) + "\n").encode())
    return report


# -- what is told ------------------------------------------------------------------------------------------------------


def judged(report: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The ratios of a dtype: which are not as wanted, and their geometric mean."""
    ratios = {
        f"{cell}, {each['activation']}, {each['solver']}": result["ratios"].get("sklearn", 0.0)
        for each in report["tables"]
        if each["dtype"] == dtype
        for cell, result in each["cells"].items()
    }
    small = {name: ratio for name, ratio in ratios.items() if name.startswith(SMALL)}
    return {
        "ratios": ratios,
        "slower": [name for name, ratio in ratios.items() if ratio <= LEAST],
        "not enough on the small net": [name for name, ratio in small.items() if ratio < LEAST_ON_SMALL],
        "geometric_mean": geometric_mean(ratios.values()) if ratios and all(ratios.values()) else None,
    }


def table(cells: dict[str, Any]) -> str:
    """Markdown: a row a cell."""
    lines = [
        "| cell | steps | scikit-learn, ms a fit | gpubp, ms a fit | ratio | its quartiles | last loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for cell, result in cells.items():
        row = [cell, f"{result['steps']}"]
        if "sklearn" in result["ratios"]:
            for name in ("sklearn", "gpubp"):
                low, high = result["quartiles_us"][name]
                row.append(f"{number(result['median_us'][name] / 1e3)} ± {number((high - low) / 2e3)}")
            row.append(f"**{thousandths(result['ratios']['sklearn'])}**")
            row.append(" to ".join(map(thousandths, result["ratio_quartiles"]["sklearn"])))
            row.append(f"{result['losses']['gpubp'][-1]:.4f}")
        else:
            row += ["refused" if result["refused"] else "failed", "", "", "", ""]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def told(verdict: dict[str, Any], dtype: str) -> str:
    """What it comes to, in lines: wanted, had."""

    def line(wanted: str, lost: list[str]) -> str:
        return f"- {wanted}: " + ("**not met** in " + "; ".join(lost) if lost else "met.")

    lines = [
        f"### {dtype}",
        "",
        line(f"faster than scikit-learn in all {len(verdict['ratios'])} cells", verdict["slower"]),
    ]
    if any(name.startswith(SMALL) for name in verdict["ratios"]):
        lines.append(line(f"≥ {LEAST_ON_SMALL:g} times as fast on {SMALL}", verdict["not enough on the small net"]))
    mean = verdict["geometric_mean"]
    had = "unknown" if mean is None else thousandths(mean)
    answer = "met" if mean is not None and mean >= LEAST_MEAN else "**not met**"
    return "\n".join([*lines, f"- geometric mean of the ratios ≥ {LEAST_MEAN:g}: {had}, {answer}."])


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sklearn_fit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    options: list[tuple[str, list[str], list[str]]] = [
        ("--cells", list(CELLS), list(CELLS)),
        ("--activation", list(ACTIVATIONS), ["relu"]),
        ("--solver", list(SOLVERS), list(SOLVERS)),
        ("--dtype", list(TOLERANCES), list(TOLERANCES)),
    ]
    for option, known, default in options:
        told = f"of {', '.join(known)} (default {'all' if default == known else ','.join(default)})"
        add(option, type=names(known), default=default, metavar="NAME,...", help=told)
    add("--epochs", type=int, default=10, metavar="N", help="of a fit (default 10; scikit-learn's limit is 200)")
    add("--rounds", type=int, default=9, metavar="N", help="turns of each (default 9)")
    add("--seconds", type=float, default=2.0, metavar="S", help="least timed seconds of each and cell (default 2)")
    add("--threads", type=int, default=cores(), metavar="N", help="threads of each (default: all cores)")
    add("--json", type=new_file, metavar="FILE", help="write every figure here, after every cell")
    given = parser.parse_args(arguments)
    for option, _, _ in options:
        if not getattr(given, option[2:]):
            parser.error(f"{option} needs a name")
    if min(given.epochs, given.rounds) < 1 or not 0 < given.seconds < math.inf or not 1 <= given.threads <= cores():
        parser.error(f"--epochs, --rounds and --seconds need a positive number, --threads one from 1 to {cores()}")
    return given


def main(arguments: list[str] | None = None) -> int:
    report = measure(parsed(arguments))
    rounds, epochs = (report["settings"][name] for name in ("rounds", "epochs"))
    print(f"{versions(report)}\n\nFits of {epochs} epochs: medians of {rounds} rounds ± half the interquartile range.")
    for each in report["tables"]:
        print(f"\n### {each['activation']}, {each['solver']}, {each['dtype']}\n\n{table(each['cells'])}")
    print("\n## Verdict")
    for dtype, verdict in report["verdict"].items():
        print(f"\n{told(verdict, dtype)}")
    results = [result for each in report["tables"] for result in each["cells"].values()]
    busy = sum((result["foreign_load"] or 0) > BUSY for result in results)
    if busy:
        print(f"\n**Others used more than {BUSY:.0%} of this machine before {busy} of {len(results)} cells.**")
    return int(any(result["left_out"] for result in results))


if __name__ == "__main__":
    sys.exit(main())
