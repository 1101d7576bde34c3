"""How different images are from one another: what a collapsing generator loses first."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from schurgan.evaluation.metrics.checks import checked_labels, checked_rows


def variety(images: Tensor, labels: Tensor) -> float:
    """Mean Euclidean distance of two images of one class, over the classes.

    Every class counts alike; a class of fewer than two images is left out. Compare a generator's with the real images'.
    Takes pixels or features (N, ...) and classes (N,). Raises ValueError where no class has two images, and for NaN.
    """
    rows = checked_rows("images", images, 1)
    labels = checked_labels("labels", labels, len(rows))
    each = [F.pdist(rows[labels == c]).mean() for c in labels.unique() if (labels == c).sum() > 1]
    if not each:
        raise ValueError(f"labels: no class has two of the {len(rows)} images, one at least is needed")
    return torch.stack(each).mean().item()


def vendi_score(images: Tensor, scale: float) -> float:
    """Effective number of different images in a batch: from 1, all alike, to B, all distinct (Friedman & Dieng 2023).

    exp(-Σ λ ln λ) over the eigenvalues λ of K/B, with the Gaussian kernel K_ij = exp(-2 (|xᵢ - xⱼ|/scale)²): B images
    in m equal groups of copies, far apart, count as m. This is how we read the "number of spectrogram variety in each
    batch" that Figure 2 of the seed paper plots without a definition.

    `scale` is the distance at which two images (B, ...) pass for different ones (their similarity is e⁻² there), as
    `variety(real, real_labels)` is. Raises ValueError for a scale that is not above 0, no images and NaN.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale: {scale} given, a finite number above 0 is needed")
    rows = checked_rows("images", images, 1)
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    kernel = torch.exp(-2 * (distances / scale).square())
    eigenvalues = torch.linalg.eigvalsh(kernel / len(rows)).clamp_min(0)
    entropy = -torch.xlogy(eigenvalues, eigenvalues).sum().item()
    return min(max(math.exp(entropy), 1.0), float(len(rows)))  # rounding alone leads outside
