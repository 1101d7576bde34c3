"""Pictures of scores: a table, curves over truncation, generated images beside the real ones nearest to them."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw
from torch import Tensor

from schurgan.audio.pictures import fitted, picture, save_png, text_font
from schurgan.core.files import atomic_write
from schurgan.evaluation.metric_table import BY_NAME, title
from schurgan.evaluation.metrics.neighbours import nearest
from schurgan.evaluation.scores import Score
from schurgan.evaluation.target import ImageSet, Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 12
_HEAD, _CELL, _GAP, _LINE = 124, 128, 12, 18
_PANELS = (("inception_score",), ("fid",), ("precision", "recall"), ("variety",), ("vendi_score",), ("departure_gap",))
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


def save_sweep_figure(truncations: Sequence[float], points: Sequence[Mapping[str, Score]], path: Path) -> None:
    """Draw PATH.png and PATH.svg: the scores at each truncation, a panel each, real images as a dotted line."""
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
                y = [float("nan") if (v := points[i][name].value) is None else v for i in order]
                ax.plot(x, y, marker=marker, linestyle=line, color=colour, label=title(name))
                floor = points[0][name].floor
                if floor is not None and BY_NAME[name].floor_is_gap:
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
        _save(drawn, path.with_suffix(".png"), dpi=200)
        _save(drawn, path.with_suffix(".svg"), metadata={"Date": None})


def save_table_figure(
    head: Sequence[str], rows: Sequence[Sequence[str]], bold: Collection[tuple[int, int]], path: Path
) -> None:
    """Draw a table as a PNG, its first column to the left, cells in `bold` (row, column) bold, every other row grey."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    widths = [max(len(line[c]) for line in (head, *rows)) + 3 for c in range(len(head))]
    with mpl.rc_context(_STYLE):
        drawn = Figure(figsize=(0.075 * sum(widths), 0.26 * (len(rows) + 1)))
        ax = drawn.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        table = ax.table(
            [list(row) for row in rows],
            colLabels=list(head),
            colWidths=[width / sum(widths) for width in widths],
            cellLoc="right",
            bbox=Bbox.unit(),
        )
        table.auto_set_font_size(False)
        for (row, column), cell in table.get_celld().items():
            cell.set_linewidth(0)
            cell.set_facecolor("0.95" if row and row % 2 == 0 else "white")
            if row == 0:
                cell.visible_edges = "B"
                cell.set_linewidth(1)
            cell.set_text_props(
                ha="left" if column == 0 else "right",
                weight="bold" if row == 0 or (row - 1, column) in bold else "normal",
            )
        _save(drawn, path, dpi=200)


def save_nearest(
    path: Path,
    subject: Subject,
    fake: ImageSet,
    real: ImageSet,
    held_out: ImageSet | None,
) -> None:
    """Draw a column for each of some generated images: it, and the nearest training and held-out images.

    The eye sees a copy before any number does. Distances are root mean squares over the pixels of thumbnails, 0 for a
    copy and 2 at most. Of `fake` one image of each class in turn is shown.
    """
    shown = _one_of_each(fake.labels[: len(fake.images)])
    classes = subject.model.classes
    rows = [("generated", list(fake.images[shown]), [classes[c] for c in fake.labels[shown].tolist()])]
    sides = (("nearest training", subject.training, real), ("nearest held out", subject.held_out, held_out))
    for name, shards, images in sides:
        if shards is None or images is None or images.clips is None:
            continue
        near = nearest(images.thumbnails, fake.thumbnails[shown])
        places = near.indices[:, 0]
        distances = (near.distances[:, 0] / images.thumbnails.shape[1] ** 0.5).tolist()
        texts = [f"{d:.3f} {classes[c]}" for d, c in zip(distances, images.labels[places].tolist(), strict=True)]
        rows.append((name, list(subject.real(shards, images.clips[places])), texts))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(_drawn(rows, photo=subject.model.pictures), path)


def _one_of_each(labels: Tensor) -> list[int]:
    """The first image of each class, then the second of each, until there are enough."""
    rounds = [((labels == c).nonzero()[:, 0].tolist()) for c in labels.unique()]
    turns = [each[turn] for turn in range(_MOST) for each in rounds if turn < len(each)]
    return sorted(turns[:_MOST], key=lambda place: int(labels[place]))


def _drawn(rows: Sequence[tuple[str, list[Tensor], list[str]]], *, photo: bool) -> Image.Image:
    font = text_font(12)
    wide, high = _CELL + _GAP, _CELL + _LINE + _GAP
    sheet = Image.new("RGB", (_HEAD + len(rows[0][1]) * wide, len(rows) * high + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for r, (name, images, texts) in enumerate(rows):
        top = _GAP + r * high
        pen.text((_GAP, top), name, "black", font)
        for c, (image, text) in enumerate(zip(images, texts, strict=True)):
            left = _HEAD + c * wide
            drawn = picture(image, photo=photo).resize((_CELL, _CELL), Image.Resampling.NEAREST)
            sheet.paste(drawn, (left, top))
            pen.text((left, top + _CELL + 2), fitted(text, font, _CELL), "black", font)
    return sheet


def _save(drawn: Figure, path: Path, **options: Any) -> None:
    buffer = io.BytesIO()
    drawn.savefig(buffer, format=path.suffix[1:], **options)
    with atomic_write(path) as file:
        file.write(buffer.getvalue())
