"""What is installed: the package list against the tree, and a wheel and an sdist put into a clean environment."""

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
IN_WHEEL = {".cpp", ".cuh", ".hpp", ".npz", ".py", ".typed"}


def run(*command, cwd):
    """Run a command away from the checkout: neither its folder nor PYTHONPATH may stand in for what is installed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GPUBP_"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def installed_names():
    """Each file of the checkout that has to be installed, named as the wheel names it."""
    for folder, prefix in ("gpubp", "gpubp"), ("kernels", "gpubp/kernels"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix in IN_WHEEL:
                yield f"{prefix}/{path.relative_to(ROOT / folder).as_posix()}"


def test_every_package_is_listed():
    found = {Path(name).parent.as_posix().replace("/", ".") for name in installed_names() if name.endswith(".py")}
    assert set(SETUPTOOLS["packages"]) == found


def test_the_digits_are_whole():
    with np.load(ROOT / "gpubp" / "data" / "digits.npz") as file:
        x, y = file["x"], file["y"]
    assert (x.shape, x.dtype, x.min(), x.max()) == ((1797, 64), np.uint8, 0, 16)
    assert (y.shape, y.dtype) == ((1797,), np.uint8)
    assert np.bincount(y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The sdist, and the wheel made from it (not from the checkout, whose leftovers could hide a missing file)."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The folder of programs of an environment with nothing but pip in it."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=True)
    return folder / ("Scripts" if os.name == "nt" else "bin")


@pytest.mark.check
def test_the_wheel_holds_the_package_and_nothing_else(dist):
    with zipfile.ZipFile(dist[1]) as file:
        names = {name for name in file.namelist() if not name.endswith("/")}
    assert {"gpubp/kernels/activations.cuh", "gpubp/data/digits.npz", "gpubp/py.typed"} <= names
    assert set(installed_names()) <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"gpubp"}
    assert not [name for name in names if name.endswith((".pyc", ".so"))]


@pytest.mark.check
@pytest.mark.parametrize("which", ["sdist", "wheel"])
def test_an_installed_package_trains(dist, clean, tmp_path, which):
    package = dist[["sdist", "wheel"].index(which)]
    # The dependencies come with the first of the two; the second one only replaces gpubp itself.
    run(clean / "python", "-m", "pip", "install", "-q", "--upgrade", package, cwd=tmp_path)
    run(clean / "python", "-m", "pip", "install", "-q", "--force-reinstall", "--no-deps", package, cwd=tmp_path)
    found = run(
        clean / "python",
        "-c",
        "import gpubp, gpubp.kernel; print(gpubp.__file__, (gpubp.kernel.SOURCES / 'activations.cuh').is_file())",
        cwd=tmp_path,
    )
    assert found.split()[-1] == "True"
    assert not Path(found.rsplit(" ", 1)[0]).is_relative_to(ROOT / "gpubp")
    run(clean / "gpubp", "train", "digits", "--epochs", "2", "-o", tmp_path / "run", "--seed", "0", cwd=tmp_path)
    run(clean / "gpubp", "evaluate", tmp_path / "run" / "model.safetensors", "digits", cwd=tmp_path)
