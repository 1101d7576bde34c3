"""What is stored of recordings, and what the manifest and the summary say of it."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from layouts import N_SAMPLES, RATE, SIZE, SMALL, Faulty, checksums, write_clips

import schurgan
from schurgan.audio import Spectrogram, read_audio
from schurgan.core.errors import SchurganError
from schurgan.data import Manifest, Shards, prepare, summary
from schurgan.data.shards import dequantise, quantise
from schurgan.data.sources.folder import open_folder
from schurgan.data.verify import verify


def test_stored_images_are_the_spectrograms_of_the_files_to_half_a_step_of_uint8(clips, tmp_path):
    prepare(open_folder(clips), tmp_path, SMALL, workers=1)
    shards = Shards(tmp_path)
    for index in (0, 30, 79):
        wave = read_audio(clips / shards.origins[index], RATE)
        truth = SMALL.encode((wave / wave.abs().max())[None])[0]
        # Half a step is 1/255; the transform of a batch of four differs from that of one clip in the last bits.
        assert (shards.images([index]) - truth).abs().max() <= 1 / 255 + 1e-4


def test_stored_recordings_are_the_files_at_peak_one_to_half_a_step_of_int16(clips, tmp_path):
    manifest = prepare(open_folder(clips), tmp_path, SMALL, workers=1)
    shards = Shards(tmp_path)
    samples, _ = soundfile.read(clips / shards.origins[5])
    samples -= samples.mean()
    peak = np.abs(samples).max()
    assert np.abs(shards.recording(5).numpy() - samples / peak).max() <= 0.5 / 32767 + 1e-6
    assert manifest.clips.gain[5] == pytest.approx(peak, rel=1e-5)


def test_shards_are_plain_npy_files_that_numpy_maps(clips, tmp_path):
    prepare(open_folder(clips), tmp_path, SMALL, shard_clips=64, workers=1)
    arrays = {path.name: np.load(path, mmap_mode="r") for path in tmp_path.glob("*.npy")}
    assert {name: (array.shape, array.dtype.name) for name, array in arrays.items()} == {
        "images-00000.npy": ((64, 1, SIZE, SIZE), "uint8"),
        "images-00001.npy": ((16, 1, SIZE, SIZE), "uint8"),
        "audio-00000.npy": ((64, N_SAMPLES), "int16"),
        "audio-00001.npy": ((16, N_SAMPLES), "int16"),
    }


def test_the_manifest_knows_the_transform_the_histogram_and_the_median_level_of_each_class(clips, tmp_path):
    prepare(open_folder(clips), tmp_path, SMALL, workers=1)
    manifest = Manifest.load(tmp_path)
    assert Spectrogram(**manifest.transform).config == SMALL.config
    assert dict(zip(manifest.classes, manifest.histogram, strict=True)) == {"bell": 24, "drum": 30, "horn": 26}
    levels = [level for level, label in zip(manifest.clips.reference, manifest.clips.label, strict=True) if label == 1]
    assert manifest.references[1] == np.median(levels) > 0


@pytest.mark.parametrize(("scale", "dtype", "stored"), [("linear", None, "float16"), ("log", "float32", "float32")])
def test_linear_images_are_kept_as_float16_and_others_as_asked(clips, tmp_path, scale, dtype, stored):
    spectrogram = Spectrogram(size=SIZE, n_samples=N_SAMPLES, channels=1, scale=scale)
    assert prepare(open_folder(clips), tmp_path, spectrogram, dtype=dtype, workers=1).dtype == stored
    wave = Shards(tmp_path).recording(3)
    error = (Shards(tmp_path).images([3]) - spectrogram.encode(wave[None])[0]).abs().max()
    assert error <= (2**-11 if stored == "float16" else 1e-2) + 1e-3  # the recording itself is of 16 bits


def test_equal_channels_are_stored_once_and_read_as_many(clips, tmp_path):
    spectrogram = Spectrogram(size=SIZE, n_samples=N_SAMPLES, channels=3)
    manifest = prepare(open_folder(clips), tmp_path, spectrogram, keep_audio=False, workers=1)
    assert np.load(tmp_path / "images-00000.npy").shape[1:] == (1, SIZE, SIZE)
    images = Shards(tmp_path).images([0, 1])
    assert images.shape[1:] == manifest.shape == (3, SIZE, SIZE)
    assert torch.equal(images[:, 0], images[:, 2])


def test_the_channels_of_a_colour_map_are_all_stored(clips, tmp_path):
    spectrogram = Spectrogram(size=SIZE, n_samples=N_SAMPLES, channels=3, colormap="viridis")
    prepare(open_folder(clips), tmp_path, spectrogram, keep_audio=False, workers=1)
    assert np.load(tmp_path / "images-00000.npy").shape[1:] == (3, SIZE, SIZE)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1))
def test_quantising_is_undone_to_half_a_step_and_both_ends_exactly(values):
    image = torch.tensor([*values, -1.0, 1.0])
    back = dequantise(quantise(image, "uint8"))
    assert (back - image).abs().max() <= 1 / 255 + 1e-6
    assert back[-2:].tolist() == [-1.0, 1.0]
    assert torch.equal(dequantise(quantise(image, "float32")), image)
    assert (dequantise(quantise(image, "float16")) - image).abs().max() <= 2**-12


def test_what_cannot_be_used_is_listed_with_its_reason_and_the_rest_is_made(clips, tmp_path):
    source = Faulty(clips, raising=(("bell/003.wav", ZeroDivisionError), ("drum/007.wav", MemoryError)))
    manifest = prepare(source, tmp_path, SMALL, workers=1)
    assert [(each.origin, each.reason) for each in manifest.skipped] == [
        ("bell/003.wav", "as commanded"),
        ("drum/007.wav", "as commanded"),
    ]
    assert manifest.histogram == (23, 29, 26)
    assert "bell/003.wav" not in Shards(tmp_path).origins


def test_files_that_are_no_sound_are_reasons_and_cut_off_ones_are_notes(tmp_path):
    root = write_clips(tmp_path / "clips", {"bell": 11, "drum": 11})
    (root / "bell" / "empty.wav").touch()
    (root / "bell" / "text.wav").write_text("no sound at all")
    whole = (root / "drum" / "000.wav").read_bytes()
    (root / "drum" / "cut.wav").write_bytes(whole[: len(whole) // 2])
    soundfile.write(root / "drum" / "silent.wav", np.zeros(N_SAMPLES), RATE)
    manifest = prepare(open_folder(root), tmp_path / "out", SMALL, workers=1)
    reasons = {each.origin: each.reason for each in manifest.skipped}
    assert set(reasons) == {"bell/empty.wav", "bell/text.wav", "drum/silent.wav"}
    assert not [reason for reason in reasons.values() if str(tmp_path) in reason], "the origin is said already"
    noted = {clip.origin: clip.warnings for clip in manifest.clips.rows() if clip.warnings}
    assert list(noted) == ["drum/cut.wav"]
    assert noted["drum/cut.wav"][0].startswith("cut off")


def test_strict_raises_at_the_first_unusable_item_in_order_and_leaves_no_manifest(clips, tmp_path):
    source = Faulty(clips, raising=(("horn/001.wav", ValueError), ("drum/020.wav", OSError)))
    with pytest.raises(SchurganError, match=r"^drum/020.wav: as commanded$"):
        prepare(source, tmp_path, SMALL, shard_clips=16, workers=1, strict=True)
    assert not (tmp_path / "manifest.json").exists()
    assert not list(tmp_path.glob(".*.partial"))
    prepare(source, tmp_path, SMALL, shard_clips=16, workers=1)
    assert len(Shards(tmp_path)) == 78


def test_strict_refuses_what_the_source_itself_could_not_list(clips, tmp_path):
    source = Faulty(clips, skipped=(("bell/notes.txt", "not a sound file"),))
    with pytest.raises(SchurganError, match=r"bell/notes.txt: not a sound file"):
        prepare(source, tmp_path, SMALL, strict=True)
    assert prepare(source, tmp_path, SMALL, workers=1).skipped[0].origin == "bell/notes.txt"


def test_a_class_with_nothing_left_is_left_out_and_the_others_are_numbered_anew(clips, tmp_path):
    source = Faulty(clips, raising=tuple((f"bell/{number:03}.wav", ValueError) for number in range(24)))
    manifest = prepare(source, tmp_path, SMALL, shard_clips=16, workers=1)  # the first shard has no clip at all
    assert manifest.classes == ("drum", "horn")
    assert manifest.histogram == (30, 26)
    assert any('class "bell"' in warning for warning in manifest.warnings)
    assert not (tmp_path / "images-00000.npy").exists()
    shards = Shards(tmp_path)
    assert {origin.split("/")[0] for origin in np.asarray(shards.origins)[shards.labels == 1]} == {"horn"}
    assert verify(shards.folder) == []


def test_nothing_usable_at_all_is_an_error_with_the_first_reason_and_an_empty_folder(clips, tmp_path):
    source = Faulty(clips, raising=tuple((item.origin, ValueError) for item in open_folder(clips).items()))
    with pytest.raises(
        SchurganError, match=r"none of 80 recordings can be used; the first, bell/000.wav: as commanded"
    ):
        prepare(source, tmp_path, SMALL, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_the_same_sound_under_two_names_is_named_and_two_classes_are_said(tmp_path):
    root = write_clips(tmp_path / "clips", {"bell": 11, "drum": 11})
    samples, _ = soundfile.read(root / "bell" / "004.wav", dtype="int16")
    soundfile.write(root / "drum" / "copy.flac", samples, RATE)
    (warning,) = prepare(open_folder(root), tmp_path / "out", SMALL, workers=1).warnings
    assert warning == "the same sound 2 times in different classes: bell/004.wav, drum/copy.flac"


def test_one_class_few_clips_and_near_silence_are_warned_of(tmp_path):
    root = write_clips(tmp_path / "clips", {"bell": 4})
    samples, _ = soundfile.read(root / "bell" / "000.wav")
    soundfile.write(root / "bell" / "faint.wav", 5e-4 * samples / np.abs(samples).max(), RATE, subtype="FLOAT")
    warnings = prepare(open_folder(root), tmp_path / "out", SMALL, workers=1).warnings
    assert [warning.split(":")[0] for warning in warnings[:2]] == ['only one class, "bell"', 'class "bell"']
    assert "5 clips" in warnings[1]
    assert warnings[2].startswith("nearly silent")
    assert warnings[2].endswith("bell/faint.wav")


def test_progress_counts_every_item_and_the_seconds_of_sound(clips, tmp_path):
    calls: list[tuple[int, int, float]] = []
    source = Faulty(clips, raising=(("bell/003.wav", ValueError),))
    prepare(source, tmp_path, SMALL, shard_clips=32, workers=1, progress=lambda *call: calls.append(call))
    assert [done for done, _, _ in calls] == [0, 16, 32, 48, 64, 80]
    assert {total for _, total, _ in calls} == {80}
    assert calls[-1][2] == pytest.approx(79 * 0.5)


def test_the_summary_shows_the_histogram_the_warnings_and_what_was_skipped(clips, tmp_path):
    source = Faulty(clips, raising=tuple((f"drum/{number:03}.wav", ValueError) for number in range(15)))
    lines = summary(prepare(source, tmp_path, SMALL, workers=1), width=26, most=3)
    assert lines[:3] == ["bell  24  " + "█" * 24, "drum  15  " + "█" * 15, "horn  26  " + "█" * 26]
    assert lines[3] == "65 clips of 3 classes, 32 s of sound"
    assert lines[-4] == "skipped: drum/000.wav: as commanded"
    assert "12 more skipped" in lines[-1]


def test_the_sound_that_is_counted_is_what_was_kept_without_padding_while_it_is_prepared_too(tmp_path):
    root = write_clips(tmp_path / "clips", {"bell": 11})
    soundfile.write(root / "bell" / "long.wav", np.random.default_rng(0).normal(0, 0.1, 5 * RATE), RATE)
    soundfile.write(root / "bell" / "short.wav", np.random.default_rng(1).normal(0, 0.1, RATE // 4), RATE)
    calls: list[tuple[int, int, float]] = []
    manifest = prepare(open_folder(root), tmp_path / "out", SMALL, workers=1, progress=lambda *call: calls.append(call))
    assert manifest.seconds == calls[-1][2] == pytest.approx(12 * N_SAMPLES / RATE + 0.25)
    assert "13 clips of 1 class, 6 s of sound" in summary(manifest)


@pytest.mark.skipif(sys.platform != "linux", reason="file names of arbitrary bytes")
def test_names_in_any_script_and_of_any_bytes_reach_the_manifest(tmp_path):
    root = write_clips(tmp_path / "clips", {"bell": 11, "Glöckchen 鐘": 11})
    os.rename(os.fsencode(root / "bell" / "000.wav"), os.fsencode(root / "bell") + b"/caf\xe9.wav")
    manifest = prepare(open_folder(root), tmp_path / "out", SMALL, workers=1)
    assert "Glöckchen 鐘" in manifest.classes
    assert "Glöckchen 鐘" in json.loads((tmp_path / "out" / "manifest.json").read_bytes())["classes"]
    assert Manifest.load(tmp_path / "out") == manifest
    assert len(manifest) == 22 - len(manifest.skipped)


def test_the_python_call_makes_what_the_command_makes(call, clips, tmp_path):
    folder = schurgan.prepare(clips, out=tmp_path / "python", size=32, seconds=0.5, workers=1)
    assert folder == tmp_path / "python"
    options = ("--size", 32, "--seconds", 0.5, "--workers", 1)
    assert call("prepare", "folder", clips, "--out", tmp_path / "command", *options).status == 0
    assert checksums(folder) == checksums(tmp_path / "command")


def test_the_python_call_takes_a_source_by_name_or_as_an_object(clips, tmp_path, monkeypatch):
    options = {"size": 16, "workers": 1}
    named = schurgan.prepare("soundscape", out=tmp_path / "named", seconds=0.5, **options)
    assert Manifest.load(named).n_samples == 8000
    own = schurgan.prepare(
        Faulty(clips), out=tmp_path / "own", seconds=0.25, sample_rate=8000, scale="linear", **options
    )
    assert (Manifest.load(own).n_samples, Manifest.load(own).dtype) == (2000, "float16")
    with pytest.raises(SchurganError, match="esc50"):
        schurgan.prepare("esc50", out=tmp_path / "none")
    with pytest.raises(ValueError, match="seconds"):
        schurgan.prepare(clips, out=tmp_path / "none", seconds=0.01)
    monkeypatch.chdir(clips.parent)
    clips.parent.joinpath("esc50").symlink_to(clips)  # a folder that is called like a source
    assert len(Manifest.load(schurgan.prepare("esc50", out=tmp_path / "folder", seconds=0.5, **options))) == 80
