"""Names of single parameters and units: w5 and b2 as papers number them, W[1][0,1] and b[0][1] as gpubp's arrays do.

Weights are numbered from w1, row by row through W[0], then W[1], and so on; biases from b1, unit by unit; hidden units
from h1, layer by layer, inputs from x1 and outputs from o1. Masked weights keep their numbers.
"""

import re
from dataclasses import dataclass

from gpubp.errors import DataError
from gpubp.mlp import MLP

NUMBERED = re.compile(r"([wb])([1-9][0-9]{0,17})")
INDEXED = re.compile(
    r"(W|weights)\[(\d{1,18})\]\[(\d{1,18})(?:,|\]\[)(\d{1,18})\]"  # W[1][0,1], also W[1][0][1]
    r"|(b|biases)\[(\d{1,18})\]\[(\d{1,18})\]"
)


@dataclass(frozen=True)
class Parameter:
    """One weight, from unit i of the layer below to unit j, or the bias of unit j, where i is None."""

    kind: str  # "w" or "b"
    layer: int
    i: int | None
    j: int
    name: str  # "w5"

    @property
    def index(self) -> tuple[int, ...]:
        """Where it stands in its layer's array."""
        return (self.j,) if self.i is None else (self.i, self.j)

    @property
    def path(self) -> str:
        """Its name as arrays are indexed: W[1][0,1] or b[1][0]."""
        return f"{'b' if self.i is None else 'W'}[{self.layer}][{','.join(map(str, self.index))}]"


class Names:
    """The names of a network's parameters and units, mapped both ways."""

    def __init__(self, net: MLP) -> None:
        self.sizes = net.sizes
        self._shapes = {
            "w": [view.shape for view in net.weights],
            "b": [(0,) if view is None else view.shape for view in net.biases],
        }

    def find(self, name: str) -> Parameter:
        """The parameter called w5 or b2, or W[1][0,1] or b[0][1] (also weights[1][0, 1], biases[0][1]).

        Raises DataError for a name that no parameter has.
        """
        text = "".join(name.split()) if isinstance(name, str) else ""
        if match := NUMBERED.fullmatch(text):
            return self._numbered(match[1], int(match[2]))
        if match := INDEXED.fullmatch(text):
            kind, numbers = ("w", match.group(2, 3, 4)) if match[1] else ("b", match.group(6, 7))
            layer, *index = map(int, numbers)
            return self.at(kind, layer, *index)
        raise DataError(f"{name!r} is not the name of a parameter: w1, b1, W[0][0,0] and b[0][0] are such names")

    def at(self, kind: str, layer: int, *index: int) -> Parameter:
        """The weight ("w") or bias ("b") at this index of its layer's array."""
        shapes = self._shapes[kind]
        if layer >= len(shapes) or any(k >= size for k, size in zip(index, shapes[layer], strict=True)):
            path = f"{'W' if kind == 'w' else 'b'}[{layer}][{','.join(map(str, index))}]"
            raise DataError(f"there is no parameter {path}; {self._present(kind)}")
        columns = shapes[layer][-1]
        place = index[0] * columns + index[1] if kind == "w" else index[0]
        number = sum(_size(shape) for shape in shapes[:layer]) + place + 1
        return Parameter(kind, layer, index[0] if kind == "w" else None, index[-1], f"{kind}{number}")

    def _numbered(self, kind: str, number: int) -> Parameter:
        place = number - 1
        for layer, shape in enumerate(self._shapes[kind]):
            if place < _size(shape):
                i, j = divmod(place, shape[-1])
                return Parameter(kind, layer, i if kind == "w" else None, j, f"{kind}{number}")
            place -= _size(shape)
        raise DataError(f"there is no parameter {kind}{number}; {self._present(kind)}")

    def _present(self, kind: str) -> str:
        count = sum(map(_size, self._shapes[kind]))
        known = [f"{'W' if kind == 'w' else 'b'}[{layer}] {shape}" for layer, shape in enumerate(self._shapes[kind])]
        return f"there are {kind}1 to {kind}{count}: {', '.join(known)}" if count else "this network has no biases"

    def unit(self, layer: int, j: int) -> str:
        """A unit's label; layer 0 holds the inputs, and layer l + 1 what W[l] leads to."""
        if layer == 0:
            return f"x{j + 1}"
        if layer == len(self.sizes) - 1:
            return f"o{j + 1}"
        return f"h{sum(self.sizes[1:layer]) + j + 1}"


def _size(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) == 1 else shape[0] * shape[1]
