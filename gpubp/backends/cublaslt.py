"""cuBLASLt by ctypes: matrix products that a stream capture accepts, with alpha and beta on the host or on the device.

CuPy refuses to call cuBLAS while a stream is captured. Numbers and signatures are those of cublasLt.h, cublas_api.h
and library_types.h of CUDA 13. cuBLASLt counts columns first: the row-major D = op(A) op(B) is its D' = op(B)' op(A)'
on the same memory, so that its A is our B and the rows of its D are our columns.
"""

import ctypes
import functools
import importlib
from dataclasses import dataclass
from typing import Any

from gpubp.backends.detection import said
from gpubp.errors import DeviceError
from gpubp.kernel import Array

R_32F, R_64F, R_16BF = 0, 1, 14  # cudaDataType
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77  # cublasComputeType_t
POINTER_MODE, TRANSA, TRANSB, EPILOGUE, BIAS_POINTER = 2, 3, 4, 7, 8  # cublasLtMatmulDescAttributes_t
EPILOGUE_AUX_POINTER, EPILOGUE_AUX_LD = 11, 12
ON_HOST, ON_DEVICE = 0, 1  # cublasLtPointerMode_t
MAX_WORKSPACE_BYTES = 1  # cublasLtMatmulPreferenceAttributes_t
MIN_ALIGNMENTS = (5, 6, 7, 8)  # the same, of A, B, C and D
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
WORKSPACE_BYTES = 32 << 20  # what cuBLAS itself takes on Hopper
ALIGNED = 16  # bytes: the widest access; more is never promised, so that a batch's place in memory picks no other plan


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


class CublasLtError(DeviceError):
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
    """The library, the one that CuPy would load; needs no GPU. DeviceError where it is missing."""
    try:
        load = importlib.import_module("cuda.pathfinder").load_nvidia_dynamic_lib
        found = ctypes.CDLL(load("cublasLt").abs_path)
    except (ImportError, OSError, RuntimeError) as error:
        raise DeviceError(f"cuBLASLt was not found ({said(error)}); install CuPy with [ctk]") from None
    return declared(found)


def declared(lt: Any) -> Any:
    """The library with the types of what its functions take and give."""
    pointer, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
    lt.cublasLtGetVersion.restype = size
    lt.cublasLtGetStatusString.restype = ctypes.c_char_p
    lt.cublasLtCreate.argtypes = [pointer]
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
def handle_of(device: int) -> Any:
    """cuBLASLt's handle on a device, which must be current and have a context."""
    handle = ctypes.c_void_p()
    check(library().cublasLtCreate(ctypes.byref(handle)), "cublasLtCreate")
    return handle


class Product:
    """D ← alpha op(A) op(B) + beta C for row-major matrices: D and C (m, n), op(A) (m, k), op(B) (k, n).

    Alpha and beta are numbers here, or arrays of one number on the device given with each call.
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
        self.kind, self._on_device = KINDS[kind], scalars_on_device
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

    def plan(self, device: int, wanted: int = 1, alignments: tuple[int, int, int] = (ALIGNED,) * 3) -> "Product":
        """Ask for algorithms, the best guess first; CublasLtError where there is none.

        `alignments` are those of the addresses of A, B and D in bytes.
        """
        lt, handle = library(), handle_of(device)
        preference = ctypes.c_void_p()
        check(lt.cublasLtMatmulPreferenceCreate(ctypes.byref(preference)), "cublasLtMatmulPreferenceCreate")
        a_bytes, b_bytes, d_bytes = alignments
        aligned = zip(MIN_ALIGNMENTS, map(ctypes.c_uint32, (b_bytes, a_bytes, d_bytes, d_bytes)), strict=True)
        for attribute, value in ((MAX_WORKSPACE_BYTES, ctypes.c_uint64(WORKSPACE_BYTES)), *aligned):
            status = lt.cublasLtMatmulPreferenceSetAttribute(
                preference, attribute, ctypes.byref(value), ctypes.sizeof(value)
            )
            check(status, f"cublasLtMatmulPreferenceSetAttribute({attribute})")
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

    def __call__(
        self, a: Array, b: Array, d: Array, workspace: Array, stream: Any, scalars: tuple[Any, Any] | None = None
    ) -> None:
        """Device arrays, D being C as well; `scalars` stand in for alpha and beta, on the device where they are to."""
        b_layout, a_layout, d_layout = self._layouts
        if scalars is not None and self._on_device:
            alpha, beta = (scalar.data.ptr for scalar in scalars)
        else:
            given = self._scalars if scalars is None else type(self._scalars)(*scalars)
            alpha = ctypes.addressof(given)
            beta = alpha + ctypes.sizeof(given) // 2
        status = library().cublasLtMatmul(
            handle_of(d.device.id),
            self._description,
            alpha,
            b.data.ptr,
            b_layout,
            a.data.ptr,
            a_layout,
            beta,
            d.data.ptr,
            d_layout,
            d.data.ptr,
            d_layout,
            ctypes.addressof(self.plans[self.chosen].algorithm),
            workspace.data.ptr,
            WORKSPACE_BYTES,
            stream.ptr,
        )
        check(status, "cublasLtMatmul")

    def close(self) -> None:
        library().cublasLtMatmulDescDestroy(self._description)
        for layout in self._layouts:
            library().cublasLtMatrixLayoutDestroy(layout)
