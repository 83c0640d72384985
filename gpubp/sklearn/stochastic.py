"""The stochastic solvers: scikit-learn's loop over epochs, with its draws, its stopping rules and its messages."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from math import isfinite, nan
from numbers import Real
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from gpubp import schedules
from gpubp.data.batches import ArrayBatches
from gpubp.errors import DataError
from gpubp.interruption import interruptible
from gpubp.optimizers import squared_norm
from gpubp.sklearn.machine import Machine, Samples
from gpubp.sklearn.steps import before_step, change_rate
from gpubp.sklearn.tasks import Tasks

FIT = 7  # the caller of fit, counted from a function that _fit_stochastic calls: whom a warning is about


@dataclass
class HeldOut:
    """Validation data: as the network takes them, and as a scorer does, X being as the user gave it."""

    samples: Samples
    X: Any
    y: Any
    sample_weight: Any


class Epochs:
    """One call of fit or partial_fit of an estimator whose network and optimizer are ready."""

    def __init__(
        self, estimator: Any, machine: Machine, train: Samples, held_out: HeldOut | None, scorer: Any, tasks: Tasks
    ) -> None:
        self.estimator, self.machine, self.train, self.tasks = estimator, machine, train, tasks
        self.held_out, self.scorer = held_out, scorer
        self.network, self.optimizer = machine.network, estimator._optimizer
        self.rows, self.size = len(train), _batch_size(estimator.batch_size, len(train))
        backend = self.network.backend
        self.batches = ArrayBatches(backend, train.x, train.targets, train.weights, self.size, estimator.shuffle, 0)
        self.starts = np.arange(0, self.rows, self.size)
        self.counts = np.diff([*self.starts, self.rows])
        self.order = np.arange(self.rows)
        self.alpha = 0.0 if self.optimizer.decoupled_decay else float(estimator.alpha)
        self.own_decay = self.optimizer.weight_decay
        self.best: Any = None

    def run(self, epochs: int, incremental: bool) -> None:
        """Train, and leave the results in the estimator's attributes."""
        estimator = self.estimator
        estimator.n_iter_ = 0
        self.factor = self._factor(None if incremental else epochs)
        self.before_step = before_step(estimator, self.optimizer)
        if estimator.early_stopping:
            self.best = self.network.backend.copied(self.network.arena.parameters)
        try:
            with interruptible() as interrupted:
                for _ in range(epochs):
                    self.tasks.begin("epoch")
                    loss = self._epoch(interrupted)
                    if loss is None:
                        self.tasks.drop()
                        warnings.warn("Training interrupted by user.", stacklevel=FIT)
                        break
                    if self._finished(loss) or incremental:
                        break
                    if estimator.n_iter_ == estimator.max_iter and estimator.schedule is None:  # which would end there
                        warnings.warn(
                            f"Stochastic Optimizer: Maximum iterations ({estimator.max_iter}) "
                            "reached and the optimization hasn't converged yet.",
                            ConvergenceWarning,
                            stacklevel=FIT,
                        )
        finally:
            self.optimizer.weight_decay = self.own_decay
        if self.best is not None and estimator.restore_best_weights:
            self.network.backend.copy(self.best, self.network.arena.parameters)

    def _factor(self, epochs: int | None) -> Callable[[int], float] | None:
        """The schedule's factor on the rate, by step; partial_fit knows no number of steps."""
        if self.estimator.schedule is None:
            return None
        return schedules.bind(self.estimator.schedule, epochs and epochs * len(self.starts))

    def _epoch(self, interrupted: Callable[[], bool]) -> float | None:
        """Every row once; the mean loss, or None where Ctrl-C came."""
        network, optimizer, backend = self.network, self.optimizer, self.network.backend
        drawn = self._shuffled() if self.estimator.shuffle else None
        order = drawn if len(self.starts) > 1 else None  # a batch of all rows takes them as they lie
        sums = self._sums(self.train.host_weights, order, self.counts)
        ledger = backend.zeros((2, len(self.starts)), network.dtype)  # of each step its cost and Σ W²
        for step, (x, targets, weights) in enumerate(self.batches.in_order(order)):
            if self.alpha:
                backend.run(squared_norm, network.arena.weight_parameters, ledger[1, step, ...])
                optimizer.weight_decay = self.own_decay + (self.alpha / sums[step] if sums[step] else 0.0)
            self.before_step()
            clip_norm, cost = self.estimator.clip_norm, ledger[0, step, ...]
            network.update(x, targets, weights, optimizer, cost, self._rate(), clip_norm)
            if interrupted():
                return None
        costs, norms = backend.to_numpy(ledger).astype(np.float64)
        penalties = 0.5 * self.alpha * np.divide(norms, sums, out=np.zeros_like(sums), where=sums != 0)
        means = self.estimator._reported(costs) + penalties + self._constants(order, sums)
        return float(means @ self.counts) / self.rows

    def _rate(self) -> float | None:
        """The learning rate of the next step by the schedule; None for the optimizer's own."""
        if self.factor is None:
            return None
        given, step = self.estimator.schedule, self.optimizer.steps
        return float(self.optimizer.learning_rate * _finite(f"schedule={given!r}", self.factor(step)))

    def _shuffled(self) -> Any:
        """A new order of all rows, drawn as scikit-learn's `shuffle` draws it."""
        drawn = np.arange(self.rows)
        self.estimator._random_state.shuffle(drawn)
        self.order = self.order[drawn]
        return self.order

    def _sums(self, values: Any, order: Any, without: Any) -> Any:
        """Each batch's sum of a value of each row."""
        if values is None:
            return without.astype(np.float64)
        return np.add.reduceat(np.asarray(values if order is None else values[order], np.float64), self.starts)

    def _constants(self, order: Any, sums: Any) -> Any:
        """What scikit-learn's loss has beside gpubp's, each batch's mean of it."""
        constants, weights = self.train.constants, self.train.host_weights
        if constants is None:
            return 0.0
        constants = constants if weights is None else constants * weights
        return self._sums(constants, order, None) / np.where(sums, sums, 1)

    def _finished(self, loss: float) -> bool:
        """Take note of an epoch; whether it is to be the last."""
        estimator = self.estimator
        estimator.n_iter_ += 1
        estimator.loss_ = loss
        estimator.t_ += self.rows
        estimator.loss_curve_.append(loss)
        if estimator.verbose:
            print(f"Iteration {estimator.n_iter_}, loss = {loss:.8f}")
        if self.scorer is not None or self.tasks.wanted:
            estimator._publish()
        if self.held_out is not None:
            self._validate(self.held_out)
        if estimator.early_stopping:
            self._judge_score()
        else:
            self._judge_loss(loss)
        if estimator.solver == "sgd" and estimator.learning_rate == "invscaling":
            rate = estimator.learning_rate_init / (estimator.t_ + 1) ** estimator.power_t
            change_rate(self.optimizer, self.network.backend, rate)
        stop = self.tasks.end()
        return self._converged() or stop

    def _validate(self, held_out: HeldOut) -> None:
        estimator, samples = self.estimator, held_out.samples
        table = {} if self.scorer else {"score": estimator._score_of_outputs}
        scores = self.network.score(samples.x, samples.targets, samples.weights, table)
        estimator.validation_loss_curve_.append(float(estimator._reported(scores["loss"])) + samples.constant)
        if self.scorer:
            diverged = not isfinite(scores["loss"])
            scores["score"] = nan if diverged else self._scored(held_out)
        estimator.validation_scores_.append(scores["score"])
        if estimator.verbose:
            print(f"Validation score: {scores['score']:f}")

    def _scored(self, held_out: HeldOut) -> float:
        named, given = f"scoring={self.estimator.scoring!r}", (self.estimator, held_out.X, held_out.y)
        weighted = {} if held_out.sample_weight is None else {"sample_weight": held_out.sample_weight}
        try:
            signature(self.scorer).bind(*given, **weighted)
        except TypeError as error:
            raise DataError(
                f"{named} cannot be called as scorer({', '.join(('estimator, X, y', *weighted))}): {error}"
            ) from None
        return _finite(named, self.scorer(*given, **weighted))

    def _judge_score(self) -> None:
        estimator, score = self.estimator, self.estimator.validation_scores_[-1]
        waits = score < estimator.best_validation_score_ + estimator.tol
        estimator._no_improvement_count = estimator._no_improvement_count + 1 if waits else 0
        if score > estimator.best_validation_score_:
            estimator.best_validation_score_ = score
            self.best = self.network.backend.copied(self.network.arena.parameters, self.best)

    def _judge_loss(self, loss: float) -> None:
        estimator = self.estimator
        waits = loss > estimator.best_loss_ - estimator.tol
        estimator._no_improvement_count = estimator._no_improvement_count + 1 if waits else 0
        estimator.best_loss_ = min(estimator.best_loss_, loss)

    def _converged(self) -> bool:
        """Whether there has been no improvement for too long, and no smaller learning rate is left to try."""
        estimator = self.estimator
        if estimator._no_improvement_count <= estimator.n_iter_no_change:
            return False
        what = "Validation score" if estimator.early_stopping else "Training loss"
        said = (
            f"{what} did not improve more than tol={estimator.tol:f} for "
            f"{estimator.n_iter_no_change} consecutive epochs."
        )
        adaptive = estimator.solver == "sgd" and estimator.learning_rate == "adaptive"
        if not adaptive or self.optimizer.learning_rate <= 1e-6:
            ending = " Learning rate too small. Stopping." if adaptive else " Stopping."
            if estimator.verbose:
                print(said + ending)
            return True
        change_rate(self.optimizer, self.network.backend, self.optimizer.learning_rate / 5)
        if estimator.verbose:
            print(f"{said} Setting learning rate to {self.optimizer.learning_rate:f}")
        estimator._no_improvement_count = 0
        return False


def _finite(giver: str, value: Any) -> float:
    """What a user's function has given."""
    if not isinstance(value, Real) or not isfinite(value):
        raise DataError(f"{giver} gave {value!r}, not a finite number")
    return float(value)


def _batch_size(wanted: Any, rows: int) -> int:
    if wanted == "auto":
        return min(200, rows)
    if wanted > rows:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=FIT + 1
        )
    return int(np.clip(wanted, 1, rows))
