"""What gpubp.sklearn's estimators refuse: one line that names the parameter, its value and what was expected."""

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn_small import LABELS, NAMES, WEIGHTS, T, U, V, X, Y, Z, classifier, regressor, same

import gpubp

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

LBFGS = {"solver": "lbfgs"}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"activation": "rely"}, r"activation 'rely' is not known; did you mean 'relu'\?"),
    ({"activation": gpubp.ELU}, r"'activation' parameter .* instance of 'gpubp.activations.Activation'.* Got <class"),
    ({"activation": None}, r"'activation' parameter .* Got None"),
    ({"activation": ["relu"]}, "activation has 1 entries, but there are 2 hidden layers"),
    ({"activation": ("relu", "tanh", "relu")}, "activation has 3 entries, but there are 2 hidden layers"),
    ({"activation": ["relu", 3]}, "activation must be a name or a gpubp Activation, got 3"),
    ({"activation": ["relu", gpubp.ELU]}, r"activation must be an object, got the class ELU; call it: ELU\(\)"),
    ({"solver": "adamm"}, r"solver='adamm' is not known; did you mean 'adam'\? known: lbfgs, adagrad, adam"),
    ({"solver": "SGD"}, r"solver='SGD' is not known; did you mean 'sgd'\?"),
    ({"solver": gpubp.Adam}, "'solver' parameter .* instance of 'gpubp.optimizers.Optimizer'.* Got <class"),
    ({"solver": 3}, "'solver' parameter .* Got 3"),
    ({"schedule": "cosin"}, r"schedule 'cosin' is not known; did you mean 'cosine'\?"),
    ({"schedule": gpubp.Cosine}, r"schedule must be an object, got the class Cosine; call it: Cosine\(\)"),
    ({"schedule": 0.9}, "schedule must be a name or a gpubp Schedule, got 0.9"),
    ({"schedule": lambda step: "fast"}, "schedule=<function .* gave 'fast', not a finite number"),
    ({"schedule": lambda step: np.nan}, "schedule=<function .* gave nan, not a finite number"),
    ({"dropout": 1.0}, r"'dropout' parameter .* range \[0.0, 1.0\) or an array-like. Got 1.0"),
    ({"dropout": "half"}, "'dropout' parameter .* Got 'half'"),
    ({"dropout": None}, "'dropout' parameter .* Got None"),
    ({"dropout": [0.2]}, "dropout has 1 entries, but this network needs 3"),
    ({"dropout": [0.2, -0.1, 0]}, r"dropout is a probability in \[0, 1\), got -0.1"),
    ({"dropout": [0.2, "a", 0]}, r"dropout is a probability in \[0, 1\), got 'a'"),
    ({"clip_norm": 0}, r"'clip_norm' parameter .* range \(0.0, inf\) or None. Got 0"),
    ({"clip_norm": "no"}, "'clip_norm' parameter .* Got 'no'"),
    ({"dtype": "float16"}, "'dtype' parameter .*'float32'.* Got 'float16'"),
    ({"dtype": int}, "'dtype' parameter .* Got <class 'int'>"),
    ({"device": "gpu"}, "device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got 'gpu'"),
    ({"device": 0}, "'device' parameter .* instance of 'str'. Got 0"),
    ({"restore_best_weights": "yes"}, "'restore_best_weights' parameter .* Got 'yes'"),
    ({"scoring": 3}, "'scoring' parameter .* a callable or None. Got 3"),
    ({"scoring": ["accuracy"]}, r"'scoring' parameter .* Got \['accuracy'\]"),
    ({"scoring": "accurate", "early_stopping": True}, "'accurate' is not a valid scoring value"),
    ({"scoring": lambda *given: "good", "early_stopping": True}, "scoring=<function .* gave 'good', not a finite"),
    ({"scoring": lambda *given: np.nan, "early_stopping": True}, "scoring=<function .* gave nan, not a finite number"),
    ({"loss": "hubert"}, "'loss' parameter .* or an instance of 'gpubp.losses.Loss'. Got 'hubert'"),
    ({"loss": gpubp.Huber}, "'loss' parameter .* Got <class 'gpubp.losses.Huber'>"),
    ({"loss": gpubp.SquaredError(reduction="sum")}, r"loss=SquaredError\(.*'sum'\) is a sum.*: reduction='mean'"),
    ({"hidden_layer_sizes": (5, 2.5)}, r"hidden_layer_sizes must be integers, got \[5, 2.5\]"),
    ({"hidden_layer_sizes": [[5], [5, 5]]}, r"hidden_layer_sizes must be integers, got \[\[5\], \[5, 5\]\]"),
    ({"hidden_layer_sizes": (5, 0)}, r"hidden_layer_sizes must be > 0, got \[5, 0\]"),
    ({**LBFGS, "dropout": 0.5}, "dropout=0.5 needs a stochastic solver, such as 'adam', not 'lbfgs'"),
    ({**LBFGS, "schedule": "cosine"}, "schedule=cosine needs a stochastic solver"),
    ({**LBFGS, "clip_norm": 1.0}, "clip_norm=1.0 needs a stochastic solver"),
]
OF_CLASSIFIERS: list[tuple[dict[str, Any], str]] = [
    ({"class_weight": "even"}, "'class_weight' parameter .* Got 'even'"),
    ({"class_weight": {"ash", "elm"}}, "'class_weight' parameter .* Got {"),
    ({"class_weight": {"fir": 2}}, r"The classes, \['ash', 'elm', 'oak'\], are not in class_weight"),
    ({"class_weight": {"ash": -1}}, r"class_weight\['ash'\] must be a number at least 0, got -1"),
    ({"class_weight": {"ash": "big"}}, r"class_weight\['ash'\] must be a number at least 0, got 'big'"),
    ({"class_weight": {"ash": np.inf}}, r"class_weight\['ash'\] must be a number at least 0, got inf"),
    ({"class_weight": [1, 2, 3]}, "class_weight must be a dict or, for several labels, a list of dicts, got 1"),
]
OF_REGRESSORS: list[tuple[dict[str, Any], str]] = [
    ({"loss": gpubp.CrossEntropy()}, "loss='cross_entropy' needs output='softmax', got output='identity'"),
    ({"loss": gpubp.Poisson()}, r"y runs from -.*, but loss='poisson' takes targets in \[0, inf\]"),
]
VALIDATION: list[tuple[Any, str]] = [
    ((Z,), r"validation must be \(X, y\) or \(X, y, sample_weight\), got 1 entries"),
    (0.1, r"validation must be \(X, y\) or .*, got float"),
    (Z, r"validation must be \(X, y\) or .*, got ndarray"),
    ((Z, V[:5]), "validation: Found input variables with inconsistent numbers of samples"),
    ((Z[:, :2], V), "validation: X has 2 features, but MLPClassifier is expecting 4"),
    ((Z[:0], V[:0]), "validation: Found array with 0 sample"),
    ((Z * np.nan, V), "validation: Input X contains NaN"),
    ((Z, np.where(V == "ash", "yew", V)), "validation: `y` has classes not in `self.classes_`"),
    ((Z, V, np.ones(3)), "validation: sample_weight.shape == "),
    ((Z, V, -np.ones(25)), "validation: sample_weight must not be negative"),
    ((Z, V, np.zeros(25)), "validation: Sample weights must contain at least one non-zero"),
    ((None, None), "validation: .* y is None"),
]


def refused(message: str, act: Callable[[], Any]) -> None:
    """`act` raises a ValueError with this message, on one line, and not from inside NumPy."""
    with pytest.raises(ValueError, match=message) as error:
        act()
    raised = traceback.extract_tb(error.value.__traceback__)[-1].filename
    assert "/numpy/" not in raised
    if "/gpubp/" in raised and not message.startswith("validation"):  # which passes scikit-learn's own words on
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("settings", "message"), WRONG + OF_CLASSIFIERS, ids=str)
def test_settings_of_classifiers(settings: dict[str, Any], message: str) -> None:
    refused(message, lambda: classifier(**settings).fit(X, Y))


@pytest.mark.parametrize(("settings", "message"), WRONG + OF_REGRESSORS, ids=str)
def test_settings_of_regressors(settings: dict[str, Any], message: str) -> None:
    refused(message, lambda: regressor(**settings).fit(X, T))


@pytest.mark.parametrize("early_stopping", [False, True])
def test_validation_data(early_stopping: bool) -> None:
    for validation, message in VALIDATION:
        estimator = classifier(early_stopping=early_stopping)
        refused(message, lambda estimator=estimator, given=validation: estimator.fit(X, Y, validation=given))
    refused("validation: y has shape", lambda: regressor().fit(X, T, validation=(Z, np.stack([U, U], axis=1))))
    refused(r"validation=\(X, y\) needs a stochastic", lambda: classifier(**LBFGS).fit(X, Y, validation=(Z, V)))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_training_data(solver: str) -> None:
    some, one = np.where(np.arange(60) == 7, np.nan, T), regressor(solver=solver)
    refused("Input y contains NaN", lambda: one.fit(X, some))
    refused("Input y contains NaN", lambda: classifier(solver=solver).fit(X, some))
    refused("Input X contains NaN", lambda: one.fit(np.where(X > 2, np.nan, X), T))
    refused("Found array with 0 sample", lambda: one.fit(X[:0], T[:0]))
    refused("y has dtype <U3, but numbers are needed", lambda: one.fit(X, Y))
    refused("sample_weight.shape == .*, expected ", lambda: one.fit(X, T, WEIGHTS[:5]))
    refused("sample_weight must not be negative, its least is -", lambda: one.fit(X, T, WEIGHTS - 1))
    refused("Sample weights must contain at least one non-zero number", lambda: one.fit(X, T, 0 * WEIGHTS))
    refused("Input sample_weight contains NaN", lambda: one.fit(X, T, some))
    with pytest.raises(NotFittedError):
        regressor().predict(X)
    assert same(one.fit(X, T), regressor(solver=solver).fit(X, T))  # nothing of the above is left


@pytest.mark.parametrize(
    "settings",
    [{"solver": "sgd", "learning_rate_init": 1e30}, {"solver": gpubp.SGD(1e30), "dtype": "float32"}],
    ids=str,
)
def test_a_learning_rate_that_is_too_large(settings: dict[str, Any]) -> None:
    message = "Solver produced non-finite parameter weights"
    refused(message, lambda: regressor(**settings).fit(X, T, validation=(Z, U)))
    refused(message, lambda: [regressor(**settings, warm_start=True).fit(X, T)])
    for scoring in (None, "r2"):  # with the best weights restored there is nothing to complain of, as in scikit-learn
        kept = regressor(**settings, scoring=scoring, early_stopping=True).fit(X, T)
        assert np.isnan(kept.validation_scores_[-1])
        assert np.isfinite(kept.predict(X)).all()


@pytest.mark.parametrize(
    ("name", "layer", "value", "message"),
    [
        ("coefs_", 0, np.zeros((3, 6)), r"coefs_ are for \(features, outputs\) = \(3, 3\), but \(4, 3\) is needed"),
        ("coefs_", 2, np.zeros((5, 2)), r"coefs_ are for \(features, outputs\) = \(4, 2\), but \(4, 3\) is needed"),
        ("coefs_", 0, np.zeros((4, 7)), r"coefs_\[1\] has shape \(6, 5\), but \(7, 5\) is needed"),
        ("coefs_", 1, np.zeros(6), r"coefs_ must be a list with one matrix a layer, got \[\(4, 6\), \(6,\)"),
        ("intercepts_", 1, np.zeros(4), r"intercepts_\[1\] has shape \(4,\), but \(5,\) is needed"),
    ],
)
def test_parameters_of_the_wrong_shape(name: str, layer: int, value: Any, message: str) -> None:
    estimator = classifier().fit(X, Y)
    kept = getattr(estimator, name)[layer]
    getattr(estimator, name)[layer] = value
    refused(message, lambda: estimator.predict(X))
    refused(message, lambda: estimator.partial_fit(X, Y))
    getattr(estimator, name)[layer] = kept
    assert same(estimator, classifier().fit(X, Y))
    assert estimator.predict(X).tolist() == classifier().fit(X, Y).predict(X).tolist()


def test_too_few_parameters() -> None:
    estimator = classifier().fit(X, Y)
    estimator.intercepts_ = estimator.intercepts_[:2]
    refused("intercepts_ has 2 entries, but the network has 3 layers", lambda: estimator.predict(X))
    estimator.coefs_ = []
    refused(r"coefs_ must be a list with one matrix a layer, got \[\]", lambda: estimator.predict(X))


def test_partial_fits() -> None:
    refused("classes must be passed on the first call", lambda: classifier().partial_fit(X, Y))
    refused("`y` has classes not in", lambda: classifier().partial_fit(X, Y, classes=NAMES[:2]))
    refused("partial_fit does not support early_stopping", lambda: regressor(early_stopping=True).partial_fit(X, T))
    refused("y has 3 outputs, but this estimator has learnt 1", lambda: regressor().fit(X, T).partial_fit(X, LABELS))
    with pytest.raises(AttributeError, match="has no attribute 'partial_fit'"):
        regressor(solver="lbfgs").partial_fit(X, T)


@pytest.mark.parametrize("value", [None, 3, "weights"])
def test_parameters_that_are_no_lists(value: Any) -> None:
    for name in ("coefs_", "intercepts_"):
        estimator = classifier().fit(X, Y)
        setattr(estimator, name, value)
        refused(rf"{name} must be a list with one|{name} has", lambda: estimator.predict(X))  # noqa: B023


def test_parameters_that_are_no_numbers() -> None:
    estimator = regressor().fit(X, T)
    estimator.intercepts_[1] = np.array(list("abcde"))
    refused(r"intercepts_\[1\] has dtype <U1, but numbers are needed", lambda: estimator.predict(X))


def test_a_scorer_that_takes_no_weights() -> None:
    reg = regressor(early_stopping=True, scoring=lambda fitted, x, y: 0.0)
    refused(
        r"scoring=<function .* cannot be called as scorer\(estimator, X, y, sample_weight\): got an unexpected keyword",
        lambda: reg.fit(X, T, WEIGHTS),
    )
