"""How the arguments of a declared kernel reach its device function: which of the types in `kernels/` each is."""

from typing import Any

import numpy as np

from gpubp.kernel import Array, Kernel

HALF = "uint16"  # the dtype that carries bfloat16, which NumPy and CuPy do not have of themselves
TYPES = {"f": "float", "d": "double", "I": "unsigned", "H": "Half"}
COMPUTED: dict[str, Any] = {
    "f": np.float32,
    "d": np.float64,
    "H": np.float32,
}  # what device functions compute with, by what is stored


class UnsuitableError(Exception):
    """These arguments are not what a template can take: the kernel's body has to do."""


def bound(
    kernel: Kernel, args: tuple[Any, ...], like: Array, array_type: type
) -> tuple[list[tuple[str, str]], list[Any]]:
    """The (type, name) of each parameter, and what is passed for it: an array, or a scalar of NumPy's."""
    if like.dtype.char not in COMPUTED:
        raise UnsuitableError
    computed = COMPUTED[like.dtype.char]
    parameters, values = [], []
    for name, arg in zip(kernel.arguments, args, strict=True):
        if isinstance(arg, array_type):
            kind = typed(way(kernel, name, arg, like), arg, like)
        else:
            arg = arg if isinstance(arg, np.uint32) else computed(arg)
            kind = f"Value<{TYPES[arg.dtype.char]}>"
        parameters.append((kind, name))
        values.append(arg)
    return parameters, values


def typed(kind: str, arg: Array, like: Array) -> str:
    """That kind, of the array's elements."""
    contiguous(arg)
    if arg.dtype.char != "I" and COMPUTED.get(arg.dtype.char) is not COMPUTED[like.dtype.char]:
        raise UnsuitableError
    return f"{kind}<{TYPES[arg.dtype.char]}>"


def way(kernel: Kernel, name: str, arg: Array, like: Array) -> str:
    """Which of the types in `kernels/arguments.cuh` and `kernels/host.hpp` an array is to its kernel."""
    written = name in kernel.writes
    if kernel.kind == "reduction" and written:
        return "Out"
    rows, width = matrix(like)
    by_row = kernel.kind == "rowwise" and name not in kernel.rows  # one value a row, even where a row is one value
    if arg.shape == like.shape and not by_row:
        return "InOut" if written and name in kernel.reads else "Out" if written else "In"
    if arg.shape == (rows, 1):
        return "ColumnOut" if written else "Column"
    if written:
        raise UnsuitableError
    if arg.ndim == 0:
        return "Scalar"
    if arg.shape in ((width,), (1, width)):
        return "Row"
    raise UnsuitableError


def contiguous(*arrays: Array) -> None:
    if not all(a.flags.c_contiguous for a in arrays):
        raise UnsuitableError


def matrix(a: Array) -> tuple[int, int]:
    """(rows, width) of an array; a vector is one row."""
    return (a.shape[0], a.shape[1]) if a.ndim == 2 else (1, a.size)
