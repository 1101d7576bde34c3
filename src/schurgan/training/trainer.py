"""One step of training, both phases on one screen."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from schurgan.core.distributed import World, accumulating, replicate
from schurgan.networks import leading_singular_values
from schurgan.networks.batch_norm import convert_batch_norm
from schurgan.normality import DDFN
from schurgan.runs.config import Config
from schurgan.training.augment import DiffAugment
from schurgan.training.build import (
    build_augmentation,
    build_discriminator,
    build_generator,
    build_latent,
    build_loss,
    build_moment_matching,
    build_penalties,
)
from schurgan.training.ema import EMA
from schurgan.training.lecam import LeCam
from schurgan.training.noise import Noise
from schurgan.training.penalties import still_parametrizations
from schurgan.training.precision import LossScale, Precision, guarded_step
from schurgan.training.regularizers import OrthogonalRegularizer

Metrics = dict[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)
_D_PHASE, _G_PHASE, _AUGMENT_PHASE = 0, 1, 2  # each with random numbers of its own


class Trainer:
    """Both networks, their optimisers and the conditions on G: everything that a step changes, and nothing else.

    A step is a function of this state, its number and its data: its noise comes from a generator seeded by (seed, step,
    phase), so a run that goes on from a saved state repeats the one that was never stopped.

    Of `world.size` processes each trains on its share of a batch, in
    `train.gradient_accumulation_steps` parts one after another, which
    bounds the memory. The noise of an image depends on its place in the whole batch alone, and gradients are means over
    it, so that shares and parts give the step of a single process up to rounding; but for what is not a mean over
    images: batch norm's statistics, which are of all processes but of one part, and LeCam's averages, which move with
    each part.
    """

    def __init__(
        self,
        config: Config,
        classes: int,
        device: torch.device,
        augment: DiffAugment | None = None,
        world: World | None = None,
    ) -> None:
        model, train, regularize = config.model, config.train, config.regularize
        torch.manual_seed(train.seed)
        self.config, self.device, self.world = config, device, world or World()
        share, left = divmod(train.batch_size, self.world.size * train.gradient_accumulation_steps)
        if left or not share:
            parts = f"{self.world.size} processes x {train.gradient_accumulation_steps} parts"
            raise ValueError(f"batch_size: {train.batch_size} given, a multiple of {parts} is needed")
        self.precision = Precision(train.precision, device)
        self.generator = self._place(build_generator(model, classes))
        self.discriminator = self._place(build_discriminator(model, classes))
        if self.world.size > 1:
            convert_batch_norm(self.generator)
        self.average = copy.deepcopy(self.generator)
        self.ema = EMA(self.generator, self.average, train.ema_decay)
        self.latent = build_latent(model, self.generator)
        self.loss = build_loss(train.loss, regularize)
        self.augment = (augment or build_augmentation(regularize)).to(device)
        self.penalties = build_penalties(regularize)
        self.lecam = LeCam(regularize.lecam, start=regularize.lecam_start).to(device)
        self.orthogonal_g = OrthogonalRegularizer(regularize.orthogonal_g, regularize.orthogonal_kind)
        self.orthogonal_d = OrthogonalRegularizer(regularize.orthogonal_d, regularize.orthogonal_kind)
        self.ddfn = DDFN(**config.ddfn.model_dump()).to(device)
        self.condition = build_moment_matching(config.moment_matching, classes)
        if self.condition is not None:
            self.condition.to(device)
        self.optimizer_g = self._adam(self.generator, train.lr_g)
        self.optimizer_d = self._adam(self.discriminator, train.lr_d)
        self.scale_g, self.scale_d = self.precision.loss_scale(), self.precision.loss_scale()
        self._g, self._d = (self._compiled(network) for network in (self.generator, self.discriminator))
        # What gradients of weights come from: where there are several processes they are averaged on the way.
        self._shared_g, self._shared_d = replicate(self._g, self.world), replicate(self._d, self.world)
        self.step = 0
        self._rehearsing = False

    def run_step(self, batches: list[tuple[Tensor, Tensor]]) -> Metrics:
        """One step on `d_steps` batches of real (images (B, C, R, R), labels (B,)) -> scalars, still on the device.

        "not_finite" among them is 1 where a loss or a gradient was not finite: what it would have changed was then left
        as it was, without waiting for the device to say so.
        """
        faults = []
        for number, (images, labels) in enumerate(batches, self.step * len(batches)):
            metrics = self.discriminator_step(images, labels, number)
            faults.append(metrics["not_finite"])
        metrics |= self.generator_step(labels)
        metrics["not_finite"] = torch.stack([*faults, metrics["not_finite"]]).amax()
        self.ema.update(self.step)
        self.step += 1
        return metrics

    def discriminator_step(self, images: Tensor, labels: Tensor, number: int) -> Metrics:
        """D's step `number`, of all of its own, on this process's share of a batch of real images and labels."""
        self.optimizer_d.zero_grad(set_to_none=True)
        parts, rows = self._parts(len(labels)), []
        noises = [self._noise(part, _D_PHASE, number) for part in parts]
        with torch.no_grad():
            fakes = self._in_parts(self._g, labels, parts, noises)
        if self.condition is not None:
            self.condition.observe(torch.cat(fakes), labels)
        for part, fake, noise in zip(parts, fakes, noises, strict=True):
            y = labels[part]
            both = torch.cat([images[part].to(fake), fake]).contiguous(memory_format=torch.channels_last)
            both = self.augment(both, noise)
            with self._one_of(part, parts, self._shared_d):
                score_real, score_fake = self._judge(self._shared_d, both, y.repeat(2)).chunk(2)
                loss = self.loss.discriminator(score_real, score_fake)
                constraint = self.orthogonal_d(self.discriminator) + self.lecam(score_real, score_fake)
                real, fake = both.chunk(2)
                for penalty in self.penalties:
                    constraint = constraint + penalty(self.discriminator, real, fake, y, step=number, noise=noise)
                scaled((loss + constraint) / len(parts), self.scale_d).backward()
            rows.append({"loss_d": loss, "constraint_d": constraint} | self._scores(score_real, score_fake))
        metrics = {name: torch.stack([row[name].detach() for row in rows]).mean() for name in rows[0]}
        metrics["not_finite"] = self._update(
            self.optimizer_d, metrics["loss_d"] + metrics["constraint_d"], self.scale_d
        )
        return metrics

    def generator_step(self, labels: Tensor) -> Metrics:
        """G's step with images of these classes (B,): what D and the conditions make of them goes back through G.

        All of it meets at the images, as a gradient for each. Where they come in parts, they are made twice: once to be
        looked at together, and once more part by part, with what their gradient needs.
        """
        self.discriminator.requires_grad_(False)
        self.optimizer_g.zero_grad(set_to_none=True)
        parts = self._parts(len(labels))
        if len(parts) == 1:
            made = self._generate(self._shared_g, labels, self._noise(parts[0], _G_PHASE, self.step))
        else:
            noises = [self._noise(part, _G_PHASE, self.step) for part in parts]
            with torch.no_grad():
                made = torch.cat(self._in_parts(self._g, labels, parts, noises))
        images = made.detach().requires_grad_()
        departures = self.ddfn.begin(images, labels)
        loss, adversarial = self._adversarial(images, labels, parts)
        penalty, departure = departures()  # on a GPU the CPU solves its eigenproblems while D's forward pass runs
        gradient = adversarial + self._pull(penalty, images)
        metrics = {"loss_g": loss, "ddfn": penalty, "ddfn_gap": departure.gap, "ddfn_ema_gap": departure.ema_gap}
        if self.condition is not None:
            condition, moments = self.condition(images, labels)
            pull = self._pull(condition, images)
            gradient = gradient + self.condition.scale(adversarial, pull) * pull
            metrics |= {"condition": condition, "condition_severity": moments.severity, "condition_gap": moments.gap}
        for part in parts:
            with self._one_of(part, parts, self._shared_g, moved=len(parts) > 1):
                if len(parts) > 1:
                    made = self._generate(self._shared_g, labels[part], self._noise(part, _G_PHASE, self.step))
                constraint = self.orthogonal_g(self.generator)
                # In one backward pass: the processes add up each weight's gradient as soon as it is there.
                inner = (made * gradient[part]).sum()  # whose gradient at the images is that one
                (inner + scaled(constraint / len(parts), self.scale_g)).backward()
        self.discriminator.requires_grad_(True)
        metrics |= {"constraint_g": constraint, "gradient_g": self._size(adversarial)}
        metrics = {name: value.detach() for name, value in metrics.items()}
        metrics["not_finite"] = self._update(
            self.optimizer_g, loss.detach() + penalty.detach() + constraint.detach(), self.scale_g
        )
        return metrics

    def rehearse(self, batches: list[tuple[Tensor, Tensor]]) -> Metrics:
        """The step before this one once more, without what it changed: its losses, to see what went wrong in it."""
        parts = [part for part in (self.ddfn, self.lecam, self.condition) if part is not None]
        before = [copy.deepcopy(part.state_dict()) for part in parts]
        self.step, self._rehearsing = self.step - 1, True
        try:
            losses: Metrics = {}
            for number, (images, labels) in enumerate(batches, self.step * len(batches)):
                losses |= self.discriminator_step(images, labels, number)
            losses |= self.generator_step(labels)
        finally:
            self.step, self._rehearsing = self.step + 1, False
            for part, state in zip(parts, before, strict=True):
                part.load_state_dict(state)
        return {name: losses[name] for name in ("loss_d", "constraint_d", "ddfn", "loss_g", "constraint_g")}

    def _adversarial(self, images: Tensor, labels: Tensor, parts: list[slice]) -> tuple[Tensor, Tensor]:
        """G's mean loss by D's judgement of images (B, C, R, R), and its gradient at them, scaled by `precision`."""
        losses: list[Tensor] = []
        gradients: list[Tensor] = []
        for part in parts:
            shown = images.detach()[part].requires_grad_()
            augmented = self.augment(shown, self._noise(part, _AUGMENT_PHASE, self.step))
            with self._moving_once(part, self._d):
                losses.append(self.loss.generator(self._judge(self._d, augmented, labels[part])))
            gradients += torch.autograd.grad(scaled(losses[-1] / len(parts), self.scale_g), shown)
        return torch.stack([loss.detach() for loss in losses]).mean(), torch.cat(gradients)

    def _pull(self, penalty: Tensor, images: Tensor) -> Tensor:
        """The gradient of a condition's penalty at the images, scaled as `precision` does; 0 where it has none."""
        if not penalty.requires_grad:
            return torch.zeros_like(images)
        (gradient,) = torch.autograd.grad(scaled(penalty, self.scale_g), images)
        return gradient

    def _generate(self, network: nn.Module, labels: Tensor, noise: Noise) -> Tensor:
        z = noise.latent(self.latent).to(self.device, non_blocking=True)
        with self.precision.autocast():
            images: Tensor = network(z, labels)
        return images.float()

    def _in_parts(self, network: nn.Module, labels: Tensor, parts: list[slice], noises: list[Noise]) -> list[Tensor]:
        """Images (B / parts, C, R, R) of each part, all of them by the same G."""
        made = []
        for part, noise in zip(parts, noises, strict=True):
            with self._moving_once(part, network):
                made.append(self._generate(network, labels[part], noise))
        return made

    def _moving_once(self, part: slice, network: nn.Module, moved: bool = False) -> AbstractContextManager[None]:
        """Inside, spectral norms and clamps of `network` move on with the first part alone, as with a whole batch."""
        return still_parametrizations(network) if part.start or moved else nullcontext()

    @contextmanager
    def _one_of(self, part: slice, parts: list[slice], network: nn.Module, moved: bool = False) -> Iterator[None]:
        """Inside, a part goes through `network` and back; its gradients are shared with those of the last part."""
        shared = part is parts[-1]
        with self._moving_once(part, network, moved), nullcontext() if shared else accumulating(network):
            yield

    def _judge(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """D's scores (B,), float32: a loss in half precision rounds away what is to be learned."""
        with self.precision.autocast():
            scores: Tensor = network(images, labels)
        return scores.float()

    def _scores(self, real: Tensor, fake: Tensor) -> Metrics:
        scores = {"score_real": real.mean(), "score_fake": fake.mean()}
        if (boundary := self.loss.boundary) is not None:
            scores["accuracy_d"] = torch.cat([real > boundary, fake < boundary]).float().mean()
        return scores

    def _size(self, adversarial: Tensor) -> Tensor:
        """Root mean square, over the images, of the norm of the gradient of each image's own loss."""
        norm = adversarial.norm() * math.sqrt(len(adversarial))
        return norm if self.scale_g is None else norm / self.scale_g.value

    def _update(self, optimizer: torch.optim.Adam, loss: Tensor, scale: LossScale | None) -> Tensor:
        """The optimiser's step, unless something is not finite: -> 1 where that is a fault, else 0.

        In float16 it is how the scale of the loss is found, and a fault where there is no scale left to try.
        """
        if self._rehearsing:
            return torch.zeros((), device=self.device)
        skipped = guarded_step(optimizer, [loss], scale).skipped
        return skipped if scale is None else skipped * (scale.value < 1)

    def _parts(self, count: int) -> list[slice]:
        """The parts, one after another, of this process's share of a batch."""
        size = count // self.config.train.gradient_accumulation_steps
        return [slice(start, start + size) for start in range(0, count, size)]

    def _noise(self, part: slice, phase: int, number: int) -> Noise:
        total, share = self.config.train.batch_size, self.config.train.batch_size // self.world.size
        start = self.world.rank * share + part.start
        key = (self.config.train.seed, phase, number)
        return Noise(*key, start=start, count=part.stop - part.start, total=total)

    def singular_values(self) -> dict[str, float]:
        """The largest of every layer's weight, as the optimisers hold it; waits for a GPU."""
        parts = {"generator": self.generator, "discriminator": self.discriminator}
        return {
            f"{part}.{name}": round(values[0].item(), 4)
            for part, network in parts.items()
            for name, values in leading_singular_values(network, weights="raw").items()
        }

    def state_dict(self) -> dict[str, object]:
        """Everything that the next step depends on."""
        return {"step": self.step} | {name: part.state_dict() for name, part in self._stateful().items()}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Raises KeyError, ValueError or RuntimeError when `state` is of another run."""
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])
        train = self.config.train
        for optimizer, rate in ((self.optimizer_g, train.lr_g), (self.optimizer_d, train.lr_d)):
            for group in optimizer.param_groups:  # the options rule, which may have become gentler
                group.update(lr=rate, betas=train.betas, eps=train.eps)
        self.step = int(state["step"])  # type: ignore[call-overload]

    def _stateful(self) -> dict[str, Any]:
        names = ("generator", "discriminator", "average", "ddfn", "lecam", "optimizer_g", "optimizer_d")
        optional = ("condition", "scale_g", "scale_d")
        return {name: part for name in (*names, *optional) if (part := getattr(self, name)) is not None}

    def _place(self, network: Network) -> Network:
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def _compiled(self, network: nn.Module) -> nn.Module:
        return cast(nn.Module, torch.compile(network)) if self.config.train.compile else network

    def _adam(self, network: nn.Module, rate: float) -> torch.optim.Adam:
        train = self.config.train
        return torch.optim.Adam(network.parameters(), rate, betas=train.betas, eps=train.eps, fused=True)


def scaled(loss: Tensor, scale: LossScale | None) -> Tensor:
    return loss if scale is None else scale.apply(loss)
