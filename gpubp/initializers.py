"""Initializers: how a layer's weights are drawn.

NumPy draws them in float64, whatever the device, so that the device cannot matter.
"""

from math import sqrt
from typing import Any

import numpy as np

from gpubp.checks import number
from gpubp.registry import Component


# The annotations of generators are quoted because naming np.random loads it, which takes 20 ms of every import.
class Initializer(Component):
    """Draws a weight matrix of shape (inputs, outputs); biases start at 0."""

    def draw(self, generator: "np.random.Generator", inputs: int, outputs: int) -> Any:
        raise NotImplementedError


class Uniform(Initializer):
    """W ~ U(−scale, scale)."""

    def __init__(self, scale: float = 0.5) -> None:
        self.scale = number("scale", scale, above=0)

    def draw(self, generator: "np.random.Generator", inputs: int, outputs: int) -> Any:
        return generator.uniform(-self.scale, self.scale, (inputs, outputs))


class Normal(Initializer):
    """W ~ N(0, scale²)."""

    def __init__(self, scale: float = 0.01) -> None:
        self.scale = number("scale", scale, above=0)

    def draw(self, generator: "np.random.Generator", inputs: int, outputs: int) -> Any:
        return generator.normal(0, self.scale, (inputs, outputs))


class XavierUniform(Initializer):
    """Variance 2 / (inputs + outputs), uniform; Glorot and Bengio 2010."""

    def draw(self, generator: "np.random.Generator", inputs: int, outputs: int) -> Any:
        return Uniform(sqrt(6 / (inputs + outputs))).draw(generator, inputs, outputs)


class XavierNormal(Initializer):
    """Variance 2 / (inputs + outputs), normal; Glorot and Bengio 2010."""

    def draw(self, generator: "np.random.Generator", inputs: int, outputs: int) -> Any:
        return Normal(sqrt(2 / (inputs + outputs))).draw(generator, inputs, outputs)


class HeUniform(Initializer):
    """Variance 2 / inputs, uniform; He et al. 2015."""

    def draw(self, generator: "np.random.Generator", inputs: int, outputs: int) -> Any:
        return Uniform(sqrt(6 / inputs)).draw(generator, inputs, outputs)


class HeNormal(Initializer):
    """Variance 2 / inputs, normal; He et al. 2015."""

    def draw(self, generator: "np.random.Generator", inputs: int, outputs: int) -> Any:
        return Normal(sqrt(2 / inputs)).draw(generator, inputs, outputs)


class LecunUniform(Initializer):
    """Variance 1 / inputs, uniform; LeCun et al. 1998."""

    def draw(self, generator: "np.random.Generator", inputs: int, outputs: int) -> Any:
        return Uniform(sqrt(3 / inputs)).draw(generator, inputs, outputs)


class LecunNormal(Initializer):
    """Variance 1 / inputs, normal; LeCun et al. 1998."""

    def draw(self, generator: "np.random.Generator", inputs: int, outputs: int) -> Any:
        return Normal(sqrt(1 / inputs)).draw(generator, inputs, outputs)


class Zeros(Initializer):
    """W = 0: every unit of a layer then learns the same, which is what a textbook shows it for."""

    def draw(self, generator: "np.random.Generator", inputs: int, outputs: int) -> Any:
        return np.zeros((inputs, outputs))
