"""Signal to noise with a borrowed phase (the paper's), and consistency.

What the paper's signal-to-noise ratio can mean for a *generated* image is a question of its own, because no recording
of the same content exists. Its section 4.2 gives the image the phase of "original known samples" and its appendix D
compares the result with that original. `Donors` does so with the nearest recording of the class. The number grows when
the image is near to that one recording, so it rewards copies: `score_sounds` sets it beside what a new recording of the
class reaches, the best that a generator can hope for, and what a copy of the donor does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from schurgan.audio import Aux, Spectrogram, power_ratio_db, snr_db, snr_paper_db
from schurgan.evaluation.metrics.intervals import Spread

_BATCH = 32


@dataclass(frozen=True)
class Fidelity:
    """The three readings of the paper's SNR, in dB, of rebuilt sounds against recordings (see `audio.snr`)."""

    snr_db: Spread
    snr_paper_db: Spread
    power_ratio_db: Spread

    @classmethod
    def of(cls, recordings: Tensor, rebuilt: Tensor) -> Fidelity:
        """Compare (N, L) with (N, L). An exact copy has no finite SNR, a silent sound none at all: `undefined`."""
        measures = (snr_db, snr_paper_db, power_ratio_db)
        return cls(*(Spread.of(measure(recordings, rebuilt)) for measure in measures))


class Donors:
    """Recordings (M, L) of classes (M,) that lend their phase to images of a spectrogram."""

    def __init__(self, spectrogram: Spectrogram, recordings: Tensor, labels: Tensor) -> None:
        self.spectrogram, self.recordings, self.labels = spectrogram, recordings, labels
        encoded = [spectrogram.encode(part) for part in torch.split(recordings, _BATCH)]
        self.images = torch.cat([spectrogram.invert_colormap(image) for image, _ in encoded])  # (M, 1, R, R)
        self.references = torch.cat([aux.reference for _, aux in encoded])

    def nearest(self, images: Tensor, labels: Tensor) -> Tensor:
        """For images (N, C, R, R) of classes (N,) the donors (N,) of their class at the least Euclidean distance.

        Raises:
            ValueError: a class of which no donor is there.
        """
        missing = sorted(set(labels.tolist()) - set(self.labels.tolist()))
        if missing:
            raise ValueError(f"labels: no recording of class {missing[0]} is there to lend its phase")
        level = self.spectrogram.invert_colormap(images)
        distance = torch.cdist(level.flatten(1).double(), self.images.flatten(1).double())
        distance[labels[:, None] != self.labels] = torch.inf
        return distance.argmin(1)

    def rebuild(self, images: Tensor, donors: Tensor) -> Fidelity:
        """Compare the paper's reconstruction of images (N, C, R, R), with the phases of `donors` (N,), with those.

        The level is the donor's too: an image says nothing about it.
        """
        rebuilt = []
        for image, lender in zip(torch.split(images, _BATCH), torch.split(donors, _BATCH), strict=True):
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
    for image, sound in zip(torch.split(images, _BATCH), torch.split(audio, _BATCH), strict=True):
        target = spectrogram.magnitude(image).flatten(1).double()
        heard = spectrogram.magnitude(spectrogram.encode(sound)[0]).flatten(1).double()
        gain = (target * heard).sum(1) / heard.square().sum(1)
        residual = (gain[:, None] * heard - target).norm(dim=1)
        values.append(20 * torch.log10(residual / target.norm(dim=1)))
    return Spread.of(torch.cat(values))
