"""A cell of the benchmark: one network and batch size, built and checked by every contender, then timed in turns."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import nan
from typing import Any

from gpubp.benchmark.contenders import DifferentWorkError
from gpubp.benchmark.timing import in_turns
from gpubp.benchmark.workers import FailedError, Racer

LEAST_SECONDS = 0.02  # of steps, for an estimate of one


@dataclass
class Outcome:
    """What became of one contender in a cell."""

    racer: Racer
    error: FailedError | DifferentWorkError | None = None  # why it is left out
    losses: list[float] = field(default_factory=list)  # of the first steps, as checked
    note: str = ""
    steps: int = 0  # a turn
    seconds: list[float] = field(default_factory=list)  # a step, by round
    memory: int | None = None  # bytes


def prepare(
    racers: list[Racer],
    cell: tuple[Any, ...],
    turn: float,
    limit: float | None = None,
    say: Callable[[Racer], Any] = lambda racer: None,
) -> list[Outcome]:
    """Let every contender build this cell, be checked, and find out how many steps make a turn of `turn` seconds.

    `cell` has the arguments of `make_problem`. Whoever fails, or takes longer than `limit` seconds, is left out; `say`
    hears of each before it begins.
    """
    outcomes = []
    for racer in racers:
        say(racer)
        outcome = Outcome(racer)
        outcomes.append(outcome)
        try:
            built = racer.ask("build", *cell, seconds=limit)
            estimate = racer.ask("calibrate", max(LEAST_SECONDS, turn / 2), seconds=limit)
        except (FailedError, DifferentWorkError) as error:
            outcome.error = error
            continue
        racer.versions = built["versions"]
        outcome.losses, outcome.note = built["losses"], built["note"]
        outcome.steps = max(1, round(turn / estimate))
    return outcomes


def take_turns(outcomes: list[Outcome], rounds: int) -> None:
    """Time those that are ready; whoever fails now is left out too."""
    ready = [outcome for outcome in outcomes if outcome.error is None]

    def asked(outcome: Outcome, command: str, *arguments: Any) -> Any:
        try:
            return outcome.racer.ask(command, *arguments)
        except FailedError as error:
            outcome.error = outcome.error or error
            return nan

    turns = {str(place): partial(asked, outcome, "run", outcome.steps) for place, outcome in enumerate(ready)}
    for outcome, seconds in zip(ready, in_turns(turns, rounds).values(), strict=True):
        outcome.memory = asked(outcome, "memory")
        outcome.seconds = [] if outcome.error else seconds
