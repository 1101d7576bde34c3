"""What scores are computed from: of each image its features, its departure from normality, and a thumbnail.

Images come and go in chunks, which processes share among them; whole images are kept of the first few alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from schurgan.core.distributed import World
from schurgan.core.errors import UserError
from schurgan.core.progress import Meter
from schurgan.data.shards import Shards
from schurgan.evaluation.features.extractor import Extractor
from schurgan.evaluation.target import BatchNorm, Subject
from schurgan.normality import departure_from_normality

CHUNK = 64
MOST_REAL = 50_000
_THUMB = 32
_KEPT_PIXELS = 2**24


@dataclass(frozen=True)
class Seen:
    """N images of which all is finite. Features, probabilities and departures are float64."""

    labels: Tensor
    """(N,)"""
    features: Tensor
    """(N, d)"""
    probabilities: Tensor | None
    """(N, K)"""
    departures: Tensor
    """Δ² (N,) of the pixels in [0, 1], exact; mean over channels. Empty where not asked for."""
    thumbs: Tensor
    """(n, t): channels' mean, shrunk to 32 by 32 at most; of all N real images, and of those in `images`."""
    images: Tensor
    """The first n (n, C, R, R)."""
    numbers: Tensor
    """(N,) of each image among all that there were, finite or not."""
    not_finite: int

    def __len__(self) -> int:
        return len(self.features)


def see_real(
    subject: Subject, shards: Shards, extractor: Extractor, world: World, seed: int, what: str
) -> tuple[Seen, Tensor]:
    """Clips of a selection, in an order drawn by `seed`, at most 50,000 of them; and which clips they are (N,)."""
    clips = torch.randperm(len(shards), generator=torch.Generator().manual_seed(seed))[:MOST_REAL]
    labels = torch.from_numpy(np.asarray(shards.labels))[clips]

    def take(rows: slice) -> Tensor:
        return subject.real(shards, clips[rows])

    seen = _see(take, labels, extractor, world, what, all_thumbs=True)
    if seen.not_finite:
        raise UserError(f"{shards.folder}: {seen.not_finite} of its images are not finite; prepare the data again")
    return seen, clips


def see_generated(
    subject: Subject,
    extractor: Extractor,
    world: World,
    *,
    count: int,
    truncation: float | None,
    seed: int,
    batch_norm: BatchNorm,
    what: str,
    whole: bool = True,
) -> Seen:
    """`count` images with the class frequencies of the training clips. Not `whole`: features and probabilities alone.

    Raises UserError where no two images are finite, and ValueError for a truncation that cannot be.
    """
    labels, make = subject.generator(count, truncation, seed, batch_norm)
    seen = _see(make, labels, extractor, world, what, all_thumbs=False, whole=whole)
    if len(seen) < 2:
        raise UserError(
            f"{subject.run}: {seen.not_finite} of {count} generated images hold NaN or infinite values, two finite ones"
            " are needed for any score; sample from a checkpoint before the run broke"
        )
    return seen


def chunks(count: int, size: int = CHUNK) -> list[slice]:
    """0 … count − 1 in as few chunks of at most `size` as there can be, of almost equal length."""
    edges = torch.linspace(0, count, -(-count // size) + 1, dtype=torch.float64).round().int().tolist()
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def _see(
    take: Callable[[slice], Tensor],
    labels: Tensor,
    extractor: Extractor,
    world: World,
    what: str,
    *,
    all_thumbs: bool,
    whole: bool = True,
) -> Seen:
    parts = chunks(len(labels))

    def work(number: int) -> tuple[Tensor, ...]:
        rows = parts[number]
        images = take(rows)
        finite = images.isfinite().flatten(1).all(1)
        # A stand-in for what is not finite tells how wide the columns are; it is left out below.
        found = extractor(torch.where(finite[:, None, None, None], images, 0))
        keep = _kept(images) if whole else 0
        first = images[: max(0, keep - rows.start)]
        return (
            finite,
            found.features,
            torch.empty(len(images), 0) if found.probabilities is None else found.probabilities,
            _departures(images) if whole else torch.empty(len(images)),
            _thumbs(images if all_thumbs else first),
            first,
        )

    try:
        with Meter(what, "chunk", quiet=not world.is_main) as meter:
            finite, features, probabilities, departures, thumbs, images = world.share(len(parts), work, meter)
    except ValueError as error:  # images that the extractor is not for, or a user's own that returns something else
        raise UserError(f"{what}: {error}") from error
    return Seen(
        labels[finite],
        features[finite],
        probabilities[finite] if probabilities.shape[1] else None,
        departures[finite],
        thumbs[finite[: len(thumbs)]],
        images[finite[: len(images)]],
        finite.nonzero()[:, 0],
        int((~finite).sum()),
    )


def _kept(images: Tensor) -> int:
    """Whole images that are kept: 1,000, of large ones fewer, so that they take 64 MB at most (float32)."""
    return max(CHUNK, min(1000, _KEPT_PIXELS // images[0].numel()))


def _departures(images: Tensor) -> Tensor:
    return departure_from_normality((images.double() + 1) / 2, "exact", channels="mean").cpu()


def _thumbs(images: Tensor) -> Tensor:
    grey = images.mean(1, keepdim=True)
    side = min(_THUMB, images.shape[-1])
    return F.adaptive_avg_pool2d(grey, side).flatten(1)
