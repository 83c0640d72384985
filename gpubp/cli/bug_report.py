"""What a bug report should say of the machine, as a list in Markdown."""

import os
import platform
from importlib import metadata
from typing import Any

from gpubp import __version__
from gpubp.backends import detection
from gpubp.backends.kept import folder
from gpubp.cli.devices import hardware, software

PACKAGES = ("cupy", "nvidia-cu", "cuda-")  # what the names of those begin with that a GPU needs
VARIABLES = ("GPUBP_", "CUPY_", "CUDA_", "OPENBLAS_NUM", "OMP_NUM", "MKL_NUM")


def bug_report(rows: list[dict[str, Any]]) -> str:
    """Versions, devices, packages, compiled kernels and environment, a line each; the home folder is written ~."""
    kept = list(folder().glob("*.cubin"))
    variables = [
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith(VARIABLES) and name != "GPUBP_COMMAND"  # which gpubp itself sets
    ]
    lines = [
        f"gpubp {__version__}, Python {platform.python_version()}, {platform.platform()}",
        cuda(),
        *(f"{row['device']}: {described(row)}" for row in rows),
        f"packages: {', '.join(packages()) or 'neither CuPy nor CUDA'}",
        f"compiled kernels: {len(kept)} in {folder()}",
        f"environment: {', '.join(variables) or 'nothing set for gpubp, CuPy, CUDA or BLAS'}",
    ]
    text = "\n".join(f"- {line}" for line in lines)
    home = os.path.expanduser("~")
    return text.replace(home, "~") if len(home) > 1 else text


def cuda() -> str:
    """CuPy and what it stands on, whether there is a device or not."""
    try:
        known = {"CuPy": detection.cupy().__version__, **detection.versions()}
    except Exception as error:
        return f"no CuPy: {detection.said(error)}"
    return ", ".join(f"{name} {known.get(name, 'none')}" for name in ("CuPy", "driver", "runtime", "nvrtc"))


def described(row: dict[str, Any]) -> str:
    if row["available"] == "yes":
        return f"{hardware(row)}; {software(row)}"
    return f"not available, {row['reason']}"


def packages() -> list[str]:
    """Those installed that CuPy consists of or loads, with their versions; of two CuPys neither works well."""
    found = {(str(each.name).lower(), each.version) for each in metadata.distributions()}
    return [f"{name} {version}" for name, version in sorted(found) if name.startswith(PACKAGES)]
