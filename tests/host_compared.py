"""Whether a compiled device function computes what its kernel's body does, on ordinary and on special values."""

import ctypes
from functools import cache
from typing import Any

import numpy as np
from host_compiled import run_compiled
from kernel_arguments import WHOLE_NUMBERS, arguments, copies, is_scalar, run

from gpubp.kernel import Kernel
from gpubp.parity import largest, terms, tolerance, truth_of


def drawn(kernel: Kernel, rows: int, width: int, dtype: Any) -> dict[str, Any]:
    """Arguments of which the numbers too are of the dtype."""
    args = arguments(kernel, rows, width, dtype)
    return {name: float(dtype(arg)) if isinstance(arg, float) else arg for name, arg in args.items()}


@cache
def _truth(kernel: Kernel, rows: int, width: int, dtype: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    args = drawn(kernel, rows, width, dtype)
    return args, *truth_of(kernel, args)


def agrees(library: ctypes.CDLL, symbol: str, kernel: Kernel, rows: int, width: int, dtype: Any) -> bool:
    """Whether the errors are within the tolerance of gpubp/parity.py."""
    args, truth, scale = _truth(kernel, rows, width, dtype)
    # The truth in float64 is rounded as much as what is compared with it.
    limit = tolerance(dtype, terms(kernel, rows, width)) * (2 if dtype is np.float64 else 1)
    got = run_compiled(library, symbol, kernel, copies(args), dtype)
    return all(largest(value, truth[name], scale[name]) <= limit for name, value in got.items())


def _special_values(dtype: Any) -> Any:
    info = np.finfo(dtype)
    positive = [
        0.0,
        info.smallest_subnormal,
        info.tiny,
        info.tiny / 4,
        0.5,
        1,
        2,
        30,
        88.5,
        709,
        1e4,
        info.max / 4,
        np.inf,
    ]
    return np.array([*(sign * value for value in positive for sign in (1, -1)), np.nan], dtype)


def _specials(kernel: Kernel, dtype: Any) -> dict[str, Any]:
    """All combinations of special values in the arrays; of a row one element has them, among ordinary ones."""
    numbers = [name for name in kernel.reads if is_scalar(kernel, name) or name in WHOLE_NUMBERS]
    shared = ["b"] if kernel.kind == "rowwise" else []
    names = [name for name in kernel.reads if name not in numbers + shared]
    values = _special_values(dtype)[:: 2 if len(names) > 3 else 1]
    # A target below 0 is none of some losses', and an infinite logit then is NaN or not by the order of operations.
    axes = [np.abs(values) if name == "t" else values for name in names]
    grid = [axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")]
    args = drawn(kernel, len(grid[0]), 3 if kernel.kind == "rowwise" else 1, dtype)
    for name, axis in zip(names, grid, strict=True):
        ordinary = args[name][:1, 1:] if name in kernel.rows else np.empty((1, 0), dtype)  # the same in all rows
        args[name] = np.hstack([axis[:, None], np.repeat(ordinary, len(axis), axis=0)])
    return args


@cache
def _references(kernel: Kernel, dtype: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    args = _specials(kernel, dtype)
    exact = {name: a.astype(np.float64) if np.ndim(a) and a.dtype == dtype else a for name, a in copies(args).items()}
    return args, run(kernel, copies(args)), run(kernel, exact)


def agrees_on_specials(library: ctypes.CDLL, symbol: str, kernel: Kernel, dtype: Any) -> bool:
    """Whether it makes of special values what the body does in the same dtype; or in float64, where less overflows."""
    args, rounded, exact = _references(kernel, dtype)
    got = run_compiled(library, symbol, kernel, copies(args), dtype)
    with np.errstate(all="ignore"):
        return all(
            (_alike(value, rounded[name], dtype) | _alike(value, exact[name].astype(dtype), dtype)).all()
            for name, value in got.items()
        )


def _alike(got: Any, wanted: Any, dtype: Any) -> Any:
    """The same infinity, NaN, or number to half of its digits: how exact it is, ordinary values show."""
    info = np.finfo(dtype)
    near = np.abs(got - wanted) <= np.sqrt(info.eps) * np.abs(wanted) + 8 * info.smallest_subnormal
    return near | (got == wanted) | (np.isnan(got) & np.isnan(wanted))
