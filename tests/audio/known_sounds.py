"""Sounds that several tests take, and the wavelet transform of any sound by its definition."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

RATE = 16_000


def syllables(n_samples: int = RATE) -> Tensor:
    """Two clips of gliding harmonics in syllables, with bursts of hiss and a noise floor; peak 1."""
    generator = torch.Generator().manual_seed(0)
    t = torch.arange(n_samples) / RATE
    clips = []
    for pitch in (140, 360):
        phase = 2 * math.pi * torch.cumsum(pitch * (1 + 0.1 * torch.sin(2 * math.pi * 3 * t)), 0) / RATE
        voice = torch.stack([torch.sin(k * phase) / k for k in range(1, 11)]).sum(0) * torch.sin(9 * t).clamp_min(0)
        hiss = 0.2 * torch.randn(n_samples, generator=generator) * torch.exp(-8 * (2 * t % 1))
        clips.append(voice + hiss + 0.005 * torch.randn(n_samples, generator=generator))
    x = torch.stack(clips)
    return x / x.abs().amax(-1, keepdim=True)


def morlet_sums(x: np.ndarray, frequency: float, w0: float, at: np.ndarray) -> np.ndarray:
    """(x * ψ)(t) = Σ_n x_n ψ(t − n/fs) / fs directly, with ψ the inverse Fourier transform of 2 exp(−½ ((f − f_k)/σ)²):

    ψ(t) = 2 √(2π) σ exp(−½ (2π σ t)²) exp(2πi f_k t),   σ = f_k / w0,   t in samples, which need not be whole.
    """
    sigma = frequency / w0
    t = (at[:, None] - np.arange(len(x))) / RATE
    envelope = 2 * math.sqrt(2 * math.pi) * sigma * np.exp(-0.5 * (2 * math.pi * sigma * t) ** 2)
    return (envelope * np.exp(2j * math.pi * frequency * t)) @ x / RATE
