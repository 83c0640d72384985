"""Estimators of scikit-learn in joblib files, alone or behind a scaler, as networks that know how rows are prepared."""

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.errors import DataError, GpubpError
from gpubp.from_sklearn import is_pipeline
from gpubp.mlp import MLP

ENDINGS = (".joblib", ".pkl", ".pickle")


def load_pickled(path: Path, device: str) -> MLP:
    """The network of the MLPClassifier, the MLPRegressor or the Pipeline in this file; unpickling runs its code."""
    model = _unpickled(path)
    *before, last = [step for _, step in model.steps] if is_pipeline(model) else [model]
    try:
        net = MLP.from_sklearn(last, device)
        scalers = [step for step in before if step not in (None, "passthrough")]
        if scalers:
            net.metadata["preprocessing"] |= _statistics(scalers)
    except DataError as error:
        raise DataError(f"{str(path)!r}: {error}") from None
    return net


def _unpickled(path: Path) -> Any:
    try:
        joblib = import_module("joblib")
    except ImportError:
        raise GpubpError("a joblib file needs the package joblib; pip install 'gpubp[sklearn]'") from None
    if not path.is_file():
        raise DataError(f"{str(path)!r} is no file")  # a pipe would keep us waiting
    try:
        with warnings.catch_warnings():  # that another version wrote it: only arrays and names are read
            warnings.simplefilter("ignore")
            return joblib.load(path)
    except ModuleNotFoundError as error:
        remedy = "; pip install 'gpubp[sklearn]'" if error.name == "sklearn" else ""
        raise DataError(f"{str(path)!r} needs the module {error.name!r}, which is not installed{remedy}") from None
    except Exception as error:  # bytes can make a pickle raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        raise DataError(f"{str(path)!r} cannot be read as a joblib file: {reason:.300}") from None


def _statistics(scalers: list[Any]) -> dict[str, Any]:
    """What the steps before the network do, as `Preprocessing` has it."""
    scaler, name = scalers[0], type(scalers[0]).__name__
    if len(scalers) > 1 or name not in SCALERS:
        steps = ", ".join(type(step).__name__ for step in scalers)
        raise DataError(
            f"before the network stand {steps}, but gpubp can express one {' or '.join(SCALERS)} alone; "
            "give the last step, pipe[-1], and prepare its rows by pipe[:-1]"
        )
    if not hasattr(scaler, "scale_"):
        raise DataError(f"the {name} before the network is not fitted; call the pipeline's fit first")
    shift, scale = (np.atleast_1d(np.asarray(each, np.float64)).tolist() for each in SCALERS[name](scaler))
    features = getattr(scaler, "feature_names_in_", None)
    return {"shift": shift, "scale": scale, "features": None if features is None else [str(each) for each in features]}


def _standard(scaler: Any) -> tuple[Any, Any]:
    return scaler.mean_ if scaler.with_mean else 0.0, 1 / scaler.scale_ if scaler.with_std else 1.0


def _min_max(scaler: Any) -> tuple[Any, Any]:
    if scaler.clip:
        raise DataError("gpubp cannot clip, but the MinMaxScaler before the network has clip=True")
    return scaler.data_min_ - scaler.feature_range[0] / scaler.scale_, scaler.scale_


SCALERS = {"StandardScaler": _standard, "MinMaxScaler": _min_max}  # each as (shift, scale): (x − shift) · scale
