"""Callbacks: what may look on while a network trains, and stop it."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from gpubp.checks import count, number
from gpubp.errors import DataError
from gpubp.history import History
from gpubp.registry import did_you_mean

if TYPE_CHECKING:
    from gpubp.mlp import MLP


class Callback:
    """The hooks of a training; override those that are needed."""

    def __init_subclass__(cls) -> None:
        hooks = [name for name in vars(Callback) if name.startswith("on_")]
        for name in vars(cls):
            if name.startswith("on_") and name not in hooks:  # it would never be called
                raise DataError(f"{cls.__name__}.{name} is no hook of a callback; {did_you_mean(name, hooks)}")

    def on_fit_begin(self, net: "MLP") -> None:
        """Before the first epoch."""

    def on_step_end(self, net: "MLP", step: int, cost: Any) -> None:
        """After each step; `cost` is a 0-d device array, and reading it waits for the device."""

    def on_epoch_end(self, net: "MLP", record: dict[str, Any]) -> bool | None:
        """After each epoch, with its record in the history; returning True stops the training."""

    def on_divergence(self, net: "MLP") -> None:
        """After an epoch whose losses are not all finite, before the DivergenceError; the network is as it began."""

    def on_fit_end(self, net: "MLP", history: History) -> None:
        """After the last epoch, whatever ended the training but an error."""


def looks_at_steps(callback: Callback) -> bool:
    """Whether it wants to be told of each step."""
    return type(callback).on_step_end is not Callback.on_step_end


class _EachEpoch(Callback):
    def __init__(self, function: Callable[["MLP", dict[str, Any]], bool | None]) -> None:
        self.function = function

    def on_epoch_end(self, net: "MLP", record: dict[str, Any]) -> bool | None:
        return self.function(net, record)


def resolve(callbacks: Any) -> list[Callback]:
    """Callback objects as they are, functions (net, record) as callbacks after each epoch."""
    resolved = []
    if not isinstance(callbacks, Callback | Iterable) and not callable(callbacks):
        raise DataError(f"callbacks must be a list of gpubp.Callbacks and functions (net, record), got {callbacks!r}")
    for callback in [callbacks] if isinstance(callbacks, Callback) or callable(callbacks) else callbacks:
        if isinstance(callback, type):
            raise DataError(f"a callback must be an object, got the class {callback.__name__}; call it")
        if isinstance(callback, Callback):
            resolved.append(callback)
        elif callable(callback):
            resolved.append(_EachEpoch(callback))
        else:
            raise DataError(f"a callback must be a gpubp.Callback or a function (net, record), got {callback!r}")
    return resolved


class EarlyStopping:
    """Stop when `monitor` has not improved by more than `min_delta` for `patience` epochs; restore the best weights.

    `monitor` is a column of the history; None watches validation_loss, or loss where there is no validation data.
    Accuracy and r2 are to rise, everything else to fall.
    """

    def __init__(
        self, patience: int = 10, monitor: str | None = None, min_delta: float = 0.0, restore_best: bool = True
    ) -> None:
        self.patience = count("early_stopping", patience, " of epochs to wait")
        self.min_delta = number("min_delta", min_delta, least=0)
        self.monitor, self.restore_best = monitor, restore_best

    @classmethod
    def resolve(cls, spec: Any) -> "EarlyStopping | None":
        if spec is None or spec is False:
            return None
        return spec if isinstance(spec, cls) else cls() if spec is True else cls(spec)

    def start(self) -> None:
        self.best, self.best_epoch, self.waited = float("inf"), 0, 0

    def improved(self, record: dict[str, Any]) -> bool:
        """Take note of an epoch; True if it is the best so far."""
        monitor = self.monitor or ("validation_loss" if "validation_loss" in record else "loss")
        if monitor not in record:
            raise DataError(f"early stopping watches {monitor!r}, which is not recorded; known: {', '.join(record)}")
        value = -record[monitor] if monitor.endswith(("accuracy", "r2")) else record[monitor]
        if value < self.best - self.min_delta:
            self.best, self.best_epoch, self.waited = value, record["epoch"], 0
            return True
        self.waited += 1
        return False

    @property
    def exhausted(self) -> bool:
        return self.waited >= self.patience
