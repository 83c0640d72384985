"""The tests on the emulated device run nearly every line of the CUDA backend."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = ("autotune", "cubins", "cublaslt", "cupy", "detection", "graphs", "launches", "products", "sources", "uploads")
FILES = [f"gpubp/backends/{name}.py" for name in NAMES]
TESTS = [
    f"tests/{name}.py"
    for name in (
        *("test_cubins", "test_cublaslt", "test_cuda", "test_cuda_backend", "test_cupy_backend", "test_detection"),
        *("test_autotune", "test_graphs", "test_precision"),
    )
]


@pytest.mark.check
@pytest.mark.toolchain
def test_nearly_every_line_of_the_cuda_backend_runs(tmp_path: Path) -> None:
    environment = {**os.environ, "COVERAGE_FILE": str(tmp_path / "coverage")}

    def coverage(*arguments: str) -> None:
        command = [sys.executable, "-m", "coverage", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]

    run = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not gpu and not check", *TESTS]
    coverage("run", f"--include={','.join(FILES)}", *run)
    coverage("json", "-o", str(tmp_path / "report.json"))
    files = json.loads((tmp_path / "report.json").read_text())["files"]
    assert set(files) == set(FILES)
    missed = {name: found["missing_lines"] for name, found in files.items()}
    assert all(found["summary"]["percent_covered"] >= 95 for found in files.values()), missed
