from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from schurgan.audio.pitch import pitch_shift, stretch

RATE, N = 16000, 32000
RATIOS = (0.75, 0.9, 1.15, 1.5)


def harmonics(fundamental: float, count: int, seed: int = 0, rate: int = RATE, n: int = N) -> torch.Tensor:
    """(1, n): a tone of `count` harmonics that fall off as 1/k, each of its own phase."""
    time = torch.arange(n, dtype=torch.float64) / rate
    phases = 2 * math.pi * torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    tones = [torch.sin(2 * math.pi * fundamental * k * time + phases[k - 1]) / k for k in range(1, count + 1)]
    tone = torch.stack(tones).sum(0)
    return (0.5 * tone / tone.abs().max()).float()[None]


def fit(y: torch.Tensor, fundamental: float, count: int) -> tuple[float, float]:
    """(cents, dB): how far off the worst harmonic is, and how much of the sound a harmonic series explains.

    A harmonic's frequency is told by how far its phase turns from the first half to the second; the series is then
    fitted by least squares. The ends are left out, where the tone begins and breaks off.
    """
    samples = y.double().numpy()[N // 8 : -N // 8]
    time = np.arange(len(samples)) / RATE
    half = len(samples) // 2
    window = np.blackman(half)
    found = []
    for k in range(1, count + 1):
        heard = samples * np.exp(-2j * np.pi * fundamental * k * time)
        turned = np.angle((heard[half : 2 * half] @ window) / (heard[:half] @ window))
        found.append(fundamental + turned / (2 * np.pi * k * half / RATE))
    cents = 1200 * np.log2(np.array(found) / fundamental)
    angles = 2 * np.pi * float(np.median(found)) * np.outer(time, np.arange(1, count + 1))
    basis = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    tone = basis @ np.linalg.lstsq(basis, samples, rcond=None)[0]
    clean = 10 * math.log10(float(np.square(tone).sum() / np.square(samples - tone).sum()))
    return float(np.abs(cents).max()), clean


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_harmonic_tone_is_shifted_to_a_cent_with_40_db_between_harmonics_and_the_rest(ratio):
    # 220 Hz up to its 10th harmonic, which at ratio 1.5 lies at 3,300 Hz: none is lost to the resampling.
    cents, clean = fit(pitch_shift(harmonics(220, 10), ratio)[0], 220 * ratio, 10)
    assert cents <= 1
    assert clean >= 40


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_low_voice_and_a_high_note_are_shifted_to_a_cent_too(ratio):
    # Harmonics 97 Hz apart share bins of the window: 40 dB is what is left, and 3 dB of it depend on their phases.
    for fundamental, count, least in ((97.3, 30, 37), (1411.0, 3, 80)):
        cents, clean = fit(pitch_shift(harmonics(fundamental, count), ratio)[0], fundamental * ratio, count)
        assert cents <= 1
        assert clean >= least


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_level_of_a_tone_and_of_noise_is_kept(ratio):
    def rms(x: torch.Tensor) -> float:
        return float(x[..., N // 8 : -N // 8].square().mean().sqrt())

    tone = harmonics(220, 10)
    assert rms(pitch_shift(tone, ratio)) == pytest.approx(rms(tone), rel=0.01)
    # Frames of noise no longer agree where they overlap: stretching costs some 2 dB, in every phase vocoder.
    # Low noise, so that none of it is lost above half the rate.
    spectrum = torch.fft.rfft(torch.randn(1, N, generator=torch.Generator().manual_seed(1)))
    spectrum[:, N // 8 :] = 0
    noise = torch.fft.irfft(spectrum, N)
    assert abs(20 * math.log10(rms(pitch_shift(noise, ratio)) / rms(noise))) < 3


@pytest.mark.parametrize("ratio", RATIOS)
def test_an_onset_stays_where_it_was(ratio):
    click = torch.zeros(1, N)
    click[0, N // 2] = 1
    energy = pitch_shift(click, ratio)[0].double().square()
    time = torch.arange(N) / RATE
    middle = float((energy * time).sum() / energy.sum())
    width = float(((energy * (time - middle).square()).sum() / energy.sum()).sqrt())
    assert abs(middle - 1.0) < 0.008  # half the distance of two frames
    assert width < 0.016  # a quarter of a frame


@pytest.mark.parametrize("ratio", [0.5, *RATIOS, 2.0, math.pi / 3])
@pytest.mark.parametrize("n", [0, 1, 2, 37, 799, 16001])
def test_the_length_is_kept_whatever_it_is(ratio, n):
    x = torch.randn(2, n, generator=torch.Generator().manual_seed(2))
    shifted = pitch_shift(x, ratio)
    assert shifted.shape == x.shape
    assert shifted.isfinite().all()
    assert stretch(x, ratio).shape == (2, math.ceil(ratio * n))


def test_a_ratio_of_one_gives_the_sound_back():
    x = torch.randn(3, 5001, generator=torch.Generator().manual_seed(3))
    assert (pitch_shift(x, 1.0) - x).abs().max() < 1e-5  # the last bits of an FFT of values up to 4


def test_silence_stays_silent():
    assert not pitch_shift(torch.zeros(1, 8000), 0.75).any()


@pytest.mark.parametrize("ratio", RATIOS)
def test_sounds_in_a_batch_do_not_hear_each_other(ratio):
    x = torch.randn(3, 8000, generator=torch.Generator().manual_seed(4))
    together = pitch_shift(x, ratio)
    for one, alone in zip(x, together, strict=True):
        assert (pitch_shift(one[None], ratio)[0] - alone).abs().max() < 1e-3  # a peak may tip over in the last bit


def test_the_window_follows_the_rate():
    """A tone of 440 Hz at 44.1 kHz, a fifth up: 660 Hz, as at 16 kHz."""
    x = harmonics(440, 1, rate=44100, n=44100)
    spectrum = torch.fft.rfft(pitch_shift(x, 1.5, 44100)[0]).abs()  # of one second: bins are Hz
    assert int(spectrum.argmax()) == 660


def test_float64_stays_float64():
    x = harmonics(220, 3).double()
    assert pitch_shift(x, 0.9).dtype == torch.float64


@pytest.mark.parametrize("ratio", [0.0, -1.0, 0.1, 7.02, math.nan])
def test_a_number_of_semitones_or_no_ratio_at_all_is_refused(ratio):
    with pytest.raises(ValueError, match=r"ratio .*: a ratio of frequencies from 0.25 to 4 is needed"):
        pitch_shift(torch.zeros(1, 100), ratio)


@pytest.mark.parametrize("x", [torch.zeros(100), torch.zeros(1, 1, 100), torch.zeros(1, 100, dtype=torch.int16)])
def test_other_shapes_and_integers_are_refused(x):
    with pytest.raises(ValueError, match="floats"):
        pitch_shift(x, 0.9)
