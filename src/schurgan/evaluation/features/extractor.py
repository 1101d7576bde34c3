"""What turns images or sounds into features: the interface, and the classifier behind it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from schurgan.core.tensors import state_digest
from schurgan.evaluation.features.classifier import ARCHITECTURE, Trained

_CHUNK = 256


class Extracted(NamedTuple):
    """What an extractor makes of N images, in float64 on the CPU."""

    features: Tensor  # (N, d)
    probabilities: Tensor | None
    """(N, K), rows that sum to 1; None where the extractor knows no classes."""


class Extractor(Protocol):
    """Images (N, C, H, W) in [−1, 1], or sounds (N, L), -> Extracted, a chunk at a time and without gradients."""

    @property
    def name(self) -> str:
        """As `open_extractor` takes it."""

    @property
    def digest(self) -> str:
        """Hex SHA-256 of weights, architecture and resize: numbers are comparable only where it is equal."""

    @property
    def resize(self) -> str:
        """What is done to images before: "none", or such as "299x299 bilinear"."""

    def __call__(self, images: Tensor) -> Extracted:
        """Extract features, and probabilities where classes are known."""


class ClassifierExtractor:
    """The 64 features that a trained classifier decides by, and its softmax, uncalibrated.

    An inception score of those depends on how sure the classifier is of itself, so on how it was trained: it compares
    generators under one digest, and never with a published figure.
    """

    name, resize = "classifier", "none"

    def __init__(self, trained: Trained) -> None:
        self.trained = trained
        network = trained.network
        self.digest = state_digest(network.state_dict(), ARCHITECTURE, network.size, network.channels)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Extracted:
        """Extract features (N, 64) and probabilities (N, classes)."""
        network = self.trained.network.eval()
        weight = network.head.weight
        features, probabilities = [], []
        for part in torch.split(images, _CHUNK):
            hidden = network.features(part.to(weight))
            features.append(hidden.double().cpu())
            probabilities.append(network.head(hidden).double().softmax(1).cpu())
        return checked(self.name, len(images), torch.cat(features), torch.cat(probabilities))


def checked(name: str, count: int, features: Tensor, probabilities: Tensor | None) -> Extracted:
    """Return both as Extracted. Raises ValueError for features that are not (count, d) and finite."""
    if features.ndim != 2 or len(features) != count or not features.shape[1]:
        raise ValueError(
            f'extractor "{name}": features {tuple(features.shape)} from an input of {count}; (N, d) are needed'
        )
    if not features.isfinite().all():
        raise ValueError(f'extractor "{name}": some features are not finite; is the input finite?')
    return Extracted(features, probabilities)
