"""MNIST and Fashion-MNIST, fetched from OpenML by scikit-learn, which keeps them on disk."""

import hashlib
import importlib.util
import warnings
from http.client import HTTPException
from typing import Any

import numpy as np

from gpubp.data.samples import Part, as_source
from gpubp.data.source import Source
from gpubp.errors import DataError

NAMES = {"mnist": "mnist_784", "fashion-mnist": "Fashion-MNIST"}  # as OpenML calls them
TRAINING = 60_000  # of 70,000, in the order of the original files


def open_openml(name: str) -> Source:
    try:
        from sklearn.datasets import fetch_openml
    except ImportError as error:
        raise _unavailable(name, f"fetching it needs scikit-learn ({error}): pip install scikit-learn") from None
    parser = "pandas" if importlib.util.find_spec("pandas") else "liac-arff"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one for each attempt; the error below says what came of them
            fetched = fetch_openml(NAMES[name], version=1, as_frame=False, parser=parser)
        x, y = _images(fetched.data), np.asarray(fetched.target).astype(np.uint8)
    except (OSError, ValueError, RuntimeError, HTTPException) as error:
        raise _unavailable(name, f"OpenML could not be read ({error})") from None
    sha256 = hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()
    parts: list[Part] = [((name, x[rows]), (name, y[rows])) for rows in (slice(TRAINING), slice(TRAINING, None))]
    return as_source(name, sha256, parts)


def _images(data: Any) -> Any:
    x = np.asarray(data)
    if x.shape != (70_000, 784):
        raise ValueError(f"it sent an array of shape {x.shape}")
    return np.ascontiguousarray(x, np.uint8).reshape(-1, 28, 28)


def _unavailable(name: str, why: str) -> DataError:
    return DataError(
        f"{name} is not at hand: {why}; or give a file instead: an .npz with x_train, y_train, x_test and y_test, "
        "or the folder with the four IDX files"
    )
