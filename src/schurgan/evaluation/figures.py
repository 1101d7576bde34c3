"""Curves of scores over truncation, readable in grey: PNG and SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from schurgan.core.files import atomic_write
from schurgan.evaluation.table import title

_PANELS: tuple[tuple[str, ...], ...] = (
    ("inception_score",),
    ("fid",),
    ("precision", "recall"),
    ("variety",),
    ("vendi_score",),
    ("departure_gap",),
)
_STYLES = (("o", "-", "black"), ("s", "--", "0.35"))
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "lines.markersize": 3.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "schurgan",  # the same sweep gives the same file
}


def save_figure(truncations: Sequence[float], points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """PATH.png and PATH.svg: a panel a score, real images as a dotted line. A point is scores by name, each with
    "value" and "floor"; what is None is left out."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    order = sorted(range(len(truncations)), key=lambda i: truncations[i])
    x = [truncations[i] for i in order]
    shown = [names for names in _PANELS if all(name in point for name in names for point in points)]
    with mpl.rc_context(_STYLE):
        drawn = Figure(figsize=(7.2, 2.1 * -(-len(shown) // 3)), layout="constrained")
        axes = drawn.subplots(-(-len(shown) // 3), 3, squeeze=False).flat
        for names, ax in zip(shown, axes, strict=False):
            for name, (marker, line, colour) in zip(names, _STYLES, strict=False):
                y = [float("nan") if (v := points[i][name]["value"]) is None else v for i in order]
                ax.plot(x, y, marker=marker, linestyle=line, color=colour, label=title(name))
                floor = points[0][name]["floor"]
                if floor is not None and name == "departure_gap":  # a size: real gaps lie on both sides of 0
                    ax.axhspan(-floor, floor, color="0.85", linewidth=0)
                elif floor is not None:
                    ax.axhline(floor, color=colour, linestyle=":", linewidth=1)
            ax.set_xscale("log")
            ax.set_xticks(x, [f"{value:g}" for value in x], rotation=90, fontsize=7)
            ax.minorticks_off()
            ax.set_title(" and ".join(map(title, names)), fontsize=8)
            if len(names) > 1:
                ax.legend(frameon=False, fontsize=7)
        for ax in list(drawn.axes)[len(shown) :]:
            ax.remove()
        drawn.supxlabel("truncation α (dotted line or grey band: real images)", fontsize=8)
        for kind, about in (("png", {"dpi": 200}), ("svg", {"metadata": {"Date": None}})):
            buffer = io.BytesIO()
            drawn.savefig(buffer, format=kind, **about)
            with atomic_write(path.with_suffix(f".{kind}")) as file:
                file.write(buffer.getvalue())
