"""One step of training, both phases on one screen."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from schurgan.config import Config
from schurgan.networks import Discriminator, Generator, Latent
from schurgan.normality import DDFN
from schurgan.training.ema import EMA
from schurgan.training.losses import LOSSES

Metrics = dict[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)


class Trainer:
    """Both networks, their optimisers and the condition on G: everything that a step changes, and nothing else.

    A step is a function of this state, its number and its data: its noise comes from a generator seeded by (seed,
    step), so a run that goes on from a saved state repeats the one that was never stopped.
    """

    def __init__(self, config: Config, classes: int, device: torch.device) -> None:
        model, train = config.model, config.train
        torch.manual_seed(train.seed)
        shape = {"width": model.width, "classes": classes, "channels": model.channels, "init": model.init}
        self.config, self.device = config, device
        self.generator = self._place(
            Generator.from_preset(model.ladder, spectral_norm=model.spectral_norm_g, **shape)  # type: ignore[arg-type]
        )
        self.discriminator = self._place(
            Discriminator.from_preset(model.ladder, spectral_norm=model.spectral_norm_d, **shape)  # type: ignore[arg-type]
        )
        self.average = copy.deepcopy(self.generator)
        self.ema = EMA(self.generator, self.average, train.ema)
        self.latent = Latent(self.generator.latent_dim)
        self.loss = LOSSES[train.loss]
        self.ddfn = DDFN(
            config.ddfn.epsilon,
            relative_epsilon=config.ddfn.relative_epsilon,
            weight=config.ddfn.weight,
            estimator=config.ddfn.estimator,
            factor=config.ddfn.factor,
            decay=config.ddfn.decay,
            every=config.ddfn.every,
        ).to(device)
        self.optimizer_g = self._adam(self.generator, train.lr_g)
        self.optimizer_d = self._adam(self.discriminator, train.lr_d)
        self.step = 0

    def run_step(self, batches: list[tuple[Tensor, Tensor]]) -> Metrics:
        """One step on `d_steps` batches of real (images (B, C, R, R), labels (B,)) -> scalars, still on the device."""
        noise = torch.Generator().manual_seed((self.config.train.seed << 32) + self.step)
        for images, labels in batches:
            metrics = self.discriminator_step(images, labels, noise)
        # The last batch's labels, in another order, keep the classes as frequent as in the data.
        order = torch.randperm(len(labels), generator=noise)
        metrics |= self.generator_step(labels[order.to(labels.device)], noise)
        self.ema.update(self.step)
        self.step += 1
        return metrics

    def discriminator_step(self, images: Tensor, labels: Tensor, noise: torch.Generator) -> Metrics:
        with torch.no_grad():
            fake = self.generator(self.sample_latent(len(labels), noise), labels)
        both = torch.cat([images.to(fake), fake]).contiguous(memory_format=torch.channels_last)
        score_real, score_fake = self.discriminator(both, labels.repeat(2)).chunk(2)
        loss = self.loss.discriminator(score_real, score_fake)
        self._optimize(self.optimizer_d, loss)
        return {
            "loss_d": loss.detach(),
            "score_real": score_real.detach().mean(),
            "score_fake": score_fake.detach().mean(),
            "accuracy_d": ((score_real > 0).float().mean() + (score_fake < 0).float().mean()).detach() / 2,
        }

    def generator_step(self, labels: Tensor, noise: torch.Generator) -> Metrics:
        self.discriminator.requires_grad_(False)
        fake = self.generator(self.sample_latent(len(labels), noise), labels)
        loss = self.loss.generator(self.discriminator(fake, labels))
        penalty, departure = self.ddfn(fake, labels)
        self._optimize(self.optimizer_g, loss + penalty)
        self.discriminator.requires_grad_(True)
        return {
            "loss_g": loss.detach(),
            "ddfn": penalty.detach(),
            "ddfn_gap": departure.gap,
            "ddfn_ema_gap": departure.ema_gap,
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
        names = ("generator", "discriminator", "average", "ddfn", "optimizer_g", "optimizer_d")
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
