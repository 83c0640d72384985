"""PyTorch as a peer: the training step eager, compiled, and compiled into a CUDA graph, with its best settings."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from gpubp.benchmark.contract import Contender, Setting
from gpubp.benchmark.problem import BETAS, EPSILON, MOMENTUM, Problem
from gpubp.benchmark.timing import estimated
from gpubp.errors import DeviceError
from gpubp.kernel import Array


@dataclass(frozen=True)
class Learner:
    """A network and its optimizer: `update(x, labels)` takes a step on a batch and returns its loss, a tensor."""

    update: Callable[[Any, Any], Any]
    weights: list[Any]  # as PyTorch has them: (outputs, inputs)
    biases: list[Any]
    restart: Callable[[], None]  # back to the problem's parameters, and no memory of any step
    note: str

    def parameters(self) -> list[Array]:
        """As Contender wants them."""
        arrays = [tensor.detach().cpu().numpy() for tensor in (*self.weights, *self.biases)]
        return [array.T if array.ndim == 2 else array for array in arrays]


def torch_eager(problem: Problem, setting: Setting) -> Contender:
    return _contender(eager_learner(problem, setting), problem, setting)


def torch_compile(problem: Problem, setting: Setting) -> Contender:
    return _contender(compiled_learner(problem, setting), problem, setting)


def torch_graphs(problem: Problem, setting: Setting) -> Contender:
    return _replayed(problem, setting, "reduce-overhead")


def torch_autotune(problem: Problem, setting: Setting) -> Contender:
    """With products of Triton's, too, each tried before the first step: hundreds are compiled, by all threads."""
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = str(setting.threads)
    return _replayed(problem, setting, "max-autotune")


def _replayed(problem: Problem, setting: Setting, mode: str) -> Contender:
    torch = _torch(setting)
    x, labels = batch = _on_device(torch, problem, setting)
    # A CUDA graph copies what may move before every replay, and is not made where such a thing is written to.
    learner = _one_graph(torch, problem, setting, mode, torch._dynamo.mark_static_address)
    for tensor in batch:
        torch._dynamo.mark_static_address(tensor)

    def step() -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # the last loss may be overwritten
        return learner.update(x, labels)

    counters = torch._dynamo.utils.counters["inductor"]
    skipped = counters["cudagraph_skips"]
    for _ in range(3):  # warm-up, capture, replay
        step()
    captured = setting.kind == "cuda" and counters["cudagraph_skips"] == skipped
    learner.restart()
    note = "the whole step in one CUDA graph" if captured else "without CUDA graphs: PyTorch skipped them"
    return Contender(step, float, learner.parameters, note=note, **_device_of(torch, setting))


def eager_learner(problem: Problem, setting: Setting) -> Learner:
    """Modules and torch.optim, as its tutorials have them, with whichever of its three implementations is fastest."""
    torch = _torch(setting)
    activation = {"relu": torch.nn.ReLU, "sigmoid": torch.nn.Sigmoid, "tanh": torch.nn.Tanh}[problem.activation]
    linears = [torch.nn.Linear(*w.shape) for w in problem.weights]
    layers = [layer for linear in linears for layer in (linear, activation())]
    model = torch.nn.Sequential(*layers[:-1]).to(setting.device)
    weights, biases = [linear.weight for linear in linears], [linear.bias for linear in linears]

    def learner(name: str, **implementation: bool) -> Learner:
        optimizer = _optimizer(torch, problem, model.parameters(), **implementation)

        def update(x: Any, labels: Any) -> Any:
            optimizer.zero_grad(set_to_none=True)
            with _autocast(torch, setting):
                loss = torch.nn.functional.cross_entropy(model(x), labels)
            loss.backward()
            optimizer.step()
            return loss

        restart = _restart(torch, problem, (*weights, *biases), optimizer.state.clear)
        return Learner(update, weights, biases, restart, f"{type(optimizer).__name__} {name}")

    ways = [
        learner("loop", foreach=False, fused=False),
        learner("foreach", foreach=True),
        learner("fused", fused=True),
    ]
    return _fastest(torch, ways, problem, setting)


def compiled_learner(problem: Problem, setting: Setting) -> Learner:
    """By torch.compile; on the CPU it is the network that decides whether the update is better in the graph."""
    torch = _torch(setting)
    ways = [_one_graph(torch, problem, setting)]
    if setting.kind == "cpu":
        ways.append(_graph_and_update(torch, problem, setting))
    return _fastest(torch, ways, problem, setting)


def _torch(setting: Setting) -> Any:
    """PyTorch, set up for this process."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of compiler processes beside the timed ones
    torch: Any = import_module("torch")
    torch.set_num_threads(setting.threads)
    torch.set_float32_matmul_precision("highest" if setting.precision == "float32" else "high")
    if setting.kind == "cuda":
        if not torch.cuda.is_available():
            raise DeviceError(f"PyTorch {torch.__version__} finds no CUDA device")
        torch.cuda.set_device(setting.index)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    # Earlier cells' graphs would otherwise count against the recompilation limit, and end in eager mode.
    torch.compiler.reset()
    return torch


def _device_of(torch: Any, setting: Setting) -> dict[str, Callable[[], Any]]:
    """How a contender of PyTorch waits, and what memory it took."""
    if setting.kind == "cpu":
        return {}
    return {"wait": torch.cuda.synchronize, "memory": torch.cuda.max_memory_allocated}


def _on_device(torch: Any, problem: Problem, setting: Setting) -> tuple[Any, Any]:
    """The batch and its labels."""
    x, labels = (torch.from_numpy(array).to(setting.device) for array in (problem.x, problem.labels))
    return x, labels


def _contender(learner: Learner, problem: Problem, setting: Setting) -> Contender:
    torch: Any = import_module("torch")  # set up already, and _torch would forget what was compiled
    x, labels = _on_device(torch, problem, setting)
    update = learner.update
    return Contender(
        lambda: update(x, labels),
        lambda loss: loss.item(),
        learner.parameters,
        note=learner.note,
        **_device_of(torch, setting),
    )


def _fastest(torch: Any, ways: list[Learner], problem: Problem, setting: Setting) -> Learner:
    """The one that is fastest at this problem, here; none of them remembers that it was tried."""
    batch = _on_device(torch, problem, setting)
    wait = _device_of(torch, setting).get("wait", lambda: None)

    def seconds(way: Learner) -> float:
        return min(estimated(partial(way.update, *batch), wait, 0.05) for _ in range(3))

    best = min(ways, key=seconds) if len(ways) > 1 else ways[0]
    best.restart()
    return best


def _restart(
    torch: Any, problem: Problem, parameters: tuple[Any, ...], forget: Callable[[], Any]
) -> Callable[[], None]:
    arrays = [weight.T for weight in problem.weights] + problem.biases

    def restart() -> None:
        with torch.no_grad():
            for parameter, array in zip(parameters, arrays, strict=True):
                parameter.copy_(torch.from_numpy(array))
        forget()

    restart()
    return restart


def _optimizer(torch: Any, problem: Problem, parameters: Any, **implementation: bool) -> Any:
    """The problem's, of torch.optim."""
    if problem.optimizer == "adam":
        return torch.optim.Adam(parameters, problem.learning_rate, BETAS, EPSILON, **implementation)
    momentum = MOMENTUM if problem.optimizer == "momentum" else 0
    return torch.optim.SGD(parameters, problem.learning_rate, momentum, **implementation)


def _autocast(torch: Any, setting: Setting) -> Any:
    """bfloat16 by PyTorch's own recipe: float32 parameters, and operations that choose their types."""
    return torch.autocast(setting.kind, torch.bfloat16, enabled=setting.precision == "bfloat16")


def loss_of(torch: Any, problem: Problem, setting: Setting) -> Callable[..., Any]:
    """The loss as a function of the parameters, weights first, and a batch."""
    depth, activation = len(problem.weights), getattr(torch, problem.activation)

    def loss(parameters: tuple[Any, ...], x: Any, labels: Any) -> Any:
        with _autocast(torch, setting):
            for i in range(depth):
                x = torch.nn.functional.linear(x, parameters[i], parameters[depth + i])
                x = activation(x) if i < depth - 1 else x
            return torch.nn.functional.cross_entropy(x, labels)

    return loss


def _tensors(torch: Any, problem: Problem, setting: Setting) -> tuple[Any, ...]:
    """Room for the parameters, as PyTorch has them."""
    shapes = [weight.T.shape for weight in problem.weights] + [bias.shape for bias in problem.biases]
    return tuple(torch.zeros(shape, device=setting.device) for shape in shapes)


def _one_graph(
    torch: Any,
    problem: Problem,
    setting: Setting,
    mode: str | None = None,
    mark: Callable[[Any], Any] = lambda tensor: None,
) -> Learner:
    """The whole step compiled, the update written out for it; `mark` is shown every tensor that stays.

    grad_and_value keeps the backward pass and the update in one graph; loss.backward() would break it in three, and
    was three to six times slower on the small nets.
    """
    loss, rate, (beta1, beta2) = loss_of(torch, problem, setting), problem.learning_rate, BETAS
    parameters, velocities, squares = (_tensors(torch, problem, setting) for _ in range(3))
    count = torch.zeros((), device=setting.device)  # of steps: a number would be compiled in, and again at every step
    state = {"sgd": (), "momentum": velocities, "adam": (*velocities, *squares, count)}[problem.optimizer]
    for tensor in (*parameters, *state):
        mark(tensor)

    def move(gradients: tuple[Any, ...]) -> None:
        if problem.optimizer == "adam":
            count.add_(1)
            root = torch.sqrt(1 - beta2**count)
            scale, epsilon = rate * root / (1 - beta1**count), EPSILON * root
        for p, g, v, s in zip(parameters, gradients, velocities, squares, strict=True):
            match problem.optimizer:
                case "sgd":
                    p.sub_(g, alpha=rate)
                case "momentum":
                    v.mul_(MOMENTUM).add_(g)
                    p.sub_(v, alpha=rate)
                case "adam":
                    v.lerp_(g, 1 - beta1)
                    s.mul_(beta2).addcmul_(g, g, value=1 - beta2)
                    p.sub_(scale * v / (s.sqrt() + epsilon))

    @torch.compile(fullgraph=True, mode=mode, dynamic=False)  # type: ignore[untyped-decorator]
    def update(x: Any, labels: Any) -> Any:
        gradients, value = torch.func.grad_and_value(loss)(parameters, x, labels)
        move(gradients)
        return value

    def forget() -> None:
        for tensor in state:
            tensor.zero_()

    depth = len(problem.weights)
    restart = _restart(torch, problem, parameters, forget)
    return Learner(update, [*parameters[:depth]], [*parameters[depth:]], restart, "the whole step in one graph")


def _graph_and_update(torch: Any, problem: Problem, setting: Setting) -> Learner:
    """The gradients compiled, and the update left to torch.optim's own fused kernel."""
    loss, parameters = loss_of(torch, problem, setting), _tensors(torch, problem, setting)
    optimizer = _optimizer(torch, problem, parameters, fused=True)

    @torch.compile(fullgraph=True, dynamic=False)  # type: ignore[untyped-decorator]
    def differentiate(parameters: tuple[Any, ...], x: Any, labels: Any) -> Any:
        return torch.func.grad_and_value(loss)(parameters, x, labels)

    def update(x: Any, labels: Any) -> Any:
        gradients, value = differentiate(parameters, x, labels)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        return value

    depth = len(problem.weights)
    restart = _restart(torch, problem, parameters, optimizer.state.clear)
    note = f"the gradients in one graph, {type(optimizer).__name__} fused"
    return Learner(update, [*parameters[:depth]], [*parameters[depth:]], restart, note)
