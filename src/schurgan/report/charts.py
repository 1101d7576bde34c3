"""Line charts of a run's records, drawn by matplotlib as SVG that stands inside an HTML page and takes its colours."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from schurgan.runs.messages import event_name, event_sentence, health_sentence
from schurgan.runs.records import Records

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[int, Mapping[str, float | None]]]
"""Steps with the numbers of each."""
Kind = Literal["collapse", "rollback", "warning"]
SIZE, WIDE_SIZE = (400, 230), (1120, 380)
"""Width and height of a chart in pixels."""
_COLOURS = {
    "ink": "#1c1b22",
    "faint": "#6d6a75",
    "rule": "#e3e0da",
    "a": "#b5367a",
    "b": "#3a6ea5",
    "bad": "#b3261e",
    "warn": "#9a6700",
}
"""The page's CSS variables and their values on a light screen: charts are drawn in these and take the page's own."""
_STYLES: dict[str, dict[str, Any]] = {
    "a": {"color": _COLOURS["a"], "linewidth": 1.6},
    "b": {"color": _COLOURS["b"], "linewidth": 1.6, "dashes": (4, 2)},
    "c": {"color": _COLOURS["faint"], "linewidth": 1.0},
}
_RC: dict[Any, Any] = {
    "font.size": 11,
    "text.color": _COLOURS["faint"],
    "axes.labelcolor": _COLOURS["faint"],
    "axes.edgecolor": _COLOURS["rule"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": _COLOURS["rule"],
    "xtick.color": _COLOURS["rule"],
    "xtick.labelcolor": _COLOURS["faint"],
    "ytick.color": _COLOURS["rule"],
    "ytick.labelcolor": _COLOURS["faint"],
    "legend.frameon": False,
    "svg.fonttype": "none",
}
_LABEL_ROWS = 3
"""Names of marks that stand close together are written above each other, over the curves."""
_LETTER = 0.6
"""Mean width of a letter, as a share of the size of the font."""


@dataclass(frozen=True)
class Curve:
    """One curve of a chart.

    Args:
        name: text of the legend.
        values: one for each x; values that are not finite are left out.
        style: "a" (solid), "b" (dashed) or "c" (faint).
    """

    name: str
    values: Sequence[float]
    style: str


@dataclass(frozen=True)
class Mark:
    """An event at x: "collapse" is an arrow from above, "rollback" a dashed line, "warning" a triangle below.

    Args:
        x: step.
        name: text over the chart, "" for none.
        kind: how it is drawn.
        note: text shown where the pointer rests on the mark, `name` by default.
    """

    x: float
    name: str
    kind: Kind
    note: str = ""


@dataclass(frozen=True)
class _Chart:
    """What one small chart shows: (key, name, style) of each curve in the lines of one kind."""

    lines: Literal["rows", "health"]
    label: str
    curves: tuple[tuple[str, str, str], ...]
    log: bool = False


_CHARTS = (
    _Chart("rows", "loss", (("loss_d", "discriminator", "a"), ("loss_g", "generator", "b"))),
    _Chart("rows", "accuracy of D", (("accuracy_d", "discriminator", "a"),)),
    _Chart("rows", "gradient norm at the images", (("gradient_g", "of the generator’s loss", "a"),), log=True),
    _Chart("health", "Fréchet distance", (("frechet", "generator", "b"), ("frechet_ema", "EMA generator", "a")), True),
    _Chart("health", "variety within a class", (("variety", "generator", "a"),)),
)


def charts(records: Records) -> str:
    """HTML of all charts: Figure 1 of the paper for this run, and under it every curve that its records hold."""
    if len(records.rows) < 2:
        return "<p>Too short a run for curves.</p>"
    marks = _marks(records)
    points: dict[str, Points] = {
        "rows": [(row.step, row.values) for row in records.rows],
        "health": [(each.step, each.scores) for each in records.health],
    }
    parts = []
    if _has(points["rows"], "ddfn_gap"):
        parts.append(f'<div class="wide">{_draw_gap(points["rows"], marks)}</div>')
    # The first chart names the marks; the others show them without names or warnings.
    bare = [replace(mark, name="", note=mark.note or mark.name) for mark in marks if mark.kind != "warning"]
    for chart in _CHARTS:
        lines = points[chart.lines]
        curves = [Curve(name, _values(lines, key), style) for key, name, style in chart.curves if _has(lines, key)]
        if curves:
            steps = [step for step, _ in lines]
            parts.append(f"<div>{line_chart(steps, curves, chart.label, marks=bare, log=chart.log)}</div>")
    return "".join(parts)


def line_chart(
    x: Sequence[float],
    curves: Sequence[Curve],
    y_label: str,
    bands: Sequence[tuple[float, str]] = (),
    marks: Sequence[Mark] = (),
    *,
    log: bool = False,
    size: tuple[int, int] = SIZE,
) -> str:
    """Draw curves over steps as SVG text. The arguments are those of `draw_chart`."""
    figure = draw_chart(x, curves, y_label, bands, marks, log=log, size=size)
    notes = [escape(mark.note or mark.name) for mark in marks]
    with _style(y_label):
        buffer = io.StringIO()
        # Without a date or the library's name, the same numbers give the same text.
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text[text.index("<svg") :])
    text = text.replace("<svg", f'<svg role="img" aria-label="{escape(y_label)} over steps"', 1)
    text = re.sub(r' id="mark-(\d+)">', lambda found: f' class="mark"><title>{notes[int(found[1])]}</title>', text)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)  # of groups: several charts on a page would share them
    for name, colour in _COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return re.sub(r"\n\s*", "\n", text)


def draw_chart(
    x: Sequence[float],
    curves: Sequence[Curve],
    y_label: str,
    bands: Sequence[tuple[float, str]] = (),
    marks: Sequence[Mark] = (),
    *,
    log: bool = False,
    size: tuple[int, int] = SIZE,
) -> Figure:
    """Draw curves over steps.

    Where x does not rise a curve begins anew, because a run that was rolled back continued from an earlier step. The
    part of the curve before that lies beyond this step was given up; it is faint.

    Args:
        x: steps.
        curves: with one value for each x.
        y_label: what the values are.
        bands: (half width, name) of shaded strips about zero.
        marks: events.
        log: draw values on a logarithmic axis, and leave out what is not positive.
        size: width and height in pixels.

    Raises:
        ValueError: for bands on a logarithmic axis.
    """
    if log and bands:
        raise ValueError("bands: they lie about zero, which no logarithmic axis holds")
    from matplotlib.figure import Figure

    with _style(y_label):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72, layout="constrained")
        ax = figure.subplots()
        if log:
            ax.set_yscale("log")
        for place, (half, name) in enumerate(sorted(bands, reverse=True)):
            ax.axhspan(-half, half, color=_COLOURS["b"], alpha=0.13, linewidth=0)
            # The name of the widest band stands over its edge, of a band inside it below.
            across, side = ax.get_yaxis_transform(), "top" if place else "bottom"
            ax.text(0.995, half, name, transform=across, ha="right", va=side, clip_on=True)
        for curve in curves:
            name = curve.name
            for points, is_given_up in _pieces(x, curve.values, log):
                look = _STYLES[curve.style] | {"alpha": 0.5 if is_given_up else 1.0}
                dot = "o" if len(points) == 1 else ""
                ax.plot(*zip(*points, strict=True), marker=dot, markersize=4, label=name, **look)
                name = "_"  # once in the legend
        if log:
            _place_log_ticks(ax)
        places = [*x, *(mark.x for mark in marks)]
        left, right = min(places, default=0.0), max(places, default=1.0)
        ax.set_xlim(*((left, right) if left < right else (left - 1, right + 1)))
        _draw_marks(ax, marks, size[0])
        ax.set_xlabel("step", loc="right")
        ax.set_ylabel(y_label)
        if ax.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower left", ncols=4)
    return figure


@contextmanager
def _style(salt: str) -> Iterator[None]:
    """The charts' look for a while. The salt makes identifiers of one chart differ from those of the others."""
    import matplotlib as mpl

    with mpl.rc_context(_RC | {"svg.hashsalt": salt}):
        yield


def _place_log_ticks(ax: Axes) -> None:
    """A few round levels on a logarithmic axis, however many decades it spans."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = (math.log10(limit) for limit in ax.get_ylim())
    if high - low < 0.1:  # a flat curve
        low, high = low - 0.05, high + 0.05
        ax.set_ylim(10**low, 10**high)
    steps = (1.0, 2.0, 5.0) if high - low < 2.5 else (1.0,)
    ax.yaxis.set_major_locator(MaxNLocator(5) if high - low < 0.8 else LogLocator(subs=steps, numticks=7))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def _draw_marks(ax: Axes, marks: Sequence[Mark], width: int) -> None:
    """Lines and arrows at the marks, and their names over the axes: in the lowest row that has room."""
    from matplotlib.transforms import ScaledTranslation

    (left, right), across = ax.get_xlim(), ax.get_xaxis_transform()
    ends = [-math.inf] * _LABEL_ROWS
    for place, mark in sorted(enumerate(marks), key=lambda each: each[1].x):
        dashes: dict[str, Any] = {"dashes": (3, 3)} if mark.kind == "rollback" else {}
        symbol: dict[str, Any] = {"linestyle": "", "transform": across, "clip_on": False, "markeredgewidth": 0}
        if mark.kind == "warning":
            name = "_" if any(each.kind == "warning" for each in marks[:place]) else "warning"
            (artist,) = ax.plot(mark.x, 0.03, "^", color=_COLOURS["warn"], markersize=9, label=name, **symbol)
        else:
            artist = ax.axvline(mark.x, color=_COLOURS["ink"], linewidth=1, **dashes)
        if mark.kind == "collapse":
            (artist,) = ax.plot(mark.x, 0.97, "v", color=_COLOURS["bad"], markersize=10, **symbol)
        artist.set_gid(f"mark-{place}")
        if mark.name and mark.kind != "warning":
            half = _LETTER * 11 * len(mark.name) / width / 2  # as a share of the axes, about
            middle = min(max((mark.x - left) / (right - left), half), 1 - half)
            row = next((row for row, end in enumerate(ends) if end < middle - half), _LABEL_ROWS - 1)
            ends[row] = middle + half + 0.01
            above = ScaledTranslation(0, (4 + 14 * row) / 72, ax.figure.dpi_scale_trans)
            ax.text(middle, 1, mark.name, transform=ax.transAxes + above, ha="center", color=_COLOURS["ink"])


def _pieces(x: Sequence[float], values: Sequence[float], log: bool) -> Iterator[tuple[list[tuple[float, float]], bool]]:
    """(points, whether they were given up) of each piece of a curve between rollbacks."""
    attempts: list[list[tuple[float, float]]] = []
    starts: list[float] = []
    before = math.inf
    for step, value in zip(x, values, strict=True):
        if step <= before:
            attempts.append([])
            starts.append(step)
        before = step
        # The margin about larger values would leave the range of floats.
        if abs(value) < 1e300 and (value > 1e-300 or not log):
            attempts[-1].append((step, value))
    for place, points in enumerate(attempts):
        end = min(starts[place + 1 :], default=math.inf)
        kept = [point for point in points if point[0] < end]
        if kept:
            yield kept, False
        if len(kept) < len(points):
            yield kept[-1:] + points[len(kept) :], True


def _draw_gap(rows: Points, marks: Sequence[Mark]) -> str:
    curves = [Curve("mean of the batches", _values(rows, "ddfn_gap"), "c")]
    if _has(rows, "ddfn_ema_gap"):
        curves.append(Curve("moving average", _values(rows, "ddfn_ema_gap"), "a"))
    bands = []
    for key, times, name in (("ddfn_epsilon", 1, "±ε"), ("ddfn_standard_error", 2, "±2 standard errors of a batch")):
        known = [half for _, values in rows if (half := values.get(key)) is not None]
        bands += [(times * known[-1], name)] if known else []
    steps = [step for step, _ in rows]
    return line_chart(steps, curves, "DDFN gap, generated − real", bands, marks, size=WIDE_SIZE)


def _marks(records: Records) -> list[Mark]:
    """Onsets of collapse (initial and extreme, as in Table 1 of the paper), rollbacks, warnings; each once."""
    marks: dict[tuple[str, int, float], Mark] = {}

    def add(attempt: int, step: float | None, name: str, kind: Kind, note: str) -> None:
        if step is not None:
            marks.setdefault((name, attempt, step), Mark(step, name, kind, note))

    def add_collapse(attempt: int, onset: float | None, extreme: float | None, note: str) -> None:
        add(attempt, onset, "initial collapse", "collapse", note)
        add(attempt, extreme, "extreme collapse", "collapse", note)

    for event in records.events:
        attempt, name, note = event.attempt, event_name(event.kind), event_sentence(event)
        if event.kind == "collapsed":
            add_collapse(attempt, event.step if event.onset is None else event.onset, event.extreme, note)
        elif event.kind == "not_finite":
            add(attempt, event.step, name, "collapse", note)
        elif event.kind == "rollback":
            add(attempt, event.step, name, "rollback", note)
        elif event.kind == "warning":
            add(attempt, event.step, name, "warning", note)
    for each in records.health:
        if each.verdict == "collapsed":
            add_collapse(each.attempt, each.scores.get("onset"), each.scores.get("extreme"), health_sentence(each))
    return list(marks.values())


def _values(lines: Points, key: str) -> list[float]:
    """NaN where a line does not hold the key."""
    return [math.nan if (value := values.get(key)) is None else value for _, values in lines]


def _has(lines: Points, key: str) -> bool:
    return any(values.get(key) is not None for _, values in lines)
