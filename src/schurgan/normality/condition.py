"""What a condition on the generator is: its fit to real images, the moving average over generated ones, its state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .real_moments import Loader, RealMoments, count_processes, sum_over_processes, with_channels

LEAST = 1e-20  # count of the moving average below which a class counts as unseen: long ago is 0/0 in the end


class Condition(nn.Module, ABC):
    """A condition on the generator; `MomentMatching` and `DDFN` are two.

    After `fit_real`, a step with its discriminator and generator phases is

        condition.observe(fake_of_the_discriminator_phase, labels)

        finish = condition.begin(fake, labels)                  # fake requires a gradient
        (g_adversarial,) = torch.autograd.grad(adversarial(fake), fake)
        penalty, stats = finish()
        (g_penalty,) = torch.autograd.grad(penalty, fake)       # where penalty.requires_grad
        fake.backward(g_adversarial + condition.scale(g_adversarial, g_penalty) * g_penalty)

    A subclass registers the buffers that its `_fit` returns, and implements the methods that are not implemented here.
    """

    real_share: Tensor  # (K,) of the images
    ema_sum: Tensor  # (K, F)
    ema_count: Tensor  # (K,)

    # What is branched on is no tensor: no branch may wait for a device.
    _extra_state: tuple[str, ...] = ("real_count", "image_shape", "fingerprint")

    def __init__(self, *, classes: int | None, per_class: bool, epsilon: float, decay: float, weight: float) -> None:
        super().__init__()
        for name, value in (("epsilon", epsilon), ("weight", weight)):
            if not value >= 0:
                raise ValueError(f"{name} is {value}: a number of 0 or more is needed")
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}: a number from 0 to below 1 is needed")
        self.classes, self.per_class = classes, per_class
        self.epsilon, self.decay, self.weight = epsilon, decay, weight
        for name in ("real_share", "ema_sum", "ema_count"):
            self.register_buffer(name, torch.zeros(0))
        self.real_count = 0
        self.image_shape: tuple[int, ...] = ()
        self.fingerprint = ""

    @torch.inference_mode(False)  # whose tensors no gradient could go through later
    @torch.no_grad()
    def fit_real(self, loader: Loader, *, sharded: bool = False) -> None:
        """Measure the real images, in one pass, and start the moving average afresh.

        Args:
            loader: batches of images (B, C, H, W) or (B, H, W) in [−1, 1], or of (images, labels, ...): in every
                process the whole training set.
            sharded: `loader` has only this process's part of it.

        Raises:
            ValueError: for images that are unusable or fewer than two, or labels that `per_class` lacks.
        """
        device = self.real_share.device
        classes = self.classes if self.per_class else 1
        real = RealMoments(loader, self._describe_real, classes=classes, sharded=sharded, device=device)
        for name, value in self._fit(real).items():
            setattr(self, name, value.to(device, torch.float32))
        self.real_share = (real.counts / real.images).to(self.ema_sum)
        self.ema_count = torch.zeros_like(self.real_share)
        self.real_count, self.image_shape = real.images, real.shape
        shape = "x".join(map(str, real.shape))
        self.fingerprint = f"{self._measure()}; images {shape}; data {real.digest:016x}"

    def observe(self, fake: Tensor, labels: Tensor | None = None) -> None:
        """Take generated images of the discriminator phase into the moving average, if it is made of those."""

    @abstractmethod
    def begin(self, fake: Tensor, labels: Tensor | None = None) -> Callable[[], tuple[Tensor, NamedTuple]]:
        """Begin with the penalty of generated images.

        Args:
            fake: images (B, C, H, W) or (B, H, W) in [−1, 1].
            labels: class of each image (B,), where the condition is per class.

        Returns:
            A function that finishes it: penalty (scalar, differentiable) and detached scalars to log.

        Raises:
            RuntimeError: before `fit_real`.
            ValueError: for images of another shape than the real ones, or missing labels.
        """

    def forward(self, fake: Tensor, labels: Tensor | None = None) -> tuple[Tensor, NamedTuple]:
        """Begin and finish at once. A hinge's moving average rests in eval mode and without gradients."""
        return self.begin(fake, labels)()

    def scale(self, g_adversarial: Tensor, g_penalty: Tensor) -> Tensor:
        """Factor (scalar) of the penalty's gradient at the images, beside the adversarial one; 1 unless balanced."""
        return torch.ones((), device=self.real_share.device)

    def get_extra_state(self) -> dict[str, Any]:
        """What of the state is no tensor."""
        return {name: getattr(self, name) for name in self._extra_state}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore it."""
        for name, value in state.items():
            setattr(self, name, tuple(value) if name == "image_shape" else value)

    @torch.inference_mode(False)
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Refuse, before anything is overwritten, what was fitted in another way, or on other data than this was."""
        own = [name for name, _ in self.named_buffers(recurse=False)]
        if missing := [name for name in own if prefix + name not in state_dict]:
            raise ValueError(f"this state is of another version, without {', '.join(missing)}: run fit_real again")
        measure, _, data = state_dict[f"{prefix}_extra_state"]["fingerprint"].partition("; ")
        if measure and measure != self._measure():
            raise ValueError(
                f"this state was fitted with {measure}, here is {self._measure()}: "
                "their values do not compare, build it alike or run fit_real again"
            )
        here = self.fingerprint.partition("; ")[2]
        if data and here and data != here:
            raise ValueError("this state was fitted on other real images: load it where nothing is fitted yet")
        for name in own:  # as many classes and features as there were
            setattr(self, name, torch.zeros_like(state_dict[prefix + name], device=self.real_share.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @abstractmethod
    def _measure(self) -> str:
        """What two conditions must share for their values to compare."""

    @abstractmethod
    def _describe_real(self, images: Tensor, ranks: Tensor) -> Tensor:
        """Descriptor (B, m) of real images; of each, `ranks` (B,) says how many of its class came before it."""

    @abstractmethod
    def _fit(self, real: RealMoments) -> dict[str, Tensor]:
        """Values of the buffers, `ema_sum` among them."""

    def _target(self) -> Tensor | float:
        """Real mean of the features (K, F)."""
        return 0.0

    def _check(self, fake: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Generated images as (B, C, H, W) and their classes (B,), if they compare with the real ones."""
        self._require_fit()
        images, device = with_channels(fake), self.real_share.device
        if images.shape[1:] != self.image_shape:
            raise ValueError(
                f"generated images are {tuple(images.shape[1:])}, the real ones were {self.image_shape}: "
                "they do not compare, run fit_real on images of the generator's shape"
            )
        if not self.per_class:
            return images, torch.zeros(len(images), dtype=torch.long, device=device)
        if labels is None or labels.shape != (len(images),):
            shape = "none" if labels is None else f"labels of shape {tuple(labels.shape)}"
            raise ValueError(f"per_class needs the class of each image: labels ({len(images)},) needed, {shape} given")
        return images, labels.to(device, torch.long)

    def _require_fit(self) -> None:
        if not self.fingerprint:
            raise RuntimeError(f"{type(self).__name__} is not fitted: call fit_real(loader) or load a state first")

    def _learning(self) -> bool:
        return self.training and torch.is_grad_enabled()

    def _sums(self, features: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Sums (K, F) and counts (K,) of all processes' features of each class.

        Images that are not finite are left out: one would stay in the moving average for good.
        """
        finite = features.isfinite().all(1, keepdim=True)
        zero = torch.zeros_like(self.ema_sum)
        sums = zero.index_add(0, classes, torch.where(finite, features, 0.0))
        counts = zero.index_add(0, classes, finite.float().expand_as(features))
        sums, counts = sum_over_processes(torch.stack([sums, counts]))
        return sums, counts[:, 0]

    def _update(self, sums: Tensor, counts: Tensor) -> None:
        self.ema_sum = self.decay * self.ema_sum + sums
        self.ema_count = self.decay * self.ema_count + counts

    def _gap(self, sums: Tensor, counts: Tensor) -> Tensor:
        """Mean of the features less `_target` (K, F); 0 for classes without images."""
        counts = counts[:, None]
        return torch.where(counts > LEAST, sums / counts.clamp(min=LEAST) - self._target(), 0.0)

    def _mean(self, values: Tensor) -> Tensor:
        """Mean of values (B,) over all processes' images; DistributedDataParallel is going to average its gradients."""
        own = values.sum()
        total, count = sum_over_processes(torch.stack([own.detach(), own.new_full((), len(values))]))
        count = count.clamp(min=1)
        mean: Tensor = total / count + (own - own.detach()) * count_processes() / count
        return mean

    def _straight_through(self, features: Tensor, classes: Tensor, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Gap of the moving average (K, F), with the gradient of the batch's own mean and not 1 − decay of it.

        Its gradients are right once DistributedDataParallel has averaged them. Beside it `_sums`, which join the moving
        average if `learning`.
        """
        own = torch.zeros_like(self.ema_sum).index_add(0, classes, features)
        sums, counts = self._sums(features.detach(), classes)
        if learning:
            self._update(sums, counts)
        unseen = self.ema_count[:, None] <= LEAST
        gap = torch.where(unseen, self._gap(sums, counts), self._gap(self.ema_sum, self.ema_count))
        return gap + (own - own.detach()) * count_processes() / counts.clamp(min=1)[:, None], sums, counts
