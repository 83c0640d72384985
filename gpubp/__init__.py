"""gpubp trains multi-layer perceptrons by backpropagation: the same layer code on NumPy (CPU) and CuPy (CUDA)."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gpubp.launcher import shared

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gpubp.api import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """Import modules and public names when they are first asked for, so that `gpubp --help` does not wait for NumPy."""
    if not name.startswith("_") and find_spec(f"gpubp.{name}"):
        return import_module(f"gpubp.{name}")
    api = import_module("gpubp.api")
    if name != "__all__" and name not in api.__all__:
        raise AttributeError(f"module 'gpubp' has no attribute {name!r}")
    globals().update({public: getattr(api, public) for public in api.__all__}, __all__=api.__all__)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted(["__version__", *__getattr__("__all__")])


if shared():
    import_module("gpubp.ending").end_together()
