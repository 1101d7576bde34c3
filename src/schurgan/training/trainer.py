"""A step of training, both phases on one screen; `build` makes a trainer from options."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from schurgan.core.distributed import World
from schurgan.networks import Latent, leading_singular_values
from schurgan.networks.batch_norm import convert_batch_norm
from schurgan.normality import Condition
from schurgan.training.augment import DiffAugment
from schurgan.training.learner import Format, Learner, Part, Precision, cut, frozen_parameters
from schurgan.training.losses import Loss
from schurgan.training.regularizers import DiscriminatorPhase, GeneratorPhase, Regularizer

Metrics = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]
_D_PHASE, _G_PHASE, _AUGMENT_PHASE = 0, 1, 2  # each with random numbers of its own


class Trainer:
    """Both networks, their optimisers and all that a step changes.

    A step is a function of this state, its number and its data: its noise comes from a generator seeded by (seed, step,
    phase), so a run that goes on from a saved state repeats the one that was never stopped.

    Each process trains on its share of a batch, in `gradient_accumulation_steps` parts one after another. Shares and
    parts give the step of a single process up to rounding, but for what is not a mean over images: batch norm's
    statistics, which are of all processes but of one part, and LeCam's averages, which move with each part.

    Args:
        generator: z (B, latent_dim), labels (B,) -> images (B, C, R, R) in [−1, 1].
        discriminator: images, labels -> scores (B,). Both networks are on the device of `world`.
        conditions: conditions on G by the names of their metrics. Call their `fit_real` before the first step.
        augment: what is done to every image that D is shown.
        optimizers: of G and of D, made with fused=True.
        seed: of the noise; the networks come with their weights.
        batch_size: real images a step, of all processes together; as many are generated.

    Raises:
        ValueError: batch_size is no multiple of processes times parts.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        loss: Loss,
        regularizers: Sequence[Regularizer],
        conditions: Mapping[str, Condition],
        augment: DiffAugment,
        optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
        latent: Latent,
        ema_decay: float,
        seed: int,
        batch_size: int,
        gradient_accumulation_steps: int,
        precision: Format,
        compile: bool,
        world: World,
    ) -> None:
        self.world, self.device, self.seed, self.batch_size = world, world.device, seed, batch_size
        self.part_size, rest = divmod(batch_size, world.size * gradient_accumulation_steps)
        if rest or not self.part_size:
            parts = f"{world.size} processes x {gradient_accumulation_steps} parts"
            raise ValueError(f"batch_size: {batch_size} given, a multiple of {parts} is needed")
        if world.size > 1:
            convert_batch_norm(generator)
        self.generator, self.discriminator, self.loss = generator, discriminator, loss
        self.generator_ema, self.ema_decay = copy.deepcopy(generator).requires_grad_(False), ema_decay
        self.latent, self.augment = latent, augment.to(self.device)
        self.regularizers, self.conditions = regularizers, conditions
        for part in (*self.regularizers, *self.conditions.values()):
            if isinstance(part, nn.Module):
                part.to(self.device)
        self.precision = Precision(precision, self.device)
        self.g = Learner(generator, optimizers[0], self.precision, world, compile)
        self.d = Learner(discriminator, optimizers[1], self.precision, world, compile)
        self.global_step = 0

    def training_step(self, batches: Sequence[Batch]) -> Metrics:
        """Train D on each batch, then G once.

        Args:
            batches: this process's share of real images (B, C, R, R) and labels (B,), one batch a step of D.

        Returns:
            Scalars, still on the device. "not_finite" is 1 where a loss or a gradient was not finite: what it would
            have changed was then left as it was, without waiting for the device.
        """
        metrics = self._phases(batches)
        update_average(self.generator_ema, self.generator, self.ema_decay, self.global_step)
        self.global_step += 1
        return metrics

    def _phases(self, batches: Sequence[Batch]) -> Metrics:
        faults: list[Tensor] = []
        for number, (images, labels) in enumerate(batches, self.global_step * len(batches)):
            metrics = self.discriminator_step(images, labels, number)
            faults.append(metrics["not_finite"])
        metrics |= self.generator_step(images, labels)
        metrics["not_finite"] = torch.stack([*faults, metrics["not_finite"]]).amax()
        return metrics

    def discriminator_step(self, images: Tensor, labels: Tensor, number: int) -> Metrics:
        """Train D, in its step `number`, on real images (B, C, R, R) of classes (B,) and as many generated ones."""
        rows: list[Metrics] = []
        parts = self._parts(labels, _D_PHASE, number)
        self.d.optimizer.zero_grad(set_to_none=True)
        fakes = self._generate_all(labels, parts)
        for condition in self.conditions.values():
            condition.observe(torch.cat(fakes), labels)
        for part, fake in zip(parts, fakes, strict=True):
            y = labels[part.rows]
            with self.d.backward_of(part):
                both = self._augment(images[part.rows], fake, part)
                real_scores, fake_scores = self._judge(self.d.replicated, both, y.repeat(2)).chunk(2)
                loss = self.loss.discriminator(real_scores, fake_scores)
                real, fake = both.chunk(2)
                seen = DiscriminatorPhase(
                    self.discriminator, real, fake, y, real_scores, fake_scores, number, part.noise
                )
                penalty = self._total(each.discriminator(seen) for each in self.regularizers)
                self.d.scaled((loss + penalty) / len(parts)).backward()
            rows.append({"loss_d": loss, "constraint_d": penalty} | self._score_metrics(real_scores, fake_scores))
        metrics = {name: torch.stack([row[name].detach() for row in rows]).mean() for name in rows[0]}
        return metrics | {"not_finite": self.d.update(metrics["loss_d"] + metrics["constraint_d"])}

    def generator_step(self, images: Tensor, labels: Tensor) -> Metrics:
        """Train G on images of classes (B,); only a relativistic loss looks at the real images (B, C, R, R).

        All that D and the conditions ask of G meets at its images, as a gradient for each. Where these come in parts
        they are made twice: first to be looked at together, then part by part with what their gradient needs.
        """
        parts = self._parts(labels, _G_PHASE, self.global_step)
        self.g.optimizer.zero_grad(set_to_none=True)
        whole = self._generate(self.g.replicated, labels, parts[0]) if len(parts) == 1 else None
        fake = torch.cat(self._generate_all(labels, parts)) if whole is None else whole.detach()
        fake.requires_grad_()
        pending = {name: condition.begin(fake, labels) for name, condition in self.conditions.items()}
        loss, adversarial = self._adversarial(images, fake, labels)
        metrics, gradient, total = {"loss_g": loss, "gradient_g": self._rms_norm(adversarial)}, adversarial, loss
        for name, finish in pending.items():
            penalty, statistics = finish()  # on a GPU the CPU solves its eigenproblems while D's forward pass runs
            pull = self._gradient_at(fake, penalty)
            gradient = gradient + self.conditions[name].scale(adversarial, pull) * pull
            metrics |= {name: penalty} | {f"{name}_{key}": value for key, value in statistics._asdict().items()}
            total = total + penalty
        for part in self._parts(labels, _G_PHASE, self.global_step):
            with self.g.backward_of(part, again=whole is None):
                made = self._generate(self.g.replicated, labels[part.rows], part) if whole is None else whole
                seen = GeneratorPhase(self.generator, made, labels[part.rows], self.global_step)
                penalty = self._total(each.generator(seen) for each in self.regularizers)
                inner = (made * gradient[part.rows]).sum()  # whose gradient at the images is that one
                # In one backward pass: the processes add up each weight's gradient as soon as it is there.
                (inner + self.g.scaled(penalty / len(parts))).backward()
        metrics = {name: value.detach() for name, value in (metrics | {"constraint_g": penalty}).items()}
        return metrics | {"not_finite": self.g.update(total.detach() + penalty.detach())}

    def rehearse(self, batches: Sequence[Batch]) -> Metrics:
        """Repeat the losses of the step before this one without what it changed, to see what went wrong in it."""
        stateful = [part for part in (*self.conditions.values(), *self.regularizers) if isinstance(part, nn.Module)]
        before = [copy.deepcopy(part.state_dict()) for part in stateful]
        self.global_step -= 1
        self.g.rehearsing = self.d.rehearsing = True
        try:
            losses = self._phases(batches)
        finally:
            self.global_step += 1
            self.g.rehearsing = self.d.rehearsing = False
            for part, state in zip(stateful, before, strict=True):
                part.load_state_dict(state)
        return {name: losses[name] for name in ("loss_d", "constraint_d", *self.conditions, "loss_g", "constraint_g")}

    def _adversarial(self, images: Tensor, fake: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return G's mean loss by D's judgement of its images (B, C, R, R), and its scaled gradient at them."""
        losses: list[Tensor] = []
        gradients: list[Tensor] = []
        parts = self._parts(labels, _AUGMENT_PHASE, self.global_step)
        for part in parts:
            y, shown = labels[part.rows], fake.detach()[part.rows].requires_grad_()
            with frozen_parameters(self.discriminator), part.power_iterations(self.discriminator):
                if self.loss.relativistic:
                    both = self._augment(images[part.rows], shown, part)
                    real_scores, fake_scores = self._judge(self.d.local, both, y.repeat(2)).chunk(2)
                else:
                    fake_scores = self._judge(self.d.local, self.augment(shown, part.noise), y)
                    real_scores = fake_scores.new_empty(0)
                losses.append(self.loss.generator(real_scores, fake_scores))
            gradients += torch.autograd.grad(self.g.scaled(losses[-1] / len(parts)), shown)
        return torch.stack([loss.detach() for loss in losses]).mean(), torch.cat(gradients)

    def _gradient_at(self, images: Tensor, penalty: Tensor) -> Tensor:
        """Return the scaled gradient of a condition's penalty at the images; 0 where it has none."""
        if not penalty.requires_grad:
            return torch.zeros_like(images)
        (gradient,) = torch.autograd.grad(self.g.scaled(penalty), images)
        return gradient

    def _generate(self, network: nn.Module, labels: Tensor, part: Part) -> Tensor:
        z = part.noise.latent(self.latent).to(self.device, non_blocking=True)
        with self.precision.autocast():
            images: Tensor = network(z, labels)
        return images.float()

    @torch.no_grad()
    def _generate_all(self, labels: Tensor, parts: list[Part]) -> list[Tensor]:
        """Return images (B / parts, C, R, R) of each part, all of them by the same G."""
        made = []
        for part in parts:
            with part.power_iterations(self.generator):
                made.append(self._generate(self.g.local, labels[part.rows], part))
        return made

    def _augment(self, real: Tensor, fake: Tensor, part: Part) -> Tensor:
        """Return real and generated images, one after the other, as D is shown them."""
        both = torch.cat([real.to(fake), fake]).contiguous(memory_format=torch.channels_last)
        augmented: Tensor = self.augment(both, part.noise)
        return augmented

    def _judge(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Return D's scores (B,) in float32: a loss in half precision rounds away what is to be learned."""
        with self.precision.autocast():
            scores: Tensor = network(images, labels)
        return scores.float()

    def _score_metrics(self, real: Tensor, fake: Tensor) -> Metrics:
        scores = {"score_real": real.mean(), "score_fake": fake.mean()}
        if (boundary := self.loss.boundary) is not None:
            scores["accuracy_d"] = torch.cat([real > boundary, fake < boundary]).float().mean()
        return scores

    def _rms_norm(self, gradient: Tensor) -> Tensor:
        """Return the root mean square, over the images, of the norm of the gradient of each image's own loss."""
        norm = gradient.norm() * math.sqrt(len(gradient))
        return norm if self.g.scale is None else norm / self.g.scale.value

    def _total(self, penalties: Iterable[Tensor]) -> Tensor:
        return sum(penalties, start=torch.zeros((), device=self.device))

    def _parts(self, labels: Tensor, phase: int, number: int) -> list[Part]:
        first = self.world.rank * (self.batch_size // self.world.size)
        return cut(len(labels), self.part_size, (self.seed, phase, number), first=first, total=self.batch_size)

    def singular_values(self) -> dict[str, float]:
        """The largest of every layer's weight, as the optimisers hold it; waits for a GPU."""
        parts = {"generator": self.generator, "discriminator": self.discriminator}
        return {
            f"{part}.{name}": round(values[0].item(), 4)
            for part, network in parts.items()
            for name, values in leading_singular_values(network, weights="raw").items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {"global_step": self.global_step} | {name: part.state_dict() for name, part in self._stateful().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; learning rates and other options of the optimisers stay as they are here.

        Raises:
            KeyError, ValueError, RuntimeError: the state is of another trainer.
        """
        for name, part in self._stateful().items():
            saved = state[name]
            if isinstance(part, torch.optim.Optimizer):
                saved = {"state": saved["state"], "param_groups": part.state_dict()["param_groups"]}
            part.load_state_dict(saved)
        self.global_step = int(state["global_step"])

    def _stateful(self) -> dict[str, Any]:
        """Every part with a state, by the name that it has in a checkpoint."""
        parts = {name: getattr(self, name) for name in ("generator", "discriminator", "generator_ema")}
        parts |= {f"conditions.{name}": condition for name, condition in self.conditions.items()}
        modules = [each for each in self.regularizers if isinstance(each, nn.Module)]
        parts |= {f"regularizers.{i}.{type(each).__name__}": each for i, each in enumerate(modules)}
        parts |= {"optimizer_g": self.g.optimizer, "optimizer_d": self.d.optimizer}
        return parts | {name: s for name, s in (("scale_g", self.g.scale), ("scale_d", self.d.scale)) if s is not None}


@torch.no_grad()
def update_average(average: nn.Module, source: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average θ̄ ← β_t θ̄ + (1 − β_t) θ of parameters, after step `step` (0, 1, ...) of `source`.

    β_t = min(decay, (1 + t) / (10 + t)) forgets the random start quickly. Buffers (batch norm's running statistics,
    spectral norm's vectors) are copied: an average of them describes no network.
    """
    weight = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(source.parameters()), weight)
    for mean, value in zip(average.buffers(), source.buffers(), strict=True):
        mean.copy_(value)
