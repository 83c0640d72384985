"""Devices: which are here, and a backend for the one asked for."""

import os
import re
from typing import Any

from gpubp.backends import detection
from gpubp.backends.base import Backend
from gpubp.backends.cupy import CupyBackend
from gpubp.backends.native import NativeBackend
from gpubp.backends.numpy import NumpyBackend
from gpubp.backends.products import PRECISIONS
from gpubp.errors import DataError, DeviceError
from gpubp.launcher import launch

OLDEST_FOR_PRECISION = (8, 0)  # the compute capability whose tensor cores first knew TF32 and bfloat16

__all__ = ["Backend", "devices", "get_backend"]


def get_backend(device: str = "auto") -> Backend:
    """A new backend for "cpu", "cuda", "cuda:N", or "auto": the first GPU where one works, else the CPU.

    Where "auto" falls back on the CPU, `backend.fallback` keeps the reason. Of the processes that an MPI launcher
    started on one machine, each is given another GPU by "cuda" and "auto", in turn.

    Raises DeviceError, with the reason and the remedy, when a GPU is asked for by name and is not there.

    >>> get_backend("cpu").name
    'cpu'
    """
    return precise_backend(device, None)


def precise_backend(device: str, precision: str | None) -> Backend:
    """The same, multiplying matrices in a precision that only a GPU has; DeviceError on the CPU."""
    known = re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,9})?", device) if isinstance(device, str) else None
    if not known:
        raise DataError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {device!r}")
    if precision not in (None, *PRECISIONS):
        raise DataError(f"precision must be None, {' or '.join(map(repr, PRECISIONS))}, got {precision!r}")
    index = int(known[1][1:]) if known[1] else _own_gpu(device)
    reason = None if device == "cpu" else detection.why_not(index)
    if device != "cpu" and reason is None:
        if precision is not None and (capability := detection.capability(index)) < OLDEST_FOR_PRECISION:
            has = "{}.{}".format(*capability)
            raise DeviceError(
                f"precision={precision!r} needs compute capability 8.0, cuda:{index} has {has}; leave it out"
            )
        return CupyBackend(index, precision=precision)
    if known[0].startswith("cuda"):
        instead = "'cpu' runs on the CPU, and 'auto' on a GPU only where one works"
        raise DeviceError(f"device={device!r} is not available: {reason}. {instead}")
    if precision is not None:
        why = f": {reason}" if reason else ""
        raise DeviceError(f"precision={precision!r} is not available on the CPU; leave it out{why}")
    return cpu(fallback=reason)


def _own_gpu(device: str) -> int:
    """The first one, or that of this process among the processes of an MPI launch on this machine."""
    started = launch()
    return started.local_rank % max(1, detection.count()) if device != "cpu" and started.local_size > 1 else 0


def cpu(fallback: str | None = None) -> Backend:
    """The CPU, with compiled kernels where GPUBP_NATIVE and this machine allow them."""
    wanted = os.environ.get("GPUBP_NATIVE", "auto")
    if wanted not in ("auto", "0", "1"):
        raise DataError(f"GPUBP_NATIVE must be 'auto', '0' or '1', got {wanted!r}")
    if wanted == "0":
        return NumpyBackend(fallback, "GPUBP_NATIVE=0")
    try:
        return NativeBackend(fallback)
    except DeviceError as error:
        if wanted == "1":
            raise DeviceError(f"GPUBP_NATIVE=1, but {error}") from None
        return NumpyBackend(fallback, str(error))


def devices() -> list[dict[str, Any]]:
    """What can be computed on: a row for the CPU and one for each GPU, or for why there is none."""
    rows = [cpu().describe()]
    found = detection.count()
    for index in range(max(1, found)):
        if (reason := detection.why_not(index)) is None:
            rows.append(CupyBackend(index).describe())
        else:
            rows.append({"device": f"cuda:{index}" if found else "cuda", "available": "no", "reason": reason})
    return rows
