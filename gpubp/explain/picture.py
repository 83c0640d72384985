"""The picture of a network: its units, its connections by weight, the paths along which an error travels down."""

from collections.abc import Iterator
from functools import cached_property
from itertools import product
from math import atan2, degrees, isfinite
from numbers import Integral
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

from gpubp.errors import DataError
from gpubp.explain.figures import new_figure, save
from gpubp.explain.places import Line, Unit, drawn_units, free_places, placed, shortened
from gpubp.explain.render.tex import mathematics

if TYPE_CHECKING:
    from gpubp.explain.chain import Chain, Term
    from gpubp.explain.trace import Trace

RADIUS = 0.27  # of a unit; inches, as all lengths
MOST_LAYERS = 60
APART = 2.4  # one layer from the next
CLOSE, ROOMY = 0.66, 1.1  # one unit from the next
FEW = 5  # units of a layer that have room around them
MOST_LABELS = 16  # of the connections between two layers
MOST_PATHS = 4  # that are written below
SIDE, ABOVE, BELOW = 0.6, 0.65, 1.1  # around the units
HEAD, LINE, BAR = 0.45, 0.25, 0.85  # the title's height, that of a line, the width of the bar of colours
COLOURS = ("#B8440A", "#D4D4D4", "#0A5FA5")  # of weights: the least, 0, the greatest
INK, FAINT = "#222222", "#777777"
UPON = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none"}  # under a label on a line


def network_picture(trace: "Trace", path: str | PathLike[str], weight: str | None = None, sample: int = 0) -> None:
    """Draw the network of a trace before its step into a .png or .svg file, with the activations of one sample.

    Connections are coloured by weight and as wide as it is large; those that a mask leaves out are not there. Of layers
    wider than 16 the first and the last units are drawn. For a `weight` or a bias, by its name, these are the paths
    along which the error of this sample travels from the cost down to it, with their factors.

    Raises DataError for another suffix, for a sample or parameter that is not there, and GpubpError where matplotlib is
    not installed or the file cannot be written.
    """
    save(draw(trace, weight, sample), path)


def draw(trace: "Trace", weight: str | None = None, sample: int = 0) -> Any:
    """The figure of it."""
    if not isinstance(sample, Integral) or isinstance(sample, bool) or not 0 <= sample < len(trace.x):
        raise DataError(f"sample must be one of the batch, from 0 to {len(trace.x) - 1}, got {sample!r}")
    if len(trace.layers) > MOST_LAYERS:
        raise DataError(f"a picture has room for {MOST_LAYERS} layers, this network has {len(trace.layers)}")
    return _Picture(trace, None if weight is None else trace.weight(weight), int(sample)).drawn()


class _Connection(NamedTuple):
    below: Unit
    above: Unit
    name: str
    weight: float


class _Picture:
    """One figure: where its parts are, and how each is drawn."""

    def __init__(self, trace: "Trace", chain: "Chain | None", sample: int) -> None:
        self.trace, self.chain, self.sample = trace, chain, sample
        self.asked = set() if chain is None else _ends(chain)
        columns = [
            drawn_units(size, [unit for layer, unit in self.asked if layer == k]) for k, size in enumerate(trace.sizes)
        ]
        self.tallest = max(map(len, columns))
        self.roomy = self.tallest <= FEW
        self.apart = ROOMY if self.roomy else CLOSE
        self.units, self.left_out = placed(columns, (APART, self.apart))
        self.cost = (len(trace.layers) * APART + 0.9 * APART, 0.0)

    # -- what there is to draw -----------------------------------------------------------------------------------------

    @cached_property
    def connections(self) -> list[list[_Connection]]:
        """Of each layer, between drawn units, without masked ones."""
        return [list(self._between(layer)) for layer in range(len(self.trace.layers))]

    def _between(self, layer: int) -> Iterator[_Connection]:
        traced = self.trace.layers[layer]
        below, above = ([unit for unit in self.units if unit[0] == each] for each in (layer, layer + 1))
        for (_, i), (_, j) in product(below, above):
            if traced.mask is None or traced.mask[i, j]:
                name = self.trace.names.at("w", layer, i, j).name
                yield _Connection((layer, i), (layer + 1, j), name, float(traced.weight[i, j]))

    @cached_property
    def passed(self) -> set[Unit]:
        """The units that the error passes, from the outputs down to the one whose weight is asked for."""
        if self.chain is None:
            return set()
        passed = {(self.chain.parameter.layer + 1, self.chain.parameter.j)}
        for connections in self.connections[self.chain.parameter.layer + 1 :]:
            passed |= {connection.above for connection in connections if connection.below in passed}
        return passed

    def is_asked(self, connection: _Connection) -> bool:
        return {connection.below, connection.above} == self.asked

    def on_path(self, connection: _Connection) -> bool:
        return {connection.below, connection.above} <= self.passed or self.is_asked(connection)

    # -- drawing -------------------------------------------------------------------------------------------------------

    def drawn(self) -> Any:
        """The figure, in which an inch of a column is an inch."""
        title, lines = self._title(), self._told()
        half = (self.tallest - 1) / 2 * self.apart
        right = self.cost[0] + 0.5 if self.chain else len(self.trace.layers) * APART + SIDE
        height = BELOW + 2 * half + ABOVE
        foot = 0.1 + LINE * len(lines)
        figure = new_figure(SIDE + right + BAR, foot + height + HEAD)
        figure.set_layout_engine("none")
        wide, high = figure.get_size_inches()
        self.axes = figure.add_axes((0, foot / high, (SIDE + right) / wide, height / high))
        self.axes.set(xlim=(-SIDE, right), ylim=(-half - BELOW, half + ABOVE))
        self.axes.axis("off")
        middle = foot + BELOW + half
        self._scale(figure.add_axes(((SIDE + right) / wide, (middle - 0.6) / high, 0.1 / wide, 1.2 / high)))
        for layer in range(len(self.trace.layers)):
            self._connect(layer)
        if self.chain:
            self._errors()
        for unit in self.units:
            self._unit(unit)
        for x, y in self.left_out:
            self.axes.text(x, y, "⋮", ha="center", va="center", fontsize=13, color=FAINT)
        for layer in range(len(self.trace.sizes)):
            self._caption(layer, -half - BELOW + 0.5)
        for number, (line, size, colour) in enumerate(zip(title, (11, 8.5), (INK, FAINT), strict=True)):
            figure.text(0.15 / wide, 1 - (0.14 + LINE * number) / high, line, va="top", fontsize=size, color=colour)
        for number, line in enumerate(reversed(lines)):
            figure.text(0.15 / wide, (0.14 + LINE * number) / high, _math(line), fontsize=8.5, color=INK)
        return figure

    def _scale(self, bar: Any) -> None:
        """The colours of weights, and the bar that tells them."""
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import LinearSegmentedColormap, Normalize

        biases = [float(self.trace.layers[layer - 1].bias[j]) for layer, j in self.units if self._has_bias(layer)]
        weights = [connection.weight for layer in self.connections for connection in layer]
        self.largest = max((abs(value) for value in weights + biases if isfinite(value)), default=0.0) or 1.0
        ground = LinearSegmentedColormap.from_list("weights", COLOURS)
        self.colours: Any = ScalarMappable(Normalize(-self.largest, self.largest), ground)
        drawn = bar.figure.colorbar(self.colours, cax=bar)
        drawn.set_label("weight, bias (square)" if biases else "weight", color=FAINT, fontsize=8)
        drawn.outline.set_visible(False)
        bar.tick_params(labelsize=7, color=FAINT, labelcolor=FAINT)

    def _has_bias(self, layer: int) -> bool:
        return layer > 0 and self.trace.layers[layer - 1].bias is not None

    def _connect(self, layer: int) -> None:
        """The connections of a layer, the strongest on top, and their names where these find room."""
        marked: list[_Connection] = []
        for connection in sorted(self.connections[layer], key=lambda each: abs(each.weight)):
            if self.on_path(connection):
                marked.append(connection)
                self._arrow(self._line(connection), connection.weight)
            else:
                self._plain(self._line(connection), connection.weight)
        named = marked if self.chain else self.connections[layer]
        lines, texts = [self._line(each) for each in named], [self._told_of(each) for each in named]
        self._name(lines, texts, [self.is_asked(each) for each in named])

    def _told_of(self, connection: _Connection) -> str:
        if self.is_asked(connection):
            return f"∂C/∂{connection.name} = {self._share:.4g}"
        return f"{connection.name} = {connection.weight:.4g}"

    def _line(self, connection: _Connection) -> Line:
        return shortened(self.units[connection.below], self.units[connection.above], RADIUS)

    def _width(self, weight: float) -> float:
        share = abs(weight) / self.largest
        return 0.5 + (3.0 * min(share, 1.0) if isfinite(share) else 3.0)

    def _plain(self, line: Line, weight: float) -> None:
        alpha = 0.25 if self.chain else 1.0
        colour = self.colours.to_rgba(weight)
        self.axes.plot(*zip(*line, strict=True), color=colour, linewidth=self._width(weight), alpha=alpha, zorder=1)

    def _arrow(self, line: Line, weight: float | None = None) -> None:
        """Along which an error goes down: to the line's left end."""
        colour = FAINT if weight is None else self.colours.to_rgba(weight)
        width = 1.2 if weight is None else max(1.2, self._width(weight))
        style = {"arrowstyle": "-|>", "mutation_scale": 9 + 2.5 * width, "color": colour, "linewidth": width}
        exact = {"joinstyle": "miter", "shrinkA": 0, "shrinkB": 0}
        left, right = line
        self.axes.annotate("", left, right, arrowprops=style | exact, zorder=2)

    def _name(self, lines: list[Line], texts: list[str], strong: list[bool]) -> None:
        """A text on each line, unless they are too many."""
        if len(lines) > MOST_LABELS:
            return
        sizes = [9.5 if each else 7.5 for each in strong]
        lengths = [len(text) * size * 0.0078 for text, size in zip(texts, sizes, strict=True)]
        for line, text, size, place in zip(lines, texts, sizes, free_places(lines, lengths), strict=True):
            (x0, y0), (x1, y1) = line
            style = {"ha": "center", "va": "center", "fontsize": size, "color": INK, "bbox": UPON, "zorder": 4}
            self.axes.text(*place, _math(text), rotation=degrees(atan2(y1 - y0, x1 - x0)), **style)

    def _errors(self) -> None:
        """The cost, and the error that each output gets from it."""
        outputs = sorted(unit for unit in self.passed if unit[0] == len(self.trace.layers))
        lines = [shortened(self.units[unit], self.cost, RADIUS) for unit in outputs]
        for line in lines:
            self._arrow(line)
        self._name(lines, [self._error(unit) for unit in outputs], [False] * len(outputs))
        box = {"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": INK}
        cost = f"$C$\n{self.trace.before.loss:.4g}"
        self.axes.text(*self.cost, cost, ha="center", va="center", fontsize=8, bbox=box, zorder=5)

    def _error(self, unit: Unit) -> str:
        """∂C/∂o1, or ∂C/∂z_o1 where loss and activation are one formula."""
        layer, name = self.trace.layers[-1], self.trace.names.unit(*unit)
        if layer.fused or layer.slope is None:
            return f"∂C/∂z_{name} = {layer.delta[self.sample, unit[1]]:.4g}"
        return f"∂C/∂{name} = {layer.activation_grad[self.sample, unit[1]]:.4g}"

    @property
    def _share(self) -> float:
        """What this sample gives to the gradient."""
        assert self.chain is not None
        return self.chain.terms[self.sample].product

    def _unit(self, unit: Unit) -> None:
        """A circle with its name and its activation; its bias, and what else there is to know, where there is room."""
        from matplotlib.patches import Circle

        (layer, j), (x, y) = unit, self.units[unit]
        faded = self.chain is not None and unit not in self.passed | self.asked
        edge, ink = (FAINT, FAINT) if faded else (INK, INK)
        self.axes.add_patch(Circle((x, y), RADIUS, facecolor="white", edgecolor=edge, linewidth=1.0, zorder=3))
        traced = self.trace.layers[max(layer - 1, 0)]
        activation = (traced.y if layer else traced.x)[self.sample, j]
        name, style = self.trace.names.unit(layer, j), {"ha": "center", "color": ink, "zorder": 5}
        self.axes.text(x, y + 0.02, _math(name), va="bottom", fontsize=10, **style)
        self.axes.text(x, y - 0.02, f"{activation:.4g}".replace("-", "−"), va="top", fontsize=6.5, **style)
        if self._has_bias(layer):
            self._bias(unit, float(traced.bias[j]))
        if self.roomy and layer == len(self.trace.layers) and self.chain is None:
            self._beside(unit, f"target {self.trace.y[self.sample, j]:.4g}", above=True)
        if self.roomy and unit in self.passed and not (traced.fused or traced.slope is None):
            self._beside(unit, _math(f"f'(z_{name}) = {traced.slope[self.sample, j]:.4g}"), above=y >= 0)

    def _bias(self, unit: Unit, bias: float) -> None:
        x, y = self.units[unit]
        alpha = 0.35 if self.chain and unit not in self.passed else 1.0
        colour = self.colours.to_rgba(bias)
        square = {"marker": "s", "markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.6, "color": colour}
        self.axes.plot(x, y - RADIUS, **square, alpha=alpha, zorder=6)
        name = self.trace.names.at("b", unit[0] - 1, unit[1]).name
        if self.chain and self.chain.parameter.name == name:
            self._beside(unit, _math(f"∂C/∂{name} = {self._share:.4g}"), above=False)
        elif self.roomy and not self.chain:
            self._beside(unit, _math(f"{name} = {bias:.4g}"), above=False)

    def _beside(self, unit: Unit, text: str, above: bool) -> None:
        (x, y), far = self.units[unit], RADIUS + 0.1
        style = {"ha": "center", "va": "bottom" if above else "top", "fontsize": 7.5, "color": INK}
        self.axes.text(x, y + far if above else y - far, text, **style, bbox=UPON, zorder=4)

    def _caption(self, layer: int, height: float) -> None:
        size = self.trace.sizes[layer]
        kind = "input" if layer == 0 else "output" if layer == len(self.trace.layers) else "hidden unit"
        text = f"{size:,} {kind}{'s' * (size > 1)}" + (f"\n{self.trace.layers[layer - 1].activation}" if layer else "")
        self.axes.text(layer * APART, height, text, ha="center", va="top", fontsize=8, color=FAINT)

    def _title(self) -> tuple[str, str]:
        """The line above all, and the one below it."""
        trace, samples = self.trace, len(self.trace.x)
        which = f"sample {self.sample} of {samples}" if samples > 1 else "one sample"
        if self.chain is None:
            sizes = "-".join(map(str, trace.sizes))
            return f"{sizes} before the step: {_math(f'C = {trace.before.loss:.6g}')}", f"{trace.loss}, {which}"
        derivative = _math(f"∂C/∂{self.chain.parameter.name} = {self.chain.gradient:.6g}")
        given = f"; {which} gives {self._share:.6g} of it".replace("-", "−") if samples > 1 else ""
        count = self.chain.path_count // samples
        return derivative, f"the error comes down along {count:,} {'path' if count == 1 else 'paths'}{given}"

    def _told(self) -> list[str]:
        """The chain rule for this sample, and each path where they are few."""
        if self.chain is None:
            return []
        chain = self.chain
        paths = [path for path in chain.paths if path.sample == self.sample] if chain.listed else []
        told = [_product(chain.terms[self.sample], f"∂C/∂{chain.parameter.name} = " if len(self.trace.x) == 1 else "")]
        if 1 < len(paths) <= MOST_PATHS:
            told += [_product(path, f"{' → '.join(path.units)}:   ") for path in paths]
        return told


def _product(term: "Term", start: str) -> str:
    symbols = " · ".join(factor.symbol for factor in term.factors)
    values = " · ".join(f"{f.value:.4g}" if f.value >= 0 else f"({f.value:.4g})" for f in term.factors)
    return f"{start}{symbols} = {values} = {term.product:.6g}"


def _math(text: str) -> str:
    return f"${mathematics(text)}$"


def _ends(chain: "Chain") -> set[Unit]:
    """The units that the connection asked for joins; the one whose bias it is."""
    parameter = chain.parameter
    above = (parameter.layer + 1, parameter.j)
    return {above} if parameter.i is None else {above, (parameter.layer, parameter.i)}
