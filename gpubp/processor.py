"""The CPU as `gpubp devices` shows it: its name, its cores, its memory, and the BLAS that NumPy multiplies with."""

import contextlib
import os
import platform
from pathlib import Path
from typing import Any

from gpubp.launcher import launch


def facts() -> dict[str, Any]:
    """What there is to say of this processor."""
    import numpy as np  # here, as a benchmark's parent process must not load NumPy before its workers' threads are set

    from gpubp.backends.blas import blas

    found, built_with = blas(), np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    known = {
        "name": name(),
        "cores": cores(),
        "memory": _memory(),
        "library": f"NumPy {np.__version__}",
        "blas": found.name if found else f"{built_with['name']} {built_with['version']}",
        "blas_threads": found.threads() if found else None,
    }
    return {name: value for name, value in known.items() if value is not None}


def cores() -> int:
    """Those that this process may use, of what it shares with others of its launch its share."""
    here = os.cpu_count() or 1
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else here
    sharing = launch().local_size
    apart = mine * sharing <= here  # each was given cores of its own
    return mine if apart else max(1, mine // sharing)


def name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def available_memory() -> int:
    """Bytes that arrays may still take, the system's page cache included; 0 where nobody tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return 0


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system can say
        return None
