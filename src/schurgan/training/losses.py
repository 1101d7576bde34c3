"""Adversarial losses: what each network minimises, given D's scores."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor


class Loss(Protocol):
    """A pair of objectives over scores (B,), both to be minimised: -> scalar tensors.

    Scores are D's last layer as it is, without a sigmoid, and higher for what D takes for real. Every loss is finite,
    with finite gradients, for scores up to ±10⁴ in float32.

    boundary   score above which D takes an image for real; None where scores are known only up to a constant
    lipschitz  the loss needs a D of bounded slope: a gradient penalty, or at least spectral normalisation
    """

    boundary: float | None
    lipschitz: bool

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor: ...

    def generator(self, fake: Tensor) -> Tensor: ...


class Minimax:
    """Eq. (1), Goodfellow et al. 2014, min_G max_D V, V = E log p(x) + E log(1 − p(G(z))), p = σ(D): scores are logits.

    D minimises −V, G minimises the part of V that it can change, E log(1 − p(G(z))), which is negative and without
    bound. G's gradient vanishes where D is sure of its fakes, which is why `NonSaturating` exists.
    """

    boundary: float | None = 0.0
    lipschitz = False

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return -F.logsigmoid(real).mean() - F.logsigmoid(-fake).mean()  # 1 − σ(s) = σ(−s)

    def generator(self, fake: Tensor) -> Tensor:
        return F.logsigmoid(-fake).mean()


class NonSaturating(Minimax):
    """D as in `Minimax`, G minimises −E log p(G(z)): the same fixed point, a gradient while D is ahead."""

    def generator(self, fake: Tensor) -> Tensor:
        return -F.logsigmoid(fake).mean()


class Hinge:
    """Lim and Ye, 2017: D minimises E max(0, 1 − D(x)) + E max(0, 1 + D(G(z))), G minimises −E D(G(z))."""

    boundary: float | None = 0.0
    lipschitz = False

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def generator(self, fake: Tensor) -> Tensor:
        return -fake.mean()


class LeastSquares:
    """Mao et al. 2017, labels 0 and 1: D minimises ½ E (D(x) − 1)² + ½ E D(G(z))², G minimises ½ E (D(G(z)) − 1)²."""

    boundary: float | None = 0.5
    lipschitz = False

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return ((real - 1).square().mean() + fake.square().mean()) / 2

    def generator(self, fake: Tensor) -> Tensor:
        return (fake - 1).square().mean() / 2


class Wasserstein:
    """Arjovsky et al. 2017: D minimises E D(G(z)) − E D(x), G minimises −E D(G(z)).

    −(D's loss) estimates the earth mover's distance times D's Lipschitz constant, so D must be held to a bounded one:
    use it with `penalties.GradientPenalty`. Without, D's scores grow without bound.
    """

    boundary: float | None = None
    lipschitz = True

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return fake.mean() - real.mean()

    def generator(self, fake: Tensor) -> Tensor:
        return -fake.mean()


LOSSES: dict[str, Loss] = {
    "hinge": Hinge(),
    "non_saturating": NonSaturating(),
    "minimax": Minimax(),
    "least_squares": LeastSquares(),
    "wasserstein": Wasserstein(),
}
