"""The pieces of BigGAN (Brock et al. 2019): resampling convolutions, conditional batch norm, residual blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schurgan.networks.architectures import Resample

Condition = Tensor | tuple[Tensor, Tensor]
"""Of a block: a vector (B, condition); or, where the block embeds the classes, labels (B,) and noise (B, condition)."""

Init = Literal["orthogonal", "glorot", "normal"]

BATCH_NORM_EPS = 1e-4

NARROWEST = 16
"""Width below which a fused attention kernel on a CPU is slower: a row of v then fills no vector register."""

INITIALISERS: dict[Init, Callable[[Tensor], Tensor]] = {
    "orthogonal": nn.init.orthogonal_,
    "glorot": nn.init.xavier_uniform_,
    "normal": partial(nn.init.normal_, std=0.02),
}


class _ScalingConv2d(nn.Conv2d):
    """A 3×3 convolution that changes the size by `scale`."""

    def __init__(self, cin: int, cout: int, scale: int) -> None:
        super().__init__(cin, cout, 3, padding=1)
        self.scale = scale


class UpConv2d(_ScalingConv2d):
    """3×3 convolution of the s-fold nearest-neighbour enlargement: (B, cin, H, W)  ->  (B, cout, sH, sW).

    Enlarging repeats each pixel, so the s + 2 taps that it meets are sums of the nine weights, and one transposed
    convolution of stride s does both with 4 instead of 9 products a pixel (s = 2).
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.scale == 1:
            return super().forward(x)
        return F.conv_transpose2d(x, self.kernel(), self.bias, stride=self.scale, padding=1)

    def kernel(self) -> Tensor:
        """Of the transposed convolution: (cin, cout, s + 2, s + 2)."""
        weight = self.weight  # read once: each reading of a normalised weight is a power iteration
        return spread(weight.transpose(0, 1), box_sums(self.scale, weight).flip(1))


class DownConv2d(_ScalingConv2d):
    """s-fold average pooling of a 3×3 convolution, as one of stride s: (B, cin, H, W)  ->  (B, cout, H/s, W/s)."""

    def forward(self, x: Tensor) -> Tensor:
        if self.scale == 1:
            return super().forward(x)
        weight = self.weight  # read once: each reading of a normalised weight is a power iteration
        kernel = spread(weight, box_sums(self.scale, weight) / self.scale**2)
        return F.conv2d(x, kernel, self.bias, stride=self.scale, padding=1)


class TransposedConv2d(_ScalingConv2d):
    """3×3 transposed convolution of stride s: (B, cin, H, W)  ->  (B, cout, sH, sW).

    The weight is kept as a convolution's (cout, cin, 3, 3), so that initialisation and norms see the same matrix.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.scale == 1:
            return super().forward(x)
        return F.conv_transpose2d(x, self.kernel(), self.bias, self.scale, padding=1, output_padding=self.scale - 1)

    def kernel(self) -> Tensor:
        """Of the transposed convolution: (cin, cout, 3, 3)."""
        return self.weight.transpose(0, 1)


class StridedConv2d(nn.Conv2d):
    """3×3 convolution of stride s: (B, cin, H, W)  ->  (B, cout, H/s, W/s)."""

    def __init__(self, cin: int, cout: int, scale: int) -> None:
        super().__init__(cin, cout, 3, stride=scale, padding=1)


UP: dict[Resample, type[UpConv2d] | type[TransposedConv2d]] = {"nearest": UpConv2d, "strided": TransposedConv2d}
DOWN: dict[Resample, type[DownConv2d] | type[StridedConv2d]] = {"nearest": DownConv2d, "strided": StridedConv2d}


def box_sums(scale: int, like: Tensor) -> Tensor:
    """Convolution of a 3×3 kernel with an s×s box of ones, as a matrix ((s + 2)², 9) of `like`'s type and device."""
    offset = torch.arange(scale + 2, device=like.device)[:, None] - torch.arange(3, device=like.device)
    side = ((offset >= 0) & (offset < scale)).to(like.dtype)
    return torch.kron(side, side)


def spread(weight: Tensor, taps: Tensor) -> Tensor:
    """Each 3×3 kernel through a matrix ((s + 2)², 9): (a, b, 3, 3)  ->  (a, b, s + 2, s + 2), channels_last.

    One product of matrices for each of a, whatever the layout of the weight: on a CPU up to ten times faster than
    padding and pooling, which took a tenth of a step.
    """
    a, b = weight.shape[:2]
    rows = weight.permute(0, 2, 3, 1).reshape(a, 9, b)
    side = math.isqrt(len(taps))
    return torch.bmm(taps.expand(a, -1, -1), rows).view(a, side, side, b).permute(0, 3, 1, 2)


class ClassTable(nn.Module):
    """E[label] + A n: an embedding of one layer's own, and noise on top of it (Miyato & Koyama 2018).

    labels (B,) int64 below `classes` and n (B, noise)  ->  (B, features). Without an A where noise is 0.
    """

    def __init__(self, classes: int, noise: int, features: int) -> None:
        super().__init__()
        self.table = nn.Embedding(classes, features)
        self.noise = nn.Linear(noise, features, bias=False) if noise else None

    def forward(self, condition: tuple[Tensor, Tensor]) -> Tensor:
        labels, noise = condition
        entry: Tensor = self.table(labels)
        return entry if self.noise is None else entry + self.noise(noise)


class ConditionalBatchNorm2d(nn.Module):
    """Batch norm whose gain and bias are linear in a condition: (1 + A c) ⊙ (x − μ) / √(var + ε) + B c.

    x (B, C, H, W), c (B, condition)  ->  (B, C, H, W). Centred on 1: with A = B = 0 it is plain batch norm.
    With `classes`, A c and B c are two `ClassTable`s, and c is labels (B,) and noise (B, condition).
    """

    def __init__(self, features: int, condition: int, *, classes: int = 0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(features, eps=BATCH_NORM_EPS, affine=False)
        self.gain, self.bias = (
            ClassTable(classes, condition, features) if classes else nn.Linear(condition, features, bias=False)
            for _ in range(2)
        )

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        gain = 1 + self.gain(condition)
        bias = self.bias(condition)
        return torch.addcmul(bias[:, :, None, None], self.norm(x), gain[:, :, None, None])


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


def plain_attention(network: nn.Module) -> AbstractContextManager[None]:
    """Within it, every self-attention of `network` takes the plain path, for gradients of gradients (R1, WGAN-GP)."""
    return attribute_set((m for m in network.modules() if isinstance(m, SelfAttention)), "fused", False)


class GBlock(nn.Module):
    """Residual block of the generator: BN-ReLU-up-conv3-BN-ReLU-conv3, plus up-conv1 of the input.

    x (B, cin, H, W), c (B, condition)  ->  (B, cout, sH, sW), through self-attention where the stage has it. With
    `classes`, its norms embed the classes themselves. `resample` is of the 3×3 convolution, not of the shortcut.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        scale: int,
        condition: int,
        attention: bool,
        *,
        classes: int = 0,
        resample: Resample = "nearest",
    ) -> None:
        super().__init__()
        self.scale = scale
        self.norm1 = ConditionalBatchNorm2d(cin, condition, classes=classes)
        self.conv1 = UP[resample](cin, cout, scale)
        self.norm2 = ConditionalBatchNorm2d(cout, condition, classes=classes)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.shortcut = nn.Conv2d(cin, cout, 1) if cin != cout or scale != 1 else nn.Identity()
        self.attention = SelfAttention(cout) if attention else nn.Identity()

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x, condition)))
        h = self.conv2(F.relu(self.norm2(h, condition)))
        shortcut = self.shortcut(x)  # 1×1, so it may come before the enlargement: a quarter of the work
        if self.scale != 1:
            shortcut = F.interpolate(shortcut, scale_factor=self.scale, mode="nearest")
        out: Tensor = self.attention(h + shortcut)
        return out


class DBlock(nn.Module):
    """Residual block of the discriminator: ReLU-conv3-ReLU-conv3-pool, plus conv1-pool of the input.

    x (B, cin, H, W)  ->  (B, cout, H/s, W/s), through self-attention where the stage has it. The `first` block of a
    network has no leading ReLU. `resample` is of the second 3×3 convolution, not of the shortcut.
    """

    def __init__(
        self, cin: int, cout: int, scale: int, attention: bool, first: bool, *, resample: Resample = "nearest"
    ) -> None:
        super().__init__()
        self.scale = scale
        self.first = first
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.conv2 = DOWN[resample](cout, cout, scale)
        self.shortcut = nn.Conv2d(cin, cout, 1) if cin != cout or scale != 1 else nn.Identity()
        self.attention = SelfAttention(cout) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x if self.first else F.relu(x))  # out of place: the shortcut needs x too
        h = self.conv2(F.relu(h))
        shortcut = x if self.scale == 1 else F.avg_pool2d(x, self.scale)  # before its 1×1 convolution: the same numbers
        out: Tensor = self.attention(h + self.shortcut(shortcut))
        return out


@contextmanager
def attribute_set(modules: Iterable[nn.Module], name: str, value: Any) -> Iterator[None]:
    """Within it, the attribute `name` of every module is `value`; after it, what it was before."""
    before = [(module, getattr(module, name)) for module in modules]
    try:
        for module, _ in before:
            setattr(module, name, value)
        yield
    finally:
        for module, old in before:
            setattr(module, name, old)


def initialise(network: nn.Module, init: Init) -> None:
    """Draw every convolution, linear layer and embedding anew from torch's global random numbers; set biases to zero.

    "orthogonal" (Saxe et al. 2014), "glorot" (Glorot & Bengio 2010, uniform) or "normal" (N(0, 0.02²)).
    """
    if init not in INITIALISERS:
        raise ValueError(f'init: "{init}" given, "orthogonal", "glorot" or "normal" is needed')
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            drawn = module.weight.detach().to(torch.promote_types(module.weight.dtype, torch.float32))
            module.weight.data.copy_(INITIALISERS[init](drawn))  # half types have no QR decomposition
            if not isinstance(module, nn.Embedding) and module.bias is not None:
                nn.init.zeros_(module.bias)
