"""Generated spectrograms heard with the phase of a recording, and without it: the supplementary's sets to listen to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from schurgan.audio import Aux, MorletCWT, snr_paper_db, write_audio
from schurgan.audio.pictures import picture, save_png
from schurgan.core.errors import UserError, writing
from schurgan.core.files import atomic_write
from schurgan.data.shards import Shards
from schurgan.model import Model

APPROXIMATED = ("noise", "griffin-lim")
"""Ways to a phase without a recording's. The paper's others (Krawczyk and Gerkmann, MelGAN) are not here."""


@dataclass(frozen=True)
class Borrowed:
    """A recording, and generated images of its class with its phase (the paper's: image times phase)."""

    label: str
    original: Tensor
    """(L,), peak 1."""
    image: Tensor
    """(C, R, R) of the recording."""
    reference: Tensor
    """(1,), magnitude that the top of the scale stands for."""
    alphas: tuple[float, ...]
    images: Tensor
    """(A, C, R, R), one an alpha, all of one noise."""
    sounds: Tensor
    """(A, L)."""

    def snr(self, number: int) -> float:
        """20 log₁₀ of signal over residual, as the paper counts, of a sound against the recording."""
        return float(snr_paper_db(self.original, self.sounds[number]))


def choose_clips(shards: Shards, count: int, seed: int) -> list[int]:
    """`count` recordings (no altered copies) of different classes where there are as many, drawn by the seed.

    Raises UserError where there are fewer recordings.
    """
    order = np.random.default_rng(seed).permutation(np.flatnonzero(~shards.augmented))
    if len(order) < count:
        raise UserError(f"{shards.folder}: {len(order)} recordings, {count} are needed")
    firsts = {int(shards.labels[clip]): int(clip) for clip in reversed(order)}
    chosen = sorted(firsts.values(), key=lambda clip: int(np.flatnonzero(order == clip)[0]))[:count]
    return chosen + [int(clip) for clip in order if int(clip) not in chosen][: count - len(chosen)]


@torch.no_grad()
def borrow(model: Model, shards: Shards, clip: int, alphas: Sequence[float], seed: int) -> Borrowed:
    """Raises UserError for a set without recordings."""
    original = shards.recording(clip)
    label = shards.classes[int(shards.labels[clip])]
    image, aux = model.spectrogram.encode(original[None])
    number = torch.tensor([model.classes.index(label)])
    images = torch.cat([model.images(number, alpha, seed) for alpha in alphas])
    carrier = original.expand(len(alphas), -1)
    here = Aux(aux.reference.expand(len(alphas)), carrier)
    sounds = model.spectrogram.decode(images, here, phase="carrier", refine=0)
    return Borrowed(label, original, image[0], aux.reference, tuple(alphas), images, sounds)


@torch.no_grad()
def phase_picture(model: Model, original: Tensor) -> Tensor:
    """Recording (L,) -> its phase (R, R) in [−π, π], rows ascending in frequency, at the middle of each column.

    Raises UserError for images that are not of wavelets.
    """
    transform, size = model.spectrogram.transform, model.spectrogram.size
    if not isinstance(transform, MorletCWT):
        raise UserError("a picture of the phase needs images of wavelets; prepare the data with --transform wavelet")
    coefficients = transform.full_rate(original[None])[0]
    middles = ((torch.arange(size) + 0.5) * (coefficients.shape[-1] / size)).long()
    return coefficients[:, middles].angle()


def save_set(model: Model, found: Borrowed, folder: Path, seed: int) -> None:
    """FOLDER/original.wav, synthesized-1.wav, ..., approximated-noise.wav, ..., a PNG of each image under its name, and
    about.json. Approximated phases are of the first alpha's image."""
    rate = model.spectrogram.sample_rate
    of_first = {
        f"approximated-{phase}": (
            found.images[0],
            model.spectrogram.decode(found.images[:1], Aux(found.reference), phase=phase, seed=seed)[0],
        )
        for phase in APPROXIMATED
    }
    made = {
        f"synthesized-{number}": (image, sound)
        for number, (image, sound) in enumerate(zip(found.images, found.sounds, strict=True), 1)
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, (image, sound) in ({"original": (found.image, found.original)} | made | of_first).items():
            write_audio(folder / f"{name}.wav", sound / sound.abs().amax().clamp_min(1), rate)
            save_png(picture(image, max(1, 256 // image.shape[-1])), folder / f"{name}.png")
        about = {
            "class": found.label,
            "synthesized": [
                {"name": f"synthesized-{n}", "truncation": alpha, "snr_paper_db": round(found.snr(n - 1), 3)}
                for n, alpha in enumerate(found.alphas, 1)
            ],
            "approximated_of": "synthesized-1",
        }
        with atomic_write(folder / "about.json", "w") as file:
            json.dump(about, file, indent=1, ensure_ascii=False)
