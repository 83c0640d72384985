"""Compiled kernels: NVRTC turns a source into a cubin for the device at hand, and a folder keeps it for the next time.

A cubin is the device's own machine code, so that neither nvcc nor the driver's compiler is needed.
"""

import contextlib
import functools
import hashlib
from pathlib import Path
from typing import Any

from gpubp.backends.kept import Kept
from gpubp.backends.sources import Launch, RowLaunch, headers
from gpubp.errors import DeviceError

# Subnormal numbers stay and no product is fused with a sum unless the source says so: what makes the exact sigmoid's
# bits those of the CPU; CuPy's own compiler would append -ftz=true. Lambdas in a kernel are device code by default.
OPTIONS = ("-std=c++17", "-default-device", "-ftz=false", "-fmad=false")


@functools.cache
def cubins_of(cupy: Any, index: int) -> "Cubins":
    """One for each device, shared by its networks."""
    return Cubins(cupy, index)


class Cubins:
    """The kernels of one device, each compiled when it is first asked for."""

    def __init__(self, cupy: Any, index: int) -> None:
        self._cupy, self._nvrtc = cupy, cupy.cuda.nvrtc
        self._options = (*OPTIONS, f"-arch=sm_{cupy.cuda.Device(index).compute_capability}")
        self._loaded: dict[Launch | RowLaunch, Any] = {}
        self._kept = Kept()

    def function(self, launch: Launch | RowLaunch) -> Any:
        """What launches this kernel."""
        found = self._loaded.get(launch)
        if found is None:
            found = self._loaded[launch] = self._made(launch.symbol, launch.text)
        return found

    def _made(self, symbol: str, text: str) -> Any:
        name = f"{symbol}-{self._key(text)}.cubin"
        if (path := self._kept.path(name)).exists():
            with contextlib.suppress(RuntimeError, OSError):  # damaged: made anew below
                return self._load(path, symbol)
        return self._load(self._kept.keep(name, self._compiled(symbol, text)), symbol)

    def _key(self, text: str) -> str:
        parts = [text, *headers().values(), *self._options, repr(self._nvrtc.getVersion())]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]

    def _load(self, path: Path, symbol: str) -> Any:
        return self._cupy.RawModule(path=str(path)).get_function(symbol)

    def _compiled(self, symbol: str, text: str) -> bytes:
        nvrtc = self._nvrtc
        names, texts = ([part.encode() for part in parts] for parts in zip(*headers().items(), strict=True))
        program = nvrtc.createProgram(text, f"{symbol}.cu", texts, names)
        try:
            nvrtc.compileProgram(program, self._options)
            cubin: bytes = nvrtc.getCUBIN(program) + b"\0"  # CuPy cuts off the last byte, which a file must have
        except nvrtc.NVRTCError as error:
            log = nvrtc.getProgramLog(program).strip() or error
            raise DeviceError(f"kernel {symbol} does not compile with {' '.join(self._options)}:\n{log}") from None
        finally:
            nvrtc.destroyProgram(program)
        return cubin
