"""scikit-learn's callbacks in the fits of gpubp.sklearn's estimators: what they see, and that they can stop a fit."""

import warnings
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.callback.tests._utils import FailingCallback, RecordingAutoPropagatedCallback, RecordingCallback
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn_small import NAMES, WEIGHTS, T, V, X, Y, Z, classifier, frame, parameters, regressor, same

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class Hook:
    """A callback as a user writes one: calls a function at the end of every task."""

    def __init__(self, act: Any) -> None:
        self.act = act

    def setup(self, estimator: Any, context: Any) -> None: ...

    def teardown(self, estimator: Any, context: Any) -> None: ...

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None: ...

    def on_fit_task_end(self, estimator: Any, context: Any, *, fitted_estimator: Any = None) -> Any:
        return self.act(estimator, context, fitted_estimator)


def hooks(callback: Any) -> list[str]:
    return [f"{each['name']} {each['context'].task_name}".removeprefix("on_fit_task_") for each in callback.record]


def scores(monitor: ScoringMonitor, name: str) -> list[float]:
    return [row[name] for row in monitor.get_logs().data]


# -- scikit-learn's own ------------------------------------------------------------------------------------------------


def test_hooks_are_called_for_the_fit_and_for_every_epoch() -> None:
    callback = RecordingCallback()
    estimator = classifier(max_iter=2).set_callbacks(callback).fit(X, Y, WEIGHTS)
    epoch = ["begin epoch", "end epoch"]
    assert hooks(callback) == ["setup fit", "begin fit", *epoch, *epoch, "end fit", "teardown fit"]
    for each in callback.record[1:-1]:
        assert each["estimator"] is estimator
        assert each["kwargs"]["X"] is X
        assert each["kwargs"]["y"] is Y
        assert each["kwargs"]["metadata"]["sample_weight"] is WEIGHTS
    fitted = [each["kwargs"]["fitted_estimator"] for each in callback.record if each["name"] == "on_fit_task_end"]
    assert [same(each, classifier(max_iter=n).fit(X, Y, WEIGHTS)) for n, each in zip((1, 2, 2), fitted, strict=True)]
    tasks = [each["context"] for each in callback.record if each["name"] == "on_fit_task_begin"]
    assert [(task.task_id, task.max_subtasks) for task in tasks] == [(0, 2), (0, 0), (1, 0)]


def test_hooks_of_partial_fits_and_of_lbfgs() -> None:
    callback, epoch = RecordingCallback(), ["begin epoch", "end epoch"]
    estimator = classifier().set_callbacks(callback).partial_fit(X, Y, classes=NAMES).partial_fit(X, Y)
    assert hooks(callback) == 2 * ["setup fit", "begin fit", *epoch, "end fit", "teardown fit"]
    fitted = [each["kwargs"]["fitted_estimator"] for each in callback.record if each["name"] == "on_fit_task_end"]
    assert same(fitted[-1], estimator)
    callback = RecordingCallback()
    estimator = classifier(solver="lbfgs").set_callbacks(callback).fit(X, Y)
    ends = [each for each in callback.record if each["name"] == "on_fit_task_end"]
    fitted = [each["kwargs"]["fitted_estimator"] for each in ends]
    assert [each["context"].task_name for each in ends] == ["lbfgs-iter"] * (estimator.n_iter_ + 1) + ["fit"]
    assert same(fitted[0], classifier(solver="lbfgs", max_iter=1).fit(X, Y))
    assert fitted[-2] is None  # of an iteration that scipy did not go on to
    assert same(fitted[-1], estimator)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_scoring_monitor_has_the_score_of_every_iteration(solver: str) -> None:
    monitor = ScoringMonitor(scoring=["accuracy", "neg_log_loss"])
    estimator = classifier(solver=solver).set_callbacks(monitor).fit(X, Y)
    rows = [row for row in monitor.get_logs().data if row["task_name"] != "fit"]
    fits = [classifier(solver=solver, max_iter=n).fit(X, Y) for n in range(1, estimator.n_iter_ + 1)]
    assert [row["accuracy"] for row in rows] == [each.score(X, Y) for each in fits]
    assert [row["task_id"] for row in rows] == list(range(estimator.n_iter_))
    monitor = ScoringMonitor(scoring="r2")
    values = regressor(solver=solver).set_callbacks(monitor).fit(X, T, WEIGHTS)
    assert max(scores(monitor, "r2")) == pytest.approx(r2_score(T, values.predict(X), sample_weight=WEIGHTS))


def test_the_monitor_of_a_fit_that_restores_its_best_weights() -> None:
    monitor = ScoringMonitor(scoring="accuracy")
    estimator = classifier(early_stopping=True, max_iter=20, n_iter_no_change=3).set_callbacks(monitor)
    estimator.fit(X, Y, validation=(Z, V))
    *epochs, whole = sorted(monitor.get_logs().data, key=lambda row: -len(row["task_id_path"]))
    best = int(np.argmax(estimator.validation_scores_))
    assert len(epochs) == estimator.n_iter_ > best + 1
    assert whole["accuracy"] == epochs[best]["accuracy"] == estimator.score(X, Y)


def test_a_progress_bar_shows_the_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    classifier(max_iter=3).set_callbacks(ProgressBar()).fit(X, Y)
    shown = capsys.readouterr().out
    assert "MLPClassifier - fit" in shown
    assert "100%" in shown


# -- a user's own ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_returning_true_stops(solver: str) -> None:
    stop = Hook(lambda estimator, context, fitted: context.task_name != "fit" and context.task_id == 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that it has not converged would be no news
        estimator = classifier(solver=solver, max_iter=3).set_callbacks(stop).fit(X, Y)
        estimator = classifier(solver=solver, max_iter=50).set_callbacks(stop).fit(X, Y)
    assert estimator.n_iter_ == 3
    assert same(estimator, classifier(solver=solver, max_iter=3).fit(X, Y))
    with pytest.warns(ConvergenceWarning):
        estimator.set_callbacks().set_params(max_iter=4).fit(X, Y)


def test_a_callback_sees_the_attributes_of_the_epoch() -> None:
    def enough(estimator: Any, context: Any, fitted: Any) -> bool:
        assert estimator.n_iter_ == len(estimator.loss_curve_) == len(estimator.validation_scores_)
        np.testing.assert_array_equal(estimator.predict_proba(X), fitted.predict_proba(X))
        np.testing.assert_array_equal(parameters(estimator), parameters(fitted))
        seen.append(estimator.validation_loss_curve_[-1])
        return estimator.loss_curve_[-1] < limit

    seen: list[float] = []
    curve = classifier(max_iter=8).fit(X, Y).loss_curve_
    limit = curve[4] + 1e-9
    estimator = classifier(max_iter=8).set_callbacks(Hook(enough)).fit(X, Y, validation=(Z, V))
    assert estimator.loss_curve_ == pytest.approx(curve[:5])
    assert seen == [
        *estimator.validation_loss_curve_,
        estimator.validation_loss_curve_[-1],
    ]  # the last of them of "fit"


def test_a_fitted_estimator_is_left_as_it_was() -> None:
    kept: list[Any] = []
    callback = Hook(lambda estimator, context, fitted: kept.append((fitted, fitted.predict_proba(X))) and None)
    classifier().set_callbacks(callback).fit(X, Y)
    for fitted, expected in kept:
        np.testing.assert_array_equal(fitted.predict_proba(X), expected)
    assert accuracy_score(Y, kept[0][0].predict(X)) == classifier(max_iter=1).fit(X, Y).score(X, Y)


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_dataframes_keep_their_names(kind: str) -> None:
    monitor, record, rows = ScoringMonitor(scoring="accuracy"), RecordingCallback(), frame(kind)
    classifier().set_callbacks(monitor, record).fit(rows, Y)
    assert scores(monitor, "accuracy")[-1] == classifier().fit(X, Y).score(X, Y)
    assert all(each["kwargs"]["X"] is rows for each in record.record if "kwargs" in each)


@pytest.mark.parametrize("where", ["setup", "on_fit_task_begin", "on_fit_task_end", "teardown"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_an_error_in_a_hook_comes_out_and_everything_is_torn_down(where: str, solver: str) -> None:
    failing, other = FailingCallback(where), RecordingCallback()
    estimator = classifier(solver=solver).set_callbacks(other, failing)
    with pytest.raises(ValueError, match=f"failed at {where}"):
        estimator.fit(X, Y)
    assert failing.count_hooks("teardown") == other.count_hooks("teardown") == 1
    assert same(estimator.set_callbacks().fit(X, Y), classifier(solver=solver).fit(X, Y))


# -- under meta-estimators ---------------------------------------------------------------------------------------------


def search(callback: Any, jobs: int | None, inner: Any = None) -> Any:
    mlp = classifier(max_iter=2) if inner is None else classifier(max_iter=2).set_callbacks(inner)
    grid = GridSearchCV(mlp, {"alpha": [1e-4, 1e-2]}, cv=2, n_jobs=jobs, error_score="raise")
    return grid.set_callbacks(callback).fit(X, Y)


@pytest.mark.parametrize(
    ("backend", "jobs"),
    [("threading", None), ("threading", 2), pytest.param("loky", 2, marks=pytest.mark.check)],
)
def test_a_grid_search_hands_its_callbacks_down(backend: str, jobs: int | None, capsys: Any) -> None:
    record, monitor = RecordingAutoPropagatedCallback(), ScoringMonitor(scoring="accuracy")
    with joblib.parallel_backend(backend):
        found = search(record, jobs, monitor)
        search(ProgressBar(), jobs)
    epochs = [each for each in record.record if each["context"].task_name == "epoch"]
    assert len(epochs) == 2 * 2 * (2 * 2 + 1)  # begin and end, of each epoch, of two candidates twice and of the refit
    logged = [len(log.data) for log in monitor.get_logs(select="all")]
    assert sum(logged) == (2 + 1) * (2 * 2 + 1)
    assert found.best_estimator_.n_iter_ == 2
    assert capsys.readouterr().out.count("100%") >= 5


def test_clones_and_pipelines_keep_callbacks() -> None:
    record = RecordingCallback()
    estimator = classifier(max_iter=2).set_callbacks(record)
    make_pipeline(StandardScaler(), estimator).fit(X, Y)
    assert record.count_hooks("on_fit_task_end") == 3
    clone(estimator).fit(X, Y)
    assert record.count_hooks("on_fit_task_end") == 6
