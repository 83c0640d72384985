"""Whether a CUDA device can be used, and if not, why and what would mend it.

This is the only module that imports CuPy, and it does so only when a GPU is asked for.
"""

import contextlib
import ctypes
import functools
import importlib
import os
from typing import Any

import numpy as np

from gpubp.extras import to_install

INSUFFICIENT_DRIVER, NO_DEVICE = 35, 100  # CUDA's error codes
OLDEST_FOR_CUDA_13 = (7, 5)  # the compute capability below which CUDA 13 neither compiles nor multiplies
LONGEST = 200  # characters of an error's message that are shown


def cupy() -> Any:
    """The module CuPy."""
    return importlib.import_module("cupy")


def cupy_nccl() -> Any:
    """CuPy's binding of NCCL, which may be there without its library."""
    return importlib.import_module("cupy.cuda.nccl")


@functools.cache
def why_not(index: int = 0) -> str | None:
    """Why this GPU cannot be used, with what would mend it; None if it can.

    To know, it runs one kernel and one matrix product: a missing compiler or library shows only when it is used.
    """
    try:
        xp = cupy()
    except Exception as error:
        return _no_cupy(error)
    try:
        return _no_device(xp, index) or _too_old(xp, index) or _no_kernel(xp, index) or _no_product(xp, index)
    except Exception as error:
        return f"CuPy cannot ask for cuda:{index} ({said(error)}); {_install(_driver())} mends a broken installation"


@functools.cache
def count() -> int:
    """How many CUDA devices there are, whether they can be used or not."""
    try:
        return int(cupy().cuda.runtime.getDeviceCount())
    except Exception:  # why_not says which
        return 0


def facts(index: int) -> dict[str, Any]:
    """What there is to say of a device that can be used."""
    xp = cupy()
    device = xp.cuda.Device(index)
    free, total = device.mem_info
    return {
        "name": xp.cuda.runtime.getDeviceProperties(index)["name"].decode(),
        "compute_capability": "{}.{}".format(*_capability(device)),
        "memory": total,
        "memory_free": free,
        "library": f"CuPy {xp.__version__}",
        **versions(),
    }


def capability(index: int) -> tuple[int, int]:
    """The compute capability of a device that can be used."""
    return _capability(cupy().cuda.Device(index))


def versions() -> dict[str, str]:
    """Of CUDA: the newest that the driver supports, CuPy's runtime, its compiler NVRTC; those of them that are here."""
    cuda = cupy().cuda
    numbers = {"driver": cuda.runtime.driverGetVersion(), "runtime": cuda.runtime.runtimeGetVersion()}
    found = {name: _version(number) for name, number in numbers.items() if number}
    with contextlib.suppress(Exception):
        found["nvrtc"] = "{}.{}".format(*cuda.nvrtc.getVersion())
    return found


def said(error: BaseException) -> str:
    """The first line of an error that says something, not too long."""
    lines = [line.strip() for line in str(error).splitlines() if any(map(str.isalnum, line))]
    text = ": ".join([type(error).__name__, *lines[:1]])
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


# -- what may be wrong -------------------------------------------------------------------------------------------------


def _no_cupy(error: Exception) -> str:
    driver = _driver()
    if not isinstance(error, ModuleNotFoundError) or error.name != "cupy":
        # CuPy wraps what it met first in a page of advice.
        return _unwritable(error) or f"CuPy is broken ({said(error.__cause__ or error)}); {_install(driver)}"
    if not driver:
        return f"CuPy is not installed, nor is an NVIDIA driver; with a GPU and its driver, {_install(driver)}"
    if driver < 12000:
        return (
            f"CuPy is not installed, and the driver is for CUDA {_version(driver)}; update it, then {_install(driver)}"
        )
    return f"CuPy is not installed; {_install(driver)} (the driver is for CUDA {_version(driver)})"


def _no_device(xp: Any, index: int) -> str | None:
    runtime = xp.cuda.runtime
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hint = "" if visible is None else f"; CUDA_VISIBLE_DEVICES={visible!r} hides all others"
    try:
        found = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        driver, built_for = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if not driver:
            return "no NVIDIA driver was found; install one (or, in a container, start it with --gpus all)"
        if error.status == INSUFFICIENT_DRIVER:
            trouble = f"the driver supports CUDA {_version(driver)}, this CuPy was built for {_version(built_for)}"
            suits_12 = built_for >= 13000 > driver >= 12000
            other = f", or pip uninstall cupy-cuda13x and {_install(driver)}" if suits_12 else ""
            return f"{trouble}; update the driver{other}"
        if error.status == NO_DEVICE:
            return f"the driver finds no CUDA device{hint or '; nvidia-smi lists those that it knows'}"
        return f"the CUDA driver does not answer ({said(error)}); restart the machine, or install the driver anew"
    if index < found:
        return None
    return f"this machine has {found} CUDA device{'s' * (found != 1)}, cuda:{index} is not among them{hint}"


def _too_old(xp: Any, index: int) -> str | None:
    capability = _capability(xp.cuda.Device(index))
    if xp.cuda.runtime.runtimeGetVersion() < 13000 or capability >= OLDEST_FOR_CUDA_13:
        return None
    trouble = "cuda:{} has compute capability {}.{}, which CUDA 13 no longer knows".format(index, *capability)
    return f"{trouble}; pip uninstall cupy-cuda13x and {_install(12000)}"


def _no_kernel(xp: Any, index: int) -> str | None:
    numbers = np.arange(16, dtype=np.float32)
    try:
        with xp.cuda.Device(index):
            a = xp.asarray(numbers)
            doubled = xp.asnumpy(a + a)
    except Exception as error:
        return _failure(xp, f"cuda:{index} cannot run a kernel", "NVRTC, which compiles kernels,", error)
    return None if np.array_equal(doubled, 2 * numbers) else _wrong(index, "sum")


def _no_product(xp: Any, index: int) -> str | None:
    numbers = np.arange(16, dtype=np.float32).reshape(4, 4)
    try:
        with xp.cuda.Device(index):
            a, out = xp.asarray(numbers), xp.empty((4, 4), "float32")
            xp.matmul(a, a, out=out)
            product = xp.asnumpy(out)
    except Exception as error:
        return _failure(xp, f"cuda:{index} cannot multiply matrices", "cuBLAS, which multiplies matrices,", error)
    return None if np.array_equal(product, numbers @ numbers) else _wrong(index, "matrix product")


def _wrong(index: int, what: str) -> str:
    return f"cuda:{index} gave a wrong {what}; check CuPy's installation, the driver, and the device by nvidia-smi -q"


def _failure(xp: Any, trouble: str, library: str, error: Exception) -> str:
    # CuPy raises the first where cuBLAS is missing, cuda.pathfinder the second for NVRTC, and a failed dlopen the last.
    if isinstance(error, ImportError) or "NotFound" in type(error).__name__ or "shared object" in str(error):
        return f"{library} was not found ({said(error)}); {_install(xp.cuda.runtime.runtimeGetVersion())}"
    return _unwritable(error) or f"{trouble} ({said(error)}); nvidia-smi shows its state and what else uses it"


def _unwritable(error: Exception) -> str | None:
    if isinstance(error, OSError) and error.filename:
        return f"CuPy cannot write its cache ({said(error)}); set CUPY_CACHE_DIR to a folder that can be written"
    return None


def _install(version: int) -> str:
    """The line that installs a CuPy, with all that it loads, for this version of CUDA; 0 where none is known."""
    major = 12 if version // 1000 == 12 else 13
    return to_install(f"cuda{major}", f"'cupy-cuda{major}x[ctk]'")


def _capability(device: Any) -> tuple[int, int]:
    digits = device.compute_capability
    return int(digits[:-1]), int(digits[-1])


def _version(number: int) -> str:
    """As CUDA counts: 12020 is 12.2."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _driver() -> int:
    """The newest CUDA that the driver supports, asked without CuPy; 0 where there is no driver."""
    version = ctypes.c_int(0)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return version.value
