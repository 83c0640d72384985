"""The optimizers of scikit-learn's two stochastic solvers: gpubp's own, with what differs made up for."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from gpubp.backends.base import Backend
from gpubp.optimizers import SGD, Adam, Optimizer, scale_weights


def optimizer_of(estimator: Any) -> Optimizer:
    """A fresh optimizer for the estimator's solver, which is a name or an object, of which it is a copy."""
    rate = estimator.learning_rate_init
    if estimator.solver == "sgd":
        momentum = estimator.momentum
        return SGD(rate, momentum, nesterov=bool(estimator.nesterovs_momentum and momentum))
    if estimator.solver == "adam":
        return Adam(rate, estimator.beta_1, estimator.beta_2, estimator.epsilon)
    optimizer = deepcopy(Optimizer.resolve(estimator.solver))
    optimizer.reset()
    if isinstance(estimator.solver, str):
        optimizer.learning_rate = rate
    return optimizer


def before_step(estimator: Any, optimizer: Optimizer) -> Callable[[], None]:
    """What is to be done before each step.

    scikit-learn's Adam adds ε to √v where Kingma and Ba add it to √v̂ = √(v / (1 − β₂ᵗ)); with ε / √(1 − β₂ᵗ) gpubp's
    does the same.
    """
    if estimator.solver != "adam" or not isinstance(optimizer, Adam):
        return lambda: None

    def epsilon_of_step() -> None:
        optimizer.epsilon = estimator.epsilon * (1 - optimizer.beta2 ** (optimizer.steps + 1)) ** -0.5

    return epsilon_of_step


def change_rate(optimizer: Optimizer, backend: Backend, rate: float) -> None:
    """Go on with another learning rate.

    scikit-learn's velocity holds the rates of its time, u = −Σ μᵏ rateₖ gₖ, where gpubp's v = −u / rate: so v is
    rescaled.
    """
    if isinstance(optimizer, SGD) and optimizer.state:
        backend.run(scale_weights, optimizer.state["v"], optimizer.learning_rate / rate)
    optimizer.learning_rate = rate
