"""Line charts of a run's records, drawn by matplotlib as SVG that stands inside an HTML page and takes its colours."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from schurgan.evaluation.metric_table import ABOUT
from schurgan.runs.messages import event_name, event_sentence, health_sentence
from schurgan.runs.records import Records

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[int, Mapping[str, float | None]]]
"""Steps with the numbers of each."""
Kind = Literal["collapse", "rollback", "warning"]
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
_FONT = 12
"""Pixels, at the chart's own size."""
_RC: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), _COLOURS["faint"]),
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), _COLOURS["rule"]),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.formatter.useoffset", "legend.frameon"), False),
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "font.size": _FONT,
    "svg.fonttype": "none",
}


_LOSS = (
    "What each network is trained to lower. They pull against each other: neither curve says how good the sounds are, "
    "and steady ones are good."
)
_ACCURACY = (
    "Share of images that D, the discriminator, tells real or generated rightly: good between ½ and 0.9; near 1 the "
    "generator learns little from it."
)
_GRADIENT = (
    "How strongly D pulls at generated images: steady is good, a sudden rise often comes before a collapse, and at 0 "
    "nothing is learned."
)
_GAP = (
    "Departure from normality of generated images less that of real ones: good within ±ε, where DDFN asks for nothing. "
    "By chance alone a batch of real images moves by two standard errors."
)
_MARKS = (
    '<p class="faint">An arrow marks where a collapse began, and where it was past recovery; a triangle is '
    "a warning, a dashed line a rollback, and faint pieces of curves were given up then.</p>"
)


@dataclass(frozen=True)
class Curve:
    """One curve of a chart, with a value for each x; values that are not finite are left out."""

    name: str
    """Text of the legend."""
    values: Sequence[float]
    style: str
    """"a" (solid), "b" (dashed) or "c" (faint)."""


@dataclass(frozen=True)
class Mark:
    """An event: "collapse" is an arrow from above, "rollback" a dashed line, "warning" a triangle below."""

    x: float
    kind: Kind
    note: str
    """Text shown where the pointer rests on the mark."""


@dataclass(frozen=True)
class Chart:
    """Curves over steps.

    Where x does not rise a curve begins anew, because a run that was rolled back continued from an earlier step. The
    part of the curve before that lies beyond this step was given up; it is faint.
    """

    x: Sequence[float]
    curves: Sequence[Curve]
    label: str
    """What the values are."""
    bands: Sequence[tuple[float, str]] = ()
    """(half width, name) of shaded strips about zero, for a linear axis."""
    marks: Sequence[Mark] = ()
    log: bool = False
    """Draw values on a logarithmic axis, and leave out what is not positive."""
    size: tuple[int, int] = (336, 230)
    """Width and height in pixels: those of a phone, as letters shrink with a chart that is wider than the screen."""

    def svg(self) -> str:
        """Draw the chart as an <svg> element in the page's colours; the same numbers give the same text."""
        figure = self.draw()
        notes = [escape(mark.note) for mark in self.marks]
        with _style(self.label):
            buffer = io.StringIO()
            metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # None: not written
            figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
        text = buffer.getvalue()
        text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text[text.index("<svg") :])
        text = text.replace("<svg", f'<svg role="img" aria-label="{escape(self.label)} over steps"', 1)
        text = re.sub(r' id="mark-(\d+)">', lambda match: f' class="mark"><title>{notes[int(match[1])]}</title>', text)
        text = re.sub(r' id="[\w.]+_\d+"', "", text)  # of groups: several charts on a page would share them
        for name, colour in _COLOURS.items():
            text = text.replace(colour, f"var(--{name})")
        return re.sub(r"\n\s*", "\n", text)

    def draw(self) -> Figure:
        """Draw the chart with matplotlib."""
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        with _style(self.label):
            figure = Figure(figsize=(self.size[0] / 72, self.size[1] / 72), dpi=72, layout="constrained")
            ax = figure.subplots()
            if self.log:
                ax.set_yscale("log")
            if self.bands:
                ax.margins(y=0.12)  # room for the name over the widest
            for place, (half, name) in enumerate(sorted(self.bands, reverse=True)):
                ax.axhspan(-half, half, color=_COLOURS["b"], alpha=0.13, linewidth=0)
                # The name of the widest band stands over its edge, of a band inside it below.
                across, side = ax.get_yaxis_transform(), "top" if place else "bottom"
                ax.text(0.995, half, name, transform=across, ha="right", va=side, clip_on=True)
            for curve in self.curves:
                name = curve.name
                for points, is_given_up in _pieces(self.x, curve.values, self.log):
                    look = _STYLES[curve.style] | {"alpha": 0.5 if is_given_up else 1.0}
                    dot = "o" if len(points) == 1 else ""
                    ax.plot(*zip(*points, strict=True), marker=dot, markersize=4, label=name, **look)
                    name = "_"  # once in the legend
            if self.log:
                _place_log_ticks(ax)
            places = [*self.x, *(mark.x for mark in self.marks)]
            left, right = min(places, default=0.0), max(places, default=1.0)
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            ax.set_xlim(*((left, right) if left < right else (left - 1, right + 1)))
            _draw_marks(ax, self.marks)
            ax.set_xlabel("step", loc="right")
            ax.set_ylabel(self.label)
            if ax.get_legend_handles_labels()[0]:
                figure.legend(loc="outside lower left", ncols=2)
        return figure


def charts(records: Records) -> str:
    """HTML of all charts that the records have curves for, each with what it shows and how to read it."""
    if len(records.rows) < 2:
        return "<p>Too short a run for curves.</p>"
    marks = _marks(records)
    legend = _MARKS if marks else ""
    rows: Points = [(row.step, row.values) for row in records.rows]
    health: Points = [(each.step, each.scores) for each in records.health]
    bands = []
    for key, times, name in (("ddfn_epsilon", 1, "±ε"), ("ddfn_standard_error", 2, "±2 standard errors")):
        known = [half for _, values in rows if (half := values.get(key)) is not None]
        bands += [(times * known[-1], name)] if known else []
    parts = []
    for lines, label, about, log, named in (
        (
            health,
            "variety",
            "Of each evaluation, two images of a class compared: good near 1, where they differ as real ones do.",
            False,
            (("variety", "generator", "a"),),
        ),
        (
            health,
            "Fréchet distance",
            f"{ABOUT['fid']}. The average of the generator’s weights over steps makes the samples.",
            True,
            (("frechet", "generator", "b"), ("frechet_ema", "its average", "a")),
        ),
        (rows, "loss", _LOSS, False, (("loss_d", "discriminator", "a"), ("loss_g", "generator", "b"))),
        (rows, "accuracy of D", _ACCURACY, False, (("accuracy_d", "discriminator", "a"),)),
        (rows, "gradient norm", _GRADIENT, True, (("gradient_g", "of G’s loss at the images", "a"),)),
        (rows, "DDFN gap", _GAP, False, (("ddfn_gap", "batches", "c"), ("ddfn_ema_gap", "moving average", "a"))),
    ):
        if curves := _curves(lines, named):
            strips = bands if label == "DDFN gap" else ()
            chart = Chart([step for step, _ in lines], curves, label, strips, marks, log)
            bound = _interpolation(rows[-1][1]) if label == "DDFN gap" else ""
            parts.append(f'<div>{chart.svg()}<p class="legend">{about}{bound}</p></div>')
            marks = [mark for mark in marks if mark.kind != "warning"]  # the first chart alone shows warnings
    return f'{legend}<div class="charts">{"".join(parts)}</div>'


def _interpolation(row: Mapping[str, float | None]) -> str:
    bound, residual = (row.get(f"ddfn_interpolation_{name}") for name in ("bound", "residual"))
    if bound is None or residual is None:
        return ""
    text = f" Bound (7) of the paper: {bound:.4g}, on a curve from which real images are {residual:.4g} away (rms)."
    return f"{text} It limits no gap."


def _curves(lines: Points, named: Sequence[tuple[str, str, str]]) -> list[Curve]:
    """The curves of (key, name, style) of which the lines hold a value; NaN where a line holds none."""
    curves = []
    for key, name, style in named:
        values = [values.get(key) for _, values in lines]
        if any(value is not None for value in values):
            curves.append(Curve(name, [math.nan if value is None else value for value in values], style))
    return curves


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


def _draw_marks(ax: Axes, marks: Sequence[Mark]) -> None:
    """Lines, arrows and triangles at the marks."""
    across = ax.get_xaxis_transform()
    for place, mark in enumerate(marks):
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


def _marks(records: Records) -> list[Mark]:
    """Onsets of collapse (initial and extreme, as in Table 1 of the paper), rollbacks, warnings; each once."""
    marks: dict[tuple[str, int, float], Mark] = {}

    def add(attempt: int, note: str, kind: Kind, *steps: tuple[str, float | None]) -> None:
        for name, step in steps:
            if step is not None:
                marks.setdefault((name, attempt, step), Mark(step, kind, note))

    kinds: dict[str, Kind] = {"not_finite": "collapse", "rollback": "rollback", "warning": "warning"}
    for event in records.events:
        note = event_sentence(event)
        if event.kind == "collapsed":
            onset = event.step if event.onset is None else event.onset
            add(event.attempt, note, "collapse", ("initial collapse", onset), ("extreme collapse", event.extreme))
        elif event.kind in kinds:
            add(event.attempt, note, kinds[event.kind], (event_name(event.kind), event.step))
    for each in records.health:
        if each.verdict == "collapsed":
            steps = (("initial collapse", each.scores.get("onset")), ("extreme collapse", each.scores.get("extreme")))
            add(each.attempt, health_sentence(each), "collapse", *steps)
    return list(marks.values())
