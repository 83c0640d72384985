"""Who trains an epoch, and how: gpubp and its peers over the rows of one file, each as its own documentation has it."""

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gpubp.benchmark.contenders import BUILDERS, Contender, Setting
from gpubp.benchmark.machine import forget_peak, versions_of
from gpubp.benchmark.problem import Problem, make_problem
from gpubp.benchmark.timing import timed
from gpubp.benchmark.workers import Booth
from gpubp.errors import DataError
from gpubp.kernel import Array

HIDDEN, BATCH, SEED = (512, 256), 128, 1986


def read(path: Path) -> tuple[Array, Array]:
    """x_train as rows of float32, bytes scaled to 0..1, and y_train of an .npz; DataError where it has no such."""
    import numpy as np

    try:
        with np.load(path) as file:
            x, labels = file["x_train"], file["y_train"]
    except Exception as error:  # whatever is wrong with a file, NumPy and zipfile have many names for it
        raise DataError(f"--data {path} cannot be read: {error}; an .npz with x_train and y_train is wanted") from None
    if x.ndim < 2 or labels.shape != x.shape[:1] or labels.dtype.kind not in "iu" or len(x) < BATCH or labels.min() < 0:
        raise DataError(
            f"--data {path} has x_train {x.shape} and y_train {labels.shape} of {labels.dtype}; "
            f"{BATCH} rows or more are wanted, and for each a class index"
        )
    rows = x.reshape(len(x), -1).astype(np.float32)
    return rows / np.float32(255) if x.dtype == np.uint8 else rows, labels.astype(np.int64)


def loss_over(problem: Problem, parameters: list[Array], x: Array, labels: Array) -> float:
    """The mean cross entropy of all rows, by NumPy in float32."""
    import numpy as np

    depth, total = len(parameters) // 2, 0.0
    for start in range(0, len(x), 4096):
        h, picked = x[start : start + 4096], labels[start : start + 4096]
        for layer, (w, b) in enumerate(zip(parameters[:depth], parameters[depth:], strict=True)):
            h = h @ w + b
            h = np.maximum(h, 0) if layer < depth - 1 else h
        h -= h.max(axis=1, keepdims=True)
        total += float((np.log(np.exp(h).sum(axis=1)) - h[np.arange(len(h)), picked]).sum())
    return total / len(x)


# -- an epoch of each: `step` trains one, in a new order, on all rows, and returns the mean loss of its batches --------


def gpubp_epoch(problem: Problem, setting: Setting, x: Array, labels: Array) -> Contender:
    from gpubp.benchmark.ours import all_parameters, network_and_optimizer

    net, optimizer = network_and_optimizer(problem, setting)

    def epoch() -> float:
        history = net.fit(x, labels, epochs=1, batch_size=BATCH, optimizer=optimizer, verbose=0)
        return float(history["loss"][-1])

    return Contender(epoch, float, partial(all_parameters, net), note="net.fit")


def torch_epoch(problem: Problem, setting: Setting, x: Array, labels: Array) -> Contender:
    from gpubp.benchmark.torch_peers import eager_learner

    return _over_tensors(eager_learner(problem, setting), x, labels)


def torch_compile_epoch(problem: Problem, setting: Setting, x: Array, labels: Array) -> Contender:
    from gpubp.benchmark.torch_peers import compiled_learner

    return _over_tensors(compiled_learner(problem, setting), x, labels)


def _over_tensors(learner: Any, x: Array, labels: Array) -> Contender:
    import torch

    rows, classes = torch.from_numpy(x), torch.from_numpy(labels)

    def epoch() -> float:
        total = torch.zeros(())
        for drawn in torch.randperm(len(rows)).split(BATCH):
            loss = learner.update(rows.index_select(0, drawn), classes.index_select(0, drawn))
            total += loss.detach() * len(drawn)
        return total.item() / len(rows)

    return Contender(epoch, float, learner.parameters, note=learner.note)


def jax_epoch(problem: Problem, setting: Setting, x: Array, labels: Array) -> Contender:
    """The whole epoch jitted: a scan over its batches was a fifth faster than a call of a jitted step for each."""
    import numpy as np

    from gpubp.benchmark.jax_peer import start_jax, stateful_update

    jax, put = start_jax(setting)
    initial, update = stateful_update(jax, problem, setting)
    state = put(jax.tree.map(jax.numpy.array, initial))
    rows, classes = put(x), put(labels.astype(np.int32))
    generator, whole = np.random.default_rng(0), len(x) - len(x) % BATCH

    def train(state: Any, rows: Any, classes: Any, order: Any) -> Any:
        def step(state: Any, drawn: Any) -> Any:
            state, loss = update(state, rows[drawn], classes[drawn])
            return state, loss * len(drawn)

        state, losses = jax.lax.scan(step, state, order[:whole].reshape(-1, BATCH))
        total = losses.sum()
        if whole < len(order):  # the last batch is a short one
            state, loss = step(state, order[whole:])
            total += loss
        return state, total / len(order)

    jitted = jax.jit(train, donate_argnums=0)

    def epoch() -> float:
        nonlocal state
        state, loss = jitted(state, rows, classes, generator.permutation(len(x)).astype(np.int32))
        return float(loss)

    return Contender(epoch, float, lambda: [np.asarray(p) for part in state[0] for p in part], note="a jitted scan")


def sklearn_epoch(problem: Problem, setting: Setting, x: Array, labels: Array) -> Contender:
    from gpubp.benchmark.sklearn_peer import classifier

    model = classifier(problem, shuffle=True)
    return Contender(
        lambda: float(model.partial_fit(x, labels).loss_),
        float,
        lambda: model.coefs_ + model.intercepts_,
        note="partial_fit of all rows",
    )


EPOCHS: dict[str, Callable[[Problem, Setting, Array, Array], Contender]] = {
    "gpubp": gpubp_epoch,
    "torch": torch_epoch,
    "torch-compile": torch_compile_epoch,
    "jax": jax_epoch,
    "sklearn": sklearn_epoch,
}


class EpochBooth(Booth):
    """The process of a contender whose every step is an epoch."""

    def build(self, path: Path) -> dict[str, Any]:
        """Read the data, and train the first epoch, in which compilers work and nobody looks at the clock."""
        x, labels = read(path)
        sizes = (x.shape[1], *HIDDEN, int(labels.max()) + 1)
        self.problem = make_problem(sizes, BATCH, "relu", SEED, "adam")
        self.rows, self.labels = x, labels
        self.contender = contender = EPOCHS[self.name](self.problem, self.setting, x, labels)
        contender.step()
        versions = versions_of(self.name, BUILDERS[self.name].distributions)
        return {"losses": [self.loss()], "note": contender.note, "versions": versions}

    def calibrate(self, seconds: float) -> float:
        """A turn is an epoch, however long it takes."""
        gc.collect()
        gc.freeze()
        forget_peak()
        return seconds

    def run(self, steps: int) -> float:
        """Seconds an epoch; no other before it, as it would be as long as the turn itself."""
        assert self.contender is not None
        return timed(self.contender.step, self.contender.wait, steps)

    def loss(self) -> float:
        """Over all rows, with the parameters as they are."""
        assert self.contender is not None
        assert self.contender.parameters is not None
        return loss_over(self.problem, self.contender.parameters(), self.rows, self.labels)
