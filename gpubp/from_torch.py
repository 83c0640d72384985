"""Networks from PyTorch: an `nn.Sequential`, or its state_dict in a file; torch itself is never imported."""

from collections.abc import Callable, Iterator
from os import PathLike
from typing import Any

import numpy as np

from gpubp.activations import (
    ELU,
    GELU,
    SELU,
    Activation,
    Identity,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from gpubp.errors import DataError, ModelFileError
from gpubp.structure import Structure

Loaded = tuple[dict[str, Any], list[Any], list[Any]]  # an MLP's state, weights and biases


# -- a Sequential ------------------------------------------------------------------------------------------------------


def _gelu(module: Any) -> Activation:
    if module.approximate != "tanh":
        raise DataError("gpubp computes the tanh form: train with nn.GELU(approximate='tanh')")
    return GELU()


def _softplus(module: Any) -> Activation:
    if module.beta != 1 or module.threshold < 20:  # beyond a threshold of 20, float32 cannot tell it from the identity
        raise DataError(f"gpubp computes log(1 + eᶻ): beta must be 1, got {module.beta}")
    return Softplus()


def _softmax(module: Any) -> Activation:
    if module.dim not in (-1, 1):
        raise DataError(f"dim must be 1, the outputs of a sample, got {module.dim}")
    return Softmax()


ACTIVATIONS: dict[str, Callable[[Any], Activation]] = {
    "Identity": lambda module: Identity(),
    "Sigmoid": lambda module: Sigmoid(),
    "Tanh": lambda module: Tanh(),
    "ReLU": lambda module: ReLU(),
    "LeakyReLU": lambda module: LeakyReLU(module.negative_slope),
    "ELU": lambda module: ELU(module.alpha),
    "SELU": lambda module: SELU(),
    "Softplus": _softplus,
    "SiLU": lambda module: SiLU(),
    "GELU": _gelu,
    "Softmax": _softmax,
}


def from_sequential(model: Any, activation: Any = None, output: Any = None) -> Loaded:
    """Linear layers with their activations and dropout; `activation` and `output` go before what the model has."""
    if not _is_sequential(model):
        raise DataError(f"path must be a file's path or a torch nn.Sequential, got {type(model).__name__}")
    linears: list[Any] = []
    activations: list[Activation | None] = []  # of each Linear; None until one follows it
    dropout = [0.0]  # of each Linear's input; the last entry is for one that is yet to come
    for place, module in _flattened(model):
        name = type(module).__name__
        where = f"{name} at position {place} of the Sequential"
        if name == "Linear":
            linears.append(module)
            activations.append(None)
            dropout.append(0.0)
        elif name == "Dropout":
            if dropout[-1]:
                raise DataError(f"{where} follows another Dropout; make one of the two")
            dropout[-1] = float(module.p)
        elif name in ACTIVATIONS:
            _follow(linears, activations, dropout, module, where)
        elif name != "Flatten" or module.start_dim != 1:
            raise DataError(
                f"{where} has no counterpart in gpubp, which takes Linear, Dropout, Flatten, "
                f"{', '.join(ACTIVATIONS)}; take it out, or put its effect into a Linear"
            )
    if not linears:
        raise DataError("the Sequential holds no Linear")
    if dropout.pop():
        raise DataError("the Sequential ends in a Dropout; gpubp drops inputs of layers only: take it out")
    chosen = [Identity() if each is None else each for each in activations]
    weights = [_array(f"weight of Linear {layer}", linear.weight).T for layer, linear in enumerate(linears)]
    biases = [
        None if linear.bias is None else _array(f"bias of Linear {layer}", linear.bias)
        for layer, linear in enumerate(linears)
    ]
    _check_shapes(weights, biases)
    hidden = chosen[:-1] if activation is None else activation
    return _loaded(weights, biases, hidden, chosen[-1] if output is None else output, dropout)


def _is_sequential(model: Any) -> bool:
    """Whether it is an `nn.Sequential`, or of a class derived from it that applies its modules in the same way."""
    forward = getattr(type(model), "forward", None)
    return any(kind.__name__ == "Sequential" and vars(kind).get("forward") is forward for kind in type(model).__mro__)


def _flattened(model: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """(position, module) of all that a Sequential applies, nested ones taken apart."""
    for number, module in enumerate(model):
        if _is_sequential(module):
            yield from _flattened(module, f"{place}{number}.")
        else:
            yield f"{place}{number}", module


def _follow(
    linears: list[Any], activations: list[Activation | None], dropout: list[float], module: Any, where: str
) -> None:
    """Make this module the activation of the last Linear."""
    try:
        activation = ACTIVATIONS[type(module).__name__](module)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    if isinstance(activation, Identity):
        return
    if not linears:
        raise DataError(f"{where} comes before any Linear; apply it to the data instead")
    if activations[-1] is not None:
        raise DataError(f"{where} follows another activation; a layer has one")
    if dropout[-1]:
        raise DataError(f"{where} follows a Dropout; put the Dropout behind it")
    activations[-1] = activation


def _array(name: str, tensor: Any) -> Any:
    """A tensor's values on the host, in float32 or float64."""
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind not in ("float64", "float32", "float16", "bfloat16"):
        raise DataError(f"the {name} is {kind}; convert the model with .float() first")
    try:
        values = tensor.detach().cpu()
    except RuntimeError as error:  # on the device "meta" there are no values
        raise DataError(f"the {name} cannot be read: {error}") from None
    return (values if kind in ("float64", "float32") else values.float()).numpy()


# -- a state_dict ------------------------------------------------------------------------------------------------------


def from_state_dict(
    path: str | PathLike[str], tensors: dict[str, Any], activation: Any = None, output: Any = None
) -> Loaded:
    """The tensors of the file `path`, named as a Sequential names them: `0.weight`, or `net.0.weight`."""
    if "parameters" in tensors:
        raise ModelFileError(
            f"{str(path)!r} is a checkpoint of a training; resume it with gpubp.Checkpoint, or gpubp train --resume"
        )
    try:
        weights, biases = _linears(tensors)
        _check_shapes(weights, biases)
    except ValueError as error:
        raise ModelFileError(
            f"{str(path)!r} is a safetensors file, but neither one that gpubp wrote nor the state_dict of an "
            f"nn.Sequential of Linear layers, such as 0.weight, 0.bias, 2.weight: {error}"
        ) from None
    missing = [] if activation is not None or len(weights) == 1 else ["activation='relu'"]
    missing += [] if output is not None else ["output='softmax'"]
    if missing:
        raise ModelFileError(
            f"{str(path)!r} holds the weights of {len(weights)} layers, but not what they compute; "
            f"say it: gpubp.load(path, {', '.join(missing)}), or whichever it was trained with"
        )
    return _loaded(weights, biases, [] if activation is None else activation, output, 0.0)


def _linears(tensors: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """The weight and the bias (or None) of each layer, in the order of their numbers."""
    parts: dict[tuple[int, ...], dict[str, Any]] = {}
    prefixes = set()
    for name, tensor in tensors.items():
        *place, kind = name.split(".")
        numbers = [part for part in place if part.isdecimal()]
        prefixes.add(tuple(place[: len(place) - len(numbers)]))
        if kind not in ("weight", "bias") or not numbers or place[-len(numbers) :] != numbers:
            raise ValueError(f"it has {name!r:.80}")
        if tensor.ndim != (2 if kind == "weight" else 1):
            raise ValueError(f"{name!r:.80} has shape {tensor.shape}")
        if tensor.dtype.kind != "f":
            raise ValueError(f"{name!r:.80} holds {tensor.dtype}, and not float32, say; convert it by .float() first")
        half = tensor.dtype == np.float16
        parts.setdefault(tuple(map(int, numbers)), {})[kind] = tensor.astype(np.float32) if half else tensor
    if len(prefixes) != 1:
        raise ValueError(f"its tensors belong to {len(prefixes)} modules")
    if without := [place for place, part in sorted(parts.items()) if "weight" not in part]:
        raise ValueError(f"layer {'.'.join(map(str, without[0]))} has a bias and no weight")
    layers = [part for _, part in sorted(parts.items())]
    return [part["weight"].T for part in layers], [part.get("bias") for part in layers]


# -- both --------------------------------------------------------------------------------------------------------------


def _check_shapes(weights: list[Any], biases: list[Any]) -> None:
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        inputs, outputs = weight.shape
        if not inputs * outputs:
            raise DataError(f"Linear {layer} has {inputs} inputs and {outputs} outputs")
        if layer and inputs != weights[layer - 1].shape[1]:
            raise DataError(
                f"Linear {layer} takes {inputs} inputs, but the one before it has {weights[layer - 1].shape[1]} outputs"
            )
        if bias is not None and bias.shape != (outputs,):
            raise DataError(f"Linear {layer} has {outputs} outputs, but a bias of shape {bias.shape}")


def _loaded(weights: list[Any], biases: list[Any], activation: Any, output: Any, dropout: Any) -> Loaded:
    sizes = [weights[0].shape[0], *(weight.shape[1] for weight in weights)]
    use_bias = [bias is not None for bias in biases]
    dtype = str(np.result_type(*weights, *(bias for bias in biases if bias is not None)))
    structure = Structure.build(sizes, activation, output, None, use_bias, None, dropout, None, dtype)
    state = {"structure": structure.config(), "seed": 0, "steps": 0, "epochs": 0, "metadata": {}}
    return state, weights, biases
