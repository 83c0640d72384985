"""Small trained models for tests of the command line, with what `train` leaves in them, but made in milliseconds."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result

import gpubp
from gpubp.cli import main
from gpubp.data.files import open_data
from gpubp.data.preprocessing import Preprocessing
from gpubp.data.split import rows_digest, split_rows

SPECIES = ["setosa", "versicolor", "virginica, the last"]


def gpubp_(*arguments: object, stdin: Any = None, **environment: str | None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin, env=environment)


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **options.pop("env", {})}
    command = [sys.executable, "-m", "gpubp", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    return subprocess.run(command, env=environment, timeout=60, **{**pipes, **options})


def in_a_terminal(*arguments: object, columns: int, colour: bool, cwd: Path | None = None) -> bytes:
    """What a command prints that ends well in a terminal, one with NO_COLOR or without."""
    import pty

    ours, theirs = pty.openpty()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm-256color", "COLUMNS": str(columns)}
    env = {name: value for name, value in env.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    command = [sys.executable, "-m", "gpubp", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=cwd, env=env | ({} if colour else {"NO_COLOR": "1"}), stdout=theirs)
    os.close(theirs)
    output = b""
    try:
        while part := os.read(ours, 65536):
            output += part
    except OSError:  # Linux's way to say that the other end is closed
        pass
    os.close(ours)
    assert process.wait(60) == 0
    return output


def flowers(path: Path, rows: int = 120, seed: int = 0) -> Path:
    """Three overlapping clouds, as a table with text classes."""
    generator = np.random.default_rng(seed)
    kinds = generator.integers(0, 3, rows)
    x = generator.normal(kinds[:, None] * [20.0, -0.3], [16.0, 0.4])
    lines = [f'{a:.3f},{b:.5f},"{SPECIES[kind]}"' for (a, b), kind in zip(x, kinds, strict=True)]
    path.write_text("\n".join(["length,width,species", *lines]) + "\n")
    return path


def prices(path: Path, rows: int = 90, seed: int = 0) -> Path:
    """A target of thousands, nearly linear in two columns."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 2))
    y = 5000 + x @ [900, -400] + generator.normal(0, 100, rows)
    lines = [f"{a:.4f},{b:.4f},{value:.2f}" for (a, b), value in zip(x, y, strict=True)]
    path.write_text("\n".join(["area,age,price", *lines]) + "\n")
    return path


def train(folder: Path, data: Path, task: Any, target: str | None = None, seed: int = 3) -> Path:
    """A run's folder with a model of this data, of which a fifth was split off, or its own test part."""
    source = open_data(str(data), target)
    x, y = source.train.x, source.train.y
    labels = np.unique(y, return_inverse=True)[1] if task == "classification" else None
    share = None if source.test else 0.2
    learned, held_out = (np.arange(len(x)), None) if share is None else split_rows(len(x), share, seed, labels)
    preprocessing = Preprocessing.fit(
        x, y, learned, task, peak=source.peak, features=source.features, target=source.target
    )
    output = "softmax" if task == "classification" else "identity"
    net = gpubp.MLP([int(np.prod(x.shape[1:])), 8, preprocessing.outputs], "tanh", output, device="cpu", seed=seed)
    net.fit(preprocessing.rows(x, learned), preprocessing.targets(y[learned]), epochs=20, batch_size=16, verbose=0)
    digest = None if held_out is None else rows_digest(held_out)
    data_facts = {"name": source.name, "sha256": source.sha256, "test": share, "seed": seed, "digest": digest}
    net.metadata = {"preprocessing": preprocessing.config(), "data": data_facts}
    folder.mkdir()
    net.save(folder / "model.safetensors")
    return folder
