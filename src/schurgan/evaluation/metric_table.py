"""The table of metrics: for each its name, its function, which way is better, and which references stand beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from schurgan.evaluation import score_images as images
from schurgan.evaluation import score_sounds as sounds
from schurgan.evaluation import usefulness
from schurgan.evaluation.scores import Score

Floor = Literal["halves", "training", "gap", "definition"]
"""What real images reach among themselves:

halves      random halves of each class of the training images, one against the other
training    the training images in place of generated ones
gap         the size of the difference of random halves: real values lie on both sides of 0
definition  a fixed number, as the metric is relative to the training images
"""


@dataclass(frozen=True)
class Metric:
    """A row of the table."""

    name: str
    """In `scores.json`."""
    title: str
    """In tables."""
    take: Callable[[Any], Score | None]
    """A Comparison, SoundMeasures or Usefulness -> the score; None where it does not apply."""
    higher_is_better: bool | None = None
    """None where neither is: the nearer to what real images have, the better."""
    floor: Floor | None = None
    matched: bool = False
    """Whether it is also taken of as many generated images as are in a half."""
    held_out: bool = False
    """Whether it is also taken of held-out real images in place of generated ones."""
    compared: bool = False
    """Whether it is a column of `schurgan compare`."""
    swept: bool = False
    """Whether it is a column of `schurgan sweep`."""


_HALVES: dict[str, Any] = {"floor": "halves", "matched": True, "held_out": True, "compared": True}
_NEIGHBOURS = _HALVES | {"higher_is_better": True}

IMAGE_METRICS = (
    Metric(
        "inception_score",
        "Inception Score",
        images.score_inception,
        higher_is_better=True,
        floor="training",
        held_out=True,
        compared=True,
        swept=True,
    ),
    Metric("fid", "FID", images.score_fid, higher_is_better=False, swept=True, **_HALVES),
    Metric("fid_per_class", "FID, mean of classes", images.score_fid_per_class, higher_is_better=False, held_out=True),
    Metric("kid", "KID", images.score_kid, higher_is_better=False, floor="halves", held_out=True, compared=True),
    Metric("precision", "precision", partial(images.score_neighbourhood, "precision"), swept=True, **_NEIGHBOURS),
    Metric("recall", "recall", partial(images.score_neighbourhood, "recall"), swept=True, **_NEIGHBOURS),
    Metric("density", "density", partial(images.score_neighbourhood, "density"), **_NEIGHBOURS),
    Metric("coverage", "coverage", partial(images.score_neighbourhood, "coverage"), **_NEIGHBOURS),
    Metric("accuracy", "class accuracy", images.score_accuracy, higher_is_better=True, held_out=True, compared=True),
    Metric(
        "variety",
        "variety, share of real",
        images.score_variety,
        floor="definition",
        held_out=True,
        compared=True,
        swept=True,
    ),
    Metric("vendi_score", "Vendi score", images.score_vendi, floor="training", swept=True),
    Metric("departure_gap", "Δ² gap", images.score_departure, floor="gap", held_out=True, compared=True, swept=True),
    Metric(
        "nearest_training",
        "distance to training, share of real",
        images.score_nearest_training,
        floor="definition",
        held_out=True,
    ),
    Metric(
        "memorisation",
        "memorisation ratio",
        partial(images.score_memorisation, "ratio"),
        held_out=True,
        compared=True,
    ),
    Metric(
        "near_copies",
        "near copies",
        partial(images.score_memorisation, "near_copies"),
        higher_is_better=False,
        held_out=True,
    ),
)
SOUND_METRICS = (
    Metric("snr_db", "SNR, borrowed phase, dB", sounds.score_snr, held_out=True),
    Metric(
        "image_distance_db",
        "image after decoding, dB",
        sounds.score_consistency,
        higher_is_better=False,
        floor="training",
    ),
    Metric(
        "frechet_audio_distance",
        "Fréchet audio distance",
        sounds.score_distance,
        higher_is_better=False,
        floor="halves",
        matched=True,
        compared=True,
    ),
    Metric("louder_lu", "louder than real, LU", sounds.score_loudness, floor="definition"),
    Metric("clipped", "clipped samples", sounds.score_clipped, higher_is_better=False, floor="training"),
)
USEFULNESS_METRICS = (
    Metric(
        "augmentation_utility",
        "augmentation utility",
        usefulness.score_utility,
        higher_is_better=True,
        floor="definition",
        compared=True,
    ),
    Metric(
        "classification_accuracy_score",
        "classification accuracy score",
        usefulness.score_trained_on_generated,
        higher_is_better=True,
        held_out=True,
    ),
)
METRICS = (*IMAGE_METRICS, *SOUND_METRICS, *USEFULNESS_METRICS)
"""All of them, in the order of tables."""
BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}


def take_scores(metrics: Sequence[Metric], source: object) -> dict[str, Score]:
    """Take the scores of `source` that apply to it, each with the references that the table gives it."""
    scores = {}
    for metric in metrics:
        if (score := metric.take(source)) is not None:
            scores[metric.name] = replace(
                score,
                higher_is_better=metric.higher_is_better,
                floor=score.floor if metric.floor else None,
                matched=score.matched if metric.matched else None,
                held_out=score.held_out if metric.held_out else None,
            )
    return scores


def title(name: str) -> str:
    """What tables call a score."""
    return BY_NAME[name].title if name in BY_NAME else name
