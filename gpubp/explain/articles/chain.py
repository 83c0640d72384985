"""A chain of four units in UFLDL's notation: the gradient of the first weight as one long product."""

from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from gpubp.explain.articles.article import Row, judged, sigmoid
from gpubp.explain.articles.ufldl import InColumns
from gpubp.explain.document import Block, Cell, Formula, Heading, Paragraph, Table
from gpubp.explain.trace import Trace, trace

X, Y = [[0.7]], [[0.9]]
WEIGHTS, BIASES = [[[0.8]], [[-1.2]], [[0.5]]], [[0.1], [-0.2], [0.3]]


class ChainOfUnits(InColumns):
    """Every quantity is one number, and dJ/dW⁽¹⁾ the product of all derivatives along the chain."""

    name = "chain"
    title = "A chain of four units: the gradient as one product"
    summary = "1-1-1-1 in column notation: the gradient as one product"
    x, y, weights, biases = X, Y, WEIGHTS, BIASES

    @cached_property
    def inputs(self) -> dict[str, Trace]:
        """The step for either kind of input unit: gpubp takes f⁽¹⁾(x) for x."""
        squashed = [[float(sigmoid(X[0][0]))]]
        return {
            "f⁽¹⁾(x) = x": self.trace,
            "f⁽¹⁾ a sigmoid": trace(self.net, squashed, Y, self.learning_rate),
        }

    def product(self, a1: float) -> dict[str, float]:
        """The factors of dJ/db⁽¹⁾, from the output down to the first weight, in plain Python."""
        [[[w1]], [[w2]], [[w3]]], [[b1], [b2], [b3]] = WEIGHTS, BIASES
        a2 = sigmoid(w1 * a1 + b1)
        a3 = sigmoid(w2 * a2 + b2)
        h = sigmoid(w3 * a3 + b3)
        return {
            "-(y - h)": -(Y[0][0] - h),
            "f'(z⁽⁴⁾)": h * (1 - h),
            "W⁽³⁾": w3,
            "f'(z⁽³⁾)": a3 * (1 - a3),
            "W⁽²⁾": w2,
            "f'(z⁽²⁾)": a2 * (1 - a2),
        }

    @property
    def ok(self) -> bool:
        return super().ok and all(gap <= 1e-12 for gap in self.gaps.values())

    @property
    def gaps(self) -> dict[str, float]:
        """How far the products are from gpubp's gradients."""
        found = {}
        for kind, step in self.inputs.items():
            a1, first = float(step.x[0, 0]), step.layers[0]
            slope = prod(self.product(a1).values())
            found[kind] = max(abs(slope - first.bias_grad[0]), abs(slope * a1 - first.weight_grad[0, 0]))
        return found

    def blocks(self) -> list[Block]:
        return [
            Paragraph(
                "Four units in a row, sigmoids above the input; x = 0.7, y = 0.9, J = ½ ‖y - h‖², learning rate "
                f"{self.learning_rate:g}. The notation is UFLDL's, which counts layers from 1. The equations are the "
                "article's; no figures of it are known: weights and data are gpubp's choice."
            ),
            Heading("The article's equations in plain NumPy, and gpubp"),
            self._equations(),
            Heading("The same as one product: every derivative from the output down to the first weight"),
            Formula("dJ/db⁽¹⁾ = -(y - h) · f'(z⁽⁴⁾) · W⁽³⁾ · f'(z⁽³⁾) · W⁽²⁾ · f'(z⁽²⁾)"),
            Formula("dJ/dW⁽¹⁾ = dJ/db⁽¹⁾ · f⁽¹⁾(x)"),
            self._products(),
        ]

    def _equations(self) -> Table:
        rows: list[Row] = [
            [e.text, _only(e.value), e.field, judged(_only(e.ours), _only(e.value))] for e in self.equations.values()
        ]
        return Table.of(["the article", "value", "net.backprop", "value"], rows)

    def _products(self) -> Table:
        """The factors for either kind of input unit, and their products beside gpubp's gradients."""
        firsts = [step.layers[0] for step in self.inputs.values()]
        activations = [float(step.x[0, 0]) for step in self.inputs.values()]
        factors = [self.product(a1) for a1 in activations]
        biases = [prod(each.values()) for each in factors]
        rows: list[Row] = [
            ["· " * (k > 0) + name, *(each[name] for each in factors)] for k, name in enumerate(factors[0])
        ]
        rows.append([Cell("= dJ/db⁽¹⁾", "strong"), *(Cell(slope, "strong") for slope in biases)])
        rows.append(
            [Cell("gpubp's bias_grads[0]", "faint"), *_judged([first.bias_grad[0] for first in firsts], biases)]
        )
        rows.append(["· f⁽¹⁾(x)", *activations])
        weights = [slope * a1 for slope, a1 in zip(biases, activations, strict=True)]
        rows.append([Cell("= dJ/dW⁽¹⁾", "strong"), *(Cell(slope, "strong") for slope in weights)])
        rows.append(
            [Cell("gpubp's weight_grads[0]", "faint"), *_judged([first.weight_grad[0, 0] for first in firsts], weights)]
        )
        return Table.of(["factor", *self.inputs], rows)

    def facts(self) -> dict[str, Any]:
        products = {kind: self.product(float(step.x[0, 0])) for kind, step in self.inputs.items()}
        return {**super().facts(), "products": products, "product_differences": self.gaps}


def _only(value: Any) -> float:
    """The one entry of an array."""
    return float(np.asarray(value).item())


def _judged(given: list[Any], right: list[float]) -> list[Cell]:
    return [judged(float(value), expected) for value, expected in zip(given, right, strict=True)]
