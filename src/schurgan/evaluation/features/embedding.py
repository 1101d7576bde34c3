"""Features of sound, for Fréchet audio distances (Kilgour et al. 2019): an extractor that takes sounds for images."""

from __future__ import annotations

from itertools import pairwise
from math import ceil, log2, log10

import torch
from torch import Tensor

from schurgan.core.tensors import state_digest
from schurgan.evaluation.features.extractor import Extracted, checked

_CHUNK = 32
_BANDS, _GROUPS = 24, 4
_FLOOR = 1e-8  # mean square: 80 dB under 1
_OCTAVES = (0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 51.0)  # edges in Hz; frames come at 100 Hz
_SHORTEST = 0.1  # seconds


class TextureEmbedding:
    """Sound (N, L) at `sample_rate` -> 77 statistics of its levels, all in dB, after McDermott & Simoncelli (2011).

    The level of a band is its share of the mean square, 10 log10 over −80 dB, in 24 mel bands from 50 Hz to 0.475 of
    the rate, in Hann frames of 32 to 64 ms every 10 ms. Of these levels:

    0-23    mean over time
    24-47   standard deviation over time
    48-71   rms of their modulation, below 2 Hz and in octaves from 2 to 51 Hz, for six neighbouring bands at a time
    72-76   standard deviation of the mean level of six neighbouring bands, and of all: do they move together?

    A clip of t seconds has no modulation slower than 1/t, which is 0 then. Nothing is random and nothing learned: the
    digest says which version and sample rate it is. Loudness counts.
    """

    name, resize = "audio", "none"

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._hop = round(sample_rate / 100)
        self._n_fft = 2 ** ceil(log2(max(2.0, 0.032 * sample_rate)))
        self._window = torch.hann_window(self._n_fft, dtype=torch.float64)
        self._filters = _mel(sample_rate, self._n_fft)
        self.digest = state_digest({}, "texture/1", sample_rate)

    def __call__(self, images: Tensor) -> Extracted:
        """Raises ValueError unless (N, L) with 0.1 s or more, and finite."""
        if images.ndim != 2 or images.shape[1] < _SHORTEST * self.sample_rate:
            least = ceil(_SHORTEST * self.sample_rate)
            raise ValueError(f"audio {tuple(images.shape)}: (N, L) with L of {least} samples or more is needed")
        parts = [self._statistics(self.levels(part)) for part in torch.split(images, _CHUNK)]
        return checked(self.name, len(images), torch.cat(parts), None)

    def levels(self, audio: Tensor) -> Tensor:
        """(N, L) -> (N, 24, frames), dB of mean square in each band, −80 and more; float64."""
        x = audio.detach().cpu().double()
        spectrum = torch.stft(x, self._n_fft, self._hop, window=self._window, center=False, return_complex=True)
        power = 2 * spectrum.abs().square() / (self._n_fft * self._window.square().sum())
        return 10 * torch.log10((self._filters @ power).clamp_min(_FLOOR))

    def _statistics(self, level: Tensor) -> Tensor:
        spread = level.std(-1, correction=0)
        grouped = level.unflatten(1, (_GROUPS, -1))
        together = torch.cat((grouped.mean(2), level.mean(1, keepdim=True)), 1).std(-1, correction=0)
        frames = level.shape[-1]
        window = torch.hann_window(frames + 2, periodic=False, dtype=level.dtype)[1:-1]
        spectrum = torch.fft.rfft((grouped - grouped.mean(-1, keepdim=True)) * window)
        energy = 2 * spectrum.abs().square().mean(2) / (frames * window.square().sum())  # (N, groups, frequencies)
        frequency = torch.fft.rfftfreq(frames, self._hop / self.sample_rate, dtype=level.dtype)
        octaves = [energy[..., (frequency >= low) & (frequency < high)].sum(-1) for low, high in pairwise(_OCTAVES)]
        modulation = torch.stack(octaves, -1).sqrt().flatten(1)
        return torch.cat((level.mean(-1), spread, modulation, together), 1)


def _mel(sample_rate: int, n_fft: int) -> Tensor:
    """(24, n_fft/2 + 1) triangles, equally spaced in mel = 2595 log10(1 + f/700), that add up to 1 between them."""
    lowest, highest = (2595 * log10(1 + f / 700) for f in (50.0, 0.475 * sample_rate))
    edges = 700 * (10 ** (torch.linspace(lowest, highest, _BANDS + 2, dtype=torch.float64) / 2595) - 1)
    frequency = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * sample_rate / n_fft
    rise = (frequency - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - frequency) / (edges[2:] - edges[1:-1])[:, None]
    filters = torch.minimum(rise, fall).clamp_min(0)
    if not (filters.sum(1) > 0).all():
        raise ValueError(f"sample_rate {sample_rate}: too low for {_BANDS} bands above 50 Hz; 4000 Hz will do")
    return filters
