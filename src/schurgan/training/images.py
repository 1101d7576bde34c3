"""What a run makes of the prepared images before its networks see them."""

from __future__ import annotations

from typing import Any

import torch

from schurgan.audio import Spectrogram
from schurgan.core.errors import UserError
from schurgan.data.codec import ImageCodec, open_transform
from schurgan.data.shards import Shards
from schurgan.runs.config import Config
from schurgan.training.build import build_architecture


def choose_transform(config: Config, shards: Shards) -> Spectrogram | ImageCodec:
    """The shards' transform with the run's channels. Raises UserError when G makes images of another size."""
    try:
        architecture = build_architecture(config.model)
    except ValueError as error:
        raise UserError(f"--model.architecture {config.model.architecture}: {error}") from None
    channels, colormap = config.model.channels, config.model.colormap
    try:
        transform = open_transform(shards.manifest.transform)
        if isinstance(transform, Spectrogram):
            transform = Spectrogram(**(transform.config | {"channels": channels, "colormap": colormap}))
    except ValueError as error:
        raise UserError(f"--model: {error}") from None
    if isinstance(transform, ImageCodec) and (colormap or channels != transform.channels):
        given = f"--model.colormap {colormap}" if colormap else f"--model.channels: {channels}"
        raise UserError(f"{given} given, {shards.folder} holds pictures of {transform.channels} channels as they are")
    if architecture.size != shards.shape[1:]:
        made = f"{architecture.size[0]}x{architecture.size[1]}"
        held = f"{shards.shape[1]}x{shards.shape[2]}"
        raise UserError(
            f'--model.architecture: "{config.model.architecture}" makes images of {made}, {shards.folder} holds {held};'
            f" prepare with --size {architecture.size[0]} or choose another architecture"
        )
    return transform


def kind_of_images(transform: Spectrogram | ImageCodec) -> dict[str, Any]:
    """What DiffAugment must know of the images."""
    if isinstance(transform, ImageCodec):
        return {"images": "photo"}
    if transform.colormap is None:
        return {"images": transform.scale, "floor_db": transform.floor_db}
    silence = transform.paint(torch.full((1, 1, 1, 1), -1.0))
    return {"images": "colormap", "floor": silence.flatten().tolist()}
