"""The table of metrics: for each its name, its function, which way is better, and where it is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any

from schurgan.evaluation import score_images as images
from schurgan.evaluation import score_sounds as sounds
from schurgan.evaluation import usefulness
from schurgan.evaluation.scores import Score


@dataclass(frozen=True)
class Metric:
    """A row of the table."""

    name: str  # in `scores.json`
    title: str  # in tables
    take: Callable[[Any], Score | None]
    """A Comparison, SoundMeasures or Usefulness -> the score beside its references; None where it does not apply."""
    higher_is_better: bool | None = None
    """None where neither is: the nearer to what real images have, the better."""
    compared: bool = False  # whether it is a column of `schurgan compare`
    swept: bool = False  # whether it is a column of `schurgan sweep`
    floor_is_gap: bool = False
    """Whether real values lie on both sides of 0, and the floor is their mean size."""
    other_reading: float | None = None
    """Factor of another reading of the same thing, which tables print in brackets."""


_UP: dict[str, Any] = {"higher_is_better": True}
_DOWN: dict[str, Any] = {"higher_is_better": False}

IMAGE_METRICS = (
    Metric("inception_score", "Inception Score", images.score_inception, compared=True, swept=True, **_UP),
    Metric("fid", "FID", images.score_fid, compared=True, swept=True, **_DOWN),
    Metric("fid_per_class", "FID, mean of classes", images.score_fid_per_class, **_DOWN),
    Metric("kid", "KID", images.score_kid, compared=True, **_DOWN),
    Metric(
        "precision", "precision", partial(images.score_neighbourhood, "precision"), compared=True, swept=True, **_UP
    ),
    Metric("recall", "recall", partial(images.score_neighbourhood, "recall"), compared=True, swept=True, **_UP),
    Metric("density", "density", partial(images.score_neighbourhood, "density"), compared=True, **_UP),
    Metric("coverage", "coverage", partial(images.score_neighbourhood, "coverage"), compared=True, **_UP),
    Metric("accuracy", "class accuracy", images.score_accuracy, compared=True, **_UP),
    Metric("variety", "variety, share of real", images.score_variety, compared=True, swept=True),
    Metric("vendi_score", "Vendi score", images.score_vendi, swept=True),
    Metric("departure_gap", "Δ² gap", images.score_departure, compared=True, swept=True, floor_is_gap=True),
    Metric("nearest_training", "distance to training, share of real", images.score_nearest_training),
    Metric("memorisation", "memorisation ratio", partial(images.score_memorisation, "ratio"), compared=True),
    Metric("near_copies", "near copies", partial(images.score_memorisation, "near_copies"), **_DOWN),
)
SOUND_METRICS = (
    Metric("snr_db", "SNR, dB (20 log₁₀)", sounds.score_snr, other_reading=2.0),  # see `audio.snr.snr_paper_db`
    Metric("image_distance_db", "image after decoding, dB", sounds.score_consistency, **_DOWN),
    Metric("frechet_audio_distance", "Fréchet audio distance", attrgetter("distance"), compared=True, **_DOWN),
    Metric("louder_lu", "louder than real, LU", sounds.score_loudness),
    Metric("clipped", "clipped samples", sounds.score_clipped, **_DOWN),
)
USEFULNESS_METRICS = (
    Metric("augmentation_utility", "augmentation utility", usefulness.score_utility, compared=True, **_UP),
    Metric("classification_accuracy_score", "classification accuracy score", usefulness.score_cas, **_UP),
)
METRICS = (*IMAGE_METRICS, *SOUND_METRICS, *USEFULNESS_METRICS)
"""All of them, in the order of tables."""
BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}


def take_scores(metrics: Sequence[Metric], source: object) -> dict[str, Score]:
    """Take the scores of `source` that apply to it."""
    scores = ((metric, metric.take(source)) for metric in metrics)
    return {
        metric.name: replace(score, higher_is_better=metric.higher_is_better)
        for metric, score in scores
        if score is not None
    }


def title(name: str) -> str:
    """What tables call a score."""
    return BY_NAME[name].title if name in BY_NAME else name
