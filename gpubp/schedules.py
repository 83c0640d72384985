"""Schedules: the factor on the learning rate, a pure function of the step and of the number of steps there will be."""

from collections.abc import Callable
from math import cos, pi
from typing import Any

from gpubp.errors import DataError
from gpubp.registry import Component


class Schedule(Component):
    """factor(step, total): what multiplies the learning rate at step 0, 1, ..., total − 1."""

    def factor(self, step: int, total: int) -> float:
        raise NotImplementedError


class Constant(Schedule):
    """1."""

    def factor(self, step: int, total: int) -> float:
        return 1.0


class Linear(Schedule):
    """Rises over the first `warmup` share of the steps, then falls from 1 to `final` in a straight line."""

    def __init__(self, warmup: float = 0.0, final: float = 0.0) -> None:
        if not 0 <= warmup < 1:
            raise DataError(f"warmup is a share of the steps in [0, 1), got {warmup!r}")
        if not 0 <= final <= 1:
            raise DataError(f"final is a factor in [0, 1], got {final!r}")
        self.warmup, self.final = warmup, final

    def factor(self, step: int, total: int) -> float:
        rising = int(self.warmup * total)
        if step < rising:
            return (step + 1) / (rising + 1)
        return self.final + (1 - self.final) * self.curve((step - rising) / max(1, total - rising))

    def curve(self, progress: float) -> float:
        return 1 - progress


class Cosine(Linear):
    """As `Linear`, but falling along ½ (1 + cos π progress); Loshchilov and Hutter 2016."""

    def curve(self, progress: float) -> float:
        return 0.5 * (1 + cos(pi * progress))


class OneCycle(Cosine):
    """A cosine after a warm-up of the first 30 % of the steps; after Smith and Topin 2017."""

    def __init__(self, warmup: float = 0.3, final: float = 0.0) -> None:
        super().__init__(warmup, final)


class Exponential(Schedule):
    """final^(step / total): decays by the same ratio at every step."""

    def __init__(self, final: float = 0.01) -> None:
        if not 0 < final <= 1:
            raise DataError(f"final must lie in (0, 1], got {final!r}")
        self.final = final

    def factor(self, step: int, total: int) -> float:
        return float(self.final ** (step / total))


class Step(Schedule):
    """gamma^⌊drops · step / total⌋: `drops` equal parts, each with gamma times the rate of the one before."""

    def __init__(self, gamma: float = 0.1, drops: int = 3) -> None:
        if not 0 < gamma <= 1:
            raise DataError(f"gamma must lie in (0, 1], got {gamma!r}")
        if drops < 1:
            raise DataError(f"drops must be at least 1, got {drops!r}")
        self.gamma, self.drops = gamma, drops

    def factor(self, step: int, total: int) -> float:
        return float(self.gamma ** (self.drops * step // total))


class Inverse(Schedule):
    """1 / (step + 1)^power, the invscaling of scikit-learn; needs no total."""

    def __init__(self, power: float = 0.5) -> None:
        if not 0 < power < 10:
            raise DataError(f"power must be positive, got {power!r}")
        self.power = power

    def factor(self, step: int, total: int) -> float:
        return float((step + 1) ** -self.power)


def bind(schedule: Any, total: int | None) -> Callable[[int], float]:
    """The schedule as a function of the step alone: a name, a Schedule, or any callable step -> factor."""
    if schedule is None:
        return lambda step: 1.0
    if callable(schedule) and not isinstance(schedule, type):
        return schedule  # type: ignore[no-any-return]
    resolved = Schedule.resolve(schedule)
    if total is None and not isinstance(resolved, (Constant, Inverse)):
        raise DataError(
            f"schedule={resolved.name!r} needs the number of steps, which an iterable without a length hides; "
            "give a list of batches, or a function of the step"
        )
    return lambda step: resolved.factor(step, total or 0)
