"""What the articles' examples have in common: a network, its step, the article's figures beside it, a verdict."""

from collections.abc import Mapping
from functools import cached_property
from os import PathLike
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from gpubp.explain.document import Block, Cell, Document, Paragraph, Verdict, figure
from gpubp.explain.gradients import GradientReport, check_gradients
from gpubp.explain.names import Names
from gpubp.explain.showing import Showing
from gpubp.explain.trace import trace
from gpubp.mlp import MLP

Gradients = tuple[list[Any], list[Any]]  # of the weights, of the biases, an entry a layer
Row = list[Cell | str | float | None]

STEP_COLUMNS = ("gpubp", "before", "after", "true", "∂C/∂w", "true")  # of step_rows, after the article's names
REPORTED = ("ok", "error", "tolerance", "method", "where", "given", "numerical")  # of a gradient check


class Article(Showing):
    """One step of an article's example: its notation and its figures beside gpubp's, and a verdict.

    `net` stands before the step, in float64 on `device`, and `trace` is the step. `ok` says whether what the article
    prints is right; where it prints no figures, whether its equations are. `PRINTED` holds the article's figures as
    they stand there, and nothing else is written down: all that they are compared with is computed.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    author: ClassVar[str | None] = None
    work: ClassVar[str]  # the title of the article
    year: ClassVar[int | None] = None
    x: ClassVar[list[list[float]]]
    y: ClassVar[list[list[float]]]
    learning_rate: ClassVar[float]
    PRINTED: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, device: str = "cpu") -> None:
        self.net = self.build(device)
        self.trace = trace(self.net, self.x, self.y, self.learning_rate)

    def build(self, device: str) -> MLP:
        """The network before the step."""
        raise NotImplementedError

    def published(self) -> Gradients:
        """What the article takes for the gradients: as it prints them, or as its equations give them."""
        raise NotImplementedError

    def blocks(self) -> list[Block]:
        """All that is to be seen between the source and the verdict."""
        raise NotImplementedError

    @property
    def verdict(self) -> Verdict:
        raise NotImplementedError

    @cached_property
    def check(self) -> GradientReport:
        """The gradient check of what is published."""
        return check_gradients(self.net, self.x, self.y, self.published())

    @cached_property
    def own_check(self) -> GradientReport:
        """The gradient check of gpubp's own."""
        return check_gradients(self.net, self.x, self.y)

    @property
    def checked(self) -> str:
        """How what is published fared in the gradient check, and how gpubp's gradients did."""
        check, own = self.check, self.own_check
        if check.ok:
            return (
                f"pass the gradient check, by {check.method} (error {short(check.error)}, gpubp's {short(own.error)})"
            )
        name = self.trace.names.find(check.where).name
        return (
            f"fail the gradient check: ∂C/∂{name} is {figure(check.given)} where {figure(check.numerical)} is right "
            f"(error {check.error:.2g}; gpubp's {'pass' if own.ok else 'FAIL'} with {short(own.error)})"
        )

    @property
    def ok(self) -> bool:
        return self.check.ok

    @property
    def source(self) -> str:
        """Author, title and year, as far as they are known."""
        return ", ".join(str(part) for part in (self.author, f'"{self.work}"', self.year) if part)

    @property
    def true(self) -> dict[str, Any]:
        """gpubp's figures, by the names of the printed ones."""
        return {}

    def gradients(self, after: Mapping[str, float]) -> Gradients:
        """(before − after) / η of parameters given by name: the gradients that this step followed."""
        before = {name: self.trace.weight(name).before for name in after}
        return by_name(self.net, {name: (before[name] - value) / self.learning_rate for name, value in after.items()})

    def step_rows(self, after: Mapping[str, float], ours: Mapping[str, str], allowed: float = 1e-12) -> list[Row]:
        """A row for each parameter that the article prints: what it was, what it became there, and in truth.

        `after` has the article's names and figures, `ours` gpubp's names of them, and `allowed` is what the rounding of
        the article's parameters may make.
        """
        rows: list[Row] = []
        for name, printed in after.items():
            chain = self.trace.weight(ours.get(name, name))
            row: Row = [Cell(name, "strong"), Cell(chain.parameter.path, "faint"), chain.before]
            row += [judged(printed, chain.after, allowed), Cell(chain.after, "good")]
            followed = (chain.before - printed) / self.learning_rate
            gradient = judged(followed, chain.gradient, allowed / self.learning_rate)
            rows.append([*row, gradient, Cell(chain.gradient, "good")])
        return rows

    def document(self) -> Document:
        return Document(self.title, [Paragraph(self.source, "faint"), *self.blocks(), self.verdict])

    def facts(self) -> dict[str, Any]:
        """All of it as plain lists and numbers."""
        return {
            "name": self.name,
            "title": self.title,
            "source": self.source,
            "ok": self.ok,
            "verdict": self.verdict.text,
            "printed": self.PRINTED,
            "true": self.true,
            "differences": differences(self.PRINTED, self.true),
            "gradient_check": {name: getattr(self.check, name) for name in REPORTED},
            "trace": self.trace.facts(),
        }

    def picture(self, path: str | PathLike[str]) -> None:
        """The network and its step; a .png or .svg file."""
        self.trace.picture(path)


def short(difference: float) -> str:
    """A difference that matters by its size alone."""
    return f"{difference:.0e}" if difference else "0"


def judged(value: float, right: float, allowed: float = 1e-12) -> Cell:
    """A figure, good where it is the right one."""
    return Cell(value, "good" if abs(value - right) <= allowed else "bad")


def largest(one: ArrayLike, other: ArrayLike) -> float:
    """The largest difference between two arrays of one shape."""
    return float(np.max(np.abs(np.asarray(one) - np.asarray(other))))


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Figure by figure, between those of the same names; groups of figures stay groups."""
    return {
        name: differences(value, other[name]) if isinstance(value, Mapping) else float(value - other[name])
        for name, value in one.items()
    }


def apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The largest difference between figures of the same names."""
    found = differences(one, other).values()
    return max(apart(value, dict.fromkeys(value, 0.0)) if isinstance(value, dict) else abs(value) for value in found)


def by_name(net: MLP, values: Mapping[str, float]) -> Gradients:
    """Values of single parameters as arrays of the network's shapes, 0 for the others."""
    weights, biases = net.get_parameters()
    found = {"w": [np.zeros_like(a) for a in weights], "b": [None if a is None else np.zeros_like(a) for a in biases]}
    names = Names(net)
    for name, value in values.items():
        parameter = names.find(name)
        found[parameter.kind][parameter.layer][parameter.index] = value
    return found["w"], found["b"]


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))
