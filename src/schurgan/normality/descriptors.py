"""Descriptors for moment matching: differentiable statistics of single images.

Each maps images (B, C, H, W) in [0, 1] to (B, m). A new one is a function here and a row of DESCRIPTORS.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .estimators import check_method, departure_from_normality

Descriptor = Callable[[Tensor], Tensor]

GRAM_SIDE = 32  # rows and columns beyond which `gram` pools: its length grows with their square


def variance(images: Tensor) -> Tensor:
    """Variance of an image's pixels, the mean of the channels'  ->  (B, 1). The control of the departure's effect."""
    return images.var((2, 3), correction=0).mean(1, keepdim=True)


def frobenius(images: Tensor) -> Tensor:
    """Squared norm ‖x‖²_F, the mean of the channels'  ->  (B, 1)."""
    return images.square().sum((2, 3)).mean(1, keepdim=True)


def dfn(images: Tensor, estimator: str = "perron") -> Tensor:
    """Departure from normality Δ², the mean of the channels'  ->  (B, 1). ValueError where H ≠ W."""
    return departure_from_normality(images, estimator, channels="mean")[:, None]


def gram(images: Tensor) -> Tensor:
    """Gram matrices [triu(xxᵀ)/W, triu(xᵀx)/H] of each channel  ->  (B, C·(H(H + 1)/2 + W(W + 1)/2)).

    They tell which rows sound together, and which columns. The commutator xᵀx − xxᵀ, whose norm bounds the departure
    from normality on both sides, and ‖x‖²_F are linear in them. Sides above 32 are pooled to 32 by means.
    """
    height, width = (min(side, GRAM_SIDE) for side in images.shape[2:])
    x = F.adaptive_avg_pool2d(images, (height, width))
    return torch.cat([_upper(x @ x.mT / width), _upper(x.mT @ x / height)], 1)


def profile(images: Tensor) -> Tensor:
    """Means and variances of the rows and of the columns of each channel  ->  (B, C·2(H + W)): its envelopes."""
    each = [x for axis in (3, 2) for x in (images.mean(axis), images.var(axis, correction=0))]
    return torch.cat([x.flatten(1) for x in each], 1)


def pixels(images: Tensor) -> Tensor:
    """Pixels, pooled 2×2 by means  ->  (B, C·⌈H/2⌉·⌈W/2⌉)."""
    return F.avg_pool2d(images, 2, ceil_mode=True).flatten(1)


DESCRIPTORS: dict[str, Descriptor] = {each.__name__: each for each in (variance, frobenius, dfn, gram, profile, pixels)}


def find_descriptor(name: str, estimator: str | None = None) -> Descriptor:
    """The descriptor of a name; `estimator` is a method of `departure_from_normality`, for "dfn" alone."""
    if name not in DESCRIPTORS:
        raise ValueError(f'descriptor is "{name}": one of {", ".join(DESCRIPTORS)} is needed')
    if estimator is None:
        return DESCRIPTORS[name]
    if name != "dfn":
        raise ValueError(
            f'estimator is "{estimator}", but descriptor "{name}" estimates nothing: "dfn" alone takes one'
        )
    check_method(estimator)
    return partial(dfn, estimator=estimator)


def _upper(x: Tensor) -> Tensor:
    """Entries on and above the diagonal of symmetric matrices (B, C, n, n)  ->  (B, C·n(n + 1)/2)."""
    n = x.shape[-1]
    row, column = torch.triu_indices(n, n, device=x.device)
    return x.flatten(2).index_select(2, row * n + column).flatten(1)
