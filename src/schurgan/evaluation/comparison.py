"""Generated images beside real ones: what the metrics of images are taken from."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TypeVar

import torch
from torch import Tensor

from schurgan.core.errors import SchurganError
from schurgan.evaluation.metrics.frechet import frechet_distance
from schurgan.evaluation.metrics.inception_score import class_accuracy
from schurgan.evaluation.metrics.neighbours import Memorisation, memorisation, prdc
from schurgan.evaluation.metrics.variety import variety
from schurgan.evaluation.scores import Counts
from schurgan.evaluation.target import ImageSet

Result = TypeVar("Result")
Values = tuple[float, ...]
Pair = Callable[[Tensor, Tensor], Values]
"""Features of two sets of images -> scores of the one against the other."""

HALVINGS = 5
MOST = 5_000  # images whose neighbourhoods are looked at, on each side
_PAIRS, _LEAST_LOOKED_AT = 5_000_000, 100
"""Pairs of images whose distance is taken, some seconds of them: with many real images fewer generated ones are."""


@dataclass(frozen=True)
class RunScores:
    """Scores of one run of generated images, for their mean and spread over runs."""

    probabilities: Tensor | None
    frechet: float | None
    accuracy: float | None

    @classmethod
    def of(cls, real: ImageSet, fake: ImageSet, classes: int) -> RunScores:
        """Score one run; `classes` is the number of the run's classes."""
        frechet, _ = attempt(lambda: frechet_distance(real.gaussian, fake.features))
        known = fake.probabilities is not None and fake.probabilities.shape[1] == classes
        accuracy = class_accuracy(probabilities_of(fake), fake.labels).overall if known else None
        return cls(fake.probabilities, frechet, accuracy)


@dataclass(frozen=True)
class References:
    """Values of a pair measure, None where it cannot be taken: see `score_images`."""

    floor: Values | None
    matched: Values | None
    held_out: Values | None
    n: int  # images of a half
    problem: str


@dataclass(frozen=True)
class Comparison:
    """Generated images beside training images and perhaps held-out ones: what the metrics of images are taken from."""

    real: ImageSet
    fake: ImageSet  # the first run
    held_out: ImageSet | None = None
    runs: tuple[RunScores, ...] = ()
    """All runs."""
    classes: tuple[str, ...] = ()
    """Their names; none where the labels mean nothing."""
    extractor: str = ""
    accuracy: tuple[float, Values] | None = None
    """Share of unseen real images whose class the extractor knows, and that of each class."""
    seed: int = 0

    @property
    def counts(self) -> Counts:
        """What most scores of features have in common."""
        return {"n_real": len(self.real), "n_fake": len(self.fake), "extractor": self.extractor}

    @cached_property
    def neighbourhoods(self) -> tuple[Values | None, str, References]:
        """Precision, recall, density and coverage, why there are none, and their references."""
        return *attempt(partial(_prdc, self.real.features, self.fake.features)), self.references(_prdc)

    @cached_property
    def scale(self) -> float | None:
        """Mean distance of two real images of a class; None where no class has two, or all are alike."""
        return spread(self.real)

    @cached_property
    def looked_at(self) -> ImageSet:
        """Generated images whose distances to real ones are taken."""
        return replace(self.fake, thumbnails=self.fake.thumbnails[: count_looked_at(self.real)])

    @cached_property
    def memorised(self) -> tuple[Memorisation | None, str]:
        """Whether training images were copied, or why that is not known."""
        if self.held_out is None:
            return None, "no clips were held out: copies cannot be told from luck, see the distance to training images"
        fake, real, unseen = self.looked_at, self.real, self.held_out
        labels = fake.labels[: len(fake.thumbnails)]
        sets = (fake.thumbnails, labels, real.thumbnails, real.labels, unseen.thumbnails, unseen.labels)
        return attempt(partial(memorisation, *sets, seed=self.seed))

    def references(self, measure: Pair) -> References:
        """Take a measure of random halves of each class of the training images, and of held-out images."""
        unseen = None
        if self.held_out is not None:
            unseen, _ = attempt(partial(measure, self.real.features, self.held_out.features))
        n = min(len(self.real) // 2, len(self.fake), MOST)
        generator = torch.Generator().manual_seed(self.seed)
        floors, matched = [], []
        for _ in range(HALVINGS):
            both = draw(self.real.labels, 2 * n, generator)
            half, other = self.real.features[both[0::2]], self.real.features[both[1::2]]
            some = self.fake.features[draw(self.fake.labels, n, generator)]
            floor, problem = attempt(partial(measure, half, other))
            value, _ = attempt(partial(measure, half, some))
            if floor is None:
                return References(None, None, unseen, n, f"no floor: {problem}")
            floors.append(floor)
            matched += [] if value is None else [value]
        return References(_means(floors), _means(matched), unseen, n, "")


def attempt(measure: Callable[[], Result]) -> tuple[Result | None, str]:
    """Return what a measure gives, or None and why it cannot be taken: too few images, most often."""
    try:
        return measure(), ""
    except SchurganError:
        raise
    except ValueError as error:
        return None, str(error)


def draw(labels: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Numbers (n,) of some images, sorted by class and with the classes' shares of all.

    Shares that differ by chance would be a large part of a distance between two halves.
    """
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]
    return order[torch.linspace(0, len(order) - 1, n, dtype=torch.float64).round().long()]


def spread(images: ImageSet) -> float | None:
    """`variety` of the images that were kept; None where no class has two of them, or they are all alike."""
    value, _ = attempt(partial(variety, images.images, images.labels[: len(images.images)]))
    return value or None


def count_looked_at(real: ImageSet) -> int:
    """Number of images whose distances to all of `real` are taken."""
    return max(_LEAST_LOOKED_AT, _PAIRS // len(real))


def probabilities_of(images: ImageSet) -> Tensor:
    """Class probabilities (N, K). Raises ValueError where the extractor gives none."""
    if images.probabilities is None:
        raise ValueError("probabilities: the extractor gives none")
    return images.probabilities


def _prdc(real: Tensor, fake: Tensor) -> Values:
    return prdc(real[:MOST], fake[:MOST])


def _means(values: Sequence[Values]) -> Values | None:
    return tuple(statistics.fmean(each) for each in zip(*values, strict=True)) if values else None
