"""DDFN, the constraint |E Δ²(G(z)) − E Δ²(x)| < ε on a generator (eq. 8), as a penalty for any training loop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .estimators import check_method, departure_from_normality

EVERY_EXACT = 8  # real images between two whose exact Δ² is taken as well


class DDFNStats(NamedTuple):
    """What a step logs: scalars on the penalty's device, detached, so that no step waits for an accelerator."""

    gap: Tensor  # batch_mean minus the real mean
    ema_gap: Tensor  # moving average of the generated mean minus the real mean, what the constraint is about
    batch_mean: Tensor  # mean Δ² of the generated images seen last
    active: Tensor  # bool: ema_gap outside the band, the penalty pulls


class DDFN(nn.Module):
    """Difference of the departures from normality of generated and real images, held below ε (eq. 8).

        penalty = weight · max(|ḡ| − ε, 0) / E Δ²(x),     ḡ = EMA of E Δ²(G(z)) − E Δ²(x)

    A batch mean is noise of the order of ε, hence the moving average ḡ, which starts at the first batch's mean. The
    gradient goes straight through it, with weight 1 and not 1 − decay: weight · sign(ḡ)·1[|ḡ| > ε]·∇(mean Δ² of the
    batch) / E Δ²(x).

    Images are (B, C, n, n), Δ² averaged over channels, or (B, n, n), in [−1, 1] with rows in ascending frequency. These
    three fix the unit of ε: flipping the frequency axis alone changes Δ² by 12 to 18 %.

    epsilon           half width of the band, in units of Δ² (the paper's, for 128² to 256²; Δ² grows with n²)
    relative_epsilon  half width as a share of E Δ²(x), in place of epsilon; carries over between sizes
    weight            of the penalty, against losses of order 1
    estimator         a method of `departure_from_normality`, factor its pooling
    decay             of the moving average per update; 0.99 suits batches of 256
    every             m: the penalty comes with every m-th training step, m times as strong; the steps between are free

        constraint = DDFN(relative_epsilon=0.03)
        constraint.fit_real(loader)
        penalty, stats = constraint(generator(z, labels))
        (adversarial + penalty).backward()

    Inside torch.distributed the moving average is that of all processes' images.
    """

    real_mean: Tensor
    real_var: Tensor
    exact_offset: Tensor
    ema: Tensor
    batch_mean: Tensor

    def __init__(
        self,
        epsilon: float = 37.16,
        *,
        relative_epsilon: float | None = None,
        weight: float = 1.0,
        estimator: str = "hybrid",
        factor: int = 2,
        decay: float = 0.99,
        every: int = 1,
    ) -> None:
        super().__init__()
        check_method(estimator, factor)
        for name, value in (("epsilon", epsilon), ("relative_epsilon", relative_epsilon or 0.0), ("weight", weight)):
            if not value >= 0:
                raise ValueError(f"{name} is {value}: a number of 0 or more is needed")
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}: a number from 0 to below 1 is needed")
        if every < 1:
            raise ValueError(f"every is {every}: a whole number of 1 or more is needed")
        self.epsilon = epsilon
        self.relative_epsilon = relative_epsilon
        self.weight = weight
        self.estimator = estimator
        self.factor = factor
        self.decay = decay
        self.every = every
        for name in ("real_mean", "real_var", "exact_offset", "ema", "batch_mean"):
            self.register_buffer(name, torch.zeros(()))
        # What follows travels in the extra state: `forward` branches on it, and must not wait for a device to do so.
        self.real_count = 0
        self.steps = 0
        self.updates = 0
        self.image_shape: tuple[int, ...] = ()
        self.fingerprint = ""

    @torch.no_grad()
    def fit_real(self, loader: Iterable[Tensor | Sequence[Tensor]]) -> None:
        """Take mean, variance and count of Δ² over the real images: one pass over batches, or (images, labels, ...).

        Give it the whole training set, in every process. It starts the moving average afresh. ValueError for images
        outside [−1, 1], fewer than two of them, or Δ² = 0 throughout.
        """
        values, offsets, count, digest = [], [], 0, 0
        shape: tuple[int, ...] = ()
        for batch in loader:
            images = _with_channels(batch if isinstance(batch, Tensor) else batch[0])
            shape = shape or tuple(images.shape[1:])
            if images.shape[1:] != shape:
                raise ValueError(f"real images of {shape} and of {tuple(images.shape[1:])} given: one shape is needed")
            if images.numel() and not images.abs().amax() <= 1.001:
                raise ValueError(
                    f"real images reach from {images.amin():g} to {images.amax():g}: values in [−1, 1] are needed"
                )
            estimate = self._departures(images, self.estimator)
            chosen = slice(-count % EVERY_EXACT, None, EVERY_EXACT)
            count += len(images)
            values.append(estimate.cpu())
            offsets.append((self._departures(images[chosen], "exact") - estimate[chosen]).cpu())
            digest = (digest + _digest(images)) % 2**64
        if count < 2:
            raise ValueError(f"{count} real images given: two or more are needed for a mean and a variance")
        departures = torch.cat(values).double()
        if not departures.mean() > 0:
            raise ValueError(
                "the real images have Δ² = 0 throughout, nothing to hold a generator to: other data is needed"
            )
        self.real_mean.copy_(departures.mean())
        self.real_var.copy_(departures.var())
        self.exact_offset.copy_(torch.cat(offsets).double().mean())
        self.real_count, self.steps, self.updates = count, 0, 0
        self.image_shape = shape
        self.fingerprint = f"{self._measure()}; images {'x'.join(map(str, shape))} in [-1, 1]; data {digest:016x}"

    def forward(self, fake: Tensor, labels: Tensor | None = None) -> tuple[Tensor, DDFNStats]:
        """Penalty (scalar, times `weight`, differentiable) and statistics of generated images.

        `labels` play no part: the constraint is global, and conditions of one loop are called alike. The moving average
        and the step count go on only in training mode with gradients enabled. On the free steps of `every` the penalty
        is 0 and the statistics are the last ones. RuntimeError before `fit_real`, ValueError for another image shape.
        """
        images = self._comparable(fake)
        learning = self.training and torch.is_grad_enabled()
        if learning:
            self.steps += 1
            if (self.steps - 1) % self.every:
                return fake.new_zeros((), dtype=torch.float32), self._stats(self.batch_mean)
        mean = self._departures(images, self.estimator).float().mean()
        batch_mean = mean.detach()
        if learning:
            overall = _mean_of_processes(batch_mean, len(fake))
            self.ema = torch.lerp(overall, self.ema, self.decay) if self.updates else overall.clone()
            self.batch_mean = batch_mean.clone()
            self.updates += 1
        stats = self._stats(batch_mean)
        strength = self.weight * (self.every if learning else 1) / self.real_mean
        hinge = (stats.ema_gap.abs() - self.band()).clamp(min=0)
        slope = stats.ema_gap.sign() * stats.active
        return strength * (hinge + slope * (mean - batch_mean)), stats

    @torch.no_grad()
    def gap(self, fake: Tensor) -> Tensor:
        """E Δ²(G(z)) − E Δ²(x) by the exact method, for monitoring; a scalar in units of Δ².

        The real mean is the estimator's, corrected by its mean error on every eighth real image.
        """
        images = self._comparable(fake)
        return self._departures(images, "exact").float().mean() - (self.real_mean + self.exact_offset)

    def band(self) -> Tensor | float:
        """ε, in units of Δ²."""
        return self.epsilon if self.relative_epsilon is None else self.relative_epsilon * self.real_mean

    def standard_error(self, batch_size: int) -> Tensor:
        """Standard deviation of the mean Δ² of `batch_size` real images: a gap below twice that is noise."""
        self._require_real()
        return (self.real_var / batch_size).sqrt()

    def extra_repr(self) -> str:
        band = (
            f"epsilon={self.epsilon}" if self.relative_epsilon is None else f"relative_epsilon={self.relative_epsilon}"
        )
        return f"{band}, weight={self.weight}, {self._measure()}, decay={self.decay}, every={self.every}"

    def get_extra_state(self) -> dict[str, Any]:
        names = ("real_count", "steps", "updates", "image_shape", "fingerprint")
        return {name: getattr(self, name) for name in names}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Refuse, before anything is overwritten, a real mean that another estimator took."""
        measured = state_dict.get(prefix + "_extra_state", {}).get("fingerprint", "").split("; ")[0]
        if measured and measured != self._measure():
            raise ValueError(
                f"this state was fitted with {measured}, the DDFN here uses {self._measure()}: "
                "their values do not compare, build the DDFN alike or run fit_real again"
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _measure(self) -> str:
        return self.estimator if self.estimator == "exact" else f"{self.estimator} x{self.factor}"

    def _comparable(self, fake: Tensor) -> Tensor:
        """Generated images as (B, C, n, n), if there are real ones of their shape to compare them with."""
        self._require_real()
        images = _with_channels(fake)
        if images.shape[1:] != self.image_shape:
            raise ValueError(
                f"generated images are {tuple(images.shape[1:])}, the real ones were {self.image_shape}: "
                "their Δ² do not compare, run fit_real on images of the generator's shape"
            )
        return images

    def _departures(self, images: Tensor, method: str) -> Tensor:
        return departure_from_normality(images, method, factor=self.factor).mean(1)

    def _stats(self, batch_mean: Tensor) -> DDFNStats:
        ema = self.ema if self.updates else batch_mean
        ema_gap = ema - self.real_mean
        return DDFNStats(batch_mean - self.real_mean, ema_gap, batch_mean, ema_gap.abs() > self.band())

    def _require_real(self) -> None:
        if not self.fingerprint:
            raise RuntimeError("DDFN knows no real images yet: call fit_real(loader) or load a state first")


def _with_channels(images: Tensor) -> Tensor:
    """(B, n, n) -> (B, 1, n, n), (B, C, n, n) as it is."""
    if images.ndim not in (3, 4):
        raise ValueError(f"images have shape {tuple(images.shape)}: (B, C, n, n) or (B, n, n) is needed")
    return images.unsqueeze(1) if images.ndim == 3 else images


def _mean_of_processes(mean: Tensor, count: int) -> Tensor:
    """The mean over the batches of all processes of torch.distributed, of `count` images each here."""
    if not (dist.is_available() and dist.is_initialized()):
        return mean
    total = torch.stack([mean * count, torch.full_like(mean, count)])
    dist.all_reduce(total)
    return total[0] / total[1]


def _digest(images: Tensor) -> int:
    """64 bits over the images' float32 values, the same in any order of the images and any cut into batches."""
    bits = images.detach().cpu().float().contiguous().view(torch.int32).flatten(1).long()
    generator = torch.Generator().manual_seed(bits.shape[1])
    odd = torch.randint(-(2**62), 2**62, bits.shape[1:], generator=generator) * 2 + 1
    rows = (bits * odd).sum(1)  # wraps around, as it should
    return int(((rows ^ (rows >> 31)) * 0x9E3779B97F4A7C1).sum())
