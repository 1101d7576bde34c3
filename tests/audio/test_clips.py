"""The part of a recording that becomes a clip: the loudest, whether all of it is in memory or not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schurgan.audio import files
from schurgan.audio.files import AudioError, AudioWarning, fit_clip, read_audio, read_loudest

RATE = 16_000


@given(st.integers(1, 4_000), st.integers(1, 4_000), st.floats(1e-3, 50), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_clip_times_its_gain_is_a_part_of_the_sound_no_quieter_than_its_beginning_and_zeros(
    length, n_samples, scale, seed
):
    x = scale * (0.1 + torch.rand(length, generator=torch.Generator().manual_seed(seed)))
    clip, gain, _ = fit_clip(x, n_samples)
    kept = min(length, n_samples)
    assert clip.shape == (n_samples,)
    assert clip.abs().max() == pytest.approx(1, abs=1e-6)
    parts = x.unfold(0, kept, 1)[::1600]  # every 0.1 s
    assert (parts - clip[:kept] * gain).abs().amax(1).min() <= 1e-5 * scale  # rounding of the gain
    assert (clip * gain).square().sum() >= (1 - 1e-5) * x[:kept].square().sum()
    assert not clip[kept:].any()


def test_a_long_sound_keeps_its_loudest_part():
    x = torch.zeros(10 * RATE)
    x[6 * RATE : 7 * RATE] = torch.sin(torch.arange(RATE) / 5)
    clip, _, notes = fit_clip(x, 2 * RATE)
    assert float(clip.square().sum()) == pytest.approx(float(x.square().sum()), rel=1e-3)
    assert notes == ["cropped from 10 s to 2 s, kept from 5 s on"]


def test_the_notes_tell_what_was_cropped_and_what_is_very_short():
    x = torch.ones(RATE)
    assert fit_clip(x.repeat(8)[: int(7.2 * RATE)], 5 * RATE)[2] == ["cropped from 7.2 s to 5 s"]
    assert fit_clip(x[:192], RATE)[2] == ["shorter than 50 ms (12 ms)"]
    assert fit_clip(x[:800], RATE)[2] == []  # 50 ms, padded
    assert fit_clip(x[:480], RATE, sample_rate=8_000)[2] == []


def test_a_silent_clip_is_refused():
    with pytest.raises(AudioError, match="silent"):
        fit_clip(torch.full((2 * RATE,), 1e-5), RATE)
    with pytest.raises(ValueError, match=r"samples \(2, 5\)"):
        fit_clip(torch.ones(2, 5), 4)


@pytest.mark.parametrize("seconds", [0.05, 0.25, 1.3, 60.0])
@pytest.mark.parametrize("rate", [RATE, 22_050])
def test_of_a_recording_too_long_to_be_held_the_same_part_is_kept_as_of_one_that_is_not(
    tmp_path, monkeypatch, rate, seconds
):
    random = np.random.default_rng(0)
    sound = random.standard_normal(20 * rate) * np.repeat(random.uniform(0.01, 0.2, 40), rate // 2) + 0.05
    soundfile.write(tmp_path / "x.wav", np.stack([sound, -0.99 * sound], 1), rate)
    n_samples = round(seconds * RATE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AudioWarning)
        truth, gain, _ = fit_clip(read_audio(tmp_path / "x.wav"), n_samples)
        whole, length = read_loudest(tmp_path / "x.wav", n_samples)
        monkeypatch.setattr(files, "WHOLE", 100_000)
        part, length_too = read_loudest(tmp_path / "x.wav", n_samples)
    assert length == length_too == len(whole) / RATE
    assert len(part) == min(n_samples, 20 * RATE)
    clip, gain_too, _ = fit_clip(part, n_samples)
    assert (clip * gain_too - truth * gain).abs().max() < 2e-5


def test_the_loudest_part_of_a_long_recording_is_told_of_and_a_silent_one_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "WHOLE", 30_000)
    sound = np.concatenate([np.zeros(5 * RATE), 0.5 * np.sin(np.arange(RATE) / 5), np.zeros(4 * RATE)])
    soundfile.write(tmp_path / "x.flac", sound, RATE)
    with pytest.warns(AudioWarning, match=r"x\.flac: cropped from 10 s to 1 s, kept from 5 s on"):
        read_loudest(tmp_path / "x.flac", RATE)
    soundfile.write(tmp_path / "x.flac", np.zeros(5 * RATE), RATE)
    with pytest.raises(AudioError, match=r"x\.flac: silent"):
        read_loudest(tmp_path / "x.flac", RATE)
