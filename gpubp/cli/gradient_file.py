"""Gradients of another implementation: a .npz file with one array for each tensor of a network's parameters."""

from pathlib import Path
from typing import Any

from gpubp.data.arrays import as_host_or_device
from gpubp.data.npz import read_arrays
from gpubp.errors import DataError, ShapeError
from gpubp.mlp import MLP

Gradients = tuple[list[Any], list[Any]]  # of weights and biases; None for what the file lacks


def read_gradients(path: Path, net: MLP) -> Gradients:
    """As `check_gradients` takes them.

    Raises DataError for a name that no tensor has, or two for the same, and ShapeError for another shape.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    names: dict[str, tuple[int, int, tuple[int, ...]]] = {}  # weight or bias, layer, shape
    for layer, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
        names |= {f"weight_{layer}": (0, layer, weight.shape), f"{2 * layer}.weight": (0, layer, weight.shape[::-1])}
        if bias is not None:
            names |= {name: (1, layer, bias.shape) for name in (f"bias_{layer}", f"{2 * layer}.bias")}
    pair: Gradients = ([None] * len(net.weights), [None] * len(net.biases))
    for name, array in read_arrays(path, list(names)).items():
        kind, layer, shape = names[name]
        if array.shape != shape:
            raise ShapeError(f"{path}: {name} has shape {array.shape}, but {shape} is needed")
        if pair[kind][layer] is not None:
            raise DataError(f"{path} holds {name}, and the same by its other name; leave out one")
        numbers = as_host_or_device(f"{path}: {name}", array)
        pair[kind][layer] = numbers.T if name.endswith(".weight") else numbers
    if all(a is None for arrays in pair for a in arrays):
        raise DataError(f"{path} holds no arrays; it needs some of {', '.join(names)}")
    return pair


def not_in(gradients: Gradients, net: MLP) -> str | None:
    """What is to be said of the tensors that a file lacks."""
    views = (net.weights, net.biases)
    missing = [
        f"{name}[{layer}]"
        for name, arrays, parameters in zip(("weights", "biases"), gradients, views, strict=True)
        for layer, (array, view) in enumerate(zip(arrays, parameters, strict=True))
        if array is None and view is not None
    ]
    return f"not in the file, and so not checked: {', '.join(missing)}" if missing else None
