"""Hill's 2-2-2 network: a well-known step in which the sigmoid is applied twice."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.explain.articles.article import STEP_COLUMNS, Article, Gradients, Row, apart, judged, short, sigmoid
from gpubp.explain.document import Block, Cell, Heading, Paragraph, Table, Verdict
from gpubp.losses import SquaredError
from gpubp.mlp import MLP

X, Y, RATE = [[2.0, 3.0]], [[1.0, 0.2]], 0.1
WEIGHTS = [[[0.3, 0.2], [-0.4, 0.6]], [[0.7, -0.3], [0.5, -0.1]]]  # w1 w2 / w3 w4, then w5 w6 / w7 w8
BIASES = [[0.25, 0.45], [0.15, 0.35]]
PRINTED = {
    "before": {"o1": 0.712257432295742, "o2": 0.533097573871501, "C": 0.19374977898811957},
    "factors": {
        "h1": 0.41338242108267,
        "σ'(o_L1)": 0.220793265944315,
        "σ'(o_H1)": 0.23961666676227233,
        "∂C/∂i_L1": -0.127063242549253,
        "∂C/∂i_L2": 0.15525450387590206,
        "∂C/∂w5": -0.052525710835624,
        "∂C/∂w1": -0.064945998937865,
    },
    "parameters": {
        "w1": 0.3064945998937866,
        "w2": 0.20320220163143507,
        "w3": -0.39025810015932016,
        "w4": 0.6048033024471525,
        "b1": 0.25324729994689327,
        "b2": 0.4516011008157175,
        "w5": 0.70525257108356,
        "w6": -0.3064179482696209,
        "w7": 0.5118678465030685,
        "w8": -0.11450094129460808,
        "b3": 0.1627063242549253,
        "b4": 0.33447454961240974,
    },
    "after": {"o1": 0.719269360605435, "o2": 0.524309343003261, "C": 0.1839862418540884},
}
FIELDS = {"o1": "outputs", "o2": "outputs", "C": "loss"}  # of gpubp
EARLIER = -0.0641679049644533  # ∂C/∂w1 in the article's first form, as a reader's comment quotes it


def by_hand(argument: Callable[[Any], Any]) -> dict[str, dict[str, float]]:
    """The article's step in plain NumPy, with the slope σ' at argument(z): z itself is right, σ(z) is the slip.

    The result has the figures that the article prints, by their names in `PRINTED`.
    """

    def slope(i: Any) -> Any:
        return sigmoid(i) * (1 - sigmoid(i))

    x, y = np.array(X[0]), np.array(Y[0])
    (w, v), (b, c) = map(np.array, WEIGHTS), map(np.array, BIASES)
    z_h = x @ w + b
    h = sigmoid(z_h)
    z_o = h @ v + c
    o = sigmoid(z_o)
    slope_o, slope_h = slope(argument(z_o)), slope(argument(z_h))
    delta_o = 2 * (o - y) * slope_o
    delta_h = (v @ delta_o) * slope_h
    w_after, b_after = w - RATE * np.outer(x, delta_h), b - RATE * delta_h
    v_after, c_after = v - RATE * np.outer(h, delta_o), c - RATE * delta_o
    o_after = sigmoid(sigmoid(x @ w_after + b_after) @ v_after + c_after)
    factors = [h[0], slope_o[0], slope_h[0], *delta_o, h[0] * delta_o[0], x[0] * delta_h[0]]
    moved = [*w_after.ravel(), *b_after, *v_after.ravel(), *c_after]
    return {
        "before": {"o1": o[0], "o2": o[1], "C": np.sum((o - y) ** 2)},
        "factors": dict(zip(PRINTED["factors"], factors, strict=True)),
        "parameters": dict(zip(PRINTED["parameters"], moved, strict=True)),
        "after": {"o1": o_after[0], "o2": o_after[1], "C": np.sum((o_after - y) ** 2)},
    }


class TwoLayers(Article):
    """The printed gradient fails the check: σ' is taken at σ(z) where it belongs to z."""

    name = "two-layer"
    title = "Two layers: a well-known step as it is printed, and as it is"
    summary = "2-2-2, sum of squares: all twelve printed parameters are wrong"
    author, work, year = "Tobias Hill", "Part 2 - Gradient descent and backpropagation", 2018
    x, y, learning_rate, PRINTED = X, Y, RATE, PRINTED

    def build(self, device: str) -> MLP:
        loss = SquaredError(reduction="sum")
        net = MLP([2, 2, 2], output="sigmoid", loss=loss, dtype="float64", device=device, seed=0)
        net.set_parameters(WEIGHTS, BIASES)
        return net

    def published(self) -> Gradients:
        return self.gradients(PRINTED["parameters"])

    @property
    def true(self) -> dict[str, dict[str, float]]:
        hidden, out = self.trace.layers
        before, after = self.trace.before, self.trace.after
        w5, w1 = self.trace.weight("w5"), self.trace.weight("w1")
        factors = [hidden.y[0, 0], out.slope[0, 0], hidden.slope[0, 0], *out.delta[0], w5.gradient, w1.gradient]
        return {
            "before": {"o1": before.outputs[0, 0], "o2": before.outputs[0, 1], "C": before.loss},
            "factors": dict(zip(PRINTED["factors"], factors, strict=True)),
            "parameters": {name: self.trace.weight(name).after for name in PRINTED["parameters"]},
            "after": {"o1": after.outputs[0, 0], "o2": after.outputs[0, 1], "C": after.loss},
        }

    @property
    def slip(self) -> float:
        """How far the step by hand, with the slip, is from the printed figures."""
        return apart(PRINTED, by_hand(sigmoid))

    @property
    def agreement(self) -> float:
        """How far the step by hand, without the slip, is from gpubp's."""
        return apart(self.true, by_hand(lambda z: z))

    @property
    def angle(self) -> float:
        """Between the printed gradient and the true one, in degrees."""
        printed, true = (
            np.concatenate([array.ravel() for arrays in pair for array in arrays])
            for pair in (self.published(), self.gradients(self.true["parameters"]))
        )
        return float(np.degrees(np.arccos(printed @ true / np.linalg.norm(printed) / np.linalg.norm(true))))

    def blocks(self) -> list[Block]:
        return [
            Paragraph(
                f"Two inputs x = (2, 3), two hidden units, two outputs, sigmoids all; y = (1, 0.2); "
                f"C = Σ (o - y)², without ½; learning rate {RATE:g}. The article's w1 … b4 are gpubp's names too."
            ),
            Heading("The step as printed, and beside it what is true"),
            self._step(),
            Heading("The chain rule for w5 and w1, factor by factor"),
            self._factors(),
            Paragraph(
                "The article's formula σ'(i) = σ(i) (1 - σ(i)) is right, but i is what goes into a unit, and the "
                "article puts in o, what comes out of it: the sigmoid is applied twice. It is so in both layers, and "
                "∂C/∂o_H1 = ∂C/∂i_L1 w5 + ∂C/∂i_L2 w6 carries it down."
            ),
            Paragraph(
                f"The proof: the step in plain NumPy with σ' taken at o gives all {sum(map(len, PRINTED.values()))} "
                f"figures that the article prints (largest difference {short(self.slip)}), and with σ' taken at i all "
                f"of gpubp's ({short(self.agreement)}).",
                "strong",
            ),
            Paragraph(
                f"In fairness: the article first had ∂C/∂w1 = {EARLIER}, right to its last digit; a reader's comment "
                "called it wrong, and it was changed into the slip. That the cost falls does not tell them apart: the "
                f"printed gradient is {self.angle:.1f}° off the true one, and that is still downhill."
            ),
        ]

    def _step(self) -> Table:
        """Every parameter, then outputs and cost: printed and true beside each other."""
        rows = self.step_rows(PRINTED["parameters"], {})
        for name, printed in PRINTED["after"].items():
            before, after = self.true["before"][name], self.true["after"][name]
            row: Row = [Cell(name, "strong"), Cell(FIELDS[name], "faint"), before]
            rows.append([*row, judged(printed, after), Cell(after, "good"), None, None])
        return Table.of(["article", *STEP_COLUMNS], rows)

    def _factors(self) -> Table:
        """The chain rule of w5 and of w1, factor by factor."""
        factors, o1 = PRINTED["factors"], PRINTED["before"]["o1"]
        (w5, w6), *_ = WEIGHTS[1]
        hidden, out = self.trace.layers
        error_h1 = factors["∂C/∂i_L1"] * w5 + factors["∂C/∂i_L2"] * w6
        article: dict[str, list[tuple[str, float, str | None]]] = {
            "w5": [
                ("2 (o_L1 - y1)", 2 * (o1 - Y[0][0]), None),
                ("σ'(o_L1)", factors["σ'(o_L1)"], _slip(out.y[0, 0], out.z[0, 0])),
                ("o_H1", factors["h1"], None),
            ],
            "w1": [
                ("∂C/∂o_H1", error_h1, "← has the slip from above"),
                ("σ'(o_H1)", factors["σ'(o_H1)"], _slip(hidden.y[0, 0], hidden.z[0, 0])),
                ("x1", X[0][0], None),
            ],
        }
        rows: list[Row] = []
        for name, printed in article.items():
            chain = self.trace.weight(name)
            for (symbol, value, remark), factor in zip(printed, chain.factors, strict=True):
                right = Cell(factor.value, "good")
                rows.append([symbol, judged(value, factor.value), factor.symbol, right, remark])
            product = Cell(f"= ∂C/∂{name}", "strong")
            given = judged(factors[f"∂C/∂{name}"], chain.gradient)
            rows.append([product, given, product, Cell(chain.gradient, "good"), None])
        return Table.of(["the article", "printed", "gpubp", "true", "the slip"], rows)

    @property
    def verdict(self) -> Verdict:
        return Verdict(self.ok, f"The printed numbers {self.checked}. σ' is taken at the output: the sigmoid twice.")

    def facts(self) -> dict[str, Any]:
        slip = {"what": "σ' is taken at σ(z)", "by_hand": by_hand(sigmoid), "largest_difference": self.slip}
        return {**super().facts(), "slip": slip, "angle": self.angle}


def _slip(output: float, z: float) -> str:
    return f"← at {output:.4f}, not {z:.4f}"
