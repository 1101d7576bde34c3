"""Data sets of pictures: any size and colour to square images in [−1, 1], and which transform a set was made with."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from schurgan.audio import Spectrogram
from schurgan.audio.interpolation import resize_weights
from schurgan.data.manifest import IMAGE
from schurgan.data.sources.base import Source

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey, of ITU-R BT.601."""


class ImageCodec:
    """Square images (B, channels, size, size) in [−1, 1] of pictures of 8 bits: x = q/127.5 − 1.

    channels is 1 for grey or 3 for red, green and blue. `ImageCodec(**config)` without its "transform" is the same
    codec. Raises ValueError naming the argument for values out of range.
    """

    def __init__(self, size: int, channels: int = 3) -> None:
        if not 8 <= size <= 1024:
            raise ValueError(f"size {size}: 8 to 1024 is needed")
        if channels not in (1, 3):
            raise ValueError(f"channels {channels}: 1 for grey or 3 for colour is needed")
        self.size, self.channels = size, channels
        self.config: dict[str, Any] = {"transform": IMAGE, "size": size, "channels": channels}

    def encode(self, pictures: Tensor | Sequence[Tensor]) -> Tensor:
        """Pictures, each (C, H, W) uint8 of 1 or 3 channels and of any size  ->  (B, channels, size, size) float32.

        The square in a picture's middle is resized by area, linearly where it grows. A picture of this very size and
        kind is kept to the byte: `decode` gives it back.
        """
        return torch.stack([self._fit(picture) for picture in pictures])

    def decode(self, images: Tensor) -> Tensor:
        """Images (B, channels, size, size) in [−1, 1]  ->  pictures, uint8; what lies outside is clipped."""
        return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

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


def native_size(source: Source, otherwise: int, most: int = 128) -> int:
    """Side of the first picture of a source of images if it is a square of 8 to `most`, else `otherwise`."""
    for item in source.items()[:1]:
        with contextlib.suppress(Exception):  # a picture that cannot be read has no size; `prepare` says why
            height, width = source.load_image(item).shape[1:]
            if height == width and 8 <= height <= most:
                return int(height)
    return otherwise


@lru_cache(maxsize=64)  # pictures of a folder come in a few sizes
def _weights(n_in: int, n_out: int) -> Tensor:
    return resize_weights(n_in, n_out).float()


def open_transform(config: dict[str, Any]) -> Spectrogram | ImageCodec:
    """The transform whose `config` this is: what made the images of a set, by its manifest.

    Raises ValueError or TypeError for a configuration that is none.
    """
    if config.get("transform") == IMAGE:
        return ImageCodec(**{name: value for name, value in config.items() if name != "transform"})
    return Spectrogram(**config)
