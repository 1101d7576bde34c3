"""Kernel distance of two sets of features (KID, Bińkowski et al. 2018): unbiased, whatever their number."""

from __future__ import annotations

import torch
from torch import Tensor

from schurgan.evaluation.metrics.checks import check_width, checked_features
from schurgan.evaluation.metrics.intervals import MeanSd

_SUBSETS = 100


def kernel_distance(real: Tensor, fake: Tensor, subset_size: int, seed: int = 0) -> MeanSd:
    """Mean and deviation (divided by their number) of `squared_discrepancy` over 100 pairs of subsets.

    A true 0 comes out on either side of 0. The deviation tells how much subsets differ; it is no standard error, and 0
    where a subset is all there is.

    Of features (N, d) and (M, d) `subset_size` rows are drawn without repetition. Raises ValueError for a subset larger
    than either set or below 2, different d, NaN and infinite values.
    """
    real, fake = checked_features("real", real), checked_features("fake", fake)
    if not 2 <= subset_size <= min(len(real), len(fake)):
        there = f"of {len(real)} real and {len(fake)} generated images"
        raise ValueError(f"subset_size: {subset_size} given {there}, from 2 to the smaller number is needed")
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(_SUBSETS):
        ours, theirs = (x[torch.randperm(len(x), generator=generator)[:subset_size]] for x in (real, fake))
        values.append(squared_discrepancy(ours, theirs))
    return MeanSd.of(values, correction=0)


def squared_discrepancy(real: Tensor, fake: Tensor) -> float:
    """Unbiased estimate of E k(x, x') + E k(y, y') - 2 E k(x, y) with k(x, y) = (x·y/d + 1)³.

    Raises ValueError for fewer than two rows x (N, d) or y (M, d), different d, NaN and infinite values.
    """
    real, fake = checked_features("real", real, 2), checked_features("fake", fake, 2)
    check_width("real, fake", real, fake)
    kernels = [(_kernel(x, x), len(x)) for x in (real, fake)]
    # Over pairs of different rows: each row with itself is what biases the plain mean.
    within = sum((kernel.sum() - kernel.trace()) / (n * (n - 1)) for kernel, n in kernels)
    return float(within - 2 * _kernel(real, fake).mean())


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.mT / x.shape[1] + 1) ** 3
