"""Layers: stateless between calls.

Parameters, gradients and buffers are arguments, so a layer is a few lines of mathematics.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gpubp.activations import Activation
from gpubp.backends.base import Backend
from gpubp.kernel import Array, elementwise

SOURCE = "layers.cuh"
Fold = tuple[Any, Any, Array]  # alpha, beta and what a weight's gradient is added to: beta · itself + alpha · ∂C/∂W


@dataclass(slots=True)
class Parameters:
    """One layer's views into the arena, and its constant mask."""

    weight: Array  # (inputs, outputs)
    bias: Array  # (outputs,); zeros for a layer without
    weight_grad: Array
    bias_grad: Array | None
    mask: Array | None


@dataclass(slots=True)
class Slot:
    """One layer's buffers for a batch.

    In training z is y unless z is saved, and dz is dy; a traced pass keeps all four apart.
    """

    z: Array
    y: Array
    dy: Array | None = None
    dz: Array | None = None
    dropped: Array | None = None  # the layer's input after dropout
    dropout_keys: tuple[Array, Array] | None = None


@elementwise("g, mask -> g", source=SOURCE)
def mask_gradient(xp: Any, g: Array, mask: Array) -> None:
    xp.multiply(g, mask, out=g)


@elementwise("x -> y", source=SOURCE)
def cast(xp: Any, x: Array, y: Array) -> None:
    """y = x, in the type of y."""
    xp.copyto(y, x)


class Dense:
    """y = f(x W + b), with f the activation."""

    def __init__(self, activation: Activation) -> None:
        self.activation = activation

    def forward(self, backend: Backend, params: Parameters, x: Array, slot: Slot) -> Array:
        """z = x W, then y = f(z + b)."""
        kernel, numbers = self.activation.forward, self.activation.parameters
        backend.run_on_product(x, params.weight, kernel, slot.z, params.bias, *numbers, slot.y)
        return slot.y

    def delta(self, backend: Backend, slot: Slot, bias_grad: Array | None = None) -> None:
        """dz = dy · f'(z): ∂C/∂y becomes the delta ∂C/∂z; and ∂C/∂b, the column sums of dz, where there is a bias."""
        kernel, saved = self.activation.delta, slot.y if self.activation.saves == "y" else slot.z
        if kernel is not None and bias_grad is not None:
            args = (slot.dy, saved, *self.activation.parameters, slot.dz)
            backend.run_with_column_sum(kernel, *args, sums=bias_grad)
            return
        if kernel is not None:
            backend.run(kernel, slot.dy, saved, *self.activation.parameters, slot.dz)
        elif slot.dz is not slot.dy:
            backend.copy(slot.dy, slot.dz)
        if bias_grad is not None:
            backend.column_sum(slot.dz, bias_grad)

    def backward(
        self,
        backend: Backend,
        params: Parameters,
        x: Array,
        dz: Array,
        dx: Array | None,
        fold: Fold | None = None,
        reading: Any = None,
    ) -> Any:
        """∂C/∂x = dz Wᵀ where it is wanted and, beside it, ∂C/∂W = xᵀ dz, or that added to what it is folded into.

        `reading` is work beside that may still read dx's memory; the work that reads dz is returned.
        """
        alone = fold is None or fold[2] is not params.weight  # of W, dz Wᵀ is to see what was before the step
        work = partial(self.weight_gradient, backend, params, x, dz, fold)
        begun = backend.beside(work) if alone else None
        if dx is not None:
            backend.wait(reading)
            backend.matmul(dz, params.weight.T, dx)
        return begun if alone else backend.beside(work)

    def weight_gradient(self, backend: Backend, params: Parameters, x: Array, dz: Array, fold: Fold | None) -> None:
        """∂C/∂W = xᵀ dz, masked where the weights are."""
        if fold is not None:
            backend.accumulate(x.T, dz, *fold)
            return
        backend.matmul(x.T, dz, params.weight_grad)
        if params.mask is not None:
            backend.run(mask_gradient, params.weight_grad, params.mask)


ROW_KEY, COLUMN_KEY = 0x85EBCA77, 0x9E3779B1  # odd, so that i · key differs for all i < 2³²


def mix(bits: int) -> int:
    """Murmur3's 32-bit finalizer: every bit of the result depends on every bit given."""
    bits &= 0xFFFFFFFF
    bits = (bits ^ bits >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    bits = (bits ^ bits >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return bits ^ bits >> 16


@elementwise("x, row, column, key, threshold, scale -> y", source=SOURCE, scratch=2)
def dropout(
    xp: Any, x: Array, row: Array, column: Array, key: Any, threshold: Any, scale: float, y: Array, s: Array, r: Array
) -> None:
    """y = x · scale where mix(row + column + key) ≥ threshold, else 0; uint32 arithmetic, modulo 2³²."""
    # Contiguous in float64 too, where a third of the time went into strides.
    bits, shifted = (scratch.reshape(-1).view(xp.uint32)[: x.size].reshape(x.shape) for scratch in (s, r))
    xp.add(row, column, out=bits)
    xp.add(bits, key, out=bits)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        xp.right_shift(bits, shift, out=shifted)
        xp.bitwise_xor(bits, shifted, out=bits)
        xp.multiply(bits, xp.uint32(factor), out=bits)
    dropped = shifted.reshape(-1).view(xp.bool_)[: x.size].reshape(x.shape)
    xp.less(bits, threshold, out=dropped)
    xp.multiply(x, scale, out=y)
    xp.copyto(y, 0, where=dropped)


class Dropout:
    """Zeroes each input with probability `rate` and scales the rest by 1 / (1 − rate).

    This is the dropout of Srivastava et al. 2014, with inverted scaling. The mask is a function of (seed, layer, step,
    row, column) alone, by a counter-based generator, so it is the same on every device and the backward pass computes
    it again instead of keeping it.
    """

    def __init__(self, rate: float, seed: int, layer: int) -> None:
        self.rate = rate
        self._key = mix(seed ^ mix(seed >> 32 ^ mix(layer + 1)))
        self._threshold, self._scale = np.uint32(rate * 2**32), 1 / (1 - rate)

    def key(self, step: int) -> Any:
        """The key of this step's mask."""
        return np.uint32(mix(self._key + step))

    def run(self, backend: Backend, keys: tuple[Array, Array], x: Array, key: Any, out: Array) -> None:
        """out = mask · x / (1 − rate), on activations forward and on their gradients backward alike; `out` may be x."""
        backend.run(dropout, x, *keys, key, self._threshold, self._scale, out)
