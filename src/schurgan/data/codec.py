"""What makes images in [−1, 1] of recordings or pictures: one interface, found again by its configuration."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from schurgan.audio import Aux, Spectrogram
from schurgan.audio.interpolation import resize_weights
from schurgan.data.manifest import IMAGE
from schurgan.data.sources.base import Source

Kind = Literal["audio", "images"]
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey, of ITU-R BT.601."""


class Codec(Protocol):
    """Makes square images (B, channels, size, size) in [−1, 1], and undoes it.

    `schurgan.audio.Spectrogram` is the codec of recordings, `ImageCodec` that of pictures. `open_codec(config)` is the
    same codec again.
    """

    size: int
    channels: int
    config: dict[str, Any]

    @property
    def kind(self) -> Kind:
        """What it encodes: recordings or pictures."""

    @property
    def scale(self) -> str:
        """What a pixel's value stands for: "linear", "log" or "log_real" magnitude, or the light of a "photo"."""

    @property
    def floor_db(self) -> float:
        """Level in dB of −1 under that of 1, for the logarithmic scales."""

    @property
    def colormap(self) -> str | None:
        """Name of the colour map that gives its images three channels, if there is one."""

    def encode(self, x: Tensor, /) -> tuple[Tensor, Aux]:
        """Recordings or pictures  ->  images (B, channels, size, size), and what those leave out."""

    def decode(self, image: Tensor, /, aux: Aux | None = None) -> Tensor:
        """Images (B, channels, size, size)  ->  recordings or pictures."""

    def apply_colormap(self, level: Tensor, /) -> Tensor:
        """Levels (B, 1, H, W) of recordings  ->  (B, channels, H, W); pictures as they are."""

    def invert_colormap(self, image: Tensor, /) -> Tensor:
        """Undo `apply_colormap`."""

    def recolored(self, channels: int, colormap: str | None) -> Codec:
        """This codec with other channels or another colour map. ValueError where it cannot have them."""


class ImageCodec:
    """Square images (B, channels, size, size) in [−1, 1] of pictures of 8 bits: x = q/127.5 − 1.

    Args:
        size: rows and columns, 8 to 1024.
        channels: 1 for grey or 3 for red, green and blue.

    Raises:
        ValueError: an argument is out of range.
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
        """Resize the square in each picture's middle by area, linearly where it grows.

        A picture of this very size and kind is kept to the byte: `decode` gives it back.

        Args:
            pictures: each (C, H, W) uint8 of 1 or 3 channels and of any size.

        Returns:
            Images (B, channels, size, size) float32, and references of 1.
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


def open_codec(config: dict[str, Any]) -> Codec:
    """The codec that made the images of a set, by the `transform` of its manifest.

    Raises:
        ValueError, TypeError: the configuration is none of a codec's.
    """
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
    """The codec for what a source holds, of the options of a user.

    Args:
        source: of recordings, which the options from `seconds` on concern, or of pictures.
        size: rows and columns; 0 is 64, but for square pictures up to 128 x 128 their own.
        grey: keep pictures in grey.
        seconds: length of a clip; by default the source's own, or 5.
        sample_rate: in Hz.
        transform: "wavelet" or "stft".
        scale: "log", "linear" or "log_real".
        frame: "paper" or "native".

    Raises:
        ValueError: an argument is out of range.
    """
    if source.kind == "images":
        return ImageCodec(size or native_size(source, 64), 1 if grey else 3)
    length = getattr(source, "seconds", 5.0) if seconds is None else seconds
    if not 0.05 <= length <= 600:
        raise ValueError(f"seconds: {length:g} given, 0.05 to 600 is needed")
    if not 1000 <= sample_rate <= 384000:
        raise ValueError(f"sample_rate: {sample_rate} given, 1000 to 384000 Hz is needed")
    n_samples = round(length * sample_rate)
    return Spectrogram(
        transform, size or 64, scale, frame=frame, channels=1, sample_rate=sample_rate, n_samples=n_samples
    )


def native_size(source: Source, otherwise: int, most: int = 128) -> int:
    """Side of the first picture of a source of images if it is a square of 8 to `most`, else `otherwise`."""
    for item in source.items()[:1]:
        with contextlib.suppress(Exception):  # a picture that cannot be read has no size; `prepare` says why
            height, width = source.load_image(item).shape[1:]
            if height == width and 8 <= height <= most:
                return int(height)
    return otherwise
