"""What an estimator is given, checked: by scikit-learn what lies on the host, and here what lies on a GPU."""

import sys
from typing import Any

import numpy as np
from sklearn.utils.validation import _check_n_features, validate_data

from gpubp.data.arrays import HOST, as_host_or_device, check_finite
from gpubp.errors import DataError, ShapeError


def _as_numpy(name: str, a: Any) -> Any:
    """A tensor on the host as the NumPy array that shares its memory, in its dtype; all else as it is."""
    foreign = hasattr(a, "__dlpack_device__") and not isinstance(a, np.ndarray | np.generic) and not on_device(a)
    return as_host_or_device(name, a) if foreign else a


def on_device(a: Any) -> bool:
    """Whether `a` lies on a GPU: a CuPy array, or whatever speaks DLPack and says so."""
    if isinstance(a, np.ndarray) or not hasattr(a, "__dlpack_device__"):
        return False
    return type(a).__module__.partition(".")[0] == "cupy" or a.__dlpack_device__()[0] not in HOST


def _as_cupy(name: str, a: Any) -> Any:
    cupy = sys.modules.get("cupy")
    if cupy is None:
        raise DataError(f"{name} is on a GPU and CuPy is not loaded; use device='cuda', or give it as a NumPy array")
    return a if isinstance(a, cupy.ndarray) else cupy.from_dlpack(a)


def to_host(a: Any) -> Any:
    """`a` as a NumPy array where it lies on a GPU, else as it is."""
    return _as_cupy("the array", a).get() if on_device(a) else a


def checked(estimator: Any, X: Any, *, reset: bool, dtype: Any = "numeric") -> Any:
    """X as a finite matrix of numbers: NumPy, CSR or CSC, or CuPy; `reset` takes note of its columns."""
    if not on_device(X):
        return validate_data(estimator, _as_numpy("X", X), accept_sparse=["csr", "csc"], reset=reset, dtype=dtype)
    return _checked_on_device(estimator, X, reset)


def checked_pair(estimator: Any, X: Any, y: Any, *, reset: bool, y_numeric: bool) -> tuple[Any, Any]:
    """X as `checked` gives it in float64 or float32, and y on the host, or with numeric y where X is."""
    dtypes = (np.float64, np.float32)
    if not on_device(X):
        return validate_data(  # type: ignore[no-any-return]
            estimator,
            _as_numpy("X", X),
            _as_numpy("y", to_host(y)),
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=y_numeric,
            dtype=dtypes,
            reset=reset,
        )
    X = _checked_on_device(estimator, X, reset)
    if len(X) != len(y):
        raise ShapeError(f"Found input variables with inconsistent numbers of samples: {[len(X), len(y)]}")
    if y_numeric and on_device(y):
        check_finite("y", _as_cupy("y", y), sys.modules["cupy"])
        return X, _as_cupy("y", y)
    return X, np.asarray(to_host(y))


def _checked_on_device(estimator: Any, X: Any, reset: bool) -> Any:
    X = _as_cupy("X", X)
    if X.ndim != 2 or not X.size:
        raise ShapeError(f"Expected 2D array with at least one row and one column, got an array of shape {X.shape}")
    _check_n_features(estimator, X, reset=reset)
    check_finite("X", X, sys.modules["cupy"])
    return X


def chosen_rows(a: Any, rows: Any) -> Any:
    """The rows of these numbers; None stays None."""
    if a is None:
        return None
    return a[sys.modules["cupy"].asarray(rows)] if on_device(a) else a[rows]
