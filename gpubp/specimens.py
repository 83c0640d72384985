"""Arguments for any declared kernel, drawn from its declaration, and a run of its NumPy body on them.

They are what the tests, the benchmarks and `gpubp devices --check` run kernels with.
"""

import inspect
from typing import Any

import numpy as np

# Imported for the kernels that they declare.
import gpubp.activations
import gpubp.layers
import gpubp.losses
import gpubp.optimizers  # noqa: F401
from gpubp.kernel import KERNELS, Kernel

# Only the library's own: a user's module may declare some for itself.
OWN = sorted((k for k in KERNELS.values() if k.body.__module__.startswith("gpubp.")), key=lambda k: k.name)

# Where an argument has to lie for a kernel to make sense; any other is drawn from a normal distribution.
DOMAINS: dict[str, tuple[float, float]] = {
    **{"rate": (0.01, 0.1), "momentum": (0.5, 0.9), "beta1": (0.8, 0.9), "beta2": (0.9, 0.99), "keep": (0.8, 0.9)},
    **{"rest": (0.1, 0.2), "rest1": (0.1, 0.2), "rest2": (0.01, 0.1)},
    **{"epsilon": (1e-8, 1e-6), "root": (1, 3), "decay": (0.01, 0.1), "limit": (0.1, 1), "v": (0, 1)},
    **{"slope": (0.01, 0.5), "scale": (1, 2), "alpha": (0.5, 2), "delta": (0.5, 2), "q": (0.1, 0.9)},
    **{"factor": (0.5, 2), "w": (0, 1), "total": (1, 2), "t": (0, 1), "o": (0.1, 0.9)},
}
# Where the output y of a function lies, from which its delta is computed.
OUTPUTS_IN = {"sigmoid_delta": (0.01, 0.99), "tanh_delta": (-0.99, 0.99), "softmax_delta": (0.01, 0.99)}
# Elementwise arguments that are a row or a column beside the arrays.
BROADCAST = {"b": "row", "column": "row", "row": "column"}
WHOLE_NUMBERS = {"row", "column", "key", "threshold"}


def is_scalar(kernel: Kernel, name: str) -> bool:
    """Python numbers are annotated as such; so are NumPy's uint32 scalars of dropout, by name."""
    return inspect.get_annotations(kernel.body)[name] is float or name in ("key", "threshold")


def argument(kernel: Kernel, name: str, rows: int, width: int, dtype: Any, rng: np.random.Generator) -> Any:
    """An argument of the shape and the domain that the declaration and the name call for."""
    if name in WHOLE_NUMBERS:
        shape = {"row": (rows, 1), "column": (width,)}.get(name, ())
        return np.uint32(2**31) if name == "threshold" else rng.integers(0, 2**32, shape, np.uint32)[()]
    low, high = OUTPUTS_IN.get(kernel.name, (None, None)) if name == "y" else DOMAINS.get(name, (None, None))
    if is_scalar(kernel, name):
        return float(rng.uniform(low or 0.1, high or 1))
    shape = shape_of(kernel, name, rows, width)
    values = rng.standard_normal(shape) if low is None or high is None else rng.uniform(low, high, shape)
    return np.asarray(values, dtype)


def shape_of(kernel: Kernel, name: str, rows: int, width: int) -> tuple[int, ...]:
    if kernel.kind == "reduction":
        if name in kernel.writes:
            return ()
        return (rows * width,) if len(kernel.arguments) == 2 and name == "g" else (rows, 1)
    if name == "b":
        return (width,)
    if name == "total":
        return ()
    if kernel.kind == "rowwise":
        return (rows, width) if name in kernel.rows else (rows, 1)
    return {"row": (width,), "column": (rows, 1)}.get(BROADCAST.get(name, ""), (rows, width))


def arguments(kernel: Kernel, rows: int, width: int, dtype: Any = np.float64, seed: int = 0) -> dict[str, Any]:
    """One of each argument, by name; what is only written is full of NaN, so that reading it shows."""
    rng = np.random.default_rng(seed)
    made = {name: argument(kernel, name, rows, width, dtype, rng) for name in kernel.arguments}
    for name in kernel.writes:
        if name not in kernel.reads:
            made[name] = np.full(shape_of(kernel, name, rows, width), np.nan, dtype)
    return made


def copies(args: dict[str, Any]) -> dict[str, Any]:
    return {name: arg.copy() if isinstance(arg, np.ndarray) else arg for name, arg in args.items()}


def run(kernel: Kernel, args: dict[str, Any], xp: Any = np) -> dict[str, Any]:
    """The written arguments after a run of the body, with NaN for scratch, so that reading what it held shows too."""
    given = list(args.values())
    like = given[kernel.shaped_like]
    scratch = [np.full(like.shape, np.nan, like.dtype) for _ in range(kernel.scratch)]
    with np.errstate(all="ignore"):
        kernel.body(xp, *given, *scratch)
    return {name: args[name] for name in kernel.writes}
