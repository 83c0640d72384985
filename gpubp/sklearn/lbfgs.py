"""The solver "lbfgs": scipy's L-BFGS-B on the cost of all rows and its gradient."""

from typing import Any

import numpy as np
import scipy.optimize
from sklearn.utils.optimize import _check_optimize_result

from gpubp.losses import weighted_sum
from gpubp.sklearn.machine import Machine, Samples
from gpubp.sklearn.tasks import Tasks


class Objective:
    """C(θ) = (Σ wᵢ ℓᵢ + ½ α Σ W²) / Σ w and ∂C/∂θ, where θ holds all coefs_, then all intercepts_."""

    def __init__(self, machine: Machine, samples: Samples, alpha: float) -> None:
        self.machine, self.samples, self.alpha = machine, samples, alpha
        arena = machine.network.arena
        self.views = [*arena.weights, *arena.biases]
        self.grads = [*arena.weight_grads, *arena.bias_grads]
        self.total = float(len(samples) if samples.host_weights is None else np.sum(samples.host_weights))
        self.weights_end = sum(view.size for view in arena.weights)

    def theta(self) -> Any:
        return self._packed(self.views)

    def set_theta(self, theta: Any) -> None:
        backend, start = self.machine.network.backend, 0
        for view in self.views:
            part = theta[start : start + view.size].reshape(view.shape)
            backend.copy(backend.asarray(part, view.dtype), view)
            start += view.size

    def __call__(self, theta: Any) -> tuple[float, Any]:
        self.set_theta(theta)
        network, samples = self.machine.network, self.samples
        backend, cost, gradient = network.backend, self.samples.constant, np.zeros(theta.shape)
        out = backend.empty((), network.dtype)
        for rows in network.chunks(len(samples)):
            batch = network.batch(rows.stop - rows.start, True)
            factor = 1 / self.total if samples.weights is None else samples.weights[rows] / self.total
            network.forward_with_loss(samples.x[rows], samples.targets[rows], factor, batch)
            backend.run(weighted_sum, batch.losses, factor, out)
            network.backward(batch)
            cost += float(backend.to_numpy(out))
            gradient += self._packed(self.grads)
        gradient[: self.weights_end] += self.alpha / self.total * theta[: self.weights_end]
        return cost + self.penalty(theta), gradient

    def penalty(self, theta: Any) -> float:
        weights = theta[: self.weights_end]
        return 0.5 * self.alpha / self.total * float(weights @ weights)

    def _packed(self, arrays: list[Any]) -> Any:
        to_numpy = self.machine.network.backend.to_numpy
        return np.concatenate([np.ravel(to_numpy(each)) for each in arrays]).astype(np.float64)


def minimize(estimator: Any, objective: Objective, tasks: Tasks) -> None:
    """Minimize, and leave the results in the estimator's attributes and its network."""
    stopped = False

    def iteration(theta: Any) -> None:
        nonlocal stopped
        objective.set_theta(theta)
        stopped = tasks.end()
        if stopped:
            raise StopIteration
        tasks.begin("lbfgs-iter")

    tasks.begin("lbfgs-iter")

    result = scipy.optimize.minimize(
        objective,
        objective.theta(),
        method="L-BFGS-B",
        jac=True,
        callback=iteration if tasks.wanted else None,
        options={"maxfun": estimator.max_fun, "maxiter": estimator.max_iter, "gtol": estimator.tol},
    )
    tasks.drop()
    estimator.n_iter_ = result.nit if stopped else _check_optimize_result("lbfgs", result, estimator.max_iter)
    penalty = objective.penalty(result.x)
    estimator.loss_ = float(estimator._reported(result.fun - penalty)) + penalty
    objective.set_theta(result.x)
