"""The shapes of the networks as data: which widths, which resampling, where attention. A new network is a new row."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Literal

from schurgan.errors import did_you_mean

SkipZ = Literal["chunks", "full", "none"]

IMAGE = 0
"""As a stage's `cin`: the image's own channels."""


@dataclass(frozen=True)
class Stage:
    """One residual block: channels in and out as multiples of the network's width, and the factor by which a generator
    enlarges or a discriminator shrinks (1: neither), with self-attention on its output or without."""

    cin: int
    cout: int
    scale: int = 2
    attention: bool = False


@dataclass(frozen=True)
class Ladder:
    """A generator and a discriminator that belong together.

    skip_z says what of z reaches the blocks beside the class: "chunks" (chunk 0 the linear layer, chunk i + 1 block i;
    BigGAN), "full" (all of z everywhere; BigGAN-deep) or "none" (z the linear layer only). Raises ValueError where
    stages do not fit each other.
    """

    generator: tuple[Stage, ...]
    discriminator: tuple[Stage, ...]
    width: int = 64
    """Channels of a multiple of 1, unless the network is given another."""
    base: tuple[int, int] = (4, 4)
    """Height and width in pixels of what the linear layer makes."""
    chunk: int = 20
    embedding: int = 128
    """Size of the generator's class embedding, shared by all blocks."""
    skip_z: SkipZ = "chunks"

    def __post_init__(self) -> None:
        for name, stages in (("generator", self.generator), ("discriminator", self.discriminator)):
            if not stages:
                raise ValueError(f"{name}: no stages given, one or more are needed")
            for i, (before, after) in enumerate(pairwise(stages)):
                if before.cout != after.cin:
                    raise ValueError(
                        f"{name}: stage {i} gives {before.cout} multiples and stage {i + 1} takes {after.cin}"
                    )
        if self.discriminator[0].cin != IMAGE:
            raise ValueError("discriminator: its first stage takes the image, cin=IMAGE is needed")
        if self.skip_z not in ("chunks", "full", "none"):
            raise ValueError(f'skip_z: "{self.skip_z}" given, "chunks", "full" or "none" is needed')
        shrink = prod(stage.scale for stage in self.discriminator)
        if any(side % shrink for side in self.size):
            raise ValueError(f"discriminator: it shrinks {shrink}-fold, which does not divide {self.size} pixels")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image in pixels."""
        scale = prod(stage.scale for stage in self.generator)
        return self.base[0] * scale, self.base[1] * scale

    @property
    def latent_dim(self) -> int:
        """Length of z: a chunk for the linear layer and one for each block."""
        return self.chunk * (len(self.generator) + 1)


# proposed-*: Tables 5 and 6 of the paper print two or three blocks, which cannot reach 128 and 256 pixels, and lengths
# of z that need five and six. Of the pairs printed (16→4, 4→4, 4→1) only one chain fits, this one: our inference.
# biggan-128, cifar-32: Brock et al. 2019, and its usual 32-pixel form. small-*: thin, for a machine without a GPU.
LADDERS: dict[str, Ladder] = {
    "small-16": Ladder(
        generator=(Stage(4, 2), Stage(2, 1)),
        discriminator=(Stage(IMAGE, 1), Stage(1, 2), Stage(2, 4, scale=1)),
        width=16,
        chunk=16,
        embedding=32,
    ),
    "small-32": Ladder(
        generator=(Stage(8, 4), Stage(4, 2), Stage(2, 1)),
        discriminator=(Stage(IMAGE, 1), Stage(1, 2), Stage(2, 4), Stage(4, 8, scale=1)),
        width=16,
        chunk=16,
        embedding=32,
    ),
    "small-64": Ladder(
        generator=(Stage(16, 8), Stage(8, 4), Stage(4, 2), Stage(2, 1)),
        discriminator=(Stage(IMAGE, 1), Stage(1, 2), Stage(2, 4), Stage(4, 8), Stage(8, 16, scale=1)),
        width=8,
        chunk=16,
        embedding=32,
    ),
    "cifar-32": Ladder(
        generator=(Stage(4, 4), Stage(4, 4, attention=True), Stage(4, 4)),
        discriminator=(Stage(IMAGE, 4, attention=True), Stage(4, 4), Stage(4, 4, scale=1), Stage(4, 4, scale=1)),
    ),
    "proposed-128": Ladder(
        generator=(Stage(16, 4), Stage(4, 4), Stage(4, 4), Stage(4, 4), Stage(4, 1, attention=True)),
        discriminator=(Stage(IMAGE, 2, attention=True), Stage(2, 8), Stage(8, 16)),
    ),
    "proposed-256": Ladder(
        generator=(Stage(16, 4), Stage(4, 4), Stage(4, 4), Stage(4, 4), Stage(4, 4, attention=True), Stage(4, 1)),
        discriminator=(Stage(IMAGE, 2), Stage(2, 4, attention=True), Stage(4, 8), Stage(8, 16)),
    ),
    "biggan-128": Ladder(
        generator=(Stage(16, 16), Stage(16, 8), Stage(8, 4), Stage(4, 2, attention=True), Stage(2, 1)),
        discriminator=(
            Stage(IMAGE, 1, attention=True),
            Stage(1, 2),
            Stage(2, 4),
            Stage(4, 8),
            Stage(8, 16),
            Stage(16, 16, scale=1),
        ),
        width=96,
    ),
}


def find_ladder(name: str) -> Ladder:
    """The row of `LADDERS` called `name`. Raises ValueError, with the nearest name, where there is none."""
    if name not in LADDERS:
        raise ValueError(
            f'preset "{name}": no such preset{did_you_mean(name, LADDERS) or "; known: " + ", ".join(LADDERS)}'
        )
    return LADDERS[name]


def check_sizes(**sizes: int | None) -> None:
    """Raise ValueError naming the first size below 1 (None stands for a default)."""
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name}: {size} given, a whole number of 1 or more is needed")
