"""What is wrong with a training: its records become findings, in words, with their figures and the remedy."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gpubp.explain.diagnosis import Diagnosis

# Where the line between sick and healthy is drawn. Beside each stands what 1,000 trainings showed: of digits,
# MNIST, tables of classes and of values; with 0 to 20 hidden layers, all activations and optimizers; at rates from 1e-6
# to 1e30.
VANISHED = 0.03  # the first layer's delta over the output's; healthy: above 0.06 but for the first two epochs
VANISHED_FOR = 1 / 8  # of the records; those that learned all the same had left it after a tenth
VANISHED_FIRST = 0.001  # the ratio before training that is too small even if it is soon left; healthy: above 0.017
SMALL_GAIN = 0.5  # what a layer's weights make of the norm of a delta; 1 by Xavier's rule, √2 by He's
EXPLODED = 100.0  # the same ratio before training; healthy: up to 4 then, and up to 37 after training
DEAD = 0.5  # of a layer's units; healthy: up to 0.38
SATURATED_FIRST = 0.3  # of a layer's activations before training; healthy: up to 0.04
SATURATED = 0.6  # after it; healthy: up to 0.36, and to 0.75 when all was learned
LEARNED = 0.05  # of the first loss: below it units may saturate, since the network is sure of what it says
RISEN = 2.0  # the loss over the first; healthy: up to 1.1, with dropout
ENDED = 1.05  # the same at the end
JUMPY = 0.01  # the mean rise from one epoch to the next, but for the largest, over the first loss; healthy: up to 0.004
LEFT = 0.5  # of the first loss and gradient, and of the speed at which the loss fell at first; healthy: less of each
STEADY = 0.9  # the share of epochs in which the loss falls at rates far below the best
SMALL_UPDATE = 0.01  # ‖ΔW‖ / ‖W‖ of an epoch; healthy: 0.011 to 1.5
GOOD_UPDATE, LARGE_UPDATE = 0.1, 0.3  # in the first epochs of the healthy, and where they learned fastest
UNLEARNED = 0.95  # of the loss of always answering the mean
UNSCALED = 10.0  # the root of the mean square of x; 1 where it is standardised

EPOCH = ("epoch", "learning_rate", "loss", "training_loss")
LAYER = ("delta", "weight", "dead", "saturated")
LOOKED_FOR = (
    "vanishing and exploding gradients, dead and saturated units, a learning rate that is too small or too large"
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: the layers concerned, what it shows in, and what to do.

    Layers are counted from 0, as in `net.weights`; there are none where it concerns the whole training.
    """

    name: str
    layers: list[int]
    seen: str
    remedy: str


def findings(watch: "Diagnosis") -> list[Finding]:
    """Causes before effects, and effects left out where the cause says all."""
    if not watch.records:
        return []
    with np.errstate(all="ignore"):
        evidence = _Evidence(watch)
        saturated = _saturated(evidence, 0, SATURATED_FIRST)
        vanishing = None if saturated else _vanishing(evidence)
        if not saturated and not vanishing:
            saturated = _saturated(evidence, -1, SATURATED)
        found = [_exploding(evidence) or _too_large(evidence), vanishing, saturated, _dead(evidence)]
        if not any(found):
            found = [_too_small(evidence)]
    return [finding for finding in found if finding]


class _Evidence:
    """The records as arrays, (records, layers) or (records,), with NaN for what is missing."""

    def __init__(self, watch: "Diagnosis") -> None:
        def column(name: str) -> Any:
            return np.array([record[name] for record in watch.records], np.float64)

        self.layers, self.diverged, self.input_scale = watch.layers, watch.diverged, watch.input_scale or 0.0
        self.top = len(watch.layers) - 1
        self.epoch, self.rate, self.loss, self.training_loss = map(column, EPOCH)
        self.delta, self.weight, self.dead, self.saturated = map(column, LAYER)
        self.gradient = np.linalg.norm(column("gradient"), axis=1)
        updates = [record["update"] for record in watch.records[1:]]
        self.epochs, self.update = (
            len(updates),
            np.fmax.reduce(np.array(updates, np.float64), axis=None, initial=np.nan),
        )
        # A network that is trained already begins with less than there is to learn.
        self.first_loss = np.fmax(self.loss[0], np.nan if watch.baseline is None else watch.baseline)

    @property
    def reach(self) -> Any:
        """The first layer's delta over the output's; NaN where that says nothing, as below a layer of dead units."""
        first, last = self.delta[:, 0], self.delta[:, -1]
        cut = (first == 0) & (self.dead == 1).any(axis=1)
        return np.divide(first, last, out=np.full(len(first), np.nan), where=(last > 0) & ~cut)

    @property
    def gain(self) -> float:
        """What the initial weights make of the norm of a delta on its way down a layer, in the geometric mean.

        E ‖δ Wᵀ‖² = ‖δ‖² ‖W‖² / units for directions that are independent of the weights.
        """
        gains = self.weight[0, 1:] / np.sqrt([layer["units"] for layer in self.layers[1:]])
        return float(np.prod(gains) ** (1 / len(gains)))

    def name(self, layer: int) -> str:
        return "the output layer" if layer == self.top else f"hidden layer {layer + 1}"

    def activation(self, layers: list[int]) -> str:
        return " and ".join(dict.fromkeys(self.layers[layer]["activation"] for layer in layers))


# -- deltas on their way down ------------------------------------------------------------------------------------------


def _vanishing(e: _Evidence) -> Finding | None:
    reach = e.reach
    vanished = reach < VANISHED
    if not vanished[0] or (vanished.mean() < VANISHED_FOR and reach[0] >= VANISHED_FIRST):
        return None
    hidden, usual = list(range(e.top)), float(np.median(reach[vanished]))
    how = f"the deltas shrink {_factors(1 / usual, e.top)}" if usual else "nothing of the deltas reaches hidden layer 1"
    if e.gain < SMALL_GAIN:
        remedy = _initial_weights(e, "larger")
    else:
        remedy = (
            f'activation="relu" (--activation relu): its slope is 1 wherever it fires, while that of '
            f"{e.activation(hidden)} makes the delta smaller in every layer; or fewer hidden layers"
        )
    return Finding("vanishing gradients", hidden, f"{how}, in {vanished.sum()} of {len(vanished)} records", remedy)


def _exploding(e: _Evidence) -> Finding | None:
    reach = float(e.reach[0])
    if not reach >= EXPLODED:
        return None
    seen = f"the deltas grow {_factors(reach, e.top)}, at the start{_divergence(e)}"
    remedy = f"{_initial_weights(e, 'smaller')}; clip_norm=1.0 keeps single steps small meanwhile"
    return Finding("exploding gradients", list(range(e.top)), seen, remedy)


def _factors(whole: float, layers: int) -> str:
    each = whole ** (1 / layers)
    return f"by a factor of {_figure(each)} a layer on the way down from the output, of {_figure(whole)} in all"


def _initial_weights(e: _Evidence, wanted: str) -> str:
    return (
        f"{wanted} initial weights: these multiply a delta's norm by {_figure(e.gain)} in every layer; leave init out, "
        f"and they are drawn to fit {e.activation(list(range(e.top)))}"
    )


# -- units at rest -----------------------------------------------------------------------------------------------------


def _dead(e: _Evidence) -> Finding | None:
    layers = np.flatnonzero(e.dead[-1] >= DEAD).tolist()
    if not layers:
        return None
    seen = f"units whose slope is 0 on every row: {_shares(e, e.dead, -1, layers)}"
    leaky = 'activation="leaky_relu" (--activation leaky_relu), whose units cannot die'
    born = (e.dead[0, layers] >= DEAD).any()
    return Finding("dead units", layers, seen, f"{_fitting_z(e, layers) if born else _slower(e)}; or {leaky}")


def _saturated(e: _Evidence, when: int, least: float) -> Finding | None:
    layers = np.flatnonzero(e.saturated[when] >= least).tolist()
    if not layers or not e.loss[when] >= LEARNED * e.first_loss:
        return None
    seen = (
        f"values of {e.activation(layers)} within 1% of its ends, where its slope is almost 0: "
        f"{_shares(e, e.saturated, when, layers)}"
    )
    if when == 0:
        return Finding("saturated units", layers, seen, _fitting_z(e, layers))
    remedy = f"{_slower(e)}; or weight_decay=1e-4 (--weight-decay 1e-4), which keeps weights small"
    return Finding("saturated units", layers, seen, remedy)


def _shares(e: _Evidence, shares: Any, when: int, layers: list[int]) -> str:
    named = [
        f"{shares[when, layer]:.0%} in {e.name(layer)}"
        + (f" ({shares[0, layer]:.0%} at the start)" if when else " at the start")
        for layer in layers
    ]
    return ", ".join(named)


def _fitting_z(e: _Evidence, layers: list[int]) -> str:
    """What brings x W to where f has a slope."""
    if e.input_scale > UNSCALED:
        return _scaled_x(e)
    return f"initial weights that fit {e.activation(layers)}: leave init out, and they are drawn so"


def _scaled_x(e: _Evidence) -> str:
    return (
        f"x scaled to mean 0 and deviation 1 in each column, as its values are about {_figure(e.input_scale)} in size"
    )


# -- the learning rate -------------------------------------------------------------------------------------------------


def _too_large(e: _Evidence) -> Finding | None:
    seen = _restless(e)
    if not seen and not e.diverged:
        return None
    seen = (seen + _divergence(e)).removeprefix(", and ")
    if e.update > 0:
        seen += f"; an epoch changed weights by up to {_figure(e.update)} times their norm"
    return Finding("learning rate too large", [], seen, f"{_slower(e)}; clip_norm=1.0 keeps single steps small")


def _restless(e: _Evidence) -> str:
    """How the loss rises: the training's own, and where that may be for other reasons, the sample's as well."""
    training = np.where(np.isnan(e.training_loss), e.loss, e.training_loss)[1:]
    if (training > RISEN * e.first_loss).any():
        worst = int(np.nanargmax(training))
        top, epoch = _figure(training[worst], 3), e.epoch[worst + 1]
        return f"the loss rose from {_figure(e.loss[0], 3)} to {top} in epoch {epoch:.0f}"
    both = np.stack([e.loss[1:], training])
    if both.size and both[:, -1].min() > ENDED * e.first_loss:
        return f"the loss was {_figure(e.loss[0], 3)} at the start and is {_figure(e.loss[-1], 3)} at the end"
    rises = np.maximum(np.diff(both[:, len(training) // 2 :]), 0)
    often = np.sort(rises)[:, :-1].sum(axis=1).min() / max(1, rises.shape[1])  # without the largest, as one is no habit
    if often > JUMPY * e.first_loss:
        rise = rises.mean(axis=1).min()
        return (
            f"the loss jumps up and down: by {rise:.2g} an epoch in the second half, and is {_figure(training[-1], 3)}"
        )
    return ""


def _too_small(e: _Evidence) -> Finding | None:
    name, falls = "learning rate too small", -np.diff(e.loss)
    if e.update == 0 and e.gradient[-1] > 0:
        seen = "no weight has changed: the steps are too small to be added to it"
        return Finding(name, [], seen, "leave learning_rate (--lr) out, for the optimizer's own")
    late, early = slice(e.epochs // 2, None), slice(max(1, e.epochs // 4))
    slow = (
        e.update < SMALL_UPDATE
        and min(e.loss[-1] / e.first_loss, e.gradient[-1] / e.gradient[0]) >= LEFT
        and (falls > 0).mean() >= STEADY
        and _speed(e, falls, late) >= LEFT * _speed(e, falls, early)
    )
    if not slow:
        return None
    seen = (
        f"the loss falls as it did at first, and has come from {_figure(e.loss[0], 3)} to {_figure(e.loss[-1], 3)}; "
        f"the gradient is still {e.gradient[-1] / e.gradient[0]:.0%} of the first; no epoch changed a layer's weights "
        f"by more than {_figure(e.update)} of their norm"
    )
    factor = GOOD_UPDATE / e.update
    return Finding(name, [], seen, f"{_rate(np.nanmax(e.rate) * factor)}, about {_figure(factor, 1)} times larger")


def _speed(e: _Evidence, falls: Any, epochs: slice) -> float:
    """How far the loss falls for the learning rates it is given, which a schedule changes."""
    return float(falls[epochs].sum() / e.rate[1:][epochs].sum())


def _slower(e: _Evidence) -> str:
    """The rate at which the largest update would have been a large one of a healthy training."""
    first = f"first {_scaled_x(e)}; then " if e.input_scale > UNSCALED else ""
    if not e.update > 0:
        return f"{first}a tenth of the learning rate (learning_rate, --lr), and again until the loss falls"
    factor = np.clip(e.update / LARGE_UPDATE, 3, 1000)
    return f"{first}{_rate(np.nanmax(e.rate) / factor)}, about {_figure(factor, 1)} times smaller"


def _rate(value: float) -> str:
    rounded = f"{float(f'{value:.1g}'):g}"
    return f"learning_rate={rounded} (--lr {rounded})"


def _divergence(e: _Evidence) -> str:
    epoch = f"epoch {e.epoch[-1] + 1:.0f}" if e.epochs else "the first epoch"
    return f", and the loss was no longer finite in {epoch}" if e.diverged else ""


def _figure(value: float, digits: int = 2) -> str:
    """So many digits of it: 0.08, 5.9, 3,400."""
    return f"{float(f'{value:.{digits}g}'):,.7g}"


# -- in words ----------------------------------------------------------------------------------------------------------


def told(watch: "Diagnosis") -> str:
    """All findings as plain text, or that there are none, and what was looked for."""
    if not watch.records:
        return "nothing was watched: give this to a training, fit(..., callbacks=[watch])"
    found = findings(watch)
    if not found:
        return f"{_watched(watch)}: nothing wrong; looked for {LOOKED_FOR}{_unlearned(watch)}"
    return "\n".join([f"{_watched(watch)}:", *(f"{each.name}: {each.seen}\n  try {each.remedy}" for each in found)])


def _unlearned(watch: "Diagnosis") -> str:
    """What is to be said where a training in which nothing is wrong has not come to anything either."""
    loss = watch.records[-1]["loss"]
    if loss is None or watch.baseline is None or loss < UNLEARNED * watch.baseline or len(watch.records) < 2:
        return ""
    return (
        f". But the loss, {_figure(loss, 3)}, is hardly better than that of always answering the mean, "
        f"{_figure(watch.baseline, 3)}: try more epochs or wider layers, and see whether x says anything of y"
    )


def _watched(watch: "Diagnosis") -> str:
    epochs = len(watch.records) - 1
    return f"{epochs} {'epoch' if epochs == 1 else 'epochs'} watched on {len(watch.x)} rows"
