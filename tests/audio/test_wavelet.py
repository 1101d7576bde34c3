"""The Morlet transform against its definition in time, and the exactness of its decimation and its inverse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from known_sounds import RATE, morlet_sums
from torch import Tensor

from schurgan.audio import MorletCWT, snr_db
from schurgan.audio.wavelet import default_w0


def noise(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def frame_bounds(cwt: MorletCWT) -> tuple[float, float]:
    """Least and greatest Σ_k |ψ̂_k(f)|² over all frequencies up to half the sample rate."""
    energy = torch.zeros(cwt.n_padded // 2 + 1, dtype=torch.float64)
    for low, band in cwt._filters:
        energy[low : low + len(band)] += band.square()
    return energy.min().item(), energy.max().item()


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    """Two seconds with something at every frequency: white noise, a chirp and a click."""
    t = np.arange(2 * RATE) / RATE
    x = 0.3 * np.random.default_rng(0).standard_normal(len(t)) + 0.5 * np.sin(2 * np.pi * (60 * t + 1000 * t**2))
    x[RATE] += 5
    return x


@pytest.fixture(scope="module")
def positions() -> np.ndarray:
    """Samples far from both ends in the time spread of the lowest wavelet, 51 ms."""
    return np.sort(np.random.default_rng(1).choice(np.arange(10_000, 22_000), 50, replace=False))


@pytest.mark.parametrize("w0", [6.0, 12.0, 16.0])
def test_coefficients_are_the_sums_over_time_that_define_the_wavelet_transform(sound, positions, w0):
    class Exact(MorletCWT):
        tolerance = 1e-6

    cwt = Exact(len(sound), RATE, n_scales=14, f_min=40, f_max=5500, w0=w0)
    rows = range(1, 13)  # those between the flat ends
    errors = {torch.float64: [], torch.float32: []}
    truths = [morlet_sums(sound, cwt.frequencies[row].item(), w0, positions) for row in rows]
    for dtype, row_errors in errors.items():
        c = cwt.full_rate(torch.from_numpy(sound).to(dtype)[None])[0][rows][:, positions].numpy()
        row_errors += [
            np.linalg.norm(got - truth) / np.linalg.norm(truth) for got, truth in zip(c, truths, strict=True)
        ]
    # What is left at w0 = 6 is the wavelet's spectrum beyond half the sample rate, exp(−½ (3500/750)²) at 4500 Hz.
    assert max(errors[torch.float64]) <= 1e-4
    assert np.median(errors[torch.float64]) <= 1e-6
    assert max(errors[torch.float32]) <= 1e-4
    assert np.median(errors[torch.float32]) <= 2e-6  # the rounding of an FFT of 50,000 samples is of order 1e-7


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("n_samples", [4000, 16_001])
def test_decimated_coefficients_are_samples_of_the_full_rate_transform(n_samples, dtype, tolerance):
    cwt = MorletCWT(n_samples, RATE, n_scales=64)
    x = noise(2, n_samples, dtype=dtype)
    full = cwt.full_rate(x)
    k = 0
    for group in cwt.analyze(x):
        length = group.shape[-1]
        t = torch.arange(length)
        sample = t * cwt.n_padded // length - cwt.start
        on_a_sample = (t * cwt.n_padded % length == 0) & (sample >= 0) & (sample < n_samples)
        truth = full[:, k : k + group.shape[1]][..., sample[on_a_sample]]
        error = (group[..., on_a_sample] - truth).norm(dim=-1) / truth.norm(dim=-1)
        assert error.max() <= tolerance
        k += group.shape[1]
    assert k == cwt.n_rows == 64


@pytest.mark.parametrize("n_samples", [1, 7, 800, 8000, 44_103])
@pytest.mark.parametrize(("dtype", "least_db"), [(torch.float32, 100), (torch.float64, 200)])
def test_synthesis_inverts_analysis_at_any_length(n_samples, dtype, least_db):
    x = noise(3, n_samples, dtype=dtype)
    cwt = MorletCWT(n_samples, RATE, n_scales=48)
    y = cwt.synthesize(cwt.analyze(x))
    assert y.dtype == dtype
    assert snr_db(x, y).min() > least_db  # rounding is at about 130 and 300 dB


@pytest.mark.parametrize("n_scales", [32, 33, 48, 80, 127, 200, 256])
@pytest.mark.parametrize(("sample_rate", "f_max"), [(8000, 3800.0), (16_000, 7600.0), (44_100, 21_000.0)])
def test_synthesis_inverts_analysis_for_any_number_of_scales_and_sample_rate(n_scales, sample_rate, f_max):
    cwt = MorletCWT(4000, sample_rate, n_scales, f_max=f_max)
    x = noise(2, 4000)
    assert snr_db(x, cwt.synthesize(cwt.analyze(x))).min() > 100


@pytest.mark.parametrize("w0", [6.0, 16.0, 48.0])
def test_the_flat_ends_keep_zero_hz_and_half_the_sample_rate(w0):
    x = torch.stack((torch.ones(4000), torch.tensor([1.0, -1.0]).repeat(2000)))
    cwt = MorletCWT(4000, RATE, n_scales=128, w0=w0)
    assert snr_db(x, cwt.synthesize(cwt.analyze(x))).min() > 100


@pytest.mark.parametrize("row", [5, 30, 60])
@pytest.mark.parametrize("amplitude", [0.02, 1.5])
def test_a_sine_at_a_filters_frequency_has_its_amplitude_as_modulus(row, amplitude):
    cwt = MorletCWT(32_000, RATE, n_scales=64)
    t = torch.arange(32_000, dtype=torch.float64) / RATE
    x = amplitude * torch.sin(2 * math.pi * cwt.frequencies[row] * t)
    modulus = cwt.full_rate(x[None])[0, row, 12_000:20_000].abs()
    assert (modulus / amplitude - 1).abs().max() <= 2e-4  # the filters are cut at tol = 1e-4


def test_the_energy_of_coefficients_lies_between_the_frame_bounds():
    cwt = MorletCWT(16_000, RATE, n_scales=64)
    # quiet at both ends, so that the reflected padding adds no energy
    x = noise(4, 16_000, dtype=torch.float64) * torch.hann_window(16_000, dtype=torch.float64).pow(8)
    energy = sum(group.abs().square().sum((-2, -1)) * cwt.n_padded / group.shape[-1] for group in cwt.analyze(x))
    lower, upper = frame_bounds(cwt)
    ratio = energy / (x.square().sum(-1) / 2)  # positive frequencies hold half of a real sound's energy
    assert 0 < lower < upper
    assert (ratio >= lower * (1 - 1e-3)).all()
    assert (ratio <= upper * (1 + 1e-3)).all()


@pytest.mark.parametrize("n_scales", [32, 64, 128, 256])
def test_the_filters_leave_no_frequency_out(n_scales):
    lower, upper = frame_bounds(MorletCWT(8000, RATE, n_scales))
    assert lower > 0
    assert upper / lower < 4  # an even cover: without one, rounding would be amplified by √(B/A)


def test_analysis_and_synthesis_are_linear():
    cwt = MorletCWT(3000, RATE, n_scales=40)
    x, y = noise(2, 1, 3000, dtype=torch.float64)
    mixture = cwt.analyze(2 * x - 3 * y)
    separate = cwt.analyze(x).map(lambda a, b: 2 * a - 3 * b, cwt.analyze(y))
    for a, b in zip(mixture, separate, strict=True):
        assert torch.allclose(a, b, atol=1e-13)
    turned = separate * separate.phase()  # a set of coefficients that no sound has
    assert torch.allclose(cwt.synthesize(turned.map(lambda c: 5 * c)), 5 * cwt.synthesize(turned), atol=1e-12)


def test_items_of_a_batch_do_not_meet():
    cwt = MorletCWT(3000, RATE, n_scales=40)
    x = noise(3, 3000)
    together, alone = cwt.analyze(x), cwt.analyze(x[1:2])
    for a, b in zip(together, alone, strict=True):
        assert torch.allclose(a[1:2], b, atol=1e-6)  # FFT libraries sum batches in another order: 1e-7 of values ~1
    assert torch.allclose(cwt.synthesize(together)[1:2], cwt.synthesize(alone), atol=1e-5)


def test_coefficients_may_be_laid_out_in_any_way_and_are_left_as_they_are():
    cwt = MorletCWT(3000, RATE, n_scales=40)
    c = cwt.analyze(noise(2, 3000))
    turned = c.map(lambda group: group.mT.contiguous().mT)
    before = [group.clone() for group in turned]
    assert torch.allclose(cwt.synthesize(turned), cwt.synthesize(c), atol=1e-5)
    assert torch.allclose(cwt.frames(turned), cwt.frames(c), rtol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(turned, before, strict=True))


@pytest.mark.parametrize("m", [1, 7, 39])
def test_frames_are_centred_in_the_middle_of_their_hops(m):
    cwt = MorletCWT(16_000, RATE, n_scales=64)
    clicks = torch.zeros(2, 16_000, dtype=torch.float64)
    clicks[0, 400 * m + 200] = 1  # at the centre of frame m
    clicks[1, 400 * m] = 1  # halfway between the centres of frames m − 1 and m
    centre, between = cwt.frames(cwt.analyze(clicks))[:, -12:-4]  # wavelets far shorter than a frame
    assert (centre.argmax(-1) == m).all()
    assert (centre[:, m - 1] <= 5e-3 * centre[:, m]).all()
    # Half a sample off would change the ratio of the two by 0.8 %.
    assert torch.allclose(between[:, m - 1], between[:, m], rtol=1e-5)


def test_frames_are_hann_weighted_means_of_the_squared_modulus():
    cwt = MorletCWT(16_000, RATE, n_scales=64)
    x = noise(1, 16_000, dtype=torch.float64)
    power = cwt.full_rate(x)[0].abs().square()
    window = torch.hann_window(800, dtype=torch.float64)
    truth = power[:, 200:].unfold(-1, 800, 400) @ (window / window.sum())  # frames 1 to 38, which lie inside the clip
    got = cwt.frames(cwt.analyze(x))[0, :, 1:-1]
    # The squared modulus has twice the band of its row, so that sums at the row's own rate alias a little.
    assert ((got - truth).norm(dim=-1) / truth.norm(dim=-1)).max() <= 0.03


def test_frames_of_a_steady_sine_are_its_power():
    cwt = MorletCWT(32_000, RATE, n_scales=64)
    t = torch.arange(32_000, dtype=torch.float64) / RATE
    x = 0.5 * torch.sin(2 * math.pi * cwt.frequencies[40] * t)
    assert torch.allclose(
        cwt.frames(cwt.analyze(x[None]))[0, 40, 20:60], torch.tensor(0.25, dtype=torch.float64), rtol=4e-4
    )


@pytest.mark.parametrize("n_samples", [1, 399, 400, 401, 8000])
def test_there_is_a_frame_for_every_hop_that_was_begun(n_samples):
    cwt = MorletCWT(n_samples, RATE, n_scales=32)
    frames = cwt.frames(cwt.analyze(torch.ones(2, n_samples)))
    assert frames.shape == (2, 32, math.ceil(n_samples / 400)) == (2, cwt.n_rows, cwt.n_frames)


@pytest.mark.parametrize(("n_samples", "n_frames"), [(16_000, 64), (10_001, 64), (16_000, 37), (800, 500)])
def test_the_middles_of_frames_that_divide_the_clip_are_its_coefficients_there(n_samples, n_frames):
    x = noise(1, n_samples, dtype=torch.float64)
    cwt = MorletCWT(n_samples, RATE, n_scales=20, f_max=5000, w0=12, n_frames=n_frames)
    got = cwt.middles(cwt.analyze(x))[0].numpy()
    assert got.shape == (20, n_frames)
    middle = (np.arange(n_frames) + 0.5) * n_samples / n_frames
    for row, f in enumerate(cwt.frequencies[1:19].tolist(), 1):
        reach = 4 * cwt.w0 / (2 * math.pi * f) * RATE  # beyond the ends the clip is reflected
        inside = (middle > reach) & (middle < n_samples - reach)
        truth = morlet_sums(x[0].numpy(), f, cwt.w0, middle)
        # Where the clip is no multiple of the columns, the whole lattice may lie a sample beside.
        turn = 0 if n_samples % n_frames == 0 else 2 * math.pi * f / RATE
        assert (abs(got[row] - truth) <= (2e-3 + turn) * abs(truth).max())[inside].all()


@pytest.mark.parametrize("columns", [1, 20, 64])
def test_spreading_a_constant_keeps_it_everywhere(columns):
    cwt = MorletCWT(8000, RATE, n_scales=32)
    for group in cwt.spread(torch.full((2, 32, columns), 0.7, dtype=torch.float64)):
        assert torch.allclose(group, torch.tensor(0.7, dtype=torch.float64), rtol=1e-12)


@pytest.mark.parametrize("columns", [20, 32, 50])
def test_spreading_a_line_over_time_gives_each_coefficient_the_value_at_its_own_time(columns):
    cwt = MorletCWT(8000, RATE, n_scales=32)
    centre = (torch.arange(columns, dtype=torch.float64) + 0.5) / columns * 8000  # samples
    c = cwt.analyze(torch.zeros(1, 8000, dtype=torch.float64))
    for group, shaped in zip(cwt.spread(centre.expand(1, 32, -1)), c, strict=True):
        assert group.shape == shaped.shape
        time = torch.arange(group.shape[-1], dtype=torch.float64) * cwt.n_padded / group.shape[-1] - 3200
        inside = (time >= centre[1]) & (time <= centre[-2])  # the line is mirrored beyond the outer columns
        assert torch.allclose(group[..., inside], time[inside].expand_as(group[..., inside]), rtol=1e-12)


def test_spreading_never_goes_below_zero():
    cwt = MorletCWT(8000, RATE, n_scales=32)
    spikes = (noise(1, 32, 20) > 1).float()
    assert min(group.min() for group in cwt.spread(spikes)) == 0


def test_gradients_are_those_of_finite_differences():
    cwt = MorletCWT(24, 1000, n_scales=5, f_min=30, f_max=450, w0=6, hop=8)
    x = noise(2, 24, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(map(torch.view_as_real, cwt.analyze(x))), x)
    assert torch.autograd.gradcheck(lambda x: cwt.frames(cwt.analyze(x)), x)
    assert torch.autograd.gradcheck(lambda x: cwt.synthesize(cwt.analyze(x).map(lambda c: c * c.abs())), x)
    magnitude = noise(2, 5, 4, dtype=torch.float64).exp().requires_grad_()
    assert torch.autograd.gradcheck(lambda m: tuple(cwt.spread(m)), magnitude)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_follows_the_dtype_of_its_input(dtype):
    cwt = MorletCWT(2000, RATE, n_scales=32)
    x = torch.zeros(2, 2000, dtype=dtype)
    c = cwt.analyze(x)
    assert {group.dtype for group in c} == {dtype.to_complex()}
    assert cwt.synthesize(c).dtype == cwt.frames(c).dtype == dtype
    assert {group.dtype for group in cwt.spread(torch.zeros(2, 32, 5, dtype=dtype))} == {dtype}


@pytest.mark.parametrize(
    "device", ["meta", pytest.param("cuda", marks=pytest.mark.skipif("not torch.cuda.is_available()"))]
)
def test_everything_follows_the_device_of_its_input(device):
    cwt = MorletCWT(2000, RATE, n_scales=32)
    c = cwt.analyze(torch.zeros(2, 2000, device=device))
    results = (*c, cwt.synthesize(c), cwt.frames(c), *cwt.spread(torch.zeros(2, 32, 5, device=device)))
    assert {result.device.type for result in results} == {device}


def test_rows_are_kept_at_a_fraction_of_the_sample_rate_that_grows_with_frequency():
    cwt = MorletCWT(80_000, RATE)
    c = cwt.analyze(torch.zeros(1, 80_000))
    lengths = [group.shape[-1] for group in c]
    assert lengths[1:-1] == sorted(lengths[1:-1])  # but for the flat ends
    assert max(lengths) < cwt.n_padded
    assert sum(group.numel() for group in c) < 0.08 * 128 * 80_000  # measured: 0.062


def test_the_number_of_cycles_under_the_envelope_grows_with_the_number_of_scales():
    assert [default_w0(n) for n in (32, 48, 64, 128, 256, 384, 1000)] == [6, 6, 8, 16, 32, 48, 48]
    assert MorletCWT(800, n_scales=128).w0 == 16
    assert MorletCWT(800, n_scales=2).w0 == 6
    assert MorletCWT(800, n_scales=128, w0=24).w0 == 24


def test_scales_are_spaced_evenly_on_a_logarithmic_axis():
    f = MorletCWT(800, n_scales=100).frequencies
    assert f[0].item() == pytest.approx(40)
    assert f[-1].item() == pytest.approx(7600)
    assert torch.allclose(f[1:] / f[:-1], torch.tensor((7600 / 40) ** (1 / 99), dtype=torch.float64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"f_max": 8000.0}, "f_max 8000"),
        ({"f_min": 0.0}, "f_min 0"),
        ({"f_min": 500.0, "f_max": 400.0}, "f_min 500, f_max 400"),
        ({"n_scales": 1}, "n_scales 1"),
        ({"n_samples": 0}, "n_samples 0"),
        ({"hop": 0}, "hop 0"),
        ({"w0": 0.5}, "w0 0.5"),
    ],
)
def test_values_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MorletCWT(**{"n_samples": 800, **arguments})


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(1, 801),
        torch.zeros(800),
        torch.zeros(1, 1, 800),
        torch.zeros(1, 800, dtype=torch.complex64),
        torch.zeros(1, 800, dtype=torch.int16),
        torch.zeros(1, 800, dtype=torch.bfloat16),
    ],
)
def test_input_of_another_shape_or_kind_is_refused_with_what_is_needed(x):
    with pytest.raises(ValueError, match=r"clips \(B, 800\) of float32 or float64 are needed"):
        MorletCWT(800, n_scales=32).analyze(x)
