"""Small data, and gpubp.sklearn's two estimators at settings that take milliseconds, for the tests of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.kernel import KERNELS
from gpubp.sklearn import MLPClassifier, MLPRegressor

rng = np.random.default_rng(0)
X, Z = rng.normal(size=(60, 4)), rng.normal(size=(25, 4))
NAMES = np.array(["ash", "elm", "oak"])
Y = NAMES[np.digitize(X[:, 0] - X[:, 1], [-0.8, 0.8])]
LABELS = (X[:, :3] > [[0.0, 0.3, -0.3]]).astype(int)
T, U = np.sin(X[:, 0]) + X[:, 1], np.sin(Z[:, 0]) + Z[:, 1]
WEIGHTS, V = rng.uniform(0.1, 2, 60), NAMES[np.digitize(Z[:, 0] - Z[:, 1], [-0.8, 0.8])]
STILL = {"solver": gpubp.SGD(1e-12), "alpha": 0.0, "batch_size": 60, "max_iter": 1}  # stays at its first weights


def classifier(**settings: Any) -> MLPClassifier:
    return MLPClassifier(
        **{"hidden_layer_sizes": (6, 5), "max_iter": 5, "random_state": 0, "device": "cpu", **settings}
    )


def regressor(**settings: Any) -> MLPRegressor:
    return MLPRegressor(**{"hidden_layer_sizes": (6, 5), "max_iter": 5, "random_state": 0, "device": "cpu", **settings})


def parameters(estimator: Any) -> Any:
    return np.concatenate([each.ravel() for each in [*estimator.coefs_, *estimator.intercepts_]])


def same(one: Any, other: Any, rtol: float = 1e-9) -> bool:
    return np.allclose(parameters(one), parameters(other), rtol=rtol, atol=1e-12)


@contextmanager
def own_components() -> Iterator[tuple[Any, Any]]:
    """An activation and a loss as a user declares them."""
    tables = [KERNELS, gpubp.Activation.members, gpubp.Loss.members]
    kept = [dict(table) for table in tables]

    @gpubp.elementwise("z, b -> z, y")
    def bias_cosine(xp: Any, z: Any, b: Any, y: Any) -> None:
        xp.cos(xp.add(z, b, out=z), out=y)

    @gpubp.elementwise("dy, z -> dz")
    def cosine_delta(xp: Any, dy: Any, z: Any, dz: Any) -> None:
        xp.multiply(dy, -xp.sin(z), out=dz)

    class Cosinus(gpubp.Activation):
        forward, delta, saves, analytic = bias_cosine, cosine_delta, "z", True

    @gpubp.rowwise("o[], t[], w -> do[], loss")
    def log_cosh(xp: Any, o: Any, t: Any, w: Any, do: Any, loss: Any) -> None:
        loss[:, 0] = xp.log(xp.cosh(o - t)).sum(axis=1)
        do[...] = w * xp.tanh(o - t)

    class LogCosh(gpubp.Loss):
        kernel, analytic = log_cosh, True

    try:
        yield Cosinus, LogCosh
    finally:
        for table, before in zip(tables, kept, strict=True):
            table.clear()
            table.update(before)


def frame(kind: str) -> Any:
    """X with named columns, as a dataframe of this package."""
    return pytest.importorskip(kind).DataFrame(dict(zip("abcd", X.T, strict=True)))
