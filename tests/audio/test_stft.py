"""The short-time Fourier transform behind the transform's interface."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from schurgan.audio import STFT, Coefficients, Spectrogram, snr_db

PAPER = {"n_fft": 2048, "hop": 1024}


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("n_samples", [1, 700, 2047, 16_000, 16_383, 80_000])
def test_the_papers_stft_is_inverted_beyond_100_db(n_samples):
    x = noise(2, n_samples)
    stft = STFT(n_samples, **PAPER)
    assert snr_db(x, stft.synthesize(stft.analyze(x))).min() > 100  # float32 rounding is at about 135 dB


@pytest.mark.parametrize("size", [32, 64, 128, 256])
@pytest.mark.parametrize("n_samples", [8000, 80_000])
def test_the_native_lattice_of_every_size_is_inverted_beyond_100_db(size, n_samples):
    stft = Spectrogram("stft", size, frame="native", n_samples=n_samples).transform
    x = noise(2, n_samples)
    assert stft.n_frames == size
    assert snr_db(x, stft.synthesize(stft.analyze(x))).min() > 100


def test_double_precision_is_inverted_beyond_200_db():
    x = noise(1, 16_000, dtype=torch.float64)
    stft = STFT(16_000, **PAPER)
    (c,) = stft.analyze(x)
    assert c.dtype == torch.complex128
    assert snr_db(x, stft.synthesize(Coefficients((c,)))).item() > 200


def test_a_frame_is_the_discrete_fourier_transform_of_its_windowed_samples():
    x = noise(1, 8000, dtype=torch.float64)
    stft = STFT(8000, 512, 128)
    padded = np.pad(x[0].numpy(), 256, mode="reflect")
    window = np.sin(np.pi * np.arange(512) / 512) ** 2
    for frame in (0, 1, 30, 62):  # of windows centred on sample 128 · frame
        truth = np.fft.rfft(padded[128 * frame : 128 * frame + 512] * window * 2 / window.sum())
        assert np.abs(stft.analyze(x).groups[0][0, :, frame].numpy() - truth).max() <= 1e-14


@pytest.mark.parametrize("amplitude", [0.01, 0.7])
def test_a_sine_has_its_amplitude(amplitude):
    x = amplitude * torch.sin(2 * torch.pi * 1000 / 16_000 * torch.arange(16_000, dtype=torch.float64))[None]
    magnitude = STFT(16_000, **PAPER).analyze(x).groups[0].abs()[0, :, 4:-4]
    assert magnitude.amax(0).tolist() == pytest.approx([amplitude] * magnitude.shape[-1], rel=1e-9)
    assert (magnitude.argmax(0) == 1000 * 2048 // 16_000).all()


def test_frames_are_energies_of_the_first_n_frames_windows():
    x = noise(2, 16_000)
    stft = STFT(16_000, 512, 250, n_frames=64)
    (c,) = stft.analyze(x)
    assert c.shape == (2, 257, 65)
    assert stft.n_rows == 257
    assert torch.allclose(stft.frames(Coefficients((c,))), c.abs().square()[..., :64], rtol=1e-5)


@pytest.mark.parametrize("columns", [16, 65, 100])
def test_spreading_keeps_a_constant_and_a_time_line(columns):
    stft = STFT(16_000, 512, 250)
    line = (torch.arange(columns, dtype=torch.float64) + 0.5) / columns * 65 - 0.5  # in windows
    constant, spread = (stft.spread(m.expand(1, 257, -1)).groups[0] for m in (torch.full_like(line, 0.3), line + 1))
    assert torch.allclose(constant, torch.tensor(0.3, dtype=torch.float64), rtol=1e-12)
    inside = slice(2 * 65 // columns + 2, -2 * 65 // columns - 2)  # the line is mirrored beyond the outer columns
    assert torch.allclose(spread[0, 0, inside], torch.arange(65.0, dtype=torch.float64)[inside] + 1, rtol=1e-12)


def test_spreading_never_goes_below_zero():
    spikes = (noise(1, 257, 40) > 1.5).float()
    assert STFT(16_000, 512, 250).spread(spikes).groups[0].min() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_fft": 511}, "n_fft 511"),
        ({"n_fft": 0}, "n_fft 0"),
        ({"n_fft": 512, "hop": 400}, "hop 400"),
        ({"n_fft": 512, "hop": 0}, "hop 0"),
        ({"n_samples": 0}, "n_samples 0"),
    ],
)
def test_values_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        STFT(**{"n_samples": 16_000, **arguments})


@pytest.mark.parametrize("x", [torch.zeros(1, 15_999), torch.zeros(16_000), torch.zeros(1, 16_000, dtype=torch.int16)])
def test_input_of_another_shape_or_kind_is_refused_with_what_is_needed(x):
    with pytest.raises(ValueError, match=r"clips \(B, 16000\) of float32 or float64 are needed"):
        STFT(16_000).analyze(x)
