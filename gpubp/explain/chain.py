"""The chain rule for one parameter: the factors of its gradient, and all paths along which the error reaches it."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from math import fsum, prod
from os import PathLike
from typing import TYPE_CHECKING, Any

from gpubp.errors import DataError
from gpubp.explain.document import Document
from gpubp.explain.names import Parameter
from gpubp.explain.showing import Showing
from gpubp.explain.story import ROUNDING, chain_story

if TYPE_CHECKING:
    from gpubp.explain.trace import Trace

MOST_PATHS = 100_000  # that are listed: 0.5 s of Python


@dataclass(frozen=True)
class Factor:
    """One derivative of the chain: ∂C/∂o1, σ'(z) of a unit, a weight on the way, or the activation below."""

    symbol: str
    value: float


@dataclass(frozen=True)
class Term:
    """A product of factors: what one sample gives to the gradient, along one path where it is one."""

    sample: int
    units: tuple[str, ...]  # those that the error passes, from the output down
    factors: tuple[Factor, ...]

    @property
    def product(self) -> float:
        return prod(factor.value for factor in self.factors)


@dataclass(frozen=True, repr=False)
class Chain(Showing):
    """∂C/∂w = Σ over samples ∂C/∂y_j · f'(z_j) · x_i for the weight from unit i to unit j; for a bias x_i is 1.

    `terms` are these products, one a sample, and `factors` are those of the only sample. `paths` writes ∂C/∂y_j out as
    the sum over all paths from the outputs down to unit j: ∂C/∂o · f'(z_o) · w · f'(z) · … · w · f'(z_j) · x_i. Where
    loss and activation are one formula, such as y − t, it stands for their two factors. `total` is the sum over all
    paths, `error` how far it is from the gradient of the backward pass, and `agrees` whether that is rounding.
    """

    trace: "Trace"
    parameter: Parameter

    def __repr__(self) -> str:
        return f"Chain({self.parameter.name}, gradient {self.gradient:.6g}, {self.path_count:,} paths)"

    @property
    def gradient(self) -> float:
        """∂C/∂w as the backward pass found it."""
        return self._entry("grad")

    @property
    def before(self) -> float:
        return self._entry("")

    @property
    def after(self) -> float:
        """w − η ∂C/∂w."""
        return self._entry("after")

    def _entry(self, suffix: str) -> float:
        kind = "bias" if self.parameter.i is None else "weight"
        array = getattr(self.trace.layers[self.parameter.layer], f"{kind}_{suffix}" if suffix else kind)
        return float(array[self.parameter.index])

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """∂C/∂y_j · f'(z_j) · x_i of each sample."""
        layer, j = self.parameter.layer, self.parameter.j
        unit = self._unit(layer, j)
        return tuple(
            Term(sample, (unit,), (*self._at_output_or_below(layer, j, sample), self._input(sample)))
            for sample in range(len(self.trace.x))
        )

    @property
    def factors(self) -> tuple[Factor, ...]:
        """Those whose product is the gradient, of the only sample; DataError where there are several."""
        if len(self.terms) != 1:
            raise DataError(
                f"the batch has {len(self.terms)} samples, so the gradient is a sum: see terms, one a sample"
            )
        return self.terms[0].factors

    @property
    def path_count(self) -> int:
        """Over all samples; connections that a mask leaves out are on no path."""
        layer, j = self.parameter.layer, self.parameter.j
        reached = {j: 1}
        for above in self.trace.layers[layer + 1 :]:
            counts: dict[int, int] = {}
            if above.mask is None:
                total = sum(reached.values())
                counts = dict.fromkeys(range(above.weight.shape[1]), total)
            else:
                for unit, count in reached.items():
                    for k in above.mask[unit].nonzero()[0]:
                        counts[int(k)] = counts.get(int(k), 0) + count
            reached = counts
        return len(self.trace.x) * sum(reached.values())

    @cached_property
    def paths(self) -> tuple[Term, ...]:
        """One term a path and sample. DataError where these are too many to list, or no products of plain factors."""
        if self.path_count > MOST_PATHS:
            raise DataError(
                f"{self.path_count:,} paths lead to {self.parameter.name}, and at most {MOST_PATHS:,} are listed; "
                "take fewer samples or a parameter nearer to the output, or look at terms"
            )
        for layer in self.trace.layers[self.parameter.layer : -1]:
            if layer.slope is None:
                raise DataError(
                    f"in layer {layer.index} every output depends on every z ({layer.activation}), so that paths are "
                    "no products of plain factors; look at terms, or at MLP.jacobians"
                )
        return tuple(
            Term(sample, units, (*factors, self._input(sample)))
            for sample in range(len(self.trace.x))
            for units, factors in self._down_to(self.parameter.layer, self.parameter.j, sample)
        )

    def _down_to(self, layer: int, j: int, sample: int) -> Iterator[tuple[tuple[str, ...], tuple[Factor, ...]]]:
        """Every path from an output to z of unit j: its units and its factors."""
        unit = self._unit(layer, j)
        if layer == len(self.trace.layers) - 1:
            yield (unit,), self._at_output_or_below(layer, j, sample)
            return
        slope = self._slope(layer, j, sample)
        above = self.trace.layers[layer + 1]
        for k in range(above.weight.shape[1]):
            if above.mask is None or above.mask[j, k]:
                weight = Factor(self.trace.names.at("w", layer + 1, j, k).name, float(above.weight[j, k]))
                for units, factors in self._down_to(layer + 1, k, sample):
                    yield (*units, unit), (*factors, weight, slope)

    def _at_output_or_below(self, layer: int, j: int, sample: int) -> tuple[Factor, ...]:
        """∂C/∂y_j and f'(z_j), or ∂C/∂z_j where the two are one formula."""
        traced, unit = self.trace.layers[layer], self._unit(layer, j)
        if traced.fused or traced.slope is None:
            return (Factor(f"∂C/∂z_{unit}", float(traced.delta[sample, j])),)
        gradient = Factor(f"∂C/∂{unit}", float(traced.activation_grad[sample, j]))
        return gradient, self._slope(layer, j, sample)

    def _slope(self, layer: int, j: int, sample: int) -> Factor:
        return Factor(f"f'(z_{self._unit(layer, j)})", float(self.trace.layers[layer].slope[sample, j]))

    def _input(self, sample: int) -> Factor:
        layer, i = self.parameter.layer, self.parameter.i
        if i is None:
            return Factor("1", 1.0)
        return Factor(self.trace.names.unit(layer, i), float(self.trace.layers[layer].x[sample, i]))

    def _unit(self, layer: int, j: int) -> str:
        return self.trace.names.unit(layer + 1, j)

    @property
    def total(self) -> float:
        """The sum over all paths; over samples alone where paths cannot be listed."""
        return fsum(term.product for term in self.summed)

    @property
    def error(self) -> float:
        """|total − gradient|."""
        return abs(self.total - self.gradient)

    @property
    def agrees(self) -> bool:
        """Whether total and gradient differ by no more than the rounding of the backward pass."""
        size = fsum(abs(term.product) for term in self.summed)
        return self.error <= 64 * ROUNDING[self.trace.dtype] * size

    @property
    def listed(self) -> bool:
        """Whether the paths are few enough, and plain enough, to be listed."""
        plain = all(layer.slope is not None for layer in self.trace.layers[self.parameter.layer : -1])
        return plain and self.path_count <= MOST_PATHS

    @property
    def summed(self) -> tuple[Term, ...]:
        """The terms of `total`: the paths, or where they cannot be listed the samples."""
        return self.paths if self.listed else self.terms

    def document(self) -> Document:
        return chain_story(self)

    def picture(self, path: str | PathLike[str]) -> None:
        """The network, with the paths that lead to this parameter; a .png or .svg file."""
        self.trace.picture(path, self.parameter.name)

    def facts(self) -> dict[str, Any]:
        """All of it as plain lists and numbers."""
        parameter = {field.name: getattr(self.parameter, field.name) for field in fields(self.parameter)}
        return {
            "parameter": {**parameter, "path": self.parameter.path},
            **{name: getattr(self, name) for name in ("before", "after", "gradient", "total", "error", "agrees")},
            "path_count": self.path_count,
            "terms": [_term(term) for term in self.terms],
            "paths": [_term(term) for term in self.paths] if self.listed else None,
        }


def _term(term: Term) -> dict[str, Any]:
    factors = [{"symbol": factor.symbol, "value": factor.value} for factor in term.factors]
    return {"sample": term.sample, "units": list(term.units), "factors": factors, "product": term.product}


def chain(trace: "Trace", parameter: Parameter) -> Chain:
    """The chain rule for this parameter; DataError where a mask leaves its connection out."""
    mask = trace.layers[parameter.layer].mask
    if parameter.i is not None and mask is not None and not mask[parameter.index]:
        raise DataError(f"{parameter.name} ({parameter.path}) is masked: there is no such connection, and no gradient")
    return Chain(trace, parameter)
