from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from schurgan.evaluation.features.embedding import TextureEmbedding

RATE = 16000
TIME = torch.arange(2 * RATE, dtype=torch.float64) / RATE


def noise(seed: int, count: int = 1, samples: int = 2 * RATE) -> Tensor:
    return torch.randn(count, samples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.1


def test_the_levels_of_a_tone_add_up_to_its_mean_square():
    for frequency in (300.0, 1000.0, 5000.0):
        level = TextureEmbedding(RATE).levels((0.5 * torch.sin(2 * math.pi * frequency * TIME))[None])
        total = 10 * torch.log10((10 ** (level / 10)).sum(1))
        assert (total - 10 * math.log10(0.125)).abs().max() < 0.05  # dB; the window's leakage


def test_a_louder_sound_moves_the_means_and_nothing_else():
    embedding = TextureEmbedding(RATE)
    soft, loud = (embedding(gain * noise(0)).features[0] for gain in (1.0, 2.0))
    assert (loud[:24] - soft[:24] - 20 * math.log10(2)).abs().max() < 1e-9
    assert (loud[24:] - soft[24:]).abs().max() < 1e-9


def test_a_tremolo_shows_in_the_octave_of_its_rate():
    for rate, octave in ((1.0, 0), (3.0, 1), (6.0, 2), (12.0, 3), (20.0, 4)):
        depth = 10 ** (0.5 * torch.sin(2 * math.pi * rate * TIME))  # 10 dB up and down
        carrier = torch.sin(2 * math.pi * 4000 * TIME) * 0.1
        features = TextureEmbedding(RATE)((carrier * depth)[None]).features[0]
        band = int(features[:24].argmax())
        modulation = features[48:72].view(4, 6)[band // 6]
        assert int(modulation.argmax()) == octave


def test_modulation_adds_up_to_the_variance_of_the_level():
    """By Parseval: a Hann window in time changes how it is shared out, and on average not how much there is."""
    features = TextureEmbedding(RATE)(noise(1, count=20)).features
    energy = features[:, 48:72].view(-1, 4, 6).square().sum(2)
    variance = features[:, 24:48].square().view(-1, 4, 6).mean(2)
    assert (energy.mean(0) / variance.mean(0) - 1).abs().max() < 0.1  # of 20 random clips


def test_bands_that_move_together_are_told_from_bands_that_do_not():
    apart = noise(2)
    together = apart * 10 ** (0.5 * torch.sin(2 * math.pi * 5 * TIME))
    found = TextureEmbedding(RATE)(torch.cat((apart, together))).features
    assert found[0, 76] < 1.5  # dB: the mean of 24 levels, each of about 3
    assert abs(found[1, 76] - 10 / math.sqrt(2)) < 1.5  # a sine of 10 dB


def test_silence_is_the_floor_and_does_not_move():
    features = TextureEmbedding(RATE)(torch.zeros(1, RATE)).features[0]
    assert features[:24].tolist() == [-80.0] * 24
    assert features[24:].abs().max() < 1e-12


def test_features_do_not_depend_on_the_company_of_a_sound():
    embedding, sounds = TextureEmbedding(8000), noise(3, 70, 8000)
    assert (embedding(sounds).features[40:41] - embedding(sounds[40:41]).features).abs().max() < 1e-9


def test_sounds_too_short_or_not_finite_are_refused():
    embedding = TextureEmbedding(RATE)
    assert embedding(noise(0, samples=1600)).features.shape == (1, 77)
    for wrong in (torch.zeros(1, 1599), torch.zeros(2000)):
        with pytest.raises(ValueError, match="1600 samples or more"):
            embedding(wrong)
    with pytest.raises(ValueError, match="not finite"):
        embedding(torch.full((1, RATE), torch.nan))
    with pytest.raises(ValueError, match="too low"):
        TextureEmbedding(300)


def test_the_digest_says_the_sample_rate():
    assert TextureEmbedding(RATE).digest == TextureEmbedding(RATE).digest
    assert TextureEmbedding(RATE).digest != TextureEmbedding(8000).digest
