"""The discriminator: an image and a class in, a score out."""

from __future__ import annotations

from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from schurgan.networks.architectures import IMAGE, Architecture, check_sizes, find_architecture
from schurgan.networks.layers import DBlock, Init, initialise
from schurgan.networks.spectral import apply_spectral_norm


class Discriminator(nn.Module):
    """BigGAN's projection discriminator (Miyato & Koyama 2018), its shape given by an architecture.

    images (B, channels, H, W), labels (B,) int64 below `classes`  ->  scores (B,), w·h + b + e(label)·h with
    h = Σ ReLU(blocks(images)) over the pixels. No batch norm: an image's score depends on no other image. Without
    `architecture.projection` the score is w·h + b, whatever the label.

    `spectral_norm` normalises every layer, the embedding included. Weights come from torch's global random numbers: set
    `torch.manual_seed` before. Raises ValueError for sizes below 1.
    """

    def __init__(
        self,
        architecture: Architecture,
        classes: int,
        width: int | None = None,
        channels: int = 3,
        *,
        spectral_norm: bool = True,
        init: Init = "orthogonal",
    ) -> None:
        super().__init__()
        check_sizes(classes=classes, width=width, channels=channels)
        self.architecture = architecture
        self.classes = classes
        self.channels = channels
        self.width = width = architecture.width if width is None else width
        top = architecture.discriminator[-1].cout * width
        self.blocks = nn.Sequential(
            *(
                DBlock(
                    channels if stage.cin == IMAGE else stage.cin * width,
                    stage.cout * width,
                    stage.scale,
                    stage.attention,
                    first=stage.cin == IMAGE,
                    resample=architecture.resample,
                )
                for stage in architecture.discriminator
            )
        )
        self.linear = nn.Linear(top, 1)
        self.embedding = nn.Embedding(classes, top) if architecture.projection else None
        initialise(self, init)
        if spectral_norm:
            apply_spectral_norm(self)

    @classmethod
    def from_preset(cls, name: str, classes: int = 10, **options: Any) -> Self:
        """The discriminator of a row of `ARCHITECTURES`; `options` are the constructor's."""
        return cls(find_architecture(name), classes, **options)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Scores (B,) of images (B, channels, H, W) and labels (B,)."""
        h = F.relu(self.blocks(images)).sum((2, 3))
        score: Tensor = self.linear(h).squeeze(1)
        return score if self.embedding is None else score + (self.embedding(labels) * h).sum(1)
