"""Kernels on the CPU as Python functions: compiled by `build.library` with an entry for each, loaded, launched."""

import ctypes
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from emulator.build import library

FORWARD, REVERSE, RANDOM = range(3)  # the order of threads and blocks
DECLARATION = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\((\d+)\)\s*)?(\w+)\s*\(')
ENTRY = """
extern "C" const char* launch_{name}(const unsigned* n, void** arguments, int order, unsigned seed) {{
  return emulator::launch({name}, {{n[0], n[1], n[2]}}, {{n[3], n[4], n[5]}}, arguments, emulator::Order(order), seed);
}}
extern "C" const int* sizes_{name}() {{ return emulator::parameter_sizes({name}); }}
extern "C" int bound_{name}() {{ return {bound}; }}
extern "C" const char* reads_{name}() {{ return "{reads}"; }}
"""


class EmulationError(AssertionError):
    """What a device would not allow, or would not tell."""


def kernels(sources: Mapping[str, str], *flags: str) -> Path:
    """A library of the `extern "C"` kernels in the first of the sources."""
    first, text = next(iter(sources.items()))
    entries = (
        ENTRY.format(name=found[2], bound=found[1] or 1024, reads=reads(text[found.end() :]))
        for found in DECLARATION.finditer(text)
    )
    return library({**sources, first: "\n".join([text, *entries])}, *flags)


def reads(parameters: str) -> str:
    """A letter for each parameter of a kernel: r where it is only read, w where it may be written."""
    inside = parameters[: parameters.index(")")]
    kinds = re.split(r",(?![^<]*>)", inside)
    return "".join("r" if re.match(r"\s*(const |In<|Row<|Column<|Scalar<)", kind) else "w" for kind in kinds)


class Kernel:
    """One kernel of a library. It is not checked what the arguments are, only how many bytes."""

    def __init__(self, path: Path, name: str) -> None:
        loaded = ctypes.PyDLL(str(path))  # which keeps the interpreter's lock: one launch at a time
        self.name = name
        self._launch = loaded[f"launch_{name}"]  # AttributeError where there is none
        self._launch.restype = ctypes.c_char_p
        sizes = loaded[f"sizes_{name}"]
        sizes.restype = ctypes.POINTER(ctypes.c_int)
        self.sizes = list(itertools.takewhile(bool, map(sizes().__getitem__, itertools.count())))
        self.bound = loaded[f"bound_{name}"]()
        reads_of = loaded[f"reads_{name}"]
        reads_of.restype = ctypes.c_char_p
        self.writes = [letter == ord("w") for letter in reads_of()]

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], order: int = FORWARD, seed: int = 0
    ) -> None:
        """Launch it on NumPy arrays, whose addresses it gets, and NumPy scalars."""
        cells = [np.array(a.ctypes.data if isinstance(a, np.ndarray) else a) for a in args]
        if [cell.nbytes for cell in cells] != self.sizes:
            raise EmulationError(f"{self.name} takes arguments of {self.sizes} bytes, not {[c.nbytes for c in cells]}")
        shape = [*grid, *[1] * (3 - len(grid)), *block, *[1] * (3 - len(block))]
        if min(shape) < 0 or int(np.prod(block)) > self.bound:
            raise EmulationError(f"{self.name}: a block of {block} does not fit its __launch_bounds__({self.bound})")
        pointers = (ctypes.c_void_p * len(cells))(*(cell.ctypes.data for cell in cells))
        error = self._launch((ctypes.c_uint * 6)(*shape), pointers, order, seed)
        if error:
            raise EmulationError(f"{self.name}: {error.decode()}")
