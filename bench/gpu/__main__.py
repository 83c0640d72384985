"""What gpubp does on a CUDA machine: python3 -m bench.gpu, from a checkout; docs/gpu.md says what the parts answer.

Results are written after every cell, so that whatever ends the run, they stay. Exit codes: 0 every cell that was
reached is answered, and right; 1 one is not; 2 usage; 3 no GPU can be used.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.gpu.child import Child, UnansweredError
from bench.gpu.harness import Cell, Clock, run
from bench.gpu.machine import ROOT
from bench.gpu.plan import CAPS, PARTS, cells
from bench.gpu.results import Results, UnusableError, read
from gpubp.cli.streams import give_up_streams

FIRST_CALL = 60.0  # seconds that a driver, CuPy and their first kernel may take


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--budget", type=float, default=480, metavar="SECONDS", help="for all of it (default 480)")
    add("--only", default=",".join(PARTS), metavar="PART,...", help=f"of {', '.join(PARTS)}")
    add("--resume", type=Path, metavar="FILE", help="run what this results file lacks, and merge both")
    add("--out", type=Path, default=ROOT / "bench/results", metavar="DIR", help="where results go (bench/results)")
    add("--dry-run", action="store_true", help="only list the cells, with estimates, and where the budget cuts")
    options = parser.parse_args(given)
    options.only = [part for part in options.only.split(",") if part]
    for part in options.only:
        if part not in PARTS:
            parser.error(f"--only names no part {part!r}; choose from {', '.join(PARTS)}")
    if not options.only:
        parser.error(f"--only needs a part; choose from {', '.join(PARTS)}")
    if not (options.budget > 0 and math.isfinite(options.budget)):
        parser.error(f"--budget {options.budget:g} is not a positive number of seconds")
    return options


def listing(planned: list[Cell], budget: float) -> str:
    """Every cell with its estimate, and when it should be done; those that the budget would cut come after a line."""
    total, reached, cut = 0.0, list[str](), list[str]()
    clock = Clock(budget, CAPS, lambda: total)
    for cell in planned:
        if clock.left(cell.part) < cell.estimate:
            cut.append(f"{cell.estimate:6.1f} s{'':18}{cell}")
        else:
            total += cell.estimate
            reached.append(f"{cell.estimate:6.1f} s, {total:7.1f} s in all  {cell}")
    caps = ", ".join(f"{part} {seconds:g} s" for part, seconds in CAPS.items())
    line = f"--- not reached within {budget:g} s, of which these parts get at most: {caps} ---"
    return "\n".join([*reached, *([line, *cut] if cut else [])])


def wrong(answer: Any) -> bool:
    """Whether anything in an answer says that it is not right."""
    if not isinstance(answer, Mapping):
        return False
    return answer.get("right") is False or bool(answer.get("failed")) or any(map(wrong, answer.values()))


def missing(planned: list[Cell], earlier: Path | None) -> list[Cell]:
    """What the earlier results lack: first what was not reached, then what failed."""
    known = read(earlier)["cells"] if earlier else {}
    unanswered = [cell for cell in planned if "answer" not in known.get(str(cell), {})]
    return sorted(unanswered, key=lambda cell: str(cell) in known)


def path_of(device: str, out: Path, earlier: Path | None) -> Path:
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return out / (earlier.name if earlier else f"gpu-{slug}-{datetime.now(UTC):%Y-%m-%d-%H%M}.json")


def main(given: list[str] | None = None) -> int:
    options = arguments(given)
    clock = Clock(options.budget, CAPS)
    planned = [cell for part in PARTS if part in options.only for cell in cells(part)]
    try:
        asked = missing(planned, options.resume)
    except UnusableError as error:
        say(str(error))
        return 2
    if options.dry_run:
        print(listing(asked, options.budget))
        return 0
    child = Child()
    try:
        machine = child.ask("bench.gpu.machine:describe", ("cuda",), FIRST_CALL)
    except UnansweredError as error:
        say(str(error).removeprefix("DeviceError: "))
        return 3
    finally:
        child.end()
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        results = Results(
            path_of(machine["device"], options.out, options.resume), machine, map(str, planned), options.resume
        )
    except UnusableError as error:
        say(str(error))
        return 2
    say(f"{machine['device']}: {len(asked)} cells in {options.budget:.0f} s, into {results.path}")
    run(asked, clock, results, say)
    say(f"{len(results.failed)} without an answer, {len(results.unreached)} not reached: {results.path}")
    print(results.path.with_suffix(".md").read_text())
    bad = results.failed or any(wrong(record.get("answer")) for record in results.cells.values())
    return 1 if bad else 0


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output left; results are in their files
        give_up_streams()
        code = 1
    sys.exit(code)
