"""Parts that sounds are made of, vectorised over samples: tones, damped modes, resonances, noise, a room.

Signals are (n,) float64 at RATE, responses complex on the bins of an FFT; frequencies are in Hz, times in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RATE = 16_000
TOP = 7_800.0  # no partial above: the transforms and the resampler end near there

Signal = NDArray[Any]
Random = np.random.Generator


def times(n: int) -> Signal:
    return np.arange(n) / RATE


def fade(n: int, rise: float, fall: float) -> Signal:
    """An envelope of n samples: raised-cosine flanks of `rise` and `fall` seconds around 1."""
    envelope = np.ones(n)
    for side, seconds in ((envelope, rise), (envelope[::-1], fall)):
        m = min(int(seconds * RATE) + 1, n)
        side[:m] *= 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, m))
    return envelope


def wander(random: Random, n: int, rate: float) -> Signal:
    """A smooth random curve of n samples in about [-1, 1] that turns about `rate` times a second."""
    knots = random.uniform(-1, 1, max(int(n / RATE * rate) + 3, 4))
    where = np.linspace(0, len(knots) - 1.001, n)
    left = where.astype(int)
    part = 0.5 - 0.5 * np.cos(np.pi * (where - left))
    curve: Signal = knots[left] * (1 - part) + knots[left + 1] * part
    return curve


def harmonic(frequency: Signal, amplitudes: ArrayLike) -> Signal:
    """Σ_h a_h sin(h φ) with φ the integral of `frequency`, by sin((h+1)φ) = 2 cos φ sin(hφ) − sin((h−1)φ).

    Harmonics that would pass TOP are left out.
    """
    phase = np.cumsum(frequency) * (2 * np.pi / RATE)
    before, now, twice = np.zeros_like(phase), np.sin(phase), 2 * np.cos(phase)
    sound = np.zeros_like(phase)
    for amplitude in np.asarray(amplitudes, float)[: max(int(TOP / frequency.max()), 1)]:
        sound += amplitude * now
        before, now = now, twice * now - before
    return sound


def modes(n: int, frequencies: ArrayLike, decays: ArrayLike, amplitudes: ArrayLike) -> Signal:
    """Σ_p a_p exp(−t / τ_p) sin(2π f_p t) for n samples: what a struck body rings with.

    The powers of z_p = exp((−1/τ_p + 2πi f_p) / RATE) are a matrix product: z^(Bm + b) = z^(Bm) z^b.
    """
    frequencies, decays = np.asarray(frequencies, float), np.asarray(decays, float)
    amplitudes = np.where(frequencies < TOP, amplitudes, 0.0)
    exponent = (-1 / decays + 2j * np.pi * frequencies) / RATE
    step = int(np.ceil(np.sqrt(n)))
    fine = np.exp(np.outer(exponent, np.arange(step)))
    coarse = np.exp(np.outer(exponent, step * np.arange(-(-n // step)))) * amplitudes[:, None]
    sound: Signal = (coarse.T @ fine).imag.ravel()
    return sound[:n]


def place(n: int, sounds: Sequence[Signal], starts: Signal) -> Signal:
    """n samples with each of `sounds` added at its start (seconds), cut at both ends."""
    out = np.zeros(n)
    for sound, start in zip(sounds, starts, strict=True):
        first = round(start * RATE)
        kept = sound[max(-first, 0) : max(n - first, 0)]
        out[max(first, 0) : max(first, 0) + len(kept)] += kept
    return out


def pulses(n: int, positions: ArrayLike, heights: ArrayLike) -> Signal:
    """n samples of impulses at fractional `positions` (samples), each shared by its two neighbours."""
    positions, heights = np.asarray(positions, float), np.asarray(heights, float)
    whole = np.floor(positions).astype(int)
    part = positions - whole
    inside = (whole >= 0) & (whole < n - 1)
    whole, part, heights = whole[inside], part[inside], heights[inside]
    return np.bincount(whole, heights * (1 - part), n) + np.bincount(whole + 1, heights * part, n)


def through(x: Signal, response: Signal) -> Signal:
    """x filtered by a response on the bins of `bins(len(x))`."""
    return np.fft.irfft(np.fft.rfft(x, fast_size(len(x))) * response, fast_size(len(x)))[: len(x)]


def bins(n: int) -> Signal:
    """The frequencies (Hz) on which a filter for n samples is given: with a quarter more room for its tail."""
    return np.fft.rfftfreq(fast_size(n), 1 / RATE)


def fast_size(n: int) -> int:
    """The smallest length of short factors that leaves a tail of a quarter, so that the FFT is fast."""
    least = n + n // 4
    return min(odd << max(-(-least // odd) - 1, 0).bit_length() for odd in (1, 3, 5, 9, 15, 25))


def resonances(f: Signal, centres: ArrayLike, widths: ArrayLike, gains: ArrayLike) -> Signal:
    """Parallel two-pole resonators Σ g / (1 + i (f/c − c/f) c/b): causal, peak g at centre c, width b (Hz); complex."""
    f = np.maximum(f, 1e-3)
    centres, widths, gains = (np.asarray(values, float)[:, None] for values in (centres, widths, gains))
    detuning = (f - centres**2 / f) / widths
    real = gains / (1 + np.square(detuning))
    response: Signal = real.sum(axis=0) - 1j * (real * detuning).sum(axis=0)
    return response


def band(f: Signal, low: float, high: float, tilt: float = 0.0) -> Signal:
    """A gentle band-pass with a slope of `tilt` powers of frequency between its edges."""
    f = np.maximum(f, 1.0)
    return (f / 1000) ** tilt / np.sqrt((1 + (low / f) ** 4) * (1 + (f / high) ** 6))


def finish(dry: Signal, random: Random) -> Signal:
    """A dry sound as recorded: in a mild room, over a noise floor of −50 to −35 dB, of a random level, peak < 1."""
    n = len(dry)
    decay, wet = random.uniform(0.05, 0.25), random.uniform(0.0, 0.35)
    tail = random.standard_normal(int(3 * decay * RATE))
    tail *= np.exp(-times(len(tail)) / decay) / np.sqrt(decay * RATE / 2)  # unit energy
    size = fast_size(n)
    spectrum = np.fft.rfft(dry, size) * (1 + wet * np.fft.rfft(tail[: size - n], size))
    sound: Signal = np.fft.irfft(spectrum, size)[:n]
    sound /= np.abs(sound).max()
    hiss = through(random.standard_normal(n), band(bins(n), 60, 6000, random.uniform(-1.0, 0.0)))
    sound += hiss * (10 ** (random.uniform(-50, -35) / 20) / hiss.std())
    sound *= fade(n, 0.004, 0.004)
    sound *= random.uniform(0.4, 0.95) / np.abs(sound).max()
    return sound
