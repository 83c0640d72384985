"""`gpubp devices`: what can be computed on here, and why not on more."""

import json
from typing import Any

import click

from gpubp.cli import EXIT_FAILURE, command_line, tell
from gpubp.cli.options import shared


@click.command(short_help="What can be computed on here, and why not on more.")
@click.option("--check", is_flag=True, help="Run every kernel and ten training steps; exit with 1 if anything is off.")
@click.option("--report", is_flag=True, help="Print what a bug report should say, to be pasted into it.")
@shared
@click.pass_context
def command(
    ctx: click.Context,
    check: bool,
    report: bool,
    device: str,
    seed: int,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """List the CPU, every CUDA GPU, and MPI and NCCL, by which several processes train together.

    Where one cannot be used, say why and what would mend it. Under mpiexec or srun, each process is listed.

    \b
    gpubp devices
    gpubp devices --device cuda:1 --quiet
    gpubp devices --check
    gpubp devices --report

    With --device the exit code says whether that device can be used. --check holds each result of that device, or of
    all that can be used, against NumPy in float64, in float32 and float64: the largest error, in units of what was
    rounded, must stay within a tolerance derived for the operation.
    """
    from gpubp import devices, get_backend
    from gpubp.cli import processes

    if report and (check or as_json):
        raise click.UsageError("--report is a text of its own; leave out --check and --json", ctx)
    chosen = get_backend(device).name
    rows = devices()
    if check:
        from gpubp.cli.device_check import check_devices

        wanted = rows if device == "auto" else [row for row in rows if row["device"] == chosen]
        well = check_devices([row for row in wanted if row["available"] == "yes"], as_json)
        tell(quiet, *(f"{row['device']} was not checked: {row['reason']}" for row in wanted if "reason" in row))
        tell(quiet, not well and f"to report this: {command_line('devices', '--report')}")
        if not well:
            ctx.exit(EXIT_FAILURE)
    elif report:
        from gpubp.cli.bug_report import bug_report

        click.echo(bug_report(rows))
    elif as_json:
        click.echo(json.dumps({"devices": rows, "processes": processes.rows()}))
    else:
        show(rows + processes.rows())


def show(rows: list[dict[str, Any]]) -> None:
    """Each device, and below it what drives it or why it cannot be used."""
    from rich.text import Text

    from gpubp.cli.report import console

    width = max(len(row["device"]) for row in rows) + 3
    out = console()
    for row in rows:
        usable = row["available"] == "yes"
        first, *more = lines(row) if usable else ["not available", *row["reason"].split("; ")]
        name = (f"{row['device']:{width}}", "bold green" if usable else "bold yellow")
        out.print(Text.assemble(name, first), soft_wrap=True)
        for line in more:
            out.print(Text(" " * width + line, "dim" if usable else ""), soft_wrap=True)


def lines(row: dict[str, Any]) -> list[str]:
    """What there is to say of a device that can be used: itself, what drives it, and how steps are computed on it."""
    if row["device"] in ("mpi", "nccl"):
        from gpubp.cli.processes import lines

        return lines(row)
    how = row["kernels"].split("; ") if "kernels" in row else [f"steps are {row['steps']}"]
    return [hardware(row), software(row), *how]


def hardware(row: dict[str, Any]) -> str:
    """The device itself: its name, size and memory."""
    known = [row["name"]]
    if "cores" in row:
        known.append(f"{row['cores']} core{'s' * (row['cores'] != 1)}")
    if "compute_capability" in row:
        known.append(f"compute capability {row['compute_capability']}")
    if "memory" in row:
        free = f"{row['memory_free'] / 2**30:.1f} of " if "memory_free" in row else ""
        known.append(f"{free}{row['memory'] / 2**30:.1f} GiB {'free' if free else 'of memory'}")
    return ", ".join(known)


def software(row: dict[str, Any]) -> str:
    """What computes on it."""
    known = [row["library"]]
    if "blas" in row:
        threads = row.get("blas_threads")
        known.append(row["blas"] + (f" on {threads} thread{'s' * (threads != 1)}" if threads else ""))
    for name, text in (("runtime", "CUDA {}"), ("nvrtc", "NVRTC {}"), ("driver", "driver for CUDA {}")):
        if name in row:
            known.append(text.format(row[name]))
    return ", ".join(known)
