"""Line charts as SVG text, for pages that must stand alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 34
_LABEL_ROWS, _ROW = 3, 14
"""Names of marks that stand close together are written above each other, over the curves."""
_LETTER = 5.8
"""Mean width of a letter of 11 px."""


@dataclass(frozen=True)
class Line:
    """One curve: a name for the legend, its values, and a CSS class that colours it."""

    name: str
    values: Sequence[float]
    style: str


@dataclass(frozen=True)
class Mark:
    """What happened at x: "collapse" is an arrow from above, "rollback" a dashed line, "warning" a triangle below.

    Without a name nothing is written beside it.
    """

    x: float
    name: str
    style: str
    note: str = ""
    """Shown where the pointer rests on it."""


class _Scale:
    """From values to pixels."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], width: int, height: int, log: bool) -> None:
        self.x, self.y, self.width, self.height, self.log = x, y, width, height, log
        self.top = _TOP

    def px(self, value: float) -> float:
        return _LEFT + (value - self.x[0]) / (self.x[1] - self.x[0]) * (self.width - _LEFT - _RIGHT)

    def py(self, value: float) -> float:
        level = math.log10(value) if self.log else value
        return self.top + (self.y[1] - level) / (self.y[1] - self.y[0]) * (self.height - self.top - _BOTTOM)


def line_chart(
    x: Sequence[float],
    lines: Sequence[Line],
    y_label: str,
    bands: Sequence[tuple[float, str]] = (),
    marks: Sequence[Mark] = (),
    *,
    log: bool = False,
    width: int = WIDTH,
    height: int = HEIGHT,
) -> str:
    """Curves over x; each band (half width, name) is a shaded strip about zero with its name.

    Where x does not rise a curve begins anew: a run that was rolled back went on from an earlier step. What of the
    curve before lies beyond that step was given up, and is faint. With `log` the values are on a logarithmic axis, and
    what is not positive is left out. Of long curves the lowest and highest point of each pixel are drawn.
    """
    if log and bands:
        raise ValueError("bands: they lie about zero, which no logarithmic axis holds")
    scale = _fitted(x, lines, bands, marks, log, width, height)
    labels, rows = _labels(scale, marks)
    scale.top += _ROW * rows
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(y_label)} over steps">']
    parts += [_band(scale, number, *band) for number, band in enumerate(sorted(bands, reverse=True))]
    parts += _axes(scale, y_label)
    for line in lines:
        parts += _curve(scale, x, line)
    parts += [*(_mark(scale, mark) for mark in marks), *labels]
    return "".join(parts) + "</svg>" + _legend(lines, marks)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within [low, high], about so many."""
    raw = (high - low) / about
    unit = 10 ** math.floor(math.log10(raw))
    step = min((unit * m for m in (1, 2, 5, 10)), key=lambda s: abs(s - raw))
    first = math.ceil(low / step)
    digits = 3 - math.floor(math.log10(step))  # round() of a product such as 3 * 0.1, at the scale of the step
    return [round(k * step, digits) for k in range(first, math.floor(high / step) + 1)]


def _fitted(
    x: Sequence[float],
    lines: Sequence[Line],
    bands: Sequence[tuple[float, str]],
    marks: Sequence[Mark],
    log: bool,
    width: int,
    height: int,
) -> _Scale:
    values = [v for line in lines for v in line.values if _drawable(v, log)]
    values = [math.log10(v) for v in values] if log else values
    values += [side * half for half, _ in bands for side in (-1, 1)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.05 * (high - low) or (0.1 if log else 1.0)
    places = [*x, *(mark.x for mark in marks)]
    left, right = min(places, default=0.0), max(places, default=1.0)
    if left == right:
        left, right = left - 1, right + 1
    return _Scale((left, right), (low - margin, high + margin), width, height, log)


def _band(scale: _Scale, number: int, half: float, name: str) -> str:
    """The strip with its name at the right, over its upper edge for the widest and below it for those inside."""
    top, bottom, right = scale.py(half), scale.py(-half), scale.width - _RIGHT
    return (
        f'<rect class="band" x="{_LEFT}" y="{top:.1f}" width="{right - _LEFT}" height="{bottom - top:.1f}">'
        f"<title>{escape(name)}</title></rect>"
        f'<text x="{right - 4}" y="{top + (12 if number else -3):.1f}" text-anchor="end">{escape(name)}</text>'
    )


def _axes(scale: _Scale, y_label: str) -> list[str]:
    parts = []
    for value, text in _levels(scale):
        y = scale.py(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{scale.width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    parts += [
        f'<text x="{scale.px(tick):.1f}" y="{scale.height - 18}" text-anchor="middle">{tick:.10g}</text>'
        for tick in ticks(*scale.x)
    ]
    parts.append(f'<text x="{scale.width - _RIGHT}" y="{scale.height - 4}" text-anchor="end">step</text>')
    parts.append(f'<text x="{_LEFT}" y="{scale.height - 4}">{escape(y_label)}</text>')
    return parts


def _levels(scale: _Scale) -> list[tuple[float, str]]:
    """Values of the horizontal lines and how they are written."""
    if not scale.log:
        return [(tick, f"{tick:g}") for tick in ticks(*scale.y)]
    low, high = scale.y
    if high - low < 1:  # less than a decade has at most one power of ten
        return [(tick, f"{tick:.3g}") for tick in ticks(10**low, 10**high)]
    decades = range(math.ceil(low), math.floor(high) + 1)
    factors = (1, 2, 5) if high - low < 2.5 else (1,)
    every = max(1, len(decades) // 5)
    values = [m * 10.0**k for k in [decades[0] - 1, *decades[::every]] for m in factors]
    return [(value, f"{value:g}") for value in values if low <= math.log10(value) <= high]


def _curve(scale: _Scale, x: Sequence[float], line: Line) -> list[str]:
    parts = []
    for points, given_up in _segments(x, line.values, scale.log):
        style = f"{line.style} gone" if given_up else line.style
        drawn = _thinned([(scale.px(a), scale.py(b)) for a, b in points])
        if len(drawn) == 1:
            parts.append(f'<circle class="{style}" cx="{drawn[0][0]:.1f}" cy="{drawn[0][1]:.1f}" r="2.5"/>')
        elif drawn:
            text = " ".join(f"{a:.1f},{b:.1f}" for a, b in drawn)
            parts.append(f'<polyline class="{style}" points="{text}"/>')
    return parts


def _segments(x: Sequence[float], values: Sequence[float], log: bool) -> list[tuple[list[tuple[float, float]], bool]]:
    """(points, whether they were given up) of each piece of a curve between rollbacks."""
    runs: list[list[tuple[float, float]]] = []
    starts: list[float] = []
    before = math.inf
    for a, b in zip(x, values, strict=True):
        if a <= before:
            runs.append([])
            starts.append(a)
        before = a
        if _drawable(b, log):
            runs[-1].append((a, b))
    pieces = []
    for number, points in enumerate(runs):
        end = min(starts[number + 1 :], default=math.inf)
        kept = [point for point in points if point[0] < end]
        gone = points[len(kept) :]
        pieces.append((kept, False))
        if gone:
            pieces.append((kept[-1:] + gone, True))
    return [piece for piece in pieces if piece[0]]


def _drawable(value: float, log: bool) -> bool:
    # Beyond these a margin about the curve would leave the range of floats.
    return 1e-300 < value < 1e300 if log else math.isfinite(value)


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most four points of each pixel: the first, lowest, highest and last, which is what can be seen of them."""
    if len(points) <= 2 * WIDTH:
        return points
    columns: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        columns.setdefault(int(point[0]), []).append(point)
    kept = []
    for column in columns.values():
        low, high = min(column, key=lambda p: p[1]), max(column, key=lambda p: p[1])
        kept += sorted({column[0], low, high, column[-1]})
    return kept


def _labels(scale: _Scale, marks: Sequence[Mark]) -> tuple[list[str], int]:
    """Names of the marks above the chart, and in how many rows they are: the lowest where there is room."""
    placed: list[tuple[int, float, Mark]] = []
    ends = [-math.inf] * _LABEL_ROWS
    for mark in sorted(marks, key=lambda mark: mark.x):
        if not mark.name or mark.style == "warning":
            continue
        length = _LETTER * len(mark.name)
        start = min(max(scale.px(mark.x) - length / 2, 2.0), scale.width - length - 2)
        row = next((row for row, end in enumerate(ends) if end + 6 < start), _LABEL_ROWS - 1)
        ends[row] = start + length
        placed.append((row, start + length / 2, mark))
    rows = 1 + max((row for row, _, _ in placed), default=-1)
    texts = [
        f'<text class="mark" x="{x:.1f}" y="{_TOP + 4 + _ROW * (rows - 1 - row)}" text-anchor="middle">'
        f"{escape(mark.name)}{_note(mark)}</text>"
        for row, x, mark in placed
    ]
    return texts, rows


def _mark(scale: _Scale, mark: Mark) -> str:
    x, bottom = scale.px(mark.x), scale.height - _BOTTOM
    if mark.style == "warning":
        return f'<path class="mark warning" d="M{x - 4:.1f} {bottom}h8l-4 -8z">{_note(mark)}</path>'
    line = f'<line class="mark {mark.style}" x1="{x:.1f}" x2="{x:.1f}" y1="{scale.top}" y2="{bottom}"/>'
    if mark.style == "collapse":
        line += f'<path class="mark collapse" d="M{x - 5:.1f} {scale.top}h10l-5 11z">{_note(mark)}</path>'
    return line


def _note(mark: Mark) -> str:
    return f"<title>{escape(mark.note or mark.name)}</title>"


def _legend(lines: Sequence[Line], marks: Sequence[Mark]) -> str:
    keys = [(line.style, line.name) for line in lines]
    if any(mark.style == "warning" for mark in marks):
        keys.append(("warning", "warning"))
    return (
        '<p class="legend">'
        + " ".join(f'<span class="key {style}"></span>{escape(name)}' for style, name in keys)
        + "</p>"
    )
