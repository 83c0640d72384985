"""Metrics of predictions against targets, on the host in float64, weighted by the samples' weights."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from gpubp.errors import DataError
from gpubp.registry import did_you_mean


def class_accuracy(targets: Any, outputs: Any, weights: Any) -> float:
    """The weighted share of samples whose likeliest class is the target, or the target's likeliest."""
    truth = targets if targets.ndim == 1 else targets.argmax(axis=1)
    return _mean(outputs.argmax(axis=1) == truth, weights)


def label_accuracy(targets: Any, outputs: Any, weights: Any) -> float:
    """The weighted share of samples of which all labels, one a sigmoid output, are decided rightly."""
    return _mean(((outputs >= 0.5) == (targets >= 0.5)).all(axis=1), weights)


def rmse(targets: Any, outputs: Any, weights: Any) -> float:
    """√ of the weighted mean of (o − t)², over samples and outputs."""
    return float(np.sqrt(_mean(((outputs - targets) ** 2).mean(axis=1), weights)))


def mae(targets: Any, outputs: Any, weights: Any) -> float:
    """The weighted mean of |o − t|, over samples and outputs."""
    return _mean(np.abs(outputs - targets).mean(axis=1), weights)


def r2(targets: Any, outputs: Any, weights: Any) -> float:
    """1 − Σ w (t − o)² / Σ w (t − t̄)², averaged over outputs; for a constant target 1 where it is met, else 0."""
    w = np.ones(len(targets)) if weights is None else weights
    left = (w[:, None] * (targets - outputs) ** 2).sum(axis=0)
    total = w.sum()
    centre = (w[:, None] * targets).sum(axis=0) / total if total > 0 else 0.0
    spread = (w[:, None] * (targets - centre) ** 2).sum(axis=0)
    scores = np.where(spread > 0, 1 - left / np.where(spread > 0, spread, 1), np.where(left == 0, 1.0, 0.0))
    return float(scores.mean())


def _mean(values: Any, weights: Any) -> float:
    if not len(values):
        return float("nan")
    if weights is None:
        return float(np.mean(values))
    total = weights.sum()
    return float((weights * values).sum() / total) if total > 0 else 0.0


REGRESSION: dict[str, Callable[[Any, Any, Any], float]] = {"rmse": rmse, "mae": mae, "r2": r2}


def _unweighted(name: str, metric: Callable[[Any, Any], Any]) -> Callable[[Any, Any, Any], float]:
    def measure(targets: Any, outputs: Any, weights: Any) -> float:
        value = metric(targets, outputs)
        refusal = DataError(f"metric {name!r} must return one number, got {value!r}")
        if np.ndim(value):
            raise refusal
        try:
            return float(value)
        except (TypeError, ValueError):
            raise refusal from None

    return measure


def resolve(metrics: Any, task: str) -> dict[str, Callable[[Any, Any, Any], float]]:
    """Names and functions (targets, outputs) -> float as a table of functions (targets, outputs, weights) -> float."""
    table: dict[str, Callable[[Any, Any, Any], float]] = {}
    if not isinstance(metrics, Iterable) and not callable(metrics):
        raise DataError(f"metrics must be names and functions (targets, outputs) -> float, got {metrics!r}")
    for metric in [metrics] if isinstance(metrics, str) or callable(metrics) else metrics:
        if callable(metric):
            name = getattr(metric, "__name__", "metric")
            table[name] = _unweighted(name, metric)
        elif metric in REGRESSION:
            if task == "classes":
                raise DataError(f"metric {metric!r} compares numbers, and this network tells classes; use 'accuracy'")
            table[metric] = REGRESSION[metric]
        elif metric == "accuracy":
            if task == "values":
                known = ", ".join(REGRESSION)
                raise DataError(f"metric 'accuracy' needs classes, and this network predicts numbers; use {known}")
            table[metric] = class_accuracy if task == "classes" else label_accuracy
        else:
            raise DataError(f"metric {metric!r} is not known; {did_you_mean(str(metric), ['accuracy', *REGRESSION])}")
    return table
