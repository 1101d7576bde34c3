"""Self-attention of SA-GAN (Zhang et al. 2019) and BigGAN, on a fused kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NARROWEST = 16
"""Width below which a fused kernel on a CPU is no faster but slower: a row of v then fills no vector register."""


class SelfAttention(nn.Module):
    """x + γ·W_o softmax(θ(x) φ(x)ᵀ) g(x), each a 1×1 convolution without bias, γ = 0 at the start.

    x (B, C, H, W)  ->  (B, C, H, W). θ and φ have C/8 channels, g has C/2; φ and g are max-pooled by 2, so the map is
    (HW, HW/4). There is no 1/√d before the softmax.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow, wide = max(channels // 8, 1), max(channels // 2, 1)
        self.query = nn.Conv2d(channels, narrow, 1, bias=False)
        self.key = nn.Conv2d(channels, narrow, 1, bias=False)
        self.value = nn.Conv2d(channels, wide, 1, bias=False)
        self.output = nn.Conv2d(wide, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))
        self.fused = True

    def forward(self, x: Tensor) -> Tensor:
        query = pixels(self.query(x))  # (B, HW, C/8)
        key = pixels(F.max_pool2d(self.key(x), 2))  # (B, HW/4, C/8)
        value = pixels(F.max_pool2d(self.value(x), 2))  # (B, HW/4, C/2)
        attend = fused_attention if self.fused else attention
        seen = attend(query, key, value).mT.reshape(x.shape[0], -1, *x.shape[2:])  # (B, C/2, H, W)
        return torch.addcmul(x, self.gamma, self.output(seen))


def pixels(x: Tensor) -> Tensor:
    """(B, C, H, W)  ->  (B, HW, C), a view where x is channels_last."""
    return x.flatten(2).mT


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q kᵀ) v, holding the (B, n, m) map: q (B, n, d), k (B, m, d), v (B, m, e)  ->  (B, n, e)."""
    return torch.softmax(query @ key.mT, -1) @ value


def fused_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`attention` by a fused kernel, which never holds the map: 1 GiB for four images at 128×128.

    The fused kernels want q, k and v equally wide, each row in one piece, and fall back silently where they are not.
    Zeros appended to q and k change no product, and those appended to v are cut off; the copies are for images that are
    not channels_last. The kernels cannot be differentiated twice: see `plain_attention`.
    """
    wide = value.shape[-1]
    query, key, value = (
        F.pad(x, (0, max(wide, NARROWEST) - x.shape[-1])).unsqueeze(1).contiguous() for x in (query, key, value)
    )
    return F.scaled_dot_product_attention(query, key, value, scale=1.0).squeeze(1)[..., :wide]


@contextmanager
def plain_attention(network: nn.Module) -> Iterator[None]:
    """Within it, every self-attention of `network` takes the plain path, for gradients of gradients (R1, WGAN-GP)."""
    layers = [m for m in network.modules() if isinstance(m, SelfAttention)]
    before = [layer.fused for layer in layers]
    for layer in layers:
        layer.fused = False
    try:
        yield
    finally:
        for layer, fused in zip(layers, before, strict=True):
            layer.fused = fused
