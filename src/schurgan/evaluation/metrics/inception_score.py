"""What a classifier says of generated images: the inception score, and how many pass for their class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from schurgan.evaluation.metrics.checks import checked_labels, checked_probabilities
from schurgan.evaluation.metrics.intervals import MeanSd


class Accuracy(NamedTuple):
    """Share of images taken for their class: of all, and of each class, None where it has no image."""

    overall: float
    per_class: tuple[float | None, ...]


def inception_score(probabilities: Tensor, splits: int = 10, seed: int = 0) -> MeanSd:
    """Inception score exp E KL(p(y|x) ‖ p(y)) (Salimans et al. 2016), mean and deviation over parts of the images.

    The nearly equal parts of p(y|x) (N, K) are drawn by `seed`: images come sorted by class, and a part of one class
    would score 1. A part of fewer images than a few times K scores too low. Raises ValueError for fewer images than
    parts, NaN, infinite or negative values, and rows that do not sum to 1.
    """
    probabilities = checked_probabilities("probabilities", probabilities, splits)
    order = torch.randperm(len(probabilities), generator=torch.Generator().manual_seed(seed))
    return MeanSd.of([_score(part) for part in torch.tensor_split(probabilities[order], splits)])


def inception_score_of_runs(runs: Sequence[Tensor]) -> MeanSd:
    """Mean and deviation of the scores of whole runs of images, each (N, K): the seed paper's ten of 5,000."""
    return MeanSd.of([_score(checked_probabilities(f"runs[{i}]", run)) for i, run in enumerate(runs)])


def class_accuracy(probabilities: Tensor, labels: Tensor) -> Accuracy:
    """How often the most probable class, of probabilities (N, K), is the one asked for, labels (N,)."""
    probabilities = checked_probabilities("probabilities", probabilities)
    classes = probabilities.shape[1]
    labels = checked_labels("labels", labels, len(probabilities), classes)
    return accuracy(probabilities.argmax(1), labels, classes)


def accuracy(predicted: Tensor, labels: Tensor, classes: int) -> Accuracy:
    """How often `predicted` (N,) is the class asked for, `labels` (N,)."""
    right = (predicted == labels).double()
    each = [right[labels == c] for c in range(classes)]
    return Accuracy(right.mean().item(), tuple(part.mean().item() if len(part) else None for part in each))


def _score(probabilities: Tensor) -> float:
    mean = probabilities.mean(0)
    divergence = torch.xlogy(probabilities, probabilities) - torch.xlogy(probabilities, mean)
    return max(divergence.sum(1).mean().exp().item(), 1.0)  # by rounding alone it falls below 1
