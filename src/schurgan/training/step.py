"""One step of training, both phases on one screen."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from schurgan.config import Config
from schurgan.networks import leading_singular_values
from schurgan.normality import DDFN
from schurgan.training.augment import DiffAugment
from schurgan.training.build import (
    build_augmentation,
    build_discriminator,
    build_generator,
    build_latent,
    build_loss,
    build_penalties,
)
from schurgan.training.ema import EMA
from schurgan.training.lecam import LeCam
from schurgan.training.regularizers import OrthogonalRegularizer

Metrics = dict[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)


class Trainer:
    """Both networks, their optimisers and the condition on G: everything that a step changes, and nothing else.

    A step is a function of this state, its number and its data: its noise comes from a generator seeded by (seed,
    step), so a run that goes on from a saved state repeats the one that was never stopped.
    """

    def __init__(self, config: Config, classes: int, device: torch.device, augment: DiffAugment | None = None) -> None:
        model, train, regularize = config.model, config.train, config.regularize
        torch.manual_seed(train.seed)
        self.config, self.device = config, device
        self.generator = self._place(build_generator(model, classes))
        self.discriminator = self._place(build_discriminator(model, classes))
        self.average = copy.deepcopy(self.generator)
        self.ema = EMA(self.generator, self.average, train.ema)
        self.latent = build_latent(model, self.generator)
        self.loss = build_loss(train.loss, regularize)
        self.augment = (augment or build_augmentation(regularize)).to(device)
        self.penalties = build_penalties(regularize)
        self.lecam = LeCam(regularize.lecam, start=regularize.lecam_start).to(device)
        self.orthogonal_g = OrthogonalRegularizer(regularize.orthogonal_g, regularize.orthogonal_kind)
        self.orthogonal_d = OrthogonalRegularizer(regularize.orthogonal_d, regularize.orthogonal_kind)
        self.ddfn = DDFN(**config.ddfn.model_dump()).to(device)
        self.optimizer_g = self._adam(self.generator, train.lr_g)
        self.optimizer_d = self._adam(self.discriminator, train.lr_d)
        self.step = 0

    def run_step(self, batches: list[tuple[Tensor, Tensor]]) -> Metrics:
        """One step on `d_steps` batches of real (images (B, C, R, R), labels (B,)) -> scalars, still on the device."""
        noise = torch.Generator().manual_seed((self.config.train.seed << 32) + self.step)
        for number, (images, labels) in enumerate(batches, self.step * len(batches)):
            metrics = self.discriminator_step(images, labels, noise, number)
        # The last batch's labels, in another order, keep the classes as frequent as in the data.
        order = torch.randperm(len(labels), generator=noise)
        metrics |= self.generator_step(labels[order.to(labels.device)], noise)
        self.ema.update(self.step)
        self.step += 1
        return metrics

    def discriminator_step(self, images: Tensor, labels: Tensor, noise: torch.Generator, number: int = 0) -> Metrics:
        with torch.no_grad():
            fake = self.generator(self.sample_latent(len(labels), noise), labels)
        both = torch.cat([images.to(fake), fake]).contiguous(memory_format=torch.channels_last)
        both = self.augment(both, noise)
        score_real, score_fake = self.discriminator(both, labels.repeat(2)).chunk(2)
        loss = self.loss.discriminator(score_real, score_fake)
        constraint = self.orthogonal_d(self.discriminator) + self.lecam(score_real, score_fake)
        real, fake = both.chunk(2)
        for penalty in self.penalties:
            constraint = constraint + penalty(self.discriminator, real, fake, labels, step=number, noise=noise)
        self._optimize(self.optimizer_d, loss + constraint)
        metrics = {
            "loss_d": loss.detach(),
            "constraint_d": constraint.detach(),
            "score_real": score_real.detach().mean(),
            "score_fake": score_fake.detach().mean(),
        }
        if (boundary := self.loss.boundary) is not None:
            right = torch.cat([score_real.detach() > boundary, score_fake.detach() < boundary])
            metrics["accuracy_d"] = right.float().mean()
        return metrics

    def generator_step(self, labels: Tensor, noise: torch.Generator) -> Metrics:
        self.discriminator.requires_grad_(False)
        fake = self.generator(self.sample_latent(len(labels), noise), labels)
        condition = self.ddfn.begin(fake, labels)
        loss = self.loss.generator(self.discriminator(self.augment(fake, noise), labels))
        penalty, departure = condition()  # on a GPU the CPU solves its eigenproblems while D's forward pass runs
        constraint = self.orthogonal_g(self.generator)
        self._optimize(self.optimizer_g, loss + penalty + constraint)
        self.discriminator.requires_grad_(True)
        return {
            "loss_g": loss.detach(),
            "constraint_g": constraint.detach(),
            "ddfn": penalty.detach(),
            "ddfn_gap": departure.gap,
            "ddfn_ema_gap": departure.ema_gap,
        }

    def singular_values(self) -> dict[str, float]:
        """The largest of every layer's weight, as the optimisers hold it; waits for a GPU."""
        parts = {"generator": self.generator, "discriminator": self.discriminator}
        return {
            f"{part}.{name}": round(values[0].item(), 4)
            for part, network in parts.items()
            for name, values in leading_singular_values(network, weights="raw").items()
        }

    def sample_latent(self, n: int, noise: torch.Generator) -> Tensor:
        return self.latent.sample(n, noise, device=self.device)

    def state_dict(self) -> dict[str, object]:
        """Everything that the next step depends on."""
        return {"step": self.step} | {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Raises KeyError, ValueError or RuntimeError when `state` is of another run."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])  # type: ignore[arg-type]
        self.step = int(state["step"])  # type: ignore[call-overload]

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        names = ("generator", "discriminator", "average", "ddfn", "lecam", "optimizer_g", "optimizer_d")
        return {name: getattr(self, name) for name in names}

    def _place(self, network: Network) -> Network:
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def _adam(self, network: nn.Module, rate: float) -> torch.optim.Adam:
        train = self.config.train
        return torch.optim.Adam(network.parameters(), rate, betas=train.betas, eps=train.eps, fused=True)

    @staticmethod
    def _optimize(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
