"""Export: a trained model with its preprocessing, in a form that does not need gpubp."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from gpubp.errors import GpubpError

if TYPE_CHECKING:
    from gpubp.data.preprocessing import Preprocessing
    from gpubp.mlp import MLP

# By a file's ending: a module with `content(pipeline)`, the file's bytes, and `answers(content, x)`, what they compute.
FORMATS = {".onnx": "gpubp.export.to_onnx", ".npz": "gpubp.export.to_npz"}
ROWS = 256  # random ones, on which the two are compared
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Exported:
    """What goes into the file, and how near its answers come to gpubp's."""

    content: bytes
    largest_difference: float  # |theirs − ours| / max(1, |ours|)
    judge: str  # what ran the exported model


def export(net: "MLP", preprocessing: "Preprocessing", ending: str, seed: int = 0) -> Exported:
    """The model as a file with this ending, one of FORMATS; GpubpError where it would not compute the same."""
    from gpubp.export.pipeline import Pipeline, difference, random_rows

    form, pipeline = import_module(FORMATS[ending]), Pipeline.of(net, preprocessing)
    content = form.content(pipeline)
    x = random_rows(preprocessing, ROWS, seed)
    theirs, judge = form.answers(content, x)
    largest = difference(pipeline.answers(net, preprocessing, x), theirs, pipeline)
    if not largest <= TOLERANCE:
        raise GpubpError(
            f"the exported model differs from gpubp by {largest:.2g} on random rows, more than {TOLERANCE:g}, and was "
            "not written; its weights or statistics may be too large or too small for the format's precision"
        )
    return Exported(content, largest, judge)
