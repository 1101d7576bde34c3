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
from schurgan.core.errors import did_you_mean
from schurgan.networks import plain_attention
from schurgan.networks.spectral import as_matrix, frozen_power_iterations, raw_weight, weighted_layers
from schurgan.training.learner import Noise, uniform

KINDS = ("relaxed", "full")


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
    noise: torch.Generator | Noise  # random numbers of this part


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

    The weights of all convolutions (1×1 shortcuts and attention's too) and linear layers (those of conditional batch
    norms too) count, as the optimiser holds them: raw, before any spectral constraint. Embeddings, biases, gains of
    batch norm and γ of attention do not. The gradient is the formula's, 4β (Gram(W) ∘ (1 − I)) W. Computed in float32
    or more, whatever autocast says.

    Args:
        weight: β, above 0.
        kind: "relaxed" or "full".
        network: whose loss it is added to.

    Raises:
        ValueError: a weight of 0 or less, or an unknown kind.
    """

    def __init__(
        self,
        weight: float,
        kind: Literal["relaxed", "full"] = "relaxed",
        network: Literal["generator", "discriminator"] = "generator",
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f'kind: "{kind}" given, "relaxed" or "full" is needed{did_you_mean(kind, KINDS)}')
        self.weight, self.kind, self.network = _checked_weight(weight), kind, network

    def __call__(self, network: nn.Module) -> Tensor:
        """Return the term for `network`, a scalar."""
        parameter = next(network.parameters())
        total = torch.zeros((), device=parameter.device)
        distance = relaxed_distance if self.kind == "relaxed" else full_distance
        with torch.autocast(parameter.device.type, enabled=False):
            for layer in weighted_layers(network).values():
                if not isinstance(layer, nn.Embedding):
                    matrix = as_matrix(raw_weight(layer))
                    total = total + distance(matrix.to(torch.promote_types(matrix.dtype, torch.float32)))
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

    α_R and α_F are moving averages of D's mean scores of real and generated images: D's scores are drawn to those of
    the other kind. The averages count as constants in the gradient, and are those of all processes of
    torch.distributed. They and the number of steps are in the state_dict. The equation is taken as printed: without
    the clamp, in some code for it, of each difference at 0.

        lecam = LeCam(weight=0.3)
        loss = hinge.discriminator(real_scores, fake_scores) + lecam(real_scores, fake_scores)

    Args:
        weight: of the penalty, above 0.
        decay: of the moving averages per step of D; they start at the first batch's means.
        start: steps of D before the penalty is switched on, while the averages settle.

    Raises:
        ValueError: an option is out of range.
    """

    real: Tensor
    fake: Tensor

    def __init__(self, weight: float, *, decay: float = 0.99, start: int = 1000) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay: {decay} given, a number from 0 to below 1 is needed")
        if start < 0:
            raise ValueError(f"start: {start} given, a whole number of 0 or more is needed")
        self.weight, self.decay, self.start = _checked_weight(weight), decay, start
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))
        self.updates = 0  # in the extra state: `forward` branches on it, and must not wait for a device to do so

    def forward(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        """Return the penalty, a scalar of float32 or more, for D's scores (B,) of real and of generated images.

        The averages take the batch in first; they and the count move in training mode with gradients enabled only.
        """
        real, fake = (s.to(torch.promote_types(s.dtype, torch.float32)) for s in (real_scores, fake_scores))
        if self.training and torch.is_grad_enabled():
            self._update(real.detach(), fake.detach())
        if self.updates <= self.start:
            return real.new_zeros(())
        return self.weight * ((real - self.fake).square().mean() + (fake - self.real).square().mean())

    def discriminator(self, phase: DiscriminatorPhase) -> Tensor:
        """Return the penalty on both kinds of scores."""
        penalty: Tensor = self(phase.real_scores, phase.fake_scores)
        return penalty

    def extra_repr(self) -> str:
        """Return the options."""
        return f"weight={self.weight}, decay={self.decay}, start={self.start}"

    def get_extra_state(self) -> dict[str, Any]:
        """Return the number of steps."""
        return {"updates": self.updates}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from that number of steps."""
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


class Penalty(Regularizer, ABC):
    """weight · P(∇D), with every `every`-th step only, `every` times as strong (lazily: Karras et al. 2020).

        penalty = R1(weight=1.0)
        loss = hinge.discriminator(real_scores, fake_scores)
        loss = loss + penalty(discriminator, real, fake, labels, step=step, noise=noise)

    D's score of an image must depend on no other image (no batch norm in D). `gradients_of_gradients` says how D is
    run.

    Args:
        weight: of the penalty, above 0.
        every: m: it comes with steps 0, m, 2m, ...

    Raises:
        ValueError: weight or every is out of range.
    """

    def __init__(self, weight: float, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every: {every} given, a whole number of 1 or more is needed")
        self.weight, self.every = _checked_weight(weight), every

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
        """Return the penalty, a scalar, differentiable in D's parameters and nothing else.

        Args:
            discriminator: D as a plain module.
            real: real images (B, C, H, W).
            fake: generated images (B, C, H, W).
            labels: their common classes (B,).
            step: number of the step of D.
            noise: random numbers of the step, on the CPU.
        """
        if step % self.every:
            return real.new_zeros((), dtype=_at_least_float32(real))
        images = self.points(real.detach(), fake.detach(), noise)
        images = images.to(_at_least_float32(images)).requires_grad_()
        with gradients_of_gradients(discriminator, images.device.type):
            scores = discriminator(images, labels)
            # One backward pass gives every image's own gradient: no score depends on another image.
            (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
            return self.weight * self.every * self.measure(gradient.flatten(1)).mean()

    def discriminator(self, phase: DiscriminatorPhase) -> Tensor:
        """Return the penalty at the images of the step."""
        return self(phase.network, phase.real, phase.fake, phase.labels, step=phase.step, noise=phase.noise)

    @abstractmethod
    def points(self, real: Tensor, fake: Tensor, noise: torch.Generator | Noise) -> Tensor:
        """The images (B, C, H, W) at which D's gradient is taken."""

    @abstractmethod
    def measure(self, gradient: Tensor) -> Tensor:
        """Gradients (B, CHW)  ->  what is penalised in each (B,)."""


class GradientPenalty(Penalty):
    """weight · E (‖∇D(x̂)‖ − 1)², x̂ = ε x + (1 − ε) G(z), ε ~ U[0, 1] for each pair (Gulrajani et al. 2017).

    What the Wasserstein loss needs, weight 10 in their paper. A pair shares its label, so x̂ has that one too.
    """

    def points(self, real: Tensor, fake: Tensor, noise: torch.Generator | Noise) -> Tensor:
        """Return a place between the images of each pair."""
        if real.shape != fake.shape:
            raise ValueError(
                f"fake: {tuple(fake.shape)} given, the shape of the real images {tuple(real.shape)} is needed"
            )
        share = uniform(noise, len(real), 1, 1, 1).to(real.device, non_blocking=True)
        return torch.lerp(fake.to(real), real, share.to(real.dtype))

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
    """Run `discriminator` inside, and take its gradient inside, where that gradient is to be differentiated in turn.

    - Self-attention takes the plain path and torch.compile steps aside: neither has a second derivative otherwise. The
      plain path holds the map, 16 MiB an image for 64×64 in float32.
    - Autocast is off: a squared norm over all pixels, through two backward passes, loses too much in half precision.
    - Power iterations are frozen. The adversarial forward has advanced them once; with another iteration the penalty
      would be of another D than the loss is of, and how well σ is known would depend on `every`. Their σ still has its
      gradient.

    The penalty's own backward pass may come after: it runs no forward again. `discriminator` is the plain module, not
    one wrapped for several processes: the gradients of the shared parameters reach the wrapper by the loss's backward.
    """
    eager, single = torch.compiler.set_stance("force_eager"), torch.autocast(device, enabled=False)
    with plain_attention(discriminator), single, eager, frozen_power_iterations(discriminator):
        yield


def _checked_weight(weight: float) -> float:
    if not 0 < weight < math.inf:
        raise ValueError(f"weight: {weight} given, a finite number above 0 is needed")
    return weight


def _at_least_float32(images: Tensor) -> torch.dtype:
    return torch.promote_types(images.dtype, torch.float32)
