"""Model files: safetensors, the tensors named as torch.nn.Sequential names them, all else as JSON in the metadata.

Layer l is `{2l}.weight`, of shape (outputs, inputs), and `{2l}.bias`. Never pickle.
"""

import json
import os
import tempfile
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.errors import DataError, ModelFileError

FORMAT = 1


def save_model(path: str | PathLike[str], weights: list[Any], biases: list[Any], state: dict[str, Any]) -> None:
    """Write a model whole or not at all: to a temporary file beside it, flushed to disk, then renamed."""
    from safetensors.numpy import save

    tensors = {f"{2 * layer}.weight": np.ascontiguousarray(weight.T) for layer, weight in enumerate(weights)}
    tensors |= {f"{2 * layer}.bias": bias for layer, bias in enumerate(biases) if bias is not None}
    try:
        described = json.dumps({"format": FORMAT, **state})
    except (TypeError, ValueError) as error:
        raise DataError(f"net.metadata must hold what JSON can: {error}") from None
    content = save(tensors, {"gpubp": described})
    try:
        _write_whole(Path(path), content)
    except OSError as error:
        raise ModelFileError(f"cannot write {str(path)!r}: {error.strerror or error}; choose another place") from None


def _write_whole(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes it the owner's alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load_model(path: str | PathLike[str]) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """(state, weights, biases) as `save_model` was given them."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if "gpubp" not in metadata:
                raise ModelFileError(f"{str(path)!r} is a safetensors file, but not one that gpubp wrote")
            state = json.loads(metadata["gpubp"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it cannot be iterated over
    except (OSError, SafetensorError, ValueError, TypeError) as error:  # TypeError: a tensor of a type that NumPy lacks
        raise ModelFileError(f"cannot read {str(path)!r} as a gpubp model: {error}") from None
    if not isinstance(state, dict):
        raise ModelFileError(f"cannot read {str(path)!r} as a gpubp model: its metadata is no JSON object")
    if state.get("format") != FORMAT:
        raise ModelFileError(
            f"{str(path)!r} has format {state.get('format')!r}, and this gpubp reads format {FORMAT}; upgrade gpubp"
        )
    try:
        return state, *_parameters(tensors, state["structure"])
    except KeyError as error:
        raise ModelFileError(f"{str(path)!r} lacks {error}; it is damaged") from None
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"{str(path)!r} is damaged: {error}") from None


def _parameters(tensors: dict[str, Any], structure: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """(weights, biases) of this structure, which must be all that there is.

    They are checked before anything of that size is allocated.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    layers = zip(pairwise(structure["sizes"]), structure["use_bias"], strict=True)
    for layer, ((inputs, outputs), bias) in enumerate(layers):
        shapes[f"{2 * layer}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{2 * layer}.bias"] = (outputs,)
    for name, shape in shapes.items():
        found, dtype = tensors[name].shape, tensors[name].dtype
        if found != shape or dtype != structure["dtype"]:
            raise ValueError(f"tensor {name} is {dtype} {found}, but {structure['dtype']} {shape} is needed")
    if surplus := sorted(tensors.keys() - shapes.keys()):
        raise ValueError(f"no layer has the tensors {', '.join(surplus)}")
    depth = len(structure["use_bias"])
    weights = [np.ascontiguousarray(tensors[f"{2 * layer}.weight"].T) for layer in range(depth)]
    return weights, [tensors.get(f"{2 * layer}.bias") for layer in range(depth)]
