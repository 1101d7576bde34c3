"""What a classifier says of generated images: the inception score, and how many pass for their class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from schurgan.evaluation.metrics.frechet import checked_features, checked_labels

_ROUNDING = 1e-3  # of a row's sum: half precision leaves about this


class Score(NamedTuple):
    """A mean and the standard deviation around it, None where there was one value alone."""

    mean: float
    sd: float | None


@dataclass(frozen=True)
class Accuracy:
    """Share of images taken for their class: of all, and of each class, None where it has no image."""

    overall: float
    per_class: tuple[float | None, ...]
    counts: tuple[int, ...]


def inception_score(probabilities: Tensor, splits: int = 10, seed: int = 0) -> Score:
    """exp E KL(p(y|x) ‖ p(y)) of probabilities (N, K), between 1 and K (Salimans et al. 2016).

    The mean and standard deviation (divided by splits − 1) over `splits` equal parts, or nearly so, of the images, in
    an order drawn by `seed`: images come sorted by class, and a part of one class would score 1. A part of fewer images
    than a few times K scores too low. Raises ValueError for fewer images than parts, NaN, infinite or negative values,
    and rows that do not sum to 1.
    """
    if splits < 1:
        raise ValueError(f"splits: {splits} given, 1 or more is needed")
    probabilities = checked_probabilities("probabilities", probabilities, splits)
    order = torch.randperm(len(probabilities), generator=torch.Generator().manual_seed(seed))
    return _summary([_score(part) for part in torch.tensor_split(probabilities[order], splits)])


def inception_score_of_runs(runs: Sequence[Tensor]) -> Score:
    """Mean and standard deviation of the score of whole runs of images, each (N, K): the seed paper's ten of 5,000."""
    if not runs:
        raise ValueError("runs: none given, 1 or more is needed")
    return _summary([_score(checked_probabilities(f"runs[{i}]", run)) for i, run in enumerate(runs)])


def class_accuracy(probabilities: Tensor, labels: Tensor) -> Accuracy:
    """How often the most probable class, of probabilities (N, K), is the one asked for, labels (N,)."""
    probabilities = checked_probabilities("probabilities", probabilities)
    classes = probabilities.shape[1]
    labels = checked_labels("labels", labels, len(probabilities), classes)
    right = (probabilities.argmax(1) == labels).double()
    each = [right[labels == c] for c in range(classes)]
    per_class = tuple(part.mean().item() if len(part) else None for part in each)
    return Accuracy(right.mean().item(), per_class, tuple(len(part) for part in each))


def checked_probabilities(name: str, probabilities: Tensor, least: int = 1) -> Tensor:
    """(N, K) as float64 on the CPU, its rows divided by their sums, which may differ from 1 by rounding alone."""
    probabilities = checked_features(name, probabilities, least)
    sums = probabilities.sum(1, keepdim=True)
    wrong = (probabilities < 0).any(1) | ((sums[:, 0] - 1).abs() > _ROUNDING)
    if wrong.any():
        count = f"{int(wrong.sum())} of {len(wrong)}"
        raise ValueError(f"{name}: {count} rows are negative somewhere or do not sum to 1, as probabilities must")
    return probabilities / sums


def _score(probabilities: Tensor) -> float:
    mean = probabilities.mean(0)
    divergence = torch.xlogy(probabilities, probabilities) - torch.xlogy(probabilities, mean)
    return max(divergence.sum(1).mean().exp().item(), 1.0)  # by rounding alone it falls below 1


def _summary(scores: list[float]) -> Score:
    values = torch.tensor(scores, dtype=torch.float64)
    return Score(values.mean().item(), values.std().item() if len(scores) > 1 else None)
