"""Logarithmic-real images: log |Re c| at one point of time in each column, by its definition, and the way back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from known_sounds import RATE, morlet_sums, syllables
from test_phase import convergence_db
from torch import Tensor

from schurgan.audio import Aux, Spectrogram, snr_db

N, SIZE = 8000, 32
HOP = N // SIZE
MIDDLES = (np.arange(SIZE) + 0.5) * HOP


@pytest.fixture(scope="module")
def spectrogram() -> Spectrogram:
    return Spectrogram("wavelet", SIZE, "log_real", channels=1, n_samples=N, f_max=4000)


def tone(frequency: float, angle: float) -> Tensor:
    """A tone whose phase is `angle` in the middle of every column, where the frequency is a multiple of theirs."""
    t = torch.arange(N, dtype=torch.float64) - HOP / 2
    return torch.cos(2 * math.pi * frequency * t / RATE + angle)


def of_columns(spectrogram: Spectrogram, row: int) -> float:
    """The multiple of the columns' rate that is nearest to a row's frequency, Hz."""
    rate = RATE / HOP
    return rate * round(spectrogram.transform.frequencies[row].item() / rate)


def test_a_pixel_is_the_real_part_in_the_middle_of_its_column_in_db_under_the_greatest(spectrogram):
    x = syllables(N).double()
    image, aux = spectrogram.encode(x)
    w0 = spectrogram.transform.w0
    for clip, pixels, reference in zip(x, image[:, 0], aux.reference, strict=True):
        assert pixels.max() == 1
        for row, f in enumerate(spectrogram.transform.frequencies[8:31].tolist(), 8):
            reach = 4 * w0 / (2 * math.pi * f) * RATE  # beyond the ends the clip is reflected
            inside = (reach < MIDDLES) & (N - reach > MIDDLES)
            truth = abs(morlet_sums(clip.numpy(), f, w0, MIDDLES).real) / reference.item()
            got = 10 ** (2 * (pixels[row].numpy() - 1))  # of 80 dB: two decades of the image's half range
            # 2e-4 is what is lost of a filter by cutting it at 1e-4 of its peak, and the floor is 1e-4.
            assert abs(got - truth)[inside].max() <= 4e-4


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.0, 1.4, math.pi - 1.0])
def test_a_tone_has_the_level_of_the_cosine_of_its_phase_whatever_the_sign(spectrogram, angle):
    loud, turned = of_columns(spectrogram, 28), of_columns(spectrogram, 18)
    row = (spectrogram.transform.frequencies - turned).abs().argmin()
    level = []
    for phase in (angle, 0.0):
        image, _ = spectrogram.encode((tone(loud, 0.0) + tone(turned, phase))[None])
        level.append(40 * image[0, 0, row, 8:-8])
    fall = 20 * math.log10(abs(math.cos(angle)))
    assert (level[0] - level[1] - fall).abs().max() <= 0.1  # dB; the wavelet sees the clip's ends


def test_a_sign_changes_nothing_and_a_real_part_of_zero_is_the_floor_and_not_a_magnitude_of_one(spectrogram):
    loud, zero = of_columns(spectrogram, 28), of_columns(spectrogram, 18)
    x = (tone(loud, 0.0) + tone(zero, math.pi / 2))[None]
    image, _ = spectrogram.encode(x)
    assert torch.equal(spectrogram.encode(-x)[0], image)
    row = (spectrogram.transform.frequencies - zero).abs().argmin()
    assert image[0, 0, row, 8:-8].max() <= 1 - 2 * 70 / 80  # the tone itself is as loud as the other
    assert spectrogram.magnitude(torch.full_like(image, -1.0)).abs().max() == 0


def test_log_and_the_rms_of_the_real_part_are_other_images(spectrogram):
    x = syllables(N)
    image, _ = spectrogram.encode(x)
    log, _ = Spectrogram(**(spectrogram.config | {"scale": "log", "frame": "native"})).encode(x)
    difference = 40 * (image - log)[:, 0, 8:]  # dB
    assert difference.std() > 5  # 20 log |cos| of an even phase deviates by 9.6 dB, that of its rms by less than 1


def test_the_modulus_comes_back_where_a_phase_shows_a_twelfth_of_it(spectrogram):
    x = tone(of_columns(spectrogram, 18), math.acos(1 / 12))[None].float()
    image, aux = spectrogram.encode(x)
    rebuilt = spectrogram.decode(image, aux)
    inside = slice(N // 4, -N // 4)
    assert snr_db(x[:, inside], rebuilt[:, inside]).item() > 20


def test_the_phase_of_another_sound_never_makes_a_cell_twenty_times_too_loud(spectrogram):
    """Dividing by |cos| alone would do so wherever the phase is near ±π/2."""
    x = syllables(N)
    image, aux = spectrogram.encode(x)
    foreign = spectrogram.decode(image, Aux(aux.reference, x.flip(0)))
    assert foreign.square().mean() < 4 * x.square().mean()


def test_refining_makes_the_sound_show_the_image_and_gives_the_sound_back(spectrogram):
    x = syllables(N)
    image, aux = spectrogram.encode(x)
    plain, refined = (spectrogram.decode(image, aux, refine=n) for n in (0, 20))
    wanted, again = (spectrogram.magnitude(each) for each in (image, spectrogram.encode(refined)[0]))
    assert (snr_db(x, refined) - snr_db(x, plain)).min() > 10
    assert (again - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.parametrize(
    ("options", "bound"),
    [({"phase": "noise"}, -15), ({"phase": "griffin-lim"}, -13), ({"hold_phase": False}, -13)],
)
def test_a_phase_that_is_not_known_meets_the_envelope_that_the_image_tells_of(spectrogram, options, bound):
    x = syllables(N)
    image, aux = spectrogram.encode(x)
    target = spectrogram.magnitude(image) * aux.reference[:, None, None]
    y = spectrogram.decode(image, aux, refine=20, **options)
    assert convergence_db(spectrogram._columns, y, target).max() < bound
    level = y.square().mean(-1) / x.square().mean(-1)
    assert ((level > 0.5) & (level < 2)).all()  # the mean of cos² is ½: without it, every sound would be half as loud
