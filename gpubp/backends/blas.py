"""The BLAS that NumPy multiplies with: where its functions are in memory, and how many threads it may take."""

import ctypes
import functools
import importlib
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

AFFIXES = [*itertools.product(("scipy_", ""), ("64_", "_64", ""))]  # of OpenBLAS's names: wheels, distributions, conda
ROW_MAJOR, NO_TRANS, TRANS = 101, 111, 112
PTHREADS = 1


@dataclass(frozen=True)
class Blas:
    """An OpenBLAS, with the addresses of its functions."""

    name: str  # "OpenBLAS 0.3.31 SkylakeX"
    wide: bool  # 64-bit integers
    sgemm: int
    dgemm: int
    get_threads: int
    set_threads: int


def blas() -> Blas | None:
    """NumPy's own, whichever else the process has loaded; None where `why_not` has a reason."""
    return _search()[0]


def why_not() -> str | None:
    """Why NumPy's BLAS cannot be called; None if it can."""
    return _search()[1]


@functools.cache
def _search() -> tuple[Blas | None, str | None]:
    """What is found by name in NumPy's module, and in the libraries that it is linked with, is what NumPy calls."""
    try:
        library = ctypes.CDLL(importlib.import_module("numpy._core._multiarray_umath").__file__)
    except OSError as error:
        return None, f"NumPy's BLAS cannot be looked up: {error}"
    for prefix, suffix in AFFIXES:
        try:
            found = _openblas(library, prefix, suffix)
        except AttributeError:
            continue
        if found is None:
            return None, "NumPy's OpenBLAS has not the threads of POSIX"
        return (found, None) if _multiplies(found) else (None, "NumPy's OpenBLAS gives wrong products")
    return None, "NumPy's BLAS is no OpenBLAS that can be called"


def _openblas(library: ctypes.CDLL, prefix: str, suffix: str) -> Blas | None:
    """AttributeError where a function does not go by these names; None where the threads are OpenMP's, or none."""

    def named(name: str) -> Any:
        return library[f"{prefix}{name}{suffix}"]

    sgemm, dgemm = named("cblas_sgemm"), named("cblas_dgemm")
    config, core = named("openblas_get_config"), named("openblas_get_corename")
    config.restype = core.restype = ctypes.c_char_p
    if named("openblas_get_parallel")() != PTHREADS:
        return None
    words = config().decode().split()
    return Blas(
        name=f"OpenBLAS {words[1]} {core().decode()}",
        wide="USE64BITINT" in words,
        sgemm=_address(sgemm),
        dgemm=_address(dgemm),
        get_threads=_address(named("openblas_get_num_threads")),
        set_threads=_address(named("openblas_set_num_threads")),
    )


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _multiplies(found: Blas) -> bool:
    """Whether products by address are NumPy's, of factors that are transposed and not."""
    size, pointer = ctypes.c_int64 if found.wide else ctypes.c_int32, ctypes.c_void_p
    for address, real, dtype in (found.sgemm, ctypes.c_float, np.float32), (found.dgemm, ctypes.c_double, np.float64):
        kinds = [ctypes.c_int] * 3 + [size] * 3 + [real, pointer, size, pointer, size, real, pointer, size]
        gemm = ctypes.CFUNCTYPE(None, *kinds)(address)
        a, b, out = (
            np.arange(6.0).reshape(2, 3).astype(dtype),
            np.arange(12.0).reshape(3, 4).astype(dtype),
            np.empty((2, 4), dtype),
        )
        for turns in itertools.product((NO_TRANS, TRANS), repeat=2):
            left, right = (
                each if turn == NO_TRANS else each.T.copy() for each, turn in zip((a, b), turns, strict=True)
            )
            places = [each.ctypes.data for each in (left, right, out)]
            gemm(ROW_MAJOR, *turns, 2, 4, 3, 1, places[0], left.shape[1], places[1], right.shape[1], 0, places[2], 4)
            if not np.array_equal(out, a.dot(b)):
                return False
    return True
