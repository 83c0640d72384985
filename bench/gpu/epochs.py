"""Seconds of an epoch: 65536 rows on the device, shuffled, gathered into batches and trained on; gpubp and peers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import pairwise
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


def gpubp(sizes: tuple[int, ...], batch: int, setting: Setting, rows: int = ROWS) -> dict[str, float]:
    import gpubp

    problem = make_problem(sizes, rows)
    precision = None if setting.precision == "float32" else setting.precision
    net = gpubp.MLP(sizes, "sigmoid", "softmax", device=setting.device, precision=precision, seed=0)
    net.set_parameters(problem.weights, problem.biases)
    optimizer = gpubp.SGD(LEARNING_RATE)

    def train(epochs: int) -> None:
        net.fit(problem.x, problem.labels, epochs=epochs, batch_size=batch, optimizer=optimizer, verbose=0)

    return per_epoch(train, rows)


def gpubp_captured(sizes: tuple[int, ...], batch: int, setting: Setting, rows: int = ROWS) -> dict[str, float]:
    """The same from the device, one CUDA graph a step."""
    os.environ["GPUBP_GRAPHS"] = "1"
    return gpubp(sizes, batch, setting, rows)


def gpubp_streamed(sizes: tuple[int, ...], batch: int, setting: Setting) -> dict[str, float]:
    """The same with rows that stay on the host, as if the device could not hold them."""
    from gpubp.backends.cupy import CupyBackend

    CupyBackend.holds = lambda backend, nbytes: False  # type: ignore[method-assign]
    return gpubp(sizes, batch, setting)


def torch(sizes: tuple[int, ...], batch: int, setting: Setting, rows: int = ROWS) -> dict[str, float]:
    import torch

    torch.set_float32_matmul_precision("highest" if setting.precision == "float32" else "high")
    problem, layers = make_problem(sizes, rows), list[torch.nn.Module]()
    for inputs, outputs in pairwise(sizes):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.Sigmoid()]
    model = torch.nn.Sequential(*layers[:-1]).to(setting.device)
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, fused=True)
    x, labels = (torch.from_numpy(a).to(setting.device) for a in (problem.x, problem.labels))

    def step(chosen: Any) -> Any:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(setting.kind, torch.bfloat16, enabled=setting.precision == "bfloat16"):
            loss = torch.nn.functional.cross_entropy(model(x[chosen]), labels[chosen])
        loss.backward()
        optimizer.step()
        return loss.detach()

    return per_epoch(torch_training(step, batch, setting, rows), rows)


def torch_compile(sizes: tuple[int, ...], batch: int, setting: Setting) -> dict[str, float]:
    return torch_compiled(sizes, batch, setting, None)


def torch_graphs(sizes: tuple[int, ...], batch: int, setting: Setting) -> dict[str, float]:
    return torch_compiled(sizes, batch, setting, "reduce-overhead")


def torch_compiled(sizes: tuple[int, ...], batch: int, setting: Setting, mode: str | None) -> dict[str, float]:
    """Gather, gradient and update in one compiled function, as in gpubp.benchmark's contenders."""
    import torch

    torch.set_float32_matmul_precision("high" if setting.precision == "tf32" else "highest")
    problem, depth = make_problem(sizes, ROWS), len(sizes) - 1
    arrays = [w.T.copy() for w in problem.weights] + problem.biases
    mine = tuple(torch.from_numpy(a).to(setting.device) for a in arrays)
    x, labels = (torch.from_numpy(a).to(setting.device) for a in (problem.x, problem.labels))
    for tensor in (*mine, x, labels):
        torch._dynamo.mark_static_address(tensor)  # a CUDA graph copies what may move

    def loss_of(parameters: tuple[Any, ...], x: Any, labels: Any) -> Any:
        for i in range(depth):
            x = torch.nn.functional.linear(x, parameters[i], parameters[depth + i])
            x = torch.sigmoid(x) if i < depth - 1 else x
        return torch.nn.functional.cross_entropy(x, labels)

    @torch.compile(fullgraph=True, mode=mode, dynamic=False)
    def update(parameters: tuple[Any, ...], x: Any, labels: Any, rows: Any) -> Any:
        gradients, loss = torch.func.grad_and_value(loss_of)(parameters, x[rows], labels[rows])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(gradient, alpha=LEARNING_RATE)
        return loss

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
    import jax
    import numpy as np
    from jax import numpy as jnp

    jax.config.update("jax_platforms", setting.kind)
    jax.config.update("jax_default_matmul_precision", "tensorfloat32" if setting.precision == "tf32" else "highest")
    problem = make_problem(sizes, ROWS)
    parameters = jax.tree.map(jnp.array, (problem.weights, problem.biases))
    x, labels = jnp.array(problem.x), jnp.array(problem.labels.astype(np.int32))

    def loss_of(parameters: Any, x: Any, labels: Any) -> Any:
        *hidden, (w, b) = zip(*parameters, strict=True)
        for hidden_w, hidden_b in hidden:
            x = jax.nn.sigmoid(x @ hidden_w + hidden_b)
        log_p = jax.nn.log_softmax(x @ w + b)
        return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], 1))

    def update(parameters: Any, total: Any, x: Any, labels: Any, order: Any, start: Any) -> Any:
        rows = jax.lax.dynamic_slice(order, (start,), (batch,))
        loss, gradients = jax.value_and_grad(loss_of)(parameters, x[rows], labels[rows])
        return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, parameters, gradients), total + loss

    step, shuffled = jax.jit(update, donate_argnums=(0, 1)), jax.jit(lambda key: jax.random.permutation(key, ROWS))

    def train(epochs: int) -> None:
        nonlocal parameters
        for epoch in range(epochs):
            order, total = shuffled(jax.random.key(epoch)), jnp.zeros(())
            for start in range(0, ROWS, batch):
                parameters, total = step(parameters, total, x, labels, order, start)
            float(total)  # the epoch's loss is shown

    return per_epoch(train)
