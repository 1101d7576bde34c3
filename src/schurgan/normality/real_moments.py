"""What a moment condition knows of the real images: expectations over each class, and how far a class spreads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from .processes import Total
from .real import with_channels

ENOUGH = 10  # images of a class from which on it stands for itself
FLOOR = 0.05  # least spread of a coordinate, in units of that of all coordinates (rms): silent bands do not vary
ROUNDING = 1e-6  # of a descriptor's value; less than this is no spread
CHUNK = 4096  # images whose descriptors are in float64 at a time

Measure = Callable[[Tensor, Tensor], Tensor]
"""descriptors (n, m), classes (n,)  ->  (n, F)"""


class RealMoments:
    """Moments of the real descriptors (N, m), of classes (N,), in each of K classes; float64 on the CPU.

    A class of n < 10 images is filled up with the images of all classes: its moments are n/10 its own and 1 − n/10
    those of all, so that a class without images has the overall ones.

    sharded: every process of torch.distributed has its own part of the images, and they are put together.
    """

    def __init__(self, values: Tensor, classes: Tensor, k: int, *, sharded: bool, device: torch.device) -> None:
        self.values, self.classes = values, classes
        self.total = Total(sharded, device)
        self.counts = self.total.sum(torch.bincount(classes, minlength=k).double())  # (K,)
        self.images = int(self.counts.sum())

    def expect(self, measure: Measure) -> Tensor:
        """Mean of `measure` over each class  ->  (K, F)."""
        own = self._mean_of_own(measure)

        def as_of(c: Tensor) -> Tensor:
            return self._sum(lambda x, _: measure(x, c.expand(len(x))).sum(0)) / self.images

        for c in (self.counts < ENOUGH).nonzero()[:, 0]:
            own[c] = torch.lerp(as_of(c), own[c], self.counts[c] / ENOUGH)
        return own

    def spread(self) -> Tensor:
        """Standard deviation of each coordinate within a class, pooled over the classes (m,), and no less than 5 % of
        all coordinates' rms; where every class has a single value, the one over all images.

        ValueError where the descriptor is the same of all images.
        """
        mean = self._mean_of_own(lambda x, _: x)
        overall = (mean * self.counts[:, None]).sum(0) / self.images
        smallest = ROUNDING * rms(overall)
        freedom = self.images - int((self.counts > 0).sum())

        def about(centre: Tensor) -> Tensor:
            return self._sum(lambda x, c: (x - centre[c]).square().sum(0))

        for centre, degrees in ((mean, freedom), (overall.expand_as(mean), self.images - 1)):
            spread = (about(centre) / max(degrees, 1)).sqrt()
            if degrees and rms(spread) > smallest:
                return spread.clamp(min=FLOOR * float(rms(spread)))
        raise ValueError(
            f"the descriptor is the same of all {self.images} real images, so there is no spread to hold a generator "
            "to: other images or another descriptor is needed"
        )

    def _mean_of_own(self, measure: Measure) -> Tensor:
        k = len(self.counts)

        def sums(x: Tensor, c: Tensor) -> Tensor:
            each = measure(x, c)
            return each.new_zeros(k, each.shape[1]).index_add(0, c, each)

        return self._sum(sums) / self.counts.clamp(min=1)[:, None]

    def _sum(self, partial: Measure) -> Tensor:
        """Sum of what `partial` makes of a part of the images, over all parts and processes."""
        parts = zip(torch.split(self.values, CHUNK), torch.split(self.classes, CHUNK), strict=True)
        return self.total.sum(torch.stack([partial(x.double(), c) for x, c in parts]).sum(0))


def rms(x: Tensor) -> Tensor:
    """Root of the mean square of all entries, a scalar."""
    return x.square().mean().sqrt()


def describe_real(
    loader: Iterable[Tensor | Sequence[Tensor]],
    describe: Callable[[Tensor], Tensor],
    classes: int,
    per_class: bool,
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """One pass over batches of images (B, C, H, W) in [−1, 1], or of (images, labels, ...).

    -> descriptors (N, m) and classes (N,), both on the CPU, and the shape (C, H, W) of an image.

    Holds 4·m bytes an image. ValueError for images outside [−1, 1] or of several shapes, for no image at all, and for
    labels that are missing or not of `classes` where `per_class` needs them, or a descriptor
    that does not return a row an image.
    """
    values: list[Tensor] = []
    labels: list[Tensor] = []
    shape: tuple[int, ...] = ()
    for batch in loader:
        images = with_channels(batch if isinstance(batch, Tensor) else batch[0])
        shape = shape or tuple(images.shape[1:])
        if images.shape[1:] != shape:
            raise ValueError(f"real images of {shape} and of {tuple(images.shape[1:])} given: one shape is needed")
        if images.numel() and not images.abs().amax() <= 1.001:
            low, high = images.amin(), images.amax()
            raise ValueError(f"real images reach from {low:g} to {high:g}: values in [−1, 1] are needed")
        if per_class and (isinstance(batch, Tensor) or len(batch) < 2):
            raise ValueError("per_class needs labels: batches (images, labels) are needed, images alone were given")
        label = batch[1].detach().cpu().long() if per_class else torch.zeros(len(images), dtype=torch.long)
        if len(label) and not 0 <= label.min() <= label.max() < classes:
            raise ValueError(f"labels reach from {label.min()} to {label.max()}: 0 to {classes - 1} are needed")
        described = describe(images)
        if described.ndim != 2 or len(described) != len(images):
            given = f"{tuple(described.shape)} of {len(images)} images"
            raise ValueError(f"the descriptor returned {given}: (B, m) is needed, a row an image")
        values.append(described.cpu())
        labels.append(label)
    if not values:
        raise ValueError("no real images given: some are needed, in every process")
    return torch.cat(values), torch.cat(labels), shape
