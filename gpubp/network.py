"""Network: the machine under an MLP.

Layers, parameters and buffers on one device, and the passes over device arrays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from gpubp.activations import bias_identity
from gpubp.alone import ALONE, Alone
from gpubp.backends import Backend
from gpubp.backends.arguments import HALF
from gpubp.buffers import Batch, Buffers
from gpubp.data.targets import Targets
from gpubp.kernel import Array
from gpubp.layers import Dense, Dropout, Fold, Parameters, cast
from gpubp.losses import weight_factor, weight_sum, weighted_sum
from gpubp.memory import Arena
from gpubp.optimizers import SGD, Optimizer, clip_by_norm
from gpubp.structure import Structure

Keys = Sequence[Any]  # of this step's dropout masks, one a layer; none where nothing is trained
CHUNK_BYTES = 64 << 20  # how much of activations a prediction over many rows holds at once


@dataclass
class Backprop:
    """Everything one backward pass knows, as NumPy arrays; layer l maps activations[l] to activations[l + 1].

    weight_grads[l] = activations[l]ᵀ deltas[l], and deltas[l] = activation_grads[l] · f'(zs[l]).
    """

    loss: float
    sample_losses: Any  # (N,), unweighted
    outputs: Any
    activations: list[Any]  # x first, outputs last
    zs: list[Any]
    deltas: list[Any]  # ∂C/∂z, already weighted and averaged
    activation_grads: list[Any]  # ∂C/∂activations[l + 1]
    weight_grads: list[Any]
    bias_grads: list[Any]  # None where a layer has no bias
    input_grad: Any


class Network:
    """Parameters, gradients and buffers of one structure on one backend. Not thread-safe: its owner holds a lock."""

    def __init__(self, structure: Structure, backend: Backend, seed: int) -> None:
        self.structure, self.backend, self.seed, self.dtype = structure, backend, seed, structure.dtype
        self.loss, self.targets = structure.loss, Targets(structure)
        self.arena = arena = Arena(backend, structure.sizes, structure.use_bias, structure.dtype)
        self.layers = [Dense(activation) for activation in structure.activations]
        self.dropouts = _dropouts(structure, seed)
        masks = [None if mask is None else backend.asarray(mask, structure.dtype) for mask in structure.masks]
        zeros = partial(backend.zeros, dtype=structure.dtype)
        self.parameters = [
            Parameters(weight, zeros(weight.shape[1:]) if bias is None else bias, weight_grad, bias_grad, mask)
            for weight, bias, weight_grad, bias_grad, mask in zip(
                arena.weights, arena.biases, arena.weight_grads, arena.bias_grads, masks, strict=True
            )
        ]
        self._rounded = backend.zeros(arena.parameters.shape, HALF) if backend.precision == "bfloat16" else None
        factors = self.parameters
        if self._rounded is not None:
            pairs = zip(self.parameters, arena.cut(self._rounded)[0], strict=True)
            factors = [replace(params, weight=weight) for params, weight in pairs]
        self.steps = self.epochs = 0  # taken so far: the keys of dropout masks and of shuffles
        self._buffers = Buffers(backend, structure, factors)
        self._owner: tuple[Any, Any] = None, None  # the optimizer of captured steps, and its state

    def draw(self) -> None:
        """Draw the weights from the seed; biases are 0."""
        for layer, params in enumerate(self.parameters):
            params.weight[...] = self.backend.asarray(self._drawn(layer), self.dtype)

    def _drawn(self, layer: int) -> Any:
        mask, shape = self.structure.masks[layer], self.parameters[layer].weight.shape
        drawn = self.structure.initializer_of(layer).draw(np.random.default_rng([self.seed, 0, layer]), *shape)
        return drawn if mask is None else drawn * mask

    def batch(self, rows: int, training: bool, first: int = 0) -> Batch:
        """The buffers for this many rows, as views kept from one call to the next; `first` as in Buffers."""
        return self._buffers.batch(rows, training, first)

    def reseed(self, seed: int) -> None:
        """Draw masks and shuffles from another seed from now on."""
        self.seed = seed
        self.dropouts = _dropouts(self.structure, seed)

    def traced_batch(self, rows: int) -> Batch:
        """New buffers in which nothing is overwritten."""
        return self._buffers.traced(rows, self.parameters)

    def factor(self, weights: Array | None, rows: int, batch: Batch) -> Array | float:
        """Each sample's factor in the cost: w / Σ w for a mean, w for a sum; one number where all weigh the same."""
        mean = self.loss.reduction == "mean"
        if weights is None:
            return 1 / rows if mean else 1.0
        if not mean:
            return weights
        self.backend.run(weight_sum, weights, batch.total)
        self.backend.run(weight_factor, weights, batch.total, batch.factors)
        return batch.factors

    def _hidden(self, x: Array, batch: Batch, keys: Keys = ()) -> Array:
        """The forward pass up to the output layer's input; the keys of dropout mean training."""
        if batch.x is not None and self._rounded is not None:
            end = self.arena.weights_end
            self.backend.run(cast, self.arena.parameters[:end], self._rounded[:end])
            if x is not batch.x:
                self.backend.run(cast, x, batch.x)
            x = batch.x
        for layer, (dense, params, slot) in enumerate(zip(self.layers, batch.parameters, batch.layers, strict=True)):
            dropout = self.dropouts[layer]
            if dropout and keys and slot.dropped is not None and slot.dropout_keys is not None:
                dropout.run(self.backend, slot.dropout_keys, x, keys[layer], slot.dropped)
                x = slot.dropped
            batch.inputs[layer] = x
            if layer < len(self.layers) - 1:
                x = dense.forward(self.backend, params, x, slot)
        return x

    def forward(self, x: Array, batch: Batch) -> Array:
        """The outputs, in the batch's own buffer."""
        self.play("forward", batch, self._forward, (x,))
        return batch.layers[-1].y

    def _forward(self, batch: Batch, x: Array) -> None:
        self.layers[-1].forward(self.backend, batch.parameters[-1], self._hidden(x, batch), batch.layers[-1])

    def play(self, kind: Any, batch: Batch, step: Callable[..., None], slots: tuple[Any, ...]) -> None:
        """step(batch, *slots), captured when this kind of it, with these settings, is first asked for."""
        kind = (kind, *self.settings())
        if kind not in batch.plays:
            if len(batch.plays) >= 16:  # a setting that changes with every step must not fill the memory
                batch.plays.clear()
            batch.plays[kind] = self.backend.capture(partial(step, batch), *slots)
        play = batch.plays[kind]
        if play:
            play(*slots)
        else:
            step(batch, *slots)

    def settings(self, optimizer: Optimizer | None = None) -> tuple[Any, ...]:
        """What of the loss, the activations and an optimizer is fixed in a captured step."""
        loss, stepping = self.loss, (optimizer.kernel, optimizer.weight_decay > 0) if optimizer else ()
        of_layers = [tuple(dense.activation.parameters) for dense in self.layers]
        return (*stepping, loss.reduction, tuple(loss.parameters), *of_layers)

    def forward_with_loss(self, x: Array, targets: Array, factor: Array | float, batch: Batch, keys: Keys = ()) -> None:
        """The forward pass, each sample's loss, and the output layer's delta.

        The last two come from one kernel where loss and activation belong together.
        """
        backend, dense, params, slot, loss = (
            self.backend,
            self.layers[-1],
            batch.parameters[-1],
            batch.layers[-1],
            self.loss,
        )
        if targets.ndim == 1:
            backend.one_hot(targets, batch.targets)
            targets = batch.targets
        x = self._hidden(x, batch, keys)
        fused = loss.fused.get(type(dense.activation))
        if fused is not None:
            backend.matmul(x, params.weight, slot.z)
            backend.run(fused, slot.z, params.bias, targets, factor, *loss.parameters, slot.y, slot.dz, batch.losses)
        else:
            dense.forward(backend, params, x, slot)
            backend.run(loss.kernel, slot.y, targets, factor, *loss.parameters, slot.dy, batch.losses)
            dense.delta(backend, slot)
        if batch.delta is not None:
            backend.run(cast, slot.dz, batch.delta)

    def cost(
        self, x: Array, targets: Array, weights: Array | None, batch: Batch, out: Array, keys: Keys = ()
    ) -> Array | float:
        """out ← C = Σ factor · ℓ, with the output layer's delta left in the batch; returns the samples' factors."""
        factor = self.factor(weights, len(x), batch)
        self.cost_by(factor, x, targets, batch, out, keys)
        return factor

    def cost_by(
        self, factor: Array | float, x: Array, targets: Array, batch: Batch, out: Array, keys: Keys = ()
    ) -> None:
        """out ← C = Σ factor · ℓ, with the output layer's delta left in the batch."""
        self.forward_with_loss(x, targets, factor, batch, keys)
        self.backend.beside(lambda: self.backend.run(weighted_sum, batch.losses, factor, out))

    def backward(
        self, batch: Batch, keys: Keys = (), input_grad: Array | None = None, folds: Sequence[Fold] = ()
    ) -> None:
        """From the output layer's delta down to all gradients, in the arena or added to what they are folded into."""
        backend, reading = self.backend, None
        for layer in range(len(self.layers) - 1, -1, -1):
            dense, params, slot, dropout = (
                self.layers[layer],
                batch.parameters[layer],
                batch.layers[layer],
                self.dropouts[layer],
            )
            dz = slot.dz
            if layer < len(self.layers) - 1:
                dense.delta(backend, slot, params.bias_grad)
            elif params.bias_grad is not None:  # the delta is there already
                backend.beside(partial(backend.column_sum, slot.dz, params.bias_grad))
            if layer == len(self.layers) - 1 and batch.delta is not None:
                dz = batch.delta
            dx = batch.layers[layer - 1].dy if layer else input_grad
            fold = folds[layer] if folds else None
            reading = dense.backward(backend, params, batch.inputs[layer], dz, dx, fold, reading)
            if dropout and keys and dx is not None and slot.dropout_keys is not None:
                dropout.run(backend, slot.dropout_keys, dx, keys[layer], dx)
        backend.wait(reading)  # and with it for all that was begun beside, each after the other

    def update(
        self,
        x: Array,
        targets: Array,
        weights: Array | None,
        optimizer: Optimizer,
        cost: Array,
        learning_rate: float | None = None,
        clip_norm: float | None = None,
        total_weight: Array | None = None,
    ) -> Batch:
        """One training step on device arrays; writes the batch's cost, and Σ w where asked, into 0-d arrays.

        The buffers that it was computed in come back.
        """
        batch = self.batch(len(x), True)
        folding = self.folding(x, optimizer, clip_norm)
        keys, numbers = self.next_numbers(optimizer, folding, learning_rate)
        given = (weights, total_weight, clip_norm)
        stepping = (optimizer.kernel, optimizer.weight_decay > 0, folding is None)
        kind = (targets.ndim, *stepping, weights is None, total_weight is None, clip_norm is None)
        whole = partial(self.step, optimizer, folding, len(keys))
        self.play(kind, batch, whole, (x, targets, cost, *given, *keys, *numbers))
        return batch

    def next_numbers(
        self, optimizer: Optimizer, folding: SGD | None, learning_rate: float | None
    ) -> tuple[Keys, tuple[float, ...]]:
        """The keys of the next step's masks and the optimizer's numbers, which begins that step."""
        step, self.steps = self.steps, self.steps + 1
        keys = [dropout and dropout.key(step) for dropout in self.dropouts] if any(self.dropouts) else ()
        numbers = optimizer.begin(self.backend, self.arena, learning_rate)
        if optimizer is not self._owner[0] or optimizer.state is not self._owner[1]:
            self._forget_steps_of_others(optimizer)
        return keys, folding.folded(numbers) if folding else numbers

    def folding(self, x: Array, optimizer: Optimizer, clip_norm: float | None) -> SGD | None:
        """The optimizer, where its step can be taken in the very products that are the weights' gradients."""
        whole = clip_norm is None and not any(params.mask is not None for params in self.parameters)
        if not isinstance(optimizer, SGD) or not optimizer.folds or not whole:
            return None
        if optimizer.momentum and not self.backend.folds_momentum:
            return None
        return optimizer if self.backend.can_accumulate(x, self.arena.parameters) else None

    def _forget_steps_of_others(self, optimizer: Optimizer) -> None:
        """Captured steps hold on to the memory of their optimizer's state."""
        self._owner = optimizer, optimizer.state
        self._buffers.forget_plays()

    def step(
        self,
        optimizer: Optimizer,
        folding: SGD | None,
        layers: int,
        batch: Batch,
        x: Array,
        targets: Array,
        cost: Array,
        weights: Array | None,
        total_weight: Array | None,
        clip_norm: float | None,
        *rest: Any,
    ) -> None:
        """All gradients of one batch, clipped, and the optimizer's step along them.

        The rest are the keys of this many layers' masks and the optimizer's numbers.
        """
        keys, rest = rest[:layers], rest[layers:]
        self.cost(x, targets, weights, batch, cost, keys)
        if total_weight is not None:
            self.backend.run(weight_sum, weights, total_weight)
        if folding:
            alpha, beta, *numbers = rest
            self.backward(batch, keys, folds=[(alpha, beta, into) for into in folding.folded_into(self.arena)])
            folding.finish(self.backend, self.arena, *numbers)
        else:
            self.backward(batch, keys)
            if clip_norm is not None:
                clip_by_norm(self.backend, self.arena, clip_norm)
            optimizer.step(self.backend, self.arena, *rest)
        batch.inputs[0] = None  # it is the caller's

    def not_finite(self, cost: Array, batch: Batch | None) -> tuple[int, str] | None:
        """What an update left that is not finite: the first in the order in which it was computed, and its place there.

        `batch` is what the update was computed in; None where this process had none of its rows. Waits for the device.
        """

        def bad(a: Array) -> bool:
            if a.dtype == HALF:
                wide = self.backend.empty(a.shape, self.dtype)
                self.backend.run(cast, a, wide)
                a = wide
            return not bool(self.backend.xp.isfinite(a).all())

        names = [
            f"layer {layer} of {len(self.layers)} ({dense.activation.name})"
            for layer, dense in enumerate(self.layers, 1)
        ]
        outputs = [[slot.y] for slot in batch.layers] if batch else [[] for _ in names]
        computed = [
            *((f"the outputs of {name} are not finite", arrays) for name, arrays in zip(names, outputs, strict=True)),
            (f"the loss ({self.loss.name}) is not finite", [cost]),
            *(
                (f"the gradient step made the parameters of {name} not finite", [params.weight, params.bias])
                for name, params in zip(names, self.parameters, strict=True)
            ),
        ]
        return next(((place, told) for place, (told, arrays) in enumerate(computed) if any(map(bad, arrays))), None)

    def trace(self, x: Array, targets: Array, weights: Array | None) -> Backprop:
        """One pass forward and back that keeps everything, in buffers of its own; dropout off."""
        backend, batch = self.backend, self.traced_batch(len(x))
        cost, input_grad = backend.empty((), self.dtype), backend.empty(x.shape, self.dtype)
        factor = self.cost(x, targets, weights, batch, cost)
        self.backward(batch, input_grad=input_grad)
        top, loss = batch.layers[-1], self.loss
        if type(self.layers[-1].activation) in loss.fused:  # the fused kernel skips ∂C/∂y of the output
            unused = backend.empty(batch.losses.shape, self.dtype)
            targets = batch.targets if targets.ndim == 1 else targets
            backend.run(loss.kernel, top.y, targets, factor, *loss.parameters, top.dy, unused)
        for dense, params, slot in zip(self.layers, self.parameters, batch.layers, strict=True):
            if dense.activation.saves == "y":  # z is still the product without its bias
                backend.run(bias_identity, slot.z, params.bias, slot.z)
        host = backend.host_copy
        return Backprop(
            loss=float(backend.to_numpy(cost)),
            sample_losses=host(batch.losses).reshape(-1),
            outputs=host(top.y),
            activations=[host(x), *(host(slot.y) for slot in batch.layers)],
            zs=[host(slot.z) for slot in batch.layers],
            deltas=[host(slot.dz) for slot in batch.layers],
            activation_grads=[host(slot.dy) for slot in batch.layers],
            weight_grads=[host(grad) for grad in self.arena.weight_grads],
            bias_grads=[host(grad) for grad in self.arena.bias_grads],
            input_grad=host(input_grad),
        )

    def chunks(self, rows: int, batch_size: int | None = None) -> list[slice]:
        step = batch_size or max(1, CHUNK_BYTES // (8 * sum(self.structure.sizes)))
        return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]

    def outputs(self, x: Array, batch_size: int | None = None) -> Array:
        outputs = self.backend.empty((len(x), self.structure.sizes[-1]), self.dtype)
        for rows in self.chunks(len(x), batch_size):
            self.backend.copy(self.forward(x[rows], self.batch(rows.stop - rows.start, False)), outputs[rows])
        return outputs

    def score(
        self,
        x: Array,
        targets: Array,
        weights: Array | None,
        table: dict[str, Callable[..., float]],
        processes: Alone = ALONE,
    ) -> dict[str, float]:
        """Loss and metrics of device arrays, dropout off; each process computes the outputs of its part of the rows."""
        backend, own = self.backend, processes.part(len(x))
        outputs = backend.empty((own.stop - own.start, self.structure.sizes[-1]), self.dtype)
        losses = backend.empty((own.stop - own.start, 1), self.dtype)
        for rows in self.chunks(len(outputs)):
            batch, there = (
                self.batch(rows.stop - rows.start, False),
                slice(own.start + rows.start, own.start + rows.stop),
            )
            self.forward_with_loss(x[there], targets[there], 1.0, batch)
            backend.copy(batch.layers[-1].y, outputs[rows])
            backend.copy(batch.losses, losses[rows])

        def host(a: Array) -> Any:
            a = backend.to_numpy(a)
            return a if a.dtype == np.int64 else a.astype(np.float64)

        t, (o, sample_losses) = host(targets), (processes.rows_of_all(host(a), len(x)) for a in (outputs, losses))
        sample_losses = sample_losses[:, 0]
        w = None if weights is None else host(weights)[:, 0]
        total = sample_losses.sum() if w is None else w @ sample_losses
        if self.loss.reduction == "mean":
            total /= max(len(x) if w is None else w.sum(), np.finfo(np.float64).tiny)
        return {"loss": float(total), **{name: metric(t, o, w) for name, metric in table.items()}}


def _dropouts(structure: Structure, seed: int) -> list[Dropout | None]:
    return [Dropout(rate, seed, layer) if rate else None for layer, rate in enumerate(structure.dropout)]
