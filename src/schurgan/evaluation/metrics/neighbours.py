"""Nearest neighbours among features or pixels: are generated images like real ones, of all kinds, and no copies?

Distances are computed pair by pair from differences, in float64: from |x|² + |y|² − 2 x·y two equal images would be at
a small distance, and ties at the edge of a neighbourhood would fall either way. Matrices are made some rows at a time.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from schurgan.evaluation.metrics.checks import check_width, checked_features, checked_labels, checked_rows

_ENTRIES = 2**22  # of a distance matrix at a time, 32 MB


class Neighbourhoods(NamedTuple):
    """Fidelity and diversity of generated images by neighbourhoods."""

    precision: float
    """Share of generated images inside a real image's neighbourhood (Kynkäänniemi et al. 2019)."""
    recall: float
    """Share of real images inside a generated image's neighbourhood."""
    density: float
    """How many real neighbourhoods hold a generated image, over k; may exceed 1 (Naeem et al. 2020)."""
    coverage: float
    """Share of real images whose neighbourhood holds a generated image."""


class Nearest(NamedTuple):
    """The nearest others of each of M images, the nearest first: indices and Euclidean distances, (M, count) each."""

    indices: Tensor
    distances: Tensor


@dataclass(frozen=True)
class Memorisation:
    """How much nearer generated images lie to the training images than to real ones that were held out."""

    ratio: float | None
    """Median of the distance to the nearest training image over that to the nearest held-out one, of the same class and
    among equally many: near `reference_ratio` where nothing is memorised, 0 of copies where all training images were
    drawn. None where most images are copies of held-out ones. With few held-out images look at `near_copies`.
    """
    near_copies: float
    """Share of images less than half as far from a training image, of all, as from the nearest held-out one."""
    reference_ratio: float | None
    """`ratio` of the held-out images themselves, each against the others; None where no class has two of them."""
    reference_near_copies: float | None
    count: int
    """Images judged: those of classes with training and held-out images."""


def prdc(real: Tensor, fake: Tensor, k: int = 5) -> Neighbourhoods:
    """Precision, recall, density and coverage.

    An image's neighbourhood is the open ball up to its k-th nearest other image of its own set; copies of itself count
    as others. So a set with k + 1 copies of one image has an empty neighbourhood there, and a generator that makes one
    image has a recall of 0. Ours and not the package prdc: that one expands squares, by which ties fall either way.

    Raises ValueError for fewer than k + 1 features (N, d) or (M, d), different d, NaN or infinite values, and for real
    images of which each has k copies.
    """
    real, fake = checked_features("real", real, k + 1), checked_features("fake", fake, k + 1)
    check_width("real, fake", real, fake)
    real_radii, fake_radii = _radii(real, k), _radii(fake, k)
    if not real_radii.any():
        raise ValueError(f"real: every row has {k} or more equal to it, no neighbourhood has any size")
    holders = torch.zeros(len(fake), dtype=torch.int64)
    recalled = covered = 0
    for rows, distances in _distances(real, fake):
        inside = distances < real_radii[rows, None]
        holders += inside.sum(0)
        covered += int(inside.any(1).sum())
        recalled += int((distances < fake_radii).any(1).sum())
    return Neighbourhoods(
        precision=(holders > 0).double().mean().item(),
        recall=recalled / len(real),
        density=holders.double().mean().item() / k,
        coverage=covered / len(real),
    )


def nearest(real: Tensor, fake: Tensor, count: int = 1) -> Nearest:
    """The `count` nearest real images (N, ...) of each generated one (M, ...), the first of equals.

    Raises ValueError for fewer than `count` real images, none generated, different shapes, NaN and infinite values.
    """
    real, fake = checked_rows("real", real, count), checked_rows("fake", fake)
    check_width("real, fake", real, fake)
    parts = [part.sort(dim=1, stable=True) for _, part in _distances(fake, real)]
    return Nearest(
        torch.cat([part.indices[:, :count] for part in parts]), torch.cat([part.values[:, :count] for part in parts])
    )


def memorisation(
    fake: Tensor,
    fake_labels: Tensor,
    train: Tensor,
    train_labels: Tensor,
    held_out: Tensor,
    held_out_labels: Tensor,
    *,
    seed: int = 0,
) -> Memorisation:
    """Do generated images copy those trained on? Each set (N, ...), features or pixels, with labels (N,).

    The nearest of many is nearer than the nearest of few, so the ratio is taken to equally many training and held-out
    images of the class, drawn by `seed` from the larger set. Near copies are looked for among all training images, or
    copies of those not drawn would be missed. Held-out images judged the same way, each against the other held-out ones
    of its class, tell what to expect of new recordings.

    Raises ValueError where no class has images in all three sets, and for different shapes, NaN and infinite values.
    """
    fake, train, held_out = (
        checked_rows(name, images) for name, images in (("fake", fake), ("train", train), ("held_out", held_out))
    )
    check_width("fake, train", fake, train)
    check_width("fake, held_out", fake, held_out)
    fake_labels = checked_labels("fake_labels", fake_labels, len(fake))
    train_labels = checked_labels("train_labels", train_labels, len(train))
    held_out_labels = checked_labels("held_out_labels", held_out_labels, len(held_out))
    generator = torch.Generator().manual_seed(seed)
    judged, reference = [], []
    for c in fake_labels.unique():
        made, known, unseen = fake[fake_labels == c], train[train_labels == c], held_out[held_out_labels == c]
        if not (len(known) and len(unseen)):
            continue
        known = known[torch.randperm(len(known), generator=generator)]
        unseen = unseen[torch.randperm(len(unseen), generator=generator)]
        judged.append(_ratios(made, known, unseen))
        for place in range(len(unseen) if len(unseen) > 1 else 0):
            others = torch.cat([unseen[:place], unseen[place + 1 :]])
            reference.append(_ratios(unseen[place : place + 1], known, others))
    if not judged:
        raise ValueError("fake_labels: no class has training and held-out images, one that has both is needed")
    ratio, near_copies = _summary(judged)
    reference_ratio, reference_near_copies = _summary(reference) if reference else (None, None)
    count = sum(part.shape[1] for part in judged)
    return Memorisation(ratio, near_copies, reference_ratio, reference_near_copies, count)


def _ratios(images: Tensor, known: Tensor, unseen: Tensor) -> Tensor:
    """Distances of images (n, d) to the nearest known one over those to the nearest unseen one, and near copies (2, n).

    Known (N, d) and unseen ones (M, d) come in random order: the first of one are a draw from it.
    """
    equal = min(len(known), len(unseen))
    ours, ours_of_all = _minima(images, known, equal)
    theirs, theirs_of_all = _minima(images, unseen, equal)
    # Two sets that both hold the very image (silence, say) tell nothing apart.
    ratios = torch.where((ours == 0) & (theirs == 0), 1.0, ours / theirs)
    return torch.stack((ratios, (ours_of_all < 0.5 * theirs_of_all).double()))


def _summary(parts: list[Tensor]) -> tuple[float | None, float]:
    ratios, near = torch.cat(parts, 1).tolist()
    middle = statistics.median(ratios)
    return middle if middle < float("inf") else None, statistics.fmean(near)


def _radii(features: Tensor, k: int) -> Tensor:
    """Distance of each row (N,) to its k-th nearest other: the (k + 1)-th of all, the first of which is itself."""
    return torch.cat([part.kthvalue(k + 1, dim=1).values for _, part in _distances(features, features)])


def _minima(a: Tensor, b: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Distance of each row of a to the nearest of the first `first` rows of b, and of all rows, (len(a),) each."""
    parts = [(part[:, :first].amin(1), part.amin(1)) for _, part in _distances(a, b)]
    near, nearest_of_all = zip(*parts, strict=True)
    return torch.cat(near), torch.cat(nearest_of_all)


def _distances(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Distances of the rows of a to all of b, some rows at a time: which rows, and (rows, len(b))."""
    size = max(1, _ENTRIES // len(b))
    for start in range(0, len(a), size):
        rows = slice(start, start + size)
        yield rows, torch.cdist(a[rows], b, compute_mode="donot_use_mm_for_euclid_dist")
