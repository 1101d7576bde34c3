"""Generated images beside the real ones nearest to them: the eye sees a copy before any number does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from schurgan.audio.pictures import picture, save_png
from schurgan.evaluation.metrics.neighbours import nearest
from schurgan.evaluation.seen import Seen
from schurgan.evaluation.target import Subject

_MOST = 12
_HEAD, _CELL, _GAP, _LINE = 124, 128, 12, 18


def save_nearest(
    path: Path, subject: Subject, fake: Seen, real: tuple[Seen, Tensor], held_out: tuple[Seen, Tensor] | None
) -> None:
    """A column for each of some generated images, one of each class in turn: it, and the nearest training and held-out
    images.

    Distances are root mean squares over the pixels of thumbnails, 0 for a copy and 2 at most. OSError as the file
    system raises it.
    """
    shown = _one_of_each(fake.labels[: len(fake.images)])
    classes = subject.model.classes
    rows = [("generated", list(fake.images[shown]), [classes[c] for c in fake.labels[shown].tolist()])]
    sides = [("nearest training", subject.training, real)]
    if subject.held_out is not None and held_out is not None:
        sides.append(("nearest held out", subject.held_out, held_out))
    for name, shards, (seen, clips) in sides:
        found = nearest(seen.thumbs, fake.thumbs[shown])
        places = found.indices[:, 0]
        distances = (found.distances[:, 0] / seen.thumbs.shape[1] ** 0.5).tolist()
        texts = [f"{d:.3f} {classes[c]}" for d, c in zip(distances, seen.labels[places].tolist(), strict=True)]
        rows.append((name, list(subject.real(shards, clips[places])), texts))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(_drawn(rows, photo=subject.model.pictures), path)


def _one_of_each(labels: Tensor) -> list[int]:
    """The first image of each class, then the second of each, until there are enough."""
    rounds = [((labels == c).nonzero()[:, 0].tolist()) for c in labels.unique()]
    turns = [each[turn] for turn in range(_MOST) for each in rounds if turn < len(each)]
    return sorted(turns[:_MOST], key=lambda place: int(labels[place]))


def _drawn(rows: Sequence[tuple[str, list[Tensor], list[str]]], *, photo: bool) -> Image.Image:
    font = ImageFont.load_default(12)
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
            pen.text((left, top + _CELL + 2), _fitted(text, font), "black", font)
    return sheet


def _fitted(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """As much of a text as stands under an image."""
    while len(text) > 1 and font.getlength(text) > _CELL:
        text = text[:-2].rstrip() + "…"
    return text
