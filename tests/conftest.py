"""What every test may use: a seeded generator, and what becomes of a test whose tools are not on this machine."""

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

# Before NumPy loads its BLAS: on two threads, products this small wait for each other more than they compute. With two
# busy neighbours one fit took 19 s on two threads and 1.6 s on one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest

# Whatever PYTHONDONTWRITEBYTECODE says: without bytecode each of two hundred processes would compile gpubp again.
sys.dont_write_bytecode = False


def no_compiler() -> str | None:
    return None if shutil.which("g++") else "g++ is not on the PATH"


def no_cuda_toolchain() -> str | None:
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except (ImportError, RuntimeError) as error:  # a missing libnvrtc raises a RuntimeError
        return f"the extra cuda-check is not installed ({error})"
    return None


def no_mpi() -> str | None:
    try:
        from mpi4py import MPI  # noqa: F401
    except (ImportError, RuntimeError) as error:  # the latter where there is no MPI library
        return f"the extra mpi is not installed ({error})"
    return None if mpiexec() else "mpiexec is not on the PATH"


def mpiexec() -> str | None:
    """Beside this Python, where the extra puts it, or on the PATH."""
    return shutil.which("mpiexec", path=os.path.dirname(sys.executable)) or shutil.which("mpiexec")


def no_gpu() -> str | None:
    from gpubp.backends.detection import why_not

    return why_not(0)


# By marker: why its tests cannot run here, and the variable that makes that a failure, so that CI skips no proof.
NEEDS: dict[str, tuple[Callable[[], str | None], str]] = {
    "toolchain": (no_compiler, "GPUBP_REQUIRE_TOOLCHAIN"),
    "cuda_toolchain": (no_cuda_toolchain, "GPUBP_REQUIRE_TOOLCHAIN"),
    "mpi": (no_mpi, "GPUBP_REQUIRE_TOOLCHAIN"),
    "gpu": (no_gpu, "GPUBP_REQUIRE_GPU"),
}


@pytest.hookimpl(tryfirst=True)  # before the fixtures, which would already want the compiler
def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, (why, variable) in NEEDS.items():
        if item.get_closest_marker(marker) and (reason := why()):
            if os.environ.get(variable) == "1":
                pytest.fail(f"{reason}, and {variable}=1", pytrace=False)
            pytest.skip(reason)


@pytest.fixture(autouse=True, scope="module")
def _frozen() -> None:
    """Nothing that was there before a module is its garbage; among thousands of tests a gc.collect() takes 0.3 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def emulated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The emulated CUDA device in place of a real one, with a cache of compiled kernels that the session shares."""
    from emulated_cupy import install

    monkeypatch.setenv("GPUBP_CACHE", str(tmp_path_factory.getbasetemp() / "cubins"))
    with install() as machine:
        yield machine


@pytest.fixture(
    params=[
        pytest.param("emulated", marks=pytest.mark.toolchain),
        pytest.param("emulated, captured", marks=[pytest.mark.toolchain, pytest.mark.check]),
        pytest.param("real", marks=pytest.mark.gpu),
        pytest.param("real, captured", marks=pytest.mark.gpu),
    ]
)
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a CUDA device: the emulated one and, where there is one, a real one; with captured steps too."""
    monkeypatch.setenv("GPUBP_GRAPHS", "1" if "captured" in request.param else "0")
    if request.param.startswith("emulated"):
        request.getfixturevalue("emulated")
    return "cuda"


@pytest.fixture
def large(request: pytest.FixtureRequest) -> int:
    """A size that takes every thread round its loop, on a device that has the time for it."""
    return 65537 if "emulated" in request.fixturenames else (1 << 24) + 3


@pytest.fixture(scope="module")
def undrawn() -> Iterator[Any]:
    """`gpubp train` without the picture of its loss, which takes longer than all else of a short training."""
    from gpubp.cli import run

    with pytest.MonkeyPatch.context() as patch:
        draw = run.draw_loss
        patch.setattr(run, "draw_loss", lambda history, path: False)
        yield draw


@pytest.fixture
def drawn(undrawn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With it, in a module that is undrawn."""
    monkeypatch.setattr("gpubp.cli.run.draw_loss", undrawn)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
