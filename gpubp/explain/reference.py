"""A pass over a batch in float64 on NumPy: what the network's own pass, on its device and in its dtype, is held to."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from gpubp.backends.numpy import NumpyBackend
from gpubp.data.arrays import check_finite
from gpubp.errors import DataError
from gpubp.jacobians import passed, slopes
from gpubp.mlp import MLP
from gpubp.network import Backprop, Network


@dataclass(frozen=True)
class Reference:
    """A copy of the network, the batch, and what one pass of the copy over it gives: NumPy arrays, row n for sample n.

    Raises DataError and ShapeError as `MLP.backprop` does, and DataError where x or the cost is not finite.
    """

    network: Network
    x: Any  # (N, inputs)
    targets: Any  # (N, outputs); class indices as one-hot rows
    traced: Backprop
    slopes: list[Any]  # f'(z) of each layer, (N, units); of softmax y, which is no less

    @classmethod
    def of(cls, net: MLP, x: Any, y: Any) -> Self:
        with net._session() as original, np.errstate(all="ignore"):
            inputs, targets, _ = net._sample(x, y, None)
            check_finite("x", inputs, original.backend.xp)
            host = original.backend.to_numpy
            copy = on_numpy(original, "float64")
            rows = copy.backend.empty((len(inputs), net.sizes[-1]), "float64")
            if targets.ndim == 1:
                copy.backend.one_hot(host(targets), rows)
            else:
                rows[...] = host(targets)
            values = copy.backend.asarray(host(inputs), "float64")
            traced = copy.trace(values, rows, None)
            if not np.isfinite(traced.loss):
                raise DataError(f"the cost of these samples is {traced.loss}; give others, or scale x")
            known = slopes(copy, passed(copy, values))
        steepness = [y if slope is None else slope for slope, y in zip(known, traced.activations[1:], strict=True)]
        return cls(copy, values, rows, traced, steepness)

    @property
    def analytic(self) -> bool:
        """Whether derivatives may be taken by complex step."""
        structure = self.network.structure
        return structure.loss.analytic and all(activation.analytic for activation in structure.activations)


def on_numpy(network: Network, dtype: str) -> Network:
    """A copy of this network, on NumPy and in this dtype."""
    copy = Network(replace(network.structure, dtype=dtype), NumpyBackend(), network.seed)
    views, values = ([*each.arena.weights, *each.arena.biases] for each in (copy, network))
    for view, value in zip(views, values, strict=True):
        if view is not None:
            view[...] = network.backend.to_numpy(value)
    return copy
