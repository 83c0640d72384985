"""A user's benchmark: one network at some batch sizes, on some devices, by gpubp and by its peers."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from gpubp.benchmark.contenders import BUILDERS, Setting
from gpubp.benchmark.machine import BUSY, foreign_load, machine
from gpubp.benchmark.memory import too_large
from gpubp.benchmark.race import prepare, take_turns
from gpubp.benchmark.results import Result, absent, crossover, left_out, results_of
from gpubp.benchmark.workers import FailedError, Racer, racing

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
        done: Callable[[int, list[Result]], Any] = lambda batch, results: None,
        quiet: bool = True,
    ) -> "Findings":
        """Measure it all, but what has no room in memory, and until it is interrupted.

        `begins` and `done` hear how far it is, and unless `quiet` the peers may speak.
        """
        wanted = [(name, setting) for setting in self.settings for name in self.names]
        reasons = {(name, setting): BUILDERS[name].why_not(setting) for name, setting in wanted}
        found = Findings(self, foreign_load())
        found.left_out += [absent(to.device, name, None, reason) for (name, to), reason in reasons.items() if reason]
        able = [entry for entry in wanted if not reasons[entry]]
        fitting = {
            setting: self._fitting(setting, [name for name, its in able if its == setting], found)
            for setting in self.settings
        }
        try:
            with racing([(name, setting) for name, setting in able if fitting[setting]], quiet) as racers:
                for racer in racers:
                    if racer.name == "gemms":
                        with suppress(FailedError):  # what keeps it from its cells too is told there
                            found.peaks[racer.setting.device] = racer.ask("peak", seconds=PATIENCE)
                for batch in sorted(set().union(*fitting.values())):
                    cell = (self.sizes, batch, self.activation, self.seed)
                    present = [racer for racer in racers if batch in fitting[racer.setting]]
                    outcomes = prepare(present, cell, self.seconds / ROUNDS, PATIENCE, partial(begins, batch))
                    take_turns(outcomes, ROUNDS)
                    found.left_out += left_out(outcomes, batch)
                    found.results += (results := results_of(outcomes, self.sizes, batch, found.peaks))
                    for racer in present:
                        found.versions |= racer.versions
                    done(batch, results)
        except KeyboardInterrupt:  # what is finished is worth something
            found.interrupted = True
        return found

    def _fitting(self, setting: Setting, names: list[str], found: "Findings") -> list[int]:
        """The batch sizes for which these contenders have room on their device; the others are refused."""
        from gpubp.backends import get_backend  # here, as it loads NumPy

        free, fitting = get_backend(setting.device).free_memory(), []
        for batch in self.batches:
            reason = too_large(self.sizes, batch, setting.kind, len(names), free)
            if reason is None:
                fitting.append(batch)
            else:
                found.refused += [absent(setting.device, name, batch, reason) for name in names]
        return fitting


@dataclass
class Findings:
    """What was measured, and what was not."""

    survey: Survey
    foreign_load: float | None
    results: list[Result] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)  # because it is not here, or failed
    refused: list[dict[str, Any]] = field(default_factory=list)  # because memory has no room for it
    interrupted: bool = False
    peaks: dict[str, float] = field(default_factory=dict)  # operations a second in one large product, by device
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def busy(self) -> bool:
        """Whether others use so much of this machine that the figures are doubtful."""
        return self.foreign_load is not None and self.foreign_load > BUSY

    @property
    def crossovers(self) -> dict[str, int | None]:
        """For each GPU that was measured beside the CPU, the batch size from which it is faster, or None."""
        devices = list(dict.fromkeys(row.device for row in self.results))
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
            "peak_flops": self.peaks,
            "results": [asdict(row) for row in self.results],
            "left_out": self.refused + self.left_out,
            "interrupted": self.interrupted,
            "crossover": self.crossovers,
        }
