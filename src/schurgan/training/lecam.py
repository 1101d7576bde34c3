"""LeCam regularisation of the discriminator (Tseng et al. 2021), for small data sets."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from schurgan.core.distributed import current_world


class LeCam(nn.Module):
    """weight · (E (D(x) − α_F)² + E (D(G(z)) − α_R)²), α_R and α_F moving averages of D's mean scores of real and
    generated images: D's scores are drawn to what it says of the other kind.

    weight  of the penalty; 0 is free and keeps no averages
    decay   of the moving averages per step of D; they start at the first batch's means
    start   steps of D before the penalty comes, while the averages settle

        lecam = LeCam(weight=0.3)
        loss = hinge.discriminator(score_real, score_fake) + lecam(score_real, score_fake)

    The averages count as constants in the gradient, and are those of all processes of torch.distributed. They and the
    number of steps are in the state_dict. The equation is taken as printed: without the clamp, in some code for it, of
    each difference at 0. ValueError for options out of range.
    """

    real: Tensor
    fake: Tensor

    def __init__(self, weight: float, *, decay: float = 0.99, start: int = 1000) -> None:
        super().__init__()
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight is {weight}: a finite number of 0 or more is needed")
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}: a number from 0 to below 1 is needed")
        if start < 0:
            raise ValueError(f"start is {start}: a whole number of 0 or more is needed")
        self.weight = weight
        self.decay = decay
        self.start = start
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))
        self.updates = 0  # in the extra state: `forward` branches on it, and must not wait for a device to do so

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """D's scores (B,) of real and generated images -> scalar, at least float32, differentiable in the scores.

        The averages take the batch in first; they and the count move in training mode with gradients enabled only.
        """
        real, fake = (score.to(torch.promote_types(score.dtype, torch.float32)) for score in (real, fake))
        if not self.weight:
            return real.new_zeros(())
        if self.training and torch.is_grad_enabled():
            self._update(real.detach(), fake.detach())
        if self.updates <= self.start:
            return real.new_zeros(())
        return self.weight * ((real - self.fake).square().mean() + (fake - self.real).square().mean())

    def extra_repr(self) -> str:
        return f"weight={self.weight}, decay={self.decay}, start={self.start}"

    def get_extra_state(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]

    def _update(self, real: Tensor, fake: Tensor) -> None:
        mean_real, mean_fake = (mean.to(self.real.dtype) for mean in means_of_processes(real, fake))
        decay = self.decay if self.updates else 0.0
        self.real = torch.lerp(mean_real, self.real, decay)
        self.fake = torch.lerp(mean_fake, self.fake, decay)
        self.updates += 1


def means_of_processes(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Means of scores (B,) over the batches of all processes of torch.distributed, which may differ in length."""
    world = current_world()
    if world.size == 1:
        return real.mean(), fake.mean()
    counts = real.new_full((), len(real)), fake.new_full((), len(fake))
    sums = world.sum_over(torch.stack([real.sum(), fake.sum(), *counts]))
    return sums[0] / sums[2], sums[1] / sums[3]
