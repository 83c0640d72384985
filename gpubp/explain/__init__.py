"""What gpubp shows of its own work; it may import everything, and nothing imports it but the top of the package."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpubp.explain.descent import DescentPath
    from gpubp.explain.landscapes import Landscape, landscape
    from gpubp.explain.one_weight import Curves, curves

__all__ = ["Curves", "DescentPath", "Landscape", "curves", "landscape"]

MODULES = {
    "Curves": "one_weight",
    "DescentPath": "descent",
    "Landscape": "landscapes",
    "curves": "one_weight",
    "landscape": "landscapes",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for, as the command line imports documents without NumPy."""
    if name not in MODULES:
        raise AttributeError(f"module 'gpubp.explain' has no attribute {name!r}")
    return getattr(import_module(f"gpubp.explain.{MODULES[name]}"), name)
