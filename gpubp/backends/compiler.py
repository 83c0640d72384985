"""C++ compiled for this very processor, as NVRTC compiles for a GPU: a text becomes a shared library, kept on disk."""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from gpubp.backends.kept import Kept
from gpubp.backends.sources import digest
from gpubp.errors import DeviceError
from gpubp.kernel import SOURCES

# No -ffast-math: every operation is rounded as it is written, which makes the exact functions' bits those of a GPU.
# The two -fno leave every value as it is; a loop with a comparison or a square root could not be vectorised without.
OPTIONS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
SHARED = ("-shared", "-fPIC", "-pthread")
NAMES = ("g++", "c++", "clang++")
PATIENCE = 120.0  # seconds that one text may take: it takes half of one


class Compiler:
    """The C++ compiler of this machine; DeviceError, with the reason, where there is none that can be used."""

    def __init__(self) -> None:
        if os.name != "posix":
            raise DeviceError("native kernels need POSIX threads")
        self.command = command()
        self.options = (*OPTIONS, *SHARED, f"-I{SOURCES}")
        self._identity = (*identity(self.command[0]), *self.command[1:], processor_flags())
        self._kept = Kept()

    @property
    def name(self) -> str:
        return Path(self.command[0]).name

    def library(self, name: str, text: str) -> ctypes.CDLL:
        """The text as a loaded library: from the folder where it is there, else compiled and kept."""
        file = f"{name}-{self._key(text)}.so"
        path = self._kept.path(file)
        with suppress(OSError):  # not there, or not to be read or loaded: made anew below
            if is_whole(path.read_bytes()):
                return loaded(path)
        path = self._kept.keep(file, sealed(self._compiled(name, text)))
        try:
            return loaded(path)
        except OSError as error:
            raise DeviceError(f"{path} cannot be loaded ({error}); set GPUBP_CACHE to another folder") from None

    def _key(self, text: str) -> str:
        included = [digest(), (SOURCES / "host.hpp").read_text(encoding="utf-8")]
        return hashlib.sha256("\0".join([text, *included, *self.options, *self._identity]).encode()).hexdigest()[:32]

    def _compiled(self, name: str, text: str) -> bytes:
        compiler = self.command[0]
        try:
            with tempfile.TemporaryDirectory(prefix="gpubp-") as folder:
                out = Path(folder) / "out.so"
                ran = subprocess.run(
                    [*self.command, *self.options, "-x", "c++", "-", "-o", str(out)],
                    input=text,
                    capture_output=True,
                    encoding="utf-8",
                    errors="replace",
                    timeout=PATIENCE,
                    start_new_session=True,  # Ctrl-C is for the training, which ends with a whole step
                )
                if not ran.returncode:
                    return out.read_bytes()
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{compiler} has not compiled {name} in {PATIENCE:.0f} s") from None
        except OSError as error:
            raise DeviceError(f"{compiler} cannot compile {name}: {error}") from None
        first = next(iter(ran.stderr.strip().splitlines()), f"exit code {ran.returncode}")
        raise DeviceError(f"{compiler} does not compile {name}: {first}")


def sealed(content: bytes) -> bytes:
    """A library, and its hash where no loader looks: one that was cut short would kill the process that loads it."""
    return content + hashlib.sha256(content).digest()


def is_whole(file: bytes) -> bool:
    return file == sealed(file[: -hashlib.sha256().digest_size])


def loaded(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path.absolute()))  # a name without a folder is looked for in those of the system


def command() -> list[str]:
    """How the compiler is called: $CXX where it is set, else the first of the usual ones on the PATH."""
    if given := os.environ.get("CXX", "").strip():
        try:
            words = shlex.split(given)
        except ValueError as error:
            raise DeviceError(f"CXX={given!r} is no command: {error}") from None
        if not (found := shutil.which(words[0])):
            raise DeviceError(f"CXX={given!r} is not on the PATH; set it to a C++ compiler, or unset it")
        return [found, *words[1:]]
    for name in NAMES:
        if found := shutil.which(name):
            return [found]
    raise DeviceError("no C++ compiler is on the PATH; install g++")


def identity(path: str) -> tuple[str, str]:
    """The compiler's file and when it was made: what tells its versions apart without running it."""
    real = os.path.realpath(path)
    return real, str(os.stat(real).st_mtime_ns)


@functools.cache
def processor_flags() -> str:
    """What -march=native depends on; a folder may be shared between machines."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return platform.machine() + platform.processor()
