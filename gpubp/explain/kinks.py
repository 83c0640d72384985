"""Kinks: samples at which a unit's z, or an output's error, is where a derivative jumps, so that the cost has none.

Near is what rounding may carry over it and, where derivatives are taken by differences, what the step may.
"""

from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from gpubp.activations import Activation
from gpubp.errors import DataError
from gpubp.explain.reference import Reference
from gpubp.explain.rounding import MOST_DEVIATIONS, expected
from gpubp.losses import Loss

CENTRAL_STEP = 2e-5  # central differences go twice as far
MOST_NUMBERED = 20  # samples that an error lists


@dataclass(frozen=True)
class Kink:
    """One unit of one sample; all are counted from 0."""

    sample: int
    layer: int | None  # None: it is the loss of an output
    unit: int
    function: str
    at: float
    z: float  # o − t of a loss
    blank: bool  # all inputs of its layer are 0

    def __str__(self) -> str:
        kink = f"{self.function} has a kink at {self.at:g}"
        if self.layer is None:
            return f"output {self.unit} is {self.z:.3g} off its target, and {kink}"
        why = " as all its inputs and its bias are 0" if self.blank else ""
        return f"unit {self.unit} of layer {self.layer} has z = {self.z:.3g}{why}, and {kink}"


def find(known: Reference, epsilon: float) -> list[Kink]:
    """The kinks that a pass in the precision of this machine epsilon is at, or that a step may cross."""
    network, traced, rounding, moves = known.network, known.traced, expected(known), _moves(known)
    step = 0.0 if known.analytic else 2 * CENTRAL_STEP
    places: list[tuple[int | None, Activation | Loss, Any, Any, Any]] = [
        (layer, dense.activation, traced.zs[layer], rounding.zs[layer], moves[layer])
        for layer, dense in enumerate(network.layers)
    ]
    with np.errstate(all="ignore"):
        last = np.abs(known.slopes[-1]) * moves[-1]
        places.append((None, network.loss, traced.outputs - known.targets, rounding.differences, last))
        found = []
        for layer, function, z, error, moved in places:
            for at in _kinks_of(function):
                near = (np.abs(z - at) <= MOST_DEVIATIONS * epsilon * error + step * moved) & (moved > 0)
                for sample, unit in np.argwhere(near).tolist():
                    value = float(z[sample, unit])
                    blank = layer is not None and not value and not traced.activations[layer][sample].any()
                    found.append(Kink(sample, layer, unit, function.name, at, value, blank))
    return found


def refuse(found: list[Kink], samples: int) -> None:
    """Raise a DataError if there are any."""
    if found:
        numbers = sorted({kink.sample for kink in found})
        listed = ", ".join(map(str, numbers[:MOST_NUMBERED])) + ", ..." * (len(numbers) > MOST_NUMBERED)
        raise DataError(
            f"gradients cannot be checked at a kink, where the cost has no derivative, and {len(numbers)} of {samples} "
            f"samples are at one: {listed}; in sample {found[0].sample} {found[0]}; "
            "leave these samples out, or move x or the parameters a little"
        )


def _kinks_of(function: Activation | Loss) -> tuple[float, ...]:
    kinks = function.kinks
    if not isinstance(kinks, tuple) or not all(isinstance(at, Real) for at in kinks):
        raise DataError(f"{type(function).__name__}.kinks must be a tuple of numbers such as (0.0,), got {kinks!r}")
    return kinks


def _moves(known: Reference) -> list[Any]:
    """For each z (N, units), the most that it moves when one tensor of parameters goes a unit's length.

    It is 0 where all that comes in is 0 and stays so: such a z is nowhere near a kink, even on it.
    """
    moves: list[Any] = []
    for layer, params in enumerate(known.network.parameters):
        x = known.traced.activations[layer]
        present = np.ones(params.weight.shape) if params.mask is None else params.mask
        own = np.sqrt(x**2 @ present + known.network.structure.use_bias[layer])
        if layer:
            own = np.maximum(own, np.abs(known.slopes[layer - 1]) * moves[-1] @ np.abs(params.weight))
        moves.append(own)
    return moves
