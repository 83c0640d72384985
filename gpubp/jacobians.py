"""Jacobians of the layers at given inputs: the chain rule as a product of matrices."""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from gpubp.activations import Activation
from gpubp.backends import Backend
from gpubp.buffers import Batch
from gpubp.errors import DataError
from gpubp.kernel import Array
from gpubp.layers import Slot
from gpubp.network import Network

MOST_BYTES = 2 << 30  # of all Jacobians together; larger ones are refused


@dataclass(frozen=True)
class Jacobians:
    """J[i, j] = ∂outᵢ/∂inⱼ of every step of the forward pass, as NumPy arrays.

    linear[l] = ∂z/∂x = W[l]ᵀ, (outputs, inputs), the same for every sample; activations[l] = ∂y/∂z, (N, outputs,
    outputs): diag(f'(z)) for an elementwise activation, diag(y) − yᵀ y for softmax. A row of gradients goes down a
    layer as g · activations[l] · linear[l]; for an elementwise activation the first product is g ∘ f'(z).
    """

    linear: list[Any]
    activations: list[Any]

    @property
    def product(self) -> Any:
        """∂outputs/∂x, (N, outputs, inputs): all of them multiplied, the output layer's first."""
        layers = [a @ w for a, w in zip(self.activations, self.linear, strict=True)]
        return reduce(lambda above, below: above @ below, reversed(layers))


def jacobians(network: Network, x: Array) -> Jacobians:
    """Of device rows x, on the device."""
    rows, itemsize = len(x), network.backend.itemsize(network.dtype)
    size = itemsize * rows * sum(width * width for width in network.structure.sizes[1:])
    if size > MOST_BYTES:
        raise DataError(f"the Jacobians of {rows} rows of x would take {size:,} bytes; give fewer rows")
    batch = passed(network, x)
    return Jacobians(
        [network.backend.host_copy(params.weight).T for params in network.parameters],
        [
            _of_activation(network.backend, dense.activation, slot)
            for dense, slot in zip(network.layers, batch.layers, strict=True)
        ],
    )


def passed(network: Network, x: Array) -> Batch:
    """The buffers of a forward pass that keeps everything."""
    batch = network.traced_batch(len(x))
    network.forward(x, batch)
    return batch


def slopes(network: Network, batch: Batch) -> list[Any]:
    """f'(z) of each layer, (N, units), on the host; None for softmax, whose derivative is a matrix."""
    found = []
    for dense, slot in zip(network.layers, batch.layers, strict=True):
        ones = np.ones(slot.y.shape)
        found.append(_applied(network.backend, dense.activation, slot, ones) if elementwise(dense.activation) else None)
    return found


def elementwise(activation: Activation) -> bool:
    """Whether each unit's y depends on its own z alone."""
    return activation.delta is None or activation.delta.kind == "elementwise"


def _of_activation(backend: Backend, activation: Activation, slot: Slot) -> Any:
    """∂y/∂z, (N, units, units): for ∂C/∂y = e_k the kernel of the delta writes its row k."""
    rows, units = slot.y.shape
    found = np.zeros((rows, units, units), slot.y.dtype)
    if elementwise(activation):
        diagonal = np.arange(units)
        found[:, diagonal, diagonal] = _applied(backend, activation, slot, np.ones((rows, units)))
        return found
    for k, row in enumerate(np.eye(units)):
        found[:, k] = _applied(backend, activation, slot, np.tile(row, (rows, 1)))
    return found


def _applied(backend: Backend, activation: Activation, slot: Slot, dy: Any) -> Any:
    """What the kernel of the delta makes of this ∂C/∂y."""
    delta = backend.asarray(dy, slot.y.dtype)
    if activation.delta is not None:
        saved = slot.y if activation.saves == "y" else slot.z
        backend.run(activation.delta, delta, saved, *activation.parameters, delta)
    return backend.host_copy(delta)
