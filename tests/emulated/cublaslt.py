"""The emulated cuBLASLt: the calls that gpubp makes of it, through real C function pointers, on NumPy products.

It computes columns first, as its manual says, and knows nothing of gpubp's rows.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from emulated.machine import MACHINE
from emulator.kernels import EmulationError

SUCCESS, INVALID_VALUE, INTERNAL_ERROR, NOT_SUPPORTED = 0, 7, 14, 15  # cublasStatus_t
TYPES = {0: np.float32, 1: np.float64, 14: np.uint16}  # cudaDataType; bfloat16 is carried in 16 bits
RESULT_BYTES = 96  # of a cublasLtMatmulHeuristicResult_t
SCALES = {0: np.float32, 1: np.float64}
TF32 = 77  # cublasComputeType_t
POINTER_MODE, TRANSA, TRANSB, EPILOGUE, BIAS = 2, 3, 4, 7, 8  # cublasLtMatmulDescAttributes_t
DEFAULT, BGRADA, BIASED, RELU_BIAS, GELU_AUX_BIAS = 1, 256, 4, 2 | 4, 32 | 128 | 4  # cublasLtEpilogue_t
KNOWN = (DEFAULT, BGRADA, BIASED, RELU_BIAS, GELU_AUX_BIAS)
AUX, AUX_LD = 11, 12  # cublasLtMatmulDescAttributes_t
ALIGNMENTS = (5, 6, 7, 8)  # cublasLtMatmulPreferenceAttributes_t

pointer, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t


class EmulatedCublasLt:
    """The library as ctypes gives it: its functions by name."""

    def __init__(self) -> None:
        self.made: dict[int, Any] = {}  # descriptions, layouts and preferences, by their handles
        self.failure = b"emulated"  # why the last call that failed did
        long = ctypes.c_int64
        for name, kinds in {
            "Create": [pointer],
            "MatmulDescCreate": [pointer, number, number],
            "MatmulDescSetAttribute": [pointer, number, pointer, size],
            "MatrixLayoutCreate": [pointer, number, ctypes.c_uint64, ctypes.c_uint64, long],
            "MatmulPreferenceCreate": [pointer],
            "MatmulPreferenceSetAttribute": [pointer, number, pointer, size],
            "MatmulAlgoGetHeuristic": [*[pointer] * 7, number, pointer, pointer],
            "Matmul": [*[pointer] * 14, size, pointer],
            "MatmulDescDestroy": [pointer],
            "MatrixLayoutDestroy": [pointer],
            "MatmulPreferenceDestroy": [pointer],
        }.items():
            body = self.destroy if name.endswith("Destroy") else getattr(self, name)
            setattr(self, f"cublasLt{name}", ctypes.CFUNCTYPE(number, *kinds)(self.guarded(body)))
        self.cublasLtGetVersion = ctypes.CFUNCTYPE(size)(lambda: 130000)
        self.cublasLtGetStatusString = ctypes.CFUNCTYPE(pointer, number)(
            lambda status: ctypes.cast(ctypes.c_char_p(self.failure), pointer).value
        )

    def guarded(self, body: Callable[..., int | None]) -> Callable[..., int]:
        """An exception cannot pass through C: it becomes a status, and its words that of the status."""

        def call(*args: Any) -> int:
            try:
                return body(*args) or SUCCESS
            except Exception as error:
                self.failure = f"{type(error).__name__}: {error}".encode()
                return INTERNAL_ERROR

        return call

    def make(self, out: int, what: Any) -> None:
        handle = max(self.made, default=0x1000) + 16
        self.made[handle] = what
        pointer.from_address(out).value = handle

    def destroy(self, handle: int) -> None:
        del self.made[handle]

    def Create(self, handle: int) -> int | None:  # noqa: N802
        MACHINE.need("cublas")
        MACHINE.check_device()
        pointer.from_address(handle).value = 1 + MACHINE.device
        return None

    def MatmulDescCreate(self, out: int, compute: int, scale: int) -> None:  # noqa: N802
        self.make(out, {"compute": compute, "scale": SCALES[scale], EPILOGUE: DEFAULT})

    def MatmulDescSetAttribute(self, desc: int, attribute: int, value: int, nbytes: int) -> None:  # noqa: N802
        kind = {4: ctypes.c_int32, 8: ctypes.c_int64}[nbytes]
        self.made[desc][attribute] = kind.from_address(value).value

    def MatrixLayoutCreate(self, out: int, kind: int, rows: int, columns: int, leading: int) -> int | None:  # noqa: N802
        if leading < rows or not rows * columns:
            return INVALID_VALUE
        self.make(out, (TYPES[kind], rows, columns, leading))
        return None

    def MatmulPreferenceCreate(self, out: int) -> None:  # noqa: N802
        self.make(out, {})

    def MatmulPreferenceSetAttribute(self, made: int, attribute: int, value: int, nbytes: int) -> None:  # noqa: N802
        kind = {4: ctypes.c_uint32, 8: ctypes.c_uint64}[nbytes]
        self.made[made][attribute] = kind.from_address(value).value

    def MatmulAlgoGetHeuristic(  # noqa: N802
        self, handle: int, desc: int, a: int, b: int, c: int, d: int, wish: int, wanted: int, results: int, found: int
    ) -> int | None:
        if self.made[desc][EPILOGUE] not in KNOWN or self.made[desc].get(AUX_LD, 0) % 8 or handle != 1 + MACHINE.device:
            return NOT_SUPPORTED
        for plan in range(min(wanted, MACHINE.plans)):
            words = (ctypes.c_uint64 * 8).from_address(results + plan * RESULT_BYTES)
            words[0], words[1], words[6] = desc, handle, plan
            for place, attribute in enumerate(ALIGNMENTS, 2):
                words[place] = self.made[wish].get(attribute, 256)
        ctypes.c_int.from_address(found).value = min(wanted, MACHINE.plans)
        return None

    def Matmul(self, *args: int) -> int | None:  # noqa: N802
        handle, desc, alpha, a, of_a, b, of_b, beta, c, of_c, d, of_d, plan, workspace, room, stream = args
        words = (ctypes.c_uint64 * 8).from_address(plan)
        if (words[0], words[1]) != (desc, handle) or c != d or of_c != of_d:
            raise EmulationError("a product is called with the plan of another, or writes elsewhere than it reads")
        for address, least in zip((a, b, c, d), words[2:6], strict=True):
            if address % least:
                raise EmulationError(f"a product's address is no multiple of the {least} bytes that its plan expects")
        if stream != MACHINE.stream.ptr:
            raise EmulationError("a product is not on the current stream")
        MACHINE.clock += 1.0 + MACHINE.slower.get(words[6], 0.0)
        settings = self.made[desc]
        on_device = settings[POINTER_MODE] == 1
        scale = settings["scale"]
        frozen = None if on_device else (read(alpha, scale), read(beta, scale))
        matrices = [self.matrix(address, self.made[made]) for address, made in ((a, of_a), (b, of_b), (d, of_d))]

        @np.errstate(all="ignore")
        def multiply() -> None:
            MACHINE.launched["cublasLtMatmul"] += 1
            left, right = (widened(matrix, settings["compute"]) for matrix in matrices[:2])
            left, right = (left.T if settings[TRANSA] else left), (right.T if settings[TRANSB] else right)
            factors = frozen or (read(alpha, scale), read(beta, scale))
            out = matrices[2]
            result = factors[0] * (left @ right) + (factors[1] * widened(out) if factors[1] else 0)
            if settings[EPILOGUE] & BIASED:  # one number for each of its rows, our columns
                result = result + vector(settings[BIAS], len(result), out.dtype)[:, None]
            if settings[EPILOGUE] == RELU_BIAS:
                result = np.maximum(result, 0)
            if settings[EPILOGUE] == GELU_AUX_BIAS:
                layout = (out.dtype, *out.shape, settings[AUX_LD])
                self.matrix(settings[AUX], layout)[...] = result
                result = result / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (result + 0.044715 * result**3)))
            out[...] = narrowed(result, out.dtype)
            if settings[EPILOGUE] == BGRADA:  # sums over the inner dimension, of A as it is multiplied
                vector(settings[BIAS], len(left), out.dtype)[:] = narrowed(left.sum(axis=1), out.dtype)

        used = [MACHINE.used_at(workspace, room, True)] if room else []
        for address, made, write in ((a, of_a, False), (b, of_b, False), (d, of_d, True)):
            used.append(MACHINE.used_at(address, nbytes(self.made[made]), write))
        if on_device:
            used += [MACHINE.used_at(address, np.dtype(scale).itemsize, False) for address in (alpha, beta)]
        rows, itemsize = self.made[of_d][1], np.dtype(self.made[of_d][0]).itemsize
        if settings[EPILOGUE] & BIASED:
            used.append(MACHINE.used_at(settings[BIAS], rows * itemsize, False))
        if AUX in settings:
            size = self.made[of_d][2] * settings[AUX_LD] * itemsize
            used.append(MACHINE.used_at(settings[AUX], size, True))
        MACHINE.do(multiply, *used)
        return None

    def matrix(self, address: int, layout: tuple[Any, int, int, int]) -> Any:
        dtype, rows, columns, leading = layout
        memory = (ctypes.c_char * nbytes(layout)).from_address(address)
        return np.frombuffer(memory, dtype).reshape(columns, leading)[:, :rows].T


def vector(address: int, count: int, dtype: Any) -> Any:
    return np.frombuffer((ctypes.c_char * (count * np.dtype(dtype).itemsize)).from_address(address), dtype)


def nbytes(layout: tuple[Any, int, int, int]) -> int:
    dtype, _, columns, leading = layout
    return columns * leading * np.dtype(dtype).itemsize


def read(address: int, scale: Any) -> Any:
    return np.frombuffer((ctypes.c_char * np.dtype(scale).itemsize).from_address(address), scale)[0]


def widened(a: Any, compute: int | None = None) -> Any:
    """float32 for bfloat16; for TF32 what is left of float32 when 10 bits after the point are kept."""
    if a.dtype == np.uint16:
        return (a.astype(np.uint32) << 16).view(np.float32)
    if compute == TF32:
        return ((np.ascontiguousarray(a).view(np.uint32) + np.uint32(0x1000)) & ~np.uint32(0x1FFF)).view(np.float32)
    return a


def narrowed(a: Any, dtype: Any) -> Any:
    if dtype != np.uint16:
        return a
    bits = np.ascontiguousarray(a, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
