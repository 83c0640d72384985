"""Schedules: the factor on the learning rate, a pure function of the step and of the number of steps there will be."""

from collections.abc import Callable
from math import cos, pi
from typing import Any

from gpubp.checks import number
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
        self.warmup = number("warmup", warmup, least=0, below=1)
        self.final = number("final", final, least=0, most=1)

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
        self.final = number("final", final, above=0, most=1)

    def factor(self, step: int, total: int) -> float:
        return float(self.final ** (step / total))


class Step(Schedule):
    """gamma^⌊drops · step / total⌋: `drops` equal parts, each with gamma times the rate of the one before."""

    def __init__(self, gamma: float = 0.1, drops: int = 3) -> None:
        self.gamma = number("gamma", gamma, above=0, most=1)
        self.drops = int(number("drops", drops, least=1))

    def factor(self, step: int, total: int) -> float:
        return float(self.gamma ** (self.drops * step // total))


class Inverse(Schedule):
    """1 / (step + 1)^power, the invscaling of scikit-learn; needs no total."""

    def __init__(self, power: float = 0.5) -> None:
        self.power = number("power", power, above=0)

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
            f"schedule={resolved.name!r} needs the number of steps, which neither partial_fit nor an iterable without "
            "a length tells; use 'inverse' or a function of the step"
        )
    return lambda step: resolved.factor(step, total or 0)
