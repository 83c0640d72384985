"""Model files: safetensors whose tensors are named as torch.nn.Sequential names them, and all else as JSON in the metadata.

Layer l is `{2l}.weight`, of shape (outputs, inputs), and `{2l}.bias`. Never pickle.
"""

import json
import os
import tempfile
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.errors import ModelFileError

FORMAT = 1


def save_model(path: str | PathLike[str], weights: list[Any], biases: list[Any], state: dict[str, Any]) -> None:
    """Write a model whole or not at all: to a temporary file beside it, flushed to disk, then renamed."""
    from safetensors.numpy import save

    tensors = {f"{2 * layer}.weight": np.ascontiguousarray(weight.T) for layer, weight in enumerate(weights)}
    tensors |= {f"{2 * layer}.bias": bias for layer, bias in enumerate(biases) if bias is not None}
    content = save(tensors, {"gpubp": json.dumps({"format": FORMAT, **state})})
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
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise ModelFileError(f"cannot read {str(path)!r} as a gpubp model: {error}") from None
    if state.get("format") != FORMAT:
        raise ModelFileError(
            f"{str(path)!r} has format {state.get('format')!r}, and this gpubp reads format {FORMAT}; upgrade gpubp"
        )
    depth = len(state["structure"]["activations"])
    try:
        weights = [np.ascontiguousarray(tensors[f"{2 * layer}.weight"].T) for layer in range(depth)]
    except KeyError as error:
        raise ModelFileError(f"{str(path)!r} lacks the tensor {error}") from None
    return state, weights, [tensors.get(f"{2 * layer}.bias") for layer in range(depth)]
