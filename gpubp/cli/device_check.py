"""`gpubp devices --check`: whether a device computes what it should, as a table or as JSON."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import zip_longest
from math import isfinite, isnan
from typing import Any

import click
from rich.text import Text

from gpubp import get_backend
from gpubp.cli.devices import hardware
from gpubp.cli.report import console
from gpubp.parity import Result, check

DTYPES = ("float32", "float64")
TIMED_ROWS = {"cpu": 512, "cuda": 16384}  # of 1024 numbers: more than the caches of either hold
NAME, GROUP = 23, 26  # characters of an operation's name, and of its figures in one dtype
Pair = list[Result]  # of one operation, a result for each dtype that it has


def check_devices(rows: list[dict[str, Any]], as_json: bool) -> bool:
    """Check these devices, print what came of it, and say whether all is well."""
    found: list[tuple[str, Result]] = []
    for row in rows:
        pairs = checked(row["device"])
        results = [result for pair in pairs for result in pair] if as_json else shown(row, pairs)
        found += [(row["device"], result) for result in results]
    well = all(result.ok for _, result in found)
    if as_json:
        checks = [{"device": device, **facts(result)} for device, result in found]
        kernels = {row["device"]: row["kernels"] for row in rows if "kernels" in row}
        click.echo(json.dumps({"ok": well, "kernels": kernels, "checks": checks}, allow_nan=False))
    return well


def checked(device: str) -> Iterator[Pair]:
    backend = get_backend(device)
    timed_rows = TIMED_ROWS[device.partition(":")[0]]
    for pair in zip_longest(*(check(backend, dtype, timed_rows) for dtype in DTYPES)):
        yield [result for result in pair if result]


def facts(result: Result) -> dict[str, Any]:
    """For JSON, which has neither NaN nor infinity."""
    return asdict(result) | {"error": result.error if isfinite(result.error) else None, "ok": result.ok}


def shown(row: dict[str, Any], pairs: Iterator[Pair]) -> list[Result]:
    """Print a line for each operation as it is done, then which were off; gives all results."""
    say((row["device"], "bold"), f": {hardware(row)}")
    if "kernels" in row:
        say((row["kernels"], "dim"))
    say((" " * NAME + "".join(f"{dtype:^{GROUP}}" for dtype in DTYPES), "dim"))
    say((f"{'operation':{NAME}}" + f"{'error':>9}{'tolerance':>11}{'GB/s':>6}" * len(DTYPES), "dim"))
    results: list[Result] = []
    for pair in pairs:
        results += pair
        cells = [(figures(result), "" if result.ok else "bold red") for result in pair]
        blank = " " * GROUP * (len(DTYPES) - len(pair))
        verdict = ("   ok", "green") if all(result.ok for result in pair) else ("  OFF", "bold red")
        say(f"{pair[0].name:{NAME}}", *cells, blank, verdict)
    off = [result for result in results if not result.ok]
    say()
    if off:
        say((f"{row['device']}: {len(off)} of {len(results)} results are off", "bold red"))
    else:
        say((f"{row['device']}: all {len(results)} results are within their tolerances", "bold green"))
    reasons: dict[str, list[str]] = {}
    for result in off:
        reasons.setdefault(why(result), []).append(f"{result.name} in {result.dtype}")
    for reason, names in reasons.items():
        say(f"{', '.join(names)}: {reason}")
    return results


def say(*parts: Any) -> None:
    """A line as it is, whatever the width of the terminal."""
    console().print(Text.assemble(*parts), soft_wrap=True)


def figures(result: Result) -> str:
    if result.problem:
        return f"{'-':>9}{'-':>11}{'':>6}"
    error, tolerance = (f"{figure:.1e}" if figure else "0" for figure in (result.error, result.tolerance))
    speed = "" if result.gb_per_s is None else f"{result.gb_per_s:.{0 if result.gb_per_s >= 10 else 1}f}"
    return f"{error:>9}{tolerance:>11}{speed:>6}"


def why(result: Result) -> str:
    if result.problem:
        return result.problem
    if isnan(result.error):
        return "a result is not a number"
    return f"the largest error is {result.error:.3g}, the tolerance {result.tolerance:.3g}"
