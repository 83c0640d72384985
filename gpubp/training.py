"""Trainer: the loop over epochs and batches.

With it go schedules, validation, early stopping, callbacks, Ctrl-C and the diagnosis of divergence.
"""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp import callbacks as hooks
from gpubp import metrics as metric_table
from gpubp import schedules, sharing
from gpubp.alone import Alone
from gpubp.callbacks import EarlyStopping
from gpubp.checks import count, number
from gpubp.data.arrays import as_weights, chosen, not_finite
from gpubp.data.batches import ArrayBatches, StreamBatches, Transformed
from gpubp.data.split import split_rows
from gpubp.epoch import Costs, Snapshot
from gpubp.errors import DataError, DivergenceError
from gpubp.history import History
from gpubp.interruption import interruptible
from gpubp.kernel import Array
from gpubp.optimizers import Optimizer, squared_norm
from gpubp.progress import Progress
from gpubp.resident import ResidentEpochs
from gpubp.resume import Checkpoint
from gpubp.steps import ArrayPortions, Portions, SharedSteps, Steps

if TYPE_CHECKING:
    from gpubp.mlp import MLP

Arrays = tuple[Array, Array, Array | None]  # x, targets, weights, on the device


class Trainer:
    """The settings of one training, checked, and the loop that carries it out; `MLP.fit` describes the arguments."""

    def __init__(
        self,
        net: "MLP",
        *,
        epochs: int,
        batch_size: int | str,
        optimizer: Any,
        learning_rate: float | None,
        schedule: Any,
        weight_decay: float,
        clip_norm: float | None,
        early_stopping: Any,
        class_weight: Any,
        metrics: Any,
        shuffle: bool,
        transform: Callable[..., Any] | None,
        callbacks: Any,
        verbose: int,
        processes: Alone,
    ) -> None:
        self.net, self.network, self.processes = net, net._network, processes
        self.epochs = count("epochs", epochs)
        full = isinstance(batch_size, str) and batch_size == "full"
        self.batch_size = batch_size if full else count("batch_size", batch_size, ' or "full"')
        self.optimizer = _optimizer(optimizer, learning_rate, weight_decay)
        self.schedule, self.transform, self.shuffle, self.class_weight = schedule, transform, shuffle, class_weight
        self.clip_norm = None if clip_norm is None else number("clip_norm", clip_norm, above=0)
        self.early_stopping = EarlyStopping.resolve(early_stopping)
        self.metrics = metric_table.resolve(metrics, net._network.targets.task)
        self.callbacks = hooks.resolve(callbacks)
        self.checkpoint = next((each for each in self.callbacks if isinstance(each, Checkpoint)), None)
        self.verbose = 0 if processes.rank else verbose
        self.history, self.best, self.step = History(), None, 0  # of this training, with what it resumes
        self.resident: ResidentEpochs | None = None  # where epochs run from the device

    def fit(self, x: Any, y: Any, sample_weight: Any, validation: Any) -> History:
        """Train, and return what happened."""
        with self.net._lock, self.network.backend.active(), self.processes.together():
            if self.processes.size > 1:
                sharing.start_alike(self)
            train, held_out = self._prepare(x, y, sample_weight, validation)
            if self.processes.size > 1:
                sharing.check_data(self, train, held_out)
            return self._run(train, held_out)

    # -- data ----------------------------------------------------------------------------------------------------------

    def _prepare(
        self, x: Any, y: Any, sample_weight: Any, validation: Any
    ) -> tuple[Arrays | StreamBatches, Arrays | None]:
        """The training data and the validation data, on the device."""
        if y is None:
            if not hasattr(x, "__iter__") or hasattr(x, "ndim"):
                raise DataError("y is missing: give both x and y, or for x an iterable of (x, y) batches")
            for name, value in (("sample_weight", sample_weight), ("class_weight", self.class_weight)):
                if value is not None:
                    raise DataError(f"{name} needs x and y as arrays; with batches yield (x, y, weights)")
            if isinstance(x, Iterator) and self.epochs > 1:
                raise DataError(
                    f"x is a generator, which can be iterated only once, and epochs={self.epochs}; "
                    "give a list of batches, or an object whose __iter__ starts anew"
                )
            convert = partial(self.net._sample, may_wait=False)
            return StreamBatches(convert, x), self._held_out(validation)
        inputs, targets, weights = self.net._sample(x, y, sample_weight, finite="x", processes=self.processes)
        held_out: Arrays | None
        if isinstance(validation, int | float) and not isinstance(validation, bool):
            train, held_out = self._split((inputs, targets, weights), float(validation))
        else:
            train, held_out = (inputs, targets, weights), self._held_out(validation)
        return self._class_weighted(train), held_out

    def _held_out(self, validation: Any) -> Arrays | None:
        if validation is None:
            return None
        if not isinstance(validation, tuple | list) or len(validation) not in (2, 3):
            raise DataError(
                "validation must be (x, y), (x, y, weights) or a fraction of the training rows (arrays only)"
            )
        x, y, weights = (*validation, None)[:3]
        return self.net._sample(x, y, weights, finite="validation x", processes=self.processes)

    def _split(self, arrays: Arrays, fraction: float) -> tuple[Arrays, Arrays]:
        backend, (x, targets, weights) = self.network.backend, arrays
        labels = None if self.network.targets.task in ("values", "labels") else self._labels(targets)
        parts = []
        for rows in split_rows(len(x), fraction, self.net.seed, labels):
            parts.append((chosen(x, rows, backend), chosen(targets, rows, backend), chosen(weights, rows, backend)))
        return parts[0], parts[1]

    def _labels(self, targets: Array) -> Any:
        """Class numbers on the host, from indices, rows of probabilities or the 0/1 of one sigmoid."""
        host = self.network.backend.to_numpy(targets)
        if host.ndim == 1:
            return host
        return host.argmax(axis=1) if host.shape[1] > 1 else (host[:, 0] >= 0.5).astype(np.int64)

    def _class_weighted(self, arrays: Arrays) -> Arrays:
        if self.class_weight is None:
            return arrays
        network, (x, targets, weights) = self.network, arrays
        if network.targets.task not in ("classes", "binary"):
            raise DataError("class_weight needs a softmax or a single sigmoid output; use sample_weight instead")
        labels, classes = self._labels(targets), max(2, network.targets.outputs)
        if self.class_weight == "balanced":
            counts = np.bincount(labels, minlength=classes)
            table = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
        elif isinstance(self.class_weight, dict):
            table = np.ones(classes)
            for label, weight in self.class_weight.items():
                if not isinstance(label, int | np.integer) or not 0 <= label < classes:
                    raise DataError(f"class_weight names class {label!r}, but the classes are 0..{classes - 1}")
                table[label] = number(f"class_weight[{label}]", weight, least=0)
        else:
            raise DataError(f'class_weight must be a dict {{class: weight}} or "balanced", got {self.class_weight!r}')
        factors = as_weights(table[labels], len(labels), network.backend, network.dtype)
        return x, targets, factors if weights is None else weights * factors

    def _batches(self, train: Arrays | StreamBatches) -> Any:
        net, processes, backend = self.net, self.processes, self.network.backend
        if not isinstance(train, StreamBatches):
            size = len(train[0]) if self.batch_size == "full" else int(self.batch_size)
            arrays = partial(ArrayBatches, backend, *train, size, self.shuffle, net.seed)
            if self.transform is None:
                return arrays() if processes.size == 1 else ArrayPortions(arrays(processes), processes, backend)
        batches: Any = train if isinstance(train, StreamBatches) else arrays()
        if self.transform is not None:
            batches = Transformed(batches, self.transform, net._sample, net.seed)
        return batches if processes.size == 1 else Portions(batches, processes, backend)

    # -- the loop ------------------------------------------------------------------------------------------------------

    def _run(self, train: Arrays | StreamBatches, held_out: Arrays | None) -> History:
        network = self.network
        batches = self._batches(train)
        factor = None if self.schedule is None else schedules.bind(self.schedule, len(batches) * self.epochs or None)
        self.optimizer.attach(network.backend, network.arena)
        if self.early_stopping:
            self.early_stopping.start()
        if self.checkpoint:
            self.checkpoint.share(self.processes)
            self.checkpoint.restore(self)
        if not any(map(hooks.looks_at_steps, self.callbacks)):
            self.resident = ResidentEpochs.of(network, batches, self.optimizer, self.clip_norm)
        self.steps = self._stepping()
        history = self.history
        start = Snapshot(self)
        progress = Progress.of(self.verbose, self.net, self.epochs, len(batches))
        for callback in self.callbacks:
            callback.on_fit_begin(self.net)
        with progress, interruptible() as pressed:
            # Asked by all processes at the same places, as none may go on without the others.
            interrupted = pressed if self.processes.size == 1 else lambda: self.processes.any(pressed())
            while history.stopped == "finished" and len(history) < self.epochs and not interrupted():
                start.take()
                began = time.perf_counter()
                costs = self._epoch(batches, factor, progress, interrupted)
                loss, rows = costs.mean(network.loss.reduction)
                trained = time.perf_counter()
                if not self._all_finite(costs):
                    start.restore()
                    for callback in self.callbacks:
                        callback.on_divergence(self.net)
                    raise DivergenceError(self._diagnose(batches, factor, len(history) + 1, start))
                if self.checkpoint and not costs.whole:  # an interrupted epoch is begun anew when training goes on
                    start.restore()
                    break
                rate = self._rate(factor, self.step - 1)
                record = {
                    "epoch": len(history) + 1,
                    "loss": loss,
                    **self._validate(train, held_out),
                    "learning_rate": self.optimizer.learning_rate if rate is None else rate,
                    "seconds": time.perf_counter() - began,
                    "samples_per_second": rows / (trained - began),
                }
                self._finish(self.processes.of_first(record), progress)
            if interrupted():
                history.stopped = "interrupted"
            elif self.best is not None and self.early_stopping and self.early_stopping.restore_best:
                network.backend.copy(self.best, network.arena.parameters)
            progress.finished(history)
        for callback in self.callbacks:
            callback.on_fit_end(self.net, history)
        return history

    def _finish(self, record: dict[str, Any], progress: Progress) -> None:
        """Take note of an epoch that is done, and of whether it is to be the last."""
        network, history = self.network, self.history
        if self.processes.size > 1:
            sharing.check_parameters(self, record["epoch"])
        history.records.append(record)
        progress.epoch(record)
        network.epochs += 1
        if self.early_stopping and self.early_stopping.improved(record):
            self.best = network.backend.copied(network.arena.parameters, self.best)
            history.best_epoch = record["epoch"]
        wishes = [callback.on_epoch_end(self.net, record) for callback in self.callbacks]
        if self.processes.any(any(isinstance(wish, bool | np.bool_) and wish for wish in wishes)):
            history.stopped = "callback"
        elif self.early_stopping and self.early_stopping.exhausted:
            history.stopped = "early stopping"
        if self.checkpoint:
            self.checkpoint.write(self)

    def _epoch(self, batches: Any, factor: Any, progress: Progress, interrupted: Callable[[], bool]) -> Costs:
        costs = Costs(self.network.backend, self.network.dtype)
        with closing(self._steps(batches, factor, costs)) as steps:
            for step in steps:
                self.step += 1
                progress.step(step)
                if interrupted():
                    return costs
        costs.whole = True
        return costs

    def _steps(self, batches: Any, factor: Any, costs: Costs) -> Generator[int]:
        """Take an epoch's steps, each when the next is asked for, and note what they cost."""
        network = self.network
        if self.resident:
            rates = [self._rate(factor, self.step + step) for step in range(len(batches))]
            yield from self.resident.epoch(network.epochs, rates, costs)
            return
        for step, batch in enumerate(batches.epoch(network.epochs), 1):
            cost, _ = self.steps.take(batch, costs, self._rate(factor, self.step))
            for callback in self.callbacks:
                callback.on_step_end(self.net, self.step + 1, cost.copy())
            yield step

    def _stepping(self) -> Steps:
        settings, adder = (self.network, self.optimizer, self.clip_norm), self.processes.adder(self.network.backend)
        return SharedSteps(*settings, adder) if adder else Steps(*settings)

    def _rate(self, factor: Callable[[int], float] | None, step: int) -> float | None:
        return None if factor is None else self.optimizer.learning_rate * float(factor(step))

    def _validate(self, train: Arrays | StreamBatches, held_out: Arrays | None) -> dict[str, float]:
        """Metrics after the epoch, with dropout off: of the training data where at hand, and of the validation data."""
        record: dict[str, float] = {}
        if self.metrics and not isinstance(train, StreamBatches):
            scores = self.network.score(*train, self.metrics, self.processes)
            record = {name: value for name, value in scores.items() if name != "loss"}
        if held_out is not None:
            scores = self.network.score(*held_out, self.metrics, self.processes)
            record |= {f"validation_{name}": value for name, value in scores.items()}
        return record

    # -- divergence ----------------------------------------------------------------------------------------------------

    def _all_finite(self, costs: Costs) -> bool:
        backend, parameters = self.network.backend, self.network.arena.parameters
        norm = backend.empty((), self.network.dtype)
        backend.run(squared_norm, parameters, norm)
        if not costs.finite:
            return False
        # The sum of squares may overflow where no parameter has.
        return bool(np.isfinite(backend.to_numpy(norm))) or bool(backend.xp.isfinite(parameters).all())

    def _diagnose(self, batches: Any, factor: Any, epoch: int, start: Snapshot) -> str:
        """Replay the epoch, looking at every step, to name the step and the layer.

        The network is left as the epoch began.
        """
        network, step, costs = self.network, 0, Costs(self.network.backend, self.network.dtype)
        found = "the replayed epoch was finite, so the batches or a transform are not reproducible"
        try:
            for step, batch in enumerate(batches.epoch(network.epochs), 1):
                bad_x = self.processes.of_all(not_finite("x", batch[0], network.backend.xp))
                if any(bad_x):  # from a transform or an iterable; arrays have been checked
                    found = f"at step {step} {next(filter(None, bad_x))}"
                    break
                cost, buffers = self.steps.take(batch, costs, self._rate(factor, self.step))
                self.step += 1
                culprits = self.processes.of_all(network.not_finite(cost, buffers))
                if any(culprits):
                    found = f"at step {step} {min(filter(None, culprits))[1]}"
                    break
        except DataError as error:
            found = f"at step {step} {error}" if step else f"the epoch cannot be replayed to find the step ({error})"
        start.restore()
        restored = f"end of epoch {epoch - 1}" if epoch > 1 else "start"
        return (
            f"training diverged in epoch {epoch}: {found}. The network is back at the {restored}. "
            f"Try a smaller learning rate (it was {self.optimizer.learning_rate:g}) or clip_norm=1.0, "
            "and check the scale of x"
        )


def _optimizer(spec: Any, learning_rate: float | None, weight_decay: float) -> Optimizer:
    """An object as it is, or a fresh one by name with the settings given."""
    if isinstance(spec, Optimizer):
        if learning_rate is not None or weight_decay:
            raise DataError(
                f"learning_rate and weight_decay belong to the optimizer object {spec!r}; "
                "set them there, or give its name"
            )
        return spec
    optimizer = Optimizer.resolve(spec)
    if learning_rate is not None:
        optimizer.learning_rate = number("learning_rate", learning_rate, above=0)
    if number("weight_decay", weight_decay, least=0):  # 0 leaves the optimizer's own, as AdamW has one
        optimizer.weight_decay = float(weight_decay)
    return optimizer
