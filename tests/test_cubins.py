"""Compiled kernels on the emulated device: kept on disk, made anew where they must be, and what is said of failures."""

import importlib
from pathlib import Path
from typing import Any

import pytest

import gpubp
from gpubp.backends.kept import folder
from gpubp.kernel import KERNELS

pytestmark = pytest.mark.toolchain


def cupy() -> Any:
    return importlib.import_module("cupy")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPUBP_CACHE", str(tmp_path / "cubins"))
    return tmp_path / "cubins"


def sigmoid() -> Any:
    """The result of one kernel on a new device object, as a new process would compute it."""
    backend = gpubp.get_backend("cuda")
    y = backend.empty((2, 3), "float32")
    with backend.active():
        backend.run(KERNELS["bias_sigmoid"], backend.zeros((2, 3), "float32"), backend.zeros((3,), "float32"), y)
    return backend.to_numpy(y)


def test_a_kernel_is_compiled_once_and_kept(emulated: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder() == cache
    assert (sigmoid() == 0.5).all()
    (kept,) = cache.iterdir()
    assert kept.name.startswith("gpubp_bias_sigmoid-")
    forget_loaded()
    monkeypatch.setattr(cupy().cuda.nvrtc, "compileProgram", None)  # calling it would fail
    assert (sigmoid() == 0.5).all()


def forget_loaded() -> None:
    from gpubp.backends.cubins import cubins_of

    cubins_of.cache_clear()


@pytest.mark.parametrize("changed", ["source", "options", "nvrtc", "device"])
def test_what_a_cubin_depends_on_is_in_its_name(
    emulated: Any, cache: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    sigmoid()
    forget_loaded()
    if changed == "source":
        from gpubp.backends.sources import headers

        others = {**headers(), "rows.cuh": headers()["rows.cuh"] + "\n"}
        monkeypatch.setattr("gpubp.backends.cubins.headers", lambda: others)
    elif changed == "options":
        monkeypatch.setattr("gpubp.backends.cubins.OPTIONS", ("-std=c++17", "-default-device"))
    elif changed == "nvrtc":
        monkeypatch.setattr(cupy().cuda.nvrtc, "getVersion", lambda: (12, 9))
    else:
        monkeypatch.setattr(cupy().cuda.Device, "compute_capability", "80")
    sigmoid()
    assert len(list(cache.iterdir())) == 2


def test_a_damaged_cubin_is_made_anew(emulated: Any, cache: Path) -> None:
    sigmoid()
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    kept.unlink()  # as the old file is still mapped here
    kept.write_bytes(whole[:100])
    forget_loaded()
    assert (sigmoid() == 0.5).all()
    assert kept.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_only_time(emulated: Any, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match=r"compiled kernels cannot be kept.*set GPUBP_CACHE to a folder"):
        assert (sigmoid() == 0.5).all()
    backend = gpubp.get_backend("cuda")
    backend.column_sum(backend.zeros((3, 4), "float32"), backend.empty((4,), "float32"))  # says it once


def test_a_compile_error_names_the_kernel_and_shows_the_log(emulated: Any, cache: Path) -> None:
    emulated.compile_error = "gpubp_bias_sigmoid.cu(3): error: no such thing"
    with pytest.raises(
        gpubp.DeviceError, match=r"gpubp_bias_sigmoid does not compile with -std=c\+\+17.*\n.*no such thing"
    ):
        sigmoid()
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize(
    ("system", "variables", "expected"),
    [
        ("posix", {"XDG_CACHE_HOME": "/x"}, "/x/gpubp"),
        ("posix", {}, "/home/me/.cache/gpubp"),
        ("darwin", {}, "/home/me/Library/Caches/gpubp"),
        ("posix", {"GPUBP_CACHE": "/mine"}, "/mine"),
    ],
)
def test_where_cubins_are_kept(
    monkeypatch: pytest.MonkeyPatch, system: str, variables: dict[str, str], expected: str
) -> None:
    for name in ("GPUBP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", "darwin" if system == "darwin" else "linux")
    assert folder() == Path(expected)
