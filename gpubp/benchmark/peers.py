"""The peers: the same training step in PyTorch, JAX and scikit-learn, each with the best settings it documents."""

import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from gpubp.benchmark.contract import Contender, Setting
from gpubp.benchmark.problem import LEARNING_RATE, Problem
from gpubp.benchmark.timing import estimated
from gpubp.errors import DeviceError, GpubpError
from gpubp.kernel import Array


def _torch(setting: Setting) -> Any:
    """PyTorch, set up for this process."""
    torch: Any = import_module("torch")
    torch.set_num_threads(setting.threads)
    torch.set_float32_matmul_precision("high" if setting.precision == "tf32" else "highest")
    if setting.kind == "cuda":
        if not torch.cuda.is_available():
            raise DeviceError(f"PyTorch {torch.__version__} finds no CUDA device")
        torch.cuda.set_device(setting.index)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return torch


def _torch_device(torch: Any, setting: Setting) -> dict[str, Callable[[], Any]]:
    """How a contender of PyTorch waits, and what memory it took."""
    if setting.kind == "cpu":
        return {}
    return {"wait": torch.cuda.synchronize, "memory": torch.cuda.max_memory_allocated}


def torch_eager(problem: Problem, setting: Setting) -> Contender:
    torch = _torch(setting)
    activation = {"relu": torch.nn.ReLU, "sigmoid": torch.nn.Sigmoid, "tanh": torch.nn.Tanh}[problem.activation]
    layers: list[Any] = []
    for w, b in zip(problem.weights, problem.biases, strict=True):
        linear = torch.nn.Linear(*w.shape)
        linear.weight.data = torch.from_numpy(w.T.copy())
        linear.bias.data = torch.from_numpy(b.copy())
        layers += [linear, activation()]
    model = torch.nn.Sequential(*layers[:-1]).to(setting.device)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    x, labels = (torch.from_numpy(a).to(setting.device) for a in (problem.x, problem.labels))

    def step_with(**implementation: bool) -> Callable[[], Any]:
        optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, **implementation)

        def step() -> Any:
            optimizer.zero_grad(set_to_none=True)
            loss = torch.nn.functional.cross_entropy(model(x), labels)
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
    device = _torch_device(torch, setting)
    wait = device.get("wait", lambda: None)
    seconds = {name: min(estimated(step, wait, 0.05) for _ in range(3)) for name, step in choices.items()}
    best = min(seconds, key=lambda name: seconds[name])
    model.load_state_dict(start)

    def parameters() -> list[Array]:
        linears = model[::2]
        return [m.weight.detach().cpu().numpy().T for m in linears] + [m.bias.detach().cpu().numpy() for m in linears]

    return Contender(choices[best], lambda loss: loss.item(), parameters, note=f"SGD {best}", **device)


def torch_compile(problem: Problem, setting: Setting) -> Contender:
    return _compiled(problem, setting)


def torch_graphs(problem: Problem, setting: Setting) -> Contender:
    return _compiled(problem, setting, mode="reduce-overhead")


def _compiled(problem: Problem, setting: Setting, mode: str | None = None) -> Contender:
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of compiler processes beside the timed ones
    torch = _torch(setting)
    # Earlier cells' graphs would otherwise count against the recompilation limit, and end in eager mode.
    torch.compiler.reset()
    depth = len(problem.weights)
    arrays = [w.T for w in problem.weights] + problem.biases
    mine = tuple(torch.from_numpy(p.copy()).to(setting.device) for p in arrays)
    x, labels = (torch.from_numpy(a).to(setting.device) for a in (problem.x, problem.labels))
    activation = getattr(torch, problem.activation)
    if mode:
        # A CUDA graph copies what may move before every replay, and is not made where such a thing is written to.
        for tensor in (*mine, x, labels):
            torch._dynamo.mark_static_address(tensor)

    def loss_of(parameters: tuple[Any, ...], x: Any, labels: Any) -> Any:
        for i in range(depth):
            x = torch.nn.functional.linear(x, parameters[i], parameters[depth + i])
            x = activation(x) if i < depth - 1 else x
        return torch.nn.functional.cross_entropy(x, labels)

    # grad_and_value keeps the backward pass and the update in one graph; loss.backward() would break it in three,
    # and was three to six times slower on the small nets.
    @torch.compile(fullgraph=True, mode=mode, dynamic=False)  # type: ignore[untyped-decorator]
    def update(parameters: tuple[Any, ...], x: Any, labels: Any) -> Any:
        gradients, loss = torch.func.grad_and_value(loss_of)(parameters, x, labels)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(gradient, alpha=LEARNING_RATE)
        return loss

    def step() -> Any:
        if mode:
            torch.compiler.cudagraph_mark_step_begin()  # the last loss may be overwritten
        return update(mine, x, labels)

    note = "the whole step in one graph"
    if mode:
        counters = torch._dynamo.utils.counters["inductor"]
        skipped = counters["cudagraph_skips"]
        for _ in range(3):  # warm-up, capture, replay
            step()
        captured = setting.kind == "cuda" and counters["cudagraph_skips"] == skipped
        note = "the whole step in one CUDA graph" if captured else "without CUDA graphs: PyTorch skipped them"
        for tensor, array in zip(mine, arrays, strict=True):
            tensor.copy_(torch.from_numpy(array.copy()))
    return Contender(
        step if mode else lambda: update(mine, x, labels),
        float,
        lambda: [p.cpu().numpy().T for p in mine[:depth]] + [p.cpu().numpy() for p in mine[depth:]],
        note=note,
        **_torch_device(torch, setting),
    )


def jax_jit(problem: Problem, setting: Setting) -> Contender:
    import numpy as np

    # Other contenders are on the same GPU, and JAX would take three quarters of it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax: Any = import_module("jax")
    jnp = jax.numpy
    # A step that is waited for gains nothing from a second thread to dispatch it: 20 % faster without, on small nets.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.config.update("jax_platforms", setting.kind)
    jax.config.update("jax_default_matmul_precision", "tensorfloat32" if setting.precision == "tf32" else "highest")
    device = jax.devices(setting.kind)[setting.index]
    put = partial(jax.device_put, device=device)
    # jnp.array copies: a donated buffer must not be the problem's own.
    state = put(jax.tree.map(jnp.array, (problem.weights, problem.biases)))
    x, labels = put(jnp.array(problem.x)), put(jnp.array(problem.labels.astype(np.int32)))
    activation = getattr(jax.nn, problem.activation)

    def loss_of(parameters: Any, x: Any, labels: Any) -> Any:
        *hidden, (w, b) = zip(*parameters, strict=True)
        for hidden_w, hidden_b in hidden:
            x = activation(x @ hidden_w + hidden_b)
        log_p = jax.nn.log_softmax(x @ w + b)
        return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], 1))

    def update(parameters: Any, x: Any, labels: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(parameters, x, labels)
        return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, parameters, gradients), loss

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
        lambda: [np.asarray(p) for part in state for p in part],
        lambda: jax.block_until_ready(state),
        memory,
        "donated buffers",
    )


def planned(executable: Any) -> int:
    """The bytes that XLA planned for one of its executables; its allocator's own peak is that of the process's life."""
    plan = executable.memory_analysis()
    sizes = [getattr(plan, f"{part}_size_in_bytes") for part in ("argument", "output", "temp")]
    return int(sum(sizes) - plan.alias_size_in_bytes)


def sklearn_partial_fit(problem: Problem, setting: Setting) -> Contender:
    import numpy as np

    network: Any = import_module("sklearn.neural_network")
    if problem.sizes[-1] < 3:
        raise GpubpError("scikit-learn makes one output of two classes, which is another network")
    # partial_fit on one batch of n rows is one step, and the smallest public one: its input checks are in the time.
    model = network.MLPClassifier(
        problem.sizes[1:-1],
        activation={"sigmoid": "logistic"}.get(problem.activation, problem.activation),
        solver="sgd",
        alpha=0,
        batch_size=len(problem.x),
        learning_rate="constant",
        learning_rate_init=LEARNING_RATE,
        momentum=0,
        nesterovs_momentum=False,
        shuffle=False,
        random_state=0,
    )
    # The first call makes the parameters, which the optimizer then holds.
    model.partial_fit(problem.x, problem.labels, classes=np.arange(problem.sizes[-1]))
    for mine, given in zip(model.coefs_ + model.intercepts_, problem.weights + problem.biases, strict=True):
        mine[...] = given

    def step() -> Any:
        return model.partial_fit(problem.x, problem.labels).loss_

    return Contender(step, float, lambda: model.coefs_ + model.intercepts_, note="partial_fit, with its input checks")
