"""A single weight on its way to 1/3: its table of steps, and what other learning rates do."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from os import PathLike
from typing import Any

from gpubp.explain.articles.article import Article, Gradients, Row, judged
from gpubp.explain.articles.equations import difference_cell
from gpubp.explain.descent import DescentPath
from gpubp.explain.document import Block, Cell, Heading, Paragraph, Table, Verdict
from gpubp.explain.one_weight import curves
from gpubp.losses import SquaredError
from gpubp.mlp import MLP
from gpubp.optimizers import SGD

X, Y, RATE, START = [[1.5]], [[0.5]], 0.1, 0.8
BEST = Y[0][0] / X[0][0]  # where a = i w is y
PRINTED = {"w after one step": 0.59}  # and "near 0.3" for the best weight
SHOWN = (*range(11), 18, 25)  # steps of the table
RATES = {"0.1": 0.1, "2/9": 2 / 9, "0.4": 0.4, "4/9": 4 / 9, "0.5": 0.5}
STEPS = 10  # of each rate
DRAWN = (BEST - 1.2, BEST + 1.2)  # the weights of the picture; the rate that diverges leaves it


def exactly(k: int) -> float:
    """The closed form w_k = 1/3 + (7/15) (11/20)ᵏ at the article's learning rate."""
    return 1 / 3 + 7 / 15 * (11 / 20) ** k


def fate(weights: Sequence[float]) -> str:
    """What becomes of a weight, judged by its way alone: its sides of the best one, and whether it nears it."""
    errors = [weight - BEST for weight in weights]
    if abs(errors[1]) < 1e-12:
        return "there in one step"
    ratios = [after / before for before, after in pairwise(errors)]
    if all(abs(abs(ratio) - 1) < 1e-9 for ratio in ratios):
        return "bounces for ever"
    if all(abs(ratio) > 1 for ratio in ratios):
        return "diverges"
    return "slowly, from one side" if all(ratio > 0 for ratio in ratios) else "side to side, nearer"


class OneWeight(Article):
    """a = i w, C = (a - y)², dC/dw = 2 (a - y) i: every step takes the error times 1 - 2 i² r."""

    name = "one-weight"
    title = "One weight, step by step to its limit 1/3, and what learning rates do"
    summary = "one weight to its limit 1/3, at five learning rates"
    author, work = "Roblox DevForum", "Understanding Neural Network Backpropagation Learning Algorithm"
    x, y, learning_rate, PRINTED = X, Y, RATE, PRINTED

    def build(self, device: str) -> MLP:
        loss = SquaredError(reduction="sum")
        net = MLP([1, 1], output="identity", loss=loss, use_bias=False, dtype="float64", device=device, seed=0)
        net.set_parameters([[[START]]])
        return net

    def published(self) -> Gradients:
        return self.gradients({"w1": PRINTED["w after one step"]})

    @property
    def true(self) -> dict[str, Any]:
        return {"w after one step": self.trace.weight("w1").after}

    def walk(self, rate: float, steps: int) -> Iterator[MLP]:
        """The network at the start and after each step."""
        net, optimizer = self.net.copy(), SGD(rate)
        yield net
        for _ in range(steps):
            net.train_step(X, Y, optimizer)
            yield net

    @cached_property
    def table(self) -> list[dict[str, float]]:
        """w, a, C and dC/dw at the start and after each step of the article's way."""
        records = []
        for net in self.walk(RATE, max(SHOWN)):
            found = net.backprop(X, Y)
            weight, slope = float(net.get_parameters()[0][0][0, 0]), float(found.weight_grads[0][0, 0])
            records.append({"w": weight, "a": float(found.outputs[0, 0]), "C": found.loss, "dC/dw": slope})
        return records

    @cached_property
    def paths(self) -> dict[str, DescentPath]:
        """The way of each learning rate."""
        found = {name: DescentPath() for name in RATES}
        for name, path in found.items():
            for net in self.walk(RATES[name], STEPS):
                path.record(net)
        return found

    @property
    def sweep(self) -> dict[str, list[float]]:
        """The weights of each learning rate."""
        return {name: path.points[:, 0].tolist() for name, path in self.paths.items()}

    @property
    def worst(self) -> float:
        """How far the way is from the closed form."""
        return max(abs(record["w"] - exactly(k)) for k, record in enumerate(self.table))

    @property
    def ok(self) -> bool:
        return self.check.ok and self.worst <= 1e-12

    def blocks(self) -> list[Block]:
        first = [f"{record['w']:.4f}" for record in self.table].index(f"{BEST:.4f}")
        return [
            Paragraph(
                "One linear unit without bias: a = i w, C = (a - y)², dC/dw = 2 (a - y) i, with i = 1.5, y = 0.5, and "
                f"w = {START:g} at first. The article's i is gpubp's x, its w is w1, its r the learning rate, {RATE:g}."
            ),
            Heading("Step by step"),
            self._way(),
            Paragraph(
                f"Exactly, w = 1/3 + 7/15 (11/20)ᵏ after k steps; step {first} is the first to show {BEST:.4f}. "
                "Each step takes the error w - 1/3 times 1 - 2 i² r = 1 - 4.5 r: the rate alone decides."
            ),
            Heading("The learning rate: slow, in one step, bouncing, diverging"),
            self._rates(),
        ]

    def _way(self) -> Table:
        rows: list[Row] = []
        for k in SHOWN:
            record, exact = self.table[k], exactly(k)
            weight = Cell(record["w"], "strong")
            printed = judged(PRINTED["w after one step"], record["w"]) if k == 1 else None
            values = record["a"], record["C"], record["dC/dw"]
            rows.append([str(k), printed, weight, *values, exact, difference_cell(abs(record["w"] - exact))])
        limit = Cell("limit", "strong")
        rows.append([limit, None, Cell(BEST, "strong"), Y[0][0], 0.0, 0.0, BEST, None])
        columns = ["k", "printed", "w", "a = i w", "C", "dC/dw", "exact", "off by"]
        return Table.of(columns, rows)

    def _rates(self) -> Table:
        rows: list[Row] = []
        for name, weights in self.sweep.items():
            nearer = abs(weights[-1] - BEST) < abs(weights[0] - BEST) - 1e-9
            shown = (weights[k] for k in (1, 2, STEPS))
            factor = 1 - 2 * X[0][0] ** 2 * RATES[name]
            rows.append([f"r = {name}", factor, *shown, Cell(fate(weights), "good" if nearer else "bad")])
        return Table.of(["rate", "1 - 4.5 r", "w after 1", "2", f"{STEPS} steps", "what becomes of it"], rows)

    @property
    def verdict(self) -> Verdict:
        return Verdict(
            self.ok,
            f"The article's {PRINTED['w after one step']} agrees: the gradients of its step {self.checked}. The best "
            f"weight, which it calls near 0.3, is exactly 1/3.",
        )

    def facts(self) -> dict[str, Any]:
        rates = {name: {"weights": weights, "fate": fate(weights)} for name, weights in self.sweep.items()}
        exact = [exactly(k) for k in range(len(self.table))]
        return {**super().facts(), "way": self.table, "closed_form": exact, "limit": BEST, "learning_rates": rates}

    def picture(self, path: str | PathLike[str]) -> None:
        """C(w), and each learning rate's way along it; a .png or .svg file."""
        labelled = {f"r = {name}: {fate(self.sweep[name])}": way for name, way in self.paths.items()}
        curves(self.net, X, Y, "w1", span=DRAWN, path=labelled).plot_paths(path)
