"""The trace of one step of gradient descent: everything that was computed, before and after it."""

from dataclasses import dataclass, fields
from os import PathLike
from typing import Any

import numpy as np

from gpubp.checks import number
from gpubp.errors import DataError
from gpubp.explain.chain import Chain, chain
from gpubp.explain.document import Document
from gpubp.explain.names import Names
from gpubp.explain.showing import Showing
from gpubp.explain.story import story
from gpubp.jacobians import passed, slopes
from gpubp.mlp import MLP
from gpubp.optimizers import SGD


@dataclass(frozen=True)
class LayerTrace:
    """What one layer computed, and what the step made of its parameters: NumPy arrays, row n for sample n.

    z = x W + b, y = f(z), delta = ∂C/∂z = ∂C/∂y · f'(z), weight_grad = xᵀ delta, bias_grad = Σ delta over the batch,
    weight_after = weight − η · weight_grad.
    """

    index: int
    activation: str
    x: Any  # (N, inputs)
    z: Any  # (N, units), as all that follow
    y: Any
    slope: Any  # f'(z); None for softmax, whose derivative is a matrix: see MLP.jacobians
    activation_grad: Any  # ∂C/∂y
    delta: Any
    weight: Any  # (inputs, units), as the other weights
    weight_grad: Any
    weight_after: Any
    bias: Any  # (units,), as the other biases; None without
    bias_grad: Any
    bias_after: Any
    mask: Any  # (inputs, units) of 0 and 1, or None
    fused: bool  # the delta comes from loss and activation in one formula, such as y − t


@dataclass(frozen=True)
class Moment:
    """What the batch gives at one moment: the cost C, the loss of each sample and the outputs."""

    loss: float
    sample_losses: Any  # (N,)
    outputs: Any  # (N, outputs)


@dataclass(frozen=True, repr=False)
class Trace(Showing):
    """One whole step W ← W − η ∂C/∂W, b ← b − η ∂C/∂b on one batch, explained.

    `layers[l]` holds what each layer computed, `before` and `after` the outputs and losses of the same batch. Single
    parameters go by name: `names.find("w5")`, `weight("w5")` for the chain rule that leads to its gradient. It shows
    itself in a terminal and a notebook, and by `to_markdown`, `to_html`, `to_latex`, `to_json` and `picture`.
    """

    names: Names
    sizes: list[int]
    loss: str
    reduction: str
    dtype: str
    device: str
    learning_rate: float
    x: Any  # (N, inputs)
    y: Any  # the targets (N, outputs); class indices as one-hot rows
    layers: list[LayerTrace]
    before: Moment
    after: Moment
    input_grad: Any  # ∂C/∂x

    def __repr__(self) -> str:
        sizes = "-".join(map(str, self.sizes))
        return f"Trace({sizes}, {len(self.x)} samples, loss {self.before.loss:.6g} → {self.after.loss:.6g})"

    def weight(self, name: str) -> Chain:
        """How the chain rule leads to the gradient of this weight, or of this bias: factors, paths, and their sum."""
        return chain(self, self.names.find(name))

    def picture(self, path: str | PathLike[str], weight: str | None = None, sample: int = 0) -> None:
        """Draw the network into a .png or .svg file, or the paths of an error to one weight; needs matplotlib."""
        from gpubp.explain.picture import network_picture

        network_picture(self, path, weight, sample)

    def document(self, full: bool = False) -> Document:
        """The whole step to read; of wide layers a summary, unless it is to be `full`."""
        return story(self, full)

    def facts(self) -> dict[str, Any]:
        """All of it as plain lists and numbers."""
        layers = [{field.name: getattr(layer, field.name) for field in fields(layer)} for layer in self.layers]
        return {
            **{name: getattr(self, name) for name in ("sizes", "loss", "reduction", "dtype", "device")},
            **{"learning_rate": self.learning_rate, "x": self.x, "y": self.y, "layers": layers},
            **{"before": vars(self.before), "after": vars(self.after), "input_grad": self.input_grad},
        }


def trace(net: MLP, x: Any, y: Any, learning_rate: float) -> Trace:
    """One whole step of gradient descent W − η ∂C/∂W on the batch (x, y), explained; the network is left unchanged.

    x is (N, inputs) and y as `MLP.fit` takes it; dropout is off. Raises DataError and ShapeError as `MLP.backprop`
    does, and DataError for a learning rate that is not positive, or gradients that are not finite.

    >>> net = MLP([2, 2, 2], output="sigmoid", loss="squared_error", dtype="float64", seed=0)
    >>> step = trace(net, [[2.0, 3.0]], [[1.0, 0.2]], learning_rate=0.1)
    >>> step.after.loss < step.before.loss
    True
    >>> step.weight("w5").agrees
    True
    """
    rate = number("learning_rate", learning_rate, above=0)
    if not isinstance(net, MLP):
        raise DataError(f"net must be a gpubp.MLP, got {net!r:.80}; gpubp.load(path) makes one of a model file")
    moved = net.copy()
    with net._session() as network:
        inputs, targets, _ = net._sample(x, y, None, finite="x")
        before = network.trace(inputs, targets, None)
        found = slopes(network, passed(network, inputs))
        encoded = network.backend.host_copy(targets)
        if encoded.ndim == 1:
            encoded = np.equal.outer(encoded, np.arange(net.sizes[-1])).astype(net.dtype)
        masks, fused = network.structure.masks, type(network.layers[-1].activation) in network.loss.fused
    for name, arrays in (("weights", before.weight_grads), ("biases", before.bias_grads)):
        for layer, gradient in enumerate(arrays):
            if gradient is not None and not np.isfinite(gradient).all():
                raise DataError(
                    f"the gradient of {name}[{layer}] overflows {net.dtype} on this batch, whose loss is "
                    f"{before.loss:g}: there is no step to explain; scale x, or take smaller weights"
                )
    moved.apply_gradients(before.weight_grads, before.bias_grads, SGD(rate))
    with moved._session() as network:
        after = network.trace(inputs, targets, None)
    (weights, biases), (weights_after, biases_after) = net.get_parameters(), moved.get_parameters()
    layers = [
        LayerTrace(
            index=layer,
            activation=activation.name,
            x=before.activations[layer],
            z=before.zs[layer],
            y=before.activations[layer + 1],
            slope=found[layer],
            activation_grad=before.activation_grads[layer],
            delta=before.deltas[layer],
            weight=weights[layer],
            weight_grad=before.weight_grads[layer],
            weight_after=weights_after[layer],
            bias=biases[layer],
            bias_grad=before.bias_grads[layer],
            bias_after=biases_after[layer],
            mask=masks[layer],
            fused=fused and layer == len(weights) - 1,
        )
        for layer, activation in enumerate(net.activations)
    ]
    return Trace(
        names=Names(net),
        sizes=net.sizes,
        loss=net.loss.name,
        reduction=net.loss.reduction,
        dtype=net.dtype,
        device=net.device,
        learning_rate=rate,
        x=before.activations[0],
        y=encoded,
        layers=layers,
        before=Moment(before.loss, before.sample_losses, before.outputs),
        after=Moment(after.loss, after.sample_losses, after.outputs),
        input_grad=before.input_grad,
    )
