"""Losses: for each sample the loss ℓ summed over its outputs, and ∂C/∂o, already weighted and averaged.

The cost is C = Σ wᵢ ℓᵢ / Σ wᵢ (reduction "mean") or Σ wᵢ ℓᵢ ("sum"). A kernel is given each row's factor w, which is
wᵢ / Σ wᵢ or wᵢ, and writes the unweighted ℓᵢ and the weighted derivative. A loss and the output activation that belongs
to it share a fused kernel, which goes from the logits straight to ∂C/∂z and stays finite where the chain of the two
would not.
"""

from math import inf
from typing import Any, ClassVar, Literal

from gpubp.activations import Activation, Exp, FastSigmoid, Sigmoid, Softmax
from gpubp.checks import number
from gpubp.errors import DataError
from gpubp.kernel import Array, Kernel, elementwise, reduction, rowwise
from gpubp.registry import Component

SOURCE = "losses.cuh"
Reduction = Literal["mean", "sum"]


class Loss(Component):
    """ℓ(o, t) of outputs o and targets t.

    A new loss is one kernel and one class; its constructor's other arguments reach the kernels as `parameters`, before
    the outputs.
    """

    kernel: ClassVar[Kernel]  # "o[], t[], w -> do[], loss"
    fused: ClassVar[dict[type[Activation], Kernel]] = {}  # "z[], b[], t[], w -> y[], dz[], loss" by output activation
    needs: ClassVar[type[Activation] | None] = None  # the only output activation it makes sense with
    analytic: ClassVar[bool] = False  # in o, between its kinks, and its bodies are complex-safe
    kinks: tuple[float, ...] = ()  # the o − t at which ∂ℓ/∂o jumps: gradients are not checked there
    outputs: ClassVar[tuple[float, float]] = (-inf, inf)  # where ℓ is defined
    targets: ClassVar[tuple[float, float]] = (-inf, inf)

    def __init__(self, reduction: Reduction = "mean") -> None:
        if reduction not in ("mean", "sum"):
            raise DataError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
        self.reduction = reduction

    @property
    def parameters(self) -> tuple[float, ...]:
        return ()

    @classmethod
    def check_declaration(cls) -> None:
        kernel = getattr(cls, "kernel", None)
        if not isinstance(kernel, Kernel) or kernel.reads[:3] != ("o", "t", "w") or kernel.writes != ("do", "loss"):
            raise DataError(f'{cls.__name__}.kernel must be a kernel declared "o[], t[], w -> do[], loss"')
        try:
            parameters = cls().parameters
        except TypeError:  # its constructor needs arguments, which only its user knows
            return
        o, t = [[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]], [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
        kernel.rehearse(o, t, 0.5, *parameters)

    def check_output(self, activation: Activation) -> None:
        """Refuse an output activation that this loss cannot follow, with the remedy."""
        if self.needs and not isinstance(activation, self.needs):
            raise DataError(
                f"loss={self.name!r} needs output={self.needs.name!r}, got output={activation.name!r}; "
                f"change the output, or use binary_cross_entropy for independent sigmoid outputs"
            )
        (low, high), (least, most) = activation.range, self.outputs
        if low < least or high > most:
            raise DataError(
                f"loss={self.name!r} is defined for outputs in ({least:g}, {most:g}), "
                f"but output={activation.name!r} gives ({low:g}, {high:g}); "
                f"choose an output activation with that range, such as {'sigmoid' if most == 1 else 'exp'}"
            )


@reduction("loss, w -> total", source=SOURCE, scratch=1)
def weighted_sum(xp: Any, loss: Array, w: Array, total: Array, s: Array) -> None:
    """total = Σ wᵢ ℓᵢ."""
    xp.multiply(loss, w, out=s)
    s.sum(out=total)


@reduction("w -> total", source=SOURCE)
def weight_sum(xp: Any, w: Array, total: Array) -> None:
    w.sum(out=total)


@elementwise("w, total -> factor", source=SOURCE)
def weight_factor(xp: Any, w: Array, total: Array, factor: Array) -> None:
    """w / Σ w, and 0 where all weights are 0."""
    xp.divide(w, xp.maximum(total, xp.finfo(w.dtype).tiny), out=factor)


@rowwise("o[], t[], w, factor -> do[], loss", source=SOURCE, scratch=1)
def squared_error(xp: Any, o: Array, t: Array, w: Array, factor: float, do: Array, loss: Array, s: Array) -> None:
    xp.subtract(o, t, out=do)
    xp.multiply(do, do, out=s)
    s.sum(axis=1, keepdims=True, out=loss)
    xp.multiply(loss, factor, out=loss)
    xp.multiply(do, w, out=do)
    xp.multiply(do, 2 * factor, out=do)


class SquaredError(Loss):
    """ℓ = Σ (o − t)², or half of that; with half=True and an identity output the delta is o − t."""

    kernel, analytic = squared_error, True

    def __init__(self, half: bool = False, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        self.half = half

    @property
    def parameters(self) -> tuple[float, ...]:
        return (0.5 if self.half else 1.0,)


@rowwise("o[], t[], w -> do[], loss", source=SOURCE, scratch=1)
def absolute_error(xp: Any, o: Array, t: Array, w: Array, do: Array, loss: Array, s: Array) -> None:
    xp.subtract(o, t, out=do)
    xp.negative(do, out=s)
    xp.maximum(do, s, out=s)
    s.sum(axis=1, keepdims=True, out=loss)
    xp.sign(do, out=do)
    xp.multiply(do, w, out=do)


class AbsoluteError(Loss):
    """ℓ = Σ |o − t|; its derivative at o = t is 0."""

    kernel, analytic, kinks = absolute_error, True, (0.0,)


@rowwise("o[], t[], w, delta -> do[], loss", source=SOURCE, scratch=2)
def huber(xp: Any, o: Array, t: Array, w: Array, delta: float, do: Array, loss: Array, e: Array, s: Array) -> None:
    xp.subtract(o, t, out=e)
    xp.maximum(e, -delta, out=do)
    xp.minimum(do, delta, out=do)  # the error, clipped: ∂ℓ/∂o
    xp.multiply(do, 0.5, out=s)
    xp.subtract(e, s, out=s)
    xp.multiply(s, do, out=s)
    s.sum(axis=1, keepdims=True, out=loss)
    xp.multiply(do, w, out=do)


class Huber(Loss):
    """ℓ = Σ ½ e² where |e| ≤ δ, else δ (|e| − ½ δ), with e = o − t; Huber 1964."""

    kernel, analytic = huber, True

    def __init__(self, delta: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        self.delta = number("delta", delta, above=0)

    @property
    def parameters(self) -> tuple[float, ...]:
        return (self.delta,)


@rowwise("o[], t[], w, q -> do[], loss", source=SOURCE, scratch=2)
def quantile(xp: Any, o: Array, t: Array, w: Array, q: float, do: Array, loss: Array, e: Array, s: Array) -> None:
    xp.subtract(o, t, out=e)
    xp.sign(e, out=do)
    xp.multiply(do, do, out=s)
    xp.multiply(s, 1 - 2 * q, out=s)
    xp.add(do, s, out=do)
    xp.multiply(do, 0.5, out=do)  # 1 − q above the target, −q below it, 0 on it
    xp.multiply(e, 1 - q, out=s)
    xp.multiply(e, -q, out=e)
    xp.maximum(e, s, out=e)
    e.sum(axis=1, keepdims=True, out=loss)
    xp.multiply(do, w, out=do)


class Quantile(Loss):
    """ℓ = Σ q (t − o) where o < t, else (1 − q)(o − t): its minimum is the q-quantile; Koenker and Bassett 1978."""

    kernel, analytic, kinks = quantile, True, (0.0,)

    def __init__(self, q: float = 0.5, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        self.q = number("q", q, above=0, below=1)

    @property
    def parameters(self) -> tuple[float, ...]:
        return (self.q,)


@rowwise("o[], t[], w -> do[], loss", source=SOURCE, scratch=1)
def poisson(xp: Any, o: Array, t: Array, w: Array, do: Array, loss: Array, s: Array) -> None:
    xp.maximum(o, xp.finfo(o.dtype).tiny, out=do)  # an output that underflowed to 0 still has a finite loss
    xp.log(do, out=s)
    xp.multiply(s, t, out=s)
    xp.subtract(o, s, out=s)
    s.sum(axis=1, keepdims=True, out=loss)
    xp.divide(t, do, out=do)
    xp.subtract(1, do, out=do)
    xp.multiply(do, w, out=do)


@rowwise("z[], b[], t[], w -> y[], dz[], loss", source=SOURCE, scratch=1)
def exp_poisson(xp: Any, z: Array, b: Array, t: Array, w: Array, y: Array, dz: Array, loss: Array, s: Array) -> None:
    """y = eᶻ, ℓ = Σ y − t z, ∂C/∂z = w (y − t)."""
    xp.add(z, b, out=y)
    xp.multiply(y, t, out=s)
    xp.exp(y, out=y)
    xp.subtract(y, s, out=s)
    s.sum(axis=1, keepdims=True, out=loss)
    xp.subtract(y, t, out=dz)
    xp.multiply(dz, w, out=dz)


class Poisson(Loss):
    """ℓ = Σ o − t log o, for counts t ≥ 0 and rates o > 0."""

    kernel, fused, analytic = poisson, {Exp: exp_poisson}, True
    outputs, targets = (0.0, inf), (0.0, inf)


@rowwise("o[], t[], w -> do[], loss", source=SOURCE, scratch=3)
def binary_cross_entropy(
    xp: Any, o: Array, t: Array, w: Array, do: Array, loss: Array, p: Array, q: Array, u: Array
) -> None:
    tiny = xp.finfo(o.dtype).tiny  # an output that rounded to 0 or 1 still has a finite loss
    xp.maximum(o, tiny, out=p)
    xp.subtract(1, o, out=q)
    xp.maximum(q, tiny, out=q)
    xp.subtract(1, t, out=u)
    xp.divide(u, q, out=u)
    xp.divide(t, p, out=do)
    xp.subtract(u, do, out=do)  # (1 − t) / (1 − o) − t / o
    xp.multiply(do, w, out=do)
    xp.log(p, out=p)
    xp.multiply(p, t, out=p)
    xp.log(q, out=q)
    xp.subtract(1, t, out=u)
    xp.multiply(q, u, out=q)
    xp.add(p, q, out=p)
    xp.negative(p, out=p)
    p.sum(axis=1, keepdims=True, out=loss)


@rowwise("z[], b[], t[], w -> y[], dz[], loss", source=SOURCE, scratch=1)
def sigmoid_cross_entropy(
    xp: Any, z: Array, b: Array, t: Array, w: Array, y: Array, dz: Array, loss: Array, s: Array
) -> None:
    """y = σ(z), ℓ = Σ max(z, 0) − z t + log(1 + e^−|z|), ∂C/∂z = w (y − t)."""
    xp.add(z, b, out=y)
    xp.multiply(y, t, out=dz)
    xp.maximum(y, 0, out=s)
    xp.subtract(s, dz, out=dz)
    xp.multiply(s, -2, out=s)
    xp.add(s, y, out=s)  # −|z|
    xp.exp(s, out=s)
    xp.log1p(s, out=s)
    xp.add(dz, s, out=dz)
    dz.sum(axis=1, keepdims=True, out=loss)
    xp.negative(y, out=y)
    xp.exp(y, out=y)
    xp.add(y, 1, out=y)
    xp.divide(1, y, out=y)
    xp.subtract(y, t, out=dz)
    xp.multiply(dz, w, out=dz)


class BinaryCrossEntropy(Loss):
    """ℓ = −Σ t log o + (1 − t) log(1 − o), for targets and outputs between 0 and 1; also called log loss."""

    kernel, analytic = binary_cross_entropy, True
    fused: ClassVar[dict[type[Activation], Kernel]] = {
        Sigmoid: sigmoid_cross_entropy,
        FastSigmoid: sigmoid_cross_entropy,
    }
    outputs, targets = (0.0, 1.0), (0.0, 1.0)


@rowwise("o[], t[], w -> do[], loss", source=SOURCE, scratch=1)
def cross_entropy(xp: Any, o: Array, t: Array, w: Array, do: Array, loss: Array, s: Array) -> None:
    xp.maximum(o, xp.finfo(o.dtype).tiny, out=do)
    xp.log(do, out=s)
    xp.multiply(s, t, out=s)
    xp.negative(s, out=s)
    s.sum(axis=1, keepdims=True, out=loss)
    xp.divide(t, do, out=do)
    xp.negative(do, out=do)
    xp.multiply(do, w, out=do)


@rowwise("z[], b[], t[], w -> y[], dz[], loss", source=SOURCE, scratch=2)
def softmax_cross_entropy(
    xp: Any, z: Array, b: Array, t: Array, w: Array, y: Array, dz: Array, loss: Array, s: Array, r: Array
) -> None:
    """y = softmax(z), ℓ = log Σ eᶻ − Σ t z, ∂C/∂z = w (y − t); the rows of t sum to 1."""
    # Transposed, because NumPy sums 10 long rows much faster than 4096 short ones: 93 µs for 504 at 4096 x 10.
    rows, classes = z.shape
    shifted, scratch, row = s.reshape(classes, rows), r.reshape(classes, rows), loss.reshape(rows)
    total = scratch[0]
    xp.add(z.T, b[:, None], out=shifted)
    shifted.real.max(axis=0, out=row)
    xp.subtract(shifted, row, out=shifted)
    xp.multiply(shifted, t.T, out=scratch)
    scratch.sum(axis=0, out=row)
    xp.exp(shifted, out=shifted)
    shifted.sum(axis=0, out=total)
    xp.divide(shifted, total, out=shifted)
    xp.log(total, out=total)
    xp.subtract(total, row, out=row)
    y[...] = shifted.T
    xp.subtract(y, t, out=dz)
    xp.multiply(dz, w, out=dz)


class CrossEntropy(Loss):
    """ℓ = −Σ t log o, of a softmax's outputs and class indices or rows of probabilities."""

    kernel, fused, needs, analytic = cross_entropy, {Softmax: softmax_cross_entropy}, Softmax, True
    outputs, targets = (0.0, 1.0), (0.0, 1.0)


# What loss=None picks, by output activation; any other output gets squared_error.
DEFAULTS: dict[str, type[Loss]] = {
    "softmax": CrossEntropy,
    "sigmoid": BinaryCrossEntropy,
    "fast_sigmoid": BinaryCrossEntropy,
}
