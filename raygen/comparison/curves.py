"""Figures of a page as SVG, which follows its colours and needs no script."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from raygen.evaluation.distances import Interval

WIDTH, HEIGHT = 460, 250
LEFT, BOTTOM, TOP, RIGHT = 58, 34, 14, 10
"""Margins for the axes' numbers."""
MOST_POINTS = 160
STRIP = 96
"""Width of the figure in a table's cell."""


@dataclass(frozen=True)
class Line:
    """A curve. Attributes: name: for its tooltip; colour: number of the contender; points: x, y."""

    name: str
    colour: int
    points: Sequence[tuple[float, float]]


def chart(lines: Sequence[Line], x_label: str, y_label: str) -> str:
    """Curves over a common pair of axes; the vertical one is logarithmic where that helps.

    Returns: an SVG element, or nothing if there is no point.
    """
    kept = [Line(line.name, line.colour, _thinned(line.points)) for line in lines]
    kept = [line for line in kept if line.points]
    if not kept:
        return ""
    xs = [x for line in kept for x, _ in line.points]
    ys = [y for line in kept for _, y in line.points]
    log = min(ys) > 0 and max(ys) > 8 * min(ys)
    x_axis, y_axis = _Axis(0.0, max(xs) or 1.0, False), _Axis(min(ys), max(ys), log)

    def place(x: float, y: float) -> str:
        across = LEFT + x_axis.share(x) * (WIDTH - LEFT - RIGHT)
        return f"{across:.1f},{_height(y_axis.share(y)):.1f}"

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(y_label)} against {html.escape(x_label)}">'
    ]
    for tick in y_axis.ticks():
        height = _height(y_axis.share(tick))
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" '
            f'y2="{height:.1f}"/><text class="tick" text-anchor="end" x="{LEFT - 5}" '
            f'y="{height + 3.5:.1f}">{short_number(tick)}</text>'
        )
    for tick in x_axis.ticks():
        across = LEFT + x_axis.share(tick) * (WIDTH - LEFT - RIGHT)
        parts.append(
            f'<text class="tick" text-anchor="middle" x="{across:.1f}" '
            f'y="{HEIGHT - BOTTOM + 14}">{short_number(tick)}</text>'
        )
    for line in kept:
        points = " ".join(place(x, y) for x, y in line.points)
        parts.append(
            f'<polyline class="curve c{line.colour % 8}" points="{points}">'
            f"<title>{html.escape(line.name)}</title></polyline>"
        )
        if len(line.points) == 1:
            x, y = points.split(",")
            parts.append(f'<circle class="dot c{line.colour % 8}" r="3" cx="{x}" cy="{y}"/>')
    parts.append(
        f'<text class="label" text-anchor="middle" x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 4}">'
        f"{html.escape(x_label)}</text></svg>"
    )
    return "".join(parts)


def _height(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Finite points, not more than can be told apart, the last one among them."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    every = -(-len(finite) // MOST_POINTS) or 1
    kept = finite[::every]
    return kept if not finite or kept[-1] == finite[-1] else [*kept, finite[-1]]


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    log: bool

    def share(self, value: float) -> float:
        """Where a value stands, from 0 to 1."""
        if self.high <= self.low:
            return 0.5
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        if self.high <= self.low:
            return [self.low]
        if self.log:
            steps = [
                factor * 10.0**power
                for power in range(
                    math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1
                )
                for factor in (1, 2, 5)
            ]
            inside = [step for step in steps if self.low <= step <= self.high]
            return inside if len(inside) > 1 else [self.low, self.high]
        raw = (self.high - self.low) / 4
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
        first = math.ceil(self.low / step)
        return [k * step for k in range(first, math.floor(self.high / step) + 1)]


def strip(values: Sequence[float], mean: Interval, low: float, high: float, colour: int) -> str:
    """A contender's values in one metric: a dot for each seed, and the interval of their mean.

    Args: low, high: ends of the scale, common to all contenders.
    """
    axis = _Axis(low, high, False)

    def across(value: float) -> float:
        return 5 + min(1.0, max(0.0, axis.share(value))) * (STRIP - 10)

    parts = [f'<svg class="strip" viewBox="0 0 {STRIP} 16" aria-hidden="true">']
    if math.isfinite(mean.low) and math.isfinite(mean.high):
        parts.append(
            f'<line class="interval c{colour % 8}" x1="{across(mean.low):.1f}" '
            f'x2="{across(mean.high):.1f}" y1="8" y2="8"/>'
        )
    parts += [
        f'<circle class="dot c{colour % 8}" cx="{across(value):.1f}" cy="8" r="2.6">'
        f"<title>{value:.5g}</title></circle>"
        for value in values
        if math.isfinite(value)
    ]
    return "".join([*parts, "</svg>"])


def short_number(value: float) -> str:
    """Format a number for an axis: 12,000 as 12k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
