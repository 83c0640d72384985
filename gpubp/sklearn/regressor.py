"""MLPRegressor: scikit-learn's regressor, trained by gpubp."""

from typing import Any, ClassVar

import numpy as np
from scipy.special import xlogy
from sklearn.base import RegressorMixin, _fit_context
from sklearn.callback import with_callbacks
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from gpubp.from_sklearn import LOSSES
from gpubp.losses import Loss, Poisson
from gpubp.sklearn.base import BaseMLP
from gpubp.sklearn.inputs import checked_pair, to_host


class MLPRegressor(RegressorMixin, BaseMLP):
    """scikit-learn's MLPRegressor on gpubp: C = (Σ wᵢ ℓᵢ + ½ α Σ W²) / Σ wᵢ, where ℓ is ½ Σ (o − y)² or another `loss`.

    Parameters up to `max_fun`, fitted attributes, methods and messages are those of scikit-learn 1.9, `loss` the first
    of them. What is new is told of in `MLPClassifier`, except for:

    Arguments:
        loss: besides "squared_error" and "poisson", "absolute_error", "huber" (δ = 1), "quantile" (the median), or a
            gpubp Loss, such as `gpubp.Quantile(0.9)`.
        scoring: None is R².

    >>> from gpubp.sklearn import MLPRegressor
    >>> X, y = [[0.0], [1.0], [2.0], [3.0]], [1.0, 3.0, 5.0, 7.0]
    >>> reg = MLPRegressor(hidden_layer_sizes=(4,), activation="identity", solver="lbfgs", random_state=1).fit(X, y)
    >>> round(reg.score(X, y), 4)
    1.0
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions(set(LOSSES)), Loss],
    }

    def __init__(
        self,
        loss: str | Loss = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        device: str = "auto",
        dtype: str | None = None,
        dropout: Any = 0.0,
        schedule: Any = None,
        scoring: Any = None,
        restore_best_weights: bool = True,
        clip_norm: float | None = None,
    ) -> None:
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.device = device
        self.dtype = dtype
        self.dropout = dropout
        self.schedule = schedule
        self.scoring = scoring
        self.restore_best_weights = restore_best_weights
        self.clip_norm = clip_norm

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation: Any = None) -> "MLPRegressor":
        """Train on X (N, features) and y (N,) or (N, outputs).

        `validation` is (X, y) or (X, y, sample_weight): its loss and score are noted after each epoch, and early
        stopping watches it instead of a part of X.
        """
        return self._fit(X, y, sample_weight, validation, incremental=False)  # type: ignore[no-any-return]

    @available_if(lambda self: self._check_solver())
    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> "MLPRegressor":
        """One epoch over these rows, from the present parameters."""
        return self._fit(X, y, sample_weight, None, incremental=True)  # type: ignore[no-any-return]

    def predict(self, X: Any) -> Any:
        """The values, (N,) for one output, else (N, outputs), in the network's dtype."""
        check_is_fitted(self)
        outputs, given_back = self._outputs(X)
        return given_back(outputs[:, 0] if self.n_outputs_ == 1 else outputs)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R² = 1 − Σ w (y − o)² / Σ w (y − ȳ)², the mean over the outputs."""
        return float(r2_score(to_host(y), to_host(self.predict(X)), sample_weight=to_host(sample_weight)))

    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        X, y = checked_pair(self, X, y, reset=reset, y_numeric=True)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True) if isinstance(y, np.ndarray) else y[:, 0]
        return X, y

    def _count_outputs(self, y: Any) -> int:
        return 1 if y.ndim == 1 else int(y.shape[1])

    def _encoded(self, y: Any) -> Any:
        return y[:, None] if y.ndim == 1 else y

    def _encoded_indicator(self, indicator: Any) -> Any:
        return self._encoded(indicator)

    def _output(self) -> str:
        return "exp" if isinstance(self._loss(), Poisson) else "identity"

    def _loss(self) -> Loss:
        return LOSSES[self.loss] if isinstance(self.loss, str) else self.loss

    def _reported(self, loss: Any) -> Any:
        """scikit-learn's squared error is the mean over the outputs, whose gradient is that of the sum."""
        return loss / self.n_outputs_ if isinstance(self.loss, str) and self.loss == "squared_error" else loss

    def _loss_constants(self, encoded: Any) -> Any:
        """y log y − y, which makes half of the deviance of Poisson's y log y − y log o + o − y."""
        if not isinstance(self._loss(), Poisson):
            return None
        counts = np.asarray(to_host(encoded), np.float64)
        return (xlogy(counts, counts) - counts).sum(axis=1)

    def _score_of_outputs(self, targets: Any, outputs: Any, sample_weight: Any) -> float:
        finite = bool(np.isfinite(outputs).all())
        return float(r2_score(targets, outputs, sample_weight=sample_weight)) if finite else np.nan
