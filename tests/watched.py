"""Small trainings of digits that are watched, for tests of the diagnosis."""

from functools import cache
from typing import Any

import gpubp
from gpubp.data import load_dataset

ROWS, WATCHED = 600, 200
DEEP = [64, 32, 32, 32, 32, 32, 10]


@cache
def digits() -> tuple[Any, Any]:
    data = load_dataset("digits")
    return data.x[:ROWS], data.y[:ROWS]


def watched(
    sizes: list[int] = [64, 32, 16, 10],  # noqa: B006  # never changed
    activation: str = "relu",
    scale: float = 1.0,
    data: tuple[Any, Any] | None = None,
    init: Any = None,
    dropout: float = 0.0,
    output: str = "softmax",
    **fit: Any,
) -> gpubp.Diagnosis:
    """A diagnosis of a training of digits, or of other data, that may have diverged."""
    x, y = data or digits()
    net = gpubp.MLP(sizes, activation, output, init=init, dropout=dropout, device="cpu", seed=0)
    watch = gpubp.Diagnosis(x[:WATCHED] * scale, y[:WATCHED])
    try:
        net.fit(x * scale, y, **{"epochs": 12, "batch_size": 16, "verbose": 0, "callbacks": [watch], **fit})
    except gpubp.DivergenceError:
        assert watch.diverged
    return watch


def names(watch: gpubp.Diagnosis) -> list[str]:
    return [finding.name for finding in watch.findings()]
