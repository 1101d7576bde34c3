"""Pitch shift at a kept length: stretch in time by a phase vocoder, then resample back."""

from __future__ import annotations

import numpy as np
import soxr
import torch
from torch import Tensor

from schurgan.core.isolation import own_settings

WINDOW = 0.064  # s, to the nearest power of two samples: harmonics from 63 Hz apart are told from one another
OVERLAP = 4  # windows over each sample


@own_settings(keep_grad=True)
def pitch_shift(x: Tensor, ratio: float, sample_rate: int = 16_000) -> Tensor:
    """Multiply every frequency of sounds by a ratio, and keep their length.

    `stretch` makes the sounds (B, L) `ratio` times as long (0.25 to 4; 1.5 is a fifth up), and playing them so much
    faster brings back the length. What would lie above half the rate is lost.
    """
    if not 0.25 <= ratio <= 4:
        raise ValueError(f"ratio {ratio:g}: a ratio of frequencies from 0.25 to 4 is needed")
    length = x.shape[-1]
    longer = stretch(x, ratio, sample_rate)
    if ratio == 1 or not length:
        return longer
    # Only the quotient of the two rates counts; times 2²⁰ any ratio keeps its digits.
    samples = np.ascontiguousarray(longer.cpu().T.numpy())
    shorter = torch.from_numpy(soxr.resample(samples, ratio * 2**20, 2**20, quality="HQ")).T.to(x)[:, :length]
    return torch.nn.functional.pad(shorter, (0, length - shorter.shape[-1])).contiguous()


@own_settings(keep_grad=True)
def stretch(x: Tensor, ratio: float, sample_rate: int = 16_000) -> Tensor:
    """Make sounds (B, L) `ratio` times as long at their pitch: -> (B, ⌈ratio·L⌉). A ratio of 1 gives them back.

    A phase vocoder with identity phase locking (Laroche and Dolson, 1999). Frames X_k are taken around k·H/ratio
    and laid down around k·H. From one to the next the phase must turn by as much as the sound's own does in H samples,
    from the frame P_k, H before X_k, to X_k. So frame k is laid down as X_k·exp(iψ_k), where
    ψ_k = ψ_{k−1} + arg(X_{k−1}·P_k*), and bins take the ψ of the nearest peak of |X_k|. With P_k from the sound itself
    there is no phase to unwrap and no frequency to estimate: a steady tone is continued exactly.
    """
    if x.ndim != 2 or not x.is_floating_point():
        raise ValueError(f"x {tuple(x.shape)} {x.dtype}: floats (B, L) are needed")
    length = x.shape[-1]
    n_out = -int(-ratio * length // 1)
    if not n_out:
        return x.new_zeros(len(x), 0)
    n_fft = 2 ** round(np.log2(WINDOW * sample_rate))
    hop = n_fft // OVERLAP
    n_frames = -(-n_out // hop) + OVERLAP  # from the first that reaches the first sample to the last that has the last
    laid_at = hop * (torch.arange(n_frames, device=x.device) - (OVERLAP - 1))
    starts = torch.round((laid_at + n_fft / 2) / ratio - n_fft / 2).long()  # the middles of frames are what is mapped
    window = torch.hann_window(n_fft, dtype=x.dtype, device=x.device)
    before, after = max(0, hop - int(starts[0])), max(0, int(starts[-1]) + n_fft - length)
    windows = torch.nn.functional.pad(x, (before, after)).unfold(-1, n_fft, 1)
    frames = torch.fft.rfft(windows[:, starts + before] * window)  # (B, K, F)
    earlier = torch.fft.rfft(windows[:, starts[1:] + before - hop] * window)
    turns = (frames[:, :-1] * earlier.conj()).angle()
    psi = _locked(turns, _nearest_peak(frames[:, 1:])).to(x.dtype)
    laid = torch.fft.irfft(frames * torch.polar(torch.ones_like(psi), psi), n_fft) * window

    n_total = (n_frames - 1) * hop + n_fft
    columns = torch.cat([laid, window.square().expand(1, n_frames, n_fft)]).mT
    total = torch.nn.functional.fold(columns, (1, n_total), (1, n_fft), stride=(1, hop))[:, 0, 0]
    start = (OVERLAP - 1) * hop
    total = total[:, start : start + n_out]
    return total[:-1] / total[-1]


def _locked(turns: Tensor, peaks: Tensor) -> Tensor:
    """ψ (B, K + 1, F) from its turns (B, K, F), each bin's from the peak that it belonged to a frame before."""
    psi = [torch.zeros_like(turns[:, 0], dtype=torch.float64)]  # the sum of an hour's turns is as exact as a second's
    for turn, peak in zip(turns.unbind(1), peaks.unbind(1), strict=True):
        psi.append((psi[-1] + turn).gather(-1, peak))
    return torch.stack(psi, 1).remainder(2 * torch.pi)


def _nearest_peak(frames: Tensor) -> Tensor:
    """Bin of the peak nearest to each bin, (B, K, F): a peak is no lower than two bins on either side."""
    power = frames.real.square() + frames.imag.square()
    highest = torch.nn.functional.max_pool1d(power, 5, 1, 2)  # over F, with K as channels
    is_peak = (power == highest) & (power > 0)
    n_bins = power.shape[-1]
    bins = torch.arange(n_bins, device=power.device).expand_as(power)
    below = torch.where(is_peak, bins, -n_bins).cummax(-1).values
    above = torch.where(is_peak, bins, 2 * n_bins).flip(-1).cummin(-1).values.flip(-1)
    nearest = torch.where(bins - below <= above - bins, below, above)
    return torch.where((nearest < 0) | (nearest >= n_bins), bins, nearest)  # silent frames have no peak
