"""DDFN, the constraint |E Δ²(G(z)) − E Δ²(x)| < ε on a generator (eq. 8), as a penalty for any training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from .estimators import Channels, begin, check_method, departure_from_normality
from .penalty import Penalty, penalise, step_multipliers
from .processes import over_processes
from .real import real_departures, with_channels

Scaling = Literal["signed", "unit"]
Orientation = Literal["ascending", "descending"]

_FITTED = ("real_mean", "real_var", "real_share", "exact_offset", "ema_sum", "ema_count", "multipliers")


class DDFNStats(NamedTuple):
    """What a step logs: scalars on the penalty's device, detached, so that no step waits for an accelerator."""

    gap: Tensor  # batch_mean minus the real mean (of the batch's classes, where they count)
    ema_gap: Tensor  # moving average of the generated mean minus the real mean, what the constraint is about
    batch_mean: Tensor  # mean Δ² of the generated images seen last, of all processes
    active: Tensor  # bool: the moving average is outside the band (of some class), the penalty pulls


class DDFN(nn.Module):
    """Difference of the departures from normality of generated and real images, held below ε (eq. 8).

        penalty = weight · max(|ḡ| − ε, 0) / E Δ²(x),     ḡ = EMA of E Δ²(G(z)) − E Δ²(x)

    A batch mean is noise of the order of ε, hence the moving average ḡ (of sums and of counts, so that it is a mean
    from the first batch on). The gradient goes straight through it, with weight 1 and not 1 − decay:
    weight · sign(ḡ)·1[|ḡ| > ε]·∇(mean Δ² of the batch) / E Δ²(x).

    Images are (B, C, n, n) or (B, n, n), in [−1, 1].

    epsilon           half width of the band, in units of Δ² (the paper's values are for scaling="signed" and 128² to
                      256²; Δ² grows with n²)
    relative_epsilon  half width as a share of E Δ²(x), in place of epsilon; carries over between sizes
    weight            of the penalty, against losses of order 1
    penalty           "hinge", "quadratic" or "augmented" (Lagrangian), see `penalty.penalise`
    estimator         a method of `departure_from_normality`, factor its pooling
    scaling           "unit": Δ² of (x + 1) / 2, in [0, 1]; "signed": of the images as they are, what the paper's ε
                      fits. Strong penalties trained better with unit (five of six pairs of runs); perron needs it
    channels          "mean" or "sum" of the channels' Δ², or that of their "luminance"
    orientation       which way the rows go, for the fingerprint: flipping the frequency axis changes Δ² by 12 to 18 %
    per_class         means, bands and moving averages of each class by itself, weighted by its share of the batch
    decay             of the moving average per update; 0.99 suits batches of 256
    every             m: the penalty comes with every m-th training step, m times as strong; the steps between are free
    exact_subset      b: the estimator's error is taken off by its mean on b images of the batch (a control variate),
                      which makes mean and gradient those of exact Δ², unbiased, at the price of b eigenproblems

        constraint = DDFN(relative_epsilon=0.03)
        constraint.fit_real(loader)
        penalty, stats = constraint(generator(z, labels))
        (adversarial + penalty).backward()

    Inside torch.distributed means are those of all processes' images, and gradients are right once
    DistributedDataParallel has averaged them.
    """

    real_mean: Tensor
    real_var: Tensor
    real_share: Tensor
    exact_offset: Tensor
    ema_sum: Tensor
    ema_count: Tensor
    multipliers: Tensor
    batch_gap: Tensor
    batch_mean: Tensor

    def __init__(
        self,
        epsilon: float = 37.16,
        *,
        relative_epsilon: float | None = None,
        weight: float = 1.0,
        penalty: Penalty = "hinge",
        estimator: str = "hybrid",
        factor: int = 2,
        scaling: Scaling = "unit",
        channels: Channels = "mean",
        orientation: Orientation = "ascending",
        per_class: bool = False,
        decay: float = 0.99,
        every: int = 1,
        exact_subset: int = 0,
    ) -> None:
        super().__init__()
        check_method(estimator, factor, channels)
        for name, value in (("epsilon", epsilon), ("relative_epsilon", relative_epsilon or 0.0), ("weight", weight)):
            if not value >= 0:
                raise ValueError(f"{name} is {value}: a number of 0 or more is needed")
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}: a number from 0 to below 1 is needed")
        if every < 1:
            raise ValueError(f"every is {every}: a whole number of 1 or more is needed")
        if exact_subset < 0:
            raise ValueError(f"exact_subset is {exact_subset}: a whole number of 0 or more is needed")
        for name, given, known in (
            ("penalty", penalty, get_args(Penalty)),
            ("scaling", scaling, get_args(Scaling)),
            ("orientation", orientation, get_args(Orientation)),
        ):
            if given not in known:
                raise ValueError(f'{name} is "{given}": one of {", ".join(known)} is needed')
        if estimator == "perron" and scaling == "signed":
            raise ValueError('estimator "perron" is for images in [0, 1]: scaling "unit" is needed, "signed" was given')
        self.epsilon = epsilon
        self.relative_epsilon = relative_epsilon
        self.weight = weight
        self.penalty = penalty
        self.estimator = estimator
        self.factor = factor
        self.scaling = scaling
        self.channels = channels
        self.orientation = orientation
        self.per_class = per_class
        self.decay = decay
        self.every = every
        self.exact_subset = exact_subset
        for name in _FITTED:
            self.register_buffer(name, torch.zeros((2, 1) if name == "multipliers" else 1))
        for name in ("batch_gap", "batch_mean"):
            self.register_buffer(name, torch.zeros(()))
        # What follows travels in the extra state: `forward` branches on it, and must not wait for a device to do so.
        self.real_count = 0
        self.steps = 0
        self.updates = 0
        self.image_shape: tuple[int, ...] = ()
        self.fingerprint = ""

    @torch.no_grad()
    def fit_real(self, loader: Iterable[Tensor | Sequence[Tensor]], *, sharded: bool = False) -> None:
        """Take mean, variance and count of Δ² over the real images: one pass over batches, or (images, labels, ...).

        Give it the whole training set, in every process, or each process its part with `sharded`. It starts the moving
        average afresh. ValueError for images outside [−1, 1], fewer than two of them, Δ² = 0 throughout, or missing
        labels where `per_class` needs them.
        """
        device = self.real_mean.device
        real = real_departures(
            loader,
            lambda images, exactly: self._departures(images, "exact" if exactly else self.estimator),
            per_class=self.per_class,
            sharded=sharded,
            device=device,
        )
        for name, value in (
            ("real_mean", real.mean),
            ("real_var", real.var),
            ("real_share", real.share),
            ("exact_offset", real.exact_offset),
            ("ema_sum", torch.zeros_like(real.mean)),
            ("ema_count", torch.zeros_like(real.mean)),
            ("multipliers", torch.zeros(2, len(real.mean))),
        ):
            setattr(self, name, value.float().to(device))
        self.real_count, self.image_shape = real.images, real.shape
        self.steps = self.updates = 0
        self.fingerprint = f"{self._measure()}; images {'x'.join(map(str, real.shape))}; data {real.digest:016x}"

    def forward(self, fake: Tensor, labels: Tensor | None = None) -> tuple[Tensor, DDFNStats]:
        """Penalty (scalar, differentiable) and statistics of generated images, with labels (B,) if `per_class`.

        The moving average and the step count go on only in training mode with gradients enabled. On the free steps of
        `every` the penalty is 0 and the statistics are the last ones. RuntimeError before `fit_real`, ValueError for
        another image shape or missing labels.
        """
        return self.begin(fake, labels)()

    def begin(self, fake: Tensor, labels: Tensor | None = None) -> Callable[[], tuple[Tensor, DDFNStats]]:
        """`forward` in two halves: on a GPU, what is queued before the returned function is called runs while the CPU
        solves the eigenproblems. On a CPU all happens in the function."""
        images = self._comparable(fake)
        classes = self._classes(labels, len(fake))
        learning = self.training and torch.is_grad_enabled()
        if learning:
            self.steps += 1
            if (self.steps - 1) % self.every:
                return lambda: (fake.new_zeros((), dtype=torch.float32), self._stats(self.batch_gap, self.batch_mean))
        departures = self._begin(images, self.exact_subset)
        return lambda: self._penalty(departures().float(), classes, learning)

    def observe(self, fake: Tensor, labels: Tensor | None = None) -> None:
        """Do nothing: the moving average is of the images of `forward`."""

    def scale(self, g_adversarial: Tensor, g_penalty: Tensor) -> Tensor:
        """1: the weight is in the penalty."""
        return torch.ones((), device=self.real_mean.device)

    def _penalty(self, departures: Tensor, classes: Tensor, learning: bool) -> tuple[Tensor, DDFNStats]:
        zero = torch.zeros_like(self.real_mean)
        sums = zero.index_add(0, classes, departures)
        all_sums, counts, processes = over_processes(
            sums.detach(), zero.index_add(0, classes, torch.ones_like(departures))
        )
        means = all_sums / counts.clamp(min=1)
        share = counts / counts.sum()
        target = self._target()
        batch_mean = (share * means).sum()
        batch_gap = batch_mean - (share * target).sum()
        if learning:
            self.ema_sum = self.decay * self.ema_sum + all_sums
            self.ema_count = self.decay * self.ema_count + counts
            self.batch_gap, self.batch_mean = batch_gap, batch_mean
            self.updates += 1
        gap = torch.where(self.ema_count > 0, self._ema_gap(), torch.where(counts > 0, means - target, 0.0))
        stats = self._stats(batch_gap, batch_mean, gap, counts)
        # The mean over all processes, whose gradients DistributedDataParallel is going to average.
        through = gap + (sums - sums.detach()) * processes / counts.clamp(min=1)
        band, unit = self.band(), self.real_average()
        each = penalise(self.penalty, through, band, unit, self.weight, self.multipliers)
        if learning and self.penalty == "augmented":
            # At the pace at which the moving average settles.
            moved = step_multipliers(self.multipliers, gap, band, unit, (1 - self.decay) * self.weight)
            self.multipliers = torch.where(counts > 0, moved, self.multipliers)
        return (share * each).sum() * (self.every if learning else 1), stats

    @torch.no_grad()
    def gap(self, fake: Tensor, labels: Tensor | None = None, *, subset: int | None = None) -> Tensor:
        """E Δ²(G(z)) − E Δ²(x) by the exact method, for monitoring; a scalar in units of Δ², of this process alone.

        subset: exact on that many of the images, and the estimator on all (a control variate): unbiased too, and for
        8 of 256 spectrograms off by an eighth of the batch's own standard error. The real mean is the estimator's,
        corrected by its mean error on every eighth real image.
        """
        images = self._comparable(fake)
        exact = self.real_mean + self.exact_offset
        target = exact[self._classes(labels, len(fake))].mean() if self.per_class else exact[0]
        departures = self._departures(images, "exact") if subset is None else self._begin(images, subset)()
        return departures.float().mean() - target

    @property
    def ema(self) -> Tensor:
        """Moving average of the generated mean Δ² (K,); the real mean where no image was seen."""
        return self._ema_gap() + self._target()

    def band(self) -> Tensor:
        """ε (K,), in units of Δ²."""
        if self.relative_epsilon is not None:
            return self.relative_epsilon * self._target()
        return torch.full_like(self.real_mean, self.epsilon)

    def real_average(self) -> Tensor:
        """Mean Δ² of all real images, a scalar."""
        return (self.real_share * self._target()).sum()

    def standard_error(self, batch_size: int) -> Tensor:
        """Standard deviation of the mean Δ² of `batch_size` real images: a gap below twice that is noise."""
        self._require_real()
        between = (self.real_mean - (self.real_share * self.real_mean).sum()).square()
        return ((self.real_share * (self.real_var + between)).sum() / batch_size).sqrt()

    def extra_repr(self) -> str:
        width = f"epsilon={self.epsilon}" if self.relative_epsilon is None else f"epsilon={self.relative_epsilon} E Δ²"
        rest = f"penalty={self.penalty}, decay={self.decay}, every={self.every}, exact_subset={self.exact_subset}"
        return f"{width}, weight={self.weight}, {self._measure()}, {rest}"

    def get_extra_state(self) -> dict[str, Any]:
        names = ("real_count", "steps", "updates", "image_shape", "fingerprint")
        return {name: getattr(self, name) for name in names}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Refuse, before anything is overwritten, what was fitted in another way, or on other data than this was."""
        fingerprint = state_dict.get(prefix + "_extra_state", {}).get("fingerprint", "")
        measured = fingerprint.split("; ")[0]
        if measured and measured != self._measure():
            raise ValueError(
                f"this state was fitted with {measured}, the DDFN here uses {self._measure()}: "
                "their values do not compare, build the DDFN alike or run fit_real again"
            )
        if fingerprint and self.fingerprint and fingerprint != self.fingerprint:
            theirs, ours = (each.partition("; ")[2] for each in (fingerprint, self.fingerprint))
            raise ValueError(
                f"this state was fitted on {theirs}, the DDFN here on {ours}: load it into a DDFN that is not fitted, "
                "or fit on the same data"
            )
        for name in _FITTED:  # as many classes as there were
            if prefix + name in state_dict:
                setattr(self, name, torch.zeros_like(state_dict[prefix + name], device=self.real_mean.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _measure(self) -> str:
        """What two DDFN must have in common for their values to compare."""
        pooled = f" x{self.factor}" if self.estimator in ("hybrid", "paper_symmetric", "paper_determinant") else ""
        values = "[-1, 1]" if self.scaling == "signed" else "[0, 1]"
        classes = ", per class" if self.per_class else ""
        return f"{self.estimator}{pooled} of {values}, {self.channels} of channels, rows {self.orientation}{classes}"

    def _comparable(self, fake: Tensor) -> Tensor:
        """Generated images as (B, C, n, n), if there are real ones of their shape to compare them with."""
        self._require_real()
        images = with_channels(fake)
        if images.shape[1:] != self.image_shape:
            raise ValueError(
                f"generated images are {tuple(images.shape[1:])}, the real ones were {self.image_shape}: "
                "their Δ² do not compare, run fit_real on images of the generator's shape"
            )
        return images

    def _classes(self, labels: Tensor | None, count: int) -> Tensor:
        if not self.per_class:
            return torch.zeros(count, dtype=torch.long, device=self.real_mean.device)
        if labels is None or labels.shape != (count,):
            given = "none" if labels is None else f"labels of shape {tuple(labels.shape)}"
            raise ValueError(f"per_class needs the class of each image: labels ({count},) are needed, {given} given")
        return labels.to(self.real_mean.device, torch.long)

    def _departures(self, images: Tensor, method: str) -> Tensor:
        return departure_from_normality(self._mapped(images), method, factor=self.factor, channels=self.channels)

    def _mapped(self, images: Tensor) -> Tensor:
        """Images as `scaling` wants them, in float32 or more: half types would round (x + 1) / 2."""
        images = images.to(torch.promote_types(images.dtype, torch.float32))
        return (images + 1) / 2 if self.scaling == "unit" else images

    def _begin(self, images: Tensor, subset: int) -> Callable[[], Tensor]:
        """Δ² of images (B, C, n, n), each moved by the estimator's mean error on `subset` evenly spaced ones."""
        estimate = begin(self._mapped(images), self.estimator, factor=self.factor, channels=self.channels)
        if not subset or self.estimator == "exact":
            return estimate
        chosen = torch.linspace(0, len(images) - 1, min(subset, len(images)), device=images.device).round().long()

        def corrected() -> Tensor:
            departures = estimate()
            exact = self._departures(images[chosen], "exact")
            return departures + (exact - departures[chosen]).mean()

        return corrected

    def _target(self) -> Tensor:
        return self.real_mean + self.exact_offset if self.exact_subset else self.real_mean

    def _ema_gap(self) -> Tensor:
        return torch.where(self.ema_count > 0, self.ema_sum / self.ema_count.clamp(min=1e-30) - self._target(), 0.0)

    def _stats(self, gap: Tensor, mean: Tensor, gaps: Tensor | None = None, counts: Tensor | None = None) -> DDFNStats:
        gaps = self._ema_gap() if gaps is None else gaps
        outside = gaps.abs() > self.band()
        active = outside.any() if counts is None else (outside & (counts > 0)).any()
        return DDFNStats(gap, (self.real_share * gaps).sum(), mean, active)

    def _require_real(self) -> None:
        if not self.fingerprint:
            raise RuntimeError("DDFN knows no real images yet: call fit_real(loader) or load a state first")
