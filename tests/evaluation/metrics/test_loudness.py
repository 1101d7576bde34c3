from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor

from schurgan.evaluation.metrics.loudness import Levels, levels, loudness

RATE = 16_000


def sine(frequency: float = 997, decibel: float = 0, seconds: float = 3, rate: int = RATE) -> Tensor:
    """A sine whose peak is `decibel` under full scale, (1, L)."""
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return (10 ** (decibel / 20) * torch.sin(2 * math.pi * frequency * time))[None]


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 48_000, 96_000])
def test_a_full_scale_sine_of_997_hz_reads_minus_3_01_at_every_rate(rate):
    assert loudness(sine(rate=rate), rate).item() == pytest.approx(-3.01, abs=0.01)  # the figure that BS.1770-4 gives


def test_one_channel_of_the_tone_at_minus_23_dbfs_reads_3_01_less_than_two():
    # EBU Tech 3341, case 1: 1 kHz in both channels, each of peak −23 dBFS, reads −23.0 ± 0.1 LUFS
    assert loudness(sine(1000, -23), RATE).item() + 3.01 == pytest.approx(-23, abs=0.1)


def test_the_gate_keeps_the_quiet_parts_out():
    # EBU Tech 3341, case 3, of one channel: 10 s at −36, 60 s at −23, 10 s at −36 dBFS reads −23.0 ± 0.1 LUFS
    parts = [sine(1000, -36, 10), sine(1000, -23, 60), sine(1000, -36, 10)]
    assert loudness(torch.cat(parts, 1), RATE).item() + 3.01 == pytest.approx(-23, abs=0.1)


def test_a_pause_of_any_length_changes_nothing_but_the_blocks_at_its_edge():
    tone = sine(seconds=5)
    padded = torch.cat((tone, torch.zeros(1, 20 * RATE)), 1)
    # three of 50 blocks hold some of both, with 3/4, 1/2 and 1/4 of the power: 10 log10(48.5 / 50) = −0.13
    assert loudness(padded, RATE).item() == pytest.approx(loudness(tone, RATE).item(), abs=0.2)


def test_noise_reads_what_the_filters_of_the_standard_give_by_recursion():
    noise = np.random.default_rng(0).standard_normal(2 * 48_000) * 0.1
    shelf = [1.53512485958697, -2.69169619940638, 1.19839281085285], [1, -1.69065929318241, 0.73248077421585]
    weighted = scipy.signal.lfilter(*shelf, noise)
    weighted = scipy.signal.lfilter([1, -2, 1], [1, -1.99004745483398, 0.99007225036621], weighted)
    blocks = [np.square(weighted[start : start + 19_200]).mean() for start in range(0, len(noise) - 19_199, 4800)]
    truth = -0.691 + 10 * np.log10(np.mean(blocks))  # steady noise: no block is gated
    assert loudness(torch.from_numpy(noise)[None], 48_000).item() == pytest.approx(truth, abs=1e-9)


def test_silence_has_no_loudness_and_neither_has_what_is_shorter_than_a_block():
    assert loudness(torch.zeros(1, RATE), RATE).item() == -math.inf
    assert loudness(sine(seconds=0.39), RATE).isnan().all()
    assert loudness(torch.full((1, RATE), torch.nan), RATE).isnan().all()
    assert loudness(torch.empty(0, RATE), RATE).shape == (0,)


def test_a_loudness_is_of_each_sound_alone():
    both = loudness(torch.cat((sine(), sine(decibel=-20), torch.full_like(sine(), torch.nan))), RATE)
    assert (both[0] - both[1]).item() == pytest.approx(20, abs=1e-9)
    assert both[2].isnan()


def test_the_levels_of_a_sine_are_those_of_its_formula():
    found = levels(sine(decibel=-20) + 0.01, RATE)
    power = 0.01 / 2 + 1e-4
    assert found.rms_dbfs == pytest.approx(10 * math.log10(power), abs=1e-3)  # 2,991 whole periods
    assert found.crest_db == pytest.approx(20 * math.log10(0.11) - 10 * math.log10(power), abs=1e-3)
    assert found.offset == pytest.approx(0.01, abs=1e-6)
    assert (found.clipped, found.pauses, found.silent, found.not_finite) == (0, 0, 0, 0)


def test_flat_tops_and_what_is_beyond_full_scale_are_clipped():
    wave = 1.5 * sine(997)
    share = 1 - 2 / math.pi * math.asin(1 / 1.5)
    assert levels(wave, RATE).clipped == pytest.approx(share, abs=0.01)  # 2,991 periods
    flat = levels(wave.clamp(-1, 1), RATE).clipped
    assert flat is not None
    assert 0.5 * share < flat < share  # the first sample of each top has no equal before it
    assert levels(sine(decibel=-0.2), RATE).clipped == 0


def test_pauses_are_the_share_of_quiet_frames():
    half = torch.cat((sine(seconds=1), sine(decibel=-70, seconds=1)), 1)
    assert levels(half, RATE).pauses == 0.5


def test_sounds_without_a_level_are_counted_and_take_no_part():
    tone = sine(decibel=-6)
    bad = torch.stack((torch.zeros_like(tone[0]), torch.full_like(tone[0], torch.nan), tone[0], tone[0]))
    found = levels(bad, RATE)
    assert (found.sounds, found.silent, found.not_finite) == (4, 1, 1)
    assert found.rms_dbfs == levels(tone, RATE).rms_dbfs


@pytest.mark.parametrize("audio", [torch.empty(0, RATE), torch.full((2, RATE), torch.nan), torch.zeros(2, RATE)])
def test_where_no_sound_has_a_level_it_is_unknown_and_json_can_say_so(audio):
    found = levels(audio, RATE)
    assert isinstance(found, Levels)
    assert (found.rms_dbfs, found.loudness_lkfs, found.crest_db) == (None, None, None)
    assert json.loads(json.dumps(dataclasses.asdict(found), allow_nan=False))["sounds"] == len(audio)


def test_a_sound_shorter_than_a_block_is_flagged_and_keeps_its_other_levels():
    found = levels(sine(seconds=0.3), RATE)
    assert found.too_short
    assert found.loudness_lkfs is None
    assert found.rms_dbfs == pytest.approx(-3.01, abs=0.01)


@pytest.mark.parametrize("measure", [levels, loudness])
@pytest.mark.parametrize("shape", [(8000,), (1, 2, 8000), (2, 0)])
def test_other_shapes_are_refused(measure, shape):
    with pytest.raises(ValueError) as error:
        measure(torch.zeros(shape), RATE)
    assert str(error.value) == f"audio {shape}: (N, L) of a sample or more is needed"
