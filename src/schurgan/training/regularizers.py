"""Terms that a network's loss has beside the adversarial one: objects with a weight."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from schurgan.core.distributed import current_world
from schurgan.networks import plain_attention
from schurgan.networks.spectral import as_matrix, frozen_power_iterations, raw_weight, weighted_layers
from schurgan.training.learner import Noise, uniform


@dataclass(frozen=True)
class DiscriminatorPhase:
    """What a regulariser sees of a step of D: one part of its batch, both kinds of images augmented."""

    network: nn.Module  # D as a plain module, not wrapped for several processes
    real: Tensor  # real images (B, C, H, W)
    fake: Tensor  # generated images (B, C, H, W), without a gradient to G
    labels: Tensor  # classes (B,) of both
    real_scores: Tensor  # D's scores (B,) of the real images
    fake_scores: Tensor  # D's scores (B,) of the generated images
    step: int  # number of the step of D
    noise: torch.Generator | Noise  # random numbers of this part, on the CPU


@dataclass(frozen=True)
class GeneratorPhase:
    """What a regulariser sees of a step of G: one part of its batch."""

    network: nn.Module  # G as a plain module
    fake: Tensor  # generated images (B, C, H, W), differentiable in G's parameters
    labels: Tensor  # their classes (B,)
    step: int  # number of the step of G


class Regularizer:
    """A term of D's loss, of G's, or of both: a subclass overrides one method, or both.

    One that is an `nn.Module` has its state saved with the run.
    """

    def discriminator(self, phase: DiscriminatorPhase) -> Tensor:
        """Return what is added to D's loss, a scalar."""
        return torch.zeros((), device=phase.fake.device)

    def generator(self, phase: GeneratorPhase) -> Tensor:
        """Return what is added to G's loss, a scalar."""
        return torch.zeros((), device=phase.fake.device)


class OrthogonalRegularizer(Regularizer):
    """β Σ ‖Gram(W) ∘ (1 − I)‖²_F ("relaxed", eq. (13)) or β Σ ‖Gram(W) − I‖²_F ("full", eq. (12)), β = `weight`.

    Gram(W) = WWᵀ holds the inner products of the filters of W (out, everything else); the paper's θᵀθ has them as
    columns. "full" (Brock et al. 2017) wants them orthonormal, "relaxed" (Brock et al. 2019) only orthogonal. The paper
    prints the latter without the ∘; the matrix product that this would be is another number.

    W are the raw weights, before any spectral constraint, of all convolutions and linear layers; embeddings, biases and
    gains do not count.

    Args:
        weight: β, above 0.
        kind: "relaxed" or "full".
        network: whose loss it is added to.

    Raises:
        ValueError: a weight of 0 or less.
    """

    def __init__(
        self,
        weight: float,
        kind: Literal["relaxed", "full"] = "relaxed",
        network: Literal["generator", "discriminator"] = "generator",
    ) -> None:
        self.weight, self.kind, self.network = _checked_weight(weight), kind, network

    def __call__(self, network: nn.Module) -> Tensor:
        """Return the term for `network`, a scalar, in float32 whatever autocast says."""
        parameter = next(network.parameters())
        total = torch.zeros((), device=parameter.device)
        distance = relaxed_distance if self.kind == "relaxed" else full_distance
        with torch.autocast(parameter.device.type, enabled=False):
            for layer in weighted_layers(network).values():
                if not isinstance(layer, nn.Embedding):
                    total = total + distance(as_matrix(raw_weight(layer)))
            return self.weight * total

    def discriminator(self, phase: DiscriminatorPhase) -> Tensor:
        """Return the term of D's weights; 0 where `network` is the generator."""
        return self(phase.network) if self.network == "discriminator" else super().discriminator(phase)

    def generator(self, phase: GeneratorPhase) -> Tensor:
        """Return the term of G's weights; 0 where `network` is the discriminator."""
        return self(phase.network) if self.network == "generator" else super().generator(phase)


def full_distance(matrix: Tensor) -> Tensor:
    """‖WWᵀ − I‖²_F: W (m, n)  ->  scalar. With m > n it is ‖WᵀW − I‖²_F + m − n, the smaller matrix."""
    m, n = matrix.shape
    gram = matrix @ matrix.mT if m <= n else matrix.mT @ matrix
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return (gram - identity).square().sum() + max(m - n, 0)


def relaxed_distance(matrix: Tensor) -> Tensor:
    """‖WWᵀ ∘ (1 − I)‖²_F, the squared inner products of unlike rows: W (m, n)  ->  scalar.

    With m > 2n it is ‖WᵀW‖²_F − Σᵢ‖wᵢ‖⁴: n² instead of m² numbers, which for a generator's first layer are 600
    million. So many rows cannot be near orthogonal, so little cancels there; with fewer, much would.
    """
    m, n = matrix.shape
    if m > 2 * n:
        return (matrix.mT @ matrix).square().sum() - matrix.square().sum(1).square().sum()
    gram = matrix @ matrix.mT
    return (gram - gram.diagonal().diag()).square().sum()


class LeCam(nn.Module, Regularizer):
    """weight · (E (D(x) − α_F)² + E (D(G(z)) − α_R)²), for small data sets (Tseng et al. 2021).

    α_R and α_F are moving averages of D's mean scores of real and generated images over all processes, constants in the
    gradient. The equation is taken as printed: without the clamp, in some code for it, of each difference at 0.

    Args:
        weight: of the penalty, above 0.
        start: steps of D before the penalty is switched on, while the averages settle.

    Raises:
        ValueError: a weight of 0 or less.
    """

    real: Tensor
    fake: Tensor
    decay = 0.99  # of the averages per step of D; they start at the first batch's means

    def __init__(self, weight: float, start: int = 1000) -> None:
        super().__init__()
        self.weight, self.start = _checked_weight(weight), start
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))
        self.updates = 0  # in the extra state: the penalty branches on it, and must not wait for a device to do so

    def discriminator(self, phase: DiscriminatorPhase) -> Tensor:
        """Take the scores into the averages, then return the penalty."""
        real, fake, world = phase.real_scores, phase.fake_scores, current_world()
        means = world.sum_over(torch.stack([real.detach().mean(), fake.detach().mean()])) / world.size
        mean_real, mean_fake = means.to(self.real.dtype)
        decay = self.decay if self.updates else 0.0
        self.real, self.fake = torch.lerp(mean_real, self.real, decay), torch.lerp(mean_fake, self.fake, decay)
        self.updates += 1
        if self.updates <= self.start:
            return real.new_zeros(())
        return self.weight * ((real - self.fake).square().mean() + (fake - self.real).square().mean())

    def get_extra_state(self) -> dict[str, Any]:
        """Return the number of steps."""
        return {"updates": self.updates}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from that number of steps."""
        self.updates = state["updates"]


class Penalty(Regularizer, ABC):
    """weight · P(∇D), with every `every`-th step of D only, `every` times as strong (lazily: Karras et al. 2020).

    D's score of an image must depend on no other image (no batch norm in D).

    Raises:
        ValueError: a weight of 0 or less, or `every` below 1.
    """

    def __init__(self, weight: float, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every: {every} given, a whole number of 1 or more is needed")
        self.weight, self.every = _checked_weight(weight), every

    def discriminator(self, phase: DiscriminatorPhase) -> Tensor:
        """Return the penalty, a scalar, differentiable in D's parameters and nothing else."""
        if phase.step % self.every:
            return super().discriminator(phase)
        images = self.points(phase.real.detach(), phase.fake.detach(), phase.noise).requires_grad_()
        with gradients_of_gradients(phase.network, images.device.type):
            scores = phase.network(images, phase.labels)
            # One backward pass gives every image's own gradient: no score depends on another image.
            (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
            return self.weight * self.every * self.measure(gradient.flatten(1)).mean()

    @abstractmethod
    def points(self, real: Tensor, fake: Tensor, noise: torch.Generator | Noise) -> Tensor:
        """Return the images (B, C, H, W) at which D's gradient is taken."""

    @abstractmethod
    def measure(self, gradient: Tensor) -> Tensor:
        """Return what is penalised in each of the gradients (B, CHW): (B,)."""


class GradientPenalty(Penalty):
    """weight · E (‖∇D(x̂)‖ − 1)², x̂ = ε x + (1 − ε) G(z), ε ~ U[0, 1] for each pair (Gulrajani et al. 2017).

    What the Wasserstein loss needs, weight 10 in their paper. A pair shares its label, so x̂ has that one too.
    """

    def points(self, real: Tensor, fake: Tensor, noise: torch.Generator | Noise) -> Tensor:
        """Return a place between the images of each pair."""
        share = uniform(noise, len(real), 1, 1, 1).to(real.device, non_blocking=True)
        return torch.lerp(fake, real, share.to(real.dtype))

    def measure(self, gradient: Tensor) -> Tensor:
        """Return the squared distance of each norm from 1."""
        return (torch.linalg.vector_norm(gradient, dim=1) - 1).square()


class R1(Penalty):
    """weight/2 · E ‖∇D(x)‖² over the real images (Mescheder et al. 2018; their γ is our weight)."""

    def points(self, real: Tensor, fake: Tensor, noise: torch.Generator | Noise) -> Tensor:
        """Return the real images."""
        return real

    def measure(self, gradient: Tensor) -> Tensor:
        """Return half of each squared norm."""
        return gradient.square().sum(1) / 2


class R2(R1):
    """weight/2 · E ‖∇D(G(z))‖² over the generated images (Mescheder et al. 2018)."""

    def points(self, real: Tensor, fake: Tensor, noise: torch.Generator | Noise) -> Tensor:
        """Return the generated images."""
        return fake


@contextmanager
def gradients_of_gradients(discriminator: nn.Module, device: str) -> Iterator[None]:
    """Inside, run `discriminator` and take a gradient that is to be differentiated in turn.

    - Self-attention takes the plain path and torch.compile steps aside: neither has a second derivative otherwise. The
      plain path holds the map, 16 MiB an image for 64×64 in float32.
    - Autocast is off: a squared norm over all pixels, through two backward passes, loses too much in half precision.
    - Power iterations are frozen: with another one the penalty would be of another D than the loss is of. Their σ still
      has its gradient.

    The penalty's own backward pass may come after. `discriminator` is the plain module: the gradients of the shared
    parameters reach a wrapper for several processes by the loss's backward.
    """
    eager, single = torch.compiler.set_stance("force_eager"), torch.autocast(device, enabled=False)
    with plain_attention(discriminator), single, eager, frozen_power_iterations(discriminator):
        yield


def _checked_weight(weight: float) -> float:
    if not 0 < weight < math.inf:
        raise ValueError(f"weight: {weight} given, a finite number above 0 is needed")
    return weight
