"""DDFN, the constraint |E Δ²(G(z)) − E Δ²(x)| < ε on a generator (eq. 8), as a penalty for any training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from .condition import Condition
from .estimators import (
    POOLING,
    Channels,
    begin_departure_from_normality,
    check_method,
    departure_from_normality,
    perron,
)
from .real_moments import RealMoments

Constraint = Literal["mean", "image"]
Penalty = Literal["hinge", "quadratic", "augmented"]
Scaling = Literal["signed", "unit"]
Orientation = Literal["ascending", "descending"]

EVERY_EXACT = 8  # real images of a class between two whose exact Δ² is taken as well


class DDFNStats(NamedTuple):
    """Detached scalars on the penalty's device, so that logging them keeps no step waiting."""

    gap: Tensor  # batch_mean less the real mean (of the batch's classes, if per class)
    ema_gap: Tensor  # moving average of the generated mean less the real mean, what the constraint is about
    batch_mean: Tensor  # mean Δ² of the last generated images, of all processes
    active: Tensor  # bool: the moving average (of some class), or an image, is outside the band: the penalty pulls


class DDFN(Condition):
    """Difference of the departures from normality of generated and real images, held below ε (eq. 8).

        penalty = weight · max(|ḡ| − ε, 0) / E Δ²(x),     ḡ = EMA of E Δ²(G(z)) − E Δ²(x)

    This is moment matching with a scalar descriptor, its mean alone, and a hinge. A batch mean is noise of the order of
    ε, hence the moving average ḡ (of sums and of counts, so that it is a mean from the first batch on). The gradient
    goes straight through it, with weight 1 and not 1 − decay:
    weight · sign(ḡ)·1[|ḡ| > ε]·∇(mean Δ² of the batch) / E Δ²(x).

    With constraint="image" each generated image is held by itself, without a moving average: the penalty is the mean of
    weight · max(|Δ²(G(z)) − E Δ²(x)| − ε, 0) / E Δ²(x). Its least value has all images at the real mean, however far
    apart real ones are: their Δ² vary by 80 % of it.

        constraint = DDFN(relative_epsilon=0.03)
        constraint.fit_real(loader)
        penalty, stats = constraint(generator(z, labels))
        (adversarial + penalty).backward()

    Images are (B, C, n, n) or (B, n, n), in [−1, 1]. Inside torch.distributed means are those of all processes' images.

    Args:
        epsilon: half width ε of the band, in units of Δ². The paper's values are for scaling="signed" and 128² to 256²;
            Δ² grows with n².
        relative_epsilon: half width as a share of E Δ²(x), in place of `epsilon`; it carries over between sizes.
        weight: weight of the penalty, against losses of order 1.
        constraint: of the "mean" of generated images, or of each "image".
        penalty: "hinge", "quadratic" or "augmented" (Lagrangian, of the mean alone), see `gap_penalty`.
        estimator: method of `departure_from_normality`.
        factor: pooling of the estimator.
        scaling: "unit" takes Δ² of (x + 1) / 2, in [0, 1]; "signed" of the images as they are, which the paper's ε
            fits. Strong penalties trained better with "unit" (five of six pairs of runs); "perron" needs it.
        channels: "mean" or "sum" of the channels' Δ², or that of their "luminance".
        orientation: direction of the rows, for the fingerprint: flipping the frequency axis changes Δ² by 12 to 18 %.
        per_class: keep means, bands and moving averages of each class by itself, weighted by its share of the batch.
        decay: decay of the moving average per update; 0.99 suits batches of 256.
        every: m; the penalty comes with every m-th training step, m times as strong, and the steps between are free.
        interval: [a, b] of (6) and (7), within [−1, 1]. `fit_real` fits a parabola g (degree n + 1 = 2) to Δ² of the
            real images as a function of their `levels`, over those with a level in [a, b]. `interpolation` has the
            bound (7), ⅛ max|g″| (b − a)², and beside it the residual, the root mean square of Δ² − g: what no function
            of the level says. No penalty reads them.
        exact_subset: b; the estimator's mean error on b images of the batch is taken off (a control variate), which
            makes mean and gradient those of exact Δ², unbiased, at the price of b eigenproblems.
    """

    real_mean: Tensor  # (K,) of the estimator
    real_var: Tensor  # (K,), unbiased
    exact_offset: Tensor  # (K,) mean of exact Δ² less `real_mean`
    multipliers: Tensor  # (2, K)
    latest: Tensor  # (4,) the last statistics

    _extra_state = (*Condition._extra_state, "steps", "interpolation")

    def __init__(
        self,
        epsilon: float = 37.16,
        *,
        relative_epsilon: float | None = None,
        weight: float = 1.0,
        constraint: Constraint = "mean",
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
        interval: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__(classes=None, per_class=per_class, epsilon=epsilon, decay=decay, weight=weight)
        check_method(estimator, factor, channels)
        if relative_epsilon is not None and not relative_epsilon >= 0:
            raise ValueError(f"relative_epsilon is {relative_epsilon}: a number of 0 or more is needed")
        for name, number, least in (("every", every, 1), ("exact_subset", exact_subset, 0)):
            if number < least:
                raise ValueError(f"{name} is {number}: a whole number of {least} or more is needed")
        for name, value, known in (
            ("constraint", constraint, get_args(Constraint)),
            ("penalty", penalty, get_args(Penalty)),
            ("scaling", scaling, get_args(Scaling)),
            ("orientation", orientation, get_args(Orientation)),
        ):
            if value not in known:
                raise ValueError(f'{name} is "{value}": one of {", ".join(known)} is needed')
        if not -1 <= interval[0] < interval[1] <= 1:
            raise ValueError(f"interval is {interval}: two ascending numbers from -1 to 1 are needed")
        if estimator == "perron" and scaling == "signed":
            raise ValueError('estimator "perron" is for images in [0, 1]: scaling "unit" is needed, "signed" was given')
        if constraint == "image" and penalty == "augmented":
            raise ValueError('penalty is "augmented": it is of constraint "mean", an image has no multipliers')
        self.relative_epsilon, self.constraint = relative_epsilon, constraint
        self.estimator, self.factor, self.scaling, self.channels = estimator, factor, scaling, channels
        self.penalty, self.orientation, self.every, self.exact_subset = penalty, orientation, every, exact_subset
        for name in ("real_mean", "real_var", "exact_offset", "multipliers"):
            self.register_buffer(name, torch.zeros(0))
        self.register_buffer("latest", torch.zeros(4))
        self.steps = 0
        self.interval = interval
        self.interpolation: dict[str, float] = {}
        """"bound" and "residual"; empty before the fit, and where fewer than three real images are in the interval."""

    def begin(self, fake: Tensor, labels: Tensor | None = None) -> Callable[[], tuple[Tensor, DDFNStats]]:
        """See `Condition.begin`. On a GPU, what is queued before the function is called runs while the CPU solves.

        On the free steps of `every` the penalty is 0 and the statistics are the last ones.
        """
        images, classes = self._check(fake, labels)
        learning = self._learning()
        if learning:
            self.steps += 1
            if (self.steps - 1) % self.every:
                return lambda: (fake.new_zeros((), dtype=torch.float32), self._latest_stats())
        departures = self._begin_departures(images, self.exact_subset)
        return lambda: self._penalty(departures().float(), classes, learning)

    @torch.no_grad()
    def gap(self, fake: Tensor, labels: Tensor | None = None, *, subset: int | None = None) -> Tensor:
        """Gap E Δ²(G(z)) − E Δ²(x) by the exact method, for monitoring.

        Args:
            fake: generated images of this process (B, C, n, n) or (B, n, n).
            labels: class of each image (B,), where `per_class` needs it.
            subset: take the exact method on that many of the images, and the estimator on all (a control variate):
                unbiased too, and for 8 of 256 spectrograms off by an eighth of the batch's own standard error.
        """
        images, classes = self._check(fake, labels)
        exact = self.real_mean + self.exact_offset
        target = exact[classes].mean() if self.per_class else exact[0]
        departures = self._departures(images, "exact") if subset is None else self._begin_departures(images, subset)()
        return departures.float().mean() - target

    @property
    def ema(self) -> Tensor:
        """Moving average of the generated mean Δ² (K,); the real mean of classes without images."""
        return (self._gap(self.ema_sum, self.ema_count) + self._target())[:, 0]

    def band(self) -> Tensor:
        """Half width ε of the band (K,), in units of Δ²."""
        if self.relative_epsilon is not None:
            return self.relative_epsilon * self._target()[:, 0]
        return torch.full_like(self.real_mean, self.epsilon)

    def real_average(self) -> Tensor:
        """Mean Δ² of all real images, a scalar."""
        return (self.real_share * self._target()[:, 0]).sum()

    def standard_error(self, batch_size: int) -> Tensor:
        """Standard deviation of the mean Δ² of `batch_size` real images: a gap below twice that is noise."""
        self._require_fit()
        between = (self.real_mean - (self.real_share * self.real_mean).sum()).square()
        return ((self.real_share * (self.real_var + between)).sum() / batch_size).sqrt()

    def _penalty(self, departures: Tensor, classes: Tensor, learning: bool) -> tuple[Tensor, DDFNStats]:
        through, sums, counts = self._straight_through(departures[:, None], classes, learning)
        share = counts / counts.sum()
        batch_mean = (share * (sums[:, 0] / counts.clamp(min=1))).sum()
        batch_gap = batch_mean - (share * self._target()[:, 0]).sum()
        gap, band, unit = through.detach()[:, 0], self.band(), self.real_average()
        if self.constraint == "image":
            gaps, bands = departures - self._target()[classes, 0], band[classes]
            penalty = self._mean(gap_penalty(self.penalty, gaps, bands, unit, self.weight, self.multipliers))
            active = self._mean((gaps.detach().abs() > bands).float()) > 0
        else:
            each = gap_penalty(self.penalty, through[:, 0], band, unit, self.weight, self.multipliers)
            penalty, active = (share * each).sum(), ((gap.abs() > band) & (counts > 0)).any()
        stats = DDFNStats(batch_gap, (self.real_share * gap).sum(), batch_mean, active)
        if not learning:
            return penalty, stats
        self.latest = torch.stack([*stats[:3], active.float()])
        if self.penalty == "augmented":
            # At the pace at which the moving average settles.
            moved = update_multipliers(self.multipliers, gap, band, unit, (1 - self.decay) * self.weight)
            self.multipliers = torch.where(counts > 0, moved, self.multipliers)
        return penalty * self.every, stats

    def _latest_stats(self) -> DDFNStats:
        gap, ema_gap, batch_mean, active = self.latest
        return DDFNStats(gap, ema_gap, batch_mean, active > 0)

    def _begin_departures(self, images: Tensor, subset: int) -> Callable[[], Tensor]:
        """Δ² of images (B, C, n, n), each moved by the estimator's mean error on `subset` evenly spaced ones."""
        estimate = begin_departure_from_normality(self._scaled(images), self.estimator, self.factor, self.channels)
        if not subset or self.estimator == "exact":
            return estimate
        rows = torch.linspace(0, len(images) - 1, min(subset, len(images)), device=images.device).round().long()

        def corrected() -> Tensor:
            departures = estimate()
            exact = self._departures(images[rows], "exact")
            return departures + (exact - departures[rows]).mean()

        return corrected

    def _departures(self, images: Tensor, method: str) -> Tensor:
        return departure_from_normality(self._scaled(images), method, factor=self.factor, channels=self.channels)

    def _scaled(self, images: Tensor) -> Tensor:
        """Images as `scaling` wants them, in float32 or more: half types would round (x + 1) / 2."""
        images = images.to(torch.promote_types(images.dtype, torch.float32))
        return (images + 1) / 2 if self.scaling == "unit" else images

    def _describe_real(self, images: Tensor, ranks: Tensor) -> Tensor:
        """Δ², the estimator's error on every eighth image of a class, 1 there and 0 elsewhere, the level (B, 4)."""
        departures = self._departures(images, self.estimator).double().cpu()
        rows = (ranks % EVERY_EXACT == 0).nonzero()[:, 0]
        error = departures.new_zeros(len(images), 2)
        exact = self._departures(images[rows.to(images.device)], "exact").cpu()
        error[rows, 0] = (exact - departures[rows].to(exact.dtype)).double()
        error[rows, 1] = 1
        return torch.cat([departures[:, None], error, levels(images).double().cpu()[:, None]], 1)

    def _fit(self, real: RealMoments) -> dict[str, Tensor]:
        def mean(sums: Tensor, counts: Tensor) -> Tensor:  # the overall one for classes without images
            return torch.where(counts > 0, sums / counts.clamp(min=1), sums.sum() / counts.sum())

        sums, errors, measured, _ = real.sums(lambda x, _: x).unbind(1)
        if not sums.sum() > 0:
            raise ValueError(
                "the real images have Δ² = 0 throughout, nothing to hold a generator to: other data is needed"
            )
        self.steps, self.interpolation = 0, self._interpolate(real)
        real_mean, overall = mean(sums, real.counts), sums.sum() / real.images
        within = real.sums(lambda x, c: (x[:, :1] - real_mean[c, None]).square())[:, 0]
        spread = real.sums(lambda x, _: (x[:, :1] - overall).square()).sum() / (real.images - 1)
        return {
            "real_mean": real_mean,
            "real_var": torch.where(real.counts > 1, within / (real.counts - 1).clamp(min=1), spread),
            "exact_offset": mean(errors, measured),
            "multipliers": sums.new_zeros(2, len(sums)),
            "latest": sums.new_zeros(4),
            "ema_sum": sums.new_zeros(len(sums), 1),
        }

    def _interpolate(self, real: RealMoments) -> dict[str, float]:
        low, high = self.interval

        def powers(x: Tensor) -> Tensor:  # (B, 3), rows of 0 outside the interval
            level = x[:, 3:]
            return torch.cat([level**0, level, level**2], 1) * ((level >= low) & (level <= high))

        def equations(x: Tensor, _: Tensor) -> Tensor:
            return (powers(x)[:, :, None] * torch.cat([powers(x), x[:, :1]], 1)[:, None]).flatten(1)

        normal = real.sums(equations).sum(0).view(3, 4)
        count = normal[0, 0].item()
        if count < 3:
            return {}
        parabola = torch.linalg.lstsq(normal[:, :3], normal[:, 3:]).solution
        squares = real.sums(lambda x, _: ((x[:, :1] - powers(x) @ parabola) * powers(x)[:, :1]).square()).sum().item()
        values = {"bound": abs(2 * parabola[2].item()) / 8 * (high - low) ** 2, "residual": (squares / count) ** 0.5}
        # LAPACK's last bits hang on where the memory lies; one seed is to give one log.
        return {name: float(f"{value:.9g}") for name, value in values.items()}

    def _target(self) -> Tensor:
        return (self.real_mean + self.exact_offset if self.exact_subset else self.real_mean)[:, None]

    def _measure(self) -> str:
        pooled = f" x{self.factor}" if self.estimator in POOLING else ""
        values = "[-1, 1]" if self.scaling == "signed" else "[0, 1]"
        classes = ", per class" if self.per_class else ""
        return f"{self.estimator}{pooled} of {values}, {self.channels} of channels, rows {self.orientation}{classes}"


def levels(images: Tensor) -> Tensor:
    """2 λ₁/n − 1 of images (B, C, n, n) in [−1, 1], λ₁ the largest eigenvalue of (x + 1)/2, mean of channels  ->  (B,).

    In [−1, 1] too, and of a constant image its value: a reading of x_i = max(diag(S_i)) before (6), as the diagonal of
    a Schur form holds the eigenvalues.
    """
    unit = (images.to(torch.promote_types(images.dtype, torch.float32)) + 1) / 2
    square = unit.square().sum((-2, -1)) - perron(unit)
    return 2 * square.clamp(min=0).sqrt().mean(1) / images.shape[-1] - 1


def gap_penalty(kind: Penalty, gap: Tensor, band: Tensor, unit: Tensor, weight: float, multipliers: Tensor) -> Tensor:
    """Penalty of gaps that should stay within ±ε.

        hinge       λ·max(e, 0)         e = (|gap| − ε)/unit
        quadratic   λ·max(e, 0)²
        augmented   Σ± [max(μ± + λ e±, 0)² − μ±²] / 2λ,     e± = (±gap − ε)/unit

    The last is the augmented Lagrangian of the two inequalities e± ≤ 0 (Rockafellar 1973). gap and ε (K,), multipliers
    μ (2, K), kept by `update_multipliers`  ->  (K,).
    """
    if kind == "augmented":
        weight = max(weight, torch.finfo(torch.float32).tiny)
        pushed = (multipliers + weight * _sides(gap, band, unit)).clamp(min=0)
        return (pushed.square() - multipliers.square()).sum(0) / (2 * weight)
    excess = ((gap.abs() - band) / unit).clamp(min=0)
    return weight * (excess if kind == "hinge" else excess.square())


def update_multipliers(multipliers: Tensor, gap: Tensor, band: Tensor, unit: Tensor, rate: float) -> Tensor:
    """μ± ← max(μ± + rate·e±, 0), see `gap_penalty`: they grow outside the band and shrink inside."""
    return (multipliers + rate * _sides(gap, band, unit)).clamp(min=0)


def _sides(gap: Tensor, band: Tensor, unit: Tensor) -> Tensor:
    return (torch.stack([gap, -gap]) - band) / unit
