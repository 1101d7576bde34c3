"""Spectrogram images and photographs as PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from schurgan.audio.colormap import apply_colormap
from schurgan.core.files import atomic_write


def picture(image: Tensor, scale: int = 1, *, photo: bool = False) -> Image.Image:
    """(C, R, R) in [−1, 1], ascending in frequency -> a picture with high frequencies on top, each pixel `scale` wide.

    Equal channels (one or several) are shown in colour, three different ones as they are. A `photo` keeps its first
    row on top, and its grey.
    """
    if photo:
        colour = image.expand(3, -1, -1)
    elif image.shape[0] == 3 and not torch.equal(image[0], image[1]):
        colour = image.flip(1)
    else:
        colour = apply_colormap(image.mean(0)[None, None], "magma")[0].flip(1)
    pixels = ((colour.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    drawn = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    return drawn.resize((drawn.width * scale, drawn.height * scale), Image.Resampling.NEAREST)


def grid(rows: Sequence[Sequence[Tensor]], scale: int = 1, gap: int = 2, *, photo: bool = False) -> Image.Image:
    """Rows of images (C, R, R) -> one picture, white between them."""
    drawn = [[picture(image, scale, photo=photo) for image in row] for row in rows]
    width, height = drawn[0][0].size
    columns = max(len(row) for row in drawn)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, len(drawn) * (height + gap) - gap), "white")
    for r, row in enumerate(drawn):
        for c, part in enumerate(row):
            sheet.paste(part, (c * (width + gap), r * (height + gap)))
    return sheet


def png(drawn: Image.Image) -> bytes:
    """The picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    drawn.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def save_png(drawn: Image.Image, path: str | Path) -> None:
    """Write atomically."""
    with atomic_write(path) as file:
        file.write(png(drawn))
