"""Who takes part in the peers' benchmark: each builds the same training step; and the process each of them lives in."""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import os
import time
import traceback
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING, Any

from bench.nets import CELLS, LEARNING_RATE, Contender, Problem, gemms, make_problem, plain_numpy, reference

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

CHECKED_STEPS = 3
LOSS_TOLERANCE = 1e-4


class DifferentWorkError(Exception):
    """A contender did not compute what the reference computes: its time would mean nothing."""


def gpubp_step(problem: Problem, threads: int) -> Contender:
    import gpubp

    net = gpubp.MLP(problem.sizes, activation="sigmoid", output="softmax", dtype="float32", device="cpu", seed=0)
    net.set_parameters(problem.weights, problem.biases)
    optimizer = gpubp.SGD(LEARNING_RATE)
    x, labels = problem.x, problem.labels

    def parameters() -> list[Any]:
        weights, biases = net.get_parameters()
        return [*weights, *biases]

    # On the CPU a step is done when it returns; there is nothing to wait for.
    return Contender(lambda: net.train_step(x, labels, optimizer), float, parameters)


def torch_eager(problem: Problem, threads: int) -> Contender:
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads)
    layers: list[torch.nn.Module] = []
    for w, b in zip(problem.weights, problem.biases, strict=True):
        linear = torch.nn.Linear(*w.shape)
        linear.weight.data = torch.from_numpy(w.T.copy())
        linear.bias.data = torch.from_numpy(b.copy())
        layers += [linear, torch.nn.Sigmoid()]
    model = torch.nn.Sequential(*layers[:-1])
    start = {name: value.clone() for name, value in model.state_dict().items()}
    x, labels = torch.from_numpy(problem.x), torch.from_numpy(problem.labels)

    def step_with(**implementation: bool) -> Callable[[], Any]:
        optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, **implementation)

        def step() -> Any:
            optimizer.zero_grad(set_to_none=True)
            loss = functional.cross_entropy(model(x), labels)
            loss.backward()
            optimizer.step()
            return loss

        return step

    # Which of PyTorch's three SGD implementations is fastest depends on the net: it runs with the one that is here.
    choices = {
        "loop": step_with(foreach=False, fused=False),
        "foreach": step_with(foreach=True),
        "fused": step_with(fused=True),
    }
    seconds = {name: min(time_steps(step, 0.05) for _ in range(3)) for name, step in choices.items()}
    best = min(seconds, key=lambda name: seconds[name])
    model.load_state_dict(start)

    def parameters() -> list[Any]:
        linears = model[::2]
        return [m.weight.detach().numpy().T for m in linears] + [m.bias.detach().numpy() for m in linears]

    return Contender(choices[best], lambda loss: loss.item(), parameters, f"SGD {best}")


def torch_compile(problem: Problem, threads: int) -> Contender:
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of compiler processes beside the timed ones
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads)
    # Earlier cells' graphs would otherwise count against the recompilation limit, and end in eager mode.
    torch.compiler.reset()
    depth = len(problem.weights)
    mine = tuple(torch.from_numpy(p.copy()) for p in [w.T for w in problem.weights] + problem.biases)
    x, labels = torch.from_numpy(problem.x), torch.from_numpy(problem.labels)

    def loss_of(parameters: tuple[Any, ...], x: Any, labels: Any) -> Any:
        for i in range(depth):
            x = functional.linear(x, parameters[i], parameters[depth + i])
            x = torch.sigmoid(x) if i < depth - 1 else x
        return functional.cross_entropy(x, labels)

    # grad_and_value keeps the backward pass and the update in one graph; loss.backward() would break it in three,
    # and was three to six times slower on the small nets.
    @torch.compile(fullgraph=True)
    def step(parameters: tuple[Any, ...], x: Any, labels: Any) -> Any:
        gradients, loss = torch.func.grad_and_value(loss_of)(parameters, x, labels)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(gradient, alpha=LEARNING_RATE)
        return loss

    return Contender(
        lambda: step(mine, x, labels),
        float,
        lambda: [p.numpy().T for p in mine[:depth]] + [p.numpy() for p in mine[depth:]],
        "the whole step in one graph",
    )


def jax_jit(problem: Problem, threads: int) -> Contender:
    import jax
    import numpy as np
    from jax import numpy as jnp

    # A step that is waited for gains nothing from a second thread to dispatch it: 20 % faster without, on small nets.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.config.update("jax_platforms", "cpu")
    # jnp.array copies: a donated buffer must not be the problem's own.
    state = jax.tree.map(jnp.array, (problem.weights, problem.biases))
    x, labels = jnp.array(problem.x), jnp.array(problem.labels.astype(np.int32))

    def loss_of(parameters: Any, x: Any, labels: Any) -> Any:
        *hidden, (w, b) = zip(*parameters, strict=True)
        for hidden_w, hidden_b in hidden:
            x = jax.nn.sigmoid(x @ hidden_w + hidden_b)
        log_p = jax.nn.log_softmax(x @ w + b)
        return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], 1))

    def update(parameters: Any, x: Any, labels: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(parameters, x, labels)
        return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, parameters, gradients), loss

    jitted = jax.jit(update, donate_argnums=0)

    def step() -> Any:
        nonlocal state
        state, loss = jax.block_until_ready(jitted(state, x, labels))
        return loss

    return Contender(step, float, lambda: [np.asarray(p) for part in state for p in part], "donated buffers")


def sklearn_partial_fit(problem: Problem, threads: int) -> Contender:
    import numpy as np
    from sklearn.neural_network import MLPClassifier

    # partial_fit on one batch of n rows is one step, and the smallest public one: its input checks are in the time.
    n, classes = len(problem.x), np.arange(problem.sizes[-1])
    model = MLPClassifier(
        problem.sizes[1:-1],
        activation="logistic",
        solver="sgd",
        alpha=0,
        batch_size=n,
        learning_rate="constant",
        learning_rate_init=LEARNING_RATE,
        momentum=0,
        nesterovs_momentum=False,
        shuffle=False,
        random_state=0,
    )
    model.partial_fit(
        problem.x, problem.labels, classes=classes
    )  # makes the parameters, which the optimizer then holds
    for mine, given in zip(model.coefs_ + model.intercepts_, problem.weights + problem.biases, strict=True):
        mine[...] = given

    def step() -> float:
        return model.partial_fit(problem.x, problem.labels).loss_

    return Contender(step, float, lambda: model.coefs_ + model.intercepts_, "partial_fit, with its input checks")


BUILDERS: dict[str, Callable[[Problem, int], Contender]] = {
    "gemms": gemms,
    "numpy": plain_numpy,
    "gpubp": gpubp_step,
    "torch": torch_eager,
    "torch-compile": torch_compile,
    "jax": jax_jit,
    "sklearn": sklearn_partial_fit,
}
# What each needs to be importable, and the distributions whose versions belong to its figures.
# gpubp may set up the BLAS before NumPy loads it, so it comes first, and the floor stands on the same BLAS.
MODULES = {"gpubp": "gpubp", "torch": "torch", "torch-compile": "torch", "jax": "jax", "sklearn": "sklearn"}
DISTRIBUTIONS = {"numpy": ["numpy"], "torch": ["torch"], "jax": ["jax", "jaxlib"], "sklearn": ["scikit-learn"]}


def time_steps(step: Callable[[], Any], seconds: float) -> float:
    """Seconds a step, from as many steps as fit in about `seconds`; the first, which may compile, is not counted."""
    step()
    count, taken = 1, 0.0
    while True:
        start = time.perf_counter()
        for _ in range(count):
            step()
        taken = time.perf_counter() - start
        if taken >= seconds / 2:
            return taken / count
        count *= 2


def check(contender: Contender, problem: Problem) -> list[float]:
    """Refuse to time different work: the losses, and where the parameters ended, against the float64 reference."""
    import numpy as np

    if contender.loss is None or contender.parameters is None:
        return []  # the floor computes nothing that could be checked
    losses = [contender.loss(contender.step()) for _ in range(CHECKED_STEPS)]
    expected, ended = reference(problem, CHECKED_STEPS)
    if not np.allclose(losses, expected, rtol=0, atol=LOSS_TOLERANCE):
        raise DifferentWorkError(f"its losses are {losses}, the reference's {expected}")
    began = problem.weights + problem.biases
    for i, (mine, end, start) in enumerate(zip(contender.parameters(), ended, began, strict=True)):
        # Losses alone would not show a wrong gradient deep below; an update is rounded to its parameter's ulp.
        allowed = 0.01 * np.linalg.norm(end - start) + 1e-6 * np.linalg.norm(start)
        off = np.linalg.norm(np.asarray(mine, np.float64) - end)
        if not off <= allowed:  # so that NaN is refused too
            raise DifferentWorkError(f"array {i} of its parameters is {off:.3g} off, {allowed:.3g} would be rounding")
    return losses


def versions_of(name: str) -> dict[str, str]:
    found = {d: metadata.version(d) for d in DISTRIBUTIONS.get(MODULES.get(name, name), [])}
    if name in ("numpy", "gpubp"):
        try:  # which GEMM kernels OpenBLAS chose is worth a factor of two, and only this optional package tells
            from threadpoolctl import threadpool_info

            for pool in threadpool_info():
                if pool["user_api"] == "blas":
                    found[f"BLAS of {name}"] = f"{pool['internal_api']} {pool['version']} {pool['architecture']}"
        except ImportError:
            pass
    if name == "gpubp":
        import gpubp

        found["gpubp"] = getattr(gpubp, "__version__", "source tree")
    return found


def worker(pipe: Connection, name: str, threads: int) -> None:
    """The life of a contender's process: build a cell, run so many steps when told, and block on the pipe between."""
    if hasattr(os, "sched_setaffinity"):
        # The one setting of threads that all contenders obey: XLA has no other.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    if name in ("gpubp", "gemms") and importlib.util.find_spec("gpubp"):
        with contextlib.suppress(Exception):  # the builder meets it again, and reports it
            importlib.import_module("gpubp")
    contender: Contender | None = None
    pipe.send(("ok", "ready"))
    while True:
        command, argument = pipe.recv()
        try:
            if command == "build":
                problem = make_problem(CELLS[argument])
                contender = None
                contender = BUILDERS[name](problem, threads)
                losses = check(contender, problem)
                pipe.send(("ok", {"losses": losses, "note": contender.note, "versions": versions_of(name)}))
            elif command == "calibrate":
                assert contender is not None
                gc.collect()
                gc.freeze()  # what the import left behind is not the step's garbage
                time_steps(contender.step, argument)  # warm-up
                pipe.send(("ok", time_steps(contender.step, argument)))
            elif command == "run":
                assert contender is not None
                step = contender.step
                for _ in range(1 + argument // 10):  # caches and threads woken after the others' turns
                    step()
                start = time.perf_counter()
                for _ in range(argument):
                    step()
                pipe.send(("ok", (time.perf_counter() - start) / argument))
            else:
                return
        except DifferentWorkError as error:
            pipe.send(("different", str(error)))
        except Exception as error:  # whatever a peer raises is the report
            pipe.send(("failed", (f"{type(error).__name__}: {error}".splitlines()[0], traceback.format_exc())))
