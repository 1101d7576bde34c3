"""One look for all figures, readable in grey; the same numbers give the same files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schurgan.core.errors import writing
from schurgan.core.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES: tuple[dict[str, Any], ...] = (
    {"color": "black", "linestyle": "-"},
    {"color": "0.45", "linestyle": "--"},
    {"color": "0.65", "linestyle": "-."},
    {"color": "0.3", "linestyle": ":"},
)
"""Of the curves of a panel."""
WIDE = 7.2
"""Inches across a page."""
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "schurgan",
}


@contextmanager
def sheet(path: Path, height: float) -> Iterator[Figure]:
    """`with sheet(OUT / "figure1", 2.5) as figure:` draws a page's width by `height` inches, PATH.png and PATH.svg."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDE, height), layout="constrained")
        yield figure
        formats: tuple[tuple[str, dict[str, Any]], ...] = (
            ("png", {"dpi": 200}),
            ("svg", {"metadata": {"Date": None}}),
        )
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            for kind, about in formats:
                buffer = io.BytesIO()
                figure.savefig(buffer, format=kind, **about)
                with atomic_write(path.with_suffix(f".{kind}")) as file:
                    file.write(buffer.getvalue())
