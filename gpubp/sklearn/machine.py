"""The network behind an estimator, built from its attributes and fed with its parameters when they are not its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any, Self

import numpy as np

from gpubp.backends import get_backend
from gpubp.data.arrays import DeviceRows, as_layers, as_rows, as_weights
from gpubp.data.rows import Rows
from gpubp.kernel import Array
from gpubp.network import Network
from gpubp.structure import Structure


@dataclass
class Samples:
    """Rows as a network takes them; their weights stay at hand on the host, too."""

    x: Any
    targets: Array
    weights: Array | None
    host_weights: Any
    constants: Any = None  # of each row, what scikit-learn's loss has beside gpubp's; None where it has nothing

    def __len__(self) -> int:
        return len(self.x)

    @property
    def constant(self) -> float:
        return 0.0 if self.constants is None else float(np.average(self.constants, weights=self.host_weights))


class Machine:
    """A network on its device. `key` says what it was built from, so that an estimator knows when it has changed."""

    def __init__(self, key: Any, structure: Structure, device: str, seed: int) -> None:
        self.key, backend = key, get_backend(device)
        with backend.active():
            self.network = Network(structure, backend, seed)
        self.lock = RLock()  # buffers are shared between calls, so calls from several threads take turns

    @contextmanager
    def session(self) -> Iterator[Network]:
        with self.lock, self.network.backend.active():
            yield self.network

    def load(self, coefs: Sequence[Any], intercepts: Sequence[Any]) -> None:
        """Make these the parameters; views that `published` gave are in place already."""
        arena, backend = self.network.arena, self.network.backend
        for name, given, views in (("coefs_", coefs, arena.weights), ("intercepts_", intercepts, arena.biases)):
            for value, view in zip(as_layers(name, given, views), views, strict=True):
                if value is not view:
                    backend.copy(backend.asarray(value, self.network.dtype), view)

    def published(self) -> tuple[list[Any], list[Any]]:
        """coefs_ and intercepts_ as NumPy arrays: on the CPU the network's own, so that changes in place count."""
        arena, backend = self.network.arena, self.network.backend
        if backend.xp is np:
            return list(arena.weights), list(arena.biases)
        return [backend.host_copy(each) for each in arena.weights], [backend.host_copy(each) for each in arena.biases]

    def rows(self, X: Any) -> Any:
        """X on the device; sparse rows, and what is too large, stay where they are until a batch is read."""
        network = self.network
        if hasattr(X, "tocsr"):
            return DeviceRows(SparseRows(X.tocsr()), network.backend, network.dtype)
        return as_rows("X", X, network.backend, network.dtype, network.structure.sizes[0])

    def samples(self, X: Any, encoded: Any, sample_weight: Any) -> Samples:
        """X, encoded targets and weights on the device."""
        network, rows = self.network, self.rows(X)
        return Samples(
            rows,
            network.targets.encode(encoded, len(rows), network.backend),
            as_weights(sample_weight, len(rows), network.backend, network.dtype),
            sample_weight,
        )


class SparseRows(Rows):
    """A CSR matrix, read as dense rows."""

    def __init__(self, matrix: Any) -> None:
        self.source, self.shape = matrix, matrix.shape

    def __getitem__(self, rows: Any) -> Any:
        return self.source[rows].toarray()

    def select(self, index: Any) -> Self:
        return type(self)(self.source[index])
