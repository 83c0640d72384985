"""What a network is, without its parameters: sizes, activations, loss, biases, masks, dropout.

It is checked once, and kept in model files.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any, Self

import numpy as np

from gpubp.activations import Activation
from gpubp.data.arrays import as_host_or_device
from gpubp.errors import DataError, ShapeError
from gpubp.initializers import Initializer
from gpubp.losses import DEFAULTS, Loss, SquaredError

MOST_WEIGHTS = 2**48  # far beyond any memory, and far below what NumPy can count


@dataclass(frozen=True)
class Structure:
    """The settings of an MLP, one entry a layer where that makes sense."""

    sizes: list[int]
    activations: list[Activation]  # of every layer, the output's last
    loss: Loss
    use_bias: list[bool]
    masks: list[Any]  # None or a (inputs, outputs) array of 0 and 1
    dropout: list[float]  # of each layer's input
    initializer: Initializer | None  # None: what each layer's activation asks for
    dtype: str

    @property
    def depth(self) -> int:
        return len(self.activations)

    def check_precision(self, precision: str | None) -> None:
        """DataError where these settings do not go with a precision."""
        if precision is not None and self.dtype != "float32":
            raise DataError(f"precision={precision!r} needs dtype='float32', got dtype={self.dtype!r}")
        for activation in self.activations[:-1] if precision == "bfloat16" else []:
            for kernel in (activation.forward, activation.delta):
                if kernel is not None and (kernel.kind != "elementwise" or kernel.source is None):
                    raise DataError(
                        f"activation {activation.name!r} cannot be a hidden layer's in precision='bfloat16', as its "
                        f"kernel {kernel.name!r} is no device function of single elements; use precision='tf32'"
                    )

    def initializer_of(self, layer: int) -> Initializer:
        return self.initializer or Initializer.resolve(self.activations[layer].initializer)

    @classmethod
    def build(
        cls,
        sizes: Sequence[int],
        activation: Any,
        output: Any,
        loss: Any,
        use_bias: Any,
        masks: Any,
        dropout: Any,
        init: Any,
        dtype: str,
    ) -> Self:
        """From what a user gives, with each mistake named."""
        widths = _sizes(sizes)
        hidden = len(widths) - 2
        chosen = [Activation.resolve(entry) for entry in _per_layer("activation", activation, hidden)]
        chosen.append(Activation.resolve(output))
        if loss is None:
            loss = DEFAULTS.get(chosen[-1].name, SquaredError)()
        resolved_loss = Loss.resolve(loss)
        resolved_loss.check_output(chosen[-1])
        biases = _per_layer("use_bias", use_bias, hidden + 1)
        if not all(isinstance(wanted, bool | np.bool_) for wanted in biases):
            raise DataError(f"use_bias must be True, False or a list of them, got {use_bias!r}")
        return cls(
            sizes=widths,
            activations=chosen,
            loss=resolved_loss,
            use_bias=[bool(wanted) for wanted in biases],
            masks=_masks(masks, widths),
            dropout=_dropout(dropout, hidden),
            initializer=None if init is None else Initializer.resolve(init),
            dtype=_dtype(dtype),
        )

    def config(self) -> dict[str, Any]:
        """As JSON-able values; `from_config` is its inverse."""
        return {
            "sizes": self.sizes,
            "activations": [activation.config() for activation in self.activations],
            "loss": self.loss.config(),
            "use_bias": self.use_bias,
            "masks": [
                None if mask is None else base64.b64encode(np.packbits(mask != 0).tobytes()).decode()
                for mask in self.masks
            ],
            "dropout": self.dropout,
            "initializer": self.initializer and self.initializer.config(),
            "dtype": self.dtype,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        sizes = config["sizes"]
        masks = [
            None if mask is None else _unpacked(mask, *shape)
            for mask, shape in zip(config["masks"], pairwise(sizes), strict=True)
        ]
        activations = [Activation.from_config(entry) for entry in config["activations"]]
        init = config["initializer"] and Initializer.from_config(config["initializer"])
        loss = Loss.from_config(config["loss"])
        return cls.build(
            sizes,
            activations[:-1],
            activations[-1],
            loss,
            config["use_bias"],
            masks,
            config["dropout"],
            init,
            config["dtype"],
        )


def _sizes(sizes: Sequence[int]) -> list[int]:
    listed = list(sizes) if isinstance(sizes, Sequence | np.ndarray) and not isinstance(sizes, str) else []
    if len(listed) < 2 or not all(isinstance(n, Integral) and not isinstance(n, bool) and n >= 1 for n in listed):
        raise DataError(
            "sizes must be a list of at least 2 positive integers (inputs, hidden layers, outputs), "
            f"such as [784, 256, 10], got {sizes!r}"
        )
    widths = [int(n) for n in listed]
    if (weights := sum(inputs * outputs for inputs, outputs in pairwise(widths))) > MOST_WEIGHTS:
        raise DataError(f"sizes={widths} are {weights:.3g} weights, more than any memory holds; give fewer")
    return widths


def _unpacked(mask: str, inputs: int, outputs: int) -> Any:
    bits = np.unpackbits(np.frombuffer(base64.b64decode(mask, validate=True), np.uint8))
    if not 0 <= bits.size - inputs * outputs < 8:
        raise DataError(f"a mask of {bits.size} bits is no mask for {inputs} x {outputs} weights")
    return bits[: inputs * outputs].reshape(inputs, outputs)


def _dtype(dtype: Any) -> str:
    try:
        name = str(np.dtype(dtype))
    except TypeError:
        name = ""
    if dtype is None or name not in ("float32", "float64"):  # to NumPy, None is float64
        raise DataError(f"dtype must be 'float32' or 'float64', got {dtype!r}")
    return name


def _per_layer(name: str, value: Any, count: int) -> list[Any]:
    """One value for all layers, or a list with one entry each."""
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise DataError(
            f"{name} has {len(value)} entries, but this network needs {count}; "
            f"give one value for all, or {count} of them"
        )
    return list(value)


def _dropout(dropout: Any, hidden: int) -> list[float]:
    rates = (
        _per_layer("dropout", dropout, hidden + 1) if isinstance(dropout, list | tuple) else [0.0] + [dropout] * hidden
    )
    for rate in rates:
        if not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise DataError(f"dropout is a probability in [0, 1), got {rate!r}")
    return [float(rate) for rate in rates]


def _masks(masks: Any, sizes: list[int]) -> list[Any]:
    if masks is None:
        return [None] * (len(sizes) - 1)
    checked: list[Any] = []
    for layer, (mask, shape) in enumerate(
        zip(_per_layer("masks", masks, len(sizes) - 1), pairwise(sizes), strict=True)
    ):
        if mask is None:
            checked.append(None)
            continue
        array = np.array(as_host_or_device(f"masks[{layer}]", mask))
        if array.shape != shape:
            raise ShapeError(
                f"masks[{layer}] has shape {array.shape}, but the weights of layer {layer} have shape {shape}"
            )
        if not np.isin(array, (0, 1)).all():
            raise DataError(f"masks[{layer}] must hold only 0 and 1")
        checked.append(array.astype(np.uint8))
    return checked
