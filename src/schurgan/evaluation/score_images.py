"""From what was seen of real and generated images to scores, each with what real images themselves reach.

Many distances depend on how many images they are taken from, and are never 0 for finite samples. So each is taken three
ways: of all images; of random halves of the training images against each other (`floor`); and of generated images
against such a half, at as many images as the floor (`matched`).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from schurgan.evaluation.metrics.frechet import frechet_distance, frechet_per_class
from schurgan.evaluation.metrics.inception_score import class_accuracy, inception_score, inception_score_of_runs
from schurgan.evaluation.metrics.kernel import kernel_distance, squared_discrepancy
from schurgan.evaluation.metrics.neighbours import prdc
from schurgan.evaluation.scores import Counts, Score
from schurgan.evaluation.seen import Seen

Result = TypeVar("Result")
Pair = Callable[[Tensor, Tensor], tuple[float, ...]]
"""Features of two sets of images -> scores of the one against the other."""

ENOUGH = 10_000
"""Generated images from which on the bias of a Fréchet distance is small."""
SPLITS = 10
_NEIGHBOURHOODS = ("precision", "recall", "density", "coverage")
_HALVINGS = 5
_MOST = 5_000  # images whose neighbourhoods are looked at, on each side


@dataclass(frozen=True)
class OfRun:
    """Scores of one run of generated images, for their mean and spread over runs."""

    probabilities: Tensor | None
    frechet: float | None
    accuracy: float | None


class Measure:
    """Scores of generated images by what `extractor` says of them, against training images and perhaps held-out ones.

    accuracy  share of unseen real images whose class the extractor knows, and that of each class, if that is known
    classes   names of the classes
    """

    def __init__(
        self,
        extractor: str,
        classes: Sequence[str],
        real: Seen,
        held_out: Seen | None,
        accuracy: tuple[float, tuple[float, ...]] | None = None,
        seed: int = 0,
    ) -> None:
        self.extractor, self.classes, self.real, self.held_out = extractor, classes, real, held_out
        self.accuracy, self.seed = accuracy, seed

    def run(self, fake: Seen) -> OfRun:
        """What is taken of every run."""
        frechet, _ = attempt(partial(frechet_distance, self.real.features, fake.features))
        accuracy = class_accuracy(_given(fake), fake.labels).overall if self._knows(fake) else None
        return OfRun(fake.probabilities, frechet, accuracy)

    def scores(self, fake: Seen, runs: Sequence[OfRun]) -> dict[str, Score]:
        """All scores: `fake` is the first run, `runs` are all of them."""
        found = {}
        if fake.probabilities is not None:
            found["inception_score"] = self._inception(fake, runs)
        found |= {"fid": self._frechet(fake, runs), "fid_per_class": self._per_class(fake), "kid": self._kernel(fake)}
        found |= self._neighbourhoods(fake)
        if self._knows(fake):
            found["accuracy"] = self._accuracy(fake, runs)
        return found

    def _knows(self, fake: Seen) -> bool:
        """Whether the extractor's classes are those of the run."""
        return fake.probabilities is not None and fake.probabilities.shape[1] == len(self.classes)

    def _inception(self, fake: Seen, runs: Sequence[OfRun]) -> Score:
        given = _given(fake)
        over_runs = inception_score_of_runs([run.probabilities for run in runs if run.probabilities is not None])
        splits, problem = attempt(partial(inception_score, given, min(SPLITS, len(given)), self.seed))
        flags = [problem] if problem else []
        if given.shape[1] == 1:
            flags.append("the extractor knows one class: the score is 1 whatever the images")
        if len(given) < 10 * SPLITS * given.shape[1]:
            flags.append(f"parts of {len(given) // SPLITS} images for {given.shape[1]} classes score too low")
        return Score(
            over_runs.mean,
            over_runs.sd,
            floor=inception_score_of_runs([_given(self.real)]).mean,
            held_out=inception_score_of_runs([_given(self.held_out)]).mean if self.held_out else None,
            higher_is_better=True,
            flags=tuple(flags),
            details={
                "floor_is": "the score of all training images",
                "runs": len(runs),
                "splits": min(SPLITS, len(given)),
                "splits_mean": splits.mean if splits else None,
                "splits_sd": splits.sd if splits else None,
            },
            **self._counts(fake),
        )

    def _frechet(self, fake: Seen, runs: Sequence[OfRun]) -> Score:
        values = [run.frechet for run in runs if run.frechet is not None]
        floor, matched, n, problem = self._halves(_frechet, fake)
        flags = [problem] if problem else []
        if len(fake) < ENOUGH:
            flags.append(
                f"{len(fake)} generated images, fewer than {ENOUGH}: biased upwards; compare the matched value with "
                "that of real images"
            )
        d = fake.features.shape[1]
        if min(len(fake), len(self.real)) <= d:
            there = f"{len(self.real)} real and {len(fake)} generated images for {d} features"
            flags.append(f"{there}: a covariance is singular, and the bias large")
        return Score(
            statistics.fmean(values) if values else None,
            statistics.stdev(values) if len(values) > 1 else None,
            floor=floor[0] if floor else None,
            held_out=self._unseen(_frechet),
            matched=matched[0] if matched else None,
            higher_is_better=False,
            flags=tuple(flags),
            details={
                "runs": len(runs),
                "features": d,
                "n_matched": n,
                "n_held_out": len(self.held_out) if self.held_out else 0,
                "matched_to_held_out": self._as_few(fake),
            },
            **self._counts(fake),
        )

    def _per_class(self, fake: Seen) -> Score:
        of, count = self.real, len(self.classes)
        take = partial(frechet_per_class, of.features, of.labels, classes=count, least=2)
        each, problem = attempt(partial(take, fake.features, fake.labels))
        unseen = self.held_out
        floor = take(unseen.features, unseen.labels) if unseen else (None,) * count
        least = [min(int((of.labels == c).sum()), int((fake.labels == c).sum())) for c in range(count)]
        d = fake.features.shape[1]
        small = [name for name, n in zip(self.classes, least, strict=True) if n <= d]
        flags = [problem] if problem else []
        if small:
            which = "every class has" if len(small) == count else f"{', '.join(small)}: a class has"
            flags.append(f"{which} no more images than the {d} features: biased far upwards")
        known = [value for value in each or () if value is not None]
        names = partial(zip, self.classes, strict=True)
        return Score(
            statistics.fmean(known) if known else None,
            held_out=statistics.fmean(v for v in floor if v is not None) if any(v is not None for v in floor) else None,
            higher_is_better=False,
            flags=tuple(flags),
            details={
                "value_is": "the mean over classes",
                "per_class": dict(names(each or (None,) * count)),
                "held_out_per_class": dict(names(floor)),
                "least_images": dict(names(least)),
            },
            **self._counts(fake),
        )

    def _kernel(self, fake: Seen) -> Score:
        size = min(1000, len(self.real), len(fake))
        found, problem = attempt(
            partial(kernel_distance, self.real.features, fake.features, subset_size=size, seed=self.seed)
        )
        floor, _, n, reason = self._halves(_kernel, fake)
        return Score(
            found.mean if found else None,
            found.sd if found else None,
            floor=floor[0] if floor else None,
            held_out=self._unseen(_kernel),
            higher_is_better=False,
            flags=tuple(each for each in (problem, reason) if each),
            details={"sd_over": "100 pairs of subsets", "subset_size": size, "n_floor": n},
            **self._counts(fake),
        )

    def _neighbourhoods(self, fake: Seen) -> dict[str, Score]:
        found, problem = attempt(partial(_prdc, self.real.features, fake.features))
        unseen = None
        if self.held_out:
            unseen, _ = attempt(partial(_prdc, self.real.features, self.held_out.features))
        floor, matched, n, reason = self._halves(_prdc, fake)
        return {
            name: Score(
                found[place] if found else None,
                floor=floor[place] if floor else None,
                held_out=unseen[place] if unseen else None,
                matched=matched[place] if matched else None,
                n_real=min(_MOST, len(self.real)),
                n_fake=min(_MOST, len(fake)),
                extractor=self.extractor,
                higher_is_better=True,
                flags=tuple(each for each in (problem, reason) if each),
                details={"k": 5, "n_matched": n},
            )
            for place, name in enumerate(_NEIGHBOURHOODS)
        }

    def _accuracy(self, fake: Seen, runs: Sequence[OfRun]) -> Score:
        first = class_accuracy(_given(fake), fake.labels)
        values = [run.accuracy for run in runs if run.accuracy is not None]
        names = partial(zip, self.classes, strict=True)
        details: dict[str, object] = {"per_class": dict(names(first.per_class))}
        flags = []
        if self.accuracy is None:
            flags.append("how often the extractor is right on unseen real images is not known")
        else:
            details["real_per_class"] = dict(names(self.accuracy[1]))
            details["held_out_is"] = "of real clips that the extractor was not trained on"
        return Score(
            statistics.fmean(values),
            statistics.stdev(values) if len(values) > 1 else None,
            held_out=self.accuracy[0] if self.accuracy else None,
            higher_is_better=True,
            flags=tuple(flags),
            details=details,
            **self._counts(fake),
        )

    def _counts(self, fake: Seen) -> Counts:
        return {"n_real": len(self.real), "n_fake": len(fake), "extractor": self.extractor}

    def _as_few(self, fake: Seen) -> float | None:
        """Fréchet distance of as many generated images as were held out: what compares with that of those."""
        if self.held_out is None or len(self.held_out) > len(fake):
            return None
        chance = torch.Generator().manual_seed(self.seed)
        draws = [_drawn(fake.labels, len(self.held_out), chance) for _ in range(_HALVINGS)]
        values, _ = attempt(lambda: [frechet_distance(self.real.features, fake.features[draw]) for draw in draws])
        return statistics.fmean(values) if values else None

    def _unseen(self, measure: Pair) -> float | None:
        if self.held_out is None:
            return None
        found, _ = attempt(partial(measure, self.real.features, self.held_out.features))
        return found[0] if found else None

    def _halves(self, measure: Pair, fake: Seen) -> tuple[_Means, _Means, int, str]:
        """Means over random halves of each class of the training images: half and half, half and generated; and n."""
        n = min(len(self.real) // 2, len(fake), _MOST)
        chance = torch.Generator().manual_seed(self.seed)
        floors, matched = [], []
        for _ in range(_HALVINGS):
            both = _drawn(self.real.labels, 2 * n, chance)
            half, other = self.real.features[both[0::2]], self.real.features[both[1::2]]
            some = fake.features[_drawn(fake.labels, n, chance)]
            floor, problem = attempt(partial(measure, half, other))
            value, _ = attempt(partial(measure, half, some))
            if floor is None:
                return None, None, n, f"no floor: {problem}"
            floors.append(floor)
            matched += [] if value is None else [value]
        return _means(floors), _means(matched), n, ""


_Means = tuple[float, ...] | None


def _drawn(labels: Tensor, n: int, chance: torch.Generator) -> Tensor:
    """Numbers (n,) of some images, sorted by class and with the classes' shares of all.

    Shares that differ by chance would be a large part of a distance between two halves.
    """
    order = torch.randperm(len(labels), generator=chance)
    order = order[labels[order].argsort(stable=True)]
    return order[torch.linspace(0, len(order) - 1, n, dtype=torch.float64).round().long()]


def _means(values: Sequence[tuple[float, ...]]) -> _Means:
    return tuple(statistics.fmean(each) for each in zip(*values, strict=True)) if values else None


def _frechet(real: Tensor, fake: Tensor) -> tuple[float, ...]:
    return (frechet_distance(real, fake),)


def _kernel(real: Tensor, fake: Tensor) -> tuple[float, ...]:
    return (squared_discrepancy(real, fake),)


def _prdc(real: Tensor, fake: Tensor) -> tuple[float, ...]:
    found = prdc(real[:_MOST], fake[:_MOST])
    return tuple(getattr(found, name) for name in _NEIGHBOURHOODS)


def _given(seen: Seen) -> Tensor:
    if seen.probabilities is None:
        raise ValueError("probabilities: none given")
    return seen.probabilities


def attempt(measure: Callable[[], Result]) -> tuple[Result | None, str]:
    """What a measure gives, or None and why it cannot be taken: too few images, most often."""
    try:
        return measure(), ""
    except ValueError as error:
        return None, str(error)
