"""The estimators on a GPU: the CPU's results, data that stay on the device, memory that comes back."""

import gc
import importlib
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn_small import LABELS, WEIGHTS, X, Y, Z, classifier, parameters, regressor

import gpubp

X, Z = X.astype(np.float32), Z.astype(np.float32)
T = (np.sin(X[:, 0]) + X[:, 1]).astype(np.float32)
CLASSES = np.unique(Y, return_inverse=True)[1]  # numbers, as CuPy has no text


@pytest.fixture(autouse=True)
def unconverged() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def cupy() -> Any:
    return importlib.import_module("cupy")


# -- the CPU's results -------------------------------------------------------------------------------------------------

SETTINGS: dict[str, dict[str, Any]] = {
    "adam": {"batch_size": 16},
    "momentum": {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.1},
    "plain": {"solver": "sgd", "momentum": 0.0, "alpha": 0.0},
    "lbfgs": {"solver": "lbfgs"},
    "float64": {"dtype": "float64", "activation": "tanh"},
    "early stopping": {"early_stopping": True, "validation_fraction": 0.3},
    "a scorer": {"early_stopping": True, "scoring": lambda fitted, x, y, sample_weight: -float(fitted.loss_)},
    "what is new": {"solver": gpubp.AdamW(0.01), "schedule": "cosine", "clip_norm": 0.5, "activation": ["gelu", "elu"]},
    "dropout": {"dropout": 0.3},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_fits(name: str, cuda: str) -> None:
    for make, y in ((classifier, Y), (regressor, T), (regressor, np.stack([T, -T], axis=1))):
        expected, found = (make(**SETTINGS[name], device=device).fit(X, y, WEIGHTS) for device in ("cpu", cuda))
        agree(found, expected)
        np.testing.assert_allclose(found.loss_, expected.loss_, rtol=1e-4)
        np.testing.assert_allclose(found.score(Z, y[: len(Z)]), expected.score(Z, y[: len(Z)]), rtol=1e-4)


def agree(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(parameters(found), parameters(expected), rtol=1e-3, atol=1e-5)
    assert all(type(each) is np.ndarray for each in found.coefs_ + found.intercepts_)
    for method in ("predict", "predict_proba", "predict_log_proba") if is_classifier(found) else ("predict",):
        ours, theirs = (getattr(each, method)(Z) for each in (found, expected))
        assert type(ours) is np.ndarray
        if ours.dtype.kind == "f":
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
        else:
            np.testing.assert_array_equal(ours, theirs)


WAYS: dict[str, Callable[[Any], Any]] = {
    "labels": lambda clf: clf.fit(X, LABELS),
    "partial fits": lambda clf: clf.partial_fit(X, Y, classes=np.unique(Y)).partial_fit(X[:20], Y[:20], WEIGHTS[:20]),
    "sparse": lambda clf: clf.set_params(batch_size=16).fit(scipy.sparse.csr_array(np.where(np.abs(X) > 1, X, 0)), Y),
    "validation": lambda clf: clf.set_params(early_stopping=True).fit(X, Y, validation=(Z, Y[: len(Z)])),
    "class weights": lambda clf: clf.set_params(class_weight="balanced").fit(X, Y),
    "a warm start": lambda clf: clf.set_params(warm_start=True).fit(X, Y).fit(X, Y),
}


@pytest.mark.parametrize("way", WAYS)
def test_other_ways_to_fit(way: str, cuda: str) -> None:
    expected, found = (WAYS[way](classifier(device=device)) for device in ("cpu", cuda))
    agree(found, expected)
    for curve in ("validation_scores_", "validation_loss_curve_"):
        ours, theirs = (getattr(each, curve) or [] for each in (found, expected))
        assert bool(ours) is (way == "validation")
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_coefs_that_are_assigned(cuda: str) -> None:
    expected, found = (regressor(device=device).fit(X, T) for device in ("cpu", cuda))
    for reg in (expected, found):
        reg.coefs_ = [0.5 * coef for coef in reg.coefs_]
        reg.intercepts_[0] = np.ones(6)
    agree(found, expected)
    for reg in (expected, found):
        reg.partial_fit(X, T)
    agree(found, expected)


# -- data on the device ------------------------------------------------------------------------------------------------


@pytest.fixture
def tensor(monkeypatch: pytest.MonkeyPatch) -> type:
    """The class of another library's arrays, which lie on a GPU and speak DLPack, as PyTorch's do."""
    library = ModuleType("tensors")

    class Tensor:
        def __init__(self, array: Any) -> None:
            self.array, self.shape = array, array.shape

        def __len__(self) -> int:
            return len(self.array)

        def get(self) -> Any:
            return self.array.get()

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    Tensor.__module__ = "tensors"
    library.from_dlpack = Tensor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensors", library)
    return Tensor


@pytest.mark.parametrize("settings", [{}, {"early_stopping": True}, {"solver": "lbfgs"}], ids=str)
@pytest.mark.parametrize("kind", ["cupy", "dlpack"])
def test_arrays_on_the_device(kind: str, settings: dict[str, Any], tensor: type, cuda: str) -> None:
    def given(a: Any) -> Any:
        return cupy().asarray(a) if kind == "cupy" else tensor(cupy().asarray(a))

    clf, reg = classifier(device=cuda, **settings), regressor(device=cuda, **settings)
    clf.fit(given(X), given(CLASSES), given(WEIGHTS))
    reg.fit(given(X), given(T))
    agree(clf, classifier(**settings).fit(X, CLASSES, WEIGHTS))
    agree(reg, regressor(**settings).fit(X, T))
    for estimator, y in ((clf, CLASSES), (reg, T)):
        np.testing.assert_allclose(estimator.score(given(X), given(y)), estimator.score(X, y), rtol=1e-6)
    for result, expected in (
        (clf.predict(given(Z)), clf.predict(Z)),
        (clf.predict_proba(given(Z)), clf.predict_proba(Z)),
        (clf.predict_log_proba(given(Z)), clf.predict_log_proba(Z)),
        (reg.predict(given(Z)), reg.predict(Z)),
    ):
        assert isinstance(result, cupy().ndarray if kind == "cupy" else tensor)
        np.testing.assert_array_equal(result.get(), expected)


def test_two_classes_on_the_device(cuda: str) -> None:
    clf = classifier(device=cuda).fit(cupy().asarray(X), T > 0)
    proba = clf.predict_proba(cupy().asarray(Z))
    np.testing.assert_allclose(proba.get().sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(proba.get(), clf.predict_proba(Z))


@pytest.mark.toolchain
def test_a_fit_sends_x_once_and_never_fetches_it(emulated: Any) -> None:
    regressor(device="cuda").fit(X, T)  # what is sent once for all
    moved = []
    for epochs in (2, 12):
        for x in (X, cupy().asarray(X)):
            before = emulated.copies_to_device, emulated.copies_to_host
            regressor(device="cuda", max_iter=epochs, batch_size=60, shuffle=False).fit(x, T)
            after = emulated.copies_to_device, emulated.copies_to_host
            moved.append(tuple(end - start for start, end in zip(before, after, strict=True)))
    (host, there), (host_later, there_later) = moved[:2], moved[2:]
    assert host[0] == there[0] + 1 == host_later[0]  # X
    assert there_later[1] - there[1] == 10  # an epoch's costs


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (lambda x: x[:, :3], "X has 3 features, but MLPRegressor is expecting 4 features"),
        (lambda x: x[0], "Expected 2D array"),
        (lambda x: x[:0], "at least one row"),
        (
            lambda x: x * np.float32("nan"),
            r"X has 240 values that are not finite, the first in row 0, column 0 \(nan\)",
        ),
    ],
)
def test_what_is_wrong_with_an_array_on_the_device(given: Callable[[Any], Any], told: str, cuda: str) -> None:
    x = cupy().asarray(X)
    reg = regressor(device=cuda).fit(x, T)
    with pytest.raises(ValueError, match=told):
        reg.predict(given(x))


def test_arrays_on_the_device_need_the_device(cuda: str) -> None:
    with pytest.raises(gpubp.DeviceError, match="X is on a GPU and this network is on the CPU"):
        regressor(device="cpu").fit(cupy().asarray(X), T)
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[60, 59\]"):
        regressor(device=cuda).fit(cupy().asarray(X), cupy().asarray(T)[:59])


# -- memory ------------------------------------------------------------------------------------------------------------


def search() -> None:
    grid = {"mlpclassifier__alpha": [1e-4, 1e-2], "mlpclassifier__hidden_layer_sizes": [(6,), (50, 40)]}
    GridSearchCV(make_pipeline(StandardScaler(), classifier(device="cuda")), grid, cv=2).fit(X, Y).predict(Z)


@pytest.mark.toolchain
@pytest.mark.parametrize(
    "use",
    [
        search,
        lambda: cross_val_score(regressor(device="cuda", early_stopping=True), X, T, cv=2),
        lambda: regressor(device="cuda", solver="lbfgs").fit(cupy().asarray(X), T).predict(cupy().asarray(Z)),
    ],
    ids=["a search", "cross validation", "a fit"],
)
def test_what_is_over_leaves_nothing_on_the_device(use: Callable[[], object], emulated: Any) -> None:
    use()
    gc.collect()
    used = emulated.pool.used_bytes()
    for _ in range(2):
        use()
        gc.collect()
    assert emulated.pool.used_bytes() == used


@pytest.mark.toolchain
def test_rows_that_do_not_fit_are_streamed(emulated: Any) -> None:
    wide = np.random.default_rng(0).normal(size=(4000, 60)).astype(np.float32)
    y = wide[:, 0]
    expected = regressor(max_iter=2, early_stopping=True).fit(wide, y)
    emulated.limit_memory(emulated.pool.used_bytes() + wide.nbytes // 2)
    found = regressor(max_iter=2, early_stopping=True, device="cuda").fit(wide, y)
    emulated.limit_memory(8 << 30)
    np.testing.assert_allclose(parameters(found), parameters(expected), rtol=1e-3, atol=1e-5)


# -- here and there ----------------------------------------------------------------------------------------------------


@pytest.mark.toolchain
def test_a_pickle_from_a_gpu_opens_without_one(emulated: Any) -> None:
    clf, bound = (classifier(device=device, dropout=0.2).fit(X, Y) for device in ("auto", "cuda"))
    pickles, expected = [pickle.dumps(each) for each in (clf, bound)], clf.predict_proba(Z)
    emulated.devices = 0
    gpubp.backends.detection.why_not.cache_clear()
    opened = pickle.loads(pickles[0])
    np.testing.assert_allclose(opened.predict_proba(Z), expected, rtol=1e-3, atol=1e-5)
    opened.partial_fit(X, Y)
    with pytest.raises(gpubp.DeviceError):
        pickle.loads(pickles[1]).predict(Z)


def test_without_a_gpu_nothing_is_fitted() -> None:
    clf = classifier(device="cuda:77")
    with pytest.raises(gpubp.DeviceError):
        clf.fit(X, Y)
    assert not hasattr(clf, "coefs_")
