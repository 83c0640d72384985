"""JAX as a peer: the whole training step jitted, with donated buffers."""

import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from gpubp.benchmark.contract import Contender, Setting
from gpubp.benchmark.problem import BETAS, EPSILON, MOMENTUM, Problem


def jax_jit(problem: Problem, setting: Setting) -> Contender:
    import numpy as np

    jax, put = start_jax(setting)
    initial, update = stateful_update(jax, problem, setting)
    # jnp.array copies: a donated buffer must not be the problem's own.
    state = put(jax.tree.map(jax.numpy.array, initial))
    x, labels = put(problem.x), put(problem.labels.astype(np.int32))
    jitted = jax.jit(update, donate_argnums=0)

    def step() -> Any:
        nonlocal state
        state, loss = jitted(state, x, labels)
        return loss

    def memory() -> int | None:
        return None if setting.kind == "cpu" else planned(jitted.lower(state, x, labels).compile())

    return Contender(
        step,
        float,
        lambda: [np.asarray(p) for part in state[0] for p in part],
        lambda: jax.block_until_ready(state),
        memory,
        "donated buffers",
    )


def start_jax(setting: Setting) -> tuple[Any, Callable[[Any], Any]]:
    """JAX, set up for this process, and what puts arrays on the setting's device."""
    # Other contenders are on the same GPU, and JAX would take three quarters of it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax: Any = import_module("jax")
    # A step that is waited for gains nothing from a second thread to dispatch it: 20 % faster without, on small nets.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.config.update("jax_platforms", setting.kind)
    jax.config.update("jax_default_matmul_precision", "highest" if setting.precision == "float32" else "tensorfloat32")
    return jax, partial(jax.device_put, device=jax.devices(setting.kind)[setting.index])


def stateful_update(
    jax: Any, problem: Problem, setting: Setting
) -> tuple[Any, Callable[[Any, Any, Any], tuple[Any, Any]]]:
    """The state to start from, and a pure function (state, x, labels) -> (state, loss).

    A state is the parameters (weights, biases), and two more such trees and a count of steps as far as the problem's
    optimizer keeps them.
    """
    import numpy as np

    jnp, tree = jax.numpy, jax.tree.map
    activation, rate, (beta1, beta2) = getattr(jax.nn, problem.activation), problem.learning_rate, BETAS
    parameters = (problem.weights, problem.biases)
    velocities, squares = (tree(np.zeros_like, parameters) for _ in range(2))
    kept = {"sgd": (), "momentum": (velocities,), "adam": (velocities, squares, np.float32(0))}[problem.optimizer]

    def rounded(values: Any) -> Any:
        return tree(lambda a: a.astype(jnp.bfloat16), values) if setting.precision == "bfloat16" else values

    def loss_of(parameters: Any, x: Any, labels: Any) -> Any:
        *hidden, (w, b) = zip(*rounded(parameters), strict=True)
        x = rounded(x)
        for hidden_w, hidden_b in hidden:
            x = activation(x @ hidden_w + hidden_b)
        log_p = jax.nn.log_softmax((x @ w + b).astype(jnp.float32))
        return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], 1))

    def update(state: Any, x: Any, labels: Any) -> tuple[Any, Any]:
        parameters, *kept = state
        loss, gradients = jax.value_and_grad(loss_of)(parameters, x, labels)
        match problem.optimizer:
            case "sgd":
                moves = tree(lambda g: rate * g, gradients)
            case "momentum":
                kept = [tree(lambda v, g: MOMENTUM * v + g, *kept, gradients)]
                moves = tree(lambda v: rate * v, *kept)
            case "adam":
                velocities, squares, count = kept
                velocities = tree(lambda v, g: beta1 * v + (1 - beta1) * g, velocities, gradients)
                squares = tree(lambda s, g: beta2 * s + (1 - beta2) * g * g, squares, gradients)
                count = count + 1
                root = jnp.sqrt(1 - beta2**count)
                scale, epsilon = rate * root / (1 - beta1**count), EPSILON * root
                moves = tree(lambda v, s: scale * v / (jnp.sqrt(s) + epsilon), velocities, squares)
                kept = [velocities, squares, count]
        return (tree(jnp.subtract, parameters, moves), *kept), loss

    return (parameters, *kept), update


def planned(executable: Any) -> int:
    """The bytes that XLA planned for one of its executables; its allocator's own peak is that of the process's life."""
    plan = executable.memory_analysis()
    sizes = [getattr(plan, f"{part}_size_in_bytes") for part in ("argument", "output", "temp")]
    return int(sum(sizes) - plan.alias_size_in_bytes)
