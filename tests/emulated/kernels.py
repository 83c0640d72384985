"""The emulated NVRTC, modules and elementwise kernels: g++ compiles, the emulated device runs."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from emulated.array import arrays_in, ndarray, to_host
from emulated.machine import MACHINE
from emulator.build import CompileError
from emulator.kernels import EmulationError, Kernel, kernels

OPTIONS = re.compile(r"-(std=c\+\+\d\d|(ftz|fmad)=(true|false)|arch=sm_\d+|default-device|I.+|D.+)")
C_TYPES = {"f": "float", "d": "double", "i": "int", "I": "unsigned", "l": "long long", "?": "bool"}
SCALARS = (np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64)


class NVRTCError(RuntimeError):
    def __init__(self, status: int) -> None:
        name = {5: "NVRTC_ERROR_INVALID_OPTION", 6: "NVRTC_ERROR_COMPILATION"}[status]
        super().__init__(f"{name} ({status})")
        self.status = status


class CUDADriverError(RuntimeError):
    pass


class CompileException(Exception):  # noqa: N818
    pass


class Nvrtc:
    """cupy.cuda.nvrtc. A "cubin" is a shared library for this machine, and after it its digest."""

    NVRTCError = NVRTCError

    def __init__(self) -> None:
        self.programs: dict[int, Any] = {}

    def getVersion(self) -> tuple[int, int]:  # noqa: N802
        MACHINE.need("nvrtc")
        return 13, 0

    def createProgram(  # noqa: N802
        self, src: str, name: str, headers: Sequence[bytes], include_names: Sequence[bytes]
    ) -> int:
        MACHINE.need("nvrtc")
        if not all(isinstance(text, bytes) for text in (*headers, *include_names)):
            raise TypeError("expected bytes, str found")
        program = 1 + max(self.programs, default=0)
        included = {file.decode(): text.decode() for file, text in zip(include_names, headers, strict=True)}
        self.programs[program] = {"sources": {name: src, **included}, "log": ""}
        return program

    def compileProgram(self, prog: int, options: Sequence[str]) -> None:  # noqa: N802
        program = self.programs[prog]
        if unknown := [option for option in options if not OPTIONS.fullmatch(option)]:
            program["log"] = f"nvrtc: error: unrecognized option {unknown[0]} found"
            raise NVRTCError(5)
        if not any(option.startswith("-arch=sm_") for option in options):
            raise EmulationError(f"without -arch=sm_XX NVRTC makes no cubin; the options are {options}")
        try:
            compiled = compile_kernels(program["sources"])
        except CompileError as error:
            program["log"] = str(error)
            raise NVRTCError(6) from None
        program["cubin"] = compiled.read_bytes() + hashlib.sha256(compiled.read_bytes()).digest()

    def getProgramLog(self, prog: int) -> str:  # noqa: N802
        return str(self.programs[prog]["log"])

    def getCUBIN(self, prog: int) -> bytes:  # noqa: N802
        return bytes(self.programs[prog]["cubin"])

    def destroyProgram(self, prog: int) -> None:  # noqa: N802
        del self.programs[prog]


class RawModule:
    def __init__(self, code: str | None = None, *, path: str | None = None, **options: Any) -> None:
        if path is None:
            raise EmulationError("only RawModule(path=...) is emulated")
        self.path = path

    def get_function(self, name: str) -> "Function":
        MACHINE.check_device()
        cubin = Path(self.path).read_bytes()
        # As on a device, a byte more does no harm.
        if not any(data[-32:] == hashlib.sha256(data[:-32]).digest() for data in (cubin, cubin[:-1])):
            raise CUDADriverError("CUDA_ERROR_INVALID_IMAGE: device kernel image is invalid")
        try:
            return Function(Kernel(Path(self.path), name))
        except AttributeError:
            raise CUDADriverError("CUDA_ERROR_NOT_FOUND: named symbol not found") from None


class Function:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: Any, *, shared_mem: int = 0) -> None:
        MACHINE.check_device()
        MACHINE.check_pinned()
        if shared_mem or not (isinstance(grid, tuple) and isinstance(block, tuple)):
            raise EmulationError(f"{self.kernel.name}: grid and block are tuples, and shared_mem is 0")
        for place, arg in enumerate(args):
            if not isinstance(arg, ndarray) and type(arg) not in SCALARS:
                raise TypeError(
                    f"{self.kernel.name}: argument {place} is {arg!r}, not a device array or a NumPy scalar of its type"
                )
        hosts = [getattr(arg, "host", arg) for arg in args]

        def run() -> None:
            MACHINE.launched[self.kernel.name] += 1
            self.kernel(grid, block, hosts, MACHINE.order, MACHINE.seed)

        writes = zip(args, self.kernel.writes, strict=False)
        MACHINE.do(run, *(arg.used(write) for arg, write in writes if isinstance(arg, ndarray)))


class ElementwiseKernel:
    """Its loop is a kernel of its own for each choice of types; inputs are broadcast."""

    def __init__(
        self,
        in_params: str,
        out_params: str,
        operation: str,
        name: str = "kernel",
        preamble: str = "",
        options: tuple[str, ...] = (),
    ) -> None:
        self.inputs, self.outputs = (re.findall(r"(\w+) (\w+)", params) for params in (in_params, out_params))
        self.operation, self.name, self.preamble = operation, name, preamble
        self.folders = [option for option in options if option.startswith("-I")]

    def __call__(self, *args: Any) -> Any:
        MACHINE.need("nvrtc")
        params = [*self.inputs, *self.outputs]
        types = {kind: np.dtype(kind) for kind, _ in params if len(kind) > 1}
        for (kind, _), arg in zip(params, args, strict=False):
            if isinstance(arg, ndarray) and types.setdefault(kind, arg.dtype) != arg.dtype:
                raise TypeError(f"Type is mismatched. {self.name}: {kind} is {types[kind]} and {arg.dtype}")
        hosts = [to_host(arg) for arg in args]
        shape = np.broadcast_shapes(*map(np.shape, hosts))
        outputs = list(args[len(self.inputs) :]) or [ndarray(shape, types[kind]) for kind, _ in self.outputs]
        if any(out.shape != shape for out in outputs):
            raise ValueError("Out shape is mismatched")
        hosts[len(self.inputs) :] = [out.host for out in outputs]
        compiled = self.compiled(types)

        def run() -> None:
            MACHINE.launched[self.name] += 1
            cells = [
                np.array(np.broadcast_to(host, shape), types[kind], order="C", copy=None)
                for host, (kind, _) in zip(hosts, params, strict=True)
            ]
            compiled((1,), (128,), [np.int64(outputs[0].size), *cells], MACHINE.order, MACHINE.seed)
            for out, cell in zip(outputs, cells[len(self.inputs) :], strict=True):
                out.host[...] = cell

        used = arrays_in([*args, *outputs])
        MACHINE.do(run, *(array.used(any(array is out for out in outputs)) for array in used))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def compiled(self, types: dict[str, Any]) -> Kernel:
        lines = [f"typedef {C_TYPES[dtype.char]} {kind};" for kind, dtype in types.items()]
        pointers = [f"{kind}* {name}_" for kind, name in [*self.inputs, *self.outputs]]
        lines += [self.preamble, f'extern "C" __global__ void {self.name}(long long count, {", ".join(pointers)}) {{']
        lines += ["for (long long i = threadIdx.x; i < count; i += blockDim.x) {"]
        lines += [f"const {kind} {name} = {name}_[i];" for kind, name in self.inputs]
        lines += [f"{kind}& {name} = {name}_[i];" for kind, name in self.outputs]
        lines += [f"{self.operation};", "}", "}"]
        try:
            return Kernel(compile_kernels({f"{self.name}.cu": "\n".join(lines)}, *self.folders), self.name)
        except CompileError as error:
            raise CompileException(str(error)) from None


def compile_kernels(sources: dict[str, str], *flags: str) -> Path:
    if MACHINE.compile_error is not None:
        raise CompileError(MACHINE.compile_error)
    return kernels(sources, *flags)
