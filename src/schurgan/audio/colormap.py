"""Colour maps that can be undone: level -> red, green, blue -> level."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from schurgan.core.isolation import own_settings

# Each map at 33 even steps, hexadecimal RGB, interpolated linearly. viridis and magma: Smith and van der Walt, CC0;
# turbo: Mikhailov, 2019. jet is piecewise linear by definition.
_KNOTS = {
    "viridis": (
        "440154470d6048186a482374472d7b4537814240863e49893b528b375b8d33638d2f6b8e2c728e297a8e26828e23898e21918c"
        "1f988b1fa08822a78528ae8032b67a3fbc734ec36b5ec96270cf5784d44b98d83eaddc30c2df23d8e219ece51bfde725"
    ),
    "magma": (
        "0000040303120a0822130d341d114729115a36106b440f7651127c5d177f6a1c81762181832681902a819c2e7faa337db73779"
        "c43c75d0416fdc4869e75263ef5d5ef56b5cf9795dfc8961fd9869fea772feb67cfec488fed395fde2a3fcf0b2fcfdbf"
    ),
    "turbo": (
        "30123b392a734040a24456c7466be34680f64294ff37a8fa28bceb1ccdd818ddc21fe9af32f2984ef97d6dfe628bff4ba4fc3c"
        "b9f635cdec34dfdf37eecf3af8be39fdac34fe962bfb7e21f46617eb500edf3f08d02f05be2102a91601920b017a0403"
    ),
}
COLORMAPS = ("viridis", "magma", "turbo", "jet")
_LEVELS = 1024


@cache
@own_settings()
def _table(name: str) -> Tensor:
    """(1024, 3) float32 in [−1, 1]."""
    if name not in COLORMAPS:
        raise ValueError(f'colormap "{name}": one of {", ".join(COLORMAPS)} is needed')
    level = torch.linspace(0, 1, _LEVELS)
    if name == "jet":
        centre = torch.tensor([0.75, 0.5, 0.25])
        return (1.5 - 4 * (level[:, None] - centre).abs()).clamp(0, 1) * 2 - 1
    knots = torch.tensor(list(bytes.fromhex(_KNOTS[name])), dtype=torch.float32).view(-1, 3) / 127.5 - 1
    position = level * (len(knots) - 1)
    low = position.long().clamp_max(len(knots) - 2)
    return torch.lerp(knots[low], knots[low + 1], (position - low)[:, None])


@own_settings(keep_grad=True)
def apply_colormap(level: Tensor, name: str) -> Tensor:
    """(B, 1, H, W) in [−1, 1] -> (B, 3, H, W) in [−1, 1] by the nearest of 1,024 colours."""
    index = ((level[:, 0].clamp(-1, 1) + 1) * ((_LEVELS - 1) / 2)).round().long()
    return _table(name).to(level)[index].movedim(-1, 1)


@own_settings(keep_grad=True)
def invert_colormap(image: Tensor, name: str) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W) in [−1, 1]: the level of the colour nearest to each pixel, on the map or off it."""
    table = _table(name).to(image)
    pixels = image.movedim(1, -1).reshape(-1, 3)
    nearest = torch.cat([torch.cdist(part, table).argmin(1) for part in torch.split(pixels, 65536)])
    level = nearest.to(image.dtype) * (2 / (_LEVELS - 1)) - 1
    return level.view(image.shape[0], 1, *image.shape[2:])
