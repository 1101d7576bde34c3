"""Levels of sounds: loudness as the standard has it, crest factor, clipping, pauses, offset."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from schurgan.audio.files import SILENCE
from schurgan.evaluation.metrics.intervals import Spread

_BATCH = 32
_BLOCK, _STEP = 0.4, 0.1  # seconds: the gating blocks of BS.1770 and how far they lie apart
# Numerators and denominators of the K-weighting, tables 1 and 2 of BS.1770-4
_SHELF = (1.53512485958697, -2.69169619940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585)
_HIGH_PASS = (1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621)
_PAUSE_DB, _FRAME = -60.0, 0.05  # a frame of so many seconds under this rms level is taken as a pause


def loudness(audio: Tensor, sample_rate: int) -> Tensor:
    """Integrated loudness of mono sounds by ITU-R BS.1770-4.

    K-weighting, then the mean power of the blocks of 400 ms that are above −70 LKFS and within 10 LU of the mean of
    those; a full-scale sine of 997 Hz reads −3.01.

    Args:
        audio: sounds (N, L), full scale 1.
        sample_rate: in Hz.

    Returns:
        LKFS (N,), float64: −∞ where no block is above the gate, NaN for sounds of under 400 ms, which the standard does
        not define.

    Raises:
        ValueError: another shape.
    """
    _check(audio)
    block, step = round(_BLOCK * sample_rate), round(_STEP * sample_rate)
    if audio.shape[1] < block or not len(audio):
        return audio.new_full((len(audio),), torch.nan, dtype=torch.float64)
    size = 1 << (audio.shape[1] + sample_rate // 2).bit_length()  # the filters' ring is over after half a second
    response = _k_weighting(sample_rate, size)
    values = []
    for part in torch.split(audio.double(), _BATCH):
        weighted = torch.fft.irfft(torch.fft.rfft(part, size) * response, size)[:, : audio.shape[1]]
        power = weighted.square().unfold(1, block, step).mean(-1)
        heard = _lkfs(power) > -70
        gate = _lkfs(_mean(power, heard)) - 10
        values.append(_lkfs(_mean(power, heard & (_lkfs(power) > gate[:, None]))))
    loud = torch.cat(values)
    return torch.where(audio.isfinite().all(1), loud, torch.nan)


def _mean(power: Tensor, blocks: Tensor) -> Tensor:
    return torch.where(blocks, power, 0).sum(1) / blocks.sum(1).clamp_min(1)


def _lkfs(power: Tensor) -> Tensor:
    return -0.691 + 10 * torch.log10(power)


def _k_weighting(rate: int, size: int) -> Tensor:
    """Frequency response (size / 2 + 1,) of the standard's two filters at the frequencies of a transform at any rate.

    The standard prints coefficients for 48 kHz alone. Filters designed anew at 16 kHz would differ by the warping of
    the bilinear transform; the response at a frequency is the same whatever the rate.
    """
    frequency = torch.arange(size // 2 + 1, dtype=torch.float64) * (rate / size)
    z = torch.exp(-2j * math.pi * frequency.clamp_max(24_000) / 48_000)
    response = torch.ones_like(z)
    for top, bottom in (_SHELF, _HIGH_PASS):
        response = response * (top[0] + top[1] * z + top[2] * z**2) / (bottom[0] + bottom[1] * z + bottom[2] * z**2)
    return response


@dataclass(frozen=True)
class Levels:
    """Levels of some sounds: medians of those that have one (None where none has), means of shares."""

    sounds: int
    not_finite: int
    """Sounds with NaN or infinite samples; they take no part in the rest."""
    silent: int
    """Sounds with no sample above 1e-4, which `prepare` would refuse; they have no level."""
    too_short: bool
    """Under 400 ms, of which there is no loudness."""
    rms_dbfs: float | None
    """20 log10 of the rms; a full-scale sine reads −3.01."""
    loudness_lkfs: float | None
    crest_db: float | None
    """Peak over rms."""
    clipped: float | None
    """Share of samples beyond full scale or in flat tops of it."""
    pauses: float | None
    """Share of frames of 50 ms whose rms is under −60 dBFS."""
    offset: float | None
    """Mean size of the mean sample, of full scale."""


def levels(audio: Tensor, sample_rate: int) -> Levels:
    """Measure sounds (N, L), full scale 1, at `sample_rate` Hz. Raises ValueError for another shape or no samples."""
    _check(audio)
    finite = audio[audio.isfinite().all(1)].double()
    peak = finite.abs().amax(1) if len(finite) else finite.new_empty(0)
    rms = finite.square().mean(1).sqrt()
    sounding = peak >= SILENCE
    high = finite.abs() >= 0.99  # as `read_audio` counts, two equal samples there in a row make a flat top
    flat = torch.zeros_like(high)
    flat[:, 1:] = high[:, 1:] & (finite[:, 1:] == finite[:, :-1])
    frame = max(1, min(round(_FRAME * sample_rate), audio.shape[1]))
    frames = finite.square().unfold(1, frame, frame).mean(-1)
    level = 20 * torch.log10(rms[sounding])
    loud = loudness(finite[sounding], sample_rate)
    return Levels(
        len(audio),
        len(audio) - len(finite),
        int((~sounding).sum()),
        audio.shape[1] < round(_BLOCK * sample_rate),
        Spread.of(level).median,
        Spread.of(loud).median,
        Spread.of(20 * torch.log10(peak[sounding]) - level).median,
        _share(flat | (finite.abs() > 1)),
        _share(frames < 10 ** (_PAUSE_DB / 10)),
        _share(finite.mean(1).abs()),
    )


def _check(audio: Tensor) -> None:
    if audio.ndim != 2 or audio.shape[1] < 1:
        raise ValueError(f"audio {tuple(audio.shape)}: (N, L) of a sample or more is needed")


def _share(values: Tensor) -> float | None:
    return values.double().mean().item() if len(values) else None
