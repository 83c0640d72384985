"""NCCL: sums over the GPUs of several processes, which never leave the devices.

Experimental: it has run on no two GPUs yet. Its functions are those of `cupy.cuda.nccl`.
"""

import warnings
from typing import TYPE_CHECKING, Any

from gpubp.backends.detection import cupy, cupy_nccl, said
from gpubp.extras import to_install
from gpubp.kernel import Array

if TYPE_CHECKING:
    from gpubp.backends.base import Backend


class Nccl:
    """The sums of `size` processes, each with a GPU of its own; the identifier is made by one of them."""

    def __init__(self, identifier: Any, rank: int, size: int) -> None:
        nccl = cupy_nccl()
        self._types = {"float32": nccl.NCCL_FLOAT32, "float64": nccl.NCCL_FLOAT64}
        self._sum = nccl.NCCL_SUM
        self._communicator = nccl.NcclCommunicator(size, identifier, rank)

    def add(self, vector: Array) -> None:
        """vector ← Σ over all processes, in the order of the present stream."""
        pointer, stream = vector.data.ptr, cupy().cuda.get_current_stream().ptr
        kind = self._types[str(vector.dtype)]
        self._communicator.allReduce(pointer, pointer, vector.size, kind, self._sum, stream)


def new_identifier() -> Any:
    """What the processes of one group know each other by."""
    return cupy_nccl().get_unique_id()


def version() -> str:
    """As NVIDIA counts: 22703 is 2.27.3."""
    number = int(cupy_nccl().get_version())
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def why_not(backend: "Backend") -> str | None:
    """Why this backend's vectors cannot be added up by NCCL; None if they can."""
    if backend.name == "cpu":
        return "there is no GPU"
    return why_not_installed()


def why_not_installed() -> str | None:
    """Why NCCL cannot be used with CuPy; None if it can."""
    try:
        with warnings.catch_warnings():  # CuPy's own, of the same
            warnings.simplefilter("ignore")
            available = cupy_nccl().available
        major = cupy().cuda.runtime.runtimeGetVersion() // 1000
    except ModuleNotFoundError:
        return "CuPy is not installed"
    except Exception as error:
        return f"CuPy cannot load it ({said(error)})"
    return None if available else f"NCCL is not installed; {to_install(f'nccl{major}', f'nvidia-nccl-cu{major}')}"


def gpu(backend: "Backend") -> str:
    """Where this backend's GPU is plugged in, whatever number it goes by in this process."""
    return str(cupy().cuda.Device(int(backend.name.partition(":")[2])).pci_bus_id)
