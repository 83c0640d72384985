"""What a user gives and gets.

Any array-like comes in, is checked and lands on the device; results go back as the kind that came.
"""

import sys
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from gpubp.alone import ALONE, Alone
from gpubp.backends.base import Backend
from gpubp.data.rows import Rows, too_large
from gpubp.errors import DataError, DeviceError, ShapeError
from gpubp.kernel import Array

HOST = (1, 3)  # DLPack's kDLCPU and kDLCUDAHost, which is pinned memory


def as_host_or_device(name: str, a: Any) -> Any:
    """`a` as a NumPy or CuPy array of numbers, without a copy where it is one or speaks DLPack."""
    if isinstance(a, np.ndarray):
        array = a
    elif type(a).__module__.partition(".")[0] == "cupy":
        return a
    elif hasattr(a, "__dlpack_device__") and not isinstance(a, np.generic):
        array = _from_dlpack(name, a)
    else:
        array = as_rectangle(name, a)
    if array.dtype.kind not in "fiub":
        raise DataError(
            f"{name} has dtype {array.dtype}, but numbers are needed; convert it, or encode text as numbers, first"
        )
    return array


def as_usable(name: str, a: Any, backend: Backend) -> Any:
    """`a` as an array on the host or on this device."""
    array = as_host_or_device(name, a)
    if isinstance(array, np.ndarray) or backend.owns(array):
        return array
    if backend.xp is np:
        raise elsewhere(name)
    return backend.asarray(array, array.dtype)  # from another GPU


def elsewhere(name: str) -> DeviceError:
    return DeviceError(
        f"{name} is on a GPU and this network is on the CPU; move the array to the CPU, or use device='cuda'"
    )


def as_rectangle(name: str, a: Any) -> Any:
    """`a` as a NumPy array of whatever it holds; DataError for ragged lists."""
    try:
        return np.asarray(a)
    except ValueError as error:
        raise DataError(f"{name} is not a rectangular array ({error}); give every row the same length") from None


def as_layers(name: str, given: Any, views: Sequence[Any], may_be_left_out: bool = False) -> list[Any]:
    """One array a layer, of its view's shape; None where there is no view or, if that may be, where none is given."""
    if not hasattr(given, "__len__"):
        raise DataError(f"{name} must be a list with one array a layer, got {given!r}")
    if len(given) != len(views):
        raise ShapeError(f"{name} has {len(given)} entries, but the network has {len(views)} layers")
    arrays = []
    for layer, (value, view) in enumerate(zip(given, views, strict=True)):
        array = None if value is None else as_host_or_device(f"{name}[{layer}]", value)
        shape, wanted = (None if a is None else a.shape for a in (array, view))
        if shape != wanted and not (may_be_left_out and array is None):
            raise ShapeError(f"{name}[{layer}] has shape {shape}, but {wanted or 'no bias'} is needed")
        arrays.append(array)
    return arrays


def _from_dlpack(name: str, a: Any) -> Any:
    if getattr(a, "requires_grad", False):
        raise DataError(f"{name} is a tensor that requires gradients, which gpubp would ignore; pass {name}.detach()")
    if a.__dlpack_device__()[0] in HOST:
        try:
            return np.from_dlpack(a)
        except (RuntimeError, BufferError, TypeError) as error:  # a type that NumPy lacks, such as bfloat16
            kind = getattr(a, "dtype", type(a).__name__)
            raise DataError(f"{name} has dtype {kind}, which NumPy cannot take ({error}); convert it first") from None
    cupy = sys.modules.get("cupy")
    if cupy is None:
        raise elsewhere(name)
    return cupy.from_dlpack(a)


def as_matrix(name: str, a: Any, backend: Backend, dtype: str, width: int) -> Array:
    """`a` on the device as a C-contiguous (N, width) array of this dtype: itself where it is one already."""
    if not backend.owns(a) or a.dtype != dtype:
        a = as_usable(name, a, backend)
    if a.ndim != 2 or a.shape[1] != width:
        raise ShapeError(f"{name} has shape {a.shape}, but (N, {width}) is needed{_reshape_hint(name, a, width)}")
    if a.dtype == dtype and a.flags.c_contiguous and backend.owns(a):
        return a
    return backend.asarray(a, dtype)


def as_rows(name: str, a: Any, backend: Backend, dtype: str, width: int) -> Array:
    """Like `as_matrix`; but Rows, what is too large for memory or the device stays where it is, as DeviceRows."""
    if isinstance(a, np.ndarray) and a.ndim == 2 and a.dtype.kind in "fiub":
        mapped = isinstance(a, np.memmap) and too_large(a.shape, dtype=dtype)
        if mapped or not backend.holds(a.size * backend.itemsize(dtype)):
            a = Rows(a)
    if not isinstance(a, Rows):
        return as_matrix(name, a, backend, dtype, width)
    if a.shape[1] != width:
        raise ShapeError(f"{name} has shape {a.shape}, but (N, {width}) is needed")
    return DeviceRows(a, backend, dtype)


class DeviceRows:
    """Rows that come to the device a batch at a time; to a network what a device array (N, width) is."""

    ndim = 2

    def __init__(self, rows: Rows, backend: Backend, dtype: str) -> None:
        self.rows, self.backend, self.dtype, self.shape = rows, backend, dtype, rows.shape

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> Array:
        return self.backend.asarray(self.rows[rows], self.dtype)

    def select(self, index: Any) -> "DeviceRows":
        return DeviceRows(self.rows.select(index), self.backend, self.dtype)


def chosen(a: Array | None, index: Any, backend: Backend) -> Array | None:
    """The rows of a device array with these numbers (on the host), as a new one; of DeviceRows, still unread."""
    if a is None:
        return None
    return a.select(index) if isinstance(a, DeviceRows) else a[backend.asarray(index, "int64")]


def _reshape_hint(name: str, a: Any, width: int) -> str:
    if a.ndim == 1 and len(a) == width:
        return f"; for a single sample pass {name}[None, :]"
    if a.ndim == 1 and width == 1:
        return f"; pass {name}[:, None]"
    if a.ndim > 2 and prod(a.shape[1:]) == width:
        return f"; flatten each sample first: {name}.reshape(len({name}), -1)"
    return ""


def check_finite(name: str, a: Any, xp: Any, processes: Alone = ALONE) -> None:
    """Refuse NaN and infinity, naming the first place; waits for the device once.

    Of what has to be read from elsewhere each process reads its part.
    """
    if isinstance(a, DeviceRows):
        for part, chunk in a.rows.chunks(processes.part(len(a))):
            _check_finite(name, chunk, np, part.start)
    else:
        _check_finite(name, a, xp)


def _check_finite(name: str, a: Any, xp: Any, first_row: int = 0) -> None:
    if found := not_finite(name, a, xp, first_row):
        raise DataError(found)


def not_finite(name: str, a: Any, xp: Any, first_row: int = 0) -> str | None:
    """What of an array is not finite, and where; None if all is."""
    if bool(xp.isfinite(a.sum(dtype=xp.float64))):  # an infinity or a NaN anywhere makes the sum one
        return None
    bad = ~xp.isfinite(a)
    count = int(bad.sum())
    if not count:
        return None
    place = [int(i) for i in np.unravel_index(int(bad.argmax()), a.shape)]
    numbers = [place[0] + first_row, *place[1:]]
    where = ", ".join(f"{axis} {i}" for axis, i in zip(("row", "column"), numbers, strict=False))
    first = float(a[tuple(place)])
    return f"{name} has {count} values that are not finite, the first in {where} ({first}); remove or impute them first"


def as_weights(sample_weight: Any, rows: int, backend: Backend, dtype: str, may_wait: bool = True) -> Array | None:
    """Sample weights on the device as (N, 1); None stays None. Those that lie there are looked at if it may wait."""
    if sample_weight is None:
        return None
    weights = as_usable("sample_weight", sample_weight, backend)
    if weights.shape not in ((rows,), (rows, 1)):
        raise ShapeError(
            f"sample_weight has shape {weights.shape}, "
            f"but one weight for each of the {rows} samples is needed: ({rows},)"
        )
    if may_wait or isinstance(weights, np.ndarray):
        check_finite("sample_weight", weights, backend.xp if not isinstance(weights, np.ndarray) else np)
        if float(weights.min()) < 0:
            raise DataError(f"sample_weight must not be negative, its least is {float(weights.min())}")
    return backend.asarray(weights, dtype).reshape(rows, 1)


def returner(a: Any, backend: Backend) -> Callable[[Array], Any]:
    """A function that gives a device array back as the kind that `a` is: NumPy, CuPy, or whatever speaks DLPack."""
    package = type(a).__module__.partition(".")[0]
    if package == "cupy":
        return lambda result: sys.modules["cupy"].asarray(result)
    if isinstance(a, np.ndarray | np.generic) or not hasattr(a, "__dlpack_device__"):
        return backend.to_numpy
    library = sys.modules[package]
    from_dlpack = getattr(library, "from_dlpack", None) or getattr(
        getattr(library, "dlpack", None), "from_dlpack", None
    )
    if from_dlpack is None:
        return backend.to_numpy
    if a.__dlpack_device__()[0] in HOST:
        return lambda result: from_dlpack(backend.to_numpy(result))
    return lambda result: from_dlpack(result)
