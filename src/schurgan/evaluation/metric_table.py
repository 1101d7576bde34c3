"""The table of metrics: for each its name, its function, which way is better, and where it is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
    Metric("image_distance_db", "image after decoding, dB", sounds.score_consistency, **_DOWN),
    Metric("snr_db", "SNR, dB (20 log₁₀)", sounds.score_snr, other_reading=2.0),  # see `audio.snr.snr_paper_db`
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
ABOUT: Mapping[str, str] = {
    "inception_score": "how surely a classifier names each image, and how many classes it names: 1 at worst, the "
    "number of classes at best",
    "fid": "Fréchet distance of generated from real images, by what a classifier sees in them: 0 where they are alike",
    "fid_per_class": "the same within each class: far too high where a class has few images",
    "kid": "a distance of generated from real images that few images do not raise: about 0 where they are alike",
    "precision": "share of generated images that lie among real ones: 1 at best",
    "recall": "share of real images that lie among generated ones: 1 at best",
    "density": "as precision, counting how many real images each generated one lies among: about 1 is good",
    "coverage": "as recall, but odd generated images count for little: 1 at best",
    "accuracy": "share of generated images that a classifier, which learned from real ones, takes for the class that "
    "was asked for: good where it is as high as of real ones",
    "variety": "how much two generated images of a class differ, over how much two real ones do: 1 is as varied as "
    "real ones, near 0 all are alike, well over 1 is often noise",
    "vendi_score": "how many different images a batch of 64 holds: good where it is as high as of real ones",
    "departure_gap": "departure from normality of generated images, which DDFN holds, less that of real ones: 0 is "
    "best",
    "nearest_training": "how far a generated image is from the nearest one that was learned from, over how far those "
    "are from each other: about 1 is usual, copies are near 0",
    "memorisation": "distance to the nearest image that was learned from, over that to the nearest held-out one: good "
    "near the value of held-out images, copies are near 0",
    "near_copies": "share of generated images at less than half the distance from one that was learned from as from "
    "any held-out one: good where it is no more than of held-out images",
    "image_distance_db": "how far the image of a sound is from the image that the sound was made of: −20 dB is a tenth "
    "of it, lower is better",
    "snr_db": "signal to noise: how exactly one waveform is the other, not how alike they sound. Found or borrowed "
    "phases give 0 dB or less; over the value of held-out recordings sounds are copies",
    "frechet_audio_distance": "Fréchet distance of generated sounds from recordings, by their levels: 0 where alike",
    "louder_lu": "loudness of generated sounds less that of recordings, in LU (1 dB): 0 is as loud",
    "clipped": "share of samples cut off at full scale, heard as crackle: 0 is best",
    "augmentation_utility": "accuracy that a classifier of recordings gains by learning from generated images too: "
    "below 0 they harm",
    "classification_accuracy_score": "accuracy on recordings of a classifier that learned from generated images alone: "
    "good where it is as high as after real ones",
}
"""What each is, and which way is good: the glossary of the terminal, the report and docs/evaluation.md."""
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


def glossary(names: Iterable[str]) -> list[str]:
    """What each of some scores is, a line each, by its title."""
    return [f"{title(name)}: {ABOUT[name]}" for name in names if name in ABOUT]
