"""Fréchet distance of two sets of features, as of two Gaussians (Dowson & Landau 1982; FID of Heusel et al. 2017).

    real, fake = Moments(), Moments()
    for images, _ in shards.batches(256):
        real.add(extractor(images).features)
    ...
    frechet_from_moments(real, fake)

Everything is float64: in float32 the distance of a set to itself comes out near −0.2. With factors AᵀA = Σ and
BᵀB = Σ', tr (ΣΣ')^½ is the sum of the singular values of ABᵀ, so that no product of covariances has to have a root:
nothing complex appears, and features that never fire, or are more than the images, cost no accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def checked_features(name: str, features: Tensor, least: int = 1) -> Tensor:
    """`features` (N, d) as float64 on the CPU, without gradient.

    Raises ValueError, calling them `name`, for another number of dimensions, fewer than `least` rows, no columns, and
    rows with NaN or infinite values.
    """
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"{name}: shape {tuple(features.shape)} given, (images, features) is needed")
    if len(features) < least:
        raise ValueError(f"{name}: {len(features)} rows given, {least} or more are needed")
    features = features.detach().cpu().double()
    wrong = int((~features.isfinite()).any(1).sum())
    if wrong:
        raise ValueError(f"{name}: {wrong} of {len(features)} rows hold NaN or infinite values")
    return features


class Moments:
    """Mean and covariance of features that come in parts, in float64 on the CPU.

    Deviations are summed about the mean (Chan et al. 1979), so that features far from 0 lose nothing. Rows are kept
    until there are more of them than features: up to then they take less memory than their covariance, and are an exact
    factor of it.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = torch.zeros(0, dtype=torch.float64)
        self._rows: list[Tensor] | None = []
        self._sums = torch.zeros(0, 0, dtype=torch.float64)  # of products of deviations, once rows are not kept

    @property
    def dimension(self) -> int:
        """d, or 0 while nothing was added."""
        return len(self._mean)

    @property
    def mean(self) -> Tensor:
        """(d,). Raises ValueError while nothing was added."""
        self._require(1)
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """(d, d), divided by N − 1. Raises ValueError for fewer than two rows."""
        self._require(2)
        return self._products() / (self.count - 1)

    def add(self, features: Tensor) -> None:
        """Take in (n, d). Raises ValueError for another d, and for NaN or infinite values; nothing is then taken in."""
        features = checked_features("features", features, 0)
        if len(features):
            part = Moments()
            part.count, part._mean, part._rows = len(features), features.mean(0), [features.clone()]
            self.merge(part)

    def merge(self, other: Moments) -> None:
        """Take in all that `other` (of another process, say) has taken in; `other` stays as it is."""
        if not other.count:
            return
        if self.count and other.dimension != self.dimension:
            raise ValueError(f"features: {other.dimension} columns given after {self.dimension}, as many are needed")
        mean = self._mean if self.count else torch.zeros_like(other._mean)
        total, moved = self.count + other.count, other._mean - mean
        if self._rows is not None and other._rows is not None and total <= other.dimension:
            self._rows = [*self._rows, *other._rows]
        else:
            between = torch.outer(moved, moved) * (self.count * other.count / total)
            self._sums = other._products() + between + (self._products() if self.count else 0)
            self._rows = None
        self.count, self._mean = total, mean + moved * (other.count / total)

    def factor(self) -> Tensor:
        """F (r, d) with FᵀF = covariance and r no more than its rank: of kept rows exact, else from eigenvectors."""
        self._require(2)
        if self._rows is not None:
            return (torch.cat(self._rows) - self._mean) / (self.count - 1) ** 0.5
        values, vectors = torch.linalg.eigh(self.covariance)
        # What rounding leaves of an eigenvalue of 0 would have a root 1e8 times as large.
        rounding = values[-1].clamp_min(0) * self.dimension * torch.finfo(torch.float64).eps
        real = values > rounding
        return values[real].sqrt()[:, None] * vectors[:, real].mT

    def _products(self) -> Tensor:
        """Σ (x − mean)(x − mean)ᵀ, (d, d)."""
        if self._rows is None:
            return self._sums
        centred = torch.cat(self._rows) - self._mean
        return centred.mT @ centred

    def _require(self, least: int) -> None:
        if self.count < least:
            raise ValueError(f"moments: of {self.count} rows, {least} or more are needed")


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|μ − μ'|² + tr(Σ + Σ' − 2(ΣΣ')^½) of features a (N, d) and b (M, d), covariances divided by N − 1 and M − 1.

    With fewer images than about ten times the features it is biased upwards: compare only equal N and M. Raises
    ValueError for fewer than two rows, different d, and NaN or infinite values.
    """
    moments = []
    for name, features in (("a", a), ("b", b)):
        moments.append(Moments())
        moments[-1].add(checked_features(name, features, 2))
    return frechet_from_moments(*moments)


def frechet_from_moments(a: Moments, b: Moments) -> float:
    """`frechet_distance` of the features that went into `a` and `b`; never below 0. Same errors."""
    for name, moments in (("a", a), ("b", b)):
        if moments.count < 2:
            raise ValueError(f"{name}: {moments.count} rows given, 2 or more are needed")
    if a.dimension != b.dimension:
        raise ValueError(f"a, b: {a.dimension} and {b.dimension} features given, equally many are needed")
    first, second = a.factor(), b.factor()
    cross = torch.linalg.svdvals(first @ second.mT).sum()
    distance = (a.mean - b.mean).square().sum() + first.square().sum() + second.square().sum() - 2 * cross
    return max(distance.item(), 0.0)


def frechet_per_class(
    real: Tensor,
    real_labels: Tensor,
    fake: Tensor,
    fake_labels: Tensor,
    *,
    classes: int,
    least: int | None = None,
) -> tuple[float | None, ...]:
    """`frechet_distance` of each class's features, real (N, d) with labels (N,) and fake (M, d) with labels (M,).

    None for a class with fewer than `least` real or generated images: by default d + 1, below which no covariance has
    full rank and the bias exceeds what is to be measured. Raises ValueError as `frechet_distance`, for labels of
    another length or outside 0 to classes − 1, and for a `least` below 2.
    """
    real, fake = checked_features("real", real), checked_features("fake", fake)
    least = real.shape[1] + 1 if least is None else least
    if least < 2:
        raise ValueError(f"least: {least} given, 2 or more is needed")
    real_labels = checked_labels("real_labels", real_labels, len(real), classes)
    fake_labels = checked_labels("fake_labels", fake_labels, len(fake), classes)
    each: list[float | None] = []
    for c in range(classes):
        ours, theirs = real[real_labels == c], fake[fake_labels == c]
        each.append(frechet_distance(ours, theirs) if min(len(ours), len(theirs)) >= least else None)
    return tuple(each)


def checked_labels(name: str, labels: Tensor | Sequence[int], count: int, classes: int | None = None) -> Tensor:
    """`labels` (count,) as int64 on the CPU. Raises ValueError for another shape, kind, or class than is there."""
    labels = torch.as_tensor(labels).detach().cpu()
    if labels.shape != (count,):
        raise ValueError(f"{name}: shape {tuple(labels.shape)} given, ({count},) is needed, one for each image")
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"{name}: {labels.dtype} given, whole numbers are needed")
    labels = labels.long()
    if count and (labels.min() < 0 or (classes is not None and labels.max() >= classes)):
        there = f"{int(labels.min())} to {int(labels.max())}"
        wanted = "0 or more" if classes is None else f"0 to {classes - 1}"
        raise ValueError(f"{name}: {there} given, {wanted} is needed")
    return labels
