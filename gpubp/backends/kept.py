"""The folder where compiled kernels are kept between processes, and one to use where it cannot be written."""

import os
import shutil
import sys
import tempfile
import warnings
import weakref
from pathlib import Path

from gpubp.errors import GpubpError
from gpubp.whole import write_whole


def folder() -> Path:
    """Where they are: $GPUBP_CACHE, else gpubp/ in the user's cache folder."""
    if given := os.environ.get("GPUBP_CACHE"):
        return Path(os.path.expanduser(given))
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or home() / "AppData/Local") / "gpubp"
    if sys.platform == "darwin":
        return home() / "Library/Caches/gpubp"
    return Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache") / "gpubp"


def home() -> Path:
    """The user's folder; of one who has none, as in some containers, a place where no file can be."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.devnull)


class Kept:
    """Files in that folder or, once it could not be written, in one that ends with the process."""

    def __init__(self) -> None:
        self._temporary: Path | None = None

    def path(self, name: str) -> Path:
        """Where this file is, if it is there."""
        return (self._temporary or folder()) / name

    def keep(self, name: str, content: bytes) -> Path:
        """Write this file, whole or not at all."""
        if self._temporary is None:
            path = folder() / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, content)
                return path
            except (OSError, GpubpError) as error:
                warnings.warn(
                    f"compiled kernels cannot be kept, so every process compiles them anew ({error}); "
                    "set GPUBP_CACHE to a folder that can be written",
                    stacklevel=2,
                )
                self._temporary = Path(tempfile.mkdtemp(prefix="gpubp-"))
                weakref.finalize(self, _removed, self._temporary, os.getpid())
        path = self._temporary / name
        path.write_bytes(content)
        return path


def _removed(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # and not a child of fork, which ends before it
        shutil.rmtree(folder, ignore_errors=True)
