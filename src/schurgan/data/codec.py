"""What makes images in [−1, 1] of recordings or pictures, and undoes it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, Self

import torch
from torch import Tensor

from schurgan.audio import Aux, Spectrogram
from schurgan.audio.interpolation import resize_weights
from schurgan.data.manifest import IMAGE
from schurgan.data.sources.base import Source

LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in grey, of ITU-R BT.601


class ImageCodec:
    """Square images (B, channels, size, size) in [−1, 1] of pictures of 8 bits: x = q/127.5 − 1.

    `size` is 8 to 1024, `channels` 1 for grey or 3 for red, green and blue.
    """

    kind: Literal["images"] = "images"
    scale = "photo"
    floor_db = 80.0
    colormap: str | None = None

    def __init__(self, size: int, channels: int = 3) -> None:
        if not 8 <= size <= 1024:
            raise ValueError(f"size {size}: 8 to 1024 is needed")
        if channels not in (1, 3):
            raise ValueError(f"channels {channels}: 1 for grey or 3 for colour is needed")
        self.size, self.channels = size, channels
        self.config: dict[str, Any] = {"transform": IMAGE, "size": size, "channels": channels}

    def encode(self, pictures: Tensor | Sequence[Tensor]) -> tuple[Tensor, Aux]:
        """Pictures (C, H, W) uint8 of any size -> images (B, channels, size, size) float32, and references of 1.

        The square in the middle is resized by area, linearly where it grows, and kept to the byte at this very size.
        """
        images = torch.stack([self._fit(picture) for picture in pictures])
        return images, Aux(torch.ones(len(images)))

    def decode(self, image: Tensor, aux: Aux | None = None) -> Tensor:
        """Images (B, channels, size, size) in [−1, 1]  ->  pictures, uint8; what lies outside is clipped."""
        return ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def apply_colormap(self, level: Tensor) -> Tensor:
        """A picture has its colours already."""
        return level

    def invert_colormap(self, image: Tensor) -> Tensor:
        """A picture has no levels apart from its colours."""
        return image

    def recolored(self, channels: int, colormap: str | None) -> Self:
        """Itself. ValueError for channels that its pictures do not have, or a colour map."""
        if colormap:
            raise ValueError(f"colormap: {colormap} given, pictures have colours of their own")
        if channels != self.channels:
            raise ValueError(f"channels: {channels} given, the pictures have {self.channels}")
        return self

    def _fit(self, picture: Tensor) -> Tensor:
        shape = tuple(picture.shape)
        if picture.dtype != torch.uint8 or len(shape) != 3 or shape[0] not in (1, 3) or not picture.numel():
            raise ValueError(f"picture {shape} {picture.dtype}: uint8 (C, H, W) of 1 or 3 channels is needed")
        side = min(shape[1:])
        top, left = ((length - side) // 2 for length in shape[1:])
        square = picture[:, top : top + side, left : left + side].float()
        if shape[0] == 3 and self.channels == 1:
            square = torch.tensordot(square.new_tensor(LUMA), square, 1)[None]
        if side != self.size:
            weights = _weights(side, self.size)
            square = weights.T @ square @ weights
        return square.expand(self.channels, -1, -1) / 127.5 - 1


@lru_cache(maxsize=64)  # pictures of a folder come in a few sizes
def _weights(n_in: int, n_out: int) -> Tensor:
    return resize_weights(n_in, n_out).float()


Codec = Spectrogram | ImageCodec
"""Encodes recordings or pictures as square images (B, channels, size, size) in [−1, 1], and decodes them."""


def open_codec(config: dict[str, Any]) -> Codec:
    """The codec that made the images of a set, by the `transform` of its manifest. ValueError if it is none's."""
    if config.get("transform") == IMAGE:
        return ImageCodec(**{name: value for name, value in config.items() if name != "transform"})
    return Spectrogram(**config)


def same_levels(one: Codec, other: Codec) -> bool:
    """Whether both make the same images of recordings but for channels and colour map, or of pictures altogether."""
    colours = {} if one.kind == "images" else {"channels": None, "colormap": None}
    return one.config | colours == other.config | colours


def codec_for(
    source: Source,
    size: int = 0,
    *,
    grey: bool = False,
    seconds: float | None = None,
    sample_rate: int = 16000,
    transform: str = "wavelet",
    scale: str = "log",
    frame: str = "paper",
) -> Codec:
    """The codec for what a source holds, of the options of `schurgan prepare`. ValueError for one out of range.

    `size` 0 is 64, but for square pictures up to 128 x 128 their own; `seconds` None the source's own, or 5.
    """
    if source.kind == "images":
        return ImageCodec(size or _native_size(source), 1 if grey else 3)
    length = getattr(source, "seconds", 5.0) if seconds is None else seconds
    if not 0.05 <= length <= 600:
        raise ValueError(f"seconds: {length:g} given, 0.05 to 600 is needed")
    if not 1000 <= sample_rate <= 384000:
        raise ValueError(f"sample_rate: {sample_rate} given, 1000 to 384000 Hz is needed")
    n_samples = round(length * sample_rate)
    return Spectrogram(
        transform, size or 64, scale, frame=frame, channels=1, sample_rate=sample_rate, n_samples=n_samples
    )


def _native_size(source: Source) -> int:
    for item in source.items()[:1]:
        with contextlib.suppress(Exception):  # a picture that cannot be read has no size; `prepare` says why
            height, width = source.load_image(item).shape[1:]
            if height == width and 8 <= height <= 128:
                return int(height)
    return 64
