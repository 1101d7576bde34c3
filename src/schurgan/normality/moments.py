"""Moment matching: the mean and the spread of a statistic of generated images are held to those of the real ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from .condition import LEAST, Condition
from .descriptors import Descriptor, find_descriptor
from .real_moments import RealMoments, sum_over_processes

Form = Literal["witness", "hinge"]

FARTHEST = 6.0  # standard deviations of a class beyond which an image counts as that far
LARGEST = 2.0  # gap of the moving average, in the features' units, beyond which it pulls no harder


class MomentStats(NamedTuple):
    """Detached scalars on the condition's device, so that logging them keeps no step waiting."""

    severity: Tensor  # v: rms of the banded gap (witness), the penalty before its weight (hinge)
    gap: Tensor  # rms of the gap (witness), its norm over the real mean's (hinge)
    active: Tensor  # bool: something is outside its band, the penalty pulls


class MomentMatching(Condition):
    """Moments of a descriptor s(x) of generated images, held near those of the real ones, per class or overall.

    "witness": with μ_c the real mean of class c and σ the standard deviations within a class,

        z = clamp((s(x) − μ_c)/σ, ±6)       φ(x, c) = [z, z²/2] − E_real[z, z²/2 | c]       A_c = EMA of φ(G(z), c)
        penalty = E_i mean_k a_{c(i), k} φ_k(G(z_i), c(i)),     a = sign(A) max(min(|A|, 2) − ε, 0), without gradient

    A is of the images of `observe`, which are not those of the penalty. So the penalty is linear in φ and its gradient
    unbiased, where a hinge or a square of a small batch's own mean is smallest for images that are all alike. Its value
    is no distance: log `severity`, the rms v of a.

    "hinge": weight · max(‖A_c − μ_c‖ − ε‖μ_c‖, 0) / E‖μ_c‖ of the EMA A_c of s itself, whose gradient goes straight
    through the EMA. With descriptor "dfn" and without spread and balance this is the paper's DDFN (`DDFN` with
    relative_epsilon and scaling "unit"), with "variance" or "frobenius" its control.

    Inside torch.distributed moments are those of all processes' images. `Condition` shows a step.

    Args:
        descriptor: a name ("variance", "frobenius", "dfn", "gram", "profile", "pixels", see `descriptors`), or a
            function of images (B, C, H, W) in [0, 1] to (B, m).
        classes: K, how many there are.
        per_class: moments of each class by itself, classes of fewer than ten images drawn towards the overall ones;
            otherwise moments of all images as one.
        spread: match the second moments z² as well (witness).
        epsilon: ε, in standard deviations within a class (witness), as a share of the real mean (hinge).
        decay: of the EMA with each call of `observe` (witness) or `forward` (hinge). Sums and counts are averaged, so
            it is a mean from the first batch on.
        weight: ρ of the balance, or of the penalty itself without balance.
        tau: τ, severity at which the balance is in full force.
        balance: measure the penalty's gradient by the adversarial one, see `scale` (witness).
        penalty: "witness" or "hinge".
        estimator: a method of `departure_from_normality`, for descriptor "dfn"; "perron" if None.
    """

    real_mean: Tensor  # (K, m)
    spread_within: Tensor  # (m,)
    centre: Tensor  # (K, F), mean of the features before it is taken off

    def __init__(
        self,
        descriptor: str | Descriptor,
        *,
        classes: int,
        per_class: bool = True,
        spread: bool = True,
        epsilon: float = 0.1,
        decay: float = 0.95,
        weight: float = 1.0,
        tau: float = 0.5,
        balance: bool = True,
        penalty: Form = "witness",
        estimator: str | None = None,
    ) -> None:
        super().__init__(classes=classes, per_class=per_class, epsilon=epsilon, decay=decay, weight=weight)
        if classes < 1:
            raise ValueError(f"classes is {classes}: a whole number of 1 or more is needed")
        if not 0 < tau < math.inf:
            raise ValueError(f"tau is {tau}: a finite number above 0 is needed")
        if penalty not in get_args(Form):
            raise ValueError(f'penalty is "{penalty}": one of {", ".join(get_args(Form))} is needed')
        if penalty == "hinge" and (spread or balance):
            extra = " and ".join(name for name, on in (("spread", spread), ("balance", balance)) if on)
            raise ValueError(f'{extra} given with penalty "hinge", which has neither: "witness", or False is needed')
        if penalty == "witness" and epsilon >= LARGEST:
            raise ValueError(f"epsilon is {epsilon}: gaps count up to {LARGEST:g}, so a number below that is needed")
        if isinstance(descriptor, str):
            self.name, self.descriptor = descriptor, find_descriptor(descriptor, estimator)
        elif estimator is not None:
            raise ValueError(f'estimator "{estimator}" given with a function as descriptor: "dfn" alone takes one')
        else:
            self.name, self.descriptor = getattr(descriptor, "__name__", type(descriptor).__name__), descriptor
        self.spread, self.tau, self.balance, self.penalty = spread, tau, balance, penalty
        self.estimator = estimator or "perron"
        for name in ("real_mean", "spread_within", "centre"):
            self.register_buffer(name, torch.zeros(0))

    @torch.no_grad()
    def observe(self, fake: Tensor, labels: Tensor | None = None) -> None:
        """Take generated images into the witness's moving average."""
        if self.penalty == "witness":
            images, classes = self._check(fake, labels)
            self._update(*self._sums(self._features(images, classes), classes))

    def begin(self, fake: Tensor, labels: Tensor | None = None) -> Callable[[], tuple[Tensor, MomentStats]]:
        """See `Condition.begin`."""
        images, classes = self._check(fake, labels)
        return lambda: self._penalty(images, classes)

    @torch.no_grad()
    def scale(self, g_adversarial: Tensor, g_penalty: Tensor) -> Tensor:
        """Factor ρ |g_adversarial| / |g_penalty| · min(1, v/τ) of the penalty's gradient; 1 without balance.

        As the severity v falls into the band, the penalty lets go; and as the adversarial gradient grows, which it does
        in a collapse, the penalty keeps up. Norms are those of all processes' gradients (B, C, H, W).
        """
        if not self.balance:
            return super().scale(g_adversarial, g_penalty)
        squares = [g.to(torch.promote_types(g.dtype, torch.float32)).square().sum() for g in (g_adversarial, g_penalty)]
        adversarial, penalty = sum_over_processes(torch.stack(squares))
        ratio = torch.where(penalty > 0, (adversarial / penalty).sqrt(), 0.0)
        return self.weight * ratio * (self.severity() / self.tau).clamp(max=1)

    def ema_gap(self) -> Tensor:
        """Moving average A of φ (K, F); 0 for classes without images."""
        return self._gap(self.ema_sum, self.ema_count)

    def severity(self) -> Tensor:
        """Severity v, the rms of the witness's banded gap over coordinates and classes with images; a scalar."""
        return self._rms(self._banded(self.ema_gap()))

    def _penalty(self, images: Tensor, classes: Tensor) -> tuple[Tensor, MomentStats]:
        with torch.autocast(images.device.type, enabled=False):
            features = self._features(images, classes)
            penalty, stats = (self._witness if self.penalty == "witness" else self._hinge)(features, classes)
            return (1.0 if self.balance else self.weight) * penalty, stats

    def _witness(self, features: Tensor, classes: Tensor) -> tuple[Tensor, MomentStats]:
        gap = self.ema_gap()
        banded = self._banded(gap)
        penalty = self._mean((banded[classes] * features).mean(1))
        return penalty, MomentStats(self._rms(banded), self._rms(gap), (banded != 0).any())

    def _hinge(self, features: Tensor, classes: Tensor) -> tuple[Tensor, MomentStats]:
        gap, _, counts = self._straight_through(features, classes, self._learning())
        size = self.real_mean.norm(dim=1)
        unit = (self.real_share * size).sum()
        share = counts / counts.sum().clamp(min=1)
        excess = ((gap.norm(dim=1) - self.epsilon * size) / unit).clamp(min=0)
        penalty = (share * excess).sum()
        gaps = (share * gap.detach().norm(dim=1)).sum() / unit
        return penalty, MomentStats(penalty.detach(), gaps, ((excess > 0) & (counts > 0)).any())

    def _banded(self, gap: Tensor) -> Tensor:
        """Gap beyond the band, a = sign(A) max(min(|A|, 2) − ε, 0)."""
        return gap.sign() * (gap.abs().clamp(max=LARGEST) - self.epsilon).clamp(min=0)

    def _rms(self, gap: Tensor) -> Tensor:
        """Root mean square of (K, F) over the classes that have images."""
        classes = (self.ema_count > LEAST).sum()
        return (gap.square().mean(1).sum() / classes.clamp(min=1)).sqrt()

    def _features(self, images: Tensor, classes: Tensor) -> Tensor:
        """φ (B, 2m), or (B, m) without spread (witness); s(x) − μ_c (B, m) (hinge). Its real mean is 0."""
        described = self._describe(images).float()
        if self.penalty == "witness":
            described = self._standardised(described, self.real_mean[classes], self.spread_within)
        return described - self.centre[classes]

    def _standardised(self, described: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        """Coordinates [z, z²/2] of s(x) (B, m) with its class's mean (B, m)."""
        z = ((described - mean) / spread).clamp(-FARTHEST, FARTHEST)
        return torch.cat([z, z.square() / 2], 1) if self.spread else z

    def _describe(self, images: Tensor) -> Tensor:
        """Descriptor s(x) of images (B, C, H, W) in [−1, 1]."""
        with torch.autocast(images.device.type, enabled=False):
            return self.descriptor((images.to(torch.promote_types(images.dtype, torch.float32)) + 1) / 2)

    def _describe_real(self, images: Tensor, ranks: Tensor) -> Tensor:
        return self._describe(images)

    def _fit(self, real: RealMoments) -> dict[str, Tensor]:
        mean = real.means(lambda x, _: x)
        if self.penalty == "witness":
            spread = real.spread()
            centre = real.means(lambda x, c: self._standardised(x, mean[c], spread))
        else:
            spread, centre = torch.ones_like(mean[0]), mean
            if not (real.counts * mean.norm(dim=1)).sum() > 0:
                raise ValueError(f'descriptor "{self.name}" is 0 of all real images: other images or another is needed')
        return {"real_mean": mean, "spread_within": spread, "centre": centre, "ema_sum": torch.zeros_like(centre)}

    def _measure(self) -> str:
        estimated = f" ({self.estimator})" if self.name == "dfn" else ""
        classes = f", of each of {self.classes} classes" if self.per_class else ""
        return f"{self.penalty} of {self.name}{estimated}{', with spread' if self.spread else ''}{classes}"
