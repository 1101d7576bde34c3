"""Images, classes and gradients for tests of conditions on a generator."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from schurgan.normality import DDFN, MomentMatching, departure_from_normality

HINGE = {"penalty": "hinge", "spread": False, "balance": False}


def images(count: int, seed: int = 0, level: float = 1.0, size: int = 8, channels: int = 1) -> Tensor:
    """Evenly distributed noise in [−level, level]."""
    generator = torch.Generator().manual_seed(seed)
    return level * (2 * torch.rand(count, channels, size, size, generator=generator) - 1)


two_channels = partial(images, channels=2)


def labels(count: int, classes: int = 3) -> Tensor:
    return torch.arange(count) % classes


def departures(x: Tensor, method: str = "hybrid") -> Tensor:
    return departure_from_normality(x, method).mean(1)


def gradient(condition: DDFN | MomentMatching, fake: Tensor, classes: Tensor | None = None) -> Tensor:
    """Of the penalty at the images; 0 where it has none."""
    fake = fake.clone().requires_grad_()
    penalty, _ = condition(fake, classes)
    return torch.autograd.grad(penalty, fake)[0] if penalty.requires_grad else torch.zeros_like(fake)


def fitted_ddfn(real: Tensor | None = None, **options) -> DDFN:
    constraint = DDFN(**({"scaling": "signed"} | options))
    constraint.fit_real([two_channels(32) if real is None else real])
    return constraint


def fitted_moments(descriptor="gram", real: Tensor | None = None, own: Tensor | None = None, **options):
    real = images(60) if real is None else real
    condition = MomentMatching(descriptor, **({"classes": 3} | options))
    condition.fit_real([(real, labels(len(real)) if own is None else own)])
    return condition
