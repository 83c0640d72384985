"""Backpropagation as UFLDL writes it: column vectors, W⁽ˡ⁾ leading from layer l to layer l + 1, J = ½ ‖y - h‖²."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from gpubp.explain.articles.article import Article, Gradients, short, sigmoid
from gpubp.explain.articles.equations import Equation, field_of
from gpubp.explain.document import Verdict
from gpubp.losses import SquaredError
from gpubp.mlp import MLP

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def sup(layer: int) -> str:
    """The index of a layer: ⁽²⁾."""
    return f"⁽{layer}⁾".translate(SUPERSCRIPTS)


class InColumns(Article):
    """A network of sigmoids in column vectors: the article's W⁽¹⁾ is gpubp's W[0] transposed, and so on.

    The weights are chosen by gpubp, as no figures of the article are known.
    """

    author, work = "Yuhang He", "A step by step guide to understand backpropagation"
    learning_rate = 0.5
    weights: ClassVar[list[Any]]  # W⁽¹⁾, W⁽²⁾, ... as the article writes them: (units above, units below)
    biases: ClassVar[list[Any]]

    def build(self, device: str) -> MLP:
        sizes = [len(self.x[0]), *map(len, self.weights)]
        loss = SquaredError(half=True, reduction="sum")
        net = MLP(sizes, output="sigmoid", loss=loss, dtype="float64", device=device, seed=0)
        net.set_parameters([np.transpose(weight) for weight in self.weights], self.biases)
        return net

    @cached_property
    def equations(self) -> dict[str, Equation]:
        """By their left sides, each beside gpubp's field."""
        found = self.net.backprop(self.x, self.y)
        return {
            name: Equation(f"{name} = {text}", value, field, field_of(found, field), transposed=True)
            for name, text, value, field in self.by_hand()
        }

    def by_hand(self) -> Iterator[tuple[str, str, Any, str]]:
        """The article's equations in plain NumPy: left side, right side, value, gpubp's field."""
        weights = [np.array(weight) for weight in self.weights]
        biases = [np.array(bias)[:, None] for bias in self.biases]
        y, activations, last = np.transpose(self.y), [np.transpose(self.x)], len(weights) + 1
        yield f"a{sup(1)}", "x", activations[0], "activations[0]"
        for n, (weight, bias) in enumerate(zip(weights, biases, strict=True), start=1):
            z = weight @ activations[-1] + bias
            yield f"z{sup(n + 1)}", f"W{sup(n)} a{sup(n)} + b{sup(n)}", z, f"zs[{n - 1}]"
            activations.append(sigmoid(z))
            yield f"a{sup(n + 1)}", f"f(z{sup(n + 1)})", activations[-1], f"activations[{n}]"
        h = activations[-1]
        yield "J", f"½ ‖y - a{sup(last)}‖²", np.sum((y - h) ** 2) / 2, "loss"
        delta = -(y - h) * h * (1 - h)
        yield f"δ{sup(last)}", f"-(y - a{sup(last)}) ∘ f'(z{sup(last)})", delta, f"deltas[{last - 2}]"
        for n in range(last - 1, 0, -1):
            a = activations[n - 1]
            yield f"∇W{sup(n)}", f"δ{sup(n + 1)} a{sup(n)}ᵀ", delta @ a.T, f"weight_grads[{n - 1}]"
            yield f"∇b{sup(n)}", f"δ{sup(n + 1)}", delta, f"bias_grads[{n - 1}]"
            if n > 1:
                delta = (weights[n - 1].T @ delta) * a * (1 - a)
                yield f"δ{sup(n)}", f"(W{sup(n)}ᵀ δ{sup(n + 1)}) ∘ f'(z{sup(n)})", delta, f"deltas[{n - 2}]"

    def published(self) -> Gradients:
        layers = range(1, len(self.weights) + 1)
        value = {name: equation.value for name, equation in self.equations.items()}
        return [value[f"∇W{sup(n)}"].T for n in layers], [value[f"∇b{sup(n)}"][:, 0] for n in layers]

    @property
    def worst(self) -> float:
        """The largest difference between an equation and gpubp."""
        return max(equation.difference for equation in self.equations.values())

    @property
    def ok(self) -> bool:
        return self.check.ok and self.worst <= 1e-12

    @property
    def verdict(self) -> Verdict:
        agree = f"All {len(self.equations)} agree with gpubp to {short(self.worst)}."
        return Verdict(self.ok, f"The article's equations {self.checked}. {agree}")

    def facts(self) -> dict[str, Any]:
        equations = {
            e.text: {"value": e.value, "field": e.field, "difference": e.difference} for e in self.equations.values()
        }
        return {**super().facts(), "equations": equations}
