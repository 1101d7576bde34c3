from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from folded_set import CLASSES, LENGTH, RATE, SIZE, Folded, spectrogram, untrained
from torch import Tensor

from schurgan.core.distributed import World
from schurgan.core.errors import SchurganError
from schurgan.data import Shards, prepare
from schurgan.evaluation.features.extractor import Extracted
from schurgan.evaluation.metric_table import SOUND_METRICS, take_scores
from schurgan.evaluation.metrics.loudness import levels
from schurgan.evaluation.score_sounds import (
    ClassLevels,
    Donors,
    Fidelity,
    _decode,
    consistency,
    frechet_audio_distance,
    measure_sounds,
)
from schurgan.evaluation.target import check_apart
from schurgan.model import Model


@pytest.fixture(scope="module")
def sets(folded) -> tuple[Shards, Shards]:
    return folded.select(folds=[1]), folded.select(folds=[2])


@pytest.fixture
def model() -> Model:
    return untrained()


@pytest.fixture(scope="module")
def recordings(folded) -> tuple[Tensor, Tensor]:
    clips = range(len(folded))
    return torch.stack([folded.recording(clip) for clip in clips]), torch.from_numpy(folded.labels)


def test_equal_images_in_different_chunks_are_decoded_from_different_noise(model):
    images = torch.zeros(1, 3, SIZE, SIZE).expand(18, -1, -1, -1)  # two chunks
    sounds = _decode("", model, images, torch.zeros(18, dtype=torch.long), 0, World())
    assert len({sound.numpy().tobytes() for sound in sounds}) == 18


def test_the_nearest_donor_of_a_donors_own_image_is_itself(recordings):
    donors = Donors(spectrogram(), *recordings)
    assert torch.equal(donors.nearest(donors.images, donors.labels), torch.arange(len(donors.labels)))


def test_a_donor_is_of_the_images_class_even_where_another_class_is_nearer(recordings):
    donors = Donors(spectrogram(), *recordings)
    other = (donors.labels + 1) % len(CLASSES)
    assert torch.equal(donors.labels[donors.nearest(donors.images, other)], other)


def test_a_copy_of_the_donor_scores_what_the_plain_reconstruction_does(recordings):
    transform = spectrogram()
    sounds, labels = recordings
    donors = Donors(transform, sounds, labels)
    copied = donors.rebuild(transform.apply_colormap(donors.images), torch.arange(len(sounds)))
    image, aux = transform.encode(sounds)
    truth = Fidelity.of(sounds, transform.decode(image, aux, phase="carrier", refine=0))
    assert copied.snr_db.median == pytest.approx(truth.snr_db.median, abs=1e-3)  # batches of another size
    assert copied.snr_db.median > 3  # dB; the phase of another sound gives some tenths
    assert copied.snr_paper_db.median == pytest.approx(2 * copied.snr_db.median)


def test_the_paper_s_score_rewards_a_copy_over_a_new_recording_of_the_class(recordings):
    transform = spectrogram()
    sounds, labels = recordings
    half = torch.arange(len(sounds)) % 2 == 0
    donors = Donors(transform, sounds[half], labels[half])
    new = Donors(transform, sounds[~half], labels[~half])
    fresh = donors.rebuild(new.images, donors.nearest(new.images, new.labels))
    copied = donors.rebuild(donors.images, torch.arange(len(donors.images)))
    assert copied.snr_db.median > fresh.snr_db.median + 3


def test_the_three_readings_are_those_of_their_formulas_and_leave_out_what_has_none():
    sound = torch.sin(torch.arange(1000) / 7.0)
    pairs = ((sound, 0.5 * sound), (sound, sound), (torch.zeros(1000), torch.zeros(1000)))
    found = Fidelity.of(torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs]))
    assert found.snr_db.median == pytest.approx(10 * math.log10(4), abs=1e-5)
    assert found.snr_paper_db.median == pytest.approx(20 * math.log10(4), abs=1e-5)
    assert found.power_ratio_db.median == pytest.approx(10 * math.log10(4), abs=1e-5)  # of 12.04 and 0
    assert (found.snr_db.count, found.snr_db.undefined) == (1, 2)
    assert (found.power_ratio_db.count, found.power_ratio_db.undefined) == (2, 1)


def test_the_image_of_a_sound_is_consistent_with_it_at_any_volume(recordings):
    transform = spectrogram()
    sounds, _ = recordings
    images, _ = transform.encode(sounds)
    found = consistency(transform, images, 0.1 * sounds)
    assert found.median < -80  # dB; the same numbers but for rounding and the floor of 80 dB


def test_an_image_and_the_sound_of_another_are_not_consistent(recordings):
    transform = spectrogram()
    sounds, _ = recordings
    images, _ = transform.encode(sounds)
    assert consistency(transform, images, sounds.roll(1, 0)).median > -10


def test_a_silent_image_has_no_consistency():
    transform = spectrogram()
    found = consistency(transform, torch.full((2, 1, SIZE, SIZE), -1.0), torch.zeros(2, LENGTH))
    assert (found.median, found.undefined) == (None, 2)


def test_donors_refuse_classes_without_a_recording():
    donors = Donors(spectrogram(), torch.randn(2, LENGTH), torch.tensor([0, 1]))
    with pytest.raises(SchurganError, match="no recording of class 2"):
        donors.nearest(donors.images, torch.tensor([0, 2]))


class FirstSamples:
    """The first three samples of a sound as its features, so that distances have a formula."""

    name, digest, resize = "first samples", "00", "none"

    def __call__(self, images: Tensor) -> Extracted:
        return Extracted(images[:, :3].double(), None)


def noise(count: int, seed: int) -> Tensor:
    return torch.randn(count, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_audio_distance_is_the_shift_between_two_clouds_and_its_floor_that_of_halves():
    shifted = noise(2000, 1) + torch.tensor([2.0] + [0.0] * 9)
    found = frechet_audio_distance(noise(2000, 0), shifted, FirstSamples())
    # |μ − μ'|² = 4, with a standard deviation of 2 · 2 · √(2 / n): 0.13 and, of the mean of ten halves, at most 0.18
    assert found.value == pytest.approx(4, abs=0.4)
    assert found.matched == pytest.approx(4, abs=0.55)
    # of two samples of n from one Gaussian, about d · 2 / n for the means and d (d + 1) / 4 n for the covariances
    assert found.floor == pytest.approx(3 * 2 / 1000 + 12 / 4000, rel=0.8)
    assert (found.n_real, found.n_fake, found.details["n_matched"], found.flags) == (2000, 2000, 1000, ())
    assert (found.extractor, found.details["digest"]) == ("first samples", "00")


def test_sounds_of_the_same_kind_are_at_the_floor():
    found = frechet_audio_distance(noise(1000, 0), noise(1000, 1), FirstSamples())
    assert found.matched < found.floor + 5 * found.details["floor_sd"]
    assert found == frechet_audio_distance(noise(1000, 0), noise(1000, 1), FirstSamples())


def test_fewer_sounds_than_features_are_flagged():
    (flag,) = frechet_audio_distance(noise(8, 0), noise(3, 1), FirstSamples()).flags
    assert "3 sounds on one side for 3 features" in flag


def test_an_audio_distance_of_nan_is_refused():
    with pytest.raises(ValueError, match="rows hold NaN"):
        frechet_audio_distance(noise(9, 0), noise(9, 0) * torch.nan, FirstSamples())


@pytest.fixture
def two_of_a_class(few_sounds, monkeypatch):
    """Two sounds of a class, of two iterations each."""
    monkeypatch.setattr("schurgan.evaluation.score_sounds._LEAST", 2)


def test_all_scores_of_a_model_are_numbers_and_the_same_for_the_same_seed(model, sets, two_of_a_class):
    sounds, again = (measure_sounds(model, *sets, seed=3) for _ in range(2))
    scores = take_scores(SOUND_METRICS, sounds)
    assert scores == take_scores(SOUND_METRICS, again)
    json.dumps([each.as_json() for each in scores.values()], allow_nan=False)
    assert all(each.value is not None for each in scores.values())
    assert (sounds.n_real, sounds.n_fake, sounds.not_finite) == (12, 6, 0)
    assert sounds.fresh.snr_db.count == 6
    assert sounds.own_phase.snr_db.median > sounds.fresh.snr_db.median
    assert [each.label for each in sounds.levels] == list(CLASSES)
    assert all(each.real.sounds == 4 and each.generated.sounds == 2 for each in sounds.levels)


def test_without_held_out_clips_training_clips_stand_for_real_ones(model, sets, two_of_a_class):
    sounds = measure_sounds(model, sets[0])
    assert sounds.fresh is None
    assert sounds.own_phase.snr_db.count == 12
    assert sounds.consistency_real.count == 6  # as many as generated sounds
    flags = take_scores(SOUND_METRICS, sounds)["snr_db"].flags
    assert any("held out" in flag for flag in flags)


def test_a_class_is_louder_by_the_gain_of_its_sounds(recordings):
    sounds, _ = recordings
    real, half, silent = (levels(gain * sounds, RATE) for gain in (1.0, 0.5, 0.0))
    assert ClassLevels("bell", real, half).louder == pytest.approx(-6.02, abs=0.05)  # some blocks pass the gate or not
    assert ClassLevels("bell", real, silent).louder is None


def test_a_model_whose_images_are_nan_has_no_scores_of_its_own(model, sets, two_of_a_class):
    with torch.no_grad():
        for weight in model.generator.parameters():
            weight.fill_(torch.nan)
    for held_out in (sets[1], None):
        sounds = measure_sounds(model, sets[0], held_out)
        assert (sounds.generated, sounds.consistency_generated, sounds.distance) == (None, None, None)
        assert (sounds.not_finite, sounds.n_fake) == (6, 0)
        assert sounds.levels[0].generated.sounds == 0
        scores = take_scores(SOUND_METRICS, sounds)
        json.dumps([each.as_json() for each in scores.values()], allow_nan=False)
        assert "6 generated images" in scores["snr_db"].flags[0]


def test_the_same_recordings_on_both_sides_are_refused(model, folded, sets):
    with pytest.raises(SchurganError, match="12 of its clips are among those of training, such as bark/"):
        check_apart(model, folded, sets[1])


def test_shards_of_other_images_are_refused(model, sets, shards):
    with pytest.raises(SchurganError, match="holds other classes or images"):
        check_apart(model, Shards(shards), sets[1])


def test_a_class_without_recordings_to_lend_a_phase_is_refused(model, folded, sets, monkeypatch):
    training = sets[0]
    keep = training.labels != 1
    monkeypatch.setattr(training, "labels", training.labels[keep])
    monkeypatch.setattr(training, "_clips", training._clips[keep])
    with pytest.raises(SchurganError, match="no recording of class 1"):
        measure_sounds(model, *sets)


def test_recordings_that_were_not_kept_are_asked_for(model, sets, tmp_path):
    prepare(Folded(per_class=2, seconds=0.5), tmp_path / "bare", spectrogram(), workers=1, keep_audio=False)
    bare = Shards(tmp_path / "bare")
    with pytest.raises(SchurganError, match="without recordings"):
        measure_sounds(model, bare.select(folds=[1]), bare.select(folds=[2]))


def test_a_model_of_pictures_is_said_to_make_no_sounds(model, sets):
    card = replace(model.card, transform={"transform": "image", "size": SIZE, "channels": 3})
    with pytest.raises(SchurganError, match="trained on pictures: it makes no sounds"):
        measure_sounds(Model(model.generator, card), *sets)
