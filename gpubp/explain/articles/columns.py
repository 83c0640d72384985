"""A 3-2-2 network in column vectors, as UFLDL writes it, beside gpubp's rows: what is transposed, which is which."""

import numpy as np

from gpubp.explain.articles.article import Row, judged
from gpubp.explain.articles.equations import difference_cell, shape
from gpubp.explain.articles.ufldl import InColumns, sup
from gpubp.explain.document import Block, Cell, Heading, Paragraph, Table

X, Y = [[1.0, -0.5, 2.0]], [[0.2, 0.8]]
WEIGHTS, BIASES = [[[0.1, 0.4, -0.3], [0.6, -0.2, 0.5]], [[0.7, -0.5], [0.2, 0.9]]], [[0.05, -0.15], [0.2, -0.1]]
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


class Columns(InColumns):
    """The article's W⁽¹⁾₂₃ leads to unit 2 from input 3, and is gpubp's W[0][2,1]."""

    name = "columns"
    title = "Columns and rows: the article's W⁽¹⁾ is gpubp's W[0], transposed"
    summary = "3-2-2 in column notation, beside gpubp's rows"
    x, y, weights, biases = X, Y, WEIGHTS, BIASES

    def blocks(self) -> list[Block]:
        return [
            Paragraph(
                "Inputs x = (1, -0.5, 2)ᵀ, then two and two sigmoids, y = (0.2, 0.8)ᵀ; J = ½ ‖y - h‖², learning rate "
                f"{self.learning_rate:g}. The article, like UFLDL, has columns and z = W a + b, gpubp has rows, one "
                "a sample, and z = x W + b. No figures of it are known: weights and data are gpubp's choice."
            ),
            Heading("The article's equations in plain NumPy, and gpubp"),
            self._equations(),
            Heading("Every parameter by both names, and its step"),
            self._step(),
        ]

    def _equations(self) -> Table:
        rows: list[Row] = [
            [e.text, shape(e.value), e.field, shape(e.ours), difference_cell(e.difference)]
            for e in self.equations.values()
        ]
        return Table.of(["the article", "shape", "net.backprop", "shape", "off by"], rows)

    def _step(self) -> Table:
        """The article counts from 1, and writes the unit above first."""
        rows: list[Row] = []
        value = {name: equation.value for name, equation in self.equations.items()}
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            for j, i in np.ndindex(np.shape(weight)):
                named = self.trace.names.at("w", layer, i, j)
                rows.append(self._row(f"W{sup(layer + 1)}{_sub(j, i)}", named.name, value[f"∇W{sup(layer + 1)}"][j, i]))
            for j in range(len(bias)):
                named = self.trace.names.at("b", layer, j)
                rows.append(self._row(f"b{sup(layer + 1)}{_sub(j)}", named.name, value[f"∇b{sup(layer + 1)}"][j, 0]))
        columns = ["article", "gpubp", "", "before", "∇, article", "∂C/∂w", "after"]
        return Table.of(columns, rows)

    def _row(self, theirs: str, ours: str, gradient: float) -> Row:
        chain = self.trace.weight(ours)
        row: Row = [Cell(theirs, "strong"), Cell(ours, "strong"), Cell(chain.parameter.path, "faint"), chain.before]
        return [*row, float(gradient), judged(chain.gradient, gradient), chain.after]


def _sub(*index: int) -> str:
    """Indices that count from 1: ₂₃."""
    return "".join(str(place + 1) for place in index).translate(SUBSCRIPTS)
