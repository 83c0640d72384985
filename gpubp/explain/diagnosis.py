"""Diagnosis: a callback that looks at a training after every epoch, and says in words what is wrong with it."""

import json
from dataclasses import asdict
from math import isfinite
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp.backends.numpy import NumpyBackend
from gpubp.callbacks import Callback
from gpubp.errors import DataError
from gpubp.explain.symptoms import Finding, findings, told
from gpubp.jacobians import passed, slopes

if TYPE_CHECKING:
    from gpubp.mlp import MLP

END = 0.01  # of the range of a sigmoid or tanh: nearer to an end of it than this, a unit has saturated


class Diagnosis(Callback):
    """Deltas, gradients, updates and units of each layer, before the first epoch and after every one.

    A record holds the sample's "loss", the epoch's own as "training_loss" (None for a loss that is a sum, as it is not
    one of as many rows), "learning_rate", and for each layer

    * "delta": √(mean over rows of ‖∂ℓ/∂z‖²), which initial weights made for the activation keep alike in all layers,
    * "gradient" ‖∂C/∂W‖, "weight" ‖W‖ and "update" ‖ΔW‖ / ‖W‖ of the epoch,
    * "dead": the share of units whose f'(z) is 0 on every row, as of a ReLU that never fires; None where f has two
      ends,
    * "saturated": for an f with two ends, such as tanh, the share of y within 1 % of one of them; None for others, and
      for an output whose delta does not depend on f'(z), as under softmax and cross entropy.

    What is not finite, or not known yet, is None. `layers` says what each layer is, and `baseline` is the loss of
    always answering the mean of the targets. A training that begins, or is resumed, begins new records.

    Arguments:
        x, y: a few hundred of the training rows. Every epoch takes one forward and backward pass over them, with
            dropout off, and a copy of the weights to the host; the training itself keeps every bit.

    Raises DataError or ShapeError, when the training begins, for a sample that does not fit the network.

    >>> import gpubp
    >>> net, watch = gpubp.MLP([1, 1], output="identity", seed=0), gpubp.Diagnosis([[1.0], [2.0]], [2.0, 4.0])
    >>> history = net.fit([[1.0], [2.0]], [2.0, 4.0], optimizer="sgd", learning_rate=10.0, epochs=5, callbacks=[watch],
    ...     verbose=0)
    >>> [finding.name for finding in watch.findings()]
    ['learning rate too large']
    """

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y
        self.layers: list[dict[str, Any]] = []
        self.records: list[dict[str, Any]] = []
        self.baseline: float | None = None
        self.input_scale: float | None = None  # the root of the mean square of x
        self.diverged = False
        self._weights: list[Any] = []

    def on_fit_begin(self, net: "MLP") -> None:
        self.layers = [
            {"activation": activation.name, "inputs": inputs, "units": units}
            for activation, inputs, units in zip(net.activations, net.sizes, net.sizes[1:], strict=False)
        ]
        self.records, self._weights, self.diverged = [], [], False
        self.input_scale, self.baseline = _scales(net, self.x, self.y)
        self._look(net, {"epoch": 0})

    def on_epoch_end(self, net: "MLP", record: dict[str, Any]) -> None:
        if len(self.records) == 1:
            self.records[0]["epoch"] = record["epoch"] - 1  # more than 0 where a training is resumed
        self._look(net, record)

    def on_divergence(self, net: "MLP") -> None:
        self.diverged = True

    def _look(self, net: "MLP", record: dict[str, Any]) -> None:
        with np.errstate(all="ignore"):
            pass_ = net.backprop(self.x, self.y)
            weights = net.get_parameters()[0]
            rows = len(pass_.outputs)
            mean = net.loss.reduction == "mean"
            dead, saturated = _at_rest(net, self.x)
            self.records.append(
                {
                    "epoch": record["epoch"],
                    "loss": _finite(pass_.loss),
                    "training_loss": record.get("loss") if mean else None,
                    "learning_rate": record.get("learning_rate"),
                    "delta": [_finite(_norm(delta) * (rows if mean else 1) / rows**0.5) for delta in pass_.deltas],
                    "gradient": [_finite(_norm(gradient)) for gradient in pass_.weight_grads],
                    "weight": [_finite(_norm(weight)) for weight in weights],
                    "update": [_finite(_norm(w - v) / _norm(v)) for w, v in zip(weights, self._weights, strict=False)],
                    "dead": dead,
                    "saturated": saturated,
                }
            )
            self._weights = weights

    # -- what it says --------------------------------------------------------------------------------------------------

    def findings(self) -> list[Finding]:
        """What is wrong with the training so far, causes before effects; empty where nothing is."""
        return findings(self)

    def __str__(self) -> str:
        return told(self)

    def to_json(self) -> str:
        """Findings and records as one JSON object."""
        kept = {name: getattr(self, name) for name in ("layers", "baseline", "input_scale", "diverged", "records")}
        return json.dumps({"findings": [asdict(finding) for finding in self.findings()], **kept}, allow_nan=False)

    def plot(self, path: str | PathLike[str]) -> None:
        """Draw deltas, gradients, updates and units of every layer, and the loss, into a .png or .svg file.

        Raises DataError for another suffix or before a training, GpubpError where matplotlib is not installed or the
        file cannot be written.
        """
        if not self.records:
            raise DataError("there is nothing to draw yet; give this to a training: fit(..., callbacks=[watch])")
        from gpubp.explain.diagnosis_plot import draw
        from gpubp.explain.figures import save

        save(draw(self), path)


def _at_rest(net: "MLP", x: Any) -> tuple[list[float | None], list[float | None]]:
    """Of each layer the share of dead units, and the share of saturated activations; None where there are none such."""
    dead: list[float | None] = []
    saturated: list[float | None] = []
    with net._session() as network:
        batch = passed(network, net._inputs(x))
        found = slopes(network, batch)
        outputs = [network.backend.to_numpy(slot.y) for slot in batch.layers]
    for activation, slope, y in zip(net.activations, found, outputs, strict=True):
        low, high = activation.range
        two_ended = isfinite(high - low)
        dead.append(
            None if slope is None or two_ended or activation.delta is None else float((slope == 0).all(axis=0).mean())
        )
        near = END * (high - low)
        at_an_end = (y < low + near) | (y > high - near)
        saturated.append(float(at_an_end.mean()) if slope is not None and two_ended else None)
    if type(net.activations[-1]) in net.loss.fused:
        saturated[-1] = None
    return dead, saturated


def _scales(net: "MLP", x: Any, y: Any) -> tuple[float | None, float | None]:
    """The root of the mean square of x, and the loss of always answering the mean of the targets."""
    with net._session() as network, np.errstate(all="ignore"):
        inputs, targets, _ = net._sample(x, y, None)
        host = network.backend.to_numpy
        t = host(targets)
        t = np.eye(net.sizes[-1])[t] if t.ndim == 1 else t.astype(np.float64)
        o, unused, losses = np.tile(t.mean(axis=0), (len(t), 1)), np.empty_like(t), np.empty((len(t), 1))
        NumpyBackend().run(net.loss.kernel, o, t, 1.0, *net.loss.parameters, unused, losses)
        baseline = losses.mean() if net.loss.reduction == "mean" else losses.sum()
        return _finite(np.sqrt(np.square(host(inputs), dtype=np.float64).mean())), _finite(baseline)


def _norm(a: Any) -> Any:
    return np.sqrt(np.square(a, dtype=np.float64).sum())


def _finite(value: Any) -> float | None:
    """A plain number; None for one that JSON cannot say."""
    return float(value) if isfinite(value) else None
