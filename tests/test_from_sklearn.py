"""Estimators of scikit-learn as networks, and networks as estimators."""

import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import gpubp
import gpubp.sklearn
from gpubp.data import Preprocessing

X = np.random.default_rng(0).normal(size=(40, 5))
SUM = X[:, 0] - X[:, 1]
TARGETS: dict[str, Any] = {
    "binary": np.array(["no", "yes"])[(SUM > 0).astype(int)],
    "multiclass": np.digitize(SUM, [-0.5, 0.5]) * 2 + 3,
    "multilabel": (X[:, :3] > 0).astype(int),
    "value": SUM,
    "values": X[:, :3] * [1, 2, 3],
    "counts": np.round(np.exp(SUM)),
}
NEAR = {"float32": 2e-6, "float64": 4e-15}  # about 16 roundings


def settings(kind: str, **given: Any) -> dict[str, Any]:
    plain = {"hidden_layer_sizes": (6, 4), "activation": "tanh", "random_state": 0}
    return plain | ({"loss": "poisson"} if kind == "counts" else {}) | given


def fitted(kind: str, dtype: str = "float64", family: Any = None, **given: Any) -> Any:
    """An estimator, scikit-learn's own unless `family` is another module with the two, after two epochs."""
    y, regression = TARGETS[kind], kind in ("value", "values", "counts")
    make = getattr(family, "MLPRegressor" if regression else "MLPClassifier") if family else None
    estimator = (make or (MLPRegressor if regression else MLPClassifier))(**settings(kind, **given))
    classes = {} if regression else {"classes": np.arange(3) if kind == "multilabel" else np.unique(y)}
    for _ in range(2):
        estimator.partial_fit(X.astype(dtype), y, **classes)
    return estimator


def outputs(estimator: Any, x: Any) -> Any:
    return estimator.predict_proba(x) if hasattr(estimator, "classes_") else estimator.predict(x)


def net_outputs(net: gpubp.MLP, x: Any) -> Any:
    return net.predict_proba(x) if net.activations[-1].name in ("softmax", "sigmoid") else net.predict(x)


def assert_near(found: Any, wanted: Any, dtype: str = "float64") -> None:
    assert found.shape == wanted.shape
    assert found.dtype == dtype
    np.testing.assert_allclose(found, wanted, rtol=NEAR[dtype], atol=NEAR[dtype] / 4)


# -- from scikit-learn -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("kind", TARGETS)
def test_a_network_says_what_the_estimator_says(kind: str, dtype: str) -> None:
    estimator = fitted(kind, dtype)
    net, x = gpubp.MLP.from_sklearn(estimator, "cpu"), X.astype(dtype)
    assert (net.dtype, net.sizes) == (dtype, [5, 6, 4, estimator.n_outputs_])
    assert_near(net_outputs(net, x), outputs(estimator, x), dtype)
    before = net.get_parameters()
    estimator.coefs_[0] += 1  # the network's are copies
    np.testing.assert_array_equal(net.get_parameters()[0][0], before[0][0])


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), (7,), (3, 4, 5)])
def test_activations_and_depths(activation: str, hidden: tuple[int, ...]) -> None:
    estimator = fitted("multiclass", activation=activation, hidden_layer_sizes=hidden)
    assert_near(gpubp.MLP.from_sklearn(estimator).predict_proba(X), estimator.predict_proba(X))


@pytest.mark.parametrize("kind", TARGETS)
def test_a_step_of_the_network_is_a_step_of_the_estimator(kind: str) -> None:
    """So that the loss is scikit-learn's: one batch of all rows, plain descent, no penalty."""
    plain = {"solver": "sgd", "momentum": 0.0, "alpha": 0.0, "learning_rate_init": 0.1}
    estimator = fitted(kind, **plain)
    net, y = gpubp.MLP.from_sklearn(estimator, "cpu"), TARGETS[kind]
    net.train_step(X, np.searchsorted(np.unique(y), y) if kind in ("binary", "multiclass") else y, gpubp.SGD(0.1))
    estimator.partial_fit(X, y)
    for found, wanted in zip([*net.weights, *net.biases], estimator.coefs_ + estimator.intercepts_, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("kind", "given", "loss"),
    [
        ("multiclass", {"activation": "logistic"}, "CrossEntropy(reduction='mean')"),
        ("multilabel", {"activation": ["gelu", gpubp.LeakyReLU(0.2)]}, "BinaryCrossEntropy(reduction='mean')"),
        ("binary", {"loss": gpubp.SquaredError()}, "SquaredError(half=False, reduction='mean')"),
        ("value", {"activation": ("logistic", "selu")}, "SquaredError(half=True, reduction='mean')"),
        ("values", {"loss": "huber"}, "Huber(delta=1.0, reduction='mean')"),
        ("value", {"loss": "absolute_error"}, "AbsoluteError(reduction='mean')"),
        ("value", {"loss": gpubp.Quantile(0.9)}, "Quantile(q=0.9, reduction='mean')"),
        ("counts", {"activation": np.array(["tanh", "relu"])}, "Poisson(reduction='mean')"),
    ],
)
@pytest.mark.parametrize("dtype", NEAR)
def test_estimators_of_gpubp(kind: str, given: dict[str, Any], loss: str, dtype: str) -> None:
    estimator = fitted(kind, dtype, gpubp.sklearn, device="cpu", dropout=0.25, **given)
    net, x = gpubp.MLP.from_sklearn(estimator, "cpu"), X.astype(dtype)
    assert (repr(net.loss), net._network.structure.dropout) == (loss, [0.0, 0.25, 0.25])
    assert_near(net_outputs(net, x), outputs(estimator, x), dtype)


def test_the_names_of_columns_and_classes_travel(tmp_path: Path) -> None:
    table = polars.DataFrame(X, schema=["a", "b", "c", "d", "größe"])
    estimator = MLPClassifier((3,), random_state=0).partial_fit(table, TARGETS["binary"], classes=["no", "yes"])
    gpubp.MLP.from_sklearn(estimator).save(tmp_path / "model.safetensors")
    net = gpubp.load(tmp_path / "model.safetensors")
    known = Preprocessing.from_config(net.metadata["preprocessing"])
    assert (known.features, known.classes) == (["a", "b", "c", "d", "größe"], ["no", "yes"])
    assert [known.classes[index] for index in net.predict(X)] == estimator.predict(table).tolist()
    again = net.to_sklearn()
    assert again.feature_names_in_.tolist() == table.columns
    assert again.predict(table).tolist() == estimator.predict(table).tolist()


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([7, 2], [2, 7]),
        ([1.0, 0.0], [0, 1]),
        ([True, False], ["False", "True"]),
        (["x", "a", "b"], ["a", "b", "x"]),
        (np.array(["x", "a"], object), ["a", "x"]),
        (np.array([3, 250], np.uint8), [3, 250]),
    ],
    ids=str,
)
def test_classes_of_every_kind(labels: Any, names: list[Any]) -> None:
    estimator = MLPClassifier((3,)).partial_fit(X[: len(labels)], labels, classes=np.unique(labels))
    assert gpubp.MLP.from_sklearn(estimator).metadata["preprocessing"]["classes"] == names


def imitation(**attributes: Any) -> Any:
    """What a fitted regressor has that counts."""
    coefs, intercepts = [np.ones((2, 3)), np.ones((3, 1))], [np.ones(3), np.ones(1)]
    fit = {"coefs_": coefs, "intercepts_": intercepts, "activation": "relu", "out_activation_": "identity"}
    return SimpleNamespace(**fit | {"loss": "squared_error"} | attributes)


def test_scikit_learn_is_not_needed_to_read_an_estimator(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sklearn", "sklearn.neural_network"):
        monkeypatch.setitem(sys.modules, name, None)  # an import now fails
    net = gpubp.MLP.from_sklearn(imitation())
    assert net.predict([[1.0, 2.0]]) == [13.0]
    with pytest.raises(gpubp.GpubpError, match=r"pip install 'gpubp\[sklearn\]'"):
        net.to_sklearn()


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (MLPClassifier(), "must be fitted, but this MLPClassifier is not; call its fit"),
        (gpubp.sklearn.MLPRegressor(), "must be fitted, but this MLPRegressor"),
        (PCA(), "must be a fitted MLPClassifier or MLPRegressor, got PCA$"),
        (None, "got NoneType$"),
        (gpubp.Adam(0.1), "got Adam$"),
        (make_pipeline(StandardScaler(), MLPRegressor()), r"got Pipeline; give the last step: pipe\[-1\]"),
        (SimpleNamespace(best_estimator_=1), "give its best_estimator_"),
        (imitation(coefs_=[]), "coefs_ has 0 entries and intercepts_ 2"),
        (imitation(coefs_=np.ones((2, 2))), "coefs_ must be a list with one array a layer, got ndarray"),
        (imitation(coefs_=[np.ones((2, 3)), [[1], [2, 3]]]), r"coefs_\[1\] is not a rectangular array"),
        (imitation(coefs_=[np.ones((2, 3)), np.array([["a"]])]), r"coefs_\[1\] has dtype <U1"),
        (imitation(coefs_=[np.ones((2, 3)), np.ones(3)]), r"coefs_\[1\] has shape \(3,\), but \(inputs, outputs\)"),
        (imitation(coefs_=[np.ones((2, 3)), np.ones((4, 1))]), r"coefs_\[1\] takes 4 inputs, but coefs_\[0\] gives 3"),
        (imitation(intercepts_=[np.ones(3), np.ones(2)]), r"intercepts_\[1\] has shape \(2,\), but \(1,\) is needed"),
        (imitation(intercepts_=[np.ones(3), [np.nan]]), r"biases\[1\] has 1 values that are not finite"),
        (imitation(activation="rleu"), "activation 'rleu' is not known; did you mean 'relu'"),
        (imitation(activation=["relu", "relu"]), "activation has 2 entries, but there are 1 hidden layers"),
        (imitation(activation=None), "activation must be a name or a gpubp Activation, got None"),
        (imitation(out_activation_="step"), "activation 'step' is not known"),
        (imitation(loss="huper"), "loss 'huper' is not known; did you mean 'huber'"),
        (imitation(out_activation_="softmax", loss="poisson", classes_=[0, 1]), "classes_ has shape .*tells 1 classes"),
        (imitation(out_activation_="logistic", loss="log_loss", classes_=[1]), "classes_ has shape .*tells 2 classes"),
    ],
)
def test_what_is_no_estimator(estimator: Any, message: str) -> None:
    with pytest.raises(gpubp.DataError, match=message):
        gpubp.MLP.from_sklearn(estimator)


# -- to scikit-learn ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("kind", TARGETS)
def test_there_and_back(kind: str, dtype: str) -> None:
    estimator, x = fitted(kind, dtype), X.astype(dtype)
    again = gpubp.MLP.from_sklearn(estimator).to_sklearn()
    assert type(again) is type(estimator)
    assert again.get_params() == estimator.get_params() | {"random_state": None}
    np.testing.assert_array_equal(outputs(again, x), outputs(estimator, x))
    np.testing.assert_array_equal(again.predict(x), estimator.predict(x))
    assert again.score(x, TARGETS[kind]) == estimator.score(x, TARGETS[kind])
    parts = {name for name in vars(estimator) if name.endswith("_")} - {"loss_", "feature_names_in_"}
    assert parts <= vars(again).keys()
    np.testing.assert_array_equal(outputs(pickle.loads(pickle.dumps(again)), x), outputs(estimator, x))
    assert clone(again).get_params() == again.get_params()


@pytest.mark.parametrize("kind", TARGETS)
def test_learning_goes_on_in_scikit_learn(kind: str) -> None:
    plain = {"solver": "sgd", "momentum": 0.0, "random_state": 3}  # an optimizer without memory
    estimator = fitted(kind, **plain)
    again = gpubp.MLP.from_sklearn(estimator).to_sklearn().set_params(**plain)
    for each in (estimator, again):
        each.partial_fit(X, TARGETS[kind])
    for one, other in zip(estimator.coefs_ + estimator.intercepts_, again.coefs_ + again.intercepts_, strict=True):
        np.testing.assert_array_equal(one, other)
    for solver in ("adam", "lbfgs"):
        again = gpubp.MLP.from_sklearn(estimator).to_sklearn().set_params(solver=solver, warm_start=True, max_iter=2)
        before = outputs(again, X)
        with pytest.warns(match="onverge"):
            again.fit(X, TARGETS[kind])
        assert 0 < np.abs(outputs(again, X) - before).max() < 10


WIDTHS = [(output, width) for output in ("sigmoid", "fast_sigmoid", "identity", "exp") for width in (1, 2, 3)]


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize(("output", "width"), [("softmax", 2), ("softmax", 3), *WIDTHS])
def test_networks_of_gpubp(output: str, width: int, dtype: str) -> None:
    net = gpubp.MLP([5, 4, width], "fast_sigmoid", output, use_bias=[False, True], dtype=dtype, device="cpu", seed=1)
    estimator, x = net.to_sklearn(), X.astype(dtype)
    if output in ("identity", "exp"):
        assert_near(estimator.predict(x), net.predict(x), dtype)
        y = np.abs(X[:, :width])
    else:
        assert_near(estimator.predict_proba(x), net.predict_proba(x), dtype)
        np.testing.assert_array_equal(estimator.predict(x), net.predict(x))
        y = net.predict(x)
    estimator.partial_fit(x, y[:, 0] if y.shape[1:] == (1,) else y)
    units = 1 if (output, width) == ("softmax", 2) else width
    assert [coef.shape for coef in estimator.coefs_] == [(5, 4), (4, units)]
    assert_near(outputs(estimator, x), net_outputs(gpubp.MLP.from_sklearn(estimator), x), dtype)


def test_many_classes_and_their_names() -> None:
    net = gpubp.MLP([5, 30], device="cpu", seed=0)
    assert net.to_sklearn().classes_.tolist() == list(range(30))
    known = Preprocessing.as_it_is(5, 30, [f"{k:02}" for k in range(30)])
    net.metadata["preprocessing"] = known.config()
    assert net.to_sklearn().predict(X).tolist() == [f"{k:02}" for k in net.predict(X)]


def test_inputs_that_are_scaled_have_no_names() -> None:
    net = gpubp.MLP([2, 3, 2], device="cpu", seed=0)
    known = Preprocessing("classification", (2,), [1.0, 2.0], [3.0, 4.0], features=["a", "b"], classes=["x", "y"])
    net.metadata["preprocessing"] = known.config()
    estimator = net.to_sklearn()
    assert not hasattr(estimator, "feature_names_in_")
    assert estimator.predict(X[:, :2]).tolist() == [["x", "y"][index] for index in net.predict(X[:, :2])]


def named(*classes: Any) -> dict[str, Any]:
    return {"preprocessing": Preprocessing.as_it_is(3, 3, list(classes)).config()}


@pytest.mark.parametrize(
    ("activation", "output", "metadata", "message"),
    [
        ("gelu", "softmax", {}, "no hidden activation 'gelu'"),
        (["relu", "tanh"], "softmax", {}, "one activation for all hidden layers, but this network has relu, tanh"),
        ("relu", "softplus", {}, "no output activation 'softplus'"),
        ("relu", "softmax", named("a", "b"), "names the classes a, b, but 3 different ones in ascending order"),
        ("relu", "softmax", named("b", "a", "c"), "names the classes b, a, c, but 3"),
        ("relu", "softmax", named("a", "a", "c"), "names the classes a, a, c, but 3"),
    ],
    ids=str,
)
def test_what_scikit_learn_cannot_express(activation: Any, output: str, metadata: dict[str, Any], message: str) -> None:
    net = gpubp.MLP([3, 4, 4, 3], activation, output, device="cpu", seed=0)
    net.metadata = metadata
    with pytest.raises(gpubp.DataError, match=message):
        net.to_sklearn()


def test_a_softmax_of_one_output() -> None:
    with pytest.raises(gpubp.DataError, match="softmax of a single output"):
        gpubp.MLP([3, 1], device="cpu").to_sklearn()
