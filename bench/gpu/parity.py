"""Whether the device computes what NumPy does: every kernel in both dtypes, then the tests that need a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
BACKEND = ["test_cuda.py", "test_graphs.py", "test_precision.py"]
ON_TOP = ["test_curves.py", "test_diagnosis_records.py", "test_jacobians.py", "test_landscape.py", "test_trace.py"]
ON_TOP += ["test_sklearn_gpu.py"] if find_spec("sklearn") else []
FILES = BACKEND + ON_TOP  # those with tests marked gpu
LONGEST = 500  # characters of a failure that are kept


def check(dtype: str) -> dict[str, Any]:
    """What `gpubp devices --check` shows, without its speeds."""
    import gpubp
    from gpubp.parity import check as checked

    return {
        result.name: {"error": float(result.error), "tolerance": float(result.tolerance), "right": bool(result.ok)}
        for result in checked(gpubp.get_backend("cuda"), dtype)
    }


def suite(file: str) -> dict[str, Any]:
    """The counts and the failures of the tests marked gpu in one file; RuntimeError where pytest came to no end."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        options = ["-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", f"tests/{file}", *options],
            cwd=ROOT,
            env={**os.environ, "GPUBP_REQUIRE_GPU": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if not report.exists():
            raise RuntimeError(f"pytest ended with exit code {done.returncode}: {done.stdout[-LONGEST:]}")
        return counts(report.read_text())


def counts(junit: str) -> dict[str, Any]:
    """What a JUnit report says."""
    cases = list(ElementTree.fromstring(junit).iter("testcase"))
    failures = {
        str(case.get("name")): str(problem.get("message"))[:LONGEST]
        for case in cases
        for problem in [*case.findall("failure"), *case.findall("error")]
    }
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "passed": len(cases) - skipped - len(failures),
        "failed": len(failures),
        "skipped": skipped,
        "failures": [f"{name}: {message}" for name, message in failures.items()],
    }
