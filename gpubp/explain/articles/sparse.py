"""Yehoshua's 2-3-2-1 network: absent connections, three readings, and two slips in the author's own calculation."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gpubp.explain.articles.article import STEP_COLUMNS, Article, Gradients, Row, apart, by_name, judged, short, sigmoid
from gpubp.explain.document import Block, Cell, Heading, Paragraph, Table, Verdict
from gpubp.explain.gradients import GradientReport, check_gradients
from gpubp.explain.trace import Trace, trace
from gpubp.losses import BinaryCrossEntropy
from gpubp.mlp import MLP


@dataclass(frozen=True)
class Slips:
    """Of the author's calculation."""

    unit: bool = False  # the delta of n5 takes the factor 1 - a of n4
    rate: bool = False  # the update takes the weight itself for the learning rate


BOTH = Slips(unit=True, rate=True)
X, Y, RATE = [[1.0, 0.0]], [[1.0]], 0.5
UNITS = ("n1", "n2", "n3", "n4", "n5", "out")
# Each connection, gpubp's name of it, its weight. A is x1 and B the constant 1 of the biases; as both are 1, it may be
# the other way round. x2 is 0, so that its weights, which are not known, do not matter.
CONNECTIONS = {
    "A→n1": ("w1", 0.5),
    "A→n2": ("w2", -0.2),
    "B→n1": ("b1", 0.3),
    "B→n2": ("b2", 0.7),
    "B→n3": ("b3", -0.1),
    "n1→n4": ("w7", -0.5),
    "n1→n5": ("w8", 0.3),
    "n2→n4": ("w9", 0.4),
    "n2→n5": ("w10", 0.6),
    "n3→n5": ("w12", 0.4),
    "n4→out": ("w13", 0.5),
    "n5→out": ("w14", 0.7),
}
MASKS = [np.array([[1, 1, 0], [0, 0, 0]]), np.array([[1, 1], [1, 1], [0, 1]]), None]
# The author's notebook beside the article (github.com/roiyeho/medium, backpropagation/NumericalExample.ipynb) as of
# 2023-04-08, two days before the article, and the output that it comes to after each repair.
PRINTED: dict[str, Any] = {
    "output before": 0.6718402375328226,
    "deltas": {
        "out": -0.32820000000000005,
        "n4": -0.040930478400000005,
        "n5": -0.082294338336,
        "n1": -0.0009033130261411191,
        "n2": -0.015450555745011238,
        "n3": -0.008208860249016,
    },
    "connections": {
        "A→n1": 0.50045,
        "A→n2": -0.2031,
        "B→n1": 0.30027,
        "B→n2": 0.71085,
        "B→n3": -0.10082,
        "n1→n4": -0.5141105,
        "n1→n5": 0.3170361,
        "n2→n4": 0.4101841,
        "n2→n5": 0.63073905,
        "n3→n5": 0.41563700000000003,
        "n4→out": 0.5781116,
        "n5→out": 0.85691242,
    },
    "output after": 0.7042942613440846,
}
# What the author's two repairs come to; the second forward pass of both takes 0.2296 for B→n1.
REPAIRED = [("2023-07-12", 0.703749535700656), ("2023-11-22", 0.6981086847228747)]
RETYPED = {"B→n1": 0.2296}


def by_hand(slips: Slips, as_typed: bool = False, retyped: Mapping[str, float] | None = None) -> dict[str, Any]:
    """The author's step, connection by connection, with these slips; the result has the names of `PRINTED`.

    Where `as_typed`, figures have the four digits that the author typed, and 0.683 stands for 0.6836 in the update;
    `retyped` are connections that the second forward pass takes otherwise than the update left them.
    """

    def typed(value: float) -> float:
        return round(value, 4) if as_typed else value

    def forward(strengths: Mapping[str, float]) -> dict[str, float]:
        a = {"A": 1.0, "B": 1.0}
        for unit in UNITS:
            a[unit] = float(sigmoid(sum(typed(w) * typed(a[i]) for i, j, w in _ends(strengths) if j == unit)))
        return a

    before = {name: strength for name, (_, strength) in CONNECTIONS.items()}
    output = forward(before)["out"]
    a = {unit: typed(value) for unit, value in forward(before).items()}
    delta = {"out": a["out"] - Y[0][0]}
    for unit in ("n5", "n4", "n3", "n2", "n1"):
        error = sum(w * delta[j] for i, j, w in _ends(before) if i == unit)
        delta[unit] = error * a[unit] * (1 - a["n4" if slips.unit and unit == "n5" else unit])
    if as_typed:
        a["n5"] = 0.683
    after = {f"{i}→{j}": w - (w if slips.rate else RATE) * typed(delta[j]) * a[i] for i, j, w in _ends(before)}
    again = forward({**after, **(retyped or {})})["out"]
    return {"output before": output, "deltas": delta, "connections": after, "output after": again}


def _ends(strengths: Mapping[str, float]) -> list[tuple[str, str, float]]:
    """A connection's unit below, its unit above, its weight."""
    return [(name.split("→")[0], name.split("→")[1], strength) for name, strength in strengths.items()]


class Sparse(Article):
    """The author's notebook has two slips; with them its every figure comes out, and without them gpubp's do."""

    name = "sparse"
    title = "Sparse connections: an author's own calculation, its two slips and their repair"
    summary = "2-3-2-1, log loss: an author's two slips, and three readings"
    author, work, year = "Roi Yehoshua", "Backpropagation: Step-By-Step Derivation", 2023
    x, y, learning_rate, PRINTED = X, Y, RATE, PRINTED

    def build(self, device: str) -> MLP:
        return _network(device, MASKS, [True, False, False])

    @cached_property
    def readings(self) -> dict[str, Trace]:
        """The step, for each way to read connections and biases that are not drawn."""
        dense = _network(self.net.device, None, [True, False, False])
        all_biases = _network(self.net.device, None, True)
        return {
            "as drawn": self.trace,
            "dense: absent ones learn from 0": trace(dense, X, Y, RATE),
            "dense, biases everywhere": trace(all_biases, X, Y, RATE),
        }

    def published(self) -> Gradients:
        return self._followed(PRINTED["connections"])

    def _followed(self, connections: Mapping[str, float]) -> Gradients:
        return self.gradients({CONNECTIONS[name][0]: value for name, value in connections.items()})

    @cached_property
    def typed(self) -> GradientReport:
        """The gradient check of the author's calculation without the slips: what its four digits do."""
        rounded = by_hand(Slips(), as_typed=True)["connections"]
        return check_gradients(self.net, X, Y, self._followed(rounded))

    @property
    def ok(self) -> bool:
        return bool(self.check.error <= self.typed.error)

    @property
    def true(self) -> dict[str, Any]:
        deltas = np.concatenate([layer.delta[0] for layer in self.trace.layers])
        return {
            "output before": float(self.trace.before.outputs[0, 0]),
            "deltas": dict(zip(UNITS, map(float, deltas), strict=True)),
            "connections": {name: self.trace.weight(ours).after for name, (ours, _) in CONNECTIONS.items()},
            "output after": float(self.trace.after.outputs[0, 0]),
        }

    @property
    def slip(self) -> float:
        """How far the calculation by hand, with the slips and as typed, is from the printed figures."""
        return apart(PRINTED, by_hand(BOTH, as_typed=True))

    @property
    def agreement(self) -> float:
        """How far the calculation by hand, without slips and rounding, is from gpubp's."""
        return apart(self.true, by_hand(Slips()))

    def blocks(self) -> list[Block]:
        return [
            Paragraph(
                "Two inputs x = (1, 0), of which A is the first; B is a constant 1, for the biases. 3 and 2 hidden "
                f"units, one output, sigmoids all; target 1, log loss, learning rate {RATE:g}. The figures are of the "
                "author's notebook of 2023-04-08, two days before the article; "
                f"that the article prints the same, {PRINTED['output after']:.4f} for the output, is inferred."
            ),
            Heading("The author's step, and beside it what is true"),
            self._step(),
            self._deltas(),
            Heading("Two slips, and what each makes of the output"),
            self._slips(),
            Paragraph(
                "The proof: the calculation by hand with both slips, in the author's four digits, gives all 20 figures "
                f"of the notebook (largest difference {short(self.slip)}); without slips and rounding, all of gpubp's "
                f"({short(self.agreement)}).",
                "strong",
            ),
            Heading("Three readings of the same drawing"),
            self._readings(),
        ]

    def _step(self) -> Table:
        """Every connection: what the notebook makes of it, and the true step."""
        rounding = apart(by_hand(Slips(), as_typed=True)["connections"], self.true["connections"])
        names = {name: ours for name, (ours, _) in CONNECTIONS.items()}
        rows = self.step_rows(PRINTED["connections"], names, rounding)
        return Table.of(["author", *STEP_COLUMNS], rows)

    def _deltas(self) -> Table:
        """∂C/∂z of every unit."""
        printed, true = PRINTED["deltas"], self.true["deltas"]
        rounding = apart(by_hand(Slips(), as_typed=True)["deltas"], true)
        rows: list[Row] = [
            [Cell(unit, "strong"), judged(value, true[unit], rounding), Cell(true[unit], "good")]
            for unit, value in printed.items()
        ]
        return Table.of(["author", "delta = ∂C/∂z", "true"], rows)

    def _slips(self) -> Table:
        """The output after the step with both slips, one and none, beside the notebook's three commits."""
        first = PRINTED["output after"]
        cases: list[tuple[str, Slips, str, float | None, Mapping[str, float] | None]] = [
            ("both", BOTH, "2023-04-08", first, None),
            ("the weight as rate", Slips(rate=True), *REPAIRED[0], RETYPED),
            ("n4's factor for n5", Slips(unit=True), "", None, None),
            ("none", Slips(), *REPAIRED[1], RETYPED),
        ]
        rows: list[Row] = []
        for name, slips, date, printed, retyped in cases:
            exact = by_hand(slips)["output after"]
            typed = by_hand(slips, as_typed=True, retyped=retyped)["output after"]
            row: Row = [name, judged(exact, self.true["output after"]), typed]
            rows.append([*row, None if printed is None else judged(printed, typed), date])
        return Table.of(["slips", "output", "four digits", "notebook", "of"], rows)

    def _readings(self) -> Table:
        rows: list[Row] = []
        for reading, step in self.readings.items():
            outputs = (float(moment.outputs[0, 0]) for moment in (step.before, step.after))
            rows.append([reading, *outputs, step.before.loss, step.after.loss])
        return Table.of(["reading", "output", "after", "cost", "after"], rows)

    @property
    def verdict(self) -> Verdict:
        return Verdict(
            self.ok,
            f"The author's numbers {self.checked}; his four digits alone would make {self.typed.error:.0e}. The delta "
            "of n5 takes n4's factor 1 - a4 for its own 1 - a5, and the weight stands where the learning rate should.",
        )

    def facts(self) -> dict[str, Any]:
        slips = {
            name: {"by_hand": by_hand(slips), "as_typed": by_hand(slips, as_typed=True)}
            for name, slips in {"both": BOTH, "rate": Slips(rate=True), "unit": Slips(unit=True)}.items()
        }
        readings = {name: step.facts() for name, step in self.readings.items()}
        return {**super().facts(), "slips": slips, "largest_difference": self.slip, "readings": readings}


def _network(device: str, masks: Any, use_bias: Any) -> MLP:
    loss = BinaryCrossEntropy(reduction="sum")
    options: dict[str, Any] = {"masks": masks, "use_bias": use_bias, "dtype": "float64", "device": device, "seed": 0}
    net = MLP([2, 3, 2, 1], output="sigmoid", loss=loss, **options)
    net.set_parameters(*by_name(net, dict(CONNECTIONS.values())))
    return net
