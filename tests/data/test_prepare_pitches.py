"""Copies of recordings at other pitches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from layouts import N_SAMPLES, RATE, SMALL, Faulty, checksums, interrupt_after, write_clips

from schurgan.core.errors import SchurganError
from schurgan.data import Shards, prepare, summary
from schurgan.data.prepare import PITCHES
from schurgan.data.shards import split
from schurgan.data.sources.base import Item
from schurgan.data.sources.folder import open_folder


@pytest.fixture(scope="module")
def short_and_long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve recordings of half a second in each of two classes, and one of 2.1 s."""
    root = write_clips(tmp_path_factory.mktemp("short"), {"bell": 12, "drum": 12})
    generator = np.random.default_rng(1)
    soundfile.write(root / "drum" / "long.wav", 0.1 * generator.standard_normal(round(2.1 * RATE)), RATE)
    return root


@pytest.fixture(scope="module")
def augmented(short_and_long: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("augmented")
    prepare(open_folder(short_and_long), out, SMALL, shard_clips=16, pitches=PITCHES, workers=1)
    return out


def test_recordings_of_two_seconds_or_less_get_a_copy_of_each_pitch_that_knows_its_origin(augmented):
    shards = Shards(augmented)
    assert len(shards) == 24 * 5 + 1
    copies = [f"bell/000.wav@pitch={ratio}" for ratio in ("0.75", "0.9", "1.15", "1.5")]  # the paper's
    assert list(shards.origins[:6]) == ["bell/000.wav", *copies, "bell/001.wav"]
    assert list(shards.parents[:6]) == [None, *["bell/000.wav"] * 4, None]
    assert [origin for origin in shards.origins if "long" in origin] == ["drum/long.wav"]
    assert all(shards.labels[i] == 0 for i in range(60))


def test_evaluation_leaves_copies_out_and_training_takes_them(augmented, short_and_long, tmp_path):
    shards = Shards(augmented)
    plain = shards.select(augmented=False)
    prepare(open_folder(short_and_long), tmp_path, SMALL, workers=1)
    alone = Shards(tmp_path)
    assert plain.origins == alone.origins
    assert not plain.augmented.any()
    assert torch.equal(plain.recording(13), alone.recording(13))
    assert shards.select(augmented=True).augmented.all()
    assert sorted([*plain.origins, *shards.select(augmented=True).origins]) == sorted(shards.origins)
    with pytest.raises(SchurganError, match="no clip is left"):
        alone.select(augmented=True)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_copies_are_on_the_side_of_their_recording_and_none_is_held_out(augmented, share):
    shards = Shards(augmented)
    training, held_out = split(shards, val_fraction=share)
    assert not held_out.augmented.any()
    _, alone = split(shards.select(augmented=False), val_fraction=share)
    assert held_out.origins == alone.origins
    sources = {parent or origin for parent, origin in zip(training.parents, training.origins, strict=True)}
    assert sources == set(shards.select(augmented=False).origins) - set(held_out.origins)
    assert len(training) == 5 * len(sources) - ("drum/long.wav" in sources) * 4


def test_copies_of_a_fold_are_held_out_of_training_and_of_the_judgement(augmented):
    shards = Shards(augmented)
    shards._folds = [number // 5 % 3 for number in range(len(shards))]  # a recording and its copies in one
    training, held_out = split(shards, val_folds=[1])
    assert not held_out.augmented.any()
    assert set(training.folds) == {0, 2}
    assert training.augmented.sum() == 4 * (len(training) - training.augmented.sum() - 1)


def test_a_copy_is_the_recording_at_another_pitch_and_its_image_is_its_own(augmented):
    shards = Shards(augmented)

    def peak(index: int) -> float:
        return float(np.abs(np.fft.rfft(shards.recording(index).numpy())).argmax())

    for first in (0, 25, 90):
        for copy, ratio in enumerate(PITCHES, 1):
            assert peak(first + copy) == pytest.approx(
                ratio * peak(first), abs=6
            )  # a decaying tone is as broad, in bins
    again = SMALL.encode(shards.recording(2)[None])[0]
    assert (again - shards.images([2])).abs().mean() < 0.02


def test_copies_share_the_fold_of_their_recording(clips, tmp_path, monkeypatch):
    folded = [Item(item.origin, item.label, number % 5) for number, item in enumerate(open_folder(clips).items())]
    monkeypatch.setattr(Faulty, "items", lambda self: folded)
    prepare(Faulty(clips), tmp_path, SMALL, pitches=(0.9,), workers=1)
    fold_of = {item.origin: item.fold for item in folded}
    shards = Shards(tmp_path)
    assert [fold_of[origin.removesuffix("@pitch=0.9")] for origin in shards.origins] == list(shards.folds)


def test_copies_count_neither_as_items_nor_as_seconds_nor_as_clips_enough_to_learn_from(tmp_path):
    root = write_clips(tmp_path / "clips", {"bell": 4, "drum": 16})
    calls: list[tuple[int, int, float]] = []
    options = {"pitches": PITCHES, "workers": 1, "shard_clips": 16}
    manifest = prepare(open_folder(root), tmp_path / "out", SMALL, **options, progress=lambda *call: calls.append(call))
    assert calls == [(0, 20, 0), (16, 20, 8.0), (20, 20, 10.0)]
    assert manifest.seconds == 10
    assert any(warning.startswith('class "bell": 4 clips, too few') for warning in manifest.warnings)
    lines = summary(manifest)
    assert "100 clips of 2 classes, 10 s of sound" in lines
    assert "80 of them are altered copies of the other 20" in lines


def test_a_copy_of_which_nothing_is_left_is_a_note_on_its_recording(tmp_path):
    root = write_clips(tmp_path / "clips", {"bell": 2, "drum": 2})
    time_ = np.arange(N_SAMPLES) / RATE
    whistle = 0.5 * np.sin(2 * np.pi * 6500 * time_) * np.hanning(N_SAMPLES)
    soundfile.write(root / "bell" / "whistle.wav", whistle, RATE, subtype="FLOAT")
    manifest = prepare(open_folder(root), tmp_path / "out", SMALL, pitches=(0.75, 1.5), workers=1, strict=True)
    (notes,) = (clip.warnings for clip in manifest.clips.rows() if clip.origin == "bell/whistle.wav")
    assert notes[0].startswith("no copy at pitch 1.5: silent")
    assert "bell/whistle.wav@pitch=0.75" in manifest.clips.origin


def test_a_stopped_augmentation_goes_on_to_the_same_bytes_on_two_workers(short_and_long, augmented, tmp_path):
    source, options = open_folder(short_and_long), {"shard_clips": 16, "pitches": PITCHES}
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path, SMALL, workers=1, progress=interrupt_after(20), **options)
    seen: list[int] = []
    prepare(
        open_folder(short_and_long), tmp_path, SMALL, workers=2, progress=lambda done, *_: seen.append(done), **options
    )
    assert seen[0] == 16, "the finished shard was made again"
    assert checksums(tmp_path) == checksums(augmented)


def test_other_pitches_are_other_data(short_and_long, augmented, tmp_path):
    copy = Path(shutil.copytree(augmented, tmp_path / "copy"))
    for pitches in ((), (0.75,)):
        with pytest.raises(SchurganError, match="overwrite"):
            prepare(open_folder(short_and_long), copy, SMALL, shard_clips=16, pitches=pitches, workers=1)
    prepare(open_folder(short_and_long), copy, SMALL, shard_clips=16, pitches=PITCHES, workers=1)


def test_a_set_without_copies_is_written_as_it_was_before_there_were_any(clips, tmp_path):
    prepare(open_folder(clips), tmp_path, SMALL, workers=1)
    columns = json.loads((tmp_path / "manifest.json").read_text())["clips"]
    assert list(columns) == ["origin", "label", "fold", "seconds", "gain", "reference", "digest", "warnings"]


@pytest.mark.parametrize("pitches", [(1.0,), (0.1,), (0.9, 0.9), (-4.98,)])
def test_pitches_that_are_no_ratios_or_none_at_all_are_refused(clips, tmp_path, pitches):
    with pytest.raises(ValueError, match="pitches"):
        prepare(open_folder(clips), tmp_path, SMALL, pitches=pitches)


def test_the_command_adds_the_papers_four_pitches(call, short_and_long, tmp_path):
    options = ["--size", "32", "--seconds", "0.5", "--workers", "1"]
    said = call("prepare", "folder", short_and_long, "--out", tmp_path / "out", "--augment-pitch", *options)
    assert said.status == 0, said
    assert "96 of them are altered copies of the other 25" in said.out
    shards = Shards(tmp_path / "out")
    assert {parent for parent in shards.parents if parent} == set(shards.select(augmented=False).origins) - {
        "drum/long.wav"
    }
