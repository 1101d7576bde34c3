"""Known damage to real spectrograms and sounds, in levels: what `ladders.py` takes the scores of."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

import scipy.signal
import torch
import torch.nn.functional as F
from torch import Tensor

from schurgan.data.shards import Shards


class Clips(NamedTuple):
    """Images (N, C, R, R) in [−1, 1] and labels (N,)."""

    images: Tensor
    labels: Tensor

    def take(self, rows: Tensor) -> Clips:
        return Clips(self.images[rows], self.labels[rows])


Damage = Callable[[Clips, Clips, float, torch.Generator], Clips]
"""Made, real, how much, chance -> the made ones damaged. At level 0 nothing happens, but for the choice of a ladder."""


def noise(made: Clips, real: Clips, level: float, chance: torch.Generator) -> Clips:
    """Gaussian noise of standard deviation `level` on every pixel."""
    return made._replace(images=(made.images + level * torch.randn(made.images.shape, generator=chance)).clamp(-1, 1))


def blur(made: Clips, real: Clips, level: float, chance: torch.Generator) -> Clips:
    """A Gaussian of standard deviation `level`, in shares of the image's side."""
    if not level:
        return made
    sigma = level * made.images.shape[-1]
    reach = min(int(4 * sigma) + 1, made.images.shape[-1] - 1)
    kernel = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    flat = made.images.flatten(0, 1)[:, None]
    for turned in (kernel, kernel.mT):
        by = (reach, reach, 0, 0) if turned is kernel else (0, 0, reach, reach)
        flat = F.conv2d(F.pad(flat, by, mode="reflect"), turned)
    return made._replace(images=flat.view_as(made.images))


def drop_classes(made: Clips, real: Clips, level: float, chance: torch.Generator) -> Clips:
    """`level` classes are missing. Half of the images are kept whatever the level, so that none has to be repeated."""
    there = made.labels.unique()
    kept = there[torch.randperm(len(there), generator=chance)][int(level) :]
    total = len(made.labels) // 2
    share = [total // len(kept) + (place < total % len(kept)) for place in range(len(kept))]
    rows = [_shuffled(made, c, chance)[:n] for c, n in zip(kept, share, strict=True)]
    return made.take(torch.cat(rows))


def duplicate(made: Clips, real: Clips, level: float, chance: torch.Generator) -> Clips:
    """A share `level` of each class is replaced by copies of the rest."""
    rows = []
    for c in made.labels.unique():
        own = _shuffled(made, c, chance)
        distinct = max(1, round((1 - level) * len(own)))
        rows.append(own[torch.arange(len(own)) % distinct])
    return made.take(torch.cat(rows))


def collapse(made: Clips, real: Clips, level: float, chance: torch.Generator) -> Clips:
    """Each class falls to 2^(5 − level) images, each time moved a little in time and level: never the same twice."""
    if not level:
        return made
    rows = []
    for c in made.labels.unique():
        own = _shuffled(made, c, chance)
        rows.append(own[torch.arange(len(own)) % min(len(own), round(2 ** (5 - level)))])
    found = made.take(torch.cat(rows))
    loudness = 0.02 * torch.randn(len(found.labels), 1, 1, 1, generator=chance)
    return found._replace(images=(_rolled(found.images, 1, chance) + loudness).clamp(-1, 1))


def swap_classes(made: Clips, real: Clips, level: float, chance: torch.Generator) -> Clips:
    """A share `level` of the images is of another class than was asked for."""
    wrong = torch.rand(len(made.labels), generator=chance).argsort() < round(level * len(made.labels))
    classes = int(made.labels.max()) + 1
    by = torch.randint(1, classes, made.labels.shape, generator=chance)
    return made._replace(labels=torch.where(wrong, (made.labels + by) % classes, made.labels))


def memorise(made: Clips, real: Clips, level: float, chance: torch.Generator) -> Clips:
    """A share `level` of each class is replaced by training images of it."""
    images = made.images.clone()
    for c in made.labels.unique():
        own, known = _shuffled(made, c, chance), _shuffled(real, c, chance)
        count = min(round(level * len(own)), len(known))
        images[own[:count]] = real.images[known[:count]]
    return made._replace(images=images)


def brighten(made: Clips, real: Clips, level: float, chance: torch.Generator) -> Clips:
    """Every pixel higher by `level`: of 80 dB in [−1, 1], 40 dB times it."""
    return made._replace(images=(made.images + level).clamp(-1, 1))


def flatten(made: Clips, real: Clips, level: float, chance: torch.Generator) -> Clips:
    """Contrast about each image's own mean lowered by the share `level`."""
    mean = made.images.mean((1, 2, 3), keepdim=True)
    return made._replace(images=mean + (1 - level) * (made.images - mean))


def reverse(made: Clips, real: Clips, level: float, chance: torch.Generator) -> Clips:
    """A share `level` of the clips runs backwards."""
    back = torch.rand(len(made.labels), generator=chance).argsort() < round(level * len(made.labels))
    return made._replace(images=torch.where(back[:, None, None, None], made.images.flip(-1), made.images))


def shift(made: Clips, real: Clips, level: float, chance: torch.Generator) -> Clips:
    """Each clip begins elsewhere, up to the share `level` of it earlier or later, and goes round."""
    return made._replace(images=_rolled(made.images, round(level * made.images.shape[-1]), chance))


def _shuffled(clips: Clips, label: Tensor, chance: torch.Generator) -> Tensor:
    rows = (clips.labels == label).nonzero()[:, 0]
    return rows[torch.randperm(len(rows), generator=chance)]


def _rolled(images: Tensor, most: int, chance: torch.Generator) -> Tensor:
    by = torch.randint(-most, most + 1, (len(images), 1), generator=chance)
    columns = (torch.arange(images.shape[-1]) + by) % images.shape[-1]
    return images.gather(3, columns[:, None, None].expand(images.shape))


def fold_clips(shards: Shards, folds: Collection[int]) -> Clips:
    """The recordings of some folds."""
    images, labels = zip(*shards.select(folds=folds, augmented=False).batches(256), strict=True)
    return Clips(torch.cat(images), torch.cat(labels))


def noisy_sound(audio: Tensor, snr_db: float, chance: torch.Generator) -> Tensor:
    """White noise in each sound (N, L), so far below it; brought back to peak 1, as prepared recordings are."""
    rms = audio.square().mean(1, keepdim=True).sqrt()
    return _peak_one(audio + 10 ** (-snr_db / 20) * rms * torch.randn(audio.shape, generator=chance))


def low_passed_sound(audio: Tensor, cutoff: float, sample_rate: int) -> Tensor:
    """Butterworth of order 8, there and back, in each sound (N, L), below `cutoff` Hz; brought back to peak 1."""
    sections = scipy.signal.butter(8, cutoff, fs=sample_rate, output="sos")
    found = scipy.signal.sosfiltfilt(sections, audio.double().numpy(), axis=1)
    return _peak_one(torch.from_numpy(found.astype("float32")))


def _peak_one(audio: Tensor) -> Tensor:
    return audio / audio.abs().amax(1, keepdim=True).clamp_min(1e-12)
