"""What a figure was measured on: the machine, the versions, and how busy others kept it."""

import os
import platform
import time
from contextlib import suppress
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from gpubp import processor

BUSY = 0.05  # the share of a machine's time that others may use before its figures are doubtful


def machine(threads: int) -> dict[str, Any]:
    return {
        "cpu": processor.name(),
        "cores": processor.cores(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE"),  # what the user asked for; the versions say what runs
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def foreign_load(seconds: float = 0.3) -> float | None:
    """The share of the machine that others use while every contender sleeps; None where the system does not tell."""

    def ticks() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    try:
        total, idle = ticks()
        time.sleep(seconds)
        total_after, idle_after = ticks()
    except OSError:
        return None
    return 1 - (idle_after - idle) / max(1, total_after - total)


def versions_of(name: str, distributions: tuple[str, ...]) -> dict[str, str]:
    """Of what a contender runs on, once it has run."""
    import gpubp

    found = {"gpubp": gpubp.__version__} if name == "gpubp" else {}
    found |= {distribution: metadata.version(distribution) for distribution in distributions}
    if name in ("numpy", "gpubp"):
        try:  # which GEMM kernels OpenBLAS chose is worth a factor of two, and only this optional package tells
            pools = import_module("threadpoolctl").threadpool_info()
        except ImportError:
            return found
        for pool in pools:
            if pool["user_api"] == "blas" and "scipy.libs" not in pool["filepath"]:  # another, its own
                found[f"BLAS of {name}"] = f"{pool['internal_api']} {pool['version']} {pool['architecture']}"
    return found


def forget_peak() -> None:
    """Let the peak of this process's memory begin anew, where Linux lets it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def resident_peak() -> int | None:
    """The most bytes of main memory that this process had since `forget_peak`; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
