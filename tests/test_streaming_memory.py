"""Trainings on samples larger than memory, in processes that are denied more than a stated part of their size."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [
    pytest.mark.check,
    pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA bounds all private memory on Linux alone"),
]
ROWS, WIDTH = 180_000, 1000  # 687 MiB as float32; a table's numbers are float64, 1.3 GiB
# Bytes that a process may have; NumPy and the rest of it take about 200 MiB before there is any data, and polars keeps
# several row groups in flight: beside other work once more than 900 MiB.
ALLOWED, FOR_POLARS = 450 << 20, 1000 << 20
LIMITED = """
import resource, runpy, sys
from gpubp.data import rows
limit = int(sys.argv.pop(1))
rows.IN_MEMORY = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
runpy.run_module("gpubp", run_name="__main__")
"""


def pieces() -> Any:
    """All samples, some at a time: x of which the first column decides y."""
    generator = np.random.default_rng(0)
    for _ in range(0, ROWS, 10_000):
        x = generator.standard_normal((10_000, WIDTH), np.float32)
        yield x, (x[:, 0] > 0).astype(np.int64)


def npy(folder: Path) -> Path:
    x: Any = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (ROWS, WIDTH))
    y: Any = np.lib.format.open_memmap(folder / "y.npy", "w+", np.int64, (ROWS,))
    for start, (some, labels) in zip(range(0, ROWS, 10_000), pieces(), strict=True):
        x[start : start + 10_000], y[start : start + 10_000] = some, labels
    return folder / "x.npy"


def npz(folder: Path) -> Path:
    file = npy(folder)
    np.savez(folder / "data.npz", x=np.load(file, mmap_mode="r"), y=np.load(folder / "y.npy"))
    return folder / "data.npz"


def parquet(folder: Path) -> Path:
    import polars

    x, y = (np.concatenate(parts) for parts in zip(*pieces(), strict=True))
    frame = polars.DataFrame({**{f"x{column}": x[:, column] for column in range(WIDTH)}, "y": y})
    frame.write_parquet(folder / "data.parquet", row_group_size=20_000)
    return folder / "data.parquet"


def text(folder: Path) -> Path:
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"x{column}" for column in range(60)), "y"])
        for x, y in pieces():
            for row, label in zip(x[:, :60].tolist(), y.tolist(), strict=True):
                writer.writerow([*row, label])
    return folder / "data.csv"


def train(file: Path, out: str, allowed: int, in_memory: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIMITED, str(allowed), str(in_memory), "train", str(file), "--hidden", "16"]
    options = ["--epochs", "1", "--batch-size", "512", "--task", "classification", "-q", "--json", "-o", out]
    return subprocess.run([*command, *options, "--device", "cpu"], capture_output=True, text=True, cwd=file.parent)


@pytest.mark.parametrize("write", [npy, npz, parquet, text])
def test_less_memory_than_the_samples_take(write: Callable[[Path], Path], tmp_path: Path) -> None:
    """In the same bits as a training that has all memory; with --epochs 1 every row is read at least four times."""
    file = write(tmp_path)
    streamed = train(file, "streamed", FOR_POLARS if write is parquet else ALLOWED, 32 << 20)
    assert streamed.returncode == 0, streamed.stderr
    scores = json.loads(streamed.stdout)
    assert scores["accuracy"] > 0.6
    if write in (npy, text):
        whole = train(file, "whole", 1 << 40, 1 << 40)
        models = [(tmp_path / out / "model.safetensors").read_bytes() for out in ("streamed", "whole")]
        assert whole.returncode == 0
        assert models[0] == models[1]
    if write is npy:
        denied = train(file, "denied", ALLOWED, 1 << 40)
        assert denied.returncode != 0, "the limit does bite"
