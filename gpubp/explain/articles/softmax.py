"""The four-layer softmax network: the article's matrix equations, on a batch, on single samples, and as Jacobians."""

from functools import cached_property
from typing import Any

import numpy as np

from gpubp.explain.articles.article import Article, Gradients, Row, judged, largest, short, sigmoid
from gpubp.explain.articles.equations import Equation, difference_cell, equations, vector
from gpubp.explain.document import Block, Cell, Heading, Paragraph, Table, Verdict
from gpubp.explain.trace import Trace, trace
from gpubp.losses import CrossEntropy
from gpubp.mlp import MLP

X = [[1.0, 2.0, -1.0], [0.5, -0.5, 1.5], [-2.0, 1.0, 0.25]]
Y = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
WEIGHTS = [
    [[0.2, -0.3, 0.5, 0.1], [-0.4, 0.6, 0.1, -0.2], [0.3, 0.2, -0.1, 0.4]],
    [[0.3, -0.5], [0.7, 0.2], [-0.6, 0.4], [0.1, 0.8]],
    [[0.4, -0.7, 0.2], [-0.3, 0.5, 0.6]],
]
BIASES = [[0.1, -0.1, 0.2, 0.05], [-0.2, 0.3], [0.1, 0.0, -0.1]]

EQUATIONS = {  # the article's, and the field of net.backprop
    "Z1": ("X W1 + 1 b1", "zs[0]"),
    "H1": ("f(Z1)", "activations[1]"),
    "Z2": ("H1 W2 + 1 b2", "zs[1]"),
    "H2": ("f(Z2)", "activations[2]"),
    "Z3": ("H2 W3 + 1 b3", "zs[2]"),
    "Ŷ": ("softmax(Z3)", "outputs"),
    "H": ("-Σ Y log Ŷ", "loss"),
    "D3": ("Ŷ - Y", "deltas[2]"),
    "dW3": ("H2ᵀ D3", "weight_grads[2]"),
    "db3": ("1ᵀ D3", "bias_grads[2]"),
    "dH2": ("D3 W3ᵀ", "activation_grads[1]"),
    "D2": ("dH2 ∘ f'(Z2)", "deltas[1]"),
    "dW2": ("H1ᵀ D2", "weight_grads[1]"),
    "db2": ("1ᵀ D2", "bias_grads[1]"),
    "dH1": ("D2 W2ᵀ", "activation_grads[0]"),
    "D1": ("dH1 ∘ f'(Z1)", "deltas[0]"),
    "dW1": ("Xᵀ D1", "weight_grads[0]"),
    "db1": ("1ᵀ D1", "bias_grads[0]"),
    "dX": ("D1 W1ᵀ", "input_grad"),
}


def by_hand() -> dict[str, Any]:
    """The article's equations in plain NumPy: a row a sample, the samples summed."""
    x, y, one = np.array(X), np.array(Y), np.ones((len(X), 1))
    w1, w2, w3 = map(np.array, WEIGHTS)
    b1, b2, b3 = map(np.array, BIASES)
    z1 = x @ w1 + one * b1
    h1 = sigmoid(z1)
    z2 = h1 @ w2 + one * b2
    h2 = sigmoid(z2)
    z3 = h2 @ w3 + one * b3
    p = np.exp(z3) / np.exp(z3).sum(axis=1, keepdims=True)
    d3 = p - y
    g2 = d3 @ w3.T
    d2 = g2 * h2 * (1 - h2)
    g1 = d2 @ w2.T
    d1 = g1 * h1 * (1 - h1)
    return {
        **{"Z1": z1, "H1": h1, "Z2": z2, "H2": h2, "Z3": z3, "Ŷ": p, "H": -np.sum(y * np.log(p))},
        **{"D3": d3, "dW3": h2.T @ d3, "db3": (one.T @ d3)[0], "dH2": g2},
        **{"D2": d2, "dW2": h1.T @ d2, "db2": (one.T @ d2)[0], "dH1": g1},
        **{"D1": d1, "dW1": x.T @ d1, "db1": (one.T @ d1)[0], "dX": d1 @ w1.T},
    }


class FourLayers(Article):
    """The equations agree: of the batch, of its single samples, and as a product of Jacobians."""

    name = "softmax"
    title = "Four layers with softmax: matrix equations, batches, Jacobians"
    summary = "3-4-2-3, cross entropy: matrix equations, batches, Jacobians"
    work = "An Example of Backpropagation in a Four Layer Neural Network Using Cross Entropy Loss"
    x, y, learning_rate = X, Y, 0.1

    def build(self, device: str) -> MLP:
        loss = CrossEntropy(reduction="sum")
        net = MLP([3, 4, 2, 3], loss=loss, dtype="float64", device=device, seed=0)
        net.set_parameters(WEIGHTS, BIASES)
        return net

    def published(self) -> Gradients:
        found = by_hand()
        return [found[f"dW{k}"] for k in (1, 2, 3)], [found[f"db{k}"] for k in (1, 2, 3)]

    @property
    def ok(self) -> bool:
        return self.check.ok and max(equation.difference for equation in self.equations) <= 1e-12

    @cached_property
    def equations(self) -> list[Equation]:
        """Forward, then backward, each beside gpubp's field."""
        return equations(EQUATIONS, by_hand(), self.net.backprop(X, Y))

    @cached_property
    def samples(self) -> list[Trace]:
        """The step of each sample alone."""
        return [trace(self.net, [x], [y], self.learning_rate) for x, y in zip(X, Y, strict=True)]

    @property
    def summed(self) -> float:
        """How far the gradients of the batch are from the sum of its samples'."""
        return max(
            largest(
                np.sum([getattr(sample.layers[layer.index], kind) for sample in self.samples], 0), getattr(layer, kind)
            )
            for layer in self.trace.layers
            for kind in ("weight_grad", "bias_grad")
        )

    @cached_property
    def descent(self) -> list[tuple[str, Any, str, float]]:
        """The first sample's row of gradients, multiplied down the layers by one Jacobian after another.

        Each entry is the factor, the row after it, the article's name of that, and how far the two are apart.
        """
        found, jacobians = by_hand(), self.net.jacobians(X[:1])
        row, steps = -np.array(Y[:1]) / found["Ŷ"][:1], []
        for layer, slope, below in (
            (2, "(diag(ŷ) - ŷᵀ ŷ)", "dH2"),
            (1, "diag(f'(z2))", "dH1"),
            (0, "diag(f'(z1))", "dX"),
        ):
            for factor, name, jacobian in (
                (slope, f"D{layer + 1}", jacobians.activations[layer][0]),
                (f"W{layer + 1}ᵀ", below, jacobians.linear[layer]),
            ):
                row = row @ jacobian
                steps.append((factor, row, name, largest(row, found[name][:1])))
        return steps

    def blocks(self) -> list[Block]:
        chained = max(difference for *_, difference in self.descent)
        return [
            Paragraph(
                "Three inputs, 4 and 2 hidden sigmoids, softmax over three classes, cross entropy summed over a batch "
                "of three; X has a row for each sample, Y is one-hot. The equations are the article's. No figures of "
                "it are known, nor its hidden activation: weights and data are gpubp's choice."
            ),
            Heading("The article's equations in plain NumPy, and gpubp"),
            self._equations(),
            Heading("A batch is the sum of its samples"),
            self._samples(),
            Heading("The same as a product of Jacobians, for sample 0"),
            self._descent(),
            Paragraph(
                "Why ∘, where the chain rule has a product of matrices? f acts on each unit alone, its Jacobian is "
                f"diagonal, and g diag(f'(z)) = g ∘ f'(z): the two differ by {short(chained)} here. Why differentiate "
                "by H1 and H2, which are no parameters? Only to reach the layer below."
            ),
        ]

    def _equations(self) -> Table:
        rows: list[Row] = [[e.text, e.field, vector(e.ours), difference_cell(e.difference)] for e in self.equations]
        return Table.of(["the article", "net.backprop", "its first entries", "off by"], rows)

    def _samples(self) -> Table:
        """The cost and some gradients: of each sample, their sum, and of the batch."""
        rows: list[Row] = [self._sum("cost H", [sample.before.loss for sample in self.samples], self.trace.before.loss)]
        for name in ("w1", "w13", "w21", "b7"):
            chain = self.trace.weight(name)
            gradients = [sample.weight(name).gradient for sample in self.samples]
            rows.append(self._sum(f"∂H/∂{name}, {chain.parameter.path}", gradients, chain.gradient))
        columns = [f"sample {k}" for k in range(len(X))]
        return Table.of(["", *columns, "their sum", "the batch"], rows)

    def _sum(self, name: str, parts: list[float], whole: float) -> Row:
        return [name, *parts, Cell(sum(parts), "strong"), judged(whole, sum(parts))]

    def _descent(self) -> Table:
        rows: list[Row] = [
            [f"· {factor}", vector(row), f"sample 0 of {name}", difference_cell(difference)]
            for factor, row, name, difference in self.descent
        ]
        start = -np.array(Y[:1]) / by_hand()["Ŷ"][:1]
        rows.insert(0, ["-y / ŷ", vector(start), None, None])
        return Table.of(["factor", "the row of gradients", "the article", "off by"], rows)

    @property
    def verdict(self) -> Verdict:
        worst = max(equation.difference for equation in self.equations)
        return Verdict(
            self.ok,
            f"The article's equations {self.checked}. All {len(self.equations)} agree with gpubp to {short(worst)}, "
            f"the batch with the sum of its samples to {short(self.summed)}.",
        )

    def facts(self) -> dict[str, Any]:
        return {
            **super().facts(),
            "equations": {
                e.text: {"value": e.value, "field": e.field, "difference": e.difference} for e in self.equations
            },
            "batch_minus_samples": self.summed,
            "jacobians": [
                {"factor": factor, "row": row, "article": name, "difference": difference}
                for factor, row, name, difference in self.descent
            ],
        }
