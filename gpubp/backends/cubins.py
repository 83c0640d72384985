"""Compiled kernels: NVRTC turns a source into a cubin for the device at hand, and a folder keeps it for the next time.

A cubin is the device's own machine code, so that neither nvcc nor the driver's compiler is needed.
"""

import contextlib
import functools
import hashlib
import os
import shutil
import sys
import tempfile
import warnings
import weakref
from pathlib import Path
from typing import Any

from gpubp.backends.sources import Launch, RowLaunch, headers
from gpubp.errors import DeviceError, GpubpError
from gpubp.whole import write_whole

# Subnormal numbers stay and no product is fused with a sum unless the source says so: what makes the exact sigmoid's
# bits those of the CPU; CuPy's own compiler would append -ftz=true. Lambdas in a kernel are device code by default.
OPTIONS = ("-std=c++17", "-default-device", "-ftz=false", "-fmad=false")


def folder() -> Path:
    """Where cubins are kept: $GPUBP_CACHE, else gpubp/ in the user's cache folder."""
    if given := os.environ.get("GPUBP_CACHE"):
        return Path(given).expanduser()
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "gpubp"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/gpubp"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpubp"


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
        self._temporary: Path | None = None  # used where the folder cannot be written

    def function(self, launch: Launch | RowLaunch) -> Any:
        """What launches this kernel."""
        found = self._loaded.get(launch)
        if found is None:
            found = self._loaded[launch] = self._made(launch.symbol, launch.text)
        return found

    def _made(self, symbol: str, text: str) -> Any:
        kept = folder() / f"{symbol}-{self._key(text)}.cubin"
        if kept.exists():
            with contextlib.suppress(RuntimeError, OSError):  # damaged: made anew below
                return self._load(kept, symbol)
        return self._load(self._keep(kept, self._compiled(symbol, text)), symbol)

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

    def _keep(self, path: Path, cubin: bytes) -> Path:
        """The file with this cubin, in the folder or, where that cannot be written, one that ends with the process."""
        if self._temporary is None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, cubin)
                return path
            except (OSError, GpubpError) as error:
                warnings.warn(
                    f"compiled kernels cannot be kept, so every process compiles them anew ({error}); "
                    "set GPUBP_CACHE to a folder that can be written",
                    stacklevel=2,
                )
                self._temporary = Path(tempfile.mkdtemp(prefix="gpubp-"))
                weakref.finalize(self, shutil.rmtree, self._temporary, ignore_errors=True)
        path = self._temporary / path.name
        path.write_bytes(cubin)
        return path
