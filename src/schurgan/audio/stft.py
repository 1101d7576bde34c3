"""The short-time Fourier transform behind the same interface as the wavelet transform."""

from __future__ import annotations

import torch
from torch import Tensor

from schurgan.audio.coefficients import Coefficients, squared_modulus
from schurgan.audio.grid import cubic_taps


class STFT:
    """Hann-windowed STFT with reflect padding: (B, L) -> (B, n_fft/2 + 1, n_frames), and its least-squares inverse.

    The window sums to 2, so that a sine of amplitude A gives |c| = A, as the wavelet transform's does.

    n_samples  length L of every clip, samples
    n_fft      window length, samples, even; the paper's is 2,048
    hop        samples between windows, under n_fft; the paper's is 1,024
    n_frames   frames that `frames` gives, of the 1 + L // hop there are (all by default)
    """

    def __init__(self, n_samples: int, n_fft: int = 2048, hop: int = 1024, n_frames: int | None = None) -> None:
        if n_fft < 2 or n_fft % 2 or not 1 <= hop < n_fft:
            raise ValueError(f"n_fft {n_fft}, hop {hop}: an even n_fft and a hop from 1 to n_fft − 1 are needed")
        if n_samples <= n_fft // 2:
            raise ValueError(f"n_samples {n_samples}: more than n_fft / 2 = {n_fft // 2} are needed to reflect at the ends")
        self.n_samples, self.n_fft, self.hop = n_samples, n_fft, hop
        self._all_frames = 1 + n_samples // hop
        self.n_frames = self._all_frames if n_frames is None else n_frames

    @property
    def n_rows(self) -> int:
        return self.n_fft // 2 + 1

    def analyze(self, x: Tensor) -> Coefficients:
        if x.ndim != 2 or x.shape[-1] != self.n_samples or not x.is_floating_point():
            raise ValueError(f"input {tuple(x.shape)} {x.dtype}: real clips (B, {self.n_samples}) are needed")
        return Coefficients((torch.stft(x, self.n_fft, self.hop, window=self._window(x), return_complex=True),))

    def synthesize(self, c: Coefficients) -> Tensor:
        (values,) = c
        return torch.istft(values, self.n_fft, self.hop, window=self._window(values.real), length=self.n_samples)

    def energy_frames(self, x: Tensor) -> Tensor:
        """`frames(analyze(x))`."""
        return self.frames(self.analyze(x))

    def frames(self, c: Coefficients) -> Tensor:
        """|c|² itself: a window of the STFT is a frame."""
        (values,) = c
        return squared_modulus(values[..., : self.n_frames])

    def spread(self, magnitude: Tensor) -> Coefficients:
        """(B, n_rows, R) -> one a window: Catmull-Rom in time, never negative."""
        columns = magnitude.shape[-1]
        positions = (torch.arange(self._all_frames, dtype=torch.float64) + 0.5) * columns / self.n_frames - 0.5
        indices, weights = cubic_taps(positions, columns)
        value = torch.zeros_like(magnitude[..., :1])
        for index, weight in zip(indices, weights, strict=True):
            value = value + magnitude.index_select(-1, index.to(magnitude.device)) * weight.to(magnitude)
        return Coefficients((value.clamp_min(0),))

    def _window(self, like: Tensor) -> Tensor:
        return torch.hann_window(self.n_fft, dtype=like.dtype, device=like.device) * (4 / self.n_fft)
