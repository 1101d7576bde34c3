"""Scores of sounds: signal to noise with a borrowed phase (the paper's), consistency, Fréchet distance.

What the paper's signal-to-noise ratio can mean for a *generated* image is a question of its own, because no recording
of the same content exists. Its section 4.2 gives the image the phase of "original known samples" and its appendix D
compares the result with that original. `Donors` does so with the nearest recording of the class. The number grows when
the image is near to that one recording, so it rewards copies: a new recording of the class, the best that a generator
can hope for, reaches `fresh` and no more, while a copy of the donor reaches `ceiling`. The three stand side by side in
`SoundScores`, with what the mean image of the class reaches; over `fresh`, higher is not better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from schurgan.audio import Aux, Spectrogram, power_ratio_db, snr_db, snr_paper_db
from schurgan.audio.files import SILENCE
from schurgan.core.errors import UserError
from schurgan.data.codec import same_levels
from schurgan.data.shards import Shards
from schurgan.evaluation.features.extractor import Extractor
from schurgan.evaluation.metrics.frechet import frechet_distance
from schurgan.evaluation.metrics.intervals import Spread
from schurgan.evaluation.metrics.loudness import Levels, levels
from schurgan.model import Model

_BATCH = 32
_SPLITS = 10


@dataclass(frozen=True)
class Fidelity:
    """The three readings of the paper's SNR, in dB, of rebuilt sounds against recordings (see `audio.measures`)."""

    snr_db: Spread
    snr_paper_db: Spread
    power_ratio_db: Spread

    @classmethod
    def of(cls, recordings: Tensor, rebuilt: Tensor) -> Fidelity:
        """recordings, rebuilt (N, L). An exact copy has no finite SNR, a silent sound none at all: both `undefined`."""
        measures = (snr_db, snr_paper_db, power_ratio_db)
        return cls(*(Spread.of(measure(recordings, rebuilt)) for measure in measures))


class Donors:
    """Recordings (M, L) of classes (M,) that lend their phase to images.

    Raises ValueError for recordings that the spectrogram is not of, and for labels of another number.
    """

    def __init__(self, spectrogram: Spectrogram, recordings: Tensor, labels: Tensor) -> None:
        if recordings.ndim != 2 or recordings.shape[1] != spectrogram.n_samples or len(recordings) != len(labels):
            raise ValueError(
                f"recordings {tuple(recordings.shape)} of {len(labels)} labels: as many (N, {spectrogram.n_samples}) "
                f"as labels are needed"
            )
        self.spectrogram, self.recordings, self.labels = spectrogram, recordings, labels
        encoded = [spectrogram.encode(part) for part in torch.split(recordings, _BATCH)]
        self.images = torch.cat([spectrogram.invert_colormap(image) for image, _ in encoded])  # (M, 1, R, R)
        self.references = torch.cat([aux.reference for _, aux in encoded])

    def nearest(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images (N, C, R, R) of classes (N,) -> for each the donor (N,) of its class at the least Euclidean distance.

        Raises ValueError for a class of which no donor is there.
        """
        missing = sorted(set(labels.tolist()) - set(self.labels.tolist()))
        if missing:
            raise ValueError(f"labels: no recording of class {missing[0]} is there to lend its phase")
        level = self.spectrogram.invert_colormap(images)
        distance = torch.cdist(level.flatten(1).double(), self.images.flatten(1).double())
        distance[labels[:, None] != self.labels] = torch.inf
        return distance.argmin(1)

    def rebuild(self, images: Tensor, donors: Tensor) -> Fidelity:
        """The paper's reconstruction, image times phase, of images (N, C, R, R) with the phases of `donors` (N,),
        against these recordings. The level is the donor's too: an image says nothing about it."""
        rebuilt = []
        for image, lender in zip(torch.split(images, _BATCH), torch.split(donors, _BATCH), strict=True):
            aux = Aux(self.references[lender], self.recordings[lender])
            rebuilt.append(self.spectrogram.decode(image, aux, phase="carrier", refine=0))
        return Fidelity.of(self.recordings[donors], torch.cat(rebuilt))

    def mean_image(self, labels: Tensor) -> Tensor:
        """The mean image of the donors of each class: labels (N,) -> (N, C, R, R)."""
        means = {c: self.images[self.labels == c].mean(0) for c in set(labels.tolist())}
        return self.spectrogram.apply_colormap(torch.stack([means[c] for c in labels.tolist()]))


def consistency(spectrogram: Spectrogram, images: Tensor, audio: Tensor) -> Spread:
    """How far the image of a sound is from the image that the sound was made of, in dB of the latter; lower is better.

    Spectral convergence 20 log10 min_g ‖g M' − M‖ / ‖M‖, of the magnitudes M of images (N, C, R, R) and M' of audio
    (N, L); under the best gain g, since the sound may have been turned down. Not every image is that of a sound: this
    tells how much of an image cannot be heard. A silent image is `undefined`.
    """
    values = []
    for image, sound in zip(torch.split(images, _BATCH), torch.split(audio, _BATCH), strict=True):
        target = spectrogram.magnitude(image).flatten(1).double()
        heard = spectrogram.magnitude(spectrogram.encode(sound)[0]).flatten(1).double()
        gain = (target * heard).sum(1) / heard.square().sum(1)
        residual = (gain[:, None] * heard - target).norm(dim=1)
        values.append(20 * torch.log10(residual / target.norm(dim=1)))
    return Spread.of(torch.cat(values))


@dataclass(frozen=True)
class AudioDistance:
    """Fréchet audio distance (Kilgour et al., 2019) of generated sounds from recordings, and what it cannot go below.

    The distance of finite samples is biased upward, the more the fewer they are: `matched` and `floor` are means over
    random halves of the recordings, of generated sounds against a half and of the two halves, all of `n_matched`.
    """

    distance: float
    matched: float
    floor: float
    floor_sd: float
    n_real: int
    n_generated: int
    n_matched: int
    dimensions: int
    undersampled: bool
    """Whether a side has no more sounds than features: its covariance is singular, and the bias large."""
    embedding: str
    digest: str


def frechet_audio_distance(recordings: Tensor, generated: Tensor, embedding: Extractor, seed: int = 0) -> AudioDistance:
    """Sounds (N, L) and (M, L) by the features of an `evaluation.embedding`, which takes sounds for images.

    Raises ValueError for NaN, and for under four recordings or two sounds.
    """
    for name, sounds, least in (("recordings", recordings, 4), ("generated", generated, 2)):
        if len(sounds) < least:
            raise ValueError(f"{name}: {len(sounds)} given, {least} sounds or more are needed for a Fréchet distance")
        if bad := int((~sounds.isfinite().all(1)).sum()):
            raise ValueError(f"{name}: {bad} of {len(sounds)} sounds hold NaN or infinite samples")
    real, made = (embedding(sounds).features for sounds in (recordings, generated))
    n = min(len(real) // 2, len(made))
    chance = torch.Generator().manual_seed(seed)
    floors, matched = [], []
    for _ in range(_SPLITS):
        order, some = torch.randperm(len(real), generator=chance), torch.randperm(len(made), generator=chance)[:n]
        half, other = real[order[:n]], real[order[n : 2 * n]]
        floors.append(frechet_distance(half, other))
        matched.append(frechet_distance(half, made[some]))
    return AudioDistance(
        frechet_distance(real, made),
        float(np.mean(matched)),
        float(np.mean(floors)),
        float(np.std(floors, ddof=1)),
        len(real),
        len(made),
        n,
        real.shape[1],
        min(len(real), len(made)) <= real.shape[1],
        embedding.name,
        embedding.digest,
    )


@dataclass(frozen=True)
class ClassLevels:
    """Levels of one class: its recordings, at peak 1 as they are prepared, and sounds generated of it."""

    label: str
    real: Levels
    generated: Levels

    @property
    def louder(self) -> float | None:
        """Loudness of the generated sounds over that of the recordings, in LU; None where one is unknown."""
        real, generated = self.real.loudness_lkfs, self.generated.loudness_lkfs
        return None if real is None or generated is None else generated - real


@dataclass(frozen=True)
class SoundScores:
    """All of a model's scores of sound. None stands where no generated sound is finite."""

    ceiling: Fidelity
    """Held-out recordings from their own image and phase: what the transform allows, and a copy would reach."""
    fresh: Fidelity
    """Images of held-out recordings with the phase of the nearest training recording: what a perfect generator has."""
    mean_image: Fidelity
    """The class's mean image with those phases: what is reached without any detail."""
    borrowed: Fidelity | None
    """Generated images with the phase of the nearest training recording, against that recording: the paper's SNR."""
    consistency_real: Spread
    consistency_generated: Spread | None
    """Of sounds whose phase was found by iteration, dB; lower is better."""
    distance: AudioDistance | None
    levels: tuple[ClassLevels, ...]
    n_training: int
    n_held_out: int
    n_generated: int
    not_finite: int
    truncation: float | None
    refine: int
    seed: int

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, strings and None."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For the terminal."""
        snr = {"generated": self.borrowed, "fresh recordings": self.fresh, "class mean": self.mean_image}
        said = [f"SNR with a borrowed phase, {name}: {value.snr_db} dB" for name, value in snr.items() if value]
        said.append(f"SNR of recordings from their own image and phase: {self.ceiling.snr_db} dB")
        said.append("(over that of fresh recordings, a higher SNR means copies or averages, not better sounds)")
        said.append(
            f"consistency of generated images: {self.consistency_generated or 'unknown'} dB, "
            f"of real ones {self.consistency_real} dB"
        )
        if self.distance:
            d = self.distance
            said.append(
                f"Fréchet audio distance ({d.embedding}): {d.matched:.4g} at {d.n_matched} sounds, floor {d.floor:.4g}"
            )
        louder = {each.label: each.louder for each in self.levels if each.louder is not None}
        if louder:
            most = max(louder, key=lambda label: abs(louder[label]))
            said.append(
                f"loudness of generated sounds over recordings: {median(louder.values()):+.1f} LU, the median of "
                f"{len(louder)} classes; the furthest is {most}, {louder[most]:+.1f} LU"
            )
        if self.not_finite:
            said.append(f"{self.not_finite} of {self.n_generated} generated images are not finite, and left out")
        return said


def score_sound(
    model: Model,
    training: Shards,
    held_out: Shards,
    *,
    per_class: int = 8,
    donors: int = 50,
    refine: int = 32,
    truncation: float | None = None,
    embedding: Extractor | None = None,
    seed: int = 0,
) -> SoundScores:
    """Score `per_class` generated sounds of each class against recordings.

    training   clips that the model was trained on; up to `donors` of a class, the first, lend phases and levels
    held_out   clips that it was not trained on, `per_class` of each class at most
    refine     iterations that find a phase, for `consistency`; most of the time goes there
    embedding  for the Fréchet audio distance, which is left out without one (see `evaluation.embedding`). Generated
               sounds are brought to peak 1 for it, as recordings are when they are prepared

    Raises UserError for a model of pictures, for shards of other classes or clips or without recordings, and for
    numbers that cannot be.
    """
    spectrogram = model.spectrogram
    for name, value, least in (("per_class", per_class, 1), ("donors", donors, 1), ("refine", refine, 0)):
        if value < least:
            raise UserError(f"{name}: {value} given, a whole number of {least} or more is needed")
    check_apart(model, training, held_out)
    known, known_labels = _recordings(training, donors)
    fresh, fresh_labels = _recordings(held_out, per_class)
    lenders = Donors(spectrogram, known, known_labels)
    new = Donors(spectrogram, fresh, fresh_labels)
    fresh_images = spectrogram.apply_colormap(new.images)
    try:
        labels = torch.arange(len(model.classes)).repeat_interleave(per_class)
        images = model.images(labels, truncation, seed)
        finite = images.isfinite().flatten(1).all(1)
        images, sounding = images[finite], labels[finite]
        near_fresh, near_images = lenders.nearest(fresh_images, fresh_labels), lenders.nearest(images, sounding)
        audio = model.decode(images, sounding, refine=refine, seed=seed) if len(images) else known[:0]
        distance = None
        if embedding and len(audio):
            loudest = audio.abs().amax(1, keepdim=True).clamp_min(SILENCE)
            distance = frechet_audio_distance(known, audio / loudest, embedding, seed)
    except ValueError as error:
        raise UserError(str(error)) from None
    found = model.decode(fresh_images, fresh_labels, refine=refine, seed=seed)
    return SoundScores(
        new.rebuild(fresh_images, torch.arange(len(fresh))),
        lenders.rebuild(fresh_images, near_fresh),
        lenders.rebuild(lenders.mean_image(fresh_labels), near_fresh),
        lenders.rebuild(images, near_images) if len(images) else None,
        consistency(spectrogram, fresh_images, found),
        consistency(spectrogram, images, audio) if len(images) else None,
        distance,
        _levels(model.classes, known, known_labels, audio, sounding, spectrogram.sample_rate),
        len(known),
        len(fresh),
        len(labels),
        len(labels) - len(images),
        truncation,
        refine,
        seed,
    )


def check_apart(model: Model, training: Shards, held_out: Shards) -> None:
    """Raises UserError unless both are of the model's classes and transform, and no recording is in both.

    A run chooses its own channels and colour map, which the images of shards need not have.
    """
    for shards in (training, held_out):
        codec = shards.codec
        if shards.classes != model.classes or not same_levels(codec, model.codec):
            raise UserError(f"{shards.folder}: holds other classes or images than the model was trained on")
    sources = [
        {parent or origin for origin, parent in zip(shards.origins, shards.parents, strict=True)}
        for shards in (training, held_out)
    ]
    if both := sources[0] & sources[1]:
        raise UserError(
            f"held_out: {len(both)} of its clips are among those of training, such as {min(both)}; choose other folds"
        )


def _levels(
    classes: Sequence[str], real: Tensor, real_labels: Tensor, made: Tensor, made_labels: Tensor, rate: int
) -> tuple[ClassLevels, ...]:
    return tuple(
        ClassLevels(name, levels(real[real_labels == c], rate), levels(made[made_labels == c], rate))
        for c, name in enumerate(classes)
    )


def _recordings(shards: Shards, per_class: int) -> tuple[Tensor, Tensor]:
    """The first recordings of each class, none of them altered copies: (N, L) and labels (N,)."""
    shards = shards.select(augmented=False)
    clips = np.concatenate([np.flatnonzero(shards.labels == c)[:per_class] for c in range(len(shards.classes))])
    return torch.stack([shards.recording(int(clip)) for clip in clips]), torch.from_numpy(shards.labels[clips])
