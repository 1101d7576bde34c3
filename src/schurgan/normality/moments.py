"""A condition on the generator in the general form of DDFN: moments of a descriptor, those of the real images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor, nn

from .descriptors import Descriptor, find_descriptor
from .processes import over_processes
from .real import with_channels
from .real_moments import RealMoments, describe_real

Form = Literal["witness", "hinge"]

FARTHEST = 6.0  # standard deviations of a class beyond which an image counts as that far
LARGEST = 2.0  # gap of the moving average, in the features' units, beyond which it pulls no harder
LEAST = 1e-20  # count of the moving average below which a class counts as not seen: long ago is 0/0 in the end

_FITTED = ("mean", "spread_within", "centre", "share", "ema_sum", "ema_count")


class Statistics(Protocol):
    """A NamedTuple of detached scalars on the condition's device."""

    def _asdict(self) -> dict[str, Any]: ...


class Condition(Protocol):
    """A condition on the generator, as a training step uses it; `MomentMatching` and `DDFN` are two.

    After `fit_real`, a step with its discriminator and generator phases is

        condition.observe(fake_of_the_discriminator_phase, labels)

        finish = condition.begin(fake, labels)                  # fake requires a gradient
        (g_adversarial,) = torch.autograd.grad(adversarial(fake), fake)
        penalty, stats = finish()
        (g_penalty,) = torch.autograd.grad(penalty, fake)       # where penalty.requires_grad
        fake.backward(g_adversarial + condition.scale(g_adversarial, g_penalty) * g_penalty)

    Images are (B, C, H, W) or (B, H, W) in [−1, 1], labels (B,).
    """

    def fit_real(self, loader: Iterable[Tensor | Sequence[Tensor]], *, sharded: bool = False) -> None:
        """Measure the real images: batches of images, or of (images, labels, ...)."""

    def observe(self, fake: Tensor, labels: Tensor | None = None) -> None:
        """Take generated images of the discriminator phase into the moving average, if it is made of those."""

    def begin(self, fake: Tensor, labels: Tensor | None = None) -> Callable[[], tuple[Tensor, Statistics]]:
        """Start on the penalty of generated images; the function returned finishes it: (penalty, statistics)."""

    def __call__(self, fake: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Statistics]:
        """Penalty (scalar, differentiable) and statistics at once."""

    def scale(self, g_adversarial: Tensor, g_penalty: Tensor) -> Tensor:
        """Factor (scalar) of the penalty's gradient at the images, beside the adversarial one; 1 unless balanced."""

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` restores."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> object:
        """Restore a state; ValueError if it was fitted with other options."""


class MomentStats(NamedTuple):
    """What a step logs: scalars on the condition's device, detached, so that no step waits for an accelerator."""

    severity: Tensor  # v: rms of the banded gap (witness), the penalty before its weight (hinge)
    gap: Tensor  # rms of the gap (witness), its norm over the real mean's (hinge)
    active: Tensor  # bool: something is outside its band, the penalty pulls


class MomentMatching(nn.Module):
    """Moments of a descriptor s(x) of generated images, held near those of the real ones, per class or overall.

    "witness": with μ_c the real mean of class c and σ the standard deviations within a class,

        z = clamp((s(x) − μ_c)/σ, ±6)       φ(x, c) = [z, z²/2] − E_real[z, z²/2 | c]       A_c = EMA of φ(G(z), c)
        penalty = E_i mean_k a_{c(i), k} φ_k(G(z_i), c(i)),     a = sign(A) max(min(|A|, 2) − ε, 0), without gradient

    A comes from the images that `observe` was given, which are not those of the penalty. So the penalty is linear in
    φ and its gradient an unbiased one, where a hinge or a square of a small batch's own mean is smallest for images
    that are all alike. Its value is no distance: log `severity`, the rms v of a.

    "hinge": weight · max(‖A_c − μ_c‖ − ε‖μ_c‖, 0) / E‖μ_c‖ of the EMA A_c of s itself, whose gradient goes straight
    through the EMA. With descriptor "dfn", per_class=False, spread=False and balance=False this is the paper's DDFN
    (`normality.DDFN` with relative_epsilon and scaling "unit"), with "variance" or "frobenius" its control.

    descriptor  a name ("variance", "frobenius", "dfn", "gram", "profile", "pixels", see `descriptors`), or a function
                of images (B, C, H, W) in [0, 1] to (B, m)
    estimator   a method of `departure_from_normality`, for descriptor "dfn" ("perron" if None)
    classes     K, how many there are
    per_class   moments of each class by itself; otherwise of all images as one
    spread      the second moments z² as well, for the witness
    epsilon     ε: in standard deviations within a class (witness), as a share of the real mean (hinge)
    decay       of the EMA with each call of `observe` (witness) or `forward` (hinge); sums and counts are averaged, so
                it is a mean from the first batch on
    balance     the penalty's gradient is measured by the adversarial one, see `scale`; for the witness
    weight      ρ of the balance, or of the penalty itself without balance
    tau         τ: severity at which the balance is in full force

        condition = MomentMatching("gram", classes=10)
        condition.fit_real(loader)
        condition.observe(fake_of_a_step_of_D, labels)
        fake = generator(z, labels)
        (g_adversarial,) = torch.autograd.grad(adversarial(fake), fake)
        penalty, stats = condition(fake, labels)
        (g_penalty,) = torch.autograd.grad(penalty, fake)
        fake.backward(g_adversarial + condition.scale(g_adversarial, g_penalty) * g_penalty)

    Images are (B, C, H, W) or (B, H, W), in [−1, 1]. Inside torch.distributed moments and norms are those of all
    processes' images, and gradients are right once DistributedDataParallel has averaged them.
    """

    mean: Tensor
    spread_within: Tensor
    centre: Tensor
    share: Tensor
    ema_sum: Tensor
    ema_count: Tensor

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
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes is {classes}: a whole number of 1 or more is needed")
        for name, value in (("epsilon", epsilon), ("weight", weight)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}: a finite number of 0 or more is needed")
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}: a number from 0 to below 1 is needed")
        if not 0 < tau < math.inf:
            raise ValueError(f"tau is {tau}: a finite number above 0 is needed")
        if penalty not in get_args(Form):
            raise ValueError(f'penalty is "{penalty}": one of {", ".join(get_args(Form))} is needed')
        if penalty == "hinge" and (spread or balance):
            given = " and ".join(name for name, on in (("spread", spread), ("balance", balance)) if on)
            raise ValueError(f'{given} given with penalty "hinge", which knows neither: "witness", or False is needed')
        if penalty == "witness" and epsilon >= LARGEST:
            raise ValueError(f"epsilon is {epsilon}: gaps count up to {LARGEST:g}, so a number below that is needed")
        if isinstance(descriptor, str):
            self.name, self.descriptor = descriptor, find_descriptor(descriptor, estimator)
        elif estimator is not None:
            raise ValueError(f'estimator "{estimator}" given with a function as descriptor: "dfn" alone takes one')
        else:
            self.name, self.descriptor = getattr(descriptor, "__name__", type(descriptor).__name__), descriptor
        self.classes = classes
        self.per_class = per_class
        self.spread = spread
        self.epsilon = epsilon
        self.decay = decay
        self.weight = weight
        self.tau = tau
        self.balance = balance
        self.penalty = penalty
        self.estimator = estimator or "perron"
        for name in _FITTED:
            self.register_buffer(name, torch.zeros(0))
        # In the extra state, for they are branched on, and no branch may wait for a device.
        self.real_count = 0
        self.image_shape: tuple[int, ...] = ()

    @torch.no_grad()
    def fit_real(self, loader: Iterable[Tensor | Sequence[Tensor]], *, sharded: bool = False) -> None:
        """Take the real moments: one pass over batches of images, or of (images, labels, ...).

        Give it the whole training set, in every process, or each process its part with `sharded`. It starts the moving
        average afresh. Classes of fewer than ten images are drawn towards the overall moments (`RealMoments`).

        ValueError for images outside [−1, 1] or of several shapes, none at all, labels that are missing or not of
        `classes`, and a descriptor that does not vary (witness) or is 0 throughout (hinge).
        """
        values, labels, shape = describe_real(loader, self._describe, self.classes, self.per_class)
        device = self.mean.device
        k = self.classes if self.per_class else 1
        real = RealMoments(values, labels, k, sharded=sharded, device=device)
        mean = real.expect(lambda x, _: x)
        share = real.counts / real.images
        if self.penalty == "witness":
            spread = real.spread()
            centre = real.expect(lambda x, c: self._moments(x, mean[c], spread))
        else:
            spread, centre = torch.ones_like(mean[0]), mean
            if not (share * mean.norm(dim=1)).sum() > 0:
                raise ValueError(f'descriptor "{self.name}" is 0 of all real images: other images or another is needed')
        zero = torch.zeros_like(centre)
        for name, value in zip(_FITTED, (mean, spread, centre, share, zero, zero[:, 0]), strict=True):
            setattr(self, name, value.to(device, torch.float32))
        self.real_count, self.image_shape = real.images, shape

    @torch.no_grad()
    def observe(self, fake: Tensor, labels: Tensor | None = None) -> None:
        """Take generated images into the moving average: those of a step of D, which cost no pass of G.

        The hinge takes those of `forward`, as DDFN does, and none from here.
        """
        if self.penalty == "witness":
            sums, counts, _ = self._sums(self.features(fake, labels), self._classes(labels, len(fake)))
            self._update(sums, counts)

    def begin(self, fake: Tensor, labels: Tensor | None = None) -> Callable[[], tuple[Tensor, MomentStats]]:
        """`forward` in two halves, of which the function returned does all."""
        return lambda: self(fake, labels)

    def forward(self, fake: Tensor, labels: Tensor | None = None) -> tuple[Tensor, MomentStats]:
        """Penalty (scalar, differentiable) and statistics of generated images, with labels (B,) if `per_class`.

        The hinge's moving average goes on in training mode with gradients enabled. RuntimeError before `fit_real`,
        ValueError for another image shape or missing labels.
        """
        features, classes = self.features(fake, labels), self._classes(labels, len(fake))
        with torch.autocast(features.device.type, enabled=False):
            strength = 1.0 if self.balance else self.weight
            penalty, stats = (self._witness if self.penalty == "witness" else self._hinge)(features, classes)
            return strength * penalty, stats

    @torch.no_grad()
    def scale(self, g_adversarial: Tensor, g_penalty: Tensor) -> Tensor:
        """ρ |g_adversarial| / |g_penalty| · min(1, v/τ), a scalar to multiply the penalty's gradient by; 1 without
        balance.

        Both gradients are those at the generated images, of every process. As the severity v falls into the band, the
        penalty lets go; and as the adversarial gradient grows, which it does in a collapse, the penalty keeps up.
        """
        if not self.balance:
            return torch.ones((), device=self.mean.device)
        squares = [g.to(torch.promote_types(g.dtype, torch.float32)).square().sum() for g in (g_adversarial, g_penalty)]
        adversarial, penalty, _ = over_processes(*squares)
        ratio = torch.where(penalty > 0, (adversarial / penalty).sqrt(), 0.0)
        return self.weight * ratio * (self.severity() / self.tau).clamp(max=1)

    def features(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """φ (B, 2m), or (B, m) without spread, for the witness; s(x) − μ_c (B, m) for the hinge. 0 in the mean over a
        class's real images. float32, differentiable."""
        described = self._describe(self._comparable(images)).float()
        classes = self._classes(labels, len(images))
        if self.penalty == "witness":
            described = self._moments(described, self.mean[classes], self.spread_within)
        return described - self.centre[classes]

    def gap(self) -> Tensor:
        """The moving average A of the features (K, F); 0 for classes of which no image was seen."""
        return self._average(self.ema_sum, self.ema_count)

    def severity(self) -> Tensor:
        """v, the rms of the witness's banded gap over coordinates and the classes that were seen; a scalar."""
        return self._over_seen(self._banded(self.gap()))

    def extra_repr(self) -> str:
        rest = f"epsilon={self.epsilon}, decay={self.decay}, weight={self.weight}, tau={self.tau}"
        return f"{self._measure()}, {rest}, balance={self.balance}"

    def get_extra_state(self) -> dict[str, Any]:
        return {"measure": self._measure(), "real_count": self.real_count, "image_shape": self.image_shape}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.real_count, self.image_shape = state["real_count"], tuple(state["image_shape"])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Refuse, before anything is overwritten, moments of something else."""
        measure = state_dict.get(prefix + "_extra_state", {}).get("measure", self._measure())
        if measure != self._measure():
            raise ValueError(
                f"this state was fitted with {measure}, the condition here uses {self._measure()}: "
                "their values do not compare, build it alike or run fit_real again"
            )
        for name in _FITTED:  # as many classes and coordinates as there were
            if prefix + name in state_dict:
                setattr(self, name, torch.zeros_like(state_dict[prefix + name], device=self.mean.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _witness(self, features: Tensor, classes: Tensor) -> tuple[Tensor, MomentStats]:
        gap = self.gap()
        banded = self._banded(gap)
        pulls = (banded[classes] * features).mean(1).sum()
        total, count, processes = over_processes(pulls.detach(), pulls.new_full((), len(features)))
        count = count.clamp(min=1)
        # The mean over all processes, whose gradients DistributedDataParallel is going to average.
        penalty = total / count + (pulls - pulls.detach()) * processes / count
        return penalty, MomentStats(self._over_seen(banded), self._over_seen(gap), (banded != 0).any())

    def _hinge(self, features: Tensor, classes: Tensor) -> tuple[Tensor, MomentStats]:
        own = torch.zeros_like(self.centre).index_add(0, classes, features)
        sums, counts, processes = self._sums(features.detach(), classes)
        if self.training and torch.is_grad_enabled():
            self._update(sums, counts)
        gap = torch.where(self.ema_count[:, None] > LEAST, self.gap(), self._average(sums, counts))
        through = gap + (own - own.detach()) * processes / counts.clamp(min=1)[:, None]
        size = self.mean.norm(dim=1)
        unit = (self.share * size).sum()
        share = counts / counts.sum().clamp(min=1)
        excess = ((through.norm(dim=1) - self.epsilon * size) / unit).clamp(min=0)
        penalty = (share * excess).sum()
        gaps = (share * gap.norm(dim=1)).sum() / unit
        return penalty, MomentStats(penalty.detach(), gaps, ((excess > 0) & (counts > 0)).any())

    def _sums(self, features: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, int]:
        """Sums (K, F) and counts (K,) of all processes' features of each class, and how many processes there are.

        Without the images that are not finite: one would stay in the moving average for good.
        """
        finite = features.isfinite().all(1, keepdim=True)
        zero = torch.zeros_like(self.centre)
        sums = zero.index_add(0, classes, torch.where(finite, features, 0.0))
        counts = zero.index_add(0, classes, finite.float().expand_as(features))
        sums, counts, processes = over_processes(sums, counts)
        return sums, counts[:, 0], processes

    def _update(self, sums: Tensor, counts: Tensor) -> None:
        self.ema_sum = self.decay * self.ema_sum + sums
        self.ema_count = self.decay * self.ema_count + counts

    def _banded(self, gap: Tensor) -> Tensor:
        """a = sign(A) max(min(|A|, 2) − ε, 0)."""
        return gap.sign() * (gap.abs().clamp(max=LARGEST) - self.epsilon).clamp(min=0)

    def _over_seen(self, gap: Tensor) -> Tensor:
        """rms of (K, F) over the classes that were seen."""
        seen = self.ema_count > LEAST
        return (gap.square().mean(1).sum() / seen.sum().clamp(min=1)).sqrt()

    @staticmethod
    def _average(sums: Tensor, counts: Tensor) -> Tensor:
        counts = counts[:, None]
        return torch.where(counts > LEAST, sums / counts.clamp(min=LEAST), 0.0)

    def _moments(self, described: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        """[z, z²/2] of s(x) (B, m) with its class's mean (B, m)."""
        z = ((described - mean) / spread).clamp(-FARTHEST, FARTHEST)
        return torch.cat([z, z.square() / 2], 1) if self.spread else z

    def _describe(self, images: Tensor) -> Tensor:
        """s(x) of images (B, C, H, W) in [−1, 1]."""
        with torch.autocast(images.device.type, enabled=False):
            return self.descriptor((images.to(torch.promote_types(images.dtype, torch.float32)) + 1) / 2)

    def _comparable(self, fake: Tensor) -> Tensor:
        """Generated images as (B, C, H, W), if there are real ones of their shape to compare them with."""
        if not self.real_count:
            raise RuntimeError("the condition knows no real images yet: call fit_real(loader) or load a state first")
        images = with_channels(fake)
        if images.shape[1:] != self.image_shape:
            raise ValueError(
                f"generated images are {tuple(images.shape[1:])}, the real ones were {self.image_shape}: "
                "their moments do not compare, run fit_real on images of the generator's shape"
            )
        return images

    def _classes(self, labels: Tensor | None, count: int) -> Tensor:
        if not self.per_class:
            return torch.zeros(count, dtype=torch.long, device=self.mean.device)
        if labels is None or labels.shape != (count,):
            given = "none" if labels is None else f"labels of shape {tuple(labels.shape)}"
            raise ValueError(f"per_class needs the class of each image: labels ({count},) are needed, {given} given")
        return labels.to(self.mean.device, torch.long)

    def _measure(self) -> str:
        """What two conditions must have in common for their moments to compare."""
        estimated = f" ({self.estimator})" if self.name == "dfn" else ""
        classes = f", of each of {self.classes} classes" if self.per_class else ""
        return f"{self.penalty} of {self.name}{estimated}{', with spread' if self.spread else ''}{classes}"
