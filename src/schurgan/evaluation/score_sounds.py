"""Scores of sounds: signal to noise with a borrowed phase, consistency, Fréchet distance, loudness."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import fmean, median

import numpy as np
import torch
from torch import Tensor

from schurgan.audio import Aux, Spectrogram, power_ratio_db, snr_db, snr_paper_db
from schurgan.audio.files import SILENCE
from schurgan.core.distributed import World
from schurgan.core.errors import SchurganError
from schurgan.core.progress import Bar
from schurgan.data.shards import Shards
from schurgan.evaluation.features.embedding import TextureEmbedding
from schurgan.evaluation.features.extractor import Extractor
from schurgan.evaluation.metrics.frechet import frechet_distance
from schurgan.evaluation.metrics.intervals import Spread
from schurgan.evaluation.metrics.loudness import Levels, levels
from schurgan.evaluation.scores import Counts, Score
from schurgan.evaluation.target import check_apart, check_fits, chunks
from schurgan.model import Model
from schurgan.runs.messages import counted

_AT_ONCE, _DECODED = 32, 16  # images
_SPLITS = 10
_DONORS = 50  # training clips of each class at most
_REFINE = 32  # iterations that find a phase; most of the time goes there
_WANTED, _LEAST = 100, 8
"""Sounds over all classes, and of each: an audio distance needs more of them than it has features, 77."""


@dataclass(frozen=True)
class Fidelity:
    """The three readings of the paper's SNR, in dB, of rebuilt sounds against recordings (see `audio.snr`)."""

    snr_db: Spread
    snr_paper_db: Spread
    power_ratio_db: Spread

    @classmethod
    def of(cls, recordings: Tensor, rebuilt: Tensor) -> Fidelity:
        """Compare sounds (N, L). An exact copy has no finite SNR, a silent sound none at all: `undefined`."""
        measures = (snr_db, snr_paper_db, power_ratio_db)
        return cls(*(Spread.of(measure(recordings, rebuilt)) for measure in measures))


class Donors:
    """Recordings (M, L) of classes (M,) that lend their phase to images of a spectrogram (the paper's section 4.2).

    What a signal-to-noise ratio can mean for a *generated* image is a question of its own, because no recording of the
    same content exists. The paper gives the image the phase of "original known samples" and its appendix D compares the
    result with that original. Here that is the nearest recording of the class. The number grows when the image is near
    to that one recording, so it rewards copies: it stands beside what a new recording of the class reaches, the best
    that a generator can hope for, and what a copy of the donor does.
    """

    def __init__(self, spectrogram: Spectrogram, recordings: Tensor, labels: Tensor) -> None:
        self.spectrogram, self.recordings, self.labels = spectrogram, recordings, labels
        encoded = [spectrogram.encode(part) for part in torch.split(recordings, _AT_ONCE)]
        self.images = torch.cat([spectrogram.invert_colormap(image) for image, _ in encoded])  # (M, 1, R, R)
        self.references = torch.cat([aux.reference for _, aux in encoded])

    def nearest(self, images: Tensor, labels: Tensor) -> Tensor:
        """For images (N, C, R, R) of classes (N,) the donors (N,) of their class at the least Euclidean distance.

        Raises SchurganError for a class without a donor.
        """
        missing = sorted(set(labels.tolist()) - set(self.labels.tolist()))
        if missing:
            raise SchurganError(f"labels: no recording of class {missing[0]} is there to lend its phase")
        level = self.spectrogram.invert_colormap(images)
        distance = torch.cdist(level.flatten(1).double(), self.images.flatten(1).double())
        distance[labels[:, None] != self.labels] = torch.inf
        return distance.argmin(1)

    def rebuild(self, images: Tensor, donors: Tensor) -> Fidelity:
        """Compare the paper's reconstruction of images (N, C, R, R), with the phases of `donors` (N,), with those.

        The level is the donor's too: an image says nothing about it.
        """
        rebuilt = []
        for image, lender in zip(torch.split(images, _AT_ONCE), torch.split(donors, _AT_ONCE), strict=True):
            aux = Aux(self.references[lender], self.recordings[lender])
            rebuilt.append(self.spectrogram.decode(image, aux, phase="carrier", refine=0))
        return Fidelity.of(self.recordings[donors], torch.cat(rebuilt))

    def mean_image(self, labels: Tensor) -> Tensor:
        """The mean image (N, C, R, R) of the donors of each class (N,)."""
        means = {c: self.images[self.labels == c].mean(0) for c in set(labels.tolist())}
        return self.spectrogram.apply_colormap(torch.stack([means[c] for c in labels.tolist()]))


def consistency(spectrogram: Spectrogram, images: Tensor, audio: Tensor) -> Spread:
    """How far the image of a sound is from the image that the sound was made of, in dB of the latter; lower is better.

    Spectral convergence 20 log10 min_g ‖g M' − M‖ / ‖M‖, of the magnitudes M of images (N, C, R, R) and M' of audio
    (N, L); under the best gain g, since the sound may have been turned down. Not every image is that of a sound: this
    tells how much of an image cannot be heard. A silent image is `undefined`.
    """
    values = []
    for image, sound in zip(torch.split(images, _AT_ONCE), torch.split(audio, _AT_ONCE), strict=True):
        target = spectrogram.magnitude(image).flatten(1).double()
        heard = spectrogram.magnitude(spectrogram.encode(sound)[0]).flatten(1).double()
        gain = (target * heard).sum(1) / heard.square().sum(1)
        residual = (gain[:, None] * heard - target).norm(dim=1)
        values.append(20 * torch.log10(residual / target.norm(dim=1)))
    return Spread.of(torch.cat(values))


def frechet_audio_distance(recordings: Tensor, generated: Tensor, embedding: Extractor, seed: int = 0) -> Score:
    """Fréchet audio distance (Kilgour et al., 2019) of sounds (M, L) from four or more recordings (N, L).

    The distance of finite samples is biased upward, the more the fewer they are: `matched` and `floor` are means over
    random halves of the recordings, of generated sounds against a half and of the two halves, all equally many.
    """
    real, fake = (embedding(sounds).features for sounds in (recordings, generated))
    n, d = min(len(real) // 2, len(fake)), real.shape[1]
    generator = torch.Generator().manual_seed(seed)
    floors, matched = [], []
    for _ in range(_SPLITS):
        order = torch.randperm(len(real), generator=generator)
        some = torch.randperm(len(fake), generator=generator)[:n]
        half, other = real[order[:n]], real[order[n : 2 * n]]
        floors.append(frechet_distance(half, other))
        matched.append(frechet_distance(half, fake[some]))
    few = min(len(real), len(fake))
    return Score(
        frechet_distance(real, fake),
        floor=float(np.mean(floors)),
        matched=float(np.mean(matched)),
        n_real=len(real),
        n_fake=len(fake),
        extractor=embedding.name,
        flags=(f"{counted(few, 'sound')} on one side for {d} features: the bias is large",) if few <= d else (),
        details={"floor_sd": float(np.std(floors, ddof=1)), "n_matched": n, "digest": embedding.digest},
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
class SoundMeasures:
    """What the scores of sounds are made of. None stands where no generated sound is finite."""

    generated: Fidelity | None
    """Generated images with the phase of the nearest training recording, against that recording: the paper's SNR."""
    fresh: Fidelity | None
    """Held-out recordings' images likewise: what a perfect generator has. None where none was held out."""
    own_phase: Fidelity
    """Held-out recordings, else training ones, from their own image and phase: what a copy would reach."""
    class_mean: Fidelity
    """The class's mean image with those phases: what is reached without any detail."""
    consistency_generated: Spread | None
    """Of sounds whose phase was found by iteration, dB; lower is better."""
    consistency_real: Spread
    distance: Score | None
    """None where there are too few sounds."""
    levels: tuple[ClassLevels, ...]
    n_real: int
    n_fake: int
    not_finite: int

    @property
    def counts(self) -> Counts:
        """Recordings, and generated sounds that are finite."""
        return {"n_real": self.n_real, "n_fake": self.n_fake}


def count_sounds(classes: int) -> int:
    """Generated sounds that are measured, as many of each class."""
    return classes * max(_LEAST, -(-_WANTED // classes))


def measure_sounds(
    model: Model,
    training: Shards,
    held_out: Shards | None = None,
    world: World | None = None,
    *,
    truncation: float | None = None,
    seed: int = 0,
) -> SoundMeasures:
    """Compare generated sounds of each class with recordings.

    For the Fréchet audio distance generated sounds are brought to peak 1, as recordings are when they are prepared.
    Without `held_out` clips, which the model was not trained on, training clips stand for all real ones. The sounds are
    the same whatever the number of processes in `world`. `truncation` is the variance of the noise.

    Raises:
        SchurganError: a model of pictures, shards of other classes or clips or without recordings.
    """
    spectrogram, world = model.spectrogram, world or World()
    per_class = count_sounds(len(model.classes)) // len(model.classes)
    if held_out is None:
        check_fits(model, training)
    else:
        check_apart(model, training, held_out)
    known, known_labels = _recordings(training, _DONORS)
    lenders = Donors(spectrogram, known, known_labels)
    judged = lenders if held_out is None else Donors(spectrogram, *_recordings(held_out, per_class))
    judged_images, own = spectrogram.apply_colormap(judged.images), torch.arange(len(judged.images))
    near_judged = own if held_out is None else lenders.nearest(judged_images, judged.labels)
    asked = known_labels.unique().repeat_interleave(per_class)
    images = model.images(asked, truncation, seed)
    finite = images.isfinite().flatten(1).all(1)
    images, labels = images[finite], asked[finite]
    if held_out is None:  # as many training clips as generated sounds
        some = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))[: max(1, len(images))]
    else:
        some = own
    audio = _decode("generated sounds", model, images, labels, seed, world) if len(images) else None
    rebuilt = _decode("rebuilt recordings", model, judged_images[some], judged.labels[some], seed, world)
    with Bar("scores of sounds", quiet=not world.is_main):
        distance = None
        if audio is not None and len(known) >= 4 and len(audio) >= 2:
            loudest = audio.abs().amax(1, keepdim=True).clamp_min(SILENCE)
            embedding = TextureEmbedding(spectrogram.sample_rate)
            distance = frechet_audio_distance(known, audio / loudest, embedding, seed)
        rate, sounds = spectrogram.sample_rate, known[:0] if audio is None else audio
        return SoundMeasures(
            lenders.rebuild(images, lenders.nearest(images, labels)) if len(images) else None,
            lenders.rebuild(judged_images, near_judged) if held_out is not None else None,
            judged.rebuild(judged_images, own),
            lenders.rebuild(lenders.mean_image(judged.labels), near_judged),
            consistency(spectrogram, images, audio) if audio is not None else None,
            consistency(spectrogram, judged_images[some], rebuilt),
            distance,
            tuple(
                ClassLevels(model.classes[c], levels(known[known_labels == c], rate), levels(sounds[labels == c], rate))
                for c in known_labels.unique().tolist()
            ),
            len(known),
            len(images),
            len(asked) - len(images),
        )


def score_snr(sounds: SoundMeasures) -> Score:
    """The paper's signal-to-noise ratio, in its three readings."""
    unknown = "no clips were held out: what a new recording would reach is not known"
    copies = "over that of held-out recordings, a higher SNR means copies or averages"
    parts = {"generated": sounds.generated, "fresh_recordings": sounds.fresh}
    parts |= {"own_phase": sounds.own_phase, "class_mean": sounds.class_mean}
    return Score(
        sounds.generated.snr_db.median if sounds.generated else None,
        held_out=sounds.fresh.snr_db.median if sounds.fresh else None,
        flags=(*_left_out(sounds), *(() if sounds.fresh else (unknown,)), copies),
        details={name: asdict(value) for name, value in parts.items() if value},
        **sounds.counts,
    )


def score_consistency(sounds: SoundMeasures) -> Score:
    """How far the image of the decoded sound is from the image that it was decoded from."""
    made, real = sounds.consistency_generated, sounds.consistency_real
    return Score(
        made.median if made else None,
        floor=real.median,
        flags=_left_out(sounds),
        details={"generated": asdict(made) if made else None, "real": asdict(real)},
        **sounds.counts,
    )


def score_loudness(sounds: SoundMeasures) -> Score:
    """Loudness of generated sounds over that of recordings, the median over classes."""
    louder = {each.label: each.louder for each in sounds.levels}
    known = [value for value in louder.values() if value is not None]
    return Score(
        median(known) if known else None,
        floor=0.0,
        flags=() if known else ("sounds under 400 ms have no loudness, and silent ones none",),
        details={"value_is": "the median over classes", "per_class": louder},
        **sounds.counts,
    )


def score_clipped(sounds: SoundMeasures) -> Score:
    """Share of clipped samples, mean over classes."""
    made = [each.generated.clipped for each in sounds.levels if each.generated.clipped is not None]
    real = [each.real.clipped for each in sounds.levels if each.real.clipped is not None]
    return Score(
        fmean(made) if made else None,
        floor=fmean(real) if real else None,
        details={"levels": [asdict(each) for each in sounds.levels]},
        **sounds.counts,
    )


def _left_out(sounds: SoundMeasures) -> tuple[str, ...]:
    return (f"not finite, and left out: {counted(sounds.not_finite, 'generated image')}",) if sounds.not_finite else ()


def _decode(what: str, model: Model, images: Tensor, labels: Tensor, seed: int, world: World) -> Tensor:
    """Images (N, C, R, R) of classes (N,) -> sounds (N, L), by all processes together."""
    parts = chunks(len(images), _DECODED)

    def work(number: int) -> tuple[Tensor, ...]:
        rows = parts[number]
        return (model.decode(images[rows], labels[rows], refine=_REFINE, seed=seed + rows.start),)

    with Bar(what, unit="chunk", quiet=not world.is_main) as bar:
        return world.share(len(parts), work, bar)[0]


def _recordings(shards: Shards, per_class: int) -> tuple[Tensor, Tensor]:
    """The first recordings of each class, none of them altered copies: (N, L) and labels (N,)."""
    shards = shards.select(augmented=False)
    clips = np.concatenate([np.flatnonzero(shards.labels == c)[:per_class] for c in range(len(shards.classes))])
    return torch.stack([shards.recording(int(clip)) for clip in clips]), torch.from_numpy(shards.labels[clips])
