"""Measure the real images once: a descriptor of each, and expectations over the images of each class."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

Loader = Iterable[Tensor | Sequence[Tensor]]
"""Batches of images, or of (images, labels, ...)."""

Measure = Callable[[Tensor, Tensor], Tensor]
"""descriptors (n, m), classes (n,)  ->  (n, F)"""

ENOUGH = 10  # images of a class from which on it stands for itself
FLOOR = 0.05  # least spread of a coordinate, in units of that of all coordinates (rms): silent bands do not vary
ROUNDING = 1e-6  # of a descriptor's value; less than this is no spread
CHUNK = 4096  # images whose descriptors are in float64 at a time


def count_processes() -> int:
    """Processes of torch.distributed, 1 without it."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(value: Tensor) -> Tensor:
    """Sum of a tensor over all processes of torch.distributed, in place where there are several."""
    if count_processes() > 1:
        dist.all_reduce(value)
    return value


class RealMoments:
    """Descriptors of all real images, and their expectations over each of K classes, in float64 on the CPU.

    Holds 4·m bytes an image. `describe` maps images (B, C, H, W), and of each how many of its class came before it
    (B,), to (B, m). K is counted from the labels if None; 1 needs no labels. With `sharded`, every process has its own
    part of the images, and they exchange sums by way of `device`.
    """

    def __init__(
        self,
        loader: Loader,
        describe: Callable[[Tensor, Tensor], Tensor],
        *,
        classes: int | None,
        sharded: bool,
        device: torch.device,
    ) -> None:
        self._device = device if sharded and count_processes() > 1 else None
        self.shape: tuple[int, ...] = ()
        values: list[Tensor] = []
        labels: list[Tensor] = []
        digest = torch.tensor(0, device="cpu")
        ranks: defaultdict[int, Iterator[int]] = defaultdict(itertools.count)
        for batch in loader:
            images = with_channels(batch if isinstance(batch, Tensor) else batch[0])
            self.shape = self.shape or tuple(images.shape[1:])  # (C, H, W)
            if images.shape[1:] != self.shape:
                raise ValueError(f"real images of {self.shape} and of {tuple(images.shape[1:])}: one shape is needed")
            if images.numel() and not images.abs().amax() <= 1.001:
                low, high = images.amin(), images.amax()
                raise ValueError(f"real images reach from {low:g} to {high:g}: values in [−1, 1] are needed")
            label = _labels(batch, len(images), classes)
            described = describe(images, torch.tensor([next(ranks[each]) for each in label.tolist()], device="cpu"))
            if described.ndim != 2 or len(described) != len(images):
                shape = f"{tuple(described.shape)} of {len(images)} images"
                raise ValueError(f"the descriptor returned {shape}: (B, m) is needed, a row an image")
            values.append(described.cpu())
            labels.append(label)
            digest = digest + _digest(images)
        if not values:
            raise ValueError("0 real images given: two or more are needed, and some in every process")
        self._values, self._labels = torch.cat(values), torch.cat(labels)
        k = classes or int(self._reduced(self._labels.max(), "max")) + 1
        self.counts = self._reduced(torch.bincount(self._labels, minlength=k).double())  # (K,)
        self.images = int(self.counts.sum())
        if self.images < 2:
            raise ValueError(f"{self.images} real images given: two or more are needed")
        self.digest = int(self._reduced(digest)) % 2**64  # the same for any order of the images

    def sums(self, measure: Measure) -> Tensor:
        """Sum of `measure` over the images of each class (K, F)."""

        def of_classes(x: Tensor, c: Tensor) -> Tensor:
            each = measure(x, c)
            return each.new_zeros(len(self.counts), each.shape[1]).index_add(0, c, each)

        return self._sum(of_classes)

    def means(self, measure: Measure) -> Tensor:
        """Mean of `measure` over each class (K, F).

        A class of n < 10 images is filled up with the images of all classes: its mean is n/10 its own and 1 − n/10 that
        of all, so that a class without images has the overall one.
        """
        own = self._means_of_own(measure)

        def overall(c: Tensor) -> Tensor:
            return self._sum(lambda x, _: measure(x, c.expand(len(x))).sum(0)) / self.images

        for c in (self.counts < ENOUGH).nonzero()[:, 0]:
            own[c] = torch.lerp(overall(c), own[c], self.counts[c] / ENOUGH)
        return own

    def spread(self) -> Tensor:
        """Standard deviation of each coordinate (m,) within a class, pooled over the classes.

        No less than 5 % of all coordinates' rms. Where every class has a single value, it is the one over all images.
        """
        mean = self._means_of_own(lambda x, _: x)
        overall = (mean * self.counts[:, None]).sum(0) / self.images
        smallest = ROUNDING * _rms(overall)
        freedom = self.images - int((self.counts > 0).sum())

        def squares(centre: Tensor) -> Tensor:
            return self._sum(lambda x, c: (x - centre[c]).square().sum(0))

        for centre, degrees in ((mean, freedom), (overall.expand_as(mean), self.images - 1)):
            spread = (squares(centre) / max(degrees, 1)).sqrt()
            if degrees and _rms(spread) > smallest:
                return spread.clamp(min=FLOOR * float(_rms(spread)))
        same = f"the descriptor is the same of all {self.images} real images, nothing to hold a generator to"
        raise ValueError(f"{same}: other images or another descriptor is needed")

    def _means_of_own(self, measure: Measure) -> Tensor:
        return self.sums(measure) / self.counts.clamp(min=1)[:, None]

    def _sum(self, partial: Measure) -> Tensor:
        """Sum of `partial` over parts of the images and over the processes."""
        parts = zip(torch.split(self._values, CHUNK), torch.split(self._labels, CHUNK), strict=True)
        return self._reduced(torch.stack([partial(x.double(), c) for x, c in parts]).sum(0))

    def _reduced(self, value: Tensor, how: Literal["sum", "max"] = "sum") -> Tensor:
        if self._device is None:
            return value
        value = value.to(self._device)
        dist.all_reduce(value, dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX)
        return value.cpu()


def with_channels(images: Tensor) -> Tensor:
    """(B, H, W) -> (B, 1, H, W), (B, C, H, W) as it is."""
    if images.ndim not in (3, 4):
        raise ValueError(f"images have shape {tuple(images.shape)}: (B, C, H, W) or (B, H, W) is needed")
    return images.unsqueeze(1) if images.ndim == 3 else images


def _labels(batch: Tensor | Sequence[Tensor], count: int, classes: int | None) -> Tensor:
    """Class of each image (B,)."""
    if classes == 1:
        return torch.zeros(count, dtype=torch.long, device="cpu")
    if isinstance(batch, Tensor) or len(batch) < 2:
        raise ValueError("per_class needs labels: batches (images, labels) are needed, images alone were given")
    labels = batch[1].detach().cpu().long()
    if len(labels) and not 0 <= labels.min() <= labels.max() < (classes or torch.inf):
        allowed = "0 or more" if classes is None else f"0 to {classes - 1}"
        raise ValueError(f"labels reach from {labels.min()} to {labels.max()}: {allowed} are needed")
    return labels


def _digest(images: Tensor) -> Tensor:
    """64 bits over the images' float32 values, the same in any order of the images and any cut into batches."""
    bits = images.detach().cpu().float().contiguous().view(torch.int32).flatten(1).long()
    generator = torch.Generator("cpu").manual_seed(bits.shape[1])
    odd = torch.randint(-(2**62), 2**62, bits.shape[1:], generator=generator, device="cpu") * 2 + 1
    rows = (bits * odd).sum(1)  # wraps around, as it should
    return ((rows ^ (rows >> 31)) * 0x9E3779B97F4A7C1).sum()


def _rms(x: Tensor) -> Tensor:
    """Root of the mean square of all entries, a scalar."""
    return x.square().mean().sqrt()
