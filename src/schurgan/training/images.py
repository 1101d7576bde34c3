"""What a run makes of the prepared images before its networks see them."""

from __future__ import annotations

from typing import Any

import torch

from schurgan.core.errors import UserError
from schurgan.data.codec import Codec, open_codec
from schurgan.data.shards import Shards
from schurgan.runs.config import Config
from schurgan.training.build import build_architecture


def choose_codec(config: Config, shards: Shards) -> Codec:
    """The shards' codec with the run's channels. Raises UserError when G makes images of another size."""
    try:
        architecture = build_architecture(config.model)
    except ValueError as error:
        raise UserError(f"--model.architecture {config.model.architecture}: {error}") from None
    try:
        codec = open_codec(shards.manifest.transform).recolored(config.model.channels, config.model.colormap)
    except ValueError as error:
        raise UserError(f"--model.{error} ({shards.folder})") from None
    if architecture.size != shards.shape[1:]:
        made = f"{architecture.size[0]}x{architecture.size[1]}"
        held = f"{shards.shape[1]}x{shards.shape[2]}"
        raise UserError(
            f'--model.architecture: "{config.model.architecture}" makes images of {made}, {shards.folder} holds {held};'
            f" prepare with --size {architecture.size[0]} or choose another architecture"
        )
    return codec


def kind_of_images(codec: Codec) -> dict[str, Any]:
    """What DiffAugment must know of the images."""
    if codec.colormap is None:
        return {"images": codec.scale, "floor_db": codec.floor_db}
    silence = codec.apply_colormap(torch.full((1, 1, 1, 1), -1.0))
    return {"images": "colormap", "floor": silence.flatten().tolist()}
