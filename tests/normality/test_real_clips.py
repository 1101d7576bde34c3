"""Every method on spectrograms of real recordings, where environment variables say where those are."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from reference_matrices import schur_departure, value_and_gradient

from schurgan.audio import Spectrogram
from schurgan.data.sources import Source, open_source
from schurgan.normality import departure_bounds, departure_counters, departure_from_normality, reset_departure_counters
from schurgan.normality.estimators import METHODS

RATE = 16_000
SCALINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "[-1, 1]": lambda x: x,
    "[0, 1]": lambda x: (x + 1) / 2,
    "0..255": lambda x: ((x + 1) * 127.5).round(),
    "standardised": lambda x: (x - x.mean((-2, -1), keepdim=True)) / x.std((-2, -1), keepdim=True).clamp(min=1e-6),
}

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::schurgan.audio.files.AudioWarning")]


def encoded(source: Source, size: int, seconds: float, every: int = 1) -> torch.Tensor:
    """Log spectrograms (B, size, size) in [−1, 1] of the recordings, padded or cut to so many seconds."""
    samples = round(seconds * RATE)
    transform = Spectrogram(size=size, channels=1, sample_rate=RATE, n_samples=samples)
    images = []
    for item in source.items()[::every]:
        sound = source.load(item, RATE)[:samples]
        sound = torch.nn.functional.pad(sound, (0, samples - len(sound)))
        images.append(transform.encode(sound[None] / sound.abs().max().clamp(min=1e-9))[0][0, 0])
    return torch.stack(images)


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    """The 400 of ESC-10 at 128²."""
    if "SCHURGAN_ESC50" not in os.environ:
        pytest.skip("SCHURGAN_ESC50 does not name a copy of ESC-50")
    return encoded(open_source("esc50", os.environ["SCHURGAN_ESC50"], subset="esc10"), 128, 5)


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    """300 spoken digits at 64²."""
    if "SCHURGAN_DIGITS" not in os.environ:
        pytest.skip("SCHURGAN_DIGITS does not name a folder of spoken digits, a folder a class")
    return encoded(open_source("folder", os.environ["SCHURGAN_DIGITS"]), 64, 1, every=10)


@pytest.mark.parametrize("upside_down", [False, True])
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("method", METHODS)
def test_real_clips_in_every_scaling_and_orientation_give_finite_values_and_gradients(
    clips, method, scaling, upside_down
):
    x = SCALINGS[scaling](clips.flip(-2) if upside_down else clips)
    reset_departure_counters()
    value, gradient = value_and_gradient(x, method)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    counts = departure_counters()
    assert counts["nonfinite"] == counts["fallback"] == counts["jittered"] == 0
    if method in ("exact", "hybrid", "asymmetry"):
        # Where eigenvalues all but coincide; upside down in [0, 1] silence makes clips nearly nilpotent, 27 of 400.
        assert counts["clipped"] <= (0.1 if upside_down else 0.02) * len(x)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_real_clips_in_float32_are_right_to_a_millionth(clips, scaling):
    x = SCALINGS[scaling](clips)[::5]
    truth = np.array([schur_departure(each) for each in x.double().numpy()])
    value = departure_from_normality(x).double().numpy()
    assert (np.abs(value - truth) <= 1e-6 * truth + 1e-12).all()


@pytest.mark.parametrize("scaling", SCALINGS)
def test_bounds_of_real_clips_hold(clips, scaling):
    x = SCALINGS[scaling](clips)
    lower, upper = departure_bounds(x)
    value = departure_from_normality(x.double())
    assert (lower <= value * (1 + 1e-12)).all()
    assert (value <= upper * (1 + 1e-12)).all()


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("scaling", ["[-1, 1]", "[0, 1]"])
@pytest.mark.parametrize("recordings", ["clips", "digits"])
def test_hybrid_ranks_real_recordings_as_exact_does_within_three_percent(request, recordings, scaling, factor):
    x = SCALINGS[scaling](request.getfixturevalue(recordings))
    exact, hybrid = departure_from_normality(x), departure_from_normality(x, "hybrid", factor=factor)
    assert scipy.stats.spearmanr(exact, hybrid).statistic >= 0.995
    assert ((hybrid - exact).abs() / exact).median() <= 0.03


@pytest.mark.parametrize("recordings", ["clips", "digits"])
def test_perron_follows_exact_on_real_recordings_in_unit_scaling(request, recordings):
    x = SCALINGS["[0, 1]"](request.getfixturevalue(recordings))
    exact, perron = departure_from_normality(x), departure_from_normality(x, "perron")
    assert np.corrcoef(exact, perron)[0, 1] >= 0.995
    assert (perron / exact).median() <= 1.05
