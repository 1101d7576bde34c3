"""Spectrogram images and photographs as PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from schurgan.audio.colormap import apply_colormap
from schurgan.core.files import atomic_write
from schurgan.core.terminal import harmless

_LETTERS = 12  # pixels that letters need to be read
_LONGEST = 9  # of a name, in heights of its letters


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


def grid(
    rows: Sequence[Sequence[Tensor]], scale: int = 1, gap: int = 2, *, photo: bool = False, names: Sequence[str] = ()
) -> Image.Image:
    """Rows of images (C, R, R) -> one picture, white between them; the `names` of the rows stand at their left."""
    drawn = [[picture(image, scale, photo=photo) for image in row] for row in rows]
    width, height = drawn[0][0].size
    font = text_font(min(height, max(_LETTERS, height // 5)))
    texts = [fitted(name, font, _LONGEST * font.size) for name in names]
    left = round(max(map(font.getlength, texts)) + font.size / 2) if names else 0
    columns = max(len(row) for row in drawn)
    sheet = Image.new("RGB", (left + columns * (width + gap) - gap, len(drawn) * (height + gap) - gap), "white")
    for r, row in enumerate(drawn):
        for c, part in enumerate(row):
            sheet.paste(part, (left + c * (width + gap), r * (height + gap)))
    for r, text in enumerate(texts):
        ImageDraw.Draw(sheet).text((font.size / 4, r * (height + gap) + height / 2), text, "black", font, anchor="lm")
    return sheet


@cache
def text_font(size: int) -> ImageFont.FreeTypeFont:
    """The font in which pictures are labelled: matplotlib's own, as Pillow's has no letter beyond ASCII."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def fitted(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """A text on one line of at most `width` pixels: of a longer one the middle is left out."""
    shown = text = harmless(" ".join(text.split()))
    kept = min(len(text), round(width))  # few letters are narrower than a pixel
    while font.getlength(shown) > width and kept:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return shown


def png(drawn: Image.Image) -> bytes:
    """The picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    drawn.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def save_png(drawn: Image.Image, path: str | Path) -> None:
    """Write atomically."""
    with atomic_write(path) as file:
        file.write(png(drawn))
