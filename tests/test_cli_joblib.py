"""Estimators of scikit-learn in joblib files, on the command line."""

import json
import os
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnxruntime
import polars
import pytest
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from test_from_sklearn import TARGETS, X, fitted, settings
from trained import gpubp_

import gpubp
import gpubp.sklearn
from gpubp.data import Preprocessing

COLUMNS = ["a", "b", "c", "d", "e"]
RAW = X * [1, 10, 0.1, 1e3, 1] + [0, 5, -2, 2e4, 1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with rows as CSV."""
    monkeypatch.chdir(tmp_path)
    table().select(reversed(COLUMNS)).write_csv("rows.csv")  # columns are found by their names
    return tmp_path


def table() -> polars.DataFrame:
    return polars.DataFrame(RAW, schema=COLUMNS)


def pipeline(kind: str, scaler: Any = None, family: Any = sys.modules["sklearn.neural_network"]) -> Any:
    y = TARGETS[kind]
    last = family.MLPRegressor if kind in ("value", "values", "counts") else family.MLPClassifier
    steps = [last(**settings(kind, max_iter=20, solver="lbfgs"))]
    return make_pipeline(*([scaler] if scaler is not None else []), *steps).fit(table(), y)


SCALERS: dict[str, Callable[[], Any]] = {
    "standard": StandardScaler,
    "mean alone": lambda: StandardScaler(with_std=False),
    "deviation alone": lambda: StandardScaler(with_mean=False),
    "min max": lambda: MinMaxScaler((-1, 2)),
    "passthrough": lambda: "passthrough",
}


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
@pytest.mark.parametrize("family", ["sklearn.neural_network", "gpubp.sklearn"])
@pytest.mark.parametrize("scaler", SCALERS)
def test_a_pipeline_takes_raw_rows(scaler: str, family: str, folder: Path) -> None:
    pipe = pipeline("multiclass", SCALERS[scaler](), sys.modules[family])
    joblib.dump(pipe, "pipe.joblib", compress=3)
    predicted = gpubp_("predict", "pipe.joblib", "rows.csv", "--json", "--proba")
    assert predicted.exit_code == 0, predicted.output
    said = json.loads(predicted.stdout)
    assert said["predictions"] == pipe.predict(table()).tolist()
    np.testing.assert_allclose(said["probabilities"], pipe.predict_proba(table()), atol=1e-9)


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
@pytest.mark.parametrize("kind", TARGETS)
def test_exports_of_a_joblib_file(kind: str, folder: Path) -> None:
    pipe = pipeline(kind, StandardScaler())
    joblib.dump(pipe, "pipe.joblib")
    for ending in ("onnx", "npz", "safetensors"):
        exported = gpubp_("export", "pipe.joblib", "-o", f"model.{ending}")
        assert exported.exit_code == 0, exported.output
        assert exported.stdout.startswith(f"model exported to model.{ending}\n")
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    answers = dict(
        zip([o.name for o in session.get_outputs()], session.run(None, {"x": RAW.astype("f4")}), strict=True)
    )
    if "label" in answers:
        assert answers["label"].tolist() == pipe.predict(table()).tolist()
        np.testing.assert_allclose(answers["probabilities"], pipe.predict_proba(table()), atol=1e-4)
    else:
        np.testing.assert_allclose(answers["values"].squeeze(), pipe.predict(table()), rtol=1e-3, atol=1e-3)
    predicted = json.loads(gpubp_("predict", "model.safetensors", "rows.csv", "--json").stdout)["predictions"]
    if kind in ("value", "values", "counts"):
        np.testing.assert_allclose(predicted, pipe.predict(table()), rtol=1e-9, atol=1e-9)
    else:
        assert predicted == pipe.predict(table()).tolist()


def test_a_model_file_of_a_run_is_exported_whole(folder: Path) -> None:
    net = gpubp.MLP([2, 3, 2], dropout=0.5, device="cpu", seed=0)
    net.metadata["preprocessing"] = Preprocessing.as_it_is(2, 2, ["x", "y"]).config()
    net.save("model.safetensors")
    exported = gpubp_("export", ".", "-o", "copy.safetensors", "--json")
    assert json.loads(exported.stdout) == {"file": "copy.safetensors"}
    assert Path("copy.safetensors").read_bytes() == Path("model.safetensors").read_bytes()
    assert gpubp_("export", ".", "-o", "absent/copy.safetensors").exit_code == 1


def test_small_values_keep_their_digits(folder: Path) -> None:
    """Not standardised, they may be of any size."""
    estimator = fitted("value", "float32", hidden_layer_sizes=())
    estimator.coefs_[0] *= 1e-9
    estimator.intercepts_[0] *= 1e-9
    scaler = StandardScaler().fit(table())
    joblib.dump(make_pipeline(scaler, estimator), "small.pkl")
    found = json.loads(gpubp_("predict", "small.pkl", "rows.csv", "--json").stdout)["predictions"]
    np.testing.assert_allclose(found, estimator.predict(scaler.transform(table())), rtol=1e-5)


class Trap:
    """What an unpickled object may do."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


@pytest.fixture(scope="module")
def good() -> bytes:
    """A joblib file's bytes."""
    return pickle.dumps(fitted("binary"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "'m.joblib' cannot be read as a joblib file: EOFError"),
        (b"hello, there", "cannot be read as a joblib file: "),
        (lambda good: good[: len(good) // 2], "cannot be read as a joblib file: "),
        (lambda good: good.replace(b"MLPClassifier", b"MLPClassifyer"), "cannot be read .*MLPClassifyer"),
        (
            lambda good: good.replace(b"sklearn.neural", b"sklearm.neural"),
            "needs the module 'sklearm', which is not inst",
        ),
        (pickle.dumps(Trap()), "cannot be read as a joblib file: ValueError: invalid literal"),
        (pickle.dumps({"a": 1}), "'m.joblib': estimator must be .*got dict"),
        (pickle.dumps(gpubp.Adam(0.1)), "got Adam"),
        (pickle.dumps(MLPClassifier()), "this MLPClassifier is not; call its fit first"),
        (pickle.dumps(make_pipeline(StandardScaler(), MLPClassifier())), "not; call its fit first"),
        (
            lambda good: pickle.dumps(make_pipeline(StandardScaler(), pickle.loads(good))),
            "StandardScaler .*is not fitted",
        ),
        (
            lambda good: pickle.dumps(make_pipeline(StandardScaler().fit(X), PCA(), pickle.loads(good))),
            r"before the network stand StandardScaler, PCA, .*give the last step, pipe\[-1\]",
        ),
        (
            lambda good: pickle.dumps(make_pipeline(MinMaxScaler(clip=True).fit(X), pickle.loads(good))),
            "gpubp cannot clip",
        ),
        (pickle.dumps(GridSearchCV(MLPClassifier(), {})), "got GridSearchCV"),
    ],
)
def test_files_that_hold_no_network(content: Any, message: str, good: bytes, folder: Path) -> None:
    Path("m.joblib").write_bytes(content(good) if callable(content) else content)
    for command in (["export", "m.joblib", "-o", "out.npz"], ["evaluate", "m.joblib", "rows.csv"]):
        refused = gpubp_(*command)
        assert refused.exit_code == 4, refused.output
        assert refused.stderr.count("\n") == 1
        assert re.search(message, refused.stderr), refused.stderr
    assert sorted(os.listdir()) == ["m.joblib", "rows.csv"]


def test_other_ways_to_miss_a_file(good: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no such file" in gpubp_("export", "none.joblib", "-o", "out.npz").stderr
    os.mkfifo("pipe.joblib")
    refused = gpubp_("export", "pipe.joblib", "-o", "out.npz")
    assert (refused.exit_code, "is no file" in refused.stderr) == (4, True)
    Path("m.joblib").write_bytes(good)
    monkeypatch.setitem(sys.modules, "joblib", None)
    refused = gpubp_("export", "m.joblib", "-o", "out.npz")
    assert (refused.exit_code, "pip install 'gpubp[sklearn]'" in refused.stderr) == (1, True)


def test_gpubp_load_never_unpickles(good: bytes, folder: Path) -> None:
    Path("m.joblib").write_bytes(good)
    with pytest.raises(gpubp.ModelFileError, match="as a safetensors file"):
        gpubp.load("m.joblib")
