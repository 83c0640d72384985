"""What a bug report should say of the machine, as a list in Markdown."""

import os
import platform
import subprocess
from importlib import metadata
from typing import Any

from gpubp import __version__
from gpubp.backends import detection
from gpubp.backends.compiler import command
from gpubp.backends.kept import folder
from gpubp.cli.devices import lines
from gpubp.errors import DeviceError

PACKAGES = ("cupy", "nvidia-cu", "cuda-")  # what the names of those begin with that a GPU needs
VARIABLES = ("GPUBP_", "CXX", "CUPY_", "CUDA_", "OPENBLAS_", "OMP_NUM", "MKL_NUM")


def bug_report(rows: list[dict[str, Any]]) -> str:
    """Versions, devices, packages, compiled kernels and environment, a line each; the home folder is written ~."""
    kept = {suffix: len(list(folder().glob(f"*.{suffix}"))) for suffix in ("so", "cubin")}
    variables = [
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith(VARIABLES) and name != "GPUBP_COMMAND"  # which gpubp itself sets
    ]
    told = [
        f"gpubp {__version__}, Python {platform.python_version()}, {platform.platform()}",
        cuda(),
        compiler(),
        *(f"{row['device']}: {described(row)}" for row in rows),
        f"packages: {', '.join(packages()) or 'neither CuPy nor CUDA'}",
        f"compiled kernels: {kept['so']} for the processor and {kept['cubin']} for GPUs in {folder()}",
        f"environment: {', '.join(variables) or 'nothing set for gpubp, C++, CuPy, CUDA or BLAS'}",
    ]
    text = "\n".join(f"- {line}" for line in told)
    home = os.path.expanduser("~")
    return text.replace(home, "~") if len(home) > 1 else text


def cuda() -> str:
    """CuPy and what it stands on, whether there is a device or not."""
    try:
        known = {"CuPy": detection.cupy().__version__, **detection.versions()}
    except Exception as error:
        return f"no CuPy: {detection.said(error)}"
    return ", ".join(f"{name} {known.get(name, 'none')}" for name in ("CuPy", "driver", "runtime", "nvrtc"))


def compiler() -> str:
    """The C++ compiler, with its version, or why there is none."""
    try:
        line = [*command(), "--version"]
        ran = subprocess.run(line, capture_output=True, encoding="utf-8", errors="replace", timeout=10)
        return next(iter(ran.stdout.splitlines()), f"{line[0]} does not tell its version")
    except (DeviceError, OSError, subprocess.TimeoutExpired) as error:
        return str(error)


def described(row: dict[str, Any]) -> str:
    if row["available"] == "yes":
        return "; ".join(lines(row))
    return f"not available, {row['reason']}"


def packages() -> list[str]:
    """Those installed that CuPy consists of or loads, with their versions; of two CuPys neither works well."""
    found = {(str(each.name).lower(), each.version) for each in metadata.distributions()}
    return [f"{name} {version}" for name, version in sorted(found) if name.startswith(PACKAGES)]
