"""Adversarial losses: what each network minimises, given D's scores."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor


class Loss(Protocol):
    """A pair of objectives over scores (B,): -> scalar tensors."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor: ...

    def generator(self, fake: Tensor) -> Tensor: ...


class Hinge:
    """Lim and Ye, 2017: D minimises E max(0, 1 − D(x)) + E max(0, 1 + D(G(z))), G minimises −E D(G(z))."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def generator(self, fake: Tensor) -> Tensor:
        return -fake.mean()


LOSSES: dict[str, Loss] = {"hinge": Hinge()}
