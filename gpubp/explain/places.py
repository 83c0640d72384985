"""Where the parts of a network's picture go: units in columns, and labels where no line crosses them. In inches."""

from collections.abc import Iterable
from math import dist, hypot, inf

Point = tuple[float, float]
Line = tuple[Point, Point]
Unit = tuple[int, int]  # its layer, where 0 holds the inputs, and its number there

MOST_UNITS = 16  # of a layer, that are all drawn
ENDS = 4  # of a wider one: its first and its last units
TRIED = 17  # places of a label on its line
END = 0.14  # of a line, that is left to an arrow's head


def drawn_units(size: int, needed: Iterable[int]) -> list[int | None]:
    """The units of a layer from the top down, None where some are left out.

    >>> drawn_units(784, [99])
    [0, 1, 2, 3, None, 99, None, 780, 781, 782, 783]
    """
    if size <= MOST_UNITS:
        return list(range(size))
    drawn: list[int | None] = []
    for unit in sorted({*range(ENDS), *needed, *range(size - ENDS, size)}):
        if drawn and drawn[-1] != unit - 1:
            drawn.append(None)
        drawn.append(unit)
    return drawn


def placed(columns: list[list[int | None]], apart: Point) -> tuple[dict[Unit, Point], list[Point]]:
    """Where each unit is, and where units are left out; every column has its middle at height 0."""
    units: dict[Unit, Point] = {}
    left_out: list[Point] = []
    for layer, column in enumerate(columns):
        for slot, unit in enumerate(column):
            place = (layer * apart[0], ((len(column) - 1) / 2 - slot) * apart[1])
            if unit is None:
                left_out.append(place)
            else:
                units[layer, unit] = place
    return units, left_out


def shortened(start: Point, end: Point, by: float) -> Line:
    """The line between the rims of two circles of this radius."""
    (x0, y0), (x1, y1) = start, end
    length = hypot(x1 - x0, y1 - y0)
    dx, dy = (x1 - x0) / length * by, (y1 - y0) / length * by
    return (x0 + dx, y0 + dy), (x1 - dx, y1 - dy)


def free_places(lines: list[Line], lengths: list[float]) -> list[Point]:
    """The middle of each line's label, that long, where it lies farthest from other labels and from other lines."""
    labels: list[Line] = []
    for line, length in zip(lines, lengths, strict=True):
        others = [other for other in lines if other != line]
        reach = max(0.5 - (length / 2 + END) / dist(*line), 0.0)  # from the middle of the line
        tried = [
            0.5 + reach * (k / (TRIED - 1) * 2 - 1) for k in sorted(range(TRIED), key=lambda k: abs(k - TRIED // 2))
        ]
        found = [(_on(line, t - length / 2 / dist(*line)), _on(line, t + length / 2 / dist(*line))) for t in tried]
        labels.append(max(found, key=lambda label: _room(label, others, labels)))
    return [_on(label, 0.5) for label in labels]


def _room(label: Line, lines: list[Line], labels: list[Line]) -> float:
    """How good a place is: that labels are apart counts more than that no line runs beneath."""
    points = [_on(label, k / 6) for k in range(7)]
    from_lines = min((_distance(point, line) for point in points for line in lines), default=inf)
    from_labels = min((_distance(point, other) for point in points for other in labels), default=inf)
    return round(min(from_lines, 0.15) + 4 * min(from_labels, 0.2), 2)


def _on(line: Line, t: float) -> Point:
    (x0, y0), (x1, y1) = line
    return x0 + t * (x1 - x0), y0 + t * (y1 - y0)


def _distance(point: Point, line: Line) -> float:
    """From a point to the nearest one of a line."""
    (x0, y0), (x1, y1) = line
    dx, dy = x1 - x0, y1 - y0
    t = ((point[0] - x0) * dx + (point[1] - y0) * dy) / (dx * dx + dy * dy)
    return dist(point, _on(line, min(max(t, 0.0), 1.0)))
