"""With the same random_state and float64, gpubp.sklearn's classes fit what scikit-learn's fit, to near rounding."""

import inspect
import warnings
from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import sklearn.neural_network
from sklearn.base import ClassifierMixin

import gpubp.sklearn

SIZES = {"hidden_layer_sizes": (5, 4), "max_iter": 12, "random_state": 3}
KINDS = ["MLPClassifier", "MLPRegressor"]
SOLVERS = {
    "plain": {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.1},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False, "learning_rate_init": 0.05},
    "nesterov": {"solver": "sgd", "learning_rate_init": 0.05},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.3, "learning_rate_init": 0.2},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.05, "n_iter_no_change": 1, "max_iter": 30},
    "adam": {"solver": "adam", "learning_rate_init": 0.01},
    "adam, its settings": {"solver": "adam", "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-2, "learning_rate_init": 0.1},
    "lbfgs": {"solver": "lbfgs"},
}

rng = np.random.default_rng(0)
X = rng.normal(size=(41, 6))
NEW = rng.normal(size=(9, 6))
NUMBERS = X[:, 0] - np.sin(X[:, 1]) + 0.1 * rng.normal(size=41)
WEIGHTS = rng.uniform(0, 2, 41) * (rng.random(41) > 0.1)
TARGETS = {  # by name: the class, its other settings, y
    "two classes": ("MLPClassifier", {}, np.where(NUMBERS > 0, "yes", "no")),
    "three classes": ("MLPClassifier", {}, np.digitize(NUMBERS, [-0.5, 0.5]) - 1),
    "labels": ("MLPClassifier", {}, (X[:, :3] > [[0.0, 0.3, -0.3]]).astype(int)),
    "values": ("MLPRegressor", {}, NUMBERS),
    "two outputs": ("MLPRegressor", {}, np.stack([NUMBERS, 3 * X[:, 2]], axis=1)),
    "counts": ("MLPRegressor", {"loss": "poisson"}, rng.poisson(np.exp(0.5 * NUMBERS)).astype(float)),
}


def same(act: Callable[[Any], object], target: str = "three classes", dtype: Any = np.float64, **settings: Any) -> Any:
    """gpubp's estimator, once it is seen to be, and to warn, as scikit-learn's after `act` has fitted each."""
    rtol = 1e-7 if dtype == np.float64 else 1e-3
    kind, more, y = TARGETS[target]
    fitted, warned = [], []
    for module, where in ((sklearn.neural_network, {}), (gpubp.sklearn, {"device": "cpu"})):
        estimator = getattr(module, kind)(**SIZES | more | settings | where)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            act(estimator)
        fitted.append(estimator)
        warned.append([(each.category, str(each.message)) for each in caught])
    theirs, ours = fitted
    assert warned[0] == warned[1]
    for name in (name for name in vars(theirs) if name.endswith("_")):
        close(getattr(ours, name), getattr(theirs, name), name, rtol)
    for method in ("predict", "predict_proba", "predict_log_proba"):
        if hasattr(theirs, method):
            close(*(getattr(each, method)(NEW.astype(dtype)) for each in (ours, theirs)), method, rtol)
    close(*(each.score(X.astype(dtype), y, WEIGHTS) for each in (ours, theirs)), "score", rtol)
    return ours


def close(actual: Any, expected: Any, name: str, rtol: float = 1e-7) -> None:
    if isinstance(expected, list):
        assert type(actual) is list, name
        for one, other in zip_longest(actual, expected):
            close(one, other, name, rtol)
    elif isinstance(expected, float | np.floating) or getattr(expected, "dtype", np.dtype(int)).kind == "f":
        assert isinstance(actual, float) if isinstance(expected, float) else actual.dtype == expected.dtype, name
        np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol / 100, err_msg=name)
    else:
        np.testing.assert_array_equal(actual, expected, err_msg=name, strict=isinstance(expected, np.ndarray))


def fit(target: str, **more: Any) -> Callable[[Any], object]:
    return lambda estimator: estimator.fit(X, TARGETS[target][2], **more)


# -- the interface -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_parameters_are_scikit_learns_and_then_some_by_keyword_alone(kind: str) -> None:
    theirs, ours = (
        list(inspect.signature(getattr(module, kind)).parameters.values())
        for module in (sklearn.neural_network, gpubp.sklearn)
    )
    assert [(each.name, each.kind, each.default) for each in ours[: len(theirs)]] == [
        (each.name, each.kind, each.default) for each in theirs
    ]
    assert len(ours) > len(theirs)
    assert {each.kind for each in ours[len(theirs) :]} == {inspect.Parameter.KEYWORD_ONLY}
    assert getattr(gpubp.sklearn, kind)().get_params() == {each.name: each.default for each in ours}
    for method in ("fit", "partial_fit", "predict", "score"):
        theirs, ours = (
            list(inspect.signature(getattr(getattr(module, kind), method)).parameters)
            for module in (sklearn.neural_network, gpubp.sklearn)
        )
        assert ours[: len(theirs)] == theirs


# -- the algorithm -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["three classes", "values"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers(solver: str, target: str) -> None:
    same(fit(target), target, **SOLVERS[solver])


@pytest.mark.parametrize(
    ("solver", "target"),
    [("adam", target) for target in TARGETS] + [("lbfgs", target) for target in TARGETS if target != "two outputs"],
)
def test_targets_and_weights(solver: str, target: str) -> None:
    same(fit(target), target, solver=solver)
    same(fit(target, sample_weight=WEIGHTS), target, solver=solver)


def test_lbfgs_of_two_outputs_has_the_gradient_of_its_value_and_reports_the_mean() -> None:
    """scikit-learn's value is the mean over the outputs, its gradient that of their sum."""
    y = TARGETS["two outputs"][2]
    for module, ratio in ((sklearn.neural_network, 2), (gpubp.sklearn, 1)):
        reg = module.MLPRegressor(**SIZES | {"max_iter": 2000}, solver="lbfgs", alpha=0.05, tol=0.01).fit(X, y)
        penalty = 0.5 * reg.alpha * sum(np.sum(coef**2) for coef in reg.coefs_) / len(X)
        assert reg.loss_ == pytest.approx(0.5 * np.mean((reg.predict(X) - y) ** 2) + penalty)
        reg.set_params(alpha=0.0)
        (low, _, _), (_, slope, direction), (high, _, _) = (along(reg, y, step) for step in (-1e-5, 0.0, 1e-5))
        assert slope @ direction == pytest.approx(ratio * (high - low) / 2e-5, rel=1e-6)


def along(reg: Any, y: Any, step: float) -> tuple[float, Any, Any]:
    """The value and gradient so far from a fixed place in a fixed direction, and the direction."""
    draw = np.random.default_rng(1)
    count = sum(each.size for each in reg.coefs_ + reg.intercepts_)
    place, direction = draw.uniform(-1, 1, (2, count))
    if hasattr(reg, "_machine"):
        return *reg._loss_grad_lbfgs(place + step * direction, X, y, None), direction
    layers = [X, *(np.empty((len(X), coef.shape[1])) for coef in reg.coefs_)]
    others = [[np.empty_like(each) for each in like] for like in (layers[1:], reg.coefs_, reg.intercepts_)]
    return *reg._loss_grad_lbfgs(place + step * direction, X, y, None, layers, *others), direction


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_activations(activation: str) -> None:
    same(fit("two classes"), "two classes", activation=activation, learning_rate_init=0.05)


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 7},  # and a rest of 6
        {"batch_size": 41},
        {"batch_size": 1000},
        {"batch_size": 10, "shuffle": False},
        {"batch_size": 8, "alpha": 10.0},
        {"hidden_layer_sizes": 3, "alpha": 0.0},
        {"hidden_layer_sizes": [4, 3, 2]},
    ],
    ids=str,
)
def test_batches_and_sizes(settings: dict[str, Any]) -> None:
    for solver in ("sgd", "adam"):
        same(fit("three classes"), solver=solver, learning_rate_init=0.02, **settings)


@pytest.mark.parametrize("solver", ["nesterov", "adaptive", "adam", "lbfgs"])
def test_the_training_stops_where_scikit_learns_does(solver: str) -> None:
    settings = {**SOLVERS[solver], "max_iter": 200, "tol": 0.02, "n_iter_no_change": 2}
    ours = same(fit("values"), "values", **settings)
    assert 3 < ours.n_iter_ < ours.max_iter


@pytest.mark.parametrize("target", TARGETS)
def test_early_stopping(target: str) -> None:
    settings = {"early_stopping": True, "validation_fraction": 0.3, "n_iter_no_change": 3, "learning_rate_init": 0.03}
    ours = same(fit(target), target, **settings)
    assert len(ours.validation_scores_) == ours.n_iter_
    same(fit(target, sample_weight=WEIGHTS), target, **settings, solver="sgd")


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("target", TARGETS)
def test_partial_fits(target: str, solver: str) -> None:
    y = TARGETS[target][2]

    def act(estimator: Any) -> None:
        if isinstance(estimator, ClassifierMixin):
            estimator.partial_fit(X[:9], y[:9], classes=range(3) if target == "labels" else np.unique(y))
        for start in (0, 20, 35, 3):
            part = slice(start, start + 20)
            estimator.partial_fit(X[part], y[part], sample_weight=WEIGHTS[part])
        estimator.set_params(max_iter=2).fit(X, y)
        estimator.partial_fit(X, y)

    same(act, target, solver=solver, batch_size=8, learning_rate_init=0.02)


@pytest.mark.parametrize("solver", SOLVERS)
def test_warm_starts(solver: str) -> None:
    y = TARGETS["three classes"][2]

    def act(estimator: Any) -> None:
        estimator.set_params(max_iter=3).fit(X, y)
        estimator.set_params(max_iter=5).fit(X[::-1], y[::-1])

    same(act, **SOLVERS[solver], warm_start=True)


def test_a_warm_start_goes_on_to_a_better_validation_score() -> None:
    def act(estimator: Any) -> None:
        for epochs in (1, 12):
            estimator.set_params(max_iter=epochs).fit(X, NUMBERS)

    ours = same(act, "values", early_stopping=True, warm_start=True, learning_rate_init=0.03)
    assert len(ours.validation_scores_) == 13
    assert ours.best_validation_score_ > ours.validation_scores_[0]


# -- what comes in, and what it leaves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [scipy.sparse.csr_array, scipy.sparse.csc_matrix], ids=["csr", "csc"])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_sparse_rows(make: Callable[[Any], Any], solver: str) -> None:
    rows, y = np.where(np.abs(X) > 0.7, X, 0), TARGETS["three classes"][2]
    ours = same(lambda estimator: estimator.fit(make(rows), y), solver=solver, batch_size=15)
    close(ours.predict_proba(make(rows)), ours.predict_proba(rows), "predict_proba")


def test_parameters_that_are_assigned() -> None:
    y = TARGETS["values"][2]

    def act(estimator: Any) -> None:
        estimator.fit(X, y)
        estimator.coefs_ = [0.5 * coef for coef in estimator.coefs_]
        estimator.intercepts_[0] = np.ones(5)
        estimator.intercepts_[1][2] = -1.0
        estimator.partial_fit(X, y)
        estimator.coefs_[0][0, 0] = 0.25

    same(act, "values")


def test_the_generator_is_left_where_scikit_learn_leaves_it() -> None:
    draws = []

    def act(estimator: Any) -> None:
        generator = np.random.RandomState(5)
        estimator.set_params(random_state=generator).fit(X, TARGETS["two classes"][2])
        draws.append(generator.randint(1 << 30, size=3).tolist())

    same(act, "two classes", early_stopping=True)
    assert draws[0] == draws[1]


@pytest.mark.parametrize("settings", [{"early_stopping": True, "tol": 0.1, "n_iter_no_change": 2}, SOLVERS["adaptive"]])
def test_what_is_printed(settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    printed = []

    def act(estimator: Any) -> None:
        fit("values")(estimator)
        printed.append(capsys.readouterr().out)

    same(act, "values", verbose=True, **settings)
    assert "Iteration 1, loss = " in printed[0]
    assert printed[0] == printed[1]


@pytest.mark.parametrize("solver", SOLVERS.keys() - {"lbfgs"})
def test_float32(solver: str) -> None:
    for target in TARGETS:
        y = TARGETS[target][2]
        same(lambda estimator, y=y: estimator.fit(X.astype(np.float32), y), target, np.float32, **SOLVERS[solver])


@pytest.mark.parametrize("target", ["labels", "counts"])
def test_lbfgs_computes_in_float64_whatever_it_is_given(target: str) -> None:
    narrow = X.astype(np.float32)

    def act(estimator: Any) -> None:
        ours = type(estimator).__module__.startswith("gpubp")
        estimator.fit(narrow if ours else narrow.astype(np.float64), TARGETS[target][2])

    same(act, target, solver="lbfgs")


def test_a_float32_fit_predicts_in_float32_whatever_it_is_given() -> None:
    reg = gpubp.sklearn.MLPRegressor(**SIZES, dtype="float32", device="cpu", tol=1.0, n_iter_no_change=1)
    reg.fit(X, NUMBERS)
    assert reg.predict(X).dtype == reg.predict(X.astype(np.float32)).dtype == np.float32
    np.testing.assert_array_equal(reg.predict(X), reg.predict(X.astype(np.float32)))


def test_a_warm_start_that_finds_nothing_better_ends_with_the_best_weights_of_before() -> None:
    """Where scikit-learn has written over them and ends with its last."""
    settings = {"early_stopping": True, "warm_start": True, "validation_fraction": 0.3, "learning_rate_init": 0.1}
    reg = gpubp.sklearn.MLPRegressor(**SIZES | settings, device="cpu", tol=10.0, n_iter_no_change=1).fit(X, NUMBERS)
    best = [coef.copy() for coef in reg.coefs_]
    score = reg.best_validation_score_
    reg.set_params(random_state=3, scoring=lambda *given: -1e9).fit(X, NUMBERS)  # every epoch is worse
    assert reg.best_validation_score_ == score
    for kept, before in zip(reg.coefs_, best, strict=True):
        np.testing.assert_array_equal(kept, before)
