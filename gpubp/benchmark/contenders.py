"""Who takes part: the contenders by name, what each needs, and why one cannot take part under a setting."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from gpubp.benchmark.contract import Contender, DifferentWorkError, Setting, check
from gpubp.benchmark.jax_peer import jax_jit
from gpubp.benchmark.ours import captured_step, gemms, gpubp_step, plain_numpy
from gpubp.benchmark.problem import Problem
from gpubp.benchmark.sklearn_peer import sklearn_partial_fit
from gpubp.benchmark.torch_peers import torch_autotune, torch_compile, torch_eager, torch_graphs
from gpubp.errors import DeviceError
from gpubp.extras import to_install

__all__ = ["BUILDERS", "PEERS", "Builder", "Contender", "DifferentWorkError", "Setting", "check"]


@dataclass(frozen=True)
class Builder:
    """Makes a contender of a problem under a setting; DeviceError where it cannot."""

    name: str
    make: Callable[[Problem, Setting], Contender]
    module: str = "numpy"
    distributions: tuple[str, ...] = ("numpy",)  # whose versions belong to its figures
    kinds: tuple[str, ...] = ("cpu", "cuda")

    def why_not(self, setting: Setting) -> str | None:
        """Why it cannot take part, as far as can be told without importing it; None if it can."""
        if find_spec(self.module) is None:
            return f"not installed ({to_install('peers', self.distributions[0], 'bench ...')})"
        if setting.kind not in self.kinds:
            return f"runs on {'the CPU' if self.kinds == ('cpu',) else 'CUDA'} only"
        if setting.kind == "cpu" and setting.precision != "float32":
            return f"there is no {setting.precision} on the CPU"
        return None

    def __call__(self, problem: Problem, setting: Setting) -> Contender:
        if reason := self.why_not(setting):
            raise DeviceError(f"{self.name} on {setting.device}: {reason}")
        return self.make(problem, setting)


_TORCH, _CPU, _CUDA = ("torch", ("torch",)), ("cpu",), ("cuda",)
# gpubp may set up the BLAS before NumPy loads it, and the floor stands on the same BLAS.
BUILDERS = {
    builder.name: builder
    for builder in (
        Builder("gemms", gemms, "gpubp"),
        Builder("numpy", plain_numpy, kinds=_CPU),
        Builder("gpubp", gpubp_step, "gpubp"),
        Builder("gpubp-captured", captured_step, "gpubp", kinds=_CUDA),
        Builder("torch", torch_eager, *_TORCH),
        Builder("torch-compile", torch_compile, *_TORCH),
        Builder("torch-graphs", torch_graphs, *_TORCH, kinds=_CUDA),
        Builder("torch-autotune", torch_autotune, *_TORCH, kinds=_CUDA),
        Builder("jax", jax_jit, "jax", ("jax", "jaxlib")),
        Builder("sklearn", sklearn_partial_fit, "sklearn", ("scikit-learn",), _CPU),
    )
}
PEERS = [name for name in BUILDERS if name not in ("gemms", "numpy", "gpubp", "gpubp-captured", "torch-autotune")]
