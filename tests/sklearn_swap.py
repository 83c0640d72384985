"""A pytest plugin: gpubp.sklearn's classes in the place of scikit-learn's own, before its tests import them."""

import sklearn.neural_network

import gpubp.sklearn

NAMES = ("MLPClassifier", "MLPRegressor")


def pytest_configure() -> None:
    for name in NAMES:
        setattr(sklearn.neural_network, name, getattr(gpubp.sklearn, name))
