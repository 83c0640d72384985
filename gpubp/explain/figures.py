"""Figures by matplotlib, which is imported when the first one is drawn, and their files."""

from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any

from gpubp.errors import DataError, GpubpError
from gpubp.whole import write_whole


def new_figure(width: float, height: float) -> Any:
    """An empty figure of so many inches; GpubpError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise GpubpError(
            f"pictures are drawn by matplotlib ({error}): pip install matplotlib, or in a checkout of gpubp write "
            "GPUBP_EXTRAS=plot before python3 dev.py"
        ) from None
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Any, path: str | PathLike[str]) -> None:
    """Write a figure into a .png or .svg file, whole or not at all; the same figure gives the same file.

    Raises DataError for another suffix, GpubpError where the file cannot be written.
    """
    file = Path(path)
    kind = file.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise DataError(f"the file of a picture must end in .png or .svg, got {str(path)!r}")
    from matplotlib import rc_context

    picture = BytesIO()
    with rc_context({"svg.hashsalt": "gpubp"}):
        figure.savefig(picture, dpi=150, format=kind, metadata={"Date": None} if kind == "svg" else None)
    write_whole(file, picture.getvalue())
