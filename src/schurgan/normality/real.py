"""Departures of the real images, taken once: mean and variance, global or per class, and a fingerprint of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .processes import Total

EVERY_EXACT = 8  # real images of a class between two whose exact Δ² is taken as well

Measure = Callable[[Tensor, bool], Tensor]
"""images (B, C, n, n), whether exactly  ->  Δ² (B,)"""


class RealDepartures(NamedTuple):
    """One entry a class, or a single one; variances are unbiased, and classes without images get the overall values."""

    mean: Tensor
    var: Tensor
    share: Tensor  # of the images
    exact_offset: Tensor  # mean of exact Δ² minus `mean`, taken on every eighth image
    images: int
    shape: tuple[int, ...]  # (C, n, n)
    digest: int  # 64 bits over the images, in any order


def real_departures(
    loader: Iterable[Tensor | Sequence[Tensor]],
    measure: Measure,
    *,
    per_class: bool,
    sharded: bool,
    device: torch.device,
) -> RealDepartures:
    """One pass over batches of images, or of (images, labels, ...).

    sharded: every process of torch.distributed sees its own part of the data, and they are put together. Raises
    ValueError for images outside [−1, 1], of several shapes, fewer than two, without labels where `per_class` needs
    them, or with Δ² = 0 throughout.
    """
    values: list[Tensor] = [torch.empty(0)]
    classes: list[Tensor] = [torch.empty(0, dtype=torch.long)]
    offsets: list[Tensor] = [torch.empty(0)]
    chosen: list[Tensor] = [torch.empty(0, dtype=torch.long)]
    shape: tuple[int, ...] = ()
    digest = 0
    seen: dict[int, int] = {}
    for batch in loader:
        images = with_channels(batch if isinstance(batch, Tensor) else batch[0])
        shape = shape or tuple(images.shape[1:])
        _check_real(images, shape)
        labels = _labels(batch, len(images), per_class)
        estimate = measure(images, False)
        # Every class's first image and every eighth after it, so that no class is without one.
        first = [_count(seen, label) % EVERY_EXACT == 0 for label in labels.tolist()]
        index = torch.tensor(first, dtype=torch.bool).nonzero()[:, 0]
        exact = measure(images[index.to(images.device)], True)
        offsets.append((exact - estimate[index.to(estimate.device)]).double().cpu())
        values.append(estimate.double().cpu())
        classes.append(labels)
        chosen.append(labels[index])
        digest = (digest + _digest(images)) % 2**64
    total = Total(sharded, device)
    count = int(total.sum(torch.tensor(sum(map(len, values)))))
    if count < 2:
        raise ValueError(f"{count} real images given: two or more are needed for a mean and a variance")
    k = int(total.max(torch.cat(classes).max() if len(torch.cat(classes)) else torch.tensor(0))) + 1
    mean, var, counts = _moments(torch.cat(values), torch.cat(classes), k, total)
    if not (mean * counts).sum() > 0:
        raise ValueError("the real images have Δ² = 0 throughout, nothing to hold a generator to: other data is needed")
    offset, _, _ = _moments(torch.cat(offsets), torch.cat(chosen), k, total)
    digest = int(total.sum(torch.tensor(digest - 2**63 if digest >= 2**63 else digest))) % 2**64 if sharded else digest
    return RealDepartures(mean, var, counts / count, offset, count, shape, digest)


def with_channels(images: Tensor) -> Tensor:
    """(B, n, n) -> (B, 1, n, n), (B, C, n, n) as it is."""
    if images.ndim not in (3, 4):
        raise ValueError(f"images have shape {tuple(images.shape)}: (B, C, n, n) or (B, n, n) is needed")
    return images.unsqueeze(1) if images.ndim == 3 else images


def _moments(values: Tensor, classes: Tensor, k: int, total: Total) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, unbiased variance and count of each class (k,), in two passes; the overall ones for those without any."""

    def sums(x: Tensor) -> Tensor:
        return total.sum(torch.zeros(k, dtype=torch.float64).index_add_(0, classes, x.double()))

    counts = sums(torch.ones_like(values))
    added = sums(values)
    overall = added.sum() / counts.sum()
    mean = torch.where(counts > 0, added / counts.clamp(min=1), overall)
    squares = sums((values - mean[classes]).square())
    spread = sums((values - overall).square()).sum() / (counts.sum() - 1).clamp(min=1)
    return mean, torch.where(counts > 1, squares / (counts - 1).clamp(min=1), spread), counts


def _check_real(images: Tensor, shape: tuple[int, ...]) -> None:
    if images.shape[1:] != shape:
        raise ValueError(f"real images of {shape} and of {tuple(images.shape[1:])} given: one shape is needed")
    if images.numel() and not images.abs().amax() <= 1.001:
        raise ValueError(f"real images reach from {images.amin():g} to {images.amax():g}: values in [−1, 1] are needed")


def _labels(batch: Tensor | Sequence[Tensor], count: int, per_class: bool) -> Tensor:
    if not per_class:
        return torch.zeros(count, dtype=torch.long)
    if isinstance(batch, Tensor) or len(batch) < 2:
        raise ValueError("per_class needs labels: batches (images, labels) are needed, images alone were given")
    return batch[1].detach().cpu().long()


def _count(seen: dict[int, int], label: int) -> int:
    """How many of the class came before this one."""
    seen[label] = seen.get(label, -1) + 1
    return seen[label]


def _digest(images: Tensor) -> int:
    """64 bits over the images' float32 values, the same in any order of the images and any cut into batches."""
    bits = images.detach().cpu().float().contiguous().view(torch.int32).flatten(1).long()
    generator = torch.Generator().manual_seed(bits.shape[1])
    odd = torch.randint(-(2**62), 2**62, bits.shape[1:], generator=generator) * 2 + 1
    rows = (bits * odd).sum(1)  # wraps around, as it should
    return int(((rows ^ (rows >> 31)) * 0x9E3779B97F4A7C1).sum())
