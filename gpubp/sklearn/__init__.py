"""Estimators for scikit-learn: its MLPClassifier and MLPRegressor, trained by gpubp on the CPU or a GPU."""

try:
    from sklearn.callback import CallbackSupportMixin as _CallbackSupportMixin  # noqa: F401
except ImportError as _error:
    raise ImportError("gpubp.sklearn needs scikit-learn 1.9 or newer: pip install 'gpubp[sklearn]'") from _error

from gpubp.sklearn.classifier import MLPClassifier
from gpubp.sklearn.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
