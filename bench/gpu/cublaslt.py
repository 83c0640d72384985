"""cuBLASLt by ctypes: matrix products that a stream capture accepts, with alpha and beta on the host or on the device.

Numbers and signatures are those of cublasLt.h, cublas_api.h and library_types.h of CUDA 13. cuBLASLt counts columns
first: the row-major D = op(A) op(B) is its D' = op(B)' op(A)' on the same memory, so that its A is our B and the rows
of its D are our columns.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Any

R_32F, R_64F, R_16BF = 0, 1, 14  # cudaDataType
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77  # cublasComputeType_t
POINTER_MODE, TRANSA, TRANSB, EPILOGUE, BIAS_POINTER = 2, 3, 4, 7, 8  # cublasLtMatmulDescAttributes_t
EPILOGUE_AUX_POINTER, EPILOGUE_AUX_LD = 11, 12
ON_HOST, ON_DEVICE = 0, 1  # cublasLtPointerMode_t
MAX_WORKSPACE_BYTES = 1  # cublasLtMatmulPreferenceAttributes_t
EPILOGUES = {  # cublasLtEpilogue_t
    "DEFAULT": 1,
    "RELU": 2,
    "BIAS": 4,
    "RELU_BIAS": 2 | 4,
    "RELU_AUX": 2 | 128,
    "RELU_AUX_BIAS": 2 | 128 | 4,
    "DRELU": 8 | 128,
    "DRELU_BGRAD": 8 | 128 | 16,
    "GELU": 32,
    "GELU_BIAS": 32 | 4,
    "GELU_AUX": 32 | 128,
    "GELU_AUX_BIAS": 32 | 128 | 4,
    "DGELU": 64 | 128,
    "DGELU_BGRAD": 64 | 128 | 16,
    "BGRADA": 256,
    "BGRADB": 512,
}
WORKSPACE_BYTES = 32 << 20


@dataclass(frozen=True)
class Kind:
    """The types of a product: of A and B, of C and D, of its sums, and of alpha and beta."""

    operands: int
    result: int
    compute: int
    scale: int = R_32F


KINDS = {
    "float32": Kind(R_32F, R_32F, COMPUTE_32F),
    "tf32": Kind(R_32F, R_32F, COMPUTE_32F_FAST_TF32),
    "bfloat16": Kind(R_16BF, R_16BF, COMPUTE_32F),
    "bfloat16 to float32": Kind(R_16BF, R_32F, COMPUTE_32F),
    "float64": Kind(R_64F, R_64F, COMPUTE_64F, R_64F),
}


class CublasLtError(RuntimeError):
    """A call of cuBLASLt that did not succeed."""


class Algorithm(ctypes.Structure):
    """cublasLtMatmulAlgo_t"""

    _fields_ = (("data", ctypes.c_uint64 * 8),)


class Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t"""

    _fields_ = (
        ("algorithm", Algorithm),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


@functools.cache
def library() -> Any:
    """The library, the one that CuPy would load; needs no GPU."""
    from cuda.pathfinder import load_nvidia_dynamic_lib

    lt = ctypes.CDLL(load_nvidia_dynamic_lib("cublasLt").abs_path)
    pointer, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
    lt.cublasLtGetVersion.restype = size
    lt.cublasLtGetStatusString.restype = ctypes.c_char_p
    lt.cublasLtMatmulDescCreate.argtypes = [pointer, number, number]
    lt.cublasLtMatmulDescSetAttribute.argtypes = [pointer, number, pointer, size]
    lt.cublasLtMatrixLayoutCreate.argtypes = [pointer, number, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64]
    lt.cublasLtMatmulPreferenceCreate.argtypes = [pointer]
    lt.cublasLtMatmulPreferenceSetAttribute.argtypes = [pointer, number, pointer, size]
    lt.cublasLtMatmulAlgoGetHeuristic.argtypes = [*[pointer] * 7, number, pointer, pointer]
    lt.cublasLtMatmul.argtypes = [*[pointer] * 14, size, pointer]
    for destroy in (lt.cublasLtMatmulDescDestroy, lt.cublasLtMatrixLayoutDestroy, lt.cublasLtMatmulPreferenceDestroy):
        destroy.argtypes = [pointer]
    return lt


def check(status: int, what: str) -> None:
    if status:
        raise CublasLtError(f"{what}: {library().cublasLtGetStatusString(status).decode()} ({status})")


@functools.cache
def device_state() -> tuple[Any, Any]:
    """A handle on the current device, and the workspace of its products."""
    import cupy

    workspace = cupy.empty((WORKSPACE_BYTES,), "uint8")  # first, since it also makes the context that a handle needs
    handle = ctypes.c_void_p()
    check(library().cublasLtCreate(ctypes.byref(handle)), "cublasLtCreate")
    return handle, workspace


class Product:
    """D ← alpha op(A) op(B) + beta C for row-major matrices: D and C (m, n), op(A) (m, k), op(B) (k, n).

    Alpha and beta are numbers here, or addresses on the device given with each call.
    """

    def __init__(
        self,
        kind: str,
        m: int,
        n: int,
        k: int,
        *,
        transposed: tuple[bool, bool] = (False, False),
        alpha: float = 1.0,
        beta: float = 0.0,
        scalars_on_device: bool = False,
        epilogue: str = "DEFAULT",
        bias: int = 0,
        aux: int = 0,
        aux_ld: int = 0,
    ) -> None:
        self.kind = KINDS[kind]
        lt = library()
        a_transposed, b_transposed = transposed
        number = ctypes.c_double if self.kind.scale == R_64F else ctypes.c_float
        self._scalars = (number * 2)(alpha, beta)
        self._description = ctypes.c_void_p()
        check(
            lt.cublasLtMatmulDescCreate(ctypes.byref(self._description), self.kind.compute, self.kind.scale),
            "cublasLtMatmulDescCreate",
        )
        self._set(TRANSA, ctypes.c_int32(b_transposed))
        self._set(TRANSB, ctypes.c_int32(a_transposed))
        self._set(POINTER_MODE, ctypes.c_int32(ON_DEVICE if scalars_on_device else ON_HOST))
        self._set(EPILOGUE, ctypes.c_uint32(EPILOGUES[epilogue]))
        if bias:
            self._set(BIAS_POINTER, ctypes.c_void_p(bias))
        if aux:
            self._set(EPILOGUE_AUX_POINTER, ctypes.c_void_p(aux))
            self._set(EPILOGUE_AUX_LD, ctypes.c_int64(aux_ld))
        self._layouts = (
            self._layout(self.kind.operands, *((n, k) if b_transposed else (k, n))),
            self._layout(self.kind.operands, *((k, m) if a_transposed else (m, k))),
            self._layout(self.kind.result, m, n),
        )
        self.plans: list[Heuristic] = []
        self.chosen = 0

    def _set(self, attribute: int, value: Any) -> None:
        status = library().cublasLtMatmulDescSetAttribute(
            self._description, attribute, ctypes.byref(value), ctypes.sizeof(value)
        )
        check(status, f"cublasLtMatmulDescSetAttribute({attribute})")

    def _layout(self, kind: int, rows: int, columns: int) -> ctypes.c_void_p:
        """Of a row-major matrix as it is stored: to cuBLASLt its rows are columns."""
        layout = ctypes.c_void_p()
        status = library().cublasLtMatrixLayoutCreate(ctypes.byref(layout), kind, columns, rows, columns)
        check(status, "cublasLtMatrixLayoutCreate")
        return layout

    def plan(self, wanted: int = 1) -> Product:
        """Ask for algorithms, the best guess first; CublasLtError where there is none."""
        lt, (handle, _) = library(), device_state()
        preference, room = ctypes.c_void_p(), ctypes.c_uint64(WORKSPACE_BYTES)
        check(lt.cublasLtMatmulPreferenceCreate(ctypes.byref(preference)), "cublasLtMatmulPreferenceCreate")
        status = lt.cublasLtMatmulPreferenceSetAttribute(preference, MAX_WORKSPACE_BYTES, ctypes.byref(room), 8)
        check(status, "cublasLtMatmulPreferenceSetAttribute")
        found, results = ctypes.c_int(), (Heuristic * wanted)()
        b, a, d = self._layouts
        status = lt.cublasLtMatmulAlgoGetHeuristic(
            handle, self._description, b, a, d, d, preference, wanted, results, ctypes.byref(found)
        )
        lt.cublasLtMatmulPreferenceDestroy(preference)
        check(status, "cublasLtMatmulAlgoGetHeuristic")
        self.plans = [result for result in results[: found.value] if result.state == 0]
        if not self.plans:
            raise CublasLtError("no algorithm for these types, shapes and epilogue")
        return self

    def __call__(self, a: Any, b: Any, d: Any, scalars: Any = None) -> None:
        """Device arrays, D being C as well, on the current stream; `scalars` holds alpha and beta on the device."""
        import cupy

        handle, workspace = device_state()
        alpha = ctypes.addressof(self._scalars) if scalars is None else scalars.data.ptr
        b_layout, a_layout, d_layout = self._layouts
        status = library().cublasLtMatmul(
            handle,
            self._description,
            alpha,
            b.data.ptr,
            b_layout,
            a.data.ptr,
            a_layout,
            alpha + ctypes.sizeof(self._scalars) // 2,
            d.data.ptr,
            d_layout,
            d.data.ptr,
            d_layout,
            ctypes.addressof(self.plans[self.chosen].algorithm),
            workspace.data.ptr,
            WORKSPACE_BYTES,
            cupy.cuda.get_current_stream().ptr,
        )
        check(status, "cublasLtMatmul")

    def close(self) -> None:
        library().cublasLtMatmulDescDestroy(self._description)
        for layout in self._layouts:
            library().cublasLtMatrixLayoutDestroy(layout)
