"""MLPClassifier: scikit-learn's classifier, trained by gpubp."""

import sys
from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.callback import with_callbacks
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels
from sklearn.utils.validation import check_is_fitted

from gpubp.checks import number
from gpubp.errors import DataError
from gpubp.from_sklearn import OUTPUTS
from gpubp.losses import DEFAULTS, Loss
from gpubp.sklearn.base import BaseMLP
from gpubp.sklearn.inputs import checked_pair, on_device, to_host


class MLPClassifier(ClassifierMixin, BaseMLP):
    """scikit-learn's MLPClassifier on gpubp: C = (Σ wᵢ ℓᵢ + ½ α Σ W²) / Σ wᵢ, where ℓ is the cross entropy.

    Parameters up to `max_fun`, fitted attributes, methods and messages are those of scikit-learn 1.9, and so are the
    draws from `random_state`: in float64 the same data give scikit-learn's coefs_ to rounding. What is new:

    Arguments:
        activation: besides scikit-learn's four any activation of gpubp, by name or as an object, or a list of them with
            one entry a hidden layer.
        solver: besides "lbfgs", "sgd" and "adam" any optimizer of gpubp: a name, with `learning_rate_init` as its rate,
            or an object, which has its own. Its decay and `alpha` add up, but AdamW uses its own decay alone.
        loss: "log_loss", or a gpubp Loss.
        class_weight: {class: weight}, 1 for those left out, or "balanced", or a list with a dict a label for several
            labels a sample; multiplies sample_weight in training, not in scores.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
        dtype: "float32", "float64", or None for that of X: float32 where X is, unless the solver is "lbfgs", else
            float64.
        dropout: the probability of dropping a hidden unit while training, or a list with one for each layer's input.
        schedule: a name ("cosine"), a Schedule or a function step -> factor on the learning rate; named ones end with
            `max_iter`, so that to reach it is no reason for a ConvergenceWarning.
        scoring: what `early_stopping` watches and validation_scores_ hold: any scorer of scikit-learn, by name or as a
            function (estimator, X, y) -> float, with sample_weight where there are weights; None is the accuracy.
        restore_best_weights: whether early stopping ends with the best epoch's weights, as scikit-learn's does.
        clip_norm: the largest Euclidean norm of all gradients together.

    Further attributes: `validation_loss_curve_`, of early stopping's split or of `fit(validation=(X, y))`, without the
    penalty; None without. `set_callbacks` takes scikit-learn's callbacks.

    Raises ValueError for a parameter that cannot be used, DeviceError for a device that is not there.

    >>> from gpubp.sklearn import MLPClassifier
    >>> X, y = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], ["no", "yes", "yes", "no"]
    >>> clf = MLPClassifier((8,), solver="lbfgs", random_state=1).fit(X, y)
    >>> clf.predict(X).tolist()
    ['no', 'yes', 'yes', 'no']
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions({"log_loss"}), Loss],
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
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
        loss: str | Loss = "log_loss",
        class_weight: Any = None,
        device: str = "auto",
        dtype: str | None = None,
        dropout: Any = 0.0,
        schedule: Any = None,
        scoring: Any = None,
        restore_best_weights: bool = True,
        clip_norm: float | None = None,
    ) -> None:
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
        self.loss = loss
        self.class_weight = class_weight
        self.device = device
        self.dtype = dtype
        self.dropout = dropout
        self.schedule = schedule
        self.scoring = scoring
        self.restore_best_weights = restore_best_weights
        self.clip_norm = clip_norm

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation: Any = None) -> "MLPClassifier":
        """Train on X (N, features) and labels y (N,), or (N, classes) of 0 and 1 for several labels a sample.

        `validation` is (X, y) or (X, y, sample_weight): its loss and score are noted after each epoch, and early
        stopping watches it instead of a part of X.
        """
        return self._fit(X, y, sample_weight, validation, incremental=False)  # type: ignore[no-any-return]

    @available_if(lambda self: self._check_solver())
    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> "MLPClassifier":
        """One epoch over these rows, from the present parameters; the first call needs all `classes`."""
        if _check_partial_fit_first_call(self, classes):
            self._label_binarizer = LabelBinarizer()
            self._label_binarizer.fit(y if type_of_target(y).startswith("multilabel") else classes)
        return self._fit(X, y, sample_weight, None, incremental=True)  # type: ignore[no-any-return]

    def predict(self, X: Any) -> Any:
        """The class of each row, or its 0 and 1 for several labels a sample."""
        check_is_fitted(self)
        outputs, given_back = self._outputs(X)
        outputs = to_host(outputs)
        decided = self._label_binarizer.inverse_transform(outputs[:, 0] if self.n_outputs_ == 1 else outputs)
        return given_back(decided)

    def predict_proba(self, X: Any) -> Any:
        """The probability of each class, in the order of classes_; of each label, for several a sample."""
        proba, given_back = self._proba(X)
        return given_back(proba)

    def predict_log_proba(self, X: Any) -> Any:
        """The natural logarithm of `predict_proba`; −inf where a probability is 0."""
        proba, given_back = self._proba(X)
        return given_back(_module_of(proba).log(proba))

    def _proba(self, X: Any) -> tuple[Any, Any]:
        check_is_fitted(self)
        outputs, given_back = self._outputs(X)
        if self.n_outputs_ == 1:
            outputs = _module_of(outputs).concatenate([1 - outputs, outputs], axis=1)
        return outputs, given_back

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The accuracy; for several labels a sample, the share of rows whose labels are all right."""
        return float(accuracy_score(to_host(y), to_host(self.predict(X)), sample_weight=to_host(sample_weight)))

    def _check_settings(self, hidden: list[int], validation: Any, incremental: bool) -> None:
        super()._check_settings(hidden, validation, incremental)
        if self.class_weight == "balanced" and incremental:
            raise ValueError(
                "class_weight='balanced' needs all of y, which partial_fit does not see: give a dict, "
                "dict(zip(classes, sklearn.utils.class_weight.compute_class_weight('balanced', classes=classes, y=y)))"
            )
        by_label = self.class_weight if isinstance(self.class_weight, list) else [self.class_weight or {}]
        for weights in by_label if self.class_weight != "balanced" else ():
            if not isinstance(weights, dict):
                raise DataError(f"class_weight must be a dict or, for several labels, a list of dicts, got {weights!r}")
            for label, weight in weights.items():
                number(f"class_weight[{label!r}]", weight, least=0)

    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        X, y = checked_pair(self, X, y, reset=reset, y_numeric=False)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
            return X, y
        classes = unique_labels(y)
        if self.warm_start and not incremental and set(classes) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                f"Previously got {self.classes_}, `y` has {classes}"
            )
        if len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {classes}."
            )
        return X, y

    def _count_outputs(self, y: Any) -> int:
        return len(self.classes_) if self._label_binarizer.y_type_.startswith("multi") else 1

    def _encoded(self, y: Any) -> Any:
        if self._label_binarizer.y_type_.startswith("multilabel"):
            return self._label_binarizer.transform(y)
        places = np.searchsorted(self.classes_, y)  # a tenth of the time of transform, which checks what is checked
        return places if self._multiclass else places[:, None]

    def _encoded_indicator(self, indicator: Any) -> Any:
        return indicator.argmax(axis=1) if self._multiclass else indicator

    @property
    def _multiclass(self) -> bool:
        return bool(self._label_binarizer.y_type_ == "multiclass")

    def _training_weights(self, y: Any, sample_weight: Any) -> Any:
        if self.class_weight is None:
            return sample_weight
        named = isinstance(self.class_weight, dict) and y.ndim == 1
        seen = np.concatenate([y, self.classes_]) if named else y  # partial_fit may lack a class that has a weight
        weights = compute_sample_weight(self.class_weight, seen)[: len(y)]
        return weights if sample_weight is None else weights * sample_weight

    def _output(self) -> str:
        return "softmax" if self._multiclass else "logistic"

    def _loss(self) -> Loss:
        if isinstance(self.loss, Loss):
            return self.loss
        return DEFAULTS[OUTPUTS[self.out_activation_]]()

    def _score_of_outputs(self, targets: Any, outputs: Any, sample_weight: Any) -> float:
        right = outputs.argmax(axis=1) == targets if targets.ndim == 1 else ((outputs > 0.5) == targets).all(axis=1)
        return float(np.average(right, weights=sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _module_of(outputs: Any) -> Any:
    return sys.modules["cupy"] if on_device(outputs) else np
