"""Networks on native kernels, whatever GPUBP_NATIVE says, and the same with every operation played alone."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np

import gpubp
from gpubp.backends.blas import blas
from gpubp.backends.native import NativeBackend
from gpubp.backends.numpy import NumpyBackend
from gpubp.backends.tape import engine
from gpubp.network import Network


class OneByOne(NativeBackend):
    """Captures no steps: each of their operations is a tape of its own."""

    def capture(self, step: Callable[..., None], *slots: Any) -> Callable[..., None] | None:
        alone = isinstance(step, partial) and step.func == self._do
        return super().capture(step, *slots) if alone else None


def net_on(backend: type[NumpyBackend], *sizes: int, **options: Any) -> gpubp.MLP:
    net = gpubp.MLP(list(sizes), **{"seed": 0, "device": "cpu", **options})
    network = net._network = Network(net._network.structure, backend(), net.seed)
    with network.backend.active():
        network.draw()
    return net


def sample(rows: int, inputs: int, classes: int, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, inputs)).astype(np.float32), rng.integers(0, classes, rows)


def bits(net: gpubp.MLP) -> bytes:
    """Of all its parameters."""
    return b"".join(view.tobytes() for view in [*net.weights, *net.biases] if view is not None)


@contextmanager
def threads(allowed: int, cores: int | None = None) -> Iterator[None]:
    """So many threads for OpenBLAS, and so for gpubp, as if there were so many cores."""
    known, machine = blas(), engine()
    assert known is not None
    allow, before = ctypes.CFUNCTYPE(None, ctypes.c_int)(known.set_threads), known.threads()
    allow(allowed)
    try:
        with patch.object(machine, "threads", cores or machine.threads):
            yield
    finally:
        allow(before)
