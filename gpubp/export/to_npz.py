"""A model as plain NumPy arrays: a .npz file that a few lines of NumPy turn into answers.

inputs = (x.reshape(len(x), -1) - shift) * scale, and for each layer l = 0, 1, ...: y = f(y @ weight_l + bias_l), with f
the function that activations[l] names. The arrays:

- shape: of a raw sample; shift, scale: one for all inputs, or one each
- weight_0, bias_0, weight_1, ...: (inputs, outputs) and (outputs,)
- activations: the names, one a layer; slope_l and alpha_l are what leaky_relu and elu take
- task: what the last y means. "classes": probabilities, the label is the largest one's. "binary": the probability of
  the second class, chosen from 0.5 on. "labels": independent probabilities, each 1 from 0.5 on. "values": a regression
- classes: the label of each class index, of "classes" and "binary"
- target_shift, target_scale: of a regression, values = y * target_scale + target_shift
- features, target: the columns' names, where they have some; gpubp: the version that wrote the file

FUNCTIONS below has the formulas of all activations.
"""

from collections.abc import Callable
from io import BytesIO
from itertools import count
from typing import Any

import numpy as np

from gpubp import __version__
from gpubp.activations import GELU_CUBIC, GELU_SLOPE, SELU_ALPHA, SELU_SCALE
from gpubp.errors import GpubpError
from gpubp.export.pipeline import Answers, Pipeline


def _sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def _softmax(z: Any) -> Any:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "identity": lambda z: z,
    "sigmoid": _sigmoid,
    "fast_sigmoid": _sigmoid,
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z, slope: np.where(z > 0, z, slope * z),
    "elu": lambda z, alpha: np.where(z > 0, z, alpha * np.expm1(z)),
    "selu": lambda z: SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * np.expm1(z)),
    "softplus": lambda z: np.logaddexp(0, z),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "gelu": lambda z: 0.5 * z * (1 + np.tanh(GELU_SLOPE * (z + GELU_CUBIC * z**3))),
    "exp": np.exp,
    "softmax": _softmax,
}


def content(pipeline: Pipeline) -> bytes:
    arrays = {
        "shape": np.array(pipeline.shape, np.int64),
        "shift": pipeline.shift,
        "scale": pipeline.scale,
        "activations": np.array([activation.name for activation in pipeline.activations]),
        "task": np.array(pipeline.task),
        "gpubp": np.array(__version__),
    }
    for layer, activation in enumerate(pipeline.activations):
        if activation.name not in FUNCTIONS:
            raise GpubpError(f"activation {activation.name!r} cannot be exported")
        arrays |= {f"weight_{layer}": pipeline.weights[layer], f"bias_{layer}": pipeline.biases[layer]}
        settings = {name: value for name, value in activation.config().items() if name != "name"}
        arrays |= {f"{name}_{layer}": np.array(value) for name, value in settings.items()}
    for name in ("classes", "target_shift", "target_scale", "features", "target"):
        value = getattr(pipeline, name)
        if value is not None:
            arrays[name] = np.array(value)
    file = BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def answers(content: bytes, x: Any) -> tuple[Answers, str]:
    """What the arrays of such a file say to raw rows, and what computed it."""
    with np.load(BytesIO(content), allow_pickle=False) as file, np.errstate(all="ignore"):
        y = (x.reshape(len(x), -1) - file["shift"]) * file["scale"]
        for layer, name in zip(count(), file["activations"].tolist()):
            settings = {key: file[f"{key}_{layer}"] for key in ("slope", "alpha") if f"{key}_{layer}" in file}
            y = FUNCTIONS[name](y @ file[f"weight_{layer}"] + file[f"bias_{layer}"], **settings)
        return _meaning(file, y), f"NumPy {np.__version__}"


def _meaning(file: Any, y: Any) -> Answers:
    task = str(file["task"])
    if task == "values":
        return {"values": y * file["target_scale"] + file["target_shift"]}
    if task == "labels":
        return {"label": (y >= 0.5).astype(np.int64), "probabilities": y}
    if task == "binary":
        y = np.concatenate([1 - y, y], axis=1)
        chosen = (y[:, 1] >= 0.5).astype(np.int64)
    else:
        chosen = y.argmax(axis=1)
    return {"label": file["classes"][chosen], "probabilities": y}
