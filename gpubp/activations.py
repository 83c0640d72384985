"""Activations: the function with the bias added before it, and the kernel that turns ∂C/∂y into the delta ∂C/∂z.

Those whose derivative can be taken from the output y save nothing else; the others save z. A new activation is two
kernels and one class. At a kink, where f' jumps, the derivative is the left one.
"""

from math import inf, pi, sqrt
from typing import Any, ClassVar, Literal

from gpubp.checks import number
from gpubp.errors import DataError
from gpubp.kernel import Array, Kernel, elementwise, rowwise
from gpubp.registry import Component

SOURCE = "activations.cuh"
# Klambauer et al. 2017, "Self-Normalizing Neural Networks"
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848, 1.0507009873554804934
GELU_SLOPE, GELU_CUBIC = sqrt(2 / pi), 0.044715  # Hendrycks and Gimpel 2016, "Gaussian Error Linear Units"


class Activation(Component):
    """y = f(z) with z = x W + b, and ∂C/∂z = ∂C/∂y · f'(z).

    A subclass states, as class attributes, the kernels and the facts about f; see `Sigmoid` for one that saves its
    output and `GELU` for one that saves z. Its constructor's arguments, if any, are listed in `parameters` and reach
    both kernels before the outputs.
    """

    forward: ClassVar[Kernel]  # "z, b -> y", or "z, b -> z, y" where z (with its bias) is what is saved
    delta: ClassVar[Kernel | None]  # "dy, y -> dz" or "dy, z -> dz"; None where f' = 1
    saves: ClassVar[Literal["y", "z"]] = "y"
    analytic: ClassVar[bool] = False  # between its kinks, with complex-safe bodies: gradients checked by complex step
    kinks: tuple[float, ...] = ()  # the z at which f' jumps: gradients are not checked there
    initializer: ClassVar[str] = "xavier_uniform"
    range: ClassVar[tuple[float, float]] = (-inf, inf)  # an open interval that f stays inside; a loss asks for it

    @property
    def parameters(self) -> tuple[float, ...]:
        return ()

    @classmethod
    def check_declaration(cls) -> None:
        forward, delta = getattr(cls, "forward", None), getattr(cls, "delta", "missing")
        written = ("y",) if cls.saves == "y" else ("z", "y")
        if not isinstance(forward, Kernel) or forward.reads[:2] != ("z", "b") or forward.writes != written:
            wanted = ", ".join(written)
            raise DataError(
                f'{cls.__name__}.forward must be a kernel declared "z, b -> {wanted}" for saves = {cls.saves!r}; '
                'one that saves z is declared "z, b -> z, y" and says saves = "z"'
            )
        if delta is not None and (not isinstance(delta, Kernel) or delta.reads[:2] != ("dy", cls.saves)):
            raise DataError(
                f'{cls.__name__}.delta must be a kernel declared "dy, {cls.saves} -> dz" for saves = {cls.saves!r}, '
                "or None where the derivative is 1"
            )
        try:
            parameters = cls().parameters
        except TypeError:  # its constructor needs arguments, which only its user knows
            return
        z, b = [[-1.5, -0.25, 0.5], [0.75, 1.25, 2.0]], [0.1, 0.2, 0.3]
        forward.rehearse(z, b, *parameters)
        if delta is not None:
            delta.rehearse(z, z, *parameters)


@elementwise("z, b -> y", source=SOURCE)
def bias_identity(xp: Any, z: Array, b: Array, y: Array) -> None:
    xp.add(z, b, out=y)


class Identity(Activation):
    """f(z) = z."""

    forward, delta, analytic = bias_identity, None, True


@elementwise("z, b -> y", source=SOURCE)
def bias_sigmoid(xp: Any, z: Array, b: Array, y: Array) -> None:
    xp.add(z, b, out=y)
    xp.negative(y, out=y)
    xp.exp(y, out=y)  # overflows to inf, and 1 / inf is the right 0
    xp.add(y, 1, out=y)
    xp.divide(1, y, out=y)


@elementwise("dy, y -> dz", source=SOURCE, scratch=1)
def sigmoid_delta(xp: Any, dy: Array, y: Array, dz: Array, s: Array) -> None:
    xp.subtract(1, y, out=s)
    xp.multiply(s, y, out=s)
    xp.multiply(dy, s, out=dz)


class Sigmoid(Activation):
    """f(z) = 1 / (1 + e⁻ᶻ), f' = y (1 − y)."""

    forward, delta, analytic, range = bias_sigmoid, sigmoid_delta, True, (0.0, 1.0)


@elementwise("z, b -> y", source=SOURCE)
def bias_fast_sigmoid(xp: Any, z: Array, b: Array, y: Array) -> None:
    bias_sigmoid.body(xp, z, b, y)


class FastSigmoid(Sigmoid):
    """The sigmoid by the hardware's exp where float32 runs on CUDA: less exact, and with bits of that device's own."""

    forward = bias_fast_sigmoid


@elementwise("z, b -> y", source=SOURCE)
def bias_tanh(xp: Any, z: Array, b: Array, y: Array) -> None:
    xp.add(z, b, out=y)
    xp.tanh(y, out=y)


@elementwise("dy, y -> dz", source=SOURCE, scratch=1)
def tanh_delta(xp: Any, dy: Array, y: Array, dz: Array, s: Array) -> None:
    xp.multiply(y, y, out=s)
    xp.subtract(1, s, out=s)
    xp.multiply(dy, s, out=dz)


class Tanh(Activation):
    """f(z) = tanh z, f' = 1 − y²."""

    forward, delta, analytic, range = bias_tanh, tanh_delta, True, (-1.0, 1.0)


@elementwise("z, b -> y", source=SOURCE)
def bias_relu(xp: Any, z: Array, b: Array, y: Array) -> None:
    xp.add(z, b, out=y)
    xp.maximum(y, 0, out=y)


@elementwise("dy, y -> dz", source=SOURCE, scratch=1)
def relu_delta(xp: Any, dy: Array, y: Array, dz: Array, s: Array) -> None:
    xp.sign(y, out=s)  # y ≥ 0, so the sign is the derivative
    xp.multiply(dy, s, out=dz)


class ReLU(Activation):
    """f(z) = max(z, 0), f' = 1 for z > 0, else 0."""

    name = "relu"
    forward, delta, analytic, kinks, initializer = bias_relu, relu_delta, True, (0.0,), "he_uniform"


@elementwise("z, b, slope -> y", source=SOURCE, scratch=1)
def bias_leaky_relu(xp: Any, z: Array, b: Array, slope: float, y: Array, s: Array) -> None:
    xp.add(z, b, out=y)
    xp.minimum(y, 0, out=s)
    xp.multiply(s, slope, out=s)
    xp.maximum(y, 0, out=y)
    xp.add(y, s, out=y)


@elementwise("dy, y, slope -> dz", source=SOURCE, scratch=1)
def leaky_relu_delta(xp: Any, dy: Array, y: Array, slope: float, dz: Array, s: Array) -> None:
    xp.sign(y, out=s)
    xp.maximum(s, 0, out=s)
    xp.multiply(s, 1 - slope, out=s)
    xp.add(s, slope, out=s)
    xp.multiply(dy, s, out=dz)


class LeakyReLU(Activation):
    """f(z) = z for z > 0, else slope · z."""

    name = "leaky_relu"
    forward, delta, analytic, kinks, initializer = bias_leaky_relu, leaky_relu_delta, True, (0.0,), "he_uniform"

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = number("slope", slope, above=0, below=1)

    @property
    def parameters(self) -> tuple[float, ...]:
        return (self.slope,)


@elementwise("z, b, scale, alpha -> y", source=SOURCE, scratch=1)
def bias_elu(xp: Any, z: Array, b: Array, scale: float, alpha: float, y: Array, s: Array) -> None:
    xp.add(z, b, out=y)
    xp.minimum(y, 0, out=s)
    xp.expm1(s, out=s)
    xp.multiply(s, alpha, out=s)
    xp.maximum(y, 0, out=y)
    xp.add(y, s, out=y)
    xp.multiply(y, scale, out=y)


@elementwise("dy, y, scale, alpha -> dz", source=SOURCE, scratch=2)
def elu_delta(xp: Any, dy: Array, y: Array, scale: float, alpha: float, dz: Array, s: Array, positive: Array) -> None:
    xp.minimum(y, 0, out=s)  # for z ≤ 0, f' = y + scale · alpha
    xp.add(s, scale * alpha, out=s)
    xp.sign(y, out=positive)
    xp.maximum(positive, 0, out=positive)
    xp.multiply(positive, scale - scale * alpha, out=positive)  # for z > 0, f' = scale
    xp.add(s, positive, out=s)
    xp.multiply(dy, s, out=dz)


class ELU(Activation):
    """f(z) = z for z > 0, else α (eᶻ − 1); Clevert et al. 2015."""

    forward, delta, analytic, initializer = bias_elu, elu_delta, True, "he_uniform"

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = number("alpha", alpha, above=0)
        self.kinks = () if self.alpha == 1 else (0.0,)

    @property
    def parameters(self) -> tuple[float, ...]:
        return (1.0, self.alpha)


class SELU(Activation):
    """f(z) = λ z for z > 0, else λ α (eᶻ − 1), where λ and α keep mean 0 and variance 1; Klambauer et al. 2017."""

    forward, delta, analytic, kinks, initializer = bias_elu, elu_delta, True, (0.0,), "lecun_normal"

    @property
    def parameters(self) -> tuple[float, ...]:
        return (SELU_SCALE, SELU_ALPHA)


@elementwise("z, b -> y", source=SOURCE, scratch=1)
def bias_softplus(xp: Any, z: Array, b: Array, y: Array, s: Array) -> None:
    xp.add(z, b, out=y)
    xp.minimum(y, 0, out=s)
    xp.maximum(y, 0, out=y)
    xp.subtract(s, y, out=s)  # −|z|, so that exp cannot overflow
    xp.exp(s, out=s)
    xp.log1p(s, out=s)
    xp.add(y, s, out=y)


@elementwise("dy, y -> dz", source=SOURCE, scratch=1)
def softplus_delta(xp: Any, dy: Array, y: Array, dz: Array, s: Array) -> None:
    xp.negative(y, out=s)
    xp.expm1(s, out=s)
    xp.negative(s, out=s)  # σ(z) = 1 − e⁻ʸ
    xp.multiply(dy, s, out=dz)


class Softplus(Activation):
    """f(z) = log(1 + eᶻ), f' = σ(z) = 1 − e⁻ʸ."""

    forward, delta, analytic, initializer, range = bias_softplus, softplus_delta, True, "he_uniform", (0.0, inf)


@elementwise("z, b -> z, y", source=SOURCE)
def bias_silu(xp: Any, z: Array, b: Array, y: Array) -> None:
    xp.add(z, b, out=z)
    xp.negative(z, out=y)
    xp.exp(y, out=y)
    xp.add(y, 1, out=y)
    xp.divide(z, y, out=y)


@elementwise("dy, z -> dz", source=SOURCE, scratch=2)
def silu_delta(xp: Any, dy: Array, z: Array, dz: Array, sigmoid: Array, s: Array) -> None:
    xp.negative(z, out=sigmoid)
    xp.exp(sigmoid, out=sigmoid)
    xp.add(sigmoid, 1, out=sigmoid)
    xp.divide(1, sigmoid, out=sigmoid)
    xp.subtract(1, sigmoid, out=s)
    xp.multiply(s, z, out=s)
    xp.add(s, 1, out=s)
    xp.multiply(s, sigmoid, out=s)  # f' = σ (1 + z (1 − σ))
    xp.multiply(dy, s, out=dz)


class SiLU(Activation):
    """f(z) = z σ(z), f' = σ (1 + z (1 − σ)); Elfwing et al. 2017, also called swish."""

    name = "silu"
    forward, delta, saves, analytic, initializer = bias_silu, silu_delta, "z", True, "he_uniform"


def _gelu_gate(xp: Any, z: Array, out: Array) -> None:
    """out ← ½ (1 + tanh u) = σ(2u), where u = √(2/π) (z + 0.044715 z³); by tanh it would be 0 below z = −7."""
    xp.multiply(z, z, out=out)
    xp.multiply(out, -2 * GELU_SLOPE * GELU_CUBIC, out=out)
    xp.add(out, -2 * GELU_SLOPE, out=out)
    xp.multiply(out, z, out=out)
    xp.minimum(out, 710, out=out)  # from here on exp gives inf, and of a complex number NaN
    xp.exp(out, out=out)
    xp.add(out, 1, out=out)
    xp.divide(1, out, out=out)


@elementwise("z, b -> z, y", source=SOURCE)
def bias_gelu(xp: Any, z: Array, b: Array, y: Array) -> None:
    xp.add(z, b, out=z)
    _gelu_gate(xp, z, y)
    xp.multiply(y, z, out=y)


@elementwise("dy, z -> dz", source=SOURCE, scratch=2)
def gelu_delta(xp: Any, dy: Array, z: Array, dz: Array, gate: Array, s: Array) -> None:
    _gelu_gate(xp, z, gate)
    xp.multiply(z, z, out=s)
    xp.multiply(s, 6 * GELU_SLOPE * GELU_CUBIC, out=s)
    xp.add(s, 2 * GELU_SLOPE, out=s)
    xp.multiply(s, z, out=s)  # z times the derivative of 2u
    xp.minimum(s, 1e4, out=s)  # where z³ may overflow, the gate is 0 or 1
    xp.maximum(s, -1e4, out=s)
    xp.multiply(dy, gate, out=dz)
    # f' = gate (1 + (1 − gate) s)
    xp.subtract(1, gate, out=gate)
    xp.multiply(gate, s, out=gate)
    xp.add(gate, 1, out=gate)
    xp.multiply(dz, gate, out=dz)


class GELU(Activation):
    """f(z) = ½ z (1 + tanh(√(2/π) (z + 0.044715 z³))), the tanh form; Hendrycks and Gimpel 2016."""

    forward, delta, saves, analytic, initializer = bias_gelu, gelu_delta, "z", True, "he_uniform"


@elementwise("z, b -> y", source=SOURCE)
def bias_exp(xp: Any, z: Array, b: Array, y: Array) -> None:
    xp.add(z, b, out=y)
    xp.exp(y, out=y)


@elementwise("dy, y -> dz", source=SOURCE)
def exp_delta(xp: Any, dy: Array, y: Array, dz: Array) -> None:
    xp.multiply(dy, y, out=dz)


class Exp(Activation):
    """f(z) = eᶻ, f' = y: the output of a Poisson regression."""

    forward, delta, analytic, range = bias_exp, exp_delta, True, (0.0, inf)


@rowwise("z[], b[] -> y[]", source=SOURCE, scratch=1)
def bias_softmax(xp: Any, z: Array, b: Array, y: Array, s: Array) -> None:
    column = s[:, :1]
    xp.add(z, b, out=y)
    y.real.max(axis=1, keepdims=True, out=column)
    xp.subtract(y, column, out=y)
    xp.exp(y, out=y)
    y.sum(axis=1, keepdims=True, out=column)
    xp.divide(y, column, out=y)


@rowwise("dy[], y[] -> dz[]", source=SOURCE, scratch=2)
def softmax_delta(xp: Any, dy: Array, y: Array, dz: Array, s: Array, r: Array) -> None:
    column = r[:, :1]
    xp.multiply(dy, y, out=s)
    s.sum(axis=1, keepdims=True, out=column)
    xp.subtract(dy, column, out=dz)
    xp.multiply(dz, y, out=dz)


class Softmax(Activation):
    """f(z)ₖ = e^zₖ / Σⱼ e^zⱼ over a row; ∂C/∂z = y (∂C/∂y − Σⱼ ∂C/∂yⱼ yⱼ)."""

    forward, delta, analytic, range = bias_softmax, softmax_delta, True, (0.0, 1.0)
