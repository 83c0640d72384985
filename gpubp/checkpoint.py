"""Model files: safetensors, the tensors named as torch.nn.Sequential names them, all else as JSON in the metadata.

Layer l is `{2l}.weight`, of shape (outputs, inputs), and `{2l}.bias`. Never pickle.
"""

import json
from itertools import pairwise
from math import ceil
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.errors import DataError, GpubpError, ModelFileError
from gpubp.from_torch import Loaded, from_state_dict
from gpubp.tensorfile import CHECKSUM, check_memory, checksum, parse_json, read_tensors
from gpubp.whole import write_whole

FORMAT = 1


def save_model(path: str | PathLike[str], weights: list[Any], biases: list[Any], state: dict[str, Any]) -> None:
    """Write a model whole or not at all: to a temporary file beside it, flushed to disk, then renamed."""
    from safetensors.numpy import save

    tensors = {f"{2 * layer}.weight": np.ascontiguousarray(weight.T) for layer, weight in enumerate(weights)}
    tensors |= {f"{2 * layer}.bias": bias for layer, bias in enumerate(biases) if bias is not None}
    try:
        state = parse_json(json.dumps({"format": FORMAT, **state}))
        described = json.dumps({**state, CHECKSUM: checksum(json.dumps(state), tensors)})
        content = save(tensors, {"gpubp": described})
        check_memory(described, len(content))
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"net.metadata cannot be kept in a model file, which takes what JSON can: {error}") from None
    try:
        write_whole(Path(path), content)
    except GpubpError as error:
        raise ModelFileError(str(error)) from None


def load_model(path: str | PathLike[str], activation: Any = None, output: Any = None) -> Loaded:
    """(state, weights, biases) as `save_model` was given them, or those of a torch state_dict; arrays lie in the file.

    `activation` and `output` are for a state_dict.
    """
    metadata, tensors = read_tensors(path)
    if "gpubp" not in metadata:
        return from_state_dict(path, tensors, activation, output)
    if activation is not None or output is not None:
        raise DataError(f"{str(path)!r} was saved by gpubp, with its activations; leave out activation and output")
    try:
        state = parse_json(metadata["gpubp"])
        if not isinstance(state, dict):
            raise ValueError("its metadata is no JSON object")
        if state.get("format") != FORMAT:
            raise ModelFileError(
                f"{str(path)!r} has format {state.get('format')!r:.40}, and this gpubp reads format {FORMAT}; "
                "upgrade gpubp"
            )
        told = state.pop(CHECKSUM, None)  # a file without it, which another tool wrote, is read unchecked
        if told not in (None, checksum(json.dumps(state), tensors)):  # JSON is written back as it was read
            raise ValueError("its content does not match its checksum")
        _check_state(state)
        return state, *_parameters(tensors, state["structure"])
    except KeyError as error:
        raise ModelFileError(f"{str(path)!r} lacks {error}; it is damaged") from None
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"{str(path)!r} is damaged: {error}") from None


def _check_state(state: dict[str, Any]) -> None:
    """What the checks of `Structure` and `MLP` leave out or would spend much memory on."""
    structure = state["structure"]
    for name, found, wanted in (
        ("structure", structure, dict),
        ("metadata", state["metadata"], dict),
        *((name, structure[name], list) for name in ("sizes", "activations", "use_bias", "masks", "dropout")),
        ("loss", structure["loss"], dict),
        ("initializer", structure["initializer"], dict | None),
    ):
        if not isinstance(found, wanted):
            raise TypeError(f"its {name} is a {type(found).__name__}")
    sizes, masks = structure["sizes"], structure["masks"]
    if not all(type(n) is int and 0 < n < 2**31 for n in sizes):
        raise ValueError("its sizes are not all positive integers")
    if structure["dtype"] not in ("float32", "float64"):
        raise ValueError(f"its dtype is {structure['dtype']!r:.40}")
    for name in ("seed", "steps", "epochs"):
        if type(state[name]) is not int or not 0 <= state[name] < 2**64:
            raise ValueError(f"its {name} must be a number of type int, not {state[name]!r:.40}")
    for mask, (inputs, outputs) in zip(masks, pairwise(sizes), strict=True):
        if mask is not None and len(mask) != 4 * ceil(inputs * outputs / 24):  # base64 of a bit a weight
            raise ValueError(f"a mask of {len(mask)} characters is none for {inputs} x {outputs} weights")


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
        raise ValueError(f"no layer has the tensors {', '.join(map(repr, surplus[:5]))}")
    depth = len(structure["use_bias"])
    weights = [tensors[f"{2 * layer}.weight"].T for layer in range(depth)]
    return weights, [tensors.get(f"{2 * layer}.bias") for layer in range(depth)]
