"""Scores of the sounds that a run makes, as entries of its scores; also where no clip was held out."""

from __future__ import annotations

from dataclasses import asdict
from statistics import fmean, median

import numpy as np
import torch
from torch import Tensor

from schurgan.core.distributed import World
from schurgan.core.progress import Meter
from schurgan.evaluation.features.registry import open_embedding
from schurgan.evaluation.metrics.intervals import Spread
from schurgan.evaluation.metrics.loudness import levels
from schurgan.evaluation.scores import Counts, Score
from schurgan.evaluation.seen import chunks
from schurgan.evaluation.sound import (
    AudioDistance,
    ClassLevels,
    Donors,
    Fidelity,
    SoundScores,
    consistency,
    frechet_audio_distance,
    score_sound,
)
from schurgan.evaluation.target import Subject
from schurgan.model import Model, Phase

_DECODED = 16
_DONORS = 50
_REFINE = 32
_WANTED = 100
"""Sounds over all classes: an audio distance needs more of them than it has features, 77."""


def score_sounds(subject: Subject, truncation: float | None, seed: int, world: World) -> dict[str, Score]:
    """Raises UserError as `score_sound` does."""
    per_class = max(8, -(-_WANTED // len(subject.model.classes)))
    expected = 2 * per_class * len(subject.model.classes)
    if subject.held_out is not None:
        there = np.bincount(subject.held_out.labels, minlength=len(subject.model.classes))
        expected = expected // 2 + int(there.clip(max=per_class).sum())
    with Meter("sounds", "sound", quiet=not world.is_main) as meter:
        model = _Shared(subject.model, world, meter, expected)
        if subject.held_out is None:
            return _without_held_out(subject, model, per_class, truncation, seed)
        rate = model.spectrogram.sample_rate
        found = score_sound(
            model,
            subject.training,
            subject.held_out,
            per_class=per_class,
            donors=_DONORS,
            refine=_REFINE,
            truncation=truncation,
            embedding=open_embedding("audio", rate),
            seed=seed,
        )
    return _entries(found)


class _Shared(Model):
    """A model whose sounds are decoded by all processes together, with a bar; the same ones whatever their number."""

    def __init__(self, model: Model, world: World, meter: Meter, expected: int) -> None:
        super().__init__(model.generator, model.card)
        self._world, self._meter, self._expected, self._decoded = world, meter, expected, 0

    def decode(
        self, images: Tensor, labels: Tensor, phase: Phase = "noise", refine: int | None = None, seed: int = 0
    ) -> Tensor:
        parts = chunks(len(images), _DECODED)

        def work(number: int) -> tuple[Tensor, ...]:
            rows = parts[number]
            return (super(_Shared, self).decode(images[rows], labels[rows], phase, refine, seed + rows.start),)

        def progress(done: int, parts: int) -> None:
            self._meter(self._decoded + len(images) * done // parts, max(self._expected, self._decoded + len(images)))

        audio = self._world.share(len(parts), work, progress)[0]
        self._decoded += len(images)
        return audio


def _entries(found: SoundScores) -> dict[str, Score]:
    counts: Counts = {"n_real": found.n_training, "n_fake": found.n_generated - found.not_finite}
    flags = (f"{found.not_finite} generated images are not finite, and left out",) if found.not_finite else ()
    scores = {
        "snr_db": _signal(found.borrowed, found.fresh, found.ceiling, found.mean_image, flags, counts),
        "image_distance_db": _consistency(found.consistency_generated, found.consistency_real, flags, counts),
    }
    if found.distance:
        scores["frechet_audio_distance"] = _distance(found.distance)
    return scores | _loudness(found.levels, counts)


def _signal(
    borrowed: Fidelity | None,
    fresh: Fidelity | None,
    ceiling: Fidelity,
    mean_image: Fidelity,
    flags: tuple[str, ...],
    counts: Counts,
) -> Score:
    """The paper's signal-to-noise ratio, in its three readings."""
    said = {"generated": borrowed, "fresh_recordings": fresh, "own_phase": ceiling, "class_mean": mean_image}
    return Score(
        borrowed.snr_db.median if borrowed else None,
        held_out=fresh.snr_db.median if fresh else None,
        flags=(*flags, "over that of held-out recordings, a higher SNR means copies or averages"),
        details={name: asdict(value) for name, value in said.items() if value},
        **counts,
    )


def _consistency(made: Spread | None, real: Spread, flags: tuple[str, ...], counts: Counts) -> Score:
    """How far the image of the decoded sound is from the image that it was decoded from."""
    return Score(
        made.median if made else None,
        floor=real.median,
        higher_is_better=False,
        flags=flags,
        details={"generated": asdict(made) if made else None, "real": asdict(real)},
        **counts,
    )


def _distance(found: AudioDistance) -> Score:
    n = min(found.n_real, found.n_generated)
    few = (f"{n} sounds on one side for {found.dimensions} features: the bias is large",) if found.undersampled else ()
    return Score(
        found.distance,
        floor=found.floor,
        matched=found.matched,
        n_real=found.n_real,
        n_fake=found.n_generated,
        extractor=found.embedding,
        higher_is_better=False,
        flags=few,
        details={"floor_sd": found.floor_sd, "n_matched": found.n_matched, "digest": found.digest},
    )


def _loudness(found: tuple[ClassLevels, ...], counts: Counts) -> dict[str, Score]:
    louder = {each.label: each.louder for each in found}
    known = [value for value in louder.values() if value is not None]
    made, real = ([clip for each in found if (clip := getattr(each, side).clipped) is not None] for side in _SIDES)
    return {
        "louder_lu": Score(
            median(known) if known else None,
            floor=0.0,
            flags=() if known else ("sounds under 400 ms have no loudness, and silent ones none",),
            details={"value_is": "the median over classes", "per_class": louder},
            **counts,
        ),
        "clipped": Score(
            fmean(made) if made else None,
            floor=fmean(real) if real else None,
            higher_is_better=False,
            details={"levels": [asdict(each) for each in found]},
            **counts,
        ),
    }


_SIDES = ("generated", "real")


def _without_held_out(
    subject: Subject, model: Model, per_class: int, truncation: float | None, seed: int
) -> dict[str, Score]:
    """The same short of what a new recording would reach: training clips stand for all real ones."""
    training, spectrogram = subject.training, model.spectrogram
    clips = np.concatenate([np.flatnonzero(training.labels == c)[:_DONORS] for c in range(len(model.classes))])
    known = torch.stack([training.recording(int(clip)) for clip in clips])
    known_labels = torch.from_numpy(training.labels[clips])
    there = known_labels.unique()
    labels = there.repeat_interleave(per_class)
    images = model.images(labels, truncation, seed)
    finite = images.isfinite().flatten(1).all(1)
    images, labels = images[finite], labels[finite]
    if not len(images):
        why = ("no generated image is finite",)
        return {name: Score(None, flags=why) for name in ("snr_db", "image_distance_db", "frechet_audio_distance")}
    lenders = Donors(spectrogram, known, known_labels)
    audio = model.decode(images, labels, refine=_REFINE, seed=seed)
    some = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))[: len(images)]
    real_images = spectrogram.apply_colormap(lenders.images[some])
    found = model.decode(real_images, known_labels[some], refine=_REFINE, seed=seed)
    own = torch.arange(len(known))
    counts: Counts = {"n_real": len(known), "n_fake": len(images)}
    unknown = ("no clip was held out: what a new recording would reach is not known",)
    scores = {
        "snr_db": _signal(
            lenders.rebuild(images, lenders.nearest(images, labels)),
            None,
            lenders.rebuild(spectrogram.apply_colormap(lenders.images), own),
            lenders.rebuild(lenders.mean_image(known_labels), own),
            unknown,
            counts,
        ),
        "image_distance_db": _consistency(
            consistency(spectrogram, images, audio), consistency(spectrogram, real_images, found), (), counts
        ),
    }
    if len(known) >= 4 and len(audio) >= 2:
        loudest = audio.abs().amax(1, keepdim=True).clamp_min(1e-4)
        embedding = open_embedding("audio", spectrogram.sample_rate)
        scores["frechet_audio_distance"] = _distance(frechet_audio_distance(known, audio / loudest, embedding, seed))
    rate = spectrogram.sample_rate
    per_label = tuple(
        ClassLevels(model.classes[c], levels(known[known_labels == c], rate), levels(audio[labels == c], rate))
        for c in there.tolist()
        if (labels == c).any()
    )
    return scores | _loudness(per_label, counts)
