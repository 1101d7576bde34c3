"""How each class of the soundscape sounds: recipe(random, n) -> (n,) dry, at any level, never silent.

The first half holds what the recipes are made of, vectorised over samples: tones, damped modes, resonances, noise, a
room. Signals are (n,) float64 at RATE, responses complex on the bins of an FFT; frequencies in Hz, times in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RATE = 16_000
TOP = 7_800.0  # no partial above: the transforms and the resampler end near there

Signal = NDArray[Any]
Random = np.random.Generator


def times(n: int) -> Signal:
    """Seconds of n samples."""
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
    return np.asarray(knots[left] * (1 - part) + knots[left + 1] * part)


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
    return np.ravel((coarse.T @ fine).imag)[:n]


def place(n: int, sounds: Sequence[Signal], starts: Signal) -> Signal:
    """Make n samples with each of `sounds` added at its start (seconds), cut at both ends."""
    out = np.zeros(n)
    for sound, start in zip(sounds, starts, strict=True):
        first = round(start * RATE)
        kept = sound[max(-first, 0) : max(n - first, 0)]
        out[max(first, 0) : max(first, 0) + len(kept)] += kept
    return out


def pulses(n: int, positions: Signal, heights: Signal) -> Signal:
    """Make n samples of impulses at fractional `positions` (samples), each shared by its two neighbours."""
    whole = np.floor(positions).astype(int)
    part = positions - whole
    inside = (whole >= 0) & (whole < n - 1)
    whole, part, heights = whole[inside], part[inside], heights[inside]
    return np.bincount(whole, heights * (1 - part), n) + np.bincount(whole + 1, heights * part, n)


def through(x: Signal, response: Signal) -> Signal:
    """Filter x by a response on the bins of `bins(len(x))`."""
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
    return np.asarray(real.sum(axis=0) - 1j * (real * detuning).sum(axis=0))


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
    return sound * (random.uniform(0.4, 0.95) / np.abs(sound).max())


def siren(random: Random, n: int) -> Signal:
    """A horn whose pitch wails, yelps or alternates between two tones, sometimes driving past."""
    t = times(n)
    low = random.uniform(450, 750)
    kind = random.choice(["wail", "yelp", "two tones"])
    turns = t * {"wail": random.uniform(0.25, 0.6), "yelp": random.uniform(2.2, 4.5)}.get(
        kind, random.uniform(0.7, 1.4)
    )
    turns += random.uniform()
    if kind == "two tones":
        swing, span = 0.5 + 0.5 * np.tanh(12 * np.sin(2 * np.pi * turns)), random.uniform(1.2, 1.5)
    else:
        swing, span = np.abs(2 * (turns % 1) - 1), random.uniform(1.7, 2.6)
        swing *= 1 + random.uniform(-0.4, 0.4) * (1 - swing)  # lingers low, or high
    pitch = low * np.exp(np.log(span) * swing)
    nearest, pace = random.uniform(-0.3, 1.3) * t[-1], random.uniform(0.3, 3)
    passing = pace * (t - nearest)
    pitch *= 1 - random.uniform(0, 0.04) * passing / np.sqrt(1 + passing**2)  # Doppler
    distance = np.sqrt(1 + random.uniform(0, 1) * passing**2)
    tone = harmonic(pitch, np.arange(1, 10.0) ** -random.uniform(0.8, 1.8))
    horn = resonances(bins(n), random.uniform([700, 1800], [1400, 3200]), [900, 1400], [1.0, random.uniform(0.3, 1)])
    return np.asarray(through(tone, 0.15 + horn) / distance)


def bark(random: Random, n: int) -> Signal:
    """One to three barks of one dog: a rough glottal tone that leaps up and falls, through its throat's formants."""
    count = int(random.integers(1, 4))
    size = random.uniform(0, 1)  # 0 a large dog, 1 a small one
    base, length = 180 * 3.2**size, random.uniform(0.13, 0.26) * (1.2 - 0.4 * size)
    roughness, breath = random.uniform(0.1, 0.5), random.uniform(0.1, 0.5)
    barks = []
    for _ in range(count):
        m = int(length * random.uniform(0.8, 1.2) * RATE)
        s = np.linspace(0, 1, m)
        leap = np.sin(np.pi * s**0.6) ** 1.5
        pitch = base * random.uniform(0.9, 1.1) * (0.75 + random.uniform(0.7, 1.3) * leap)
        pitch *= 1 + 0.25 * roughness * wander(random, m, 120)
        voice = harmonic(pitch, np.arange(1, 40.0) ** -0.7) * (1 + roughness * wander(random, m, 90))
        envelope = fade(m, 0.012, 0.06) * np.exp(-random.uniform(1, 2.5) * s)
        barks.append((voice + breath * random.standard_normal(m)) * envelope * random.uniform(0.7, 1))
    gaps = random.uniform(0.18, 0.55, count) + length
    start = random.uniform(0.02, max(0.7 * (n / RATE - gaps[1:].sum() - length), 0.05))
    throat = (0.85 + 0.5 * size) * random.uniform(0.93, 1.07, 3)
    formants = resonances(bins(n), throat * [700, 1350, 2700], throat * [180, 260, 500], [1, 0.7, 0.35])
    return through(place(n, barks, start + np.append(0, np.cumsum(gaps[1:]))), formants)


def rain(random: Random, n: int) -> Signal:
    """A shower's noise, swelling a little, and drops: short bubbles whose pitch is theirs by their size."""
    shower = through(
        random.standard_normal(n), band(bins(n), random.uniform(200, 900), 7000, random.uniform(-0.8, 0.1))
    )
    shower *= (1 + 0.3 * wander(random, n, 1.5)) / shower.std()
    drops, m = int(n / RATE * np.exp(random.uniform(np.log(15), np.log(180)))) + 1, 480
    pitch = np.exp(random.normal(np.log(random.uniform(1500, 3500)), 0.45, (drops, 1))).clip(600, 6500)
    decay = random.uniform(0.002, 0.008, (drops, 1))
    t = times(m)
    bubbles = np.sin(2 * np.pi * pitch * t * (1 + 4 * t)) * np.exp(-t / decay)
    bubbles *= random.exponential(1, (drops, 1)) ** 1.3
    where = random.integers(0, n, (drops, 1)) + np.arange(m)
    pattering = np.bincount(where.ravel(), bubbles.ravel(), n + m)[:n]
    return shower * random.uniform(0.12, 0.45) + pattering


def clock(random: Random, n: int) -> Signal:
    """Tick, tock: two clicks by turns at a steady pace, each a few modes of the movement and one of the case."""
    interval = random.uniform(0.2, 0.55)
    case, centre, dryness = random.uniform(250, 700), random.uniform(2000, 4500), random.uniform(0.6, 1.6)
    clicks = []
    for pitch in (1.0, random.uniform(0.72, 0.92)):
        frequencies = np.append(case, centre * random.uniform([0.6, 0.9, 1.3, 1.6], [0.8, 1.1, 1.5, 1.9])) * pitch
        decays = np.append(0.02, random.uniform(0.003, 0.011, 4)) * dryness
        click = modes(
            int(0.15 * RATE), frequencies, decays, np.append(random.uniform(0.1, 0.4), random.uniform(0.3, 1, 4))
        )
        click[:40] += random.standard_normal(40) * np.linspace(0.8, 0, 40)
        clicks.append(click)
    starts = np.arange(random.uniform(0, interval), n / RATE, interval)
    starts += random.normal(0, 0.0015, len(starts))
    turn = int(random.integers(2))
    return place(n, [clicks[(i + turn) % 2] * random.uniform(0.85, 1) for i in range(len(starts))], starts)


def bell(random: Random, n: int) -> Signal:
    """One to three strikes of a church bell, a hand bell or a bar: inharmonic partials, dying one by one."""
    kinds = {
        "church": [0.5, 1, 1.2, 1.5, 2, 2.51, 2.66, 3.01, 4.17, 5.43],
        "hand": [1, 1.003, 2.01, 2.76, 2.99, 4.2, 5.4, 6.1],
        "bar": [1, 2.756, 2.77, 5.404, 8.933],
    }
    ratios = np.array(kinds[random.choice(list(kinds))]) * random.normal(1, 0.004)
    pitch = np.exp(random.uniform(np.log(350), np.log(1500)))
    decays = random.uniform(0.5, 1.6) * ratios ** -random.uniform(0.5, 1.0)
    brightness = random.uniform(0.2, 1.0)
    strikes = int(random.integers(1, 4))
    gap = random.uniform(0.35, 0.8)
    starts = random.uniform(0.01, 0.25) + gap * np.arange(strikes) * random.uniform(0.97, 1.03, strikes)
    rings = []
    for _ in range(strikes):
        amplitudes = ratios**-brightness * random.uniform(0.3, 1, len(ratios))
        ring = modes(n, pitch * ratios, decays, amplitudes)
        ring[:160] += random.standard_normal(160) * np.linspace(0.5, 0, 160)  # the clapper
        rings.append(ring * random.uniform(0.6, 1))
    return place(n, rings, starts)


def engine(random: Random, n: int) -> Signal:
    """Uneven explosions at a drifting or revving rate, through the exhaust's resonances, with the intake's hiss."""
    firing = np.exp(random.uniform(np.log(14), np.log(110)))
    cylinders = random.uniform(0.5, 1, int(random.choice([1, 2, 3, 4, 6])))
    rev = random.choice([0.0, 0.0, 1.0]) * random.uniform(0.2, 0.5) * wander(random, n, random.uniform(0.6, 2))
    phase = np.cumsum(firing * np.exp(rev + 0.04 * wander(random, n, 3))) / RATE + random.uniform()
    count = int(phase[-1])
    positions = np.interp(np.arange(1, count + 1) + random.normal(0, 0.015, count), phase, np.arange(n))
    train = pulses(n, positions, np.resize(cylinders, count) * random.uniform(0.85, 1.1, count))
    f = bins(n)
    centres = random.uniform([60, 160, 400, 900], [140, 360, 800, 1900])
    widths, loud = centres * random.uniform(0.2, 0.6, 4), random.uniform([0.6, 0.3, 0.05, 0.01], [1, 1, 0.7, 0.4])
    muffler = band(f, 20, np.exp(random.uniform(np.log(500), np.log(6000))))
    roar = through(train, resonances(f, centres, widths, loud) * muffler)
    hiss = through(random.standard_normal(n), band(f, 300, random.uniform(1200, 4500), -0.5))
    hiss *= 0.4 + 0.6 * np.square(np.square(np.cos(np.pi * phase)))  # drawn in with every stroke
    hiss *= np.exp(random.uniform(np.log(0.01), np.log(0.25))) / hiss.std()
    return np.asarray((roar / roar.std() + hiss) * (1 + rev))


def bird(random: Random, n: int) -> Signal:
    """A song of whistles between 2 and 7 kHz: chirps that sweep, trills of quick notes, warbles."""
    centre, depth = random.uniform(2600, 5200), random.uniform(0.12, 0.35)
    pitch, level = np.full(n, centre), np.zeros(n)
    t = random.uniform(0.0, 0.3)
    while t < n / RATE - 0.1:
        kind = random.choice(["chirps", "trill", "warble"])
        count, length = {
            "chirps": (int(random.integers(1, 4)), random.uniform(0.07, 0.18)),
            "trill": (int(random.integers(6, 14)), random.uniform(0.03, 0.06)),
            "warble": (1, random.uniform(0.2, 0.5)),
        }[kind]
        slope, curve = random.uniform(-1, 1) * depth, random.uniform(-0.6, 0.6) * depth
        shake = depth * random.uniform(0.3, 0.6) if kind == "warble" else 0.0
        middle, shakes = centre * random.uniform(0.85, 1.2), random.uniform(18, 40)
        for _ in range(count):
            first, m = int(t * RATE), int(min(length * RATE, n - t * RATE))
            if m < 64:
                break
            s = np.linspace(-1, 1, m)
            bend = slope * s + curve * s**2 + shake * np.sin(np.pi * shakes * length * s)
            pitch[first : first + m] = middle * np.exp(bend)
            level[first : first + m] = np.cos(np.pi / 2 * s) ** random.uniform(0.6, 1.4) * random.uniform(0.6, 1)
            t += length * random.uniform(1.15, 1.3 if kind == "trill" else 2.0)
        t += random.uniform(0.08, 0.4)
    return harmonic(pitch.clip(1800, 7000), [1, random.uniform(0, 0.15), random.uniform(0, 0.06)]) * level


def footsteps(random: Random, n: int) -> Signal:
    """Walking or running on wood, stone or gravel: a heel's thump, the ground's noise under it, then the toe's."""
    ground = random.choice(["wood", "stone", "gravel"])
    interval = random.uniform(0.3, 0.65)
    thump, weight = random.uniform(65, 150), random.uniform(0.6, 1.2)
    low, high = {"wood": (200, 1500), "stone": (500, 3500), "gravel": (900, 6000)}[ground]
    length = {"wood": 0.02, "stone": 0.012, "gravel": 0.05}[ground] * random.uniform(0.8, 1.4)
    planks = random.uniform([180, 320, 520], [280, 480, 800])
    t, m = times(int(0.3 * RATE)), int(0.3 * RATE)

    def step() -> Signal:
        body = modes(m, thump * random.uniform([0.92, 1.7], [1.08, 2.0]), [0.035, 0.02], [weight, 0.4 * weight])
        if ground == "wood":
            body += modes(m, planks * random.uniform(0.97, 1.03, 3), [0.03, 0.022, 0.015], random.uniform(0.15, 0.5, 3))
        toe = random.uniform(0.07, 0.12) * min(interval / 0.45, 1.1)
        envelope = np.exp(-t / length) + random.uniform(0.3, 0.7) * np.exp(-np.abs(t - toe) / (0.8 * length))
        noise = random.standard_normal(m) * envelope
        if ground == "gravel":  # grains, not a hiss
            noise *= random.exponential(1, m) * (random.uniform(size=m) < 0.12) * 2
        return (body + scuff * noise) * fade(m, 0.002, 0.05) * random.uniform(0.75, 1)

    scuff = random.uniform(0.25, 0.7)
    starts = np.arange(random.uniform(0.0, 0.6 * interval), n / RATE, interval)
    starts += random.normal(0, 0.015, len(starts)).clip(-0.03, 0.03)
    dry = place(n, [step() for _ in starts], starts)
    f = bins(n)
    return through(dry, band(f, low, high) + resonances(f, [thump, 300], [2 * thump, 500], [1.0, 0.5]))


RECIPES: dict[str, Callable[[Random, int], Signal]] = {
    recipe.__name__: recipe for recipe in (siren, bark, rain, clock, bell, engine, bird, footsteps)
}
