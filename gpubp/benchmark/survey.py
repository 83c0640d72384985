"""A user's benchmark: one network at some batch sizes, on some devices, by gpubp and by its peers."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from gpubp.benchmark.contenders import BUILDERS, Setting
from gpubp.benchmark.machine import BUSY, foreign_load, machine
from gpubp.benchmark.race import prepare, take_turns
from gpubp.benchmark.results import Result, crossover, left_out, results_of
from gpubp.benchmark.workers import Racer, racing

ROUNDS = 7
PATIENCE = 120.0  # seconds in which a contender is to be ready for a batch size


@dataclass(frozen=True)
class Survey:
    """What is to be measured: `seconds` is the time for each contender, device and batch size."""

    sizes: tuple[int, ...]
    activation: str
    batches: list[int]
    names: list[str]
    settings: list[Setting]
    seconds: float
    seed: int = 0

    def run(
        self,
        begins: Callable[[int, Racer], Any] = lambda batch, racer: None,
        done: Callable[[list[Result]], Any] = lambda results: None,
        quiet: bool = True,
    ) -> "Findings":
        """Measure it all; `begins` and `done` hear how far it is, and unless `quiet` the peers may speak."""
        wanted = [(name, setting) for setting in self.settings for name in self.names]
        reasons = {(name, setting): BUILDERS[name].why_not(setting) for name, setting in wanted}
        found = Findings(self, foreign_load())
        for (name, setting), reason in reasons.items():
            if reason:
                found.left_out.append({"device": setting.device, "contender": name, "batch": None, "reason": reason})
        with racing([entry for entry in wanted if not reasons[entry]], quiet) as racers:
            for batch in self.batches:
                cell = (self.sizes, batch, self.activation, self.seed)
                outcomes = prepare(racers, cell, self.seconds / ROUNDS, PATIENCE, partial(begins, batch))
                take_turns(outcomes, ROUNDS)
                found.left_out += left_out(outcomes, batch)
                found.results += (results := results_of(outcomes, batch))
                done(results)
            for racer in racers:
                found.versions |= racer.versions
        return found


@dataclass
class Findings:
    """What was measured, and what was not."""

    survey: Survey
    foreign_load: float | None
    results: list[Result] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def busy(self) -> bool:
        """Whether others use so much of this machine that the figures are doubtful."""
        return self.foreign_load is not None and self.foreign_load > BUSY

    @property
    def crossovers(self) -> dict[str, int | None]:
        """For each GPU that was measured beside the CPU, the batch size from which it is faster, or None."""
        devices = [setting.device for setting in self.survey.settings]
        return {device: crossover(self.results, device) for device in devices if "cpu" in devices and device != "cpu"}

    def report(self) -> dict[str, Any]:
        """Everything, for JSON."""
        survey = self.survey
        network = {"sizes": survey.sizes, "activation": survey.activation, "seed": survey.seed}
        return {
            "network": {**network, "dtype": "float32", "optimizer": "sgd"},
            "machine": {**machine(survey.settings[0].threads), "foreign_load": self.foreign_load},
            "versions": self.versions,
            "rounds": ROUNDS,
            "results": [asdict(row) for row in self.results],
            "left_out": self.left_out,
            "crossover": self.crossovers,
        }
