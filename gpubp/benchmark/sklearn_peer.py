"""scikit-learn as a peer: MLPClassifier with its own solvers, a step a call of partial_fit."""

from importlib import import_module
from typing import Any

from gpubp.benchmark.contract import Contender, Setting
from gpubp.benchmark.problem import BETAS, EPSILON, MOMENTUM, Problem
from gpubp.errors import GpubpError


def sklearn_partial_fit(problem: Problem, setting: Setting) -> Contender:
    # partial_fit on one batch of n rows is one step, and the smallest public one: its input checks are in the time.
    model = classifier(problem)

    def step() -> Any:
        return model.partial_fit(problem.x, problem.labels).loss_

    return Contender(step, float, lambda: model.coefs_ + model.intercepts_, note="partial_fit, with its input checks")


def classifier(problem: Problem, shuffle: bool = False) -> Any:
    """An MLPClassifier that is about to take the problem's first step; its batches are as large as the problem's."""
    import numpy as np

    network: Any = import_module("sklearn.neural_network")
    if problem.sizes[-1] < 3:
        raise GpubpError("scikit-learn makes one output of two classes, which is another network")
    model = network.MLPClassifier(
        problem.sizes[1:-1],
        activation={"sigmoid": "logistic"}.get(problem.activation, problem.activation),
        solver="adam" if problem.optimizer == "adam" else "sgd",
        alpha=0,
        batch_size=len(problem.x),
        learning_rate="constant",
        learning_rate_init=problem.learning_rate,
        momentum=MOMENTUM if problem.optimizer == "momentum" else 0,
        nesterovs_momentum=False,
        beta_1=BETAS[0],
        beta_2=BETAS[1],
        # It adds its ε to √v before the bias of v is corrected: this is EPSILON at the second of the checked steps.
        epsilon=EPSILON * (1 - BETAS[1] ** 2) ** 0.5,
        shuffle=shuffle,
        random_state=0,
    )
    # The first call makes the parameters, and an optimizer that holds them and has already taken a step.
    model.partial_fit(problem.x, problem.labels, classes=np.arange(problem.sizes[-1]))
    for mine, given in zip(model.coefs_ + model.intercepts_, problem.weights + problem.biases, strict=True):
        mine[...] = given
    optimizer = model._optimizer
    optimizer.t = 0  # Adam's steps
    for kept in ("velocities", "ms", "vs"):
        for array in getattr(optimizer, kept, ()):
            array[...] = 0
    return model
