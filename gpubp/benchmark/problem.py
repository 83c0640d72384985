"""The work to be timed: a network's parameters, one batch and its labels, and what three honest steps make of them."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from gpubp.errors import DataError
from gpubp.kernel import Array

ACTIVATIONS = ("relu", "sigmoid", "tanh")  # those that every peer has
LEARNING_RATE = 0.1  # of plain gradient descent
OPTIMIZERS = {"sgd": LEARNING_RATE, "momentum": LEARNING_RATE / 10, "adam": 0.001}  # and their learning rates
MOMENTUM = 0.9  # the way of ten steps in one: hence the tenth of the learning rate
BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's, as every peer has them
DISTINCT = 512  # rows; a larger batch is drawn from so many, so that a reference step costs the same for any batch


@dataclass(frozen=True)
class Problem:
    """What every contender starts from: float32 weights (inputs, outputs), biases, one batch and its labels.

    Hidden layers have `activation`, the output layer has softmax and cross entropy, and a step ends with `optimizer`:
    gradient descent without or with MOMENTUM, or Adam, at the learning rate that OPTIMIZERS gives it. `shares` says
    how often each of the first rows, which are distinct, is in the batch.
    """

    sizes: tuple[int, ...]
    weights: list[Array]
    biases: list[Array]
    x: Array
    labels: Array
    activation: str
    shares: Array
    optimizer: str = "sgd"

    @property
    def learning_rate(self) -> float:
        return OPTIMIZERS[self.optimizer]


def make_problem(
    sizes: tuple[int, ...], batch: int, activation: str = "sigmoid", seed: int = 0, optimizer: str = "sgd"
) -> Problem:
    """Uniform inputs, Glorot weights, biases that are not zero: nothing saturates, and a forgotten bias shows."""
    import numpy as np

    for what, name, known in (("activation", activation, ACTIVATIONS), ("optimizer", optimizer, OPTIMIZERS)):
        if name not in known:
            raise DataError(f"{what} must be one of {', '.join(known)}, got {name!r}")
    generator = np.random.default_rng(seed)
    pairs = list(pairwise(sizes))
    limits = [np.sqrt(6 / (inputs + outputs)) for inputs, outputs in pairs]
    weights = [generator.uniform(-limit, limit, pair) for limit, pair in zip(limits, pairs, strict=True)]
    biases = [generator.uniform(-0.1, 0.1, outputs) for _, outputs in pairs]
    distinct = min(batch, DISTINCT)
    x = generator.random((distinct, sizes[0]), np.float32)
    labels = generator.integers(0, sizes[-1], distinct)
    rows = np.concatenate([np.arange(distinct), generator.integers(0, distinct, batch - distinct)])
    return Problem(
        sizes,
        [weight.astype(np.float32) for weight in weights],
        [bias.astype(np.float32) for bias in biases],
        x[rows],
        labels[rows],
        activation,
        np.bincount(rows) / batch,
        optimizer,
    )


def reference(problem: Problem, steps: int) -> tuple[list[float], list[Array]]:
    """The losses before each of these steps, and the parameters after them, weights first: the textbook in float64."""
    import numpy as np

    functions: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
        "relu": (lambda z: np.maximum(z, 0), lambda h: h > 0),
        "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda h: h * (1 - h)),
        "tanh": (np.tanh, lambda h: 1 - h * h),
    }
    f, df = functions[problem.activation]  # df takes f's output
    weights = [weight.astype(np.float64) for weight in problem.weights]
    biases = [bias.astype(np.float64) for bias in problem.biases]
    update = _textbook_update(problem, weights + biases)
    rows, losses = np.arange(len(problem.shares)), []
    x, labels = problem.x[rows].astype(np.float64), problem.labels[rows]
    for _ in range(steps):
        hs = [x]
        for w, b in zip(weights[:-1], biases[:-1], strict=True):
            hs.append(f(hs[-1] @ w + b))
        z = hs[-1] @ weights[-1] + biases[-1]
        log_p = z - z.max(axis=1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
        losses.append(float(-log_p[rows, labels] @ problem.shares))
        delta = np.exp(log_p)
        delta[rows, labels] -= 1
        delta *= problem.shares[:, None]
        deltas = [delta]  # from the first layer to the last
        for w, h in zip(weights[:0:-1], hs[:0:-1], strict=True):
            deltas.insert(0, deltas[0] @ w.T * df(h))
        update([h.T @ delta for h, delta in zip(hs, deltas, strict=True)] + [delta.sum(axis=0) for delta in deltas])
    return losses, weights + biases


def _textbook_update(problem: Problem, parameters: list[Array]) -> Callable[[list[Array]], None]:
    """What takes the gradients of a step and moves these parameters, in place, as the problem's optimizer says."""
    import numpy as np

    rate, (beta1, beta2) = problem.learning_rate, BETAS
    velocities, squares = ([np.zeros(p.shape) for p in parameters] for _ in range(2))  # no memory until written to
    step = 0

    def update(gradients: list[Array]) -> None:
        nonlocal step
        step += 1
        for p, g, v, s in zip(parameters, gradients, velocities, squares, strict=True):
            match problem.optimizer:
                case "sgd":
                    p -= rate * g
                case "momentum":
                    v[...] = MOMENTUM * v + g
                    p -= rate * v
                case "adam":
                    v[...] = beta1 * v + (1 - beta1) * g
                    s[...] = beta2 * s + (1 - beta2) * g * g
                    p -= rate * v / (1 - beta1**step) / (np.sqrt(s / (1 - beta2**step)) + EPSILON)

    return update
