"""Gradient penalties on the discriminator: objects with a weight, 0 for none, added to D's loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from schurgan.networks import plain_attention
from schurgan.training.noise import Noise, uniform


class Penalty(ABC):
    """weight · P(D), with every `every`-th step only, `every` times as strong (lazily: Karras et al. 2020).

    weight  of the penalty, a number of 0 or more; 0 is free
    every   m: it comes with steps 0, m, 2m, ...

        penalty = R1(weight=1.0)
        loss = hinge.discriminator(score_real, score_fake)
        loss = loss + penalty(discriminator, real, fake, labels, step=step, noise=noise)

    Called with real and generated images (B, C, H, W), their common labels (B,), the number of the step and the CPU
    generator of its noise: -> scalar, differentiable in D's parameters and nothing else. D's score of an image must
    depend on no other image (no batch norm in D). `gradients_of_gradients` says how D is run. ValueError for a
    weight or `every` out of range.
    """

    def __init__(self, weight: float, every: int = 1) -> None:
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight is {weight}: a finite number of 0 or more is needed")
        if every < 1:
            raise ValueError(f"every is {every}: a whole number of 1 or more is needed")
        self.weight = weight
        self.every = every

    def __call__(
        self,
        discriminator: nn.Module,
        real: Tensor,
        fake: Tensor,
        labels: Tensor,
        *,
        step: int,
        noise: torch.Generator | Noise,
    ) -> Tensor:
        if not self.weight or step % self.every:
            return real.new_zeros((), dtype=at_least_float32(real))
        images = self.points(real.detach(), fake.detach(), noise)
        images = images.to(at_least_float32(images)).requires_grad_()
        with gradients_of_gradients(discriminator, images.device.type):
            scores = discriminator(images, labels)
            # One backward pass gives every image's own gradient: no score depends on another image.
            (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
            return self.weight * self.every * self.measure(gradient.flatten(1)).mean()

    @abstractmethod
    def points(self, real: Tensor, fake: Tensor, noise: torch.Generator | Noise) -> Tensor:
        """The images (B, C, H, W) at which D's gradient is taken."""

    @abstractmethod
    def measure(self, gradient: Tensor) -> Tensor:
        """Gradients (B, CHW)  ->  what is penalised in each (B,)."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(weight={self.weight}, every={self.every})"


class GradientPenalty(Penalty):
    """weight · E (‖∇D(x̂)‖ − 1)², x̂ = ε x + (1 − ε) G(z), ε ~ U[0, 1] for each pair (Gulrajani et al. 2017).

    What the Wasserstein loss needs, weight 10 in their paper. A pair shares its label, so x̂ has that one too.
    """

    def points(self, real: Tensor, fake: Tensor, noise: torch.Generator | Noise) -> Tensor:
        if real.shape != fake.shape:
            raise ValueError(
                f"real images are {tuple(real.shape)} and fake ones {tuple(fake.shape)}: one shape is needed for pairs"
            )
        share = uniform(noise, len(real), 1, 1, 1).to(real.device, non_blocking=True)
        return torch.lerp(fake.to(real), real, share.to(real.dtype))

    def measure(self, gradient: Tensor) -> Tensor:
        return (torch.linalg.vector_norm(gradient, dim=1) - 1).square()


class R1(Penalty):
    """weight/2 · E ‖∇D(x)‖² over the real images (Mescheder et al. 2018; their γ is our weight)."""

    def points(self, real: Tensor, fake: Tensor, noise: torch.Generator | Noise) -> Tensor:
        return real

    def measure(self, gradient: Tensor) -> Tensor:
        return gradient.square().sum(1) / 2


class R2(R1):
    """weight/2 · E ‖∇D(G(z))‖² over the generated images (Mescheder et al. 2018)."""

    def points(self, real: Tensor, fake: Tensor, noise: torch.Generator | Noise) -> Tensor:
        return fake


@contextmanager
def gradients_of_gradients(discriminator: nn.Module, device: str) -> Iterator[None]:
    """Run `discriminator` inside, and take its gradient inside, where that gradient is to be differentiated in turn.

    - Self-attention takes the plain path and torch.compile steps aside: neither has a second derivative otherwise. The
      plain path holds the map, 16 MiB an image for 64×64 in float32.
    - Autocast is off: a squared norm over all pixels, through two backward passes, loses too much in half precision.
    - Parametrizations stay as they are, spectral norm's u and v among them. The adversarial forward has advanced them
      once; with another iteration the penalty would be of another D than the loss is of, and how well σ is known would
      depend on `every`. Their σ still has its gradient.

    The penalty's own backward pass may come after: it runs no forward again. `discriminator` is the plain module, not
    one wrapped for several processes: the gradients of the shared parameters reach the wrapper by the loss's backward.
    """
    with ExitStack() as stack:
        stack.enter_context(plain_attention(discriminator))
        stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(still_parametrizations(discriminator))
        yield


@contextmanager
def still_parametrizations(network: nn.Module) -> Iterator[None]:
    """Run `network` inside with its spectral norms and clamps as they are: no power iteration moves on."""
    parts = [
        part
        for module in network.modules()
        if isinstance(module, parametrize.ParametrizationList)
        for part in module
        if part.training
    ]
    for part in parts:
        part.eval()
    try:
        yield
    finally:
        for part in parts:
            part.train()


def at_least_float32(images: Tensor) -> torch.dtype:
    return torch.promote_types(images.dtype, torch.float32)
