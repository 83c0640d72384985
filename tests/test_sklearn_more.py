"""What gpubp.sklearn's estimators do beyond scikit-learn's: their further parameters, validation data, dataframes."""

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.metrics import accuracy_score, log_loss, mean_poisson_deviance, r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from sklearn_small import (
    LABELS,
    NAMES,
    STILL,
    WEIGHTS,
    T,
    U,
    V,
    X,
    Y,
    Z,
    classifier,
    frame,
    own_components,
    parameters,
    regressor,
    rng,
    same,
)

import gpubp

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def own() -> Iterator[tuple[Any, Any]]:
    with own_components() as components:
        yield components


# -- activations, losses, solvers, schedules ---------------------------------------------------------------------------


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize(
    ("activation", "functions"),
    [
        ("silu", [lambda z: z * sigmoid(z)] * 2),
        (gpubp.LeakyReLU(0.2), [lambda z: np.where(z > 0, z, 0.2 * z)] * 2),
        (["tanh", "softplus"], [np.tanh, lambda z: np.log1p(np.exp(z))]),
        (("logistic", gpubp.ELU(0.5)), [sigmoid, lambda z: np.where(z > 0, z, 0.5 * np.expm1(z))]),
        (np.array(["sigmoid", "relu"]), [sigmoid, lambda z: np.maximum(z, 0)]),
        ("cosinus", [np.cos] * 2),
        (["cosinus", "identity"], [np.cos, lambda z: z]),
    ],
    ids=str,
)
def test_activations(own: Any, activation: Any, functions: list[Callable[[Any], Any]]) -> None:
    estimator = regressor(activation=activation, learning_rate_init=0.01, max_iter=30).fit(X, T)
    assert estimator.loss_curve_[-1] < estimator.loss_curve_[0]
    a = X
    for W, b, function in zip(estimator.coefs_, estimator.intercepts_, [*functions, lambda z: z], strict=True):
        a = function(a @ W + b)
    np.testing.assert_allclose(estimator.predict(X), a[:, 0], rtol=1e-10)


@pytest.mark.parametrize(
    ("loss", "of_errors"),
    [
        ("squared_error", lambda e: 0.5 * e**2),
        ("absolute_error", np.abs),
        ("huber", lambda e: np.where(np.abs(e) <= 1, 0.5 * e**2, np.abs(e) - 0.5)),
        ("quantile", lambda e: 0.5 * np.abs(e)),
        (gpubp.Quantile(0.9), lambda e: np.where(e < 0, -0.9 * e, 0.1 * e)),  # e is the prediction less the truth
        ("own", lambda e: np.log(np.cosh(e))),
    ],
    ids=str,
)
def test_losses(own: Any, loss: Any, of_errors: Callable[[Any], Any]) -> None:
    loss = own[1]() if loss == "own" else loss
    estimator = regressor(loss=loss, **STILL).fit(X, T, validation=(Z, U, np.arange(25)))
    assert estimator.loss_ == pytest.approx(of_errors(estimator.predict(X) - T).mean())
    by_row = of_errors(estimator.predict(Z) - U)
    assert estimator.validation_loss_curve_ == [pytest.approx(np.average(by_row, weights=np.arange(25)))]
    learned = regressor(loss=loss, learning_rate_init=0.01, max_iter=20).fit(X, T).loss_curve_
    assert learned[-1] < 0.9 * learned[0]


@pytest.mark.parametrize(("loss", "share"), [(gpubp.Quantile(0.9), 0.9), ("quantile", 0.5), (gpubp.Quantile(0.1), 0.1)])
def test_a_quantile_is_one(loss: Any, share: float) -> None:
    x = rng.uniform(-1, 1, size=(1000, 1))
    y = x[:, 0] + (1 + x[:, 0]) * rng.exponential(size=1000)
    estimator = regressor(loss=loss, hidden_layer_sizes=(8,), max_iter=60, learning_rate_init=0.02).fit(x, y)
    assert np.mean(y < estimator.predict(x)) == pytest.approx(share, abs=0.03)


def test_the_loss_of_validation_data_is_half_of_poissons_deviance() -> None:
    counts, others = (rng.poisson(np.exp(a[:, 0])) for a in (X, Z))
    estimator = regressor(loss="poisson").fit(X, counts, validation=(Z, others))
    expected = mean_poisson_deviance(others, estimator.predict(Z)) / 2
    assert estimator.validation_loss_curve_[-1] == pytest.approx(expected)


def test_a_classifier_with_a_loss_of_its_own(own: Any) -> None:
    for loss, ends in ((gpubp.SquaredError(), None), (own[1](), lambda e: np.log(np.cosh(e)))):
        estimator = classifier(loss=loss, **STILL).fit(X, Y)
        errors = estimator.predict_proba(X) - (Y[:, None] == NAMES)
        assert estimator.loss_ == pytest.approx((ends or np.square)(errors).sum(axis=1).mean())
        learned = classifier(loss=loss, activation="tanh", learning_rate_init=0.05, max_iter=30).fit(X, Y)
        assert learned.score(X, Y) > 0.9
        np.testing.assert_allclose(learned.predict_proba(X).sum(axis=1), 1)


@pytest.mark.parametrize(
    ("name", "first_step"),
    [
        ("adamw", lambda g, rate: rate * np.sign(g)),
        ("rmsprop", lambda g, rate: rate * 10 * np.sign(g)),  # g / √(0.01 g²)
        ("adagrad", lambda g, rate: rate * np.sign(g)),
    ],
)
def test_a_solver_by_name_has_the_rate_of_learning_rate_init(name: str, first_step: Callable[..., Any]) -> None:
    before = regressor(**STILL).fit(X, T)
    after = regressor(solver=name, learning_rate_init=0.03, alpha=0.0, batch_size=60, max_iter=1).fit(X, T)
    gradient = np.mean(before.predict(X) - T)  # of the last bias
    step = before.intercepts_[-1][0] - after.intercepts_[-1][0]
    assert step == pytest.approx(first_step(gradient, 0.03), rel=1e-5)


def test_a_solver_by_object() -> None:
    given = gpubp.SGD(0.02, momentum=0.9, nesterov=True)
    settings, held = {"alpha": 0.01, "batch_size": 20}, dict(vars(given))
    estimator = classifier(solver=given, learning_rate_init=123.0, **settings).fit(X, Y)
    assert same(estimator, classifier(solver="sgd", learning_rate_init=0.02, **settings).fit(X, Y))
    assert vars(given) == held
    assert same(clone(estimator).fit(X, Y), estimator)
    used = gpubp.SGD(0.02, momentum=0.9, nesterov=True)
    gpubp.MLP([4, 3], seed=0, device="cpu").fit(X, np.zeros(60, int), optimizer=used, epochs=1, verbose=0)
    assert same(classifier(solver=used, **settings).fit(X, Y), estimator)


def test_alpha_and_the_decay_of_an_optimizer() -> None:
    def fitted(alpha: float, solver: Any) -> Any:
        return classifier(solver=solver, alpha=alpha, batch_size=60).fit(X, Y)

    assert same(fitted(0.0, gpubp.SGD(0.1, weight_decay=0.3)), fitted(0.1 * 60, gpubp.SGD(0.1, weight_decay=0.2)))
    assert same(fitted(0.0, gpubp.AdamW(0.1)), fitted(5.0, gpubp.AdamW(0.1)))
    assert not same(fitted(0.0, gpubp.Adam(0.1)), fitted(5.0, gpubp.Adam(0.1)))


def test_a_grid_search_over_objects() -> None:
    grid = {
        "solver": [gpubp.SGD(1e-6), gpubp.AdamW(0.05)],
        "activation": [gpubp.LeakyReLU(0.1), ["tanh", "relu"]],
        "schedule": [gpubp.Cosine()],
    }
    search = GridSearchCV(classifier(batch_size=10), grid, cv=2, error_score="raise").fit(X, Y)
    assert search.best_params_["solver"] is grid["solver"][1]
    scores = search.cv_results_["mean_test_score"]
    assert search.best_score_ == max(scores) > min(scores)


@pytest.mark.parametrize("schedule", ["linear", gpubp.Linear(), lambda step: 1 - step / 15], ids=str)
def test_schedules(schedule: Any) -> None:
    far = {"loss": "absolute_error", "alpha": 0.0, "batch_size": 20, "hidden_layer_sizes": ()}
    before = regressor(**far | STILL).fit(X, np.full(60, -1e9))  # the bias has the gradient 1 at every step
    after = regressor(**far, solver=gpubp.SGD(0.5), schedule=schedule).fit(X, np.full(60, -1e9))
    assert before.intercepts_[-1] - after.intercepts_[-1] == pytest.approx(0.5 * sum(1 - np.arange(15) / 15))


def test_schedules_and_partial_fit() -> None:
    steps: list[int] = []
    estimator = regressor(schedule=lambda step: steps.append(step) or 0.5, batch_size=20)
    for _ in range(2):
        estimator.partial_fit(X, T)
    assert steps == [0, 1, 2, 3, 4, 5]
    assert regressor(schedule="inverse").partial_fit(X, T).n_iter_ == 1
    with pytest.raises(gpubp.DataError, match="schedule='linear' needs the number of steps, which neither partial_fit"):
        regressor(schedule="linear").partial_fit(X, T)


# -- dropout, weights of classes, clipping, dtypes ---------------------------------------------------------------------


def test_dropout_is_for_training_alone() -> None:
    settings = {"solver": gpubp.SGD(0.1), "alpha": 0.0, "max_iter": 1, "batch_size": 60, "activation": "tanh"}
    before = regressor(**settings | STILL, dropout=0.5).fit(X, T)
    first, second = (np.tanh(X @ before.coefs_[0] + before.intercepts_[0]), before.coefs_[1])
    last = np.tanh(first @ second + before.intercepts_[1]) @ before.coefs_[2] + before.intercepts_[2]
    np.testing.assert_allclose(before.predict(X), last[:, 0])  # nothing is dropped
    assert before.loss_ != pytest.approx(0.5 * np.mean((before.predict(X) - T) ** 2), rel=1e-3)


def test_dropout_by_layer() -> None:
    assert same(classifier(dropout=0.3).fit(X, Y), classifier(dropout=[0.0, 0.3, 0.3]).fit(X, Y))
    assert same(classifier(dropout=0.0).fit(X, Y), classifier().fit(X, Y))
    first = classifier(**STILL).fit(X, Y).coefs_[0]
    step = classifier(dropout=[0.999, 0, 0], alpha=0.0, batch_size=60, max_iter=1, solver=gpubp.SGD(1.0)).fit(X, Y)
    assert np.isclose(step.coefs_[0], first).all(axis=1).any()  # some feature was dropped from all 60 rows


def test_dropout_is_drawn_from_random_state() -> None:
    first, again = (classifier(dropout=0.4).fit(X, Y) for _ in range(2))
    assert same(first, again.fit(X, Y))
    assert not same(first, classifier(dropout=0.4, random_state=1).fit(X, Y))
    assert same(again.set_params(random_state=1).fit(X, Y), classifier(dropout=0.4, random_state=1).fit(X, Y))


def test_dropout_goes_on_over_partial_fits_and_pickles() -> None:
    whole, parted, repeated = (classifier(dropout=0.4, batch_size=15, shuffle=False) for _ in range(3))
    for estimator in (whole, parted, repeated):
        estimator.partial_fit(X, Y, classes=NAMES)
    parted = pickle.loads(pickle.dumps(parted))
    repeated._machine.network.steps = 0
    for estimator in (whole, parted, repeated):
        estimator.partial_fit(X, Y)
    assert same(whole, parted)
    assert not same(whole, repeated)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize(
    ("y", "class_weight"),
    [
        (Y, {"ash": 3, "oak": 0.5}),
        (Y, "balanced"),
        (Y == "elm", {True: 4}),
        (LABELS, "balanced"),
        (LABELS, [{0: 1, 1: 2}, {0: 3, 1: 1}, {0: 1, 1: 1}]),
    ],
    ids=str,
)
def test_class_weight_is_a_sample_weight(y: Any, class_weight: Any, solver: str) -> None:
    weights = compute_sample_weight(class_weight, y)
    one, other = classifier(class_weight=class_weight, solver=solver), classifier(solver=solver)
    assert same(one.fit(X, y), other.fit(X, y, weights))
    assert same(one.fit(X, y, WEIGHTS), other.fit(X, y, weights * WEIGHTS))
    assert not same(one, other.fit(X, y, WEIGHTS))


def test_class_weight_in_partial_fit_and_in_scores() -> None:
    weights = np.where(Y == "elm", 5.0, 1.0)
    one, other = classifier(class_weight={"elm": 5}), classifier()
    assert same(one.partial_fit(X, Y, classes=NAMES), other.partial_fit(X, Y, weights, NAMES))
    few = Y != "elm"  # one of the classes is not among them
    assert same(one.partial_fit(X[few], Y[few]), other.partial_fit(X[few], Y[few]))
    one.fit(X, Y, validation=(Z, V))
    assert one.validation_scores_[-1] == one.score(Z, V)
    assert one.validation_loss_curve_[-1] == pytest.approx(log_loss(V, one.predict_proba(Z)))
    with pytest.raises(ValueError, match=r"class_weight='balanced' needs all of y"):
        classifier(class_weight="balanced").partial_fit(X, Y, classes=NAMES)


def test_clip_norm_bounds_all_gradients_together() -> None:
    settings = {"alpha": 0.0, "batch_size": 60, "max_iter": 1, "solver": gpubp.SGD(0.5)}
    before = parameters(regressor(**STILL).fit(X, T))
    free = parameters(regressor(**settings).fit(X, T)) - before
    assert np.linalg.norm(free) > 0.5 * 0.1
    clipped = parameters(regressor(**settings, clip_norm=0.1).fit(X, T)) - before
    np.testing.assert_allclose(clipped, free * 0.5 * 0.1 / np.linalg.norm(free), rtol=1e-6)
    np.testing.assert_allclose(parameters(regressor(**settings, clip_norm=1e3).fit(X, T)) - before, free)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_dtypes(solver: str) -> None:
    for dtype, of_x, expected in [
        (None, np.float64, "float64"),
        (None, np.int32, "float64"),
        (None, np.float32, "float32" if solver == "adam" else "float64"),
        ("float32", np.float64, "float32"),
        ("float64", np.float32, "float64"),
        (np.float32, np.float64, "float32"),
        (np.dtype("float64"), np.float32, "float64"),
    ]:
        estimator = classifier(solver=solver, dtype=dtype).fit(X.astype(of_x), Y)
        assert {str(each.dtype) for each in [*estimator.coefs_, *estimator.intercepts_]} == {expected}
        assert estimator.predict_proba(X.astype(of_x)).dtype == expected
        assert clone(estimator).dtype == dtype


# -- scores and validation data ----------------------------------------------------------------------------------------


def test_validation_data_are_looked_at_and_no_more() -> None:
    alone, watched = classifier().fit(X, Y), classifier().fit(X, Y, validation=(Z, V))
    assert alone.validation_loss_curve_ is None
    assert same(alone, watched)
    for name, curve in (("validation_loss_curve_", log_loss), ("validation_scores_", None)):
        found = [classifier(max_iter=epochs).fit(X, Y) for epochs in (1, 2, 3, 4, 5)]
        by_hand = [curve(V, each.predict_proba(Z)) if curve else each.score(Z, V) for each in found]
        assert getattr(watched, name) == pytest.approx(by_hand)
    weighted = classifier().fit(X, Y, validation=[Z, V, np.arange(25)])
    assert weighted.validation_scores_[-1] == pytest.approx(weighted.score(Z, V, np.arange(25)))
    values = regressor().fit(X, T, validation=(Z, U))
    assert values.validation_scores_[-1] == pytest.approx(r2_score(U, values.predict(Z)))
    labels = classifier().fit(X, LABELS, validation=(Z, LABELS[:25]))
    assert labels.validation_scores_[-1] == labels.score(Z, LABELS[:25])


SCORES = [1.0, 3.0, 2.0, 2.5, 3.00001, 9.0]  # of the epochs; the fourth of them is the third without improvement


@pytest.mark.parametrize("how", ["a part of X", "validation"])
@pytest.mark.parametrize("restore", [True, False])
def test_early_stopping_watches_the_scorer(how: str, restore: bool) -> None:
    def fitted(epochs: int, **settings: Any) -> Any:
        scores = iter(SCORES)
        estimator = classifier(
            scoring=lambda *given: next(scores), early_stopping=True, n_iter_no_change=2, max_iter=epochs, **settings
        )
        return estimator.fit(X, Y, validation=(Z, V)) if how == "validation" else estimator.fit(X, Y)

    estimator = fitted(9, restore_best_weights=restore)
    assert estimator.n_iter_ == 5
    assert estimator.validation_scores_ == SCORES[:5]
    assert estimator.best_validation_score_ == 3.00001
    assert len(estimator.validation_loss_curve_) == 5
    estimator = fitted(4, restore_best_weights=restore)
    assert same(estimator, fitted(2 if restore else 4, restore_best_weights=False))
    if how == "validation":
        assert same(estimator, classifier(max_iter=2 if restore else 4).fit(X, Y))  # which has seen all of X


def test_scorers_by_name_and_with_weights() -> None:
    weights = np.arange(25.0)
    named = classifier(scoring="neg_log_loss", early_stopping=True).fit(X, Y, validation=(Z, V, weights))
    assert named.best_validation_score_ == max(named.validation_scores_)
    assert named.best_validation_score_ == pytest.approx(
        -log_loss(V, named.predict_proba(Z), sample_weight=weights, labels=NAMES)
    )
    values = regressor(scoring="neg_mean_absolute_error").fit(X, T, validation=(Z, U))
    assert values.validation_scores_[-1] == pytest.approx(-np.mean(np.abs(U - values.predict(Z))))


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_a_scorer_sees_the_rows_as_they_were_given(kind: str) -> None:
    def scorer(estimator: Any, rows: Any, y: Any) -> float:
        kinds.add(type(rows))
        assert list(rows.columns) == list("abcd")
        assert set(y) <= set(NAMES)
        last.append(parameters(estimator))
        return accuracy_score(y, estimator.predict(rows))

    kinds: set[type] = set()
    last: list[Any] = []
    rows = frame(kind)
    estimator = classifier(scoring=scorer, early_stopping=True, validation_fraction=0.2).fit(rows, Y)
    assert kinds == {type(rows)}
    assert not np.allclose(last[0], parameters(classifier(**STILL).fit(X, Y)))  # after one epoch
    plain = classifier(early_stopping=True, validation_fraction=0.2).fit(X, Y)
    assert estimator.validation_scores_ == plain.validation_scores_
    assert classifier(scoring=scorer).fit(rows, Y, validation=(rows[:20], Y[:20])).validation_scores_ is not None


def test_validation_data_in_a_pipeline() -> None:
    scaled = StandardScaler().fit(X)
    pipe = Pipeline([("scale", StandardScaler()), ("mlp", classifier(early_stopping=True))])
    pipe.fit(X, Y, mlp__validation=(scaled.transform(Z), V))
    assert pipe[-1].validation_scores_[-1] == pytest.approx(
        classifier().fit(scaled.transform(X), Y).score(scaled.transform(Z), V)
    )
    with sklearn.config_context(enable_metadata_routing=True):
        routed = make_pipeline(StandardScaler(), classifier(early_stopping=True).set_fit_request(validation=True))
        routed.fit(X, Y, validation=(scaled.transform(Z), V))
    assert routed[-1].validation_scores_ == pipe[-1].validation_scores_


def test_early_stopping_may_be_switched_between_warm_starts() -> None:
    estimator = classifier(warm_start=True).fit(X, Y, validation=(Z, V))
    estimator.set_params(early_stopping=True).fit(X, Y, validation=(Z, V))
    assert estimator.best_validation_score_ == max(estimator.validation_scores_[5:])
    before = parameters(estimator)
    estimator.set_params(scoring=lambda *given: -1.0).fit(X, Y, validation=(Z, V))  # which finds nothing better
    np.testing.assert_array_equal(parameters(estimator), before)
    estimator.set_params(early_stopping=False).fit(X, Y)
    assert estimator.best_loss_ <= estimator.loss_
