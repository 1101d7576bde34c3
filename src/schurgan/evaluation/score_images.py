"""Scores of images, each with what real images themselves reach.

Many distances depend on how many images they are taken from, and are never 0 for finite samples. So each is taken three
ways: of all images; of random halves of the training images against each other (`floor`); and of generated images
against such a half, at as many images as the floor (`matched`). `metric_table` says which metric has which.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from schurgan.evaluation.comparison import (
    HALVINGS,
    MOST,
    Comparison,
    Values,
    attempt,
    count_looked_at,
    draw,
    probabilities_of,
    spread,
)
from schurgan.evaluation.metrics.frechet import frechet_distance, frechet_per_class
from schurgan.evaluation.metrics.inception_score import class_accuracy, inception_score, inception_score_of_runs
from schurgan.evaluation.metrics.kernel import kernel_distance, squared_discrepancy
from schurgan.evaluation.metrics.neighbours import Neighbourhoods, nearest
from schurgan.evaluation.metrics.variety import vendi_score
from schurgan.evaluation.scores import Counts, Score
from schurgan.evaluation.target import CHUNK, ImageSet
from schurgan.runs.messages import counted

ENOUGH = 10_000
"""Generated images from which on the bias of a Fréchet distance is small."""
SPLITS = 10


def score_inception(sets: Comparison) -> Score | None:
    """Inception score over runs; None where the extractor knows no classes."""
    if sets.fake.probabilities is None:
        return None
    probabilities = sets.fake.probabilities
    over_runs = inception_score_of_runs([run.probabilities for run in sets.runs if run.probabilities is not None])
    parts = min(SPLITS, len(probabilities))
    splits, problem = attempt(partial(inception_score, probabilities, parts, sets.seed))
    flags = [problem]
    if probabilities.shape[1] == 1:
        flags.append("the extractor knows one class: the score is 1 whatever the images")
    if len(probabilities) < 10 * SPLITS * probabilities.shape[1]:
        small = len(probabilities) // SPLITS
        known = counted(probabilities.shape[1], "class")
        flags.append(f"parts of {counted(small, 'image')} for {known} score too low")
    return Score(
        over_runs.mean,
        over_runs.sd,
        floor=inception_score_of_runs([probabilities_of(sets.real)]).mean,
        held_out=inception_score_of_runs([probabilities_of(sets.held_out)]).mean if sets.held_out else None,
        flags=_flags(*flags),
        details={
            "floor_is": "the score of all training images",
            "runs": len(sets.runs),
            "splits": parts,
            "splits_mean": splits.mean if splits else None,
            "splits_sd": splits.sd if splits else None,
        },
        **sets.counts,
    )


def score_fid(sets: Comparison) -> Score:
    """Fréchet distance of the features over runs."""
    references = sets.references(lambda real, fake: (frechet_distance(real, fake),))
    n_fake, n_real, d = len(sets.fake), len(sets.real), sets.fake.features.shape[1]
    few = (
        f"{n_fake} generated images, fewer than {ENOUGH}: biased upwards; compare the matched value with that of real "
        "images"
    )
    singular = f"{n_real} real and {n_fake} generated images for {d} features: a covariance is singular"
    return Score(
        *_over_runs([run.frechet for run in sets.runs]),
        floor=_first(references.floor),
        held_out=_first(references.held_out),
        matched=_first(references.matched),
        flags=_flags(
            references.problem,
            few if n_fake < ENOUGH else "",
            f"{singular}, and the bias large" if min(n_fake, n_real) <= d else "",
        ),
        details={
            "runs": len(sets.runs),
            "features": d,
            "n_matched": references.n,
            "n_held_out": len(sets.held_out) if sets.held_out else 0,
            "matched_to_held_out": _as_few(sets),
        },
        **sets.counts,
    )


def score_fid_per_class(sets: Comparison) -> Score | None:
    """Mean over classes of the Fréchet distance of each; None where classes mean nothing."""
    if not sets.classes:
        return None
    real, fake, classes = sets.real, sets.fake, sets.classes
    against = partial(frechet_per_class, real.features, real.labels, classes=len(classes))
    each = against(fake.features, fake.labels)
    unseen = against(sets.held_out.features, sets.held_out.labels) if sets.held_out else (None,) * len(classes)
    least = [min(int((real.labels == c).sum()), int((fake.labels == c).sum())) for c in range(len(classes))]
    d = fake.features.shape[1]
    small = [name for name, n in zip(classes, least, strict=True) if n <= d]
    which = "every class has" if len(small) == len(classes) else f"{', '.join(small)}: a class has"
    return Score(
        _over_runs(each)[0],
        held_out=_over_runs(unseen)[0],
        flags=(f"{which} no more images than the {d} features: biased far upwards",) if small else (),
        details={
            "value_is": "the mean over classes",
            "per_class": dict(zip(classes, each, strict=True)),
            "held_out_per_class": dict(zip(classes, unseen, strict=True)),
            "least_images": dict(zip(classes, least, strict=True)),
        },
        **sets.counts,
    )


def score_kid(sets: Comparison) -> Score:
    """Kernel distance of the features."""
    size = min(1000, len(sets.real), len(sets.fake))
    distance, problem = attempt(partial(kernel_distance, sets.real.features, sets.fake.features, size, sets.seed))
    references = sets.references(lambda real, fake: (squared_discrepancy(real, fake),))
    return Score(
        distance.mean if distance else None,
        distance.sd if distance else None,
        floor=_first(references.floor),
        held_out=_first(references.held_out),
        flags=_flags(problem, references.problem),
        details={"sd_over": "100 pairs of subsets", "subset_size": size, "n_floor": references.n},
        **sets.counts,
    )


def score_neighbourhood(name: str, sets: Comparison) -> Score:
    """One of precision, recall, density and coverage."""
    values, problem, references = sets.neighbourhoods
    place = Neighbourhoods._fields.index(name)
    return Score(
        values[place] if values else None,
        floor=references.floor[place] if references.floor else None,
        held_out=references.held_out[place] if references.held_out else None,
        matched=references.matched[place] if references.matched else None,
        n_real=min(MOST, len(sets.real)),
        n_fake=min(MOST, len(sets.fake)),
        extractor=sets.extractor,
        flags=_flags(problem, references.problem),
        details={"k": 5, "n_matched": references.n},
    )


def score_accuracy(sets: Comparison) -> Score | None:
    """Share of images taken for their class, over runs; None where the extractor's classes are not the run's."""
    values = [run.accuracy for run in sets.runs]
    if None in values:
        return None
    per_class = class_accuracy(probabilities_of(sets.fake), sets.fake.labels).per_class
    details: dict[str, object] = {"per_class": dict(zip(sets.classes, per_class, strict=True))}
    if sets.accuracy is not None:
        details["real_per_class"] = dict(zip(sets.classes, sets.accuracy[1], strict=True))
        details["held_out_is"] = "of real clips that the extractor was not trained on"
    return Score(
        *_over_runs(values),
        held_out=sets.accuracy[0] if sets.accuracy else None,
        flags=() if sets.accuracy else ("how often the extractor is right on unseen real images is not known",),
        details=details,
        **sets.counts,
    )


def score_variety(sets: Comparison) -> Score:
    """Mean distance of two images of a class, over that of training images."""
    if sets.scale is None:
        return Score(None, flags=_NO_SCALE, **_kept(sets))
    fake, unseen = spread(sets.fake) or 0.0, spread(sets.held_out) if sets.held_out else None
    return Score(
        fake / sets.scale,
        floor=1.0,
        held_out=unseen / sets.scale if unseen else None,
        details={"generated_distance": fake, "real_distance": sets.scale},
        **_kept(sets),
    )


def score_vendi(sets: Comparison) -> Score:
    """Effective number of different images in a batch of 64 at most, mean over whole batches."""
    if sets.scale is None:
        return Score(None, flags=_NO_SCALE, **_kept(sets))
    scale, batch = sets.scale, min(CHUNK, len(sets.real.images), len(sets.fake.images))

    def mean(images: Tensor) -> float:
        whole = len(images) // batch * batch  # the number grows with the batch: a smaller one would lower the mean
        return statistics.fmean(vendi_score(part, scale) for part in images[:whole].split(batch))

    details = {"batch": batch, "scale": scale}
    return Score(mean(sets.fake.images), floor=mean(sets.real.images), details=details, **_kept(sets))


def score_departure(sets: Comparison) -> Score | None:
    """Mean departure from normality of generated images minus that of training images, what DDFN holds near 0."""
    real, fake, unseen = sets.real.departures, sets.fake.departures, sets.held_out
    if not (len(real) and len(fake)):
        return None
    generator = torch.Generator().manual_seed(sets.seed)
    half, gaps = len(real) // 2, []
    for _ in range(HALVINGS if half else 0):
        order = torch.randperm(len(real), generator=generator)
        first, second = (real[order[part]].mean() for part in (slice(half), slice(half, 2 * half)))
        gaps.append(abs(first - second).item())
    mean, errors = real.mean(), [values.var() / len(values) for values in (real, fake) if len(values) > 1]
    return Score(
        (fake.mean() - mean).item(),
        floor=statistics.fmean(gaps) if gaps else None,
        held_out=(unseen.departures.mean() - mean).item() if unseen else None,
        n_real=len(real),
        n_fake=len(fake),
        details={
            "real_mean": mean.item(),
            "standard_error": math.sqrt(sum(error.item() for error in errors)),
            "floor_is": "the mean size of the gap between random halves of the training images",
            "measure": "exact, of pixels in [0, 1], mean over channels",
        },
    )


def score_nearest_training(sets: Comparison) -> Score:
    """Median distance to the nearest training image, over that of training images to the nearest other one."""
    real = sets.real.thumbnails
    if len(real) < 2:
        return Score(None, n_real=len(real), flags=("one training image has no other to compare with",))
    usual = nearest(real, real[: count_looked_at(sets.real)], 2).distances[:, 1].median().item()
    if usual == 0:
        return Score(None, n_real=len(real), flags=("most training images have an exact copy among them",))

    def against(images: ImageSet) -> float:
        return nearest(real, images.thumbnails).distances[:, 0].median().item() / usual

    return Score(
        against(sets.looked_at),
        floor=1.0,
        held_out=against(sets.held_out) if sets.held_out else None,
        n_real=len(real),
        n_fake=len(sets.looked_at.thumbnails),
        details={"real_distance": usual, "images": "channels' mean, shrunk to 32x32 at most"},
    )


def score_memorisation(field: str, sets: Comparison) -> Score:
    """`ratio` or `near_copies` of `memorisation`; unknown where no clips were held out."""
    memory, problem = sets.memorised
    if sets.held_out is None:
        return Score(None, flags=(problem,))
    return Score(
        getattr(memory, field) if memory else None,
        held_out=getattr(memory, f"reference_{field}") if memory else None,
        n_real=len(sets.real),
        n_fake=memory.count if memory else 0,
        flags=_flags(problem),
        details={"n_held_out": len(sets.held_out)},
    )


_NO_SCALE = ("no class has two different training images among those looked at",)


def _kept(sets: Comparison) -> Counts:
    return {"n_real": len(sets.real.images), "n_fake": len(sets.fake.images)}


def _as_few(sets: Comparison) -> float | None:
    """Fréchet distance of as many generated images as were held out: what compares with that of those."""
    if sets.held_out is None or len(sets.held_out) > len(sets.fake):
        return None
    generator = torch.Generator().manual_seed(sets.seed)
    draws = [draw(sets.fake.labels, len(sets.held_out), generator) for _ in range(HALVINGS)]
    values, _ = attempt(lambda: [frechet_distance(sets.real.gaussian, sets.fake.features[draw]) for draw in draws])
    return statistics.fmean(values) if values else None


def _over_runs(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and standard deviation of those that are known."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None, statistics.stdev(known) if len(known) > 1 else None


def _first(values: Values | None) -> float | None:
    return values[0] if values else None


def _flags(*texts: str) -> tuple[str, ...]:
    return tuple(text for text in texts if text)
