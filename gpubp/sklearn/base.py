"""BaseMLP: what the two estimators share, from the checks of parameters to the network that does the work."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, is_classifier
from sklearn.callback import CallbackSupportMixin
from sklearn.metrics import check_scoring
from sklearn.model_selection import train_test_split
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight

from gpubp.activations import Activation
from gpubp.backends import get_backend
from gpubp.data.arrays import returner
from gpubp.errors import DataError, ShapeError
from gpubp.from_sklearn import OUTPUTS, hidden_activations
from gpubp.losses import Loss
from gpubp.optimizers import Optimizer
from gpubp.registry import did_you_mean
from gpubp.sklearn import lbfgs
from gpubp.sklearn.inputs import checked, chosen_rows, on_device, to_host
from gpubp.sklearn.machine import Machine, Samples
from gpubp.sklearn.steps import optimizer_of
from gpubp.sklearn.stochastic import Epochs, HeldOut
from gpubp.sklearn.tasks import Tasks
from gpubp.structure import Structure

DTYPES: set[Any] = {np.dtype(np.float32), np.dtype(np.float64)}


class BaseMLP(CallbackSupportMixin, BaseEstimator, ABC):
    """The part of both estimators that does not depend on the task.

    The attributes are scikit-learn's, and they alone are the estimator's state: the network is made from them when it
    is needed and left out of copies and pickles.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [str, Activation, "array-like"],
        "solver": [str, Optimizer],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "device": [str],
        "dtype": [
            StrOptions({str(each) for each in DTYPES}),
            Options(type, {each.type for each in DTYPES}),
            Options(np.dtype, DTYPES),
            None,
        ],
        "dropout": [Interval(Real, 0, 1, closed="left"), "array-like"],
        "schedule": "no_validation",  # schedules.bind refuses what it is not
        "scoring": [str, callable, None],
        "restore_best_weights": ["boolean"],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
    }

    n_outputs_: int
    _machine: Machine | None = None
    _fitting = False  # while the network is ahead of coefs_ and intercepts_

    # -- what the two estimators do differently ------------------------------------------------------------------------

    @abstractmethod
    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        """X and y, checked; a classifier's classes are set."""

    @abstractmethod
    def _count_outputs(self, y: Any) -> int: ...

    @abstractmethod
    def _encoded(self, y: Any) -> Any:
        """y as a network takes it."""

    @abstractmethod
    def _encoded_indicator(self, y: Any) -> Any:
        """What scikit-learn's network takes, as gpubp's does."""

    @abstractmethod
    def _output(self) -> str:
        """out_activation_ of a network that is about to be made."""

    @abstractmethod
    def _loss(self) -> Loss: ...

    @abstractmethod
    def _score_of_outputs(self, targets: Any, outputs: Any, sample_weight: Any) -> float:
        """The default score of a network's outputs against encoded targets."""

    def _reported(self, loss: Any) -> Any:
        """scikit-learn's figure for a loss of the network."""
        return loss

    def _loss_constants(self, encoded: Any) -> Any:
        """Of each row, what scikit-learn's loss has beside gpubp's."""
        return None

    def _training_weights(self, y: Any, sample_weight: Any) -> Any:
        """Those given, with what the estimator itself adds to them."""
        return sample_weight

    # -- fitting -------------------------------------------------------------------------------------------------------

    @property
    def _stochastic(self) -> bool:
        return not (isinstance(self.solver, str) and self.solver == "lbfgs")

    def _check_solver(self) -> bool:
        if not self._stochastic:
            raise AttributeError(
                f"partial_fit is only available for stochastic optimizers. {self.solver} is not stochastic."
            )
        return True

    def _fit(self, X: Any, y: Any, sample_weight: Any, validation: Any, incremental: bool) -> Any:
        sizes = self.hidden_layer_sizes
        hidden = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
        self._check_settings(hidden, validation, incremental)
        first_pass = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        iterations = 1 if incremental else self.max_iter + (not self._stochastic)
        tasks = Tasks(self, X, y, sample_weight, iterations, self._reconstruction)

        X, y = self._validate_input(X, y, incremental, reset=first_pass)
        sample_weight = _checked_weights(sample_weight, X)
        self._random_state = check_random_state(self.random_state)
        outputs = self._count_outputs(y)
        if not first_pass and outputs != self.n_outputs_:
            raise ShapeError(f"y has {outputs} outputs, but this estimator has learnt {self.n_outputs_}")
        self.n_outputs_ = outputs
        if first_pass:
            self._initialize([X.shape[1], *hidden, self.n_outputs_], self._dtype_of(X))
        machine = self._fed_machine()
        self._fitting = True
        try:
            with machine.session():
                if self._stochastic:
                    self._fit_stochastic(machine, X, y, sample_weight, validation, incremental, tasks)
                else:
                    samples = self._samples(machine, X, y, self._training_weights(y, sample_weight))
                    lbfgs.minimize(self, lbfgs.Objective(machine, samples, self.alpha), tasks)
                self._publish()
        finally:
            self._fitting = False
        if not all(np.isfinite(each).all() for each in [*self.coefs_, *self.intercepts_]):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may"
                " contain large values and need to be preprocessed."
            )
        tasks.finish()
        return self

    def _check_settings(self, hidden: list[int], validation: Any, incremental: bool) -> None:
        """What one parameter alone does not tell."""
        get_backend(self.device)  # DeviceError before anything is fitted
        if not all(isinstance(width, Integral) and not isinstance(width, bool) for width in hidden):
            raise DataError(f"hidden_layer_sizes must be integers, got {hidden}")
        if any(width <= 0 for width in hidden):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
        hidden_activations(self.activation, len(hidden))
        if isinstance(self.solver, str) and self.solver not in (known := ["lbfgs", *sorted(Optimizer.members)]):
            raise DataError(f"solver={self.solver!r} is not known; {did_you_mean(self.solver, known)}")
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        if not self._stochastic:
            self._check_lbfgs(validation)
        if isinstance(self.loss, Loss) and self.loss.reduction != "mean":
            raise ValueError(f"loss={self.loss!r} is a sum over samples, but alpha goes with a mean: reduction='mean'")

    def _check_lbfgs(self, validation: Any) -> None:
        """Refuse what only the loop over epochs can do."""
        asked = {
            "dropout": self.dropout if np.any(np.asarray(self.dropout) != 0) else None,
            "schedule": self.schedule,
            "clip_norm": self.clip_norm,
            "validation": None if validation is None else "(X, y)",
        }
        for name, value in asked.items():
            if value is not None:
                raise DataError(f"{name}={value} needs a stochastic solver, such as 'adam', not 'lbfgs'")

    def _dtype_of(self, X: Any) -> Any:
        """What the network computes in: X's float32 stays, except for L-BFGS-B, whose own arithmetic is float64."""
        if self.dtype is not None:
            return self.dtype
        return np.float32 if X.dtype == np.float32 and self._stochastic else np.float64

    def _initialize(self, units: list[int], dtype: Any) -> None:
        self.n_iter_ = self.t_ = 0
        self.n_layers_ = len(units)
        self.out_activation_ = self._output()
        names = [activation.name for activation in hidden_activations(self.activation, len(units) - 2)]
        names.append(names[-1] if names else "")  # scikit-learn draws the output layer's weights as the layer's before
        self.coefs_, self.intercepts_ = [], []
        for (inputs, outputs), name in zip(pairwise(units), names, strict=True):
            bound = np.sqrt((2.0 if name == "sigmoid" else 6.0) / (inputs + outputs))
            self.coefs_.append(self._random_state.uniform(-bound, bound, (inputs, outputs)).astype(dtype, copy=False))
            self.intercepts_.append(self._random_state.uniform(-bound, bound, outputs).astype(dtype, copy=False))
        self._machine = None
        for private in ("_optimizer", "_dropout_seed"):
            self.__dict__.pop(private, None)
        if self._stochastic:
            self.loss_curve_: list[float] = []
            self._no_improvement_count = 0
            self.best_loss_: float | None = None
            self.validation_scores_: list[float] | None = None
            self.validation_loss_curve_: list[float] | None = None
            self.best_validation_score_: float | None = None

    def _fit_stochastic(
        self, machine: Machine, X: Any, y: Any, sample_weight: Any, validation: Any, incremental: bool, tasks: Tasks
    ) -> None:
        if not incremental or not hasattr(self, "_optimizer"):
            self._optimizer = optimizer_of(self)
        held_out = None
        if validation is not None:
            held_out = self._checked_validation(machine, validation)
        elif self.early_stopping:
            rows, other = self._split(y)
            parts = [chosen_rows(each, other) for each in (X, y, sample_weight)]
            seen = parts[0] if self.scoring is None or on_device(X) else _safe_indexing(tasks.X, other)
            held_out = HeldOut(self._samples(machine, *parts), seen, *parts[1:])
            X, y, sample_weight = (chosen_rows(each, rows) for each in (X, y, sample_weight))
        if held_out is not None and self.validation_scores_ is None:
            self.validation_scores_, self.validation_loss_curve_ = [], []
        if self.early_stopping and self.best_validation_score_ is None:
            self.best_validation_score_ = -np.inf
        elif not self.early_stopping and self.best_loss_ is None:
            self.best_loss_ = np.inf
        scorer = None if self.scoring is None or held_out is None else check_scoring(self, self.scoring)
        train = self._samples(machine, X, y, self._training_weights(y, sample_weight))
        Epochs(self, machine, train, held_out, scorer, tasks).run(self.max_iter, incremental)

    def _split(self, y: Any) -> tuple[Any, Any]:
        """The numbers of the rows to train on and of those held out, as scikit-learn draws them."""
        stratified = is_classifier(self) and self.n_outputs_ == 1
        rows, other = train_test_split(
            np.arange(len(y)),
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=self._encoded(y).astype(bool) if stratified else None,
        )
        if len(other) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        return rows, other

    def _checked_validation(self, machine: Machine, validation: Any) -> HeldOut:
        entries = len(validation) if isinstance(validation, tuple | list) else 0
        if entries not in (2, 3):
            got = f"{entries} entries" if entries else type(validation).__name__
            raise DataError(f"validation must be (X, y) or (X, y, sample_weight), got {got}")
        given, y, sample_weight = (*validation, None)[:3]
        try:
            X, y = self._validate_input(given, y, incremental=True, reset=False)
            sample_weight = _checked_weights(sample_weight, X)
            return HeldOut(self._samples(machine, X, y, sample_weight), given, y, sample_weight)
        except (TypeError, ValueError) as error:
            raise DataError(f"validation: {error}") from None

    def _samples(self, machine: Machine, X: Any, y: Any, sample_weight: Any) -> Samples:
        encoded = self._encoded(y)
        samples = machine.samples(X, encoded, sample_weight)
        samples.constants = self._loss_constants(encoded)
        return samples

    # -- the network ---------------------------------------------------------------------------------------------------

    def _fed_machine(self) -> Machine:
        """The network of these attributes, with coefs_ and intercepts_ in it; the one at hand where it still fits."""
        shapes = self._shapes()
        dtype = "float32" if np.asarray(self.coefs_[0]).dtype == np.float32 else "float64"
        settings = self.activation, self.out_activation_, self.loss, self.dropout, self.device
        key = (shapes, dtype, *(each if isinstance(each, str) else repr(each) for each in settings))
        machine = self._machine
        if machine is None or machine.key != key:
            machine = self._machine = Machine(key, self._structure(shapes, dtype), self.device, self._seed())
            if hasattr(self, "_optimizer"):
                self._optimizer = copy(self._optimizer)  # whose state may follow to another network
                machine.network.steps = self._optimizer.steps
        if not self._fitting:
            with machine.session():
                machine.load(self.coefs_, self.intercepts_)
        return machine

    def _shapes(self) -> list[tuple[int, int]]:
        """Those of coefs_, which anyone may have assigned."""
        shapes = [np.shape(coef) for coef in self.coefs_] if isinstance(self.coefs_, list | tuple) else []
        if not shapes or any(len(shape) != 2 for shape in shapes):
            raise ShapeError(f"coefs_ must be a list with one matrix a layer, got {shapes or self.coefs_!r}")
        ends, wanted = (shapes[0][0], shapes[-1][1]), (getattr(self, "n_features_in_", shapes[0][0]), self.n_outputs_)
        if ends != wanted:
            raise ShapeError(f"coefs_ are for (features, outputs) = {ends}, but {wanted} is needed")
        return shapes

    def _structure(self, shapes: list[tuple[int, int]], dtype: str) -> Structure:
        sizes = [shapes[0][0], *(width for _, width in shapes)]
        hidden = hidden_activations(self.activation, len(sizes) - 2)
        dropout = self.dropout if isinstance(self.dropout, Real) else list(self.dropout)
        output = OUTPUTS.get(self.out_activation_, self.out_activation_)
        return Structure.build(sizes, hidden, output, self._loss(), True, None, dropout, None, dtype)

    def _seed(self) -> int:
        """Of dropout's masks, drawn where there are any."""
        if np.any(self.dropout) and not hasattr(self, "_dropout_seed"):
            self._dropout_seed = int(check_random_state(self.random_state).randint(2**31))
        return getattr(self, "_dropout_seed", 0)

    def _loss_grad_lbfgs(
        self, packed_coef_inter: Any, X: Any, y: Any, sample_weight: Any, *unused: Any
    ) -> tuple[float, Any]:
        """The cost at these parameters and its gradient, packed: what scikit-learn's own tests call."""
        machine = self._fed_machine()
        with machine.session():
            samples = machine.samples(X, self._encoded_indicator(y), sample_weight)
            return lbfgs.Objective(machine, samples, self.alpha)(packed_coef_inter)

    def _publish(self) -> None:
        """Let coefs_ and intercepts_ be what the network holds."""
        self.coefs_, self.intercepts_ = self._fed_machine().published()

    def _reconstruction(self) -> dict[str, Any]:
        """What a copy of this estimator needs to predict as this one would now."""
        coefs, intercepts = self._fed_machine().published()
        return {"coefs_": [each.copy() for each in coefs], "intercepts_": [each.copy() for each in intercepts]}

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        for private in ("_machine", "_fitting"):
            state.pop(private, None)
        return state

    # -- predicting ----------------------------------------------------------------------------------------------------

    def _outputs(self, X: Any) -> tuple[Any, Callable[[Any], Any]]:
        """The network's outputs for X, where X lies, and what gives a result from them back as the kind that X is."""
        rows = checked(self, X, reset=False)
        machine = self._fed_machine()
        with machine.session() as network:
            backend, outputs = network.backend, network.outputs(machine.rows(rows))
            if not on_device(X):
                return backend.to_numpy(outputs), lambda result: result
            give = returner(X, backend)
            return outputs, lambda result: give(backend.asarray(result, result.dtype))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _checked_weights(sample_weight: Any, X: Any) -> Any:
    if sample_weight is None:
        return None
    return np.asarray(to_host(sample_weight)) if on_device(X) else _check_sample_weight(sample_weight, X)
