"""Seconds of an epoch: 65536 rows on the device, shuffled, gathered into batches and trained on; gpubp and peers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from gpubp.benchmark.contract import Setting
from gpubp.benchmark.problem import LEARNING_RATE, make_problem

ROWS = 65536  # whole batches: no contender compiles for a short one
MNIST_ROWS = 60000
EPOCHS = 3  # timed, beyond the one that stands for what a training costs besides


def per_epoch(train: Callable[[int], object], rows: int = ROWS) -> dict[str, float]:
    """Of `train`, which trains so many epochs and waits for them: seconds of one more epoch, and rows a second."""

    def seconds(epochs: int) -> float:
        start = time.perf_counter()
        train(epochs)
        return time.perf_counter() - start

    seconds(1)  # compiles
    before = seconds(1)
    each = (seconds(1 + EPOCHS) - before) / EPOCHS
    return {"s": each, "rows/s": rows / each, "first, s": before}


def gpubp(
    sizes: tuple[int, ...], batch: int, setting: Setting, rows: int = ROWS, optimizer: str = "sgd"
) -> dict[str, float]:
    from gpubp.benchmark.ours import network_and_optimizer

    problem = make_problem(sizes, rows, optimizer=optimizer)
    net, own = network_and_optimizer(problem, setting)

    def train(epochs: int) -> None:
        net.fit(problem.x, problem.labels, epochs=epochs, batch_size=batch, optimizer=own, verbose=0)

    return per_epoch(train, rows)


def gpubp_captured(
    sizes: tuple[int, ...], batch: int, setting: Setting, rows: int = ROWS, optimizer: str = "sgd"
) -> dict[str, float]:
    """The same, one CUDA graph a step."""
    os.environ["GPUBP_GRAPHS"] = "1"
    return gpubp(sizes, batch, setting, rows, optimizer)


def gpubp_streamed(sizes: tuple[int, ...], batch: int, setting: Setting) -> dict[str, float]:
    """With rows that stay on the host, as if the device could not hold them."""
    from gpubp.backends.cupy import CupyBackend

    CupyBackend.holds = lambda backend, nbytes: False  # type: ignore[method-assign]
    return gpubp(sizes, batch, setting)


def gpubp_captured_streamed(sizes: tuple[int, ...], batch: int, setting: Setting) -> dict[str, float]:
    os.environ["GPUBP_GRAPHS"] = "1"
    return gpubp_streamed(sizes, batch, setting)


def torch(
    sizes: tuple[int, ...], batch: int, setting: Setting, rows: int = ROWS, optimizer: str = "sgd"
) -> dict[str, float]:
    import torch

    from gpubp.benchmark.torch_peers import eager_learner

    learner = eager_learner(make_problem(sizes, batch, optimizer=optimizer), setting)  # chosen at this batch
    problem = make_problem(sizes, rows)
    x, labels = (torch.from_numpy(a).to(setting.device) for a in (problem.x, problem.labels))

    def step(chosen: Any) -> Any:
        return learner.update(x[chosen], labels[chosen]).detach()

    return per_epoch(torch_training(step, batch, setting, rows), rows)


def torch_compile(sizes: tuple[int, ...], batch: int, setting: Setting) -> dict[str, float]:
    return torch_compiled(sizes, batch, setting, None)


def torch_graphs(sizes: tuple[int, ...], batch: int, setting: Setting) -> dict[str, float]:
    return torch_compiled(sizes, batch, setting, "reduce-overhead")


def torch_compiled(sizes: tuple[int, ...], batch: int, setting: Setting, mode: str | None) -> dict[str, float]:
    """Gather, gradient and update in one compiled function, as in gpubp.benchmark's contenders."""
    import torch

    from gpubp.benchmark.torch_peers import loss_of

    torch.set_float32_matmul_precision("highest" if setting.precision == "float32" else "high")
    problem = make_problem(sizes, ROWS)
    loss = loss_of(torch, problem, setting)
    arrays = [w.T.copy() for w in problem.weights] + problem.biases
    mine = tuple(torch.from_numpy(a).to(setting.device) for a in arrays)
    x, labels = (torch.from_numpy(a).to(setting.device) for a in (problem.x, problem.labels))
    for tensor in (*mine, x, labels):
        torch._dynamo.mark_static_address(tensor)  # a CUDA graph copies what may move

    @torch.compile(fullgraph=True, mode=mode, dynamic=False)
    def update(parameters: tuple[Any, ...], x: Any, labels: Any, rows: Any) -> Any:
        gradients, value = torch.func.grad_and_value(loss)(parameters, x[rows], labels[rows])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(gradient, alpha=LEARNING_RATE)
        return value

    def step(rows: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # the last loss may be overwritten
        return update(mine, x, labels, rows)

    return per_epoch(torch_training(step, batch, setting))


def torch_training(step: Callable[[Any], Any], batch: int, setting: Setting, rows: int = ROWS) -> Callable[[int], None]:
    """Epochs of steps that return their loss, on the device until an epoch's is shown."""
    import torch

    def train(epochs: int) -> None:
        for _ in range(epochs):
            total = torch.zeros((), device=setting.device)
            for chosen in torch.randperm(rows, device=setting.device).split(batch):
                total += step(chosen)
            total.item()

    return train


def jax(sizes: tuple[int, ...], batch: int, setting: Setting) -> dict[str, float]:
    import numpy as np

    from gpubp.benchmark.jax_peer import start_jax, stateful_update

    jax, put = start_jax(setting)
    problem = make_problem(sizes, ROWS)
    initial, update = stateful_update(jax, problem, setting)
    state = put(jax.tree.map(jax.numpy.array, initial))  # copies: a donated buffer must not be the problem's own
    x, labels = put(problem.x), put(problem.labels.astype(np.int32))

    def taken(state: Any, total: Any, x: Any, labels: Any, order: Any, start: Any) -> Any:
        rows = jax.lax.dynamic_slice(order, (start,), (batch,))
        state, loss = update(state, x[rows], labels[rows])
        return state, total + loss

    step, shuffled = jax.jit(taken, donate_argnums=(0, 1)), jax.jit(lambda key: jax.random.permutation(key, ROWS))

    def train(epochs: int) -> None:
        nonlocal state
        for epoch in range(epochs):
            order, total = shuffled(jax.random.key(epoch)), jax.numpy.zeros(())
            for start in range(0, ROWS, batch):
                state, total = step(state, total, x, labels, order, start)
            float(total)  # the epoch's loss is shown

    return per_epoch(train)
