"""What metrics ask of their tensors, with errors that name the argument."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_ROUNDING = 1e-3  # of the sum of a row of probabilities, as half precision leaves it


def checked_features(name: str, features: Tensor, least: int = 1) -> Tensor:
    """Return features (N, d) as float64 on the CPU without gradient.

    Raises ValueError for another shape, fewer than `least` rows, NaN and infinite values.
    """
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"{name}: shape {tuple(features.shape)} given, (images, features) is needed")
    if len(features) < least:
        raise ValueError(f"{name}: {len(features)} rows given, {least} or more are needed")
    features = features.detach().cpu().double()
    if wrong := int((~features.isfinite()).any(1).sum()):
        raise ValueError(f"{name}: {wrong} of {len(features)} rows hold NaN or infinite values")
    return features


def checked_rows(name: str, images: Tensor, least: int = 1) -> Tensor:
    """Check images (N, ...) as `checked_features` does, and return them as (N, everything else)."""
    return checked_features(name, images.flatten(1) if images.ndim > 2 else images, least)


def checked_labels(name: str, labels: Tensor | Sequence[int], count: int, classes: int | None = None) -> Tensor:
    """Return labels (count,) as int64 on the CPU.

    Raises ValueError for another shape, numbers that are not whole, and a class outside 0 to classes - 1.
    """
    labels = torch.as_tensor(labels).detach().cpu()
    if labels.shape != (count,):
        raise ValueError(f"{name}: shape {tuple(labels.shape)} given, ({count},) is needed, one for each image")
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"{name}: {labels.dtype} given, whole numbers are needed")
    labels = labels.long()
    if count and (labels.min() < 0 or (classes is not None and labels.max() >= classes)):
        wanted = "0 or more" if classes is None else f"0 to {classes - 1}"
        raise ValueError(f"{name}: {int(labels.min())} to {int(labels.max())} given, {wanted} is needed")
    return labels


def checked_probabilities(name: str, probabilities: Tensor, least: int = 1) -> Tensor:
    """Return probabilities (N, K) as float64 on the CPU, each row divided by its sum.

    Raises ValueError as `checked_features` does, and for rows that are negative somewhere or do not sum to 1.
    """
    probabilities = checked_features(name, probabilities, least)
    sums = probabilities.sum(1, keepdim=True)
    wrong = (probabilities < 0).any(1) | ((sums[:, 0] - 1).abs() > _ROUNDING)
    if wrong.any():
        count = f"{int(wrong.sum())} of {len(wrong)}"
        raise ValueError(f"{name}: {count} rows are negative somewhere or do not sum to 1, as probabilities must")
    return probabilities / sums


def check_width(names: str, a: Tensor, b: Tensor) -> None:
    """Raise ValueError unless both have as many columns."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{names}: {a.shape[1]} and {b.shape[1]} columns given, equally many are needed")
