"""Are generated images of use? Classifiers trained with them, without them and on them alone, tested on real ones.

    result = score_usefulness(model, shards.select(exclude_folds=[5]), shards.select(folds=[5]), seeds=5)
    for line in result.lines():
        print(line)

The accuracy gained by the first is the augmentation utility, that of the third kind the classification accuracy score
(CAS) of Ravuri & Vinyals (2019). All are trained for the same number of optimiser steps, of one seed from the same
weights: otherwise more images would mean more training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from schurgan.core.errors import UserError
from schurgan.data.shards import Shards
from schurgan.evaluation.features.classifier import fit_classifier
from schurgan.evaluation.metrics.intervals import Interval, wilson
from schurgan.evaluation.scores import Score
from schurgan.evaluation.target import check_apart
from schurgan.model import Model

_MOST_SEEDS = 100

Predictor = Callable[[Tensor], Tensor]
"""Images (N, C, R, R) -> class numbers (N,)."""
Generate = Callable[[Tensor, int], Tensor]
"""Labels (N,) and a seed -> images (N, C, R, R)."""


class Trainer(Protocol):
    """Trains a classifier anew for `steps` optimiser steps, however many images there are."""

    @property
    def steps(self) -> int:
        """Optimiser steps."""

    def __call__(self, images: Tensor, labels: Tensor, seed: int) -> Predictor:
        """Train on images (N, C, R, R) of classes (N,); a seed means the same weights at first whatever the images."""


@dataclass(frozen=True)
class ClassifierTrainer:
    """The classifier of `features.classifier`, with its augmentation, for a fixed number of batches of 32."""

    classes: int
    channels: int = 1
    steps: int = 400
    photo: bool = False
    """Whether the images are pictures, which are augmented in other ways than spectrograms."""
    device: str | torch.device = "cpu"

    def __call__(self, images: Tensor, labels: Tensor, seed: int) -> Predictor:
        """Train on images (N, channels, R, R) of classes (N,)."""
        return fit_classifier(
            lambda clips: images[clips],
            labels,
            torch.arange(len(images)),
            classes=self.classes,
            size=images.shape[-1],
            channels=self.channels,
            steps=self.steps,
            photo=self.photo,
            seed=seed,
            device=self.device,
        ).predict


@dataclass(frozen=True)
class Arm:
    """Classifiers trained in one way, one a seed, tested on the same real images."""

    name: str
    n_train: int
    accuracies: tuple[float, ...]
    mean: float
    low: float
    high: float
    """95 % Wilson interval of the mean accuracy as that of n_test images: what the size of the test set allows."""
    per_class: dict[str, float | None]
    """Share of each class's images that is recognised, mean over seeds; None of a class without test images."""


@dataclass(frozen=True)
class Difference:
    """How much more often the one arm is right than the other, paired; both intervals are about the same mean."""

    over_seeds: Interval
    """Of the differences of single seeds: would another training, with other generated images, say the same?"""
    over_images: Interval
    """Of the differences of single test images, mean over seeds: would other test images say the same?"""

    def verdict(self, more: str, less: str) -> str:
        """Return `more` or `less` with its intervals, where both allow it."""
        what = more if self.over_seeds.mean > 0 else less
        if self.over_seeds.holds_zero:
            return f"no difference can be told: {self.over_seeds} over seeds"
        if self.over_images.holds_zero:
            return f"{what} on these test images, which are too few to tell of others: {self.over_images} over images"
        return f"{what}: {self.over_seeds} over seeds, {self.over_images} over test images"


@dataclass(frozen=True)
class Usefulness:
    """What generated images do to a classifier of real ones. Accuracies are shares of `n_test` real test images."""

    real: Arm
    both: Arm
    generated: Arm
    """Its accuracy is the classification accuracy score."""
    gain: Difference
    """both − real"""
    gap: Difference
    """generated − real"""
    chance: float
    """Share of the most frequent class among the test images: the accuracy of who always answers that."""
    ratio: float
    steps: int
    n_test: int

    @property
    def informative(self) -> bool:
        """Whether any of the classifiers is better than chance; if none is, their differences say nothing."""
        return max(self.real.low, self.both.low, self.generated.low) > self.chance

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, strings and None."""
        return asdict(self) | {"informative": self.informative}

    def lines(self) -> list[str]:
        """For the terminal."""
        seeds = len(self.real.accuracies)
        lines = [
            f"trained on {arm.name} ({arm.n_train} images): {arm.mean:.1%} [{arm.low:.1%}, {arm.high:.1%}]"
            for arm in (self.real, self.both, self.generated)
        ]
        lines.append(f"each {seeds} times for {self.steps} steps, tested on {self.n_test} held-out images")
        if not self.informative:
            return [*lines, f"no classifier is better than chance ({self.chance:.1%}): nothing can be said"]
        lines.append(f"adding generated images: {self.gain.verdict('they help', 'they harm')}")
        lines.append(
            f"generated instead of real: {self.gap.verdict('they teach more', 'they teach less')}",
        )
        return lines


def usefulness(
    real: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    generate: Generate,
    train: Trainer,
    classes: Sequence[str],
    *,
    ratio: float = 1.0,
    seeds: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Usefulness:
    """Train three classifiers for each of `seeds` seeds from `seed` on.

    Args:
        real: images (N, C, R, R) in [−1, 1] and their classes (N,).
        test: likewise; they must share no image.
        generate: is asked for `ratio` images for each real one of a class, anew for every seed, so that intervals over
            seeds hold the luck of the draw too.
        train: trains a classifier.
        classes: their names.
        ratio: generated images per real one.
        seeds: how many.
        seed: the first.
        progress: called with the classifiers trained and their number.

    Raises:
        ValueError: values that cannot be, NaN, and classes that were not trained on.
    """
    if not 2 <= seeds <= _MOST_SEEDS:
        raise ValueError(f"seeds: {seeds} given, 2 to {_MOST_SEEDS} are needed: one says nothing of the spread")
    if not (0 < ratio <= 1000):
        raise ValueError(f"ratio: {ratio:g} given, generated images per real one above 0 and up to 1000 are needed")
    images, labels = _checked("real", *real, len(classes))
    unseen, truth = _checked("test", *test, len(classes))
    if missing := sorted(set(truth.tolist()) - set(labels.tolist())):
        raise ValueError(f'real: no image of class "{classes[missing[0]]}", which is among those of the test')
    counts = torch.bincount(labels, minlength=len(classes))
    wanted = torch.repeat_interleave((ratio * counts).round().long().clamp_min(1) * (counts > 0))
    right: list[list[Tensor]] = [[], [], []]
    for number in range(seeds):
        made, made_labels = _checked("generated", generate(wanted, seed + number), wanted, len(classes))
        if made.shape[1:] != images.shape[1:]:
            raise ValueError(f"generated: {tuple(made.shape[1:])} images given, {tuple(images.shape[1:])} are needed")
        sets = (
            (images, labels),
            (torch.cat((images, made)), torch.cat((labels, made_labels))),
            (made, made_labels),
        )
        for arm, (some, their) in enumerate(sets):
            right[arm].append((train(some, their, seed + number)(unseen) == truth).double())
            if progress:
                progress(len(sets) * number + arm + 1, len(sets) * seeds)
    alone, together, only = (torch.stack(each) for each in right)  # (seeds, n_test)
    return Usefulness(
        _arm("real images", alone, truth, classes, len(images)),
        _arm("real and generated images", together, truth, classes, len(images) + len(wanted)),
        _arm("generated images alone", only, truth, classes, len(wanted)),
        _difference(together - alone),
        _difference(only - alone),
        torch.bincount(truth).max().item() / len(truth),
        ratio,
        train.steps,
        len(truth),
    )


def score_usefulness(
    model: Model,
    training: Shards,
    held_out: Shards,
    *,
    ratio: float = 1.0,
    seeds: int = 5,
    steps: int = 400,
    per_class: int | None = None,
    truncation: float | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Usefulness:
    """Measure the `usefulness` of a model's images. Altered copies of clips take no part.

    Args:
        model: of sounds or pictures.
        training: clips to train classifiers on.
        held_out: clips to test them on.
        ratio: generated images per real one.
        seeds: trainings of each of the three classifiers.
        steps: of each training, in batches of 32.
        per_class: real clips of a class at most, the first; generated images are of most use where those are few.
        truncation: variance of the noise.
        seed: the first.
        device: where classifiers are trained.
        progress: called with the classifiers trained and their number.

    Raises:
        UserError: shards of other classes or that share clips, and numbers that cannot be.
    """
    check_apart(model, training, held_out)
    for name, value in (("steps", steps), ("per_class", per_class)):
        if value is not None and value < 2:
            raise UserError(f"{name}: {value} given, a whole number of 2 or more is needed")
    real = _images(training, per_class)
    trainer = ClassifierTrainer(len(model.classes), real[0].shape[1], steps, model.pictures, device)

    def generate(labels: Tensor, number: int) -> Tensor:
        return model.codec.invert_colormap(model.images(labels, truncation, number))

    try:
        return usefulness(
            real,
            _images(held_out, None),
            generate,
            trainer,
            model.classes,
            ratio=ratio,
            seeds=seeds,
            seed=seed,
            progress=progress,
        )
    except ValueError as error:
        raise UserError(str(error)) from None


def score_utility(result: Usefulness) -> Score:
    """Augmentation utility: accuracy when generated images are added to the real ones, minus that without."""
    return Score(
        result.gain.over_seeds.mean,
        floor=0.0,
        flags=_flags(result),
        n_real=result.real.n_train,
        n_fake=result.generated.n_train,
        details=result.as_json() | {"lines": result.lines()},
    )


def score_trained_on_generated(result: Usefulness) -> Score:
    """Classification accuracy score: accuracy when trained on generated images alone."""
    return Score(
        result.generated.mean,
        held_out=result.real.mean,
        flags=_flags(result),
        n_real=result.real.n_train,
        n_fake=result.generated.n_train,
    )


def _flags(result: Usefulness) -> tuple[str, ...]:
    return () if result.informative else ("no classifier is better than chance: nothing can be said",)


def _checked(name: str, images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    if images.ndim != 4 or len(images) != len(labels) or not len(images):
        raise ValueError(
            f"{name}: images {tuple(images.shape)} of {len(labels)} labels, (N, C, R, R) of N labels are needed"
        )
    if bad := int((~images.isfinite().flatten(1).all(1)).sum()):
        raise ValueError(f"{name}: {bad} of {len(images)} images hold NaN or infinite values")
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"{name}: labels {int(labels.min())} to {int(labels.max())}, 0 to {classes - 1} are needed")
    return images, labels


def _arm(name: str, right: Tensor, truth: Tensor, classes: Sequence[str], n_train: int) -> Arm:
    mean = right.mean().item()
    of_class = {
        label: right[:, truth == c].mean().item() if bool((truth == c).any()) else None
        for c, label in enumerate(classes)
    }
    return Arm(name, n_train, tuple(right.mean(1).tolist()), mean, *wilson(mean * len(truth), len(truth)), of_class)


def _difference(right: Tensor) -> Difference:
    return Difference(Interval.of(right.mean(1)), Interval.of(right.mean(0)))


def _images(shards: Shards, per_class: int | None) -> tuple[Tensor, Tensor]:
    shards = shards.select(augmented=False)
    clips = np.concatenate([np.flatnonzero(shards.labels == c)[:per_class] for c in range(len(shards.classes))])
    images = shards.codec.invert_colormap(shards.images(clips))
    return images, torch.from_numpy(shards.labels[clips])
