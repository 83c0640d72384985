"""The BLAS that NumPy multiplies with: where its functions are in memory, and how many threads it takes."""

import ctypes
import functools
import importlib
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

# What OpenBLAS's names begin and end with: "scipy_" in NumPy's wheels, and "64_" or "_64" where integers have 64 bits.
AFFIXES = [*itertools.product(("scipy_", ""), ("64_", "_64", ""))]
PTHREADS = 1  # of openblas_get_parallel: 0 is no threads, 2 those of OpenMP
ROW_MAJOR, NO_TRANS, TRANS = 101, 111, 112  # of CBLAS


@dataclass(frozen=True)
class Blas:
    """An OpenBLAS with threads of its own, and the addresses of its functions."""

    name: str  # with its version and the processor that it chose its products for: "openblas 0.3.31.188.0 SkylakeX"
    wide: bool  # whether its integers have 64 bits
    sgemm: int
    sgemv: int
    dgemm: int
    get_threads: int
    set_threads: int

    def threads(self) -> int:
        """How many a product may take now, in the whole process."""
        return int(ctypes.CFUNCTYPE(ctypes.c_int)(self.get_threads)())

    def limit(self, threads: int) -> None:
        """Let a product take this many."""
        ctypes.CFUNCTYPE(None, ctypes.c_int)(self.set_threads)(threads)


def blas() -> Blas | None:
    """NumPy's own, whatever else the process has loaded; None where it is no OpenBLAS that can be called."""
    found = _search()
    return found if isinstance(found, Blas) else None


def why_not() -> str | None:
    """Why NumPy's BLAS cannot be called; None if it can."""
    found = _search()
    return None if isinstance(found, Blas) else found


@functools.cache
def _search(module: str = "numpy._core._multiarray_umath") -> Blas | str:
    """The BLAS of a compiled module, or why there is none.

    A name is looked up in the module's file and in the libraries that it is linked with, which is how the module itself
    came by its BLAS: it cannot be another one that SciPy or PyTorch brought.
    """
    try:
        library = ctypes.CDLL(importlib.import_module(module).__file__)
    except OSError as error:
        return f"NumPy's BLAS cannot be looked up: {error}"
    for prefix, suffix in AFFIXES:
        try:
            functions = _Functions(library, prefix, suffix)
            if functions.named("openblas_get_parallel")() != PTHREADS:
                return "NumPy's OpenBLAS has no threads of its own"
            found = _described(functions)
        except AttributeError:  # a function does not go by that name
            continue
        return found if _multiplies(found) else f"the products of NumPy's {found.name} are wrong when called by address"
    return "NumPy's BLAS is not an OpenBLAS that can be called"


@dataclass(frozen=True)
class _Functions:
    """Those of an OpenBLAS, by their plain names; AttributeError where there is none such."""

    library: ctypes.CDLL
    prefix: str
    suffix: str

    def named(self, name: str, result: Any = ctypes.c_int) -> Any:
        function = self.library[f"{self.prefix}{name}{self.suffix}"]
        function.restype = result
        return function

    def address(self, name: str) -> int:
        return ctypes.cast(self.named(name), ctypes.c_void_p).value or 0


def _described(functions: _Functions) -> Blas:
    build = functions.named("openblas_get_config", ctypes.c_char_p)().decode().split()
    core = functions.named("openblas_get_corename", ctypes.c_char_p)().decode()
    return Blas(
        name=f"openblas {build[1]} {core}",
        wide="USE64BITINT" in build,
        sgemm=functions.address("cblas_sgemm"),
        sgemv=functions.address("cblas_sgemv"),
        dgemm=functions.address("cblas_dgemm"),
        get_threads=functions.address("openblas_get_num_threads"),
        set_threads=functions.address("openblas_set_num_threads"),
    )


def _multiplies(found: Blas) -> bool:
    """Whether small products by address are right, of factors that are transposed and not."""
    size = ctypes.c_int64 if found.wide else ctypes.c_int32
    return all(
        _multiplies_in(dtype, real, size, address)
        for dtype, real, address in (
            (np.float32, ctypes.c_float, found.sgemm),
            (np.float64, ctypes.c_double, found.dgemm),
        )
    )


def _multiplies_in(dtype: Any, real: Any, size: Any, address: int) -> bool:
    pointer = ctypes.c_void_p
    kinds = [ctypes.c_int] * 3 + [size] * 3 + [real, pointer, size, pointer, size, real, pointer, size]
    gemm = ctypes.CFUNCTYPE(None, *kinds)(address)
    a, b = np.arange(6).reshape(2, 3).astype(dtype), np.arange(12).reshape(3, 4).astype(dtype)
    for turns in itertools.product((NO_TRANS, TRANS), repeat=2):
        left, right = (each if turn == NO_TRANS else each.T.copy() for each, turn in zip((a, b), turns, strict=True))
        out = np.empty((2, 4), dtype)
        at_left, at_right, at_out = (each.ctypes.data for each in (left, right, out))
        gemm(ROW_MAJOR, *turns, 2, 4, 3, 1, at_left, left.shape[1], at_right, right.shape[1], 0, at_out, 4)
        if not np.array_equal(out, a.dot(b)):
            return False
    return True
