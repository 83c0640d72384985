"""Optimizers: one kernel over the flat parameter vector turns gradients into a step.

The formulas are PyTorch's, to the last term. Weight decay adds λ W to the gradients of the weights, never of the
biases; AdamW decays the weights themselves instead.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from gpubp.checks import number
from gpubp.errors import DataError
from gpubp.kernel import Array, Kernel, elementwise, reduction
from gpubp.memory import Arena
from gpubp.registry import Component

if TYPE_CHECKING:
    from gpubp.backends.base import Backend

SOURCE = "optimizers.cuh"


@elementwise("g, w, decay -> g", source=SOURCE, scratch=1)
def add_decay(xp: Any, g: Array, w: Array, decay: float, s: Array) -> None:
    xp.multiply(w, decay, out=s)
    xp.add(g, s, out=g)


@elementwise("w, factor -> w", source=SOURCE)
def scale_weights(xp: Any, w: Array, factor: float) -> None:
    xp.multiply(w, factor, out=w)


@reduction("g -> total", source=SOURCE)
def squared_norm(xp: Any, g: Array, total: Array) -> None:
    xp.dot(g, g, out=total)


@elementwise("g, total, limit -> g", source=SOURCE)
def clip_gradient(xp: Any, g: Array, total: Array, limit: float) -> None:
    """g · min(1, limit / √total)."""
    xp.multiply(g, xp.minimum(limit / xp.sqrt(xp.maximum(total, xp.finfo(g.dtype).tiny)), 1), out=g)


def clip_by_norm(backend: "Backend", arena: Arena, limit: float) -> None:
    """Scale all gradients so that their Euclidean norm is at most `limit`, without waiting for the device."""
    backend.run(squared_norm, arena.gradients, arena.squared_norm)
    backend.run(clip_gradient, arena.gradients, arena.squared_norm, limit)


class Optimizer(Component):
    """Turns the gradients in an arena into one step of its parameters.

    A subclass names its kernel, declared "p, ..., g, ... -> p, ..." with its state between p and g, and gives the
    numbers that follow g.

    The state (velocities, moments) belongs to one network: a network's first step with the optimizer allocates it, and
    another network is refused until `reset()`.
    """

    kernel: Kernel
    state_names: tuple[str, ...] = ()
    decoupled_decay: ClassVar[bool] = False

    def __init__(self, learning_rate: float, weight_decay: float = 0.0) -> None:
        self.learning_rate = number("learning_rate", learning_rate, above=0)
        self.weight_decay = number("weight_decay", weight_decay, least=0)
        self.reset()

    def reset(self) -> None:
        """Forget the state and the number of steps taken."""
        self.steps = 0
        self.state: dict[str, Array] = {}
        self._arena: Arena | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Of copies and pickles: the state on the host, for the first network of its size that steps with it."""
        held = self._arena
        state = {name: held.backend.host_copy(value) for name, value in self.state.items()} if held else self.state
        return {**self.__dict__, "state": state, "_arena": None}

    def numbers(self, rate: float) -> tuple[float, ...]:
        """What this step's kernel is given after the arrays."""
        raise NotImplementedError

    def attach(self, backend: "Backend", arena: Arena) -> None:
        """Make the state ready for this arena; the state follows its network to another device."""
        if self._arena is arena:
            return
        if self.state and self._arena is not None and self._arena.owner is not arena.owner:
            raise DataError(
                "this optimizer holds the state of another network; "
                "give each network its own, or call optimizer.reset() first"
            )
        like, held = arena.parameters, self._arena
        host = {name: held.backend.to_numpy(value) if held else value for name, value in self.state.items()}
        if any(value.shape != like.shape for value in host.values()):
            raise DataError(
                "this optimizer was copied with the state of a network of another size; call optimizer.reset() first"
            )
        moved = {name: backend.asarray(value, like.dtype) for name, value in host.items()}
        self.state = {
            name: moved[name] if name in moved else backend.zeros(like.shape, like.dtype) for name in self.state_names
        }
        self._arena = arena

    def begin(self, backend: "Backend", arena: Arena, learning_rate: float | None = None) -> tuple[float, ...]:
        """Begin a step: the numbers that it is to be given.

        `learning_rate` stands in for the optimizer's own, as a schedule wants.
        """
        self.attach(backend, arena)
        self.steps += 1
        rate = self.learning_rate if learning_rate is None else learning_rate
        return self.weight_decay, 1 - rate * self.weight_decay, *self.numbers(rate)

    def step(self, backend: "Backend", arena: Arena, decay: float, shrink: float, *numbers: float) -> None:
        """One step with the gradients in the arena; the numbers are those of `begin`."""
        if self.weight_decay and self.decoupled_decay:
            backend.run(scale_weights, arena.weight_parameters, shrink)
        elif self.weight_decay:
            backend.run(add_decay, arena.weight_gradients, arena.weight_parameters, decay)
        backend.run(self.kernel, arena.parameters, *self.state.values(), arena.gradients, *numbers)

    def update(self, backend: "Backend", arena: Arena) -> None:
        """One step with the gradients in the arena, from its beginning."""
        self.step(backend, arena, *self.begin(backend, arena))


def as_object(optimizer: Any) -> Optimizer:
    """An optimizer whose state lasts from one step to the next; DataError for a name."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    raise DataError(
        f"optimizer must be an object such as gpubp.SGD(0.1), got {optimizer!r}: "
        "a name would start afresh at every step"
    )


@elementwise("p, g, rate -> p", source=SOURCE, scratch=1)
def sgd(xp: Any, p: Array, g: Array, rate: float, s: Array) -> None:
    xp.multiply(g, rate, out=s)
    xp.subtract(p, s, out=p)


@elementwise("p, v, g, rate, momentum -> p, v", source=SOURCE, scratch=1)
def sgd_momentum(xp: Any, p: Array, v: Array, g: Array, rate: float, momentum: float, s: Array) -> None:
    xp.multiply(v, momentum, out=v)
    xp.add(v, g, out=v)
    xp.multiply(v, rate, out=s)
    xp.subtract(p, s, out=p)


@elementwise("p, v, g, rate, momentum -> p, v", source=SOURCE, scratch=1)
def sgd_nesterov(xp: Any, p: Array, v: Array, g: Array, rate: float, momentum: float, s: Array) -> None:
    xp.multiply(v, momentum, out=v)
    xp.add(v, g, out=v)
    xp.multiply(v, momentum, out=s)
    xp.add(s, g, out=s)
    xp.multiply(s, rate, out=s)
    xp.subtract(p, s, out=p)


class SGD(Optimizer):
    """p −= rate · g; with momentum μ, v = μ v + g and p −= rate · v, or rate · (g + μ v) after Nesterov."""

    def __init__(
        self, learning_rate: float = 0.1, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        self._momentum, self.nesterov = number("momentum", momentum, least=0, most=1), nesterov
        if nesterov and not momentum:
            raise DataError("nesterov=True needs a momentum, such as momentum=0.9")
        self.state_names = ("v",) if momentum else ()

    @property
    def kernel(self) -> Kernel:  # type: ignore[override]  # no attribute, as a pickle cannot hold a kernel
        return sgd_nesterov if self.nesterov else sgd_momentum if self._momentum else sgd

    @property
    def momentum(self) -> float:
        return self._momentum

    @momentum.setter
    def momentum(self, value: float) -> None:
        if bool(value) != bool(self._momentum):
            raise DataError(f"momentum={value!r} cannot take the place of {self._momentum!r}: make a new SGD")
        self._momentum = number("momentum", value, least=0, most=1)

    @property
    def folds(self) -> bool:
        """Whether the products that are the weights' gradients can be added at once to what the step changes."""
        return type(self) is SGD and not self.nesterov and not (self.momentum and self.weight_decay)

    def numbers(self, rate: float) -> tuple[float, ...]:
        return (rate, self.momentum) if self.momentum else (rate,)

    def folded_into(self, arena: Arena) -> list[Array]:
        """What the weights' gradients are added to, `alpha` times, after `beta` times itself: v, or W itself."""
        return arena.cut(self.state["v"])[0] if self.momentum else arena.weights

    def folded(self, numbers: tuple[float, ...]) -> tuple[float, ...]:
        """alpha and beta, and what `finish` is to be given, of the numbers of `begin`."""
        _, shrink, rate, *momentum = numbers
        return (1.0, *momentum, rate, *momentum) if momentum else (-rate, shrink, rate)

    def finish(self, backend: "Backend", arena: Arena, rate: float, momentum: float | None = None) -> None:
        """What is left of a step whose weights' gradients have been added."""
        if momentum is None:
            _step_if_any(backend, sgd, arena.bias_parameters, arena.bias_gradients, rate)
            return
        velocity, end = self.state["v"], arena.weights_end
        _step_if_any(backend, sgd, arena.weight_parameters, velocity[:end], rate)
        moved = (arena.bias_parameters, velocity[end:], arena.bias_gradients)
        _step_if_any(backend, sgd_momentum, *moved, rate, momentum)


def _step_if_any(backend: "Backend", kernel: Kernel, parameters: Array, *rest: Any) -> None:
    if parameters.size:
        backend.run(kernel, parameters, *rest)


# Of a running mean, `keep` stays and `rest` = 1 − keep is new. Both are given, because 1 − 0.999 in float32 is 0.0013 %
# too small.
@elementwise("p, v, g, rate, keep, rest, epsilon -> p, v", source=SOURCE, scratch=1)
def rmsprop(
    xp: Any, p: Array, v: Array, g: Array, rate: float, keep: float, rest: float, epsilon: float, s: Array
) -> None:
    xp.multiply(v, keep, out=v)
    xp.multiply(g, g, out=s)
    xp.multiply(s, rest, out=s)
    xp.add(v, s, out=v)
    _divided_step(xp, p, g, v, rate, epsilon, s)


def _divided_step(xp: Any, p: Array, g: Array, v: Array, rate: float, epsilon: float, s: Array) -> None:
    """p −= rate · g / (√v + ε)."""
    xp.sqrt(v, out=s)
    xp.add(s, epsilon, out=s)
    xp.divide(g, s, out=s)
    xp.multiply(s, rate, out=s)
    xp.subtract(p, s, out=p)


class RMSprop(Optimizer):
    """v = α v + (1 − α) g², p −= rate · g / (√v + ε); Hinton 2012."""

    name = "rmsprop"
    kernel = rmsprop
    state_names = ("v",)

    def __init__(
        self, learning_rate: float = 0.001, alpha: float = 0.99, epsilon: float = 1e-8, weight_decay: float = 0.0
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        self.alpha, self.epsilon = number("alpha", alpha, least=0, below=1), number("epsilon", epsilon, above=0)

    def numbers(self, rate: float) -> tuple[float, ...]:
        return rate, self.alpha, 1 - self.alpha, self.epsilon


@elementwise("p, v, g, rate, epsilon -> p, v", source=SOURCE, scratch=1)
def adagrad(xp: Any, p: Array, v: Array, g: Array, rate: float, epsilon: float, s: Array) -> None:
    xp.multiply(g, g, out=s)
    xp.add(v, s, out=v)
    _divided_step(xp, p, g, v, rate, epsilon, s)


class Adagrad(Optimizer):
    """v += g², p −= rate · g / (√v + ε); Duchi et al. 2011."""

    kernel = adagrad
    state_names = ("v",)

    def __init__(self, learning_rate: float = 0.01, epsilon: float = 1e-10, weight_decay: float = 0.0) -> None:
        super().__init__(learning_rate, weight_decay)
        self.epsilon = number("epsilon", epsilon, above=0)

    def numbers(self, rate: float) -> tuple[float, ...]:
        return rate, self.epsilon


@elementwise("p, m, v, g, rate, beta1, rest1, beta2, rest2, epsilon, root -> p, m, v", source=SOURCE, scratch=1)
def adam(
    xp: Any,
    p: Array,
    m: Array,
    v: Array,
    g: Array,
    rate: float,
    beta1: float,
    rest1: float,
    beta2: float,
    rest2: float,
    epsilon: float,
    root: float,
    s: Array,
) -> None:
    """rate and root carry the bias corrections: rate / (1 − β₁ᵗ) and 1 / √(1 − β₂ᵗ)."""
    xp.multiply(m, beta1, out=m)
    xp.multiply(g, rest1, out=s)
    xp.add(m, s, out=m)
    xp.multiply(v, beta2, out=v)
    xp.multiply(g, g, out=s)
    xp.multiply(s, rest2, out=s)
    xp.add(v, s, out=v)
    xp.sqrt(v, out=s)
    xp.multiply(s, root, out=s)
    xp.add(s, epsilon, out=s)
    xp.divide(m, s, out=s)
    xp.multiply(s, rate, out=s)
    xp.subtract(p, s, out=p)


class Adam(Optimizer):
    """m = β₁ m + (1 − β₁) g, v = β₂ v + (1 − β₂) g², p −= rate · m̂ / (√v̂ + ε).

    Here m̂ = m / (1 − β₁ᵗ) and v̂ = v / (1 − β₂ᵗ); Kingma and Ba 2014.
    """

    kernel = adam
    state_names = ("m", "v")

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        self.beta1, self.beta2 = (
            number("beta1", beta1, least=0, below=1),
            number("beta2", beta2, least=0, below=1),
        )
        self.epsilon = number("epsilon", epsilon, above=0)

    def numbers(self, rate: float) -> tuple[float, ...]:
        beta1, beta2 = self.beta1, self.beta2
        rate, root = rate / (1 - beta1**self.steps), (1 - beta2**self.steps) ** -0.5
        return rate, beta1, 1 - beta1, beta2, 1 - beta2, self.epsilon, root


class AdamW(Adam):
    """Adam, with the weights themselves decayed: W −= rate · λ W; Loshchilov and Hutter 2017."""

    name = "adamw"
    decoupled_decay = True

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(learning_rate, beta1, beta2, epsilon, weight_decay)
