"""Callbacks of scikit-learn 1.9 in a fit: one task for the whole, and one in it for every iteration."""

from collections.abc import Callable
from typing import Any

Attributes = Callable[[], dict[str, Any]]  # what makes a copy of the estimator predict as it would now


class Tasks:
    """The tasks of one fit; every hook gets X, y and weights as the user gave them."""

    def __init__(
        self, estimator: Any, X: Any, y: Any, sample_weight: Any, iterations: int, attributes: Attributes
    ) -> None:
        self.wanted = hasattr(estimator, "_skl_callbacks")
        self.X, self._attributes = X, attributes
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self._given = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self._fit = estimator._init_callback_context(max_subtasks=iterations)
        self._fit.call_on_fit_task_begin(**self._given)
        self._iteration: Any = None

    def begin(self, name: str) -> None:
        if self.wanted:
            self._iteration = self._fit.subcontext(task_name=name)
            self._iteration.call_on_fit_task_begin(**self._given, reconstruction_attributes=self._attributes)

    def end(self) -> bool:
        """Whether a callback wants the fit to stop here."""
        if self._iteration is None:
            return False
        iteration, self._iteration = self._iteration, None
        return bool(iteration.call_on_fit_task_end(**self._given, reconstruction_attributes=self._attributes))

    def drop(self) -> None:
        """End an iteration that came to nothing: callbacks are not told what it left."""
        if self._iteration is not None:
            self._iteration.call_on_fit_task_end(estimator=self._given["estimator"])
            self._iteration = None

    def finish(self) -> None:
        self._fit.call_on_fit_task_end(**self._given, reconstruction_attributes=self._attributes)
