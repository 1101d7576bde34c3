"""Sound to image to sound, for every transform, scale, lattice and way of colouring."""

from __future__ import annotations

import math
import re

import pytest
import torch
from known_sounds import syllables
from torch import Tensor

from schurgan.audio import Aux, Spectrogram, snr_db
from schurgan.audio.colormap import COLORMAPS

N = 16_000  # one second


@pytest.fixture(scope="module")
def sound() -> Tensor:
    return syllables()


def plain_snr(spectrogram: Spectrogram, x: Tensor, **options: int) -> Tensor:
    image, aux = spectrogram.encode(x)
    return snr_db(x, spectrogram.decode(image, aux, **options))


# What 64 x 64 pixels keep of a second of sound with its phase, dB: some under what was measured.
LEAST_DB = {("wavelet", "paper"): 18, ("wavelet", "native"): 18, ("stft", "paper"): 2.0, ("stft", "native"): 5.0}
LATTICES = [(*lattice, scale) for lattice in LEAST_DB for scale in ("linear", "log")]
LATTICES.append(("wavelet", "point", "log_real"))
LEAST_DB["wavelet", "point"] = 15


def check_round_trip(spectrogram: Spectrogram, x: Tensor, least_db: float) -> None:
    image, aux = spectrogram.encode(x)
    assert image.shape == (len(x), spectrogram.channels, spectrogram.size, spectrogram.size)
    assert image.abs().max() <= 1
    rebuilt = spectrogram.decode(image, aux)
    assert rebuilt.shape == x.shape
    assert snr_db(x, rebuilt).min() > least_db


@pytest.mark.parametrize(("transform", "frame", "scale"), LATTICES)
def test_a_sound_survives_its_image_and_its_phase(transform, frame, scale, sound):
    spectrogram = Spectrogram(transform, 64, scale, frame=frame, channels=1, n_samples=N)
    check_round_trip(spectrogram, sound, LEAST_DB[transform, frame])


@pytest.mark.parametrize("channels", [3, 4, *COLORMAPS])
def test_a_sound_survives_channels_and_colours(channels, sound):
    colours = {"colormap": channels} if channels in COLORMAPS else {"channels": channels}
    check_round_trip(Spectrogram("wavelet", 64, n_samples=N, **colours), sound, LEAST_DB["wavelet", "paper"])


@pytest.mark.parametrize("size", [64, 128])
def test_log_costs_nothing_against_linear(size):
    x = syllables(80_000)
    linear, log = (plain_snr(Spectrogram("wavelet", size, scale, channels=1), x) for scale in ("linear", "log"))
    assert (linear - log).max() <= 0.05


@pytest.mark.parametrize("scale", ["log", "log_real"])
@pytest.mark.parametrize("size", [64, 128])
def test_refining_recovers_many_db(size, scale, sound):
    spectrogram = Spectrogram("wavelet", size, scale, channels=1, n_samples=N)
    assert (plain_snr(spectrogram, sound, refine=10) - plain_snr(spectrogram, sound)).min() > 6


@pytest.mark.parametrize("refine", [0, 5])
@pytest.mark.parametrize("scale", ["linear", "log", "log_real"])
def test_the_image_of_another_clip_does_not_give_the_sound_back(scale, refine, sound):
    spectrogram = Spectrogram("wavelet", 64, scale, channels=1, n_samples=N)
    image, aux = spectrogram.encode(sound)
    assert snr_db(sound, spectrogram.decode(image.flip(0), aux, refine=refine)).max() < 3


@pytest.mark.parametrize("scale", ["linear", "log", "log_real"])
def test_storing_an_image_in_eight_bits_costs_less_than_a_tenth_of_a_db(scale, sound):
    spectrogram = Spectrogram("wavelet", 64, scale, channels=1, n_samples=N)
    image, aux = spectrogram.encode(sound)
    stored = ((image + 1) * 127.5).round() / 127.5 - 1
    loss = snr_db(sound, spectrogram.decode(image, aux)) - snr_db(sound, spectrogram.decode(stored, aux))
    assert loss.max() < 0.1


@pytest.mark.parametrize(("transform", "scale"), [("wavelet", "log"), ("wavelet", "log_real"), ("stft", "log")])
@pytest.mark.parametrize(("size", "least_db"), [(32, 1.5), (256, 15), (512, 20)])
def test_images_of_every_size_come_back(size, least_db, transform, scale):
    spectrogram = Spectrogram(transform, size, scale, frame="native", channels=1, n_samples=40_000)
    check_round_trip(spectrogram, syllables(40_000)[:1], least_db)


def test_the_native_stft_image_of_256_pixels_is_nearly_the_sound():
    """510 samples a window give 256 bins, 312 a hop 257 windows: only the last one is not in the image."""
    x = syllables(80_000)[:1] * torch.hann_window(80_000)  # the last window holds nothing
    spectrogram = Spectrogram("stft", 256, "linear", frame="native", channels=1)
    assert plain_snr(spectrogram, x).item() > 60


@pytest.mark.parametrize("floor_db", [40.0, 60.0, 77.3, 120.0])
def test_a_log_pixel_is_the_level_under_the_maximum_in_units_of_half_the_floor(floor_db, sound):
    settings = {"channels": 1, "n_samples": N}
    linear, aux = Spectrogram("wavelet", 64, "linear", **settings).encode(sound)
    log, log_aux = Spectrogram("wavelet", 64, "log", floor_db=floor_db, **settings).encode(sound)
    level = 20 * torch.log10((linear.double() + 1) / 2).clamp(-floor_db, 0)
    level = level.clamp(-floor_db, 0)
    # a linear pixel of −40 dB has lost 3e-6 of itself to rounding, one of −80 dB 3e-4
    near = level > -80
    assert ((log - (1 + 2 * level / floor_db)).abs()[near]).max() <= 1e-2
    assert log.amin() >= -1
    assert torch.equal(log.amax((1, 2, 3)), torch.ones(2))
    assert torch.equal(aux.reference, log_aux.reference)


def test_a_linear_pixel_is_the_rms_of_its_cell_over_the_reference(sound):
    spectrogram = Spectrogram("wavelet", 64, "linear", frame="native", channels=1, n_samples=N)
    image, aux = spectrogram.encode(sound)
    cwt = spectrogram.transform
    truth = cwt.frames(cwt.analyze(sound)).sqrt()
    assert torch.allclose((image[:, 0] + 1) / 2 * aux.reference[:, None, None], truth, atol=1e-6)
    assert torch.allclose(aux.reference, truth.amax((-2, -1)))


def test_rows_ascend_in_frequency_and_columns_in_time():
    t = torch.arange(N) / 16_000
    low_then_high = torch.where(t < 0.5, torch.sin(2 * math.pi * 200 * t), torch.sin(2 * math.pi * 4000 * t))[None]
    for transform in ("wavelet", "stft"):
        image, _ = Spectrogram(transform, 64, channels=1, n_samples=N).encode(low_then_high)
        early, late = image[0, 0, :, 10].argmax(), image[0, 0, :, 54].argmax()
        assert early < late


def test_the_wavelet_row_of_a_tone_is_that_of_its_frequency():
    spectrogram = Spectrogram("wavelet", 64, channels=1, n_samples=N)
    f = spectrogram.transform.frequencies
    for row in (10, 32, 55):
        image, _ = spectrogram.encode(torch.sin(2 * math.pi * f[row] * torch.arange(N) / 16_000).float()[None])
        assert (image[0, 0, :, 8:56].argmax(0) == row).all()


@pytest.mark.parametrize("scale", ["log", "log_real"])
def test_the_floor_decodes_to_exactly_nothing(scale):
    spectrogram = Spectrogram("wavelet", 64, scale, n_samples=N)
    floor = torch.full((1, 3, 64, 64), -1.0)
    assert spectrogram.magnitude(floor).abs().max() == 0
    rebuilt = spectrogram.decode(floor, Aux(torch.ones(1), syllables()[:1]))
    assert rebuilt.abs().max() == 0


@pytest.mark.parametrize(("transform", "frame", "scale"), LATTICES)
def test_silence_is_all_floor_and_decodes_to_silence(transform, frame, scale):
    spectrogram = Spectrogram(transform, 32, scale, frame=frame, channels=1, n_samples=8000)
    image, aux = spectrogram.encode(torch.zeros(2, 8000))
    assert (image == -1).all()
    for options in ({}, {"refine": 3}, {"phase": "noise", "refine": 3}, {"phase": "griffin-lim", "refine": 3}):
        rebuilt = spectrogram.decode(image, aux, **options)
        assert rebuilt.isfinite().all()
        assert rebuilt.abs().max() <= 1e-7


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_an_impulse_and_a_constant_come_back(scale):
    x = torch.zeros(2, N)
    x[0, 8000] = 1
    x[1] = 0.5
    spectrogram = Spectrogram("wavelet", 64, scale, frame="native", channels=1, n_samples=N)
    snr = plain_snr(spectrogram, x, refine=10)
    assert snr[0] > 20  # refined: a click's own cells are far longer than it is
    assert snr[1] > 60


def test_a_quiet_clip_has_the_image_of_a_loud_one(sound):
    spectrogram = Spectrogram("wavelet", 64, channels=1, n_samples=N)
    loud, loud_aux = spectrogram.encode(sound)
    quiet, quiet_aux = spectrogram.encode(sound * 2**-10)  # a power of two: not a bit is rounded otherwise
    assert torch.allclose(quiet, loud, atol=1e-5)
    assert torch.allclose(quiet_aux.reference * 2**10, loud_aux.reference, rtol=1e-6)


@pytest.mark.parametrize(("transform", "frame", "scale"), LATTICES)
def test_gradients_through_encoding_are_finite_for_every_input_and_none_of_silence(transform, frame, scale):
    spectrogram = Spectrogram(transform, 16, scale, frame=frame, channels=1, n_samples=2000)
    x = torch.zeros(4, 2000, dtype=torch.float32)
    x[1, 1000] = 1
    x[2] = 0.5
    x[3] = syllables(2000)[0]
    x.requires_grad_()
    weights = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    spectrogram.encode(x)[0].mul(weights).sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad[0].abs().max() == 0  # silence: every pixel is at the floor
    assert x.grad[3].abs().max() > 0


@pytest.mark.parametrize("scale", ["linear", "log", "log_real"])
def test_the_gradient_of_a_pixel_is_that_of_its_level_under_a_fixed_maximum(scale):
    spectrogram = Spectrogram("wavelet", 16, scale, channels=1, n_samples=2000)
    x = syllables(2000)[:1].double().requires_grad_()
    direction = torch.randn(1, 2000, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 1e-6
    image, aux = spectrogram.encode(x)
    pixels = torch.randn(16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    slope = torch.autograd.grad((image * pixels).sum(), x)[0].mul(direction).sum()

    def relative_to_first(y: Tensor) -> Tensor:
        magnitude = spectrogram._columns.shown(spectrogram.transform.analyze(y)) / aux.reference
        level = 2 * magnitude - 1 if scale == "linear" else 1 + torch.log10(magnitude.clamp_min(1e-4)) / 2
        return (level * pixels).sum()

    with torch.no_grad():
        difference = (relative_to_first(x + direction) - relative_to_first(x - direction)) / 2
    assert slope.item() == pytest.approx(difference.item(), rel=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": 48, "scale": "linear", "w0": 9.0, "f_min": 60.0, "f_max": 5000.0},
        {"scale": "log_real", "channels": 1},
        {"transform": "stft", "size": 64, "floor_db": 60.0},
        {"transform": "stft", "size": 64, "frame": "native", "colormap": "turbo", "reference": 0.3},
        {"sample_rate": 22_050, "size": 64},
    ],
)
def test_a_config_is_the_whole_transform(settings, sound):
    first = Spectrogram(**{"n_samples": N, **settings})
    second = Spectrogram(**first.config)
    assert second.config == first.config
    assert None not in [value for key, value in first.config.items() if key not in ("colormap", "w0")]
    (a, aux), (b, other) = first.encode(sound), second.encode(sound)
    assert torch.equal(a, b)
    assert torch.equal(first.decode(a, aux), second.decode(b, other))


def test_an_image_without_an_aux_uses_the_configured_reference(sound):
    image, _ = Spectrogram("wavelet", 32, n_samples=N).encode(sound)
    quiet, loud = (
        Spectrogram("wavelet", 32, n_samples=N, reference=r).decode(image, phase="griffin-lim", refine=1, seed=2)
        for r in (0.1, 0.2)
    )
    assert torch.allclose(2 * quiet, loud, atol=1e-5)


def test_channels_that_differ_are_averaged(sound):
    spectrogram = Spectrogram("wavelet", 32, n_samples=N)
    image, aux = spectrogram.encode(sound)
    tinted = image + torch.tensor([0.1, -0.2, 0.1])[:, None, None]
    assert torch.allclose(spectrogram.invert_colormap(tinted), image[:, :1], atol=1e-6)
    assert snr_db(spectrogram.decode(image, aux), spectrogram.decode(tinted, aux)).min() > 40  # clamped at both ends


def test_pixels_beyond_the_range_are_taken_as_its_ends():
    spectrogram = Spectrogram("wavelet", 32, channels=1, n_samples=N)
    beyond = torch.full((1, 1, 32, 32), 3.0)
    assert torch.equal(spectrogram.magnitude(beyond), torch.ones(1, 32, 32))
    assert torch.equal(spectrogram.magnitude(-beyond), torch.zeros(1, 32, 32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_and_sounds_have_the_dtype_they_were_made_from(dtype, sound):
    spectrogram = Spectrogram("wavelet", 32, n_samples=N)
    image, aux = spectrogram.encode(sound.to(dtype))
    assert image.dtype == aux.reference.dtype == dtype
    assert spectrogram.decode(image, aux).dtype == dtype


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transform": "fourier"}, 'transform "fourier": one of wavelet, stft is needed'),
        ({"scale": "mel"}, 'scale "mel": one of linear, log, log_real is needed'),
        ({"frame": "wide"}, 'frame "wide"'),
        ({"frame": "point"}, 'frame "point"'),
        ({"scale": "log_real", "transform": "stft"}, 'scale "log_real"'),
        ({"colormap": "rainbow"}, 'colormap "rainbow": one of None, viridis'),
        ({"size": 4}, "size 4: 8 to 1024 is needed"),
        ({"channels": 0}, "channels 0"),
        ({"channels": 1, "colormap": "jet"}, "channels 1: 1 to 4 are needed, and 3 with a colour map"),
        ({"floor_db": 5.0}, "floor_db 5.0"),
        ({"reference": 0.0}, "reference 0.0"),
        ({"n_samples": 100}, "n_samples 100: at least one for each of 128 columns"),
        ({"f_max": 9000.0}, "f_max 9000"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Spectrogram(**settings)


def test_what_cannot_be_decoded_is_named(sound):
    spectrogram = Spectrogram("wavelet", 32, n_samples=N)
    image, aux = spectrogram.encode(sound)
    for options, message in (
        ({"phase": "vocoder"}, 'phase "vocoder": one of carrier, noise, griffin-lim is needed'),
        ({"aux": aux, "refine": -1}, "refine -1: 0 or more"),
        ({}, 'phase "carrier": aux.carrier'),
        ({"aux": Aux(aux.reference)}, 'phase "carrier": aux.carrier'),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            spectrogram.decode(image, **options)
    with pytest.raises(ValueError, match=re.escape("image (2, 1, 32, 32): (B, 3, 32, 32) is needed")):
        spectrogram.decode(image[:, :1], aux)
