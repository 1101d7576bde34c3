"""A recording and generated images with its phase: what Figures 3 and 5 to 10 show, and sets to listen to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from schurgan.audio import Aux, MorletCWT, snr_db, write_audio
from schurgan.audio.pictures import picture, save_png
from schurgan.core.errors import SchurganError, writing
from schurgan.core.files import write_json
from schurgan.data.shards import Shards
from schurgan.model import Model, Phase
from schurgan.runs.options import DDFNOptions

_APPROXIMATED: tuple[Phase, ...] = ("noise", "griffin-lim")
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

    def snr_db(self, number: int) -> float:
        """Signal over residual of a sound against the recording, dB."""
        return float(snr_db(self.original, self.sounds[number]))

    def snr(self, number: int) -> str:
        """The same to be printed, with the paper's reading, 20 log₁₀, in brackets."""
        value = self.snr_db(number)
        return f"{value:.1f} dB ({2 * value:.1f})"


def choose_clips(shards: Shards, count: int, seed: int) -> list[int]:
    """`count` recordings (no altered copies) of different classes where there are as many, drawn by the seed.

    Raises SchurganError where there are fewer recordings.
    """
    order = np.random.default_rng(seed).permutation(np.flatnonzero(~shards.augmented))
    if len(order) < count:
        raise SchurganError(f"{shards.folder}: {len(order)} recordings, {count} are needed")
    firsts = np.sort(np.unique(shards.labels[order], return_index=True)[1])
    clips: list[int] = np.concatenate([order[firsts], np.delete(order, firsts)])[:count].tolist()
    return clips


@torch.no_grad()
def borrow(model: Model, shards: Shards, clip: int, alphas: Sequence[float], seed: int) -> Borrowed:
    """Raises SchurganError for a set without recordings."""
    original = shards.recording(clip)
    label = shards.classes[int(shards.labels[clip])]
    image, aux = model.spectrogram.encode(original[None])
    number = torch.tensor([model.classes.index(label)])
    images = torch.cat([model.images(number, alpha, seed) for alpha in alphas])
    carrier = original.expand(len(alphas), -1)
    here = Aux(aux.reference.expand(len(alphas)), carrier)
    sounds = model.spectrogram.decode(images, here, phase="carrier", refine=0)
    return Borrowed(label, original, image[0], aux.reference, tuple(alphas), images, sounds)


def join_alphas(parts: Sequence[Borrowed]) -> Borrowed:
    """Images of several models of one recording as those of one."""
    images, sounds = (torch.cat([getattr(part, name) for part in parts]) for name in ("images", "sounds"))
    return replace(parts[0], alphas=tuple(a for part in parts for a in part.alphas), images=images, sounds=sounds)


@torch.no_grad()
def phase_picture(model: Model, original: Tensor) -> Tensor:
    """Recording (L,) -> its phase (R, R) in [−π, π], rows ascending in frequency, at the middle of each column.

    Raises SchurganError for images that are not of wavelets.
    """
    transform, size = model.spectrogram.transform, model.spectrogram.size
    if not isinstance(transform, MorletCWT):
        raise SchurganError(
            "a picture of the phase needs images of wavelets; prepare the data with --transform wavelet"
        )
    coefficients = transform.full_rate(original[None])[0]
    middles = ((torch.arange(size) + 0.5) * (coefficients.shape[-1] / size)).long()
    return coefficients[:, middles].angle()


def save_set(model: Model, borrowed: Borrowed, ddfn: Sequence[DDFNOptions], folder: Path, seed: int) -> None:
    """Write a set to listen to: each sound as WAV with its image as PNG, and about.json with the ε of each model."""
    named = {"original": (borrowed.image, borrowed.original)}
    for number, pair in enumerate(zip(borrowed.images, borrowed.sounds, strict=True), 1):
        named[f"synthesized-{number}"] = pair
    for phase in _APPROXIMATED:  # of the first image
        sounds = model.spectrogram.decode(borrowed.images[:1], Aux(borrowed.reference), phase=phase, seed=seed)
        named[f"approximated-{phase}"] = borrowed.images[0], sounds[0]
    about = {
        "class": borrowed.label,
        "synthesized": [
            {
                "name": f"synthesized-{n}",
                "truncation": alpha,
                "epsilon": options.epsilon if options.relative_epsilon is None else None,
                "relative_epsilon": options.relative_epsilon,
                "snr_db": round(borrowed.snr_db(n - 1), 3),
            }
            for n, (alpha, options) in enumerate(zip(borrowed.alphas, ddfn, strict=True), 1)
        ],
        "approximated_of": "synthesized-1",
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, (image, sound) in named.items():
            path = folder / f"{name}.wav"
            write_audio(path, sound / sound.abs().amax().clamp_min(1), model.spectrogram.sample_rate)
            save_png(picture(image, max(1, 256 // image.shape[-1])), path.with_suffix(".png"))
        write_json(folder / "about.json", about)
