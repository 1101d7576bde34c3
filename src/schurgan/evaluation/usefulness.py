"""Are generated images of use? Classifiers trained with them, without them and on them alone, tested on real ones.

The accuracy gained by the first is the augmentation utility, that of the third the classification accuracy score (CAS)
of Ravuri & Vinyals (2019). All are trained for the same number of optimiser steps, of one seed from the same weights:
otherwise more images would mean more training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from schurgan.core.errors import SchurganError
from schurgan.data.shards import Shards
from schurgan.evaluation.features.classifier import fit_classifier
from schurgan.evaluation.metrics.intervals import Interval, wilson
from schurgan.evaluation.scores import Score
from schurgan.evaluation.target import check_apart
from schurgan.model import Model
from schurgan.runs.messages import counted

ARMS = 3
FULL = {"seeds": 5, "steps": 400}
QUICK = {"seeds": 2, "steps": 100}


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

    over_seeds: Interval  # would another training, with other generated images, say the same?
    over_images: Interval  # would other test images say the same?

    @classmethod
    def of(cls, difference: Tensor) -> Difference:
        """Take the intervals of a difference (seeds, images)."""
        return cls(Interval.of(difference.mean(1)), Interval.of(difference.mean(0)))

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
    generated: Arm  # its accuracy is the classification accuracy score
    gain: Difference  # both − real
    gap: Difference  # generated − real
    chance: float
    """Share of the most frequent class among the test images: the accuracy of who always answers that."""
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
        lines = [
            f"trained on {arm.name} ({counted(arm.n_train, 'image')}): {arm.mean:.1%} [{arm.low:.1%}, {arm.high:.1%}]"
            for arm in (self.real, self.both, self.generated)
        ]
        seeds = len(self.real.accuracies)
        tested = counted(self.n_test, "held-out image")
        lines.append(f"each {counted(seeds, 'time')} for {counted(self.steps, 'step')}, tested on {tested}")
        if not self.informative:
            return [*lines, f"no classifier is better than chance ({self.chance:.1%}): nothing can be said"]
        lines.append(f"adding generated images: {self.gain.verdict('they help', 'they harm')}")
        lines.append(f"generated instead of real: {self.gap.verdict('they teach more', 'they teach less')}")
        return lines


def score_usefulness(
    model: Model,
    training: Shards,
    held_out: Shards,
    *,
    truncation: float | None = None,
    seeds: int = FULL["seeds"],
    steps: int = FULL["steps"],
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Usefulness:
    """Train three classifiers for each of two or more seeds. Altered copies of clips take no part.

    As many images are generated as there are real ones of a class, anew for every seed, so that intervals over seeds
    hold the luck of the draw too. Each training takes `steps` batches of 32. `truncation` is the variance of the noise;
    `progress` is called with the steps trained and their number, over all classifiers.

    Raises:
        SchurganError: shards of other classes or that share clips, a model that makes NaN.
    """
    check_apart(model, training, held_out)
    real, labels = _images(training)
    test, truth = _images(held_out)
    if missing := sorted(set(truth.tolist()) - set(labels.tolist())):
        raise SchurganError(f'training: no clip of class "{model.classes[missing[0]]}", which is among those held out')
    asked = labels.sort().values
    right = torch.empty(ARMS, seeds, len(truth), dtype=torch.float64)
    for number in range(seeds):
        generated = model.codec.invert_colormap(model.images(asked, truncation, seed + number))
        if bad := int((~generated.isfinite().flatten(1).all(1)).sum()):
            raise SchurganError(f"generated: {bad} of {len(asked)} images hold NaN or infinite values")
        sets = ((real, labels), (torch.cat((real, generated)), torch.cat((labels, asked))), (generated, asked))
        for arm, (images, classes) in enumerate(sets):
            classifier = fit_classifier(
                images.__getitem__,
                classes,
                torch.arange(len(images)),
                classes=len(model.classes),
                size=real.shape[-1],
                channels=real.shape[1],
                steps=steps,
                photo=model.pictures,
                seed=seed + number,
                device=device,
                progress=progress and partial(_tell, progress, ARMS * number + arm, ARMS * seeds),
            )
            right[arm, number] = (classifier.predict(test) == truth).double()
    alone, both, only = right
    return Usefulness(
        _arm("real images", alone, truth, model.classes, len(real)),
        _arm("real and generated images", both, truth, model.classes, 2 * len(real)),
        _arm("generated images alone", only, truth, model.classes, len(real)),
        Difference.of(both - alone),
        Difference.of(only - alone),
        torch.bincount(truth).max().item() / len(truth),
        steps,
        len(truth),
    )


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


def score_cas(result: Usefulness) -> Score:
    """Classification accuracy score: accuracy when trained on generated images alone."""
    return Score(
        result.generated.mean,
        held_out=result.real.mean,
        flags=_flags(result),
        n_real=result.real.n_train,
        n_fake=result.generated.n_train,
    )


def _tell(progress: Callable[[int, int], None], before: int, classifiers: int, done: int, steps: int) -> None:
    """A classifier's steps as some of those of all."""
    progress(before * steps + done, classifiers * steps)


def _flags(result: Usefulness) -> tuple[str, ...]:
    return () if result.informative else ("no classifier is better than chance: nothing can be said",)


def _arm(name: str, right: Tensor, truth: Tensor, classes: Sequence[str], n_train: int) -> Arm:
    mean = right.mean().item()
    of_class = {
        label: right[:, truth == c].mean().item() if bool((truth == c).any()) else None
        for c, label in enumerate(classes)
    }
    return Arm(name, n_train, tuple(right.mean(1).tolist()), mean, *wilson(mean * len(truth), len(truth)), of_class)


def _images(shards: Shards) -> tuple[Tensor, Tensor]:
    """Images (N, C, R, R), sorted by class, and their classes (N,)."""
    shards = shards.select(augmented=False)
    clips = np.argsort(shards.labels, kind="stable")
    return shards.codec.invert_colormap(shards.images(clips)), torch.from_numpy(shards.labels[clips])
