"""What rounding alone does to a pass: how far its z and its gradients may be from those without any.

In units of the machine epsilon ε every operation is off by about its result, independently of all others, so that
variances add: of z = x W + b they are var z = Σ (x² + var x) W² + b², of y = f(z) they are y² + f'(z)² var z. Errors of
the deltas go down likewise; those of the output come from o − t, where a trained network loses most of its digits.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubp.explain.reference import Reference

# How many of these standard deviations an error may have. Of 4000 random networks in float32, up to 8 layers deep and
# with inputs from 0.01 to 100, the worst had 30; trained ones have less than 4.
MOST_DEVIATIONS = 32


@dataclass(frozen=True)
class Rounding:
    """Standard deviations in units of ε: of z and o − t for each sample, of gradients as the norm over all entries."""

    zs: list[Any]  # (N, units) each
    differences: Any  # (N, outputs)
    weight_grads: list[float]
    bias_grads: list[float]


@np.errstate(all="ignore")
def expected(known: Reference) -> Rounding:
    """What rounding is expected to do to this pass, when it is made in another precision or order of sums."""
    traced, network, top = known.traced, known.network, len(known.slopes) - 1
    squares = [slope**2 for slope in known.slopes]
    x, zs = [np.zeros(known.x.shape)], []  # variances; x itself is exact
    for layer, params in enumerate(network.parameters):
        zs.append((traced.activations[layer] ** 2 + x[layer]) @ params.weight**2 + params.bias**2)
        x.append(traced.activations[layer + 1] ** 2 + squares[layer] * zs[layer])
    differences = x[-1] + known.targets**2
    factor = 1 / len(known.x) if network.loss.reduction == "mean" else 1.0
    fused = type(network.layers[top].activation) in network.loss.fused
    deltas, weight_grads, bias_grads = factor**2 * differences, [], []
    for layer in range(top, -1, -1):
        if layer < top:
            deltas = deltas @ network.parameters[layer + 1].weight.T ** 2
        if layer == top and fused:
            deltas = deltas + traced.deltas[layer] ** 2
        else:  # f' is off by ε itself, where it is 1 − y², and by what z is off
            off = 1 + squares[layer] * zs[layer]
            deltas = deltas * squares[layer] + traced.activation_grads[layer] ** 2 * off
        products = (traced.activations[layer] ** 2).sum(axis=1) * deltas.sum(axis=1)
        products += x[layer].sum(axis=1) * (traced.deltas[layer] ** 2).sum(axis=1)
        weight_grads.append(float(np.sqrt(products.sum())))
        bias_grads.append(float(np.sqrt(deltas.sum())))
    return Rounding([np.sqrt(z) for z in zs], np.sqrt(differences), weight_grads[::-1], bias_grads[::-1])
