"""Image files as pixels: PNG, JPEG and others, brought to 8 bits of grey or RGB, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from schurgan.core.errors import SchurganError
from schurgan.core.files import open_regular
from schurgan.core.suffixes import IMAGE_FORMATS

MAX_PIXELS = 2**26
"""Width times height that are read at most, 64 megapixels: a bomb of a few kilobytes declares thousands of them."""


class ImageError(SchurganError):
    """An image that cannot be used. The message is one sentence that starts with the path."""


def read_image(path: str | Path) -> Tensor:
    """An image file as pixels (C, H, W) uint8, C = 1 for grey and 3 for colour, turned as its EXIF data says.

    Palettes and CMYK become RGB, 16 bits of grey their upper 8; what is transparent lies on white; of an animation the
    first picture is taken. Formats are told by content, not by name. Raises ImageError for what cannot be opened or
    decoded, is cut short, has more than `MAX_PIXELS` pixels, or holds floats or 32-bit integers.
    """
    try:
        file = open_regular(path)
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: cannot be opened ({getattr(error, 'strerror', None) or error})") from None
    try:
        with file, Image.open(file, formats=tuple(IMAGE_FORMATS)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(f"{path}: {width} by {height} pixels; at most {MAX_PIXELS} in all are read")
            if image.mode in ("I", "F"):  # no way to 8 bits without guessing
                kind = "32-bit integers" if image.mode == "I" else "floats"
                raise ImageError(f"{path}: pixels of {kind}; save it with 8 or 16 bits")
            pixels = _eight_bits(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        raise ImageError(f"{path}: not an image ({' '.join(IMAGE_FORMATS)} can be read)") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{path}: more pixels than the {MAX_PIXELS} that are read at most") from None
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        raise ImageError(f"{path}: damaged ({' '.join(str(error).split()) or type(error).__name__})") from None
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(planes.copy(order="C"))


def _eight_bits(image: Image.Image) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8."""
    if image.mode.startswith("I;16"):
        return (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(image.convert("L" if grey else "RGB"))
