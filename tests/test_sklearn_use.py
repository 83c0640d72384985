"""gpubp.sklearn's estimators in use: dataframes, pipelines, copies, threads, processes and Ctrl-C."""

import copy
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn_small import NAMES, T, V, X, Y, Z, classifier, frame, own_components, parameters, regressor, same

import gpubp

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def own() -> Iterator[tuple[Any, Any]]:
    with own_components() as components:
        yield components


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_dataframes(kind: str) -> None:
    rows = frame(kind)
    y = type(rows["a"])(Y)
    estimator = classifier().fit(rows, y)
    assert list(estimator.feature_names_in_) == list("abcd")
    assert same(estimator, classifier().fit(X, Y))
    assert estimator.score(rows, y) == classifier().fit(X, Y).score(X, Y)
    assert same(estimator.partial_fit(rows, y), classifier().fit(X, Y).partial_fit(X, Y))
    assert regressor().fit(rows, rows[["a", "b"]]).predict(rows).shape == (60, 2)
    with pytest.raises(ValueError, match="same order as they were in fit"):
        estimator.predict(rows[list("badc")])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        estimator.predict(X)


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_pipelines_that_hand_dataframes_on(kind: str) -> None:
    mlp, rows = classifier(early_stopping=True, scoring="f1_macro"), frame(kind)
    pipe = make_pipeline(StandardScaler(), mlp).set_output(transform=kind)
    assert list(pipe.fit(rows, Y)[-1].feature_names_in_) == list("abcd")
    assert pipe.score(rows, Y) == make_pipeline(StandardScaler(), clone(mlp)).fit(X, Y).score(X, Y)


def joblibbed(estimator: Any, folder: Path) -> Any:
    joblib.dump(estimator, folder / "estimator")
    return joblib.load(folder / "estimator")


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each)), joblibbed],
    ids=["copy", "pickle", "joblib"],
)
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_copies_go_on_by_themselves(copied: Callable[..., Any], solver: str, tmp_path: Path) -> None:
    estimator = classifier(solver=solver, warm_start=True, dropout=0.2).fit(X, Y).partial_fit(X, Y)
    other = copied(estimator, tmp_path) if copied is joblibbed else copied(estimator)
    before = parameters(other)
    np.testing.assert_array_equal(estimator.predict_proba(X), other.predict_proba(X))
    estimator.partial_fit(X, Y)
    np.testing.assert_array_equal(parameters(other), before)
    assert same(other.partial_fit(X, Y), estimator)
    assert other.get_params() == estimator.get_params()


def test_clones_are_not_fitted() -> None:
    estimator = classifier(activation=["tanh", gpubp.ELU(0.5)], loss=gpubp.CrossEntropy(), class_weight={"ash": 2})
    assert same(clone(estimator.fit(X, Y)).fit(X, Y), estimator)
    assert not hasattr(clone(estimator), "coefs_")


def test_components_of_the_users_own_reach_other_processes(own: Any) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")  # which joblib sends them with
    estimator = regressor(loss=own[1](), activation=own[0]())
    assert same(pickle.loads(cloudpickle.dumps(estimator)).fit(X, T), estimator.fit(X, T))


@pytest.mark.check
def test_processes_search_a_grid(own: Any) -> None:
    grid = {"alpha": [1e-4, 1e-2], "activation": [own[0](), "tanh"], "solver": [gpubp.AdamW(0.01), "lbfgs"]}
    one, other = (
        GridSearchCV(regressor(loss=own[1]()), grid, cv=2, n_jobs=jobs, error_score="raise").fit(X, T)
        for jobs in (None, 2)
    )
    np.testing.assert_array_equal(one.cv_results_["mean_test_score"], other.cv_results_["mean_test_score"])
    assert one.best_params_ == other.best_params_


def test_threads_predict_with_one_estimator() -> None:
    estimator = classifier(hidden_layer_sizes=(50, 50)).fit(X, Y)
    parts = [X[:10], X, Z, Z[:3]] * 20
    expected = [estimator.predict_proba(part) for part in parts]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(estimator.predict_proba, parts))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_thread_fits() -> None:
    fitted: list[Any] = []
    thread = threading.Thread(target=lambda: fitted.append(classifier().fit(X, Y)))
    thread.start()
    thread.join()
    assert same(fitted[0], classifier().fit(X, Y))


@pytest.mark.parametrize("early_stopping", [False, True])
def test_ctrl_c_ends_the_training_and_leaves_a_usable_estimator(early_stopping: bool) -> None:
    def scorer(estimator: Any, rows: Any, y: Any) -> float:
        if estimator.n_iter_ == 2:
            signal.raise_signal(signal.SIGINT)
        return float(estimator.n_iter_)

    estimator = classifier(scoring=scorer, early_stopping=early_stopping, max_iter=50)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        estimator.fit(X, Y, validation=(Z, V))
    assert estimator.n_iter_ == len(estimator.validation_scores_) == 2
    assert same(estimator, classifier(max_iter=2).fit(X, Y)) == early_stopping
    estimator.set_params(scoring=None).partial_fit(X, Y) if not early_stopping else estimator.predict(X)
    assert same(estimator.set_params(scoring=None, max_iter=5, early_stopping=False).fit(X, Y), classifier().fit(X, Y))


@pytest.mark.filterwarnings("error")
def test_a_fit_that_ends_with_its_schedule_has_nothing_to_warn_of() -> None:
    assert classifier(schedule="linear").fit(X, Y).n_iter_ == 5
    with pytest.warns(ConvergenceWarning):
        classifier().fit(X, Y)


def test_warnings_are_about_the_line_that_fits() -> None:
    for act in (lambda: classifier().fit(X, Y), lambda: classifier(batch_size=99).partial_fit(X, Y, classes=NAMES)):
        with pytest.warns((ConvergenceWarning, UserWarning)) as caught:
            act()
        assert {each.filename for each in caught} == {__file__}


def test_tensors_on_the_host_keep_their_dtype() -> None:
    """What speaks DLPack and has a dtype that NumPy does not know, as PyTorch's tensors do."""

    class Tensor:
        dtype = "torch.float32"

        def __init__(self, array: Any) -> None:
            self.array, self.shape, self.ndim = array, array.shape, array.ndim

        def __len__(self) -> int:
            return len(self.array)

        def __array__(self, *given: Any, **named: Any) -> Any:
            return self.array

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    narrow = X.astype(np.float32)
    found, expected = regressor().fit(Tensor(narrow), Tensor(T)), regressor().fit(narrow, T)
    assert found.coefs_[0].dtype == np.float32
    assert same(found, expected)
    np.testing.assert_array_equal(found.predict(Tensor(narrow)), expected.predict(narrow))
