from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import soundfile
import torch
from PIL import Image

import schurgan
from schurgan.audio import Spectrogram
from schurgan.core.errors import SchurganError
from schurgan.core.tensors import save_tensors
from schurgan.data import Shards, prepare
from schurgan.data.sources import open_source
from schurgan.model import Card, Model, build
from schurgan.networks import Generator
from schurgan.training.checkpoint import read


@pytest.fixture
def model(finished_run) -> Model:
    return schurgan.load(finished_run)


def test_the_same_seed_gives_the_same_sounds_and_another_seed_others(model, finished_run):
    one, again = (each.sample("bark", 2, seed=3, refine=2) for each in (model, schurgan.load(finished_run)))
    other = model.sample("bark", 2, seed=4, refine=2)
    assert torch.equal(one.audio, again.audio)
    assert torch.equal(one.images, again.images)
    assert not torch.equal(one.images, other.images)


def test_sounds_have_the_length_the_rate_and_the_range_they_should(model):
    sounds = model.sample("bell", 3, refine=2)
    assert len(sounds) == 3
    assert sounds.audio.shape == (3, 8000)
    assert sounds.images.shape == (3, 1, 16, 16)
    assert sounds.sample_rate == 16000
    assert sounds.audio.abs().max() <= 1
    assert sounds.images.abs().max() <= 1


def test_the_noise_of_a_sound_is_that_of_its_place_in_the_whole_batch(model):
    labels = torch.zeros(40, dtype=torch.long)
    image = model.images(labels[:1]).expand(40, -1, -1, -1)
    sounds = model.decode(image, labels, refine=0, seed=5)
    assert len({sound.numpy().tobytes() for sound in sounds}) == 40, "equal images sound alike, but are not equal"
    torch.testing.assert_close(model.decode(image[:1], labels[:1], refine=0, seed=5 + 35), sounds[35:36])


@pytest.mark.parametrize("phase", ["noise", "carrier", "griffin-lim"])
def test_every_phase_gives_finite_sound_of_its_own(model, phase):
    audio = model.sample("bird", 1, phase=phase, refine=1).audio
    assert audio.isfinite().all()
    assert audio.abs().max() > 0
    others = [
        model.sample("bird", 1, phase=p, refine=1).audio for p in ("noise", "carrier", "griffin-lim") if p != phase
    ]
    assert not any(torch.equal(audio, other) for other in others)


def test_the_carrier_is_a_recording_of_the_class_from_the_shards(model, shards):
    data = Shards(shards)
    label = model.classes.index("clock")
    carriers = model._carriers(torch.full((5,), label), seed=0)
    own = [data.recording(int(i)) for i in np.flatnonzero(data.labels == label)]
    assert all(any(torch.equal(carrier, recording) for recording in own) for carrier in carriers)


def test_a_larger_batch_begins_with_the_images_of_a_smaller_one(model):
    labels = torch.zeros(40, dtype=torch.int64)
    torch.testing.assert_close(model.images(labels, seed=1)[:3], model.images(labels[:3], seed=1), atol=1e-5, rtol=0)


def test_progress_is_told_of_every_sound(model):
    told: list[tuple[int, int]] = []
    model.sample(model.classes[0], 40, refine=0, progress=lambda *done: told.append(done))
    assert told == [(32, 40), (40, 40)]


def test_a_smaller_truncation_gives_images_nearer_to_each_other(model):
    labels = torch.zeros(32, dtype=torch.int64)
    spread = [torch.pdist(model.images(labels, truncation).flatten(1)).mean() for truncation in (0.05, 0.5, None)]
    assert spread[0] < spread[1] < spread[2]


def test_truncation_1_is_none(model):
    labels = torch.zeros(2, dtype=torch.int64)
    assert torch.equal(model.images(labels, 1.0), model.images(labels, None))


def test_sampling_leaves_threads_and_global_random_numbers_as_they_were(model):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    model.sample("bark", 1, seed=9, refine=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"label": "brak"}, 'class "brak": the model was not trained on it; did you mean "bark"?'),
        ({"label": "zzzzzz"}, "there are siren, bark"),
        ({"count": 0}, "count: 0 given, a whole number from 1 to 10000 is needed"),
        ({"count": 10**9}, "count: 1000000000 given"),
        ({"truncation": 0.0}, "truncation: 0.0 given, a finite number above 0 is needed"),
        ({"truncation": -1.0}, "truncation: -1.0 given"),
        ({"truncation": float("nan")}, "truncation: nan given"),
        ({"truncation": float("inf")}, "truncation: inf given"),
        ({"seed": -1}, "seed: -1 given, a whole number from 0 to 2147483647 is needed"),
        ({"seed": 10**30}, "seed: 1"),
    ],
)
def test_what_cannot_be_sampled_is_one_sentence(model, wrong, sentence):
    with pytest.raises(SchurganError) as caught:
        model.sample(**{"label": "bark", "count": 1} | wrong)
    assert sentence in str(caught.value)


def test_the_bare_file_elsewhere_gives_the_sounds_of_the_run(finished_run, model, tmp_path):
    shutil.copy(finished_run / "generator.safetensors", tmp_path / "sent by somebody.safetensors")
    sent = schurgan.load(tmp_path / "sent by somebody.safetensors")
    assert sent.classes == model.classes
    assert torch.equal(sent.sample("rain", 1, refine=1).audio, model.sample("rain", 1, refine=1).audio)


def test_a_carrier_without_its_data_is_one_sentence_and_other_phases_go_on(model):
    alone = Model(model.generator, replace(model.card, data=None))
    with pytest.raises(SchurganError, match=r'None is gone.* or choose "noise" or "griffin-lim"'):
        alone.sample("bark", 1, phase="carrier")
    assert alone.sample("bark", 1, refine=0).audio.isfinite().all()


def test_a_carrier_from_a_folder_that_holds_other_data_now_is_refused(model, recordings, tmp_path):
    prepare(open_source("folder", recordings), tmp_path, Spectrogram(size=16, channels=1, n_samples=8000), workers=1)
    moved = Model(model.generator, replace(model.card, data=str(tmp_path)))
    with pytest.raises(SchurganError, match="holds other data than the model was trained on"):
        moved.sample("bark", 1, phase="carrier")


def test_the_saved_weights_are_the_average_of_training_and_not_its_last_step(finished_run, model):
    state = read(finished_run / "checkpoints" / "step-00000006.pt").state["trainer"]
    ours = dict(model.generator.named_parameters())
    assert all(torch.equal(ours[name], state["generator_ema"][name]) for name in ours)
    assert not torch.equal(ours["linear.weight"], state["generator"]["linear.weight"])


def test_saving_and_loading_gives_the_same_file_every_time(model, tmp_path):
    for name in "abcd":
        model.save(tmp_path / name)
    contents = {(tmp_path / name).read_bytes() for name in "abcd"}
    schurgan.load(tmp_path / "a").save(tmp_path / "e")
    assert contents == {(tmp_path / "e").read_bytes()}


def test_building_a_generator_leaves_global_random_numbers_alone(model):
    before = torch.random.get_rng_state()
    assert isinstance(build(model.card), Generator)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_each_sound_is_saved_as_a_wav_and_a_picture_of_256_pixels(model, tmp_path):
    sounds = model.sample("bark", 2, refine=1)
    paths = sounds.save(tmp_path / "a" / "b")
    assert [path.name for path in paths] == ["bark-000.wav", "bark-001.wav"]
    samples, rate = soundfile.read(paths[1])
    assert rate == 16000
    assert np.abs(samples - sounds.audio[1].numpy()).max() <= 1 / 32768  # 16 bits
    assert Image.open(paths[1].with_suffix(".png")).size == (256, 256)


def test_a_class_name_that_is_no_file_name_is_written_beside_and_not_elsewhere(model, tmp_path):
    sounds = replace(model.sample("bark", 1, refine=0), label="../a/b: 鐘")
    assert [path.parent for path in sounds.save(tmp_path)] == [tmp_path]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".png", ".wav"]


def test_classes_whose_names_differ_in_signs_marks_or_case_never_overwrite_each_other(model, tmp_path):
    sounds = model.sample("bark", 1, refine=0)
    labels = ("🐶", "🐱", "कि", "कु", "a+b", "a&b", "Dog", "dog", "x" * 240, "x" * 239)
    paths = [path for label in labels for path in replace(sounds, label=label).save(tmp_path)]
    assert len({path.name.casefold() for path in paths}) == len(labels)
    assert len(list(tmp_path.iterdir())) == 2 * len(labels)


def test_a_file_with_a_flipped_bit_is_refused_in_one_sentence(finished_run, tmp_path):
    whole, chance = (finished_run / "generator.safetensors").read_bytes(), random.Random(0)
    path = tmp_path / "generator.safetensors"
    for _ in range(60):
        content = bytearray(whole)
        position = chance.randrange(3000 if chance.random() < 0.5 else len(content))
        content[position] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        with pytest.raises(SchurganError) as refused:
            schurgan.load(path)
        assert str(refused.value).startswith(f"{path}: ")
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"x", b"text\n" * 1000, b"\xff" * 100, b"\0" * 100])
def test_a_file_of_something_else_is_refused_in_one_sentence(tmp_path, content):
    (tmp_path / "generator.safetensors").write_bytes(content)
    with pytest.raises(SchurganError, match=r"generator.safetensors: damaged, or not a generator"):
        schurgan.load(tmp_path)


@pytest.mark.parametrize("length", [7, 100, 2000, -1])
def test_a_truncated_file_is_refused_in_one_sentence(finished_run, tmp_path, length):
    content = (finished_run / "generator.safetensors").read_bytes()[:length]
    (tmp_path / "generator.safetensors").write_bytes(content)
    with pytest.raises(SchurganError, match="damaged, or not a generator"):
        schurgan.load(tmp_path)


TRANSFORM = Spectrogram(size=16, channels=1, sample_rate=16000, n_samples=8000).config


@pytest.mark.parametrize(
    "wrong",
    [
        {"architecture": "no-such"},
        {"width": "wide"},
        {"classes": None},
        {"references": 3},
        {"transform": {"size": -1}},
        {"transform": {"no": "such"}},
        {"transform": TRANSFORM | {"n_samples": 2 * 10**9}},
        {"transform": TRANSFORM | {"size": "16"}},
        {"classes": ["a"] * 8},
        {"references": [1.0] * 7},
        {"width": 10**6},
        {"width": 8},
        {"latent_variance": -1.0},
        {"step": "6"},
        {"channels": True},
        {"unknown": 1},
    ],
)
def test_a_sealed_card_that_says_nonsense_is_refused_in_one_sentence(finished_run, tmp_path, wrong):
    with safetensors.safe_open(finished_run / "generator.safetensors", "pt") as file:
        card = json.loads(file.metadata()["card"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    del card["sha256"]
    save_tensors(tmp_path / "generator.safetensors", weights, card)
    assert schurgan.load(tmp_path).card == schurgan.load(finished_run).card
    save_tensors(tmp_path / "generator.safetensors", weights, card | wrong)
    with pytest.raises(SchurganError, match="damaged, or not a generator"):
        schurgan.load(tmp_path)


def test_a_generator_of_the_version_before_is_read_and_its_weights_checked(tmp_path):
    path = Path(shutil.copy(Path(__file__).parent / "fixtures" / "run" / "generator.safetensors", tmp_path))
    assert schurgan.load(path).card.format == "schurgan-generator/2"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(SchurganError, match="its checksum is wrong"):
        schurgan.load(path)


def test_a_fifo_in_the_place_of_a_generator_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "generator.safetensors")
    with pytest.raises(SchurganError, match="not a regular file"):
        schurgan.load(tmp_path)


def test_a_model_of_log_real_images_that_averaged_the_real_part_is_refused(model, tmp_path):
    card = replace(model.card, transform=model.card.transform | {"scale": "log_real"})
    Model(model.generator, card).save(tmp_path / "generator.safetensors")
    with pytest.raises(SchurganError, match=r"generator.safetensors: .*log-real images of an earlier version"):
        schurgan.load(tmp_path / "generator.safetensors")


def test_weights_without_a_card_are_refused_as_not_ours(tmp_path):
    safetensors.torch.save_file({"weight": torch.zeros(2)}, tmp_path / "generator.safetensors")
    with pytest.raises(SchurganError, match="not a generator of this program's format"):
        schurgan.load(tmp_path)


def test_a_run_without_a_generator_yet_and_no_run_at_all_are_told_apart(tmp_path):
    with pytest.raises(SchurganError, match="an empty folder"):
        schurgan.load(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(SchurganError, match="the run has not saved a generator yet"):
        schurgan.load(tmp_path)
    with pytest.raises(SchurganError, match="no such file or folder"):
        schurgan.load(tmp_path / "none")


def test_the_card_holds_the_level_of_each_class_and_the_steps_behind_it(model, shards):
    assert model.card.references == Shards(shards).manifest.references
    assert model.card.step == 6
    assert isinstance(model.card, Card)
    assert model.spectrogram.config == Shards(shards).manifest.transform


def test_a_level_twice_as_high_gives_a_sound_twice_as_loud(model):
    quiet = [0.01 * reference for reference in model.card.references]
    images = model.images(torch.zeros(2, dtype=torch.int64))
    one, two = (
        Model(model.generator, replace(model.card, references=tuple(factor * level for level in quiet))).decode(
            images, torch.zeros(2, dtype=torch.int64), refine=3
        )
        for factor in (1, 2)
    )
    torch.testing.assert_close(two, 2 * one, atol=1e-6, rtol=1e-4)
