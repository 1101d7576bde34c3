"""The shapes of the networks as data: which widths, which resampling, where attention. A new network is a new row."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import prod
from numbers import Integral
from operator import mul
from typing import Any, Literal, get_args

from schurgan.core.errors import did_you_mean

SkipZ = Literal["chunks", "full", "none"]
ClassEmbedding = Literal["shared", "linear", "separate"]
Resample = Literal["nearest", "strided"]
Part = Literal["generator", "discriminator"]

IMAGE = 0
"""As a stage's `cin`: the image's own channels."""


def check_sizes(least: int = 1, /, **numbers: int | None) -> None:
    """Raise ValueError naming the first that is no whole number of `least` or more (None stands for a default)."""
    for name, number in numbers.items():
        if number is not None and (not isinstance(number, Integral) or number < least):
            raise ValueError(f"{name}: {number} given, a whole number of {least} or more is needed")


@dataclass(frozen=True)
class Stage:
    """One residual block.

    Attributes:
        cin: channels in, as a multiple of the network's width.
        cout: channels out, likewise.
        scale: factor by which a generator enlarges or a discriminator shrinks.
        attention: self-attention on its output.
    """

    cin: int
    cout: int
    scale: int = 2
    attention: bool = False

    def __post_init__(self) -> None:
        check_sizes(0, cin=self.cin)
        check_sizes(cout=self.cout, scale=self.scale)


@dataclass(frozen=True)
class Architecture:
    """A generator and a discriminator that belong together.

    skip_z says what of z reaches the blocks beside the class: "chunks" (chunk 0 the linear layer, chunk i + 1 block i;
    BigGAN), "full" (all of z everywhere; BigGAN-deep) or "none" (z the linear layer only). resample says how blocks
    change size: "nearest" (nearest-neighbour enlargement, average pooling) or "strided" (their 3×3 convolution is
    transposed with that stride in G, and has it in D). Raises ValueError, naming the field that does not fit.
    """

    generator: tuple[Stage, ...]
    discriminator: tuple[Stage, ...]
    width: int = 64
    """Channels of a multiple of 1, unless the network is given another."""
    base: tuple[int, int] = (4, 4)
    """Height and width in pixels of what the linear layer makes."""
    chunk: int = 20
    embedding: int = 128
    """Size of the class embedding that G's blocks share; 0: each gain and bias of their norms has one of its own."""
    skip_z: SkipZ = "chunks"
    latent: int | None = None
    """Length of z, for a skip_z other than "chunks"; None: a chunk for the linear layer and one for each block."""
    resample: Resample = "nearest"
    projection: bool = True
    """Whether D's score has the class's part, e(label)·h; without it D sees no class."""
    class_in_linear: bool = False
    """Whether the linear layer takes the shared embedding beside z."""

    def __post_init__(self) -> None:
        check_sizes(width=self.width, chunk=self.chunk, latent=self.latent)
        check_sizes(0, embedding=self.embedding)
        if len(self.base) != 2 or any(not isinstance(side, int) or side < 1 for side in self.base):
            raise ValueError(f"base: {self.base} given, a height and a width of 1 or more pixels are needed")
        for field, value, known in (("skip_z", self.skip_z, SkipZ), ("resample", self.resample, Resample)):
            if value not in get_args(known):
                *most, last = (f'"{name}"' for name in get_args(known))
                raise ValueError(f'{field}: "{value}" given, {", ".join(most)} or {last} is needed')
        if self.latent is not None and self.skip_z == "chunks":
            raise ValueError(f'latent: {self.latent} given, with skip_z "chunks" it is {self.chunk} for each part')
        if self.class_in_linear and not self.embedding:
            raise ValueError("class_in_linear: a shared embedding is needed, embedding is 0")
        self._check_stages()

    def _check_stages(self) -> None:
        for name, stages in (("generator", self.generator), ("discriminator", self.discriminator)):
            if not stages:
                raise ValueError(f"{name}: no stages given, one or more are needed")
            for i, (before, after) in enumerate(pairwise(stages)):
                if before.cout != after.cin:
                    raise ValueError(
                        f"{name}: stage {i} gives {before.cout} multiples and stage {i + 1} takes {after.cin}"
                    )
            if self.resample == "strided" and (large := [stage.scale for stage in stages if stage.scale > 3]):
                raise ValueError(
                    f'resample: "strided" given, a scale of {large[0]} ({name}) would step over pixels with 3×3 kernels'
                )
        if self.generator[0].cin == IMAGE:
            raise ValueError("generator: its first stage takes multiples of the width, a cin of 1 or more is needed")
        if self.discriminator[0].cin != IMAGE:
            raise ValueError("discriminator: its first stage takes the image, cin=IMAGE is needed")
        shrink = prod(stage.scale for stage in self.discriminator)
        if any(side % shrink for side in self.size):
            raise ValueError(f"discriminator: it shrinks {shrink}-fold, which does not divide {self.size} pixels")
        for part in get_args(Part):
            for i, (stage, (height, width)) in enumerate(zip(getattr(self, part), self.maps(part), strict=True)):
                if stage.attention and (height % 2 or width % 2):
                    raise ValueError(
                        f"attention: stage {i} of the {part} gives {height}×{width} pixels, even sides are needed"
                    )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image in pixels."""
        return self.maps("generator")[-1]

    @property
    def latent_dim(self) -> int:
        """Length of z: `latent`, or a chunk for the linear layer and one for each block."""
        return self.chunk * (len(self.generator) + 1) if self.latent is None else self.latent

    def maps(self, part: Part) -> list[tuple[int, int]]:
        """Height and width in pixels of what each stage of a network gives."""
        stages: tuple[Stage, ...] = getattr(self, part)
        factors = accumulate((stage.scale for stage in stages), mul)
        if part == "generator":
            return [(self.base[0] * factor, self.base[1] * factor) for factor in factors]
        return [(self.size[0] // factor, self.size[1] // factor) for factor in factors]


def customise(
    architecture: Architecture,
    *,
    base: tuple[int, int] | None = None,
    embedding: ClassEmbedding | None = None,
    skip_z: SkipZ | None = None,
    resample: Resample | None = None,
    projection: bool | None = None,
    attention_g: Collection[int] | None = None,
    attention_d: Collection[int] | None = None,
) -> Architecture:
    """Return `architecture` with some of its fields changed; None leaves a field as it is.

    `embedding` says where the class enters G: "shared" by all blocks, "linear" that and beside z in the linear layer,
    "separate" in each gain and bias of a norm by itself. A row of separate ones comes to share one of 128 numbers.

    `attention_g` and `attention_d` are heights in pixels of the maps with self-attention, () for none: every stage of
    the network that gives such a map has it, and no other stage.

    Raises:
        ValueError: no stage gives such a height, or the parts do not fit each other.
    """
    fields = {"base": base, "skip_z": skip_z, "resample": resample, "projection": projection}
    changes: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
    if embedding is not None:
        size = 0 if embedding == "separate" else architecture.embedding or Architecture.embedding
        changes |= {"embedding": size, "class_in_linear": embedding == "linear"}
    if skip_z == "chunks":
        changes["latent"] = None
    places: dict[Part, Collection[int] | None] = {"generator": attention_g, "discriminator": attention_d}
    places = {part: heights for part, heights in places.items() if heights is not None}
    for part in places:  # first none at all: where they were may not fit the new base
        changes[part] = tuple(replace(stage, attention=False) for stage in getattr(architecture, part))
    architecture = replace(architecture, **changes)
    for part, heights in places.items():
        known = [height for height, _ in architecture.maps(part)]
        if unknown := [height for height in heights or () if height not in known]:
            these = ", ".join(map(str, dict.fromkeys(known)))
            raise ValueError(f"attention: {unknown[0]} given, the stages of the {part} give heights of {these} pixels")
        stages = zip(getattr(architecture, part), known, strict=True)
        placed: Any = tuple(replace(stage, attention=height in (heights or ())) for stage, height in stages)
        architecture = replace(architecture, **{part: placed})
    return architecture


def _stages(*widths: int, attention: int | None = None, flat: int = 0) -> tuple[Stage, ...]:
    """A stage from each width to the next, attention after stage `attention`; the last `flat` of them keep the size."""
    last = len(widths) - 1 - flat
    return tuple(
        Stage(cin, cout, scale=2 if i < last else 1, attention=i == attention)
        for i, (cin, cout) in enumerate(pairwise(widths))
    )


# small-*: thin, for a machine without a GPU.
_SMALL: dict[str, Architecture] = {
    "small-16": Architecture(_stages(4, 2, 1), _stages(IMAGE, 1, 2, 4, flat=1), width=16, chunk=16, embedding=32),
    "small-32": Architecture(_stages(8, 4, 2, 1), _stages(IMAGE, 1, 2, 4, 8, flat=1), width=16, chunk=16, embedding=32),
    "small-64": Architecture(
        _stages(16, 8, 4, 2, 1), _stages(IMAGE, 1, 2, 4, 8, 16, flat=1), width=8, chunk=16, embedding=32
    ),
}

# Brock et al. 2019, tables 4 and 5: attention on the 64×64 maps of both networks. 64 pixels: on 32×32, the largest that
# both have beside the image. 32 pixels: the usual form for CIFAR-10, three equal blocks, attention on 16×16.
_BIGGAN: dict[str, Architecture] = {
    "biggan-32": Architecture(
        _stages(4, 4, 4, 4, attention=1), _stages(IMAGE, 4, 4, 4, 4, attention=0, flat=2), width=96
    ),
    "biggan-64": Architecture(
        _stages(16, 16, 8, 4, 2, attention=2), _stages(IMAGE, 1, 2, 4, 8, 16, attention=0, flat=1), width=96
    ),
    "biggan-128": Architecture(
        _stages(16, 16, 8, 4, 2, 1, attention=3), _stages(IMAGE, 1, 2, 4, 8, 16, 16, attention=0, flat=1), width=96
    ),
    "biggan-256": Architecture(
        _stages(16, 16, 8, 8, 4, 2, 1, attention=3),
        _stages(IMAGE, 1, 2, 4, 8, 8, 16, 16, attention=1, flat=1),
        width=96,
    ),
}


def _sagan(architecture: Architecture, height: int) -> Architecture:
    """Return a row as Zhang et al. 2019 have it, whose blocks BigGAN took over, with attention on maps of `height`.

    z of 128 numbers enters at the linear layer alone, and every gain and bias of a norm has its own class embedding.
    """
    row = replace(architecture, embedding=0, latent=128, skip_z="none", width=64)
    return customise(row, attention_g=(height,), attention_d=(height,))


# At 128 pixels the authors' code and mimicry put attention on 32×32, the best place of their ablation; BigGAN-PyTorch's
# SA-GAN script takes 64×64 and a shared embedding. The authors published no other size: there the blocks are BigGAN's,
# and below 64 pixels the map of 32×32 would be the image, so it is 16×16.
_SAGAN = {f"sagan-{size}": _sagan(_BIGGAN[f"biggan-{size}"], 16 if size == 32 else 32) for size in (32, 64, 128, 256)}

# The discriminators of the paper's Tables 5 and 6, as printed; attention on 64×64.
_PAPER_D_128 = _stages(IMAGE, 2, 8, 16, attention=0)
_PAPER_D_256 = _stages(IMAGE, 2, 4, 8, 16, attention=1)

# The generators of the same tables are printed with two or three blocks, which cannot double 4 pixels up to 128 and
# 256, and with lengths of z that need five and six.
# proposed-*: of the pairs printed (16→4, 4→4, 4→1) only one chain of five or six fits, this one: our inference.
# proposed-ladder-*: BigGAN's own widths for five and six blocks, with the paper's attention on 128×128.
# proposed-literal-*: the blocks as printed, each enlarging 4- or 8-fold; z is three and four chunks. Without attention:
# at 256 pixels no map of 128×128 exists.
# proposed-32: the chain of three blocks for CIFAR-10, of whose network the paper prints no table.
_PROPOSED: dict[str, Architecture] = {
    "proposed-32": Architecture(_stages(16, 4, 4, 1, attention=2), _PAPER_D_128),
    "proposed-128": Architecture(_stages(16, 4, 4, 4, 4, 1, attention=4), _PAPER_D_128),
    "proposed-256": Architecture(_stages(16, 4, 4, 4, 4, 4, 1, attention=4), _PAPER_D_256),
    "proposed-ladder-128": Architecture(_stages(16, 16, 8, 4, 2, 1, attention=4), _PAPER_D_128),
    "proposed-ladder-256": Architecture(_stages(16, 16, 8, 8, 4, 2, 1, attention=4), _PAPER_D_256),
    "proposed-literal-128": Architecture((Stage(16, 4, scale=4), Stage(4, 1, scale=8)), _PAPER_D_128),
    "proposed-literal-256": Architecture(
        (Stage(16, 4, scale=4), Stage(4, 4, scale=4), Stage(4, 1, scale=4)), _PAPER_D_256
    ),
}

ARCHITECTURES: dict[str, Architecture] = {
    **_SMALL,
    "cifar-32": replace(_BIGGAN["biggan-32"], width=64),
    **_SAGAN,
    **_BIGGAN,
    **_PROPOSED,
}


def find_architecture(name: str) -> Architecture:
    """The row of `ARCHITECTURES` called `name`. Raises ValueError, with the nearest name, where there is none."""
    if name not in ARCHITECTURES:
        known = did_you_mean(name, ARCHITECTURES) or f"; known: {', '.join(ARCHITECTURES)}"
        raise ValueError(f'preset "{name}": no such preset{known}')
    return ARCHITECTURES[name]
