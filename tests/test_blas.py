"""The BLAS that NumPy multiplies with: it is found, it is NumPy's own, and nothing else is taken for it."""

import ctypes
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from gpubp import processor
from gpubp.backends import blas as module
from gpubp.backends.blas import Blas

WITHOUT_BLAS = "numpy.random._generator"  # compiled, and linked with none
BUILT_WITH = np.show_config(mode="dicts")["Build Dependencies"]["blas"]


@pytest.fixture
def found() -> Blas:
    known = module.blas()
    if known is None:
        pytest.skip(f"here {module.why_not()}")
    return known


def test_numpy_from_a_wheel_has_one() -> None:
    if BUILT_WITH["name"] != "scipy-openblas":
        pytest.skip(f"this NumPy was built with {BUILT_WITH['name']}")
    known = module.blas()
    assert known is not None
    assert module.why_not() is None
    assert known.name.startswith(f"openblas {BUILT_WITH['version']} ")
    assert known.wide == ("USE64BITINT" in BUILT_WITH["openblas configuration"])


def test_it_is_numpys_own_where_scipy_has_loaded_another(found: Blas) -> None:
    """threadpoolctl lists what is loaded, and where from."""
    pytest.importorskip("threadpoolctl")
    pytest.importorskip("scipy")
    code = """if True:
        import ctypes, json
        import scipy.linalg, threadpoolctl
        from gpubp.backends.blas import blas
        mine = blas().sgemm
        for each in threadpoolctl.ThreadpoolController().select(internal_api="openblas").lib_controllers:
            same = ctypes.cast(each._get_symbol("cblas_sgemm"), ctypes.c_void_p).value == mine
            print(json.dumps([each.filepath, same]))
    """
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    libraries = dict(json.loads(line) for line in printed.splitlines())
    assert sum(libraries.values()) == 1
    own = [same for path, same in libraries.items() if "numpy.libs" in path]
    assert own in ([], [True])  # in a wheel's own folder, or a distribution's for both


def test_the_width_of_integers_is_that_of_the_build() -> None:
    """SciPy's wheels have narrow ones, where NumPy's have wide ones."""
    scipy = pytest.importorskip("scipy")
    other = module._search("scipy.linalg._fblas")
    if isinstance(other, str):
        pytest.skip(other)
    build = scipy.show_config(mode="dicts")["Build Dependencies"]["blas"].get("openblas configuration", "")
    assert other.wide == ("USE64BITINT" in build)


def test_the_threads_are_those_of_the_process(found: Blas) -> None:
    before, set_threads = found.threads(), ctypes.CFUNCTYPE(None, ctypes.c_int)(found.set_threads)
    try:
        for wanted in 2, 1:
            set_threads(wanted)
            assert found.threads() == wanted
            assert processor.facts()["blas_threads"] == wanted
    finally:
        set_threads(before)


@pytest.mark.parametrize(
    ("name", "reason"),
    [(WITHOUT_BLAS, "is not an OpenBLAS"), ("gpubp.errors", "cannot be looked up: ")],
    ids=["linked with none", "not compiled"],
)
def test_a_module_without_one_gives_a_reason(name: str, reason: str) -> None:
    found = module._search(name)
    assert isinstance(found, str)
    assert reason in found


def test_without_one_the_devices_show_what_numpy_was_built_with(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = module._search(WITHOUT_BLAS)
    monkeypatch.setattr(module, "_search", lambda: reason)
    assert (module.blas(), module.why_not()) == (None, reason)
    facts = processor.facts()
    assert facts["blas"] == f"{BUILT_WITH['name']} {BUILT_WITH['version']}"
    assert "blas_threads" not in facts


def test_one_with_threads_of_another_kind_is_not_taken(found: Blas, monkeypatch: pytest.MonkeyPatch) -> None:
    """An OpenBLAS on OpenMP answers 2."""
    monkeypatch.setattr(module, "PTHREADS", 2)
    other = module._search.__wrapped__()
    assert isinstance(other, str)
    assert "no threads of its own" in other


def test_one_that_multiplies_wrongly_is_not_taken(found: Blas, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module._multiplies(found)
    wrong = replace(found, dgemm=found.sgemm)
    assert not module._multiplies(wrong)
    monkeypatch.setattr(module, "_described", lambda functions: wrong)
    assert module._search.__wrapped__() == f"the products of NumPy's {found.name} are wrong when called by address"
