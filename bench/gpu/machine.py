"""Who is asked: the device, the versions, the date and the commit that every result carries."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

DISTRIBUTIONS = ("numpy", "cupy-cuda13x", "cupy-cuda12x", "torch", "triton", "jax", "jaxlib", "pytest")
ROOT = Path(__file__).resolve().parents[2]


def describe(device: str) -> dict[str, Any]:
    """What there is to say of a machine; DeviceError where it has no such device."""
    import gpubp
    from gpubp.benchmark.machine import machine

    facts = gpubp.get_backend(device).describe()
    host = machine(0)
    return {
        "device": facts.get("name", device),
        **{f"device_{key}": value for key, value in facts.items() if key not in ("name", "device", "available")},
        "driver": said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cpu": f"{host['cpu']}, {host['cores']} cores",
        "python": platform.python_version(),
        "gpubp": gpubp.__version__,
        "versions": installed(),
        "commit": said("git", "describe", "--always", "--dirty", "--abbrev=40"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def said(*command: str) -> str:
    """What a command says in its first line, or "unknown"."""
    with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.splitlines()[0].strip()
    return "unknown"


def installed() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
