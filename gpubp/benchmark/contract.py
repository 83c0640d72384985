"""What a contender is, under which setting it is built, and how its work is checked before it is timed."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from gpubp.benchmark.problem import Problem, reference
from gpubp.errors import DataError, GpubpError
from gpubp.kernel import Array

CHECKED_STEPS = 3
# How far the losses may be from the reference's, and each parameter as a share of the way that it went. In NumPy, with
# up to 5000 inputs, eight layers or 4096 units, float32 took 4e-6 of the loss and a tenth of what a parameter may; with
# the inputs of products rounded to TF32's ten bits it was 2e-3 and, for ReLU, whose kinks are crossed, 5 %. In bfloat16
# on the emulated device, with up to 784 inputs and eight layers, it was 6e-4 and 8 % for sigmoids, 4e-3 and 24 % for
# ReLU under Adam; three times that for nets that were not tried.
TOLERANCES = {"float32": (1e-4, 0.01), "tf32": (1e-2, 0.1), "bfloat16": (1e-2, 0.25)}


@dataclass(frozen=True)
class Setting:
    """Where and how a contender computes. Threads and precision are the whole process's."""

    device: str = "cpu"  # "cpu", "cuda" or "cuda:N"
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"  # of matrix products
    threads: int = 1

    def __post_init__(self) -> None:
        if not re.fullmatch(r"cpu|cuda(:[0-9]{1,9})?", self.device):
            raise DataError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {self.device!r}")
        if self.precision not in TOLERANCES:
            raise DataError(f"precision must be 'float32', 'tf32' or 'bfloat16', got {self.precision!r}")

    @property
    def kind(self) -> str:
        """The device without its number: cpu or cuda."""
        return self.device.partition(":")[0]

    @property
    def index(self) -> int:
        """The number of the CUDA device."""
        return int(self.device.partition(":")[2] or 0)


def _nothing() -> None:
    pass


def _unknown() -> None:
    return None


@dataclass(frozen=True)
class Contender:
    """One implementation, its data on the device.

    `step` asks for one update and need not wait for it; `wait` returns when all that was asked for is done. `loss`
    reads what a step returned, before the next step; it and `parameters`, weights (inputs, outputs) first, are None
    for what computes nothing that could be checked. `memory` is the peak of bytes on a GPU, or None.
    """

    step: Callable[[], Any]
    loss: Callable[[Any], float] | None = None
    parameters: Callable[[], list[Array]] | None = None
    wait: Callable[[], Any] = _nothing
    memory: Callable[[], int | None] = _unknown
    note: str = ""


def tolerances(activation: str, optimizer: str, precision: str = "float32") -> tuple[float, float]:
    """Of the losses, and of each parameter as a share of its way.

    Adam's first moves are the learning rate times little more than the gradient's sign. A gradient near 0 that rounding
    turns over is rare enough: in NumPy, with sigmoids, float32 took 1e-4 of the way. But a ReLU unit that one row alone
    switches on moves with its whole column or not at all, according to the side of 0 on which rounding puts that row:
    of 180 draws this took more than 1 % of the way in a few, and 18 % with 3e-3 of the loss in one. So ReLU under Adam
    has what TF32 has, which no bias correction, a rate a tenth too large and one row of 256 left out are all beyond.
    """
    kinked = (activation, optimizer) == ("relu", "adam") and precision == "float32"
    return TOLERANCES["tf32" if kinked else precision]


class DifferentWorkError(GpubpError):
    """A contender did not compute what the reference computes: its time would mean nothing."""


def check(contender: Contender, problem: Problem, precision: str = "float32") -> list[float]:
    """The losses of the first steps, after comparing them and where the parameters ended with the reference.

    Raises DifferentWorkError. Losses alone would not show a wrong gradient deep below; an update is rounded to its
    parameter's ulp.
    """
    import numpy as np

    if contender.loss is None or contender.parameters is None:
        return []
    losses = [contender.loss(contender.step()) for _ in range(CHECKED_STEPS)]
    expected, ended = reference(problem, CHECKED_STEPS)
    loss_tolerance, share = tolerances(problem.activation, problem.optimizer, precision)
    if not np.allclose(losses, expected, rtol=0, atol=loss_tolerance):  # NaN is refused too, here and below
        raise DifferentWorkError(f"its losses are {losses}, the reference's {expected}")
    began = problem.weights + problem.biases
    for number, (mine, end, start) in enumerate(zip(contender.parameters(), ended, began, strict=True)):
        allowed = share * np.linalg.norm(end - start) + 1e-6 * np.linalg.norm(start)
        off = np.linalg.norm(np.asarray(mine, np.float64) - end)
        if not off <= allowed:
            raise DifferentWorkError(
                f"array {number} of its parameters is {off:.3g} off, {allowed:.3g} would be rounding"
            )
    return losses
