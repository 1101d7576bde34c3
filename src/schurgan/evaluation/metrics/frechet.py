"""Fréchet distance of two sets of features, as of two Gaussians (Dowson & Landau 1982; FID of Heusel et al. 2017).

Ours and not torchmetrics': that one needs a network in front and more images than features. Everything is float64: in
float32 the distance of a set to itself comes out near -0.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from schurgan.evaluation.metrics.checks import check_width, checked_features


@dataclass(frozen=True)
class Gaussian:
    """The mean of features and a factor of their covariance."""

    mean: Tensor
    """(d,)"""
    factor: Tensor
    """F (r, d) with FᵀF = covariance, divided by N - 1."""

    @classmethod
    def fit(cls, features: Tensor, name: str = "features") -> Gaussian:
        """Fit features (N, d). Raises ValueError, calling them `name`, for fewer than two rows, and for NaN."""
        features = checked_features(name, features, 2)
        count, dimension = features.shape
        mean = features.mean(0)
        centred = features - mean
        if count <= dimension:  # the rows are an exact factor, and smaller than the covariance
            return cls(mean, centred / (count - 1) ** 0.5)
        values, vectors = torch.linalg.eigh(centred.mT @ centred / (count - 1))
        # What rounding leaves of an eigenvalue of 0 would have a root 1e8 times as large.
        real = values > values[-1].clamp_min(0) * dimension * torch.finfo(torch.float64).eps
        return cls(mean, values[real].sqrt()[:, None] * vectors[:, real].mT)


def frechet_distance(a: Tensor | Gaussian, b: Tensor | Gaussian) -> float:
    """Squared Fréchet distance |μ - μ'|² + tr(Σ + Σ' - 2(ΣΣ')^½), never below 0.

    With factors AᵀA = Σ and BᵀB = Σ', tr (ΣΣ')^½ is the sum of the singular values of ABᵀ: no product of covariances
    has to have a root, nothing complex appears, and features that never fire cost no accuracy. With fewer images than
    about ten times the features it is biased upwards: compare only equal N and M.

    Takes features (N, d) and (M, d), or the Gaussians fitted to them. Raises ValueError for fewer than two rows,
    different d, NaN and infinite values.
    """
    first = a if isinstance(a, Gaussian) else Gaussian.fit(a, "a")
    second = b if isinstance(b, Gaussian) else Gaussian.fit(b, "b")
    check_width("a, b", first.factor, second.factor)
    cross = torch.linalg.svdvals(first.factor @ second.factor.mT).sum()
    means = (first.mean - second.mean).square().sum()
    distance = means + first.factor.square().sum() + second.factor.square().sum() - 2 * cross
    return max(distance.item(), 0.0)


def frechet_per_class(
    real: Tensor, real_labels: Tensor, fake: Tensor, fake_labels: Tensor, classes: int
) -> tuple[float | None, ...]:
    """Fréchet distance of the features (N, d) and (M, d) of each class; None where a side has fewer than two images."""
    pairs = [(real[real_labels == c], fake[fake_labels == c]) for c in range(classes)]
    return tuple(frechet_distance(a, b) if min(len(a), len(b)) > 1 else None for a, b in pairs)
