"""The pieces of BigGAN (Brock et al. 2019): resampling convolutions, conditional batch norm, residual blocks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, addcmul, nn

from schurgan.networks.attention import SelfAttention

Init = Literal["orthogonal", "glorot", "normal"]

BATCH_NORM_EPS = 1e-4

INITIALISERS: dict[Init, Callable[[Tensor], Tensor]] = {
    "orthogonal": nn.init.orthogonal_,
    "glorot": nn.init.xavier_uniform_,
    "normal": partial(nn.init.normal_, std=0.02),
}


class UpConv2d(nn.Conv2d):
    """3×3 convolution of the s-fold nearest-neighbour enlargement: (B, cin, H, W)  ->  (B, cout, sH, sW).

    The two in one: enlarging repeats each pixel, so the s + 2 taps that a pixel meets are sums of the nine weights, and
    one transposed convolution of stride s does both with 4 instead of 9 products a pixel (s = 2).
    """

    def __init__(self, cin: int, cout: int, scale: int) -> None:
        super().__init__(cin, cout, 3, padding=1)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        if self.scale == 1:
            return super().forward(x)
        kernel = box_sums(self.weight.flip(2, 3).transpose(0, 1), self.scale)
        return F.conv_transpose2d(x, kernel, self.bias, stride=self.scale, padding=1)


class DownConv2d(nn.Conv2d):
    """s-fold average pooling of a 3×3 convolution, as one convolution of stride s.

    (B, cin, H, W)  ->  (B, cout, H/s, W/s).
    """

    def __init__(self, cin: int, cout: int, scale: int) -> None:
        super().__init__(cin, cout, 3, padding=1)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        if self.scale == 1:
            return super().forward(x)
        kernel = box_sums(self.weight, self.scale) / self.scale**2
        return F.conv2d(x, kernel, self.bias, stride=self.scale, padding=1)


def box_sums(weight: Tensor, scale: int) -> Tensor:
    """Each 3×3 kernel convolved with an s×s box of ones: (a, b, 3, 3)  ->  (a, b, s + 2, s + 2)."""
    return F.avg_pool2d(F.pad(weight, [scale - 1] * 4), scale, stride=1, divisor_override=1)


class ConditionalBatchNorm2d(nn.Module):
    """Batch norm whose gain and bias are linear in a condition: (1 + A c) ⊙ (x − μ) / √(var + ε) + B c.

    x (B, C, H, W), c (B, condition)  ->  (B, C, H, W). Centred on 1: with A = B = 0 it is plain batch norm.
    """

    def __init__(self, features: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(features, eps=BATCH_NORM_EPS, affine=False)
        self.gain = nn.Linear(condition, features, bias=False)
        self.bias = nn.Linear(condition, features, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gain = 1 + self.gain(condition)
        bias = self.bias(condition)
        return addcmul(bias[:, :, None, None], self.norm(x), gain[:, :, None, None])


class GBlock(nn.Module):
    """Residual block of the generator: BN-ReLU-up-conv3-BN-ReLU-conv3, plus up-conv1 of the input.

    x (B, cin, H, W), c (B, condition)  ->  (B, cout, sH, sW), through self-attention where the stage has it.
    """

    def __init__(self, cin: int, cout: int, scale: int, condition: int, attention: bool) -> None:
        super().__init__()
        self.scale = scale
        self.norm1 = ConditionalBatchNorm2d(cin, condition)
        self.conv1 = UpConv2d(cin, cout, scale)
        self.norm2 = ConditionalBatchNorm2d(cout, condition)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.shortcut = nn.Conv2d(cin, cout, 1) if cin != cout or scale != 1 else nn.Identity()
        self.attention = SelfAttention(cout) if attention else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x, condition)))
        h = self.conv2(F.relu(self.norm2(h, condition)))
        shortcut = self.shortcut(x)  # 1×1, so it may come before the enlargement: a quarter of the work
        if self.scale != 1:
            shortcut = F.interpolate(shortcut, scale_factor=self.scale, mode="nearest")
        out: Tensor = self.attention(h + shortcut)
        return out


class DBlock(nn.Module):
    """Residual block of the discriminator: ReLU-conv3-ReLU-conv3-pool, plus conv1-pool of the input.

    x (B, cin, H, W)  ->  (B, cout, H/s, W/s), through self-attention where the stage has it. The first block of a
    network takes the image as it is, without the leading ReLU.
    """

    def __init__(self, cin: int, cout: int, scale: int, attention: bool, first: bool) -> None:
        super().__init__()
        self.scale = scale
        self.first = first
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.conv2 = DownConv2d(cout, cout, scale)
        self.shortcut = nn.Conv2d(cin, cout, 1) if cin != cout or scale != 1 else nn.Identity()
        self.attention = SelfAttention(cout) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x if self.first else F.relu(x))  # out of place: the shortcut needs x too
        h = self.conv2(F.relu(h))
        shortcut = x if self.scale == 1 else F.avg_pool2d(x, self.scale)  # before its 1×1 convolution: the same numbers
        out: Tensor = self.attention(h + self.shortcut(shortcut))
        return out


def initialise(network: nn.Module, init: Init) -> None:
    """Draw every convolution, linear layer and embedding anew from torch's global random numbers; set biases to zero.

    "orthogonal" (Saxe et al. 2014: all singular values 1), "glorot" (Glorot & Bengio 2010, uniform) or "normal"
    (N(0, 0.02²)). Raises ValueError for any other name.
    """
    if init not in INITIALISERS:
        raise ValueError(f'init: "{init}" given, "orthogonal", "glorot" or "normal" is needed')
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            INITIALISERS[init](module.weight)
            if not isinstance(module, nn.Embedding) and module.bias is not None:
                nn.init.zeros_(module.bias)
