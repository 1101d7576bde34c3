"""The short-time Fourier transform behind the same interface as the wavelet transform."""

from __future__ import annotations

import torch
from torch import Tensor

from schurgan.audio.interpolation import Cubic, reflect
from schurgan.audio.transform import Coefficients, check_clips
from schurgan.core.isolation import isolated, own_settings


class STFT:
    """Hann-windowed STFT with reflect padding: (B, L) -> (B, n_fft/2 + 1, n_frames), and its least-squares inverse.

    The window sums to 2, so that a sine of amplitude A gives |c| = A, as the wavelet transform's does.

    Args:
        n_samples: length L of every clip, samples.
        n_fft: window length, samples, even; the paper's is 2,048.
        hop: samples between windows, up to ¾ n_fft; the paper's is 1,024.
        n_frames: frames that `frames` gives, of the 1 + ⌈L / hop⌉ there are; all by default.
    """

    @isolated
    def __init__(self, n_samples: int, n_fft: int = 2048, hop: int = 1024, n_frames: int | None = None) -> None:
        if n_fft < 2 or n_fft % 2 or not 1 <= hop <= 3 * n_fft // 4:
            raise ValueError(f"n_fft {n_fft}, hop {hop}: an even n_fft and a hop from 1 to ¾ of it are needed")
        if n_samples < 1:
            raise ValueError(f"n_samples {n_samples}: 1 or more are needed")
        self.n_samples, self.n_fft, self.hop, self.n_rows = n_samples, n_fft, hop, n_fft // 2 + 1
        # One window beyond the end, so that no sample lies only where a window is nearly zero.
        self._all_frames = 1 - (-n_samples // hop)
        self.n_frames = self._all_frames if n_frames is None else n_frames
        self._interpolations: dict[tuple[int, torch.device, torch.dtype], Cubic] = {}

    @own_settings(keep_grad=True)
    def analyze(self, x: Tensor) -> Coefficients:
        """Clips (B, L) -> one group (B, n_rows, 1 + ⌈L / hop⌉)."""
        check_clips(x, self.n_samples)
        first = -(self.n_fft // 2)
        at = torch.arange(first, first + (self._all_frames - 1) * self.hop + self.n_fft, device=x.device)
        padded = x.index_select(-1, reflect(at, self.n_samples))
        c = torch.stft(padded, self.n_fft, self.hop, window=self._window(x), center=False, return_complex=True)
        return Coefficients((c,))

    @own_settings(keep_grad=True)
    def synthesize(self, c: Coefficients) -> Tensor:
        """Coefficients -> (B, L): the least-squares inverse."""
        (values,) = c
        return torch.istft(values, self.n_fft, self.hop, window=self._window(values.real), length=self.n_samples)

    @own_settings(keep_grad=True)
    def frames(self, c: Coefficients) -> Tensor:
        """Return |c|²: a window of the STFT is a frame."""
        (values,) = c
        kept = values[..., : self.n_frames]
        return kept.real.square() + kept.imag.square()

    @own_settings(keep_grad=True)
    def spread(self, magnitude: Tensor) -> Coefficients:
        """Columns (B, n_rows, R) -> one a window: Catmull-Rom in time, never negative."""
        columns = magnitude.shape[-1]
        key = (columns, magnitude.device, magnitude.dtype)
        if key not in self._interpolations:
            positions = (torch.arange(self._all_frames, dtype=torch.float64) + 0.5) * columns / self.n_frames - 0.5
            self._interpolations[key] = Cubic(positions, *key)
        return Coefficients((self._interpolations[key](magnitude).clamp_min(0),))

    def _window(self, like: Tensor) -> Tensor:
        return torch.hann_window(self.n_fft, dtype=like.dtype, device=like.device) * (4 / self.n_fft)
