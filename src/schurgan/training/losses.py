"""Adversarial losses: what each network minimises, given D's scores."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor


class Loss(ABC):
    """A pair of objectives over D's scores (B,), both to be minimised.

    Scores are D's last layer without a sigmoid, higher for what D takes for real. Loss and gradients are finite for
    scores up to ±10⁴.
    """

    boundary: float | None = None
    """Score above which D takes an image for real; None where scores are known only up to a constant."""
    lipschitz: bool = False
    """Whether the loss needs a D of bounded slope, by a gradient penalty."""
    relativistic: bool = False
    """Whether G's loss needs scores of real images, which cost D another forward pass."""

    @abstractmethod
    def discriminator(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        """Return D's loss, a scalar."""

    @abstractmethod
    def generator(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        """Return G's loss, a scalar; `real_scores` are empty (0,) unless the loss is `relativistic`."""


class Minimax(Loss):
    """Eq. (1), Goodfellow et al. 2014, p = σ(D): G's gradient vanishes where D is sure of its fakes."""

    boundary = 0.0

    def discriminator(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        """Return −E log p(x) − E log(1 − p(G(z)))."""
        return -F.logsigmoid(real_scores).mean() - F.logsigmoid(-fake_scores).mean()  # 1 − σ(s) = σ(−s)

    def generator(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        """Return E log(1 − p(G(z)))."""
        return F.logsigmoid(-fake_scores).mean()


class NonSaturating(Minimax):
    """D as in `Minimax`; G has the same fixed point, and a gradient while D is ahead."""

    def generator(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        """Return −E log p(G(z))."""
        return -F.logsigmoid(fake_scores).mean()


class Hinge(Loss):
    """Lim and Ye 2017."""

    boundary = 0.0

    def discriminator(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        """Return E max(0, 1 − D(x)) + E max(0, 1 + D(G(z)))."""
        return F.relu(1 - real_scores).mean() + F.relu(1 + fake_scores).mean()

    def generator(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        """Return −E D(G(z))."""
        return -fake_scores.mean()


class LeastSquares(Loss):
    """Mao et al. 2017, with labels 0 and 1."""

    boundary = 0.5

    def discriminator(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        """Return ½ E (D(x) − 1)² + ½ E D(G(z))²."""
        return ((real_scores - 1).square().mean() + fake_scores.square().mean()) / 2

    def generator(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        """Return ½ E (D(G(z)) − 1)²."""
        return (fake_scores - 1).square().mean() / 2


class Wasserstein(Loss):
    """Arjovsky et al. 2017. Without `regularizers.GradientPenalty` D's scores grow without bound."""

    lipschitz = True

    def discriminator(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        """Return E D(G(z)) − E D(x)."""
        return fake_scores.mean() - real_scores.mean()

    def generator(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        """Return −E D(G(z))."""
        return -fake_scores.mean()


LOSSES: dict[str, Loss] = {
    "hinge": Hinge(),
    "non_saturating": NonSaturating(),
    "minimax": Minimax(),
    "least_squares": LeastSquares(),
    "wasserstein": Wasserstein(),
}
