"""Line charts as SVG text, for pages that must stand alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 34


@dataclass(frozen=True)
class Line:
    """One curve: a name for the legend, its values, and a CSS class that colours it."""

    name: str
    values: Sequence[float]
    style: str


def line_chart(x: Sequence[float], lines: Sequence[Line], y_label: str, bands: Sequence[tuple[float, str]] = ()) -> str:
    """Curves over x; each band (half width, name) is a shaded strip about zero."""
    values = [v for line in lines for v in line.values if math.isfinite(v)]
    values += [side * half for half, _ in bands for side in (-1, 1)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.05 * (high - low) or 1.0
    low, high = low - margin, high + margin
    x0, x1 = min(x), max(max(x), min(x) + 1e-9)

    def px(v: float) -> float:
        return _LEFT + (v - x0) / (x1 - x0) * (WIDTH - _LEFT - _RIGHT)

    def py(v: float) -> float:
        return _TOP + (high - v) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label)} over steps">']
    for half, name in bands:
        parts.append(
            f'<rect class="band" x="{_LEFT}" y="{py(half):.1f}" width="{WIDTH - _LEFT - _RIGHT}" '
            f'height="{py(-half) - py(half):.1f}"><title>{escape(name)}</title></rect>'
        )
    for tick in ticks(low, high):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{py(tick):.1f}" y2="{py(tick):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{py(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts += [
        f'<text x="{px(tick):.1f}" y="{HEIGHT - 14}" text-anchor="middle">{tick:g}</text>' for tick in ticks(x0, x1)
    ]
    parts.append(f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 2}" text-anchor="end">step</text>')
    parts.append(f'<text x="{_LEFT}" y="{HEIGHT - 2}">{escape(y_label)}</text>')
    for line in lines:
        points = " ".join(f"{px(a):.1f},{py(b):.1f}" for a, b in zip(x, line.values, strict=True) if math.isfinite(b))
        parts.append(f'<polyline class="{line.style}" points="{points}"/>')
    legend = "".join(f'<span class="key {line.style}"></span>{escape(line.name)} ' for line in lines)
    legend += "".join(f'<span class="key band"></span>{escape(name)} ' for _, name in bands)
    return "".join(parts) + f'</svg><p class="legend">{legend}</p>'


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within [low, high], about so many."""
    raw = (high - low) / about
    unit = 10 ** math.floor(math.log10(raw))
    step = min((unit * m for m in (1, 2, 5, 10)), key=lambda s: abs(s - raw))
    first = math.ceil(low / step)
    return [round(k * step, 12) for k in range(first, math.floor(high / step) + 1)]
