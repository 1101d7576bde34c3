from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from tones import SMALL, Tones, edit_manifest, tones

from schurgan.audio import Spectrogram
from schurgan.core.errors import SchurganError
from schurgan.data import Shards, prepare
from schurgan.data.verify import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tones(tmp_path_factory.mktemp("made"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A set that a test may damage."""
    return tones(tmp_path / "own")


def test_images_come_in_the_order_asked_for_across_shards_and_as_often(made):
    shards = Shards(made)
    stored = np.concatenate([np.load(made / f"images-{number:05}.npy") for number in range(5)])
    wanted = [44, 0, 19, 20, 0, 9, 10]
    truth = torch.from_numpy(stored[wanted].astype(np.float64) / 127.5 - 1)
    images = shards.images(wanted)
    assert images.dtype == torch.float32
    assert (images - truth).abs().max() < 1e-6  # one rounding to float32
    assert shards.images([]).shape == (0, 1, 32, 32)


def test_an_image_and_a_recording_of_one_number_belong_together(made):
    shards = Shards(made)
    for index in (0, 17, 44):
        again = SMALL.encode(shards.recording(index)[None])[0]
        # Near the floor of −80 dB the recording's own 16 bits are heard; 0.02 is 0.8 dB.
        assert (again - shards.images([index])).abs().mean() < 0.02
        assert shards.recording(index).abs().max() == 1


def test_labels_folds_and_origins_are_the_sources_in_its_order(made):
    shards, items = Shards(made), Tones().items()
    assert len(shards) == 45
    assert shards.shape == (1, 32, 32)
    assert shards.labels.dtype == np.int64
    assert [shards.classes[label] for label in shards.labels] == [item.label for item in items]
    assert list(shards.folds) == [item.fold for item in items]
    assert list(shards.origins) == [item.origin for item in items]


def test_a_selection_keeps_its_clips_and_numbers_its_classes_in_the_order_given(made):
    shards = Shards(made)
    view = shards.select(classes=["high", "low"], exclude_folds=[2, 3])
    kept = [item for item in Tones().items() if item.label != "middle" and item.fold not in (2, 3)]
    assert list(view.origins) == [item.origin for item in kept]
    assert view.classes == ("high", "low")
    assert [view.classes[label] for label in view.labels] == [item.label for item in kept]
    assert view.references == (shards.references[2], shards.references[0])
    index = next(i for i, origin in enumerate(shards.origins) if origin == kept[7].origin)
    assert torch.equal(view.images([7]), shards.images([index]))
    assert torch.equal(view.recording(7), shards.recording(index))
    assert len(shards) == 45, "the set itself is as it was"


def test_a_record_of_a_selection_is_the_manifests_with_the_selections_label(made):
    view = Shards(made).select(classes=["high", "low"])
    record, item = view.record(1), next(item for item in Tones().items() if item.origin == view.origins[1])
    assert (record.origin, record.fold, view.classes[record.label]) == (item.origin, item.fold, item.label)
    assert record.parent is None
    assert record.seconds == 0.5


def test_selections_of_selections_narrow_and_folds_split_the_set(made):
    shards = Shards(made)
    inner = shards.select(folds=[1, 2]).select(classes=["low"]).select(exclude_folds=[2])
    assert list(inner.origins) == [item.origin for item in Tones().items() if item.fold == 1 and item.label == "low"]
    apart = [*shards.select(folds=[4]).origins, *shards.select(exclude_folds=[4]).origins]
    assert sorted(apart) == sorted(shards.origins)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"classes": ["hihg"]}, 'class "hihg".*did you mean "high"'),
        ({"folds": [6]}, "fold 6.*there are 1, 2, 3, 4, 5"),
        ({"exclude_folds": [1, 2, 3, 4, 5]}, "no clip is left"),
        ({"classes": []}, "no clip is left"),
    ],
)
def test_a_selection_of_what_is_not_there_is_one_sentence(made, choice, message):
    with pytest.raises(SchurganError, match=message):
        Shards(made).select(**choice)


def test_batches_for_statistics_cover_the_set_once_in_order(made):
    shards = Shards(made)
    batches = list(shards.batches(16))
    assert [len(labels) for _, labels in batches] == [16, 16, 13]
    assert torch.equal(torch.cat([images for images, _ in batches]), shards.images(range(45)))
    assert torch.cat([labels for _, labels in batches]).tolist() == shards.labels.tolist()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
def test_no_file_stays_open_however_many_shards_are_read(made):
    shards = Shards(made)
    shards.images([0])
    before = len(os.listdir("/proc/self/fd"))
    everything = shards.images(range(45))
    for index in (0, 44, 12, 33, 25, 1):
        assert torch.equal(shards.images([index])[0], everything[index])
        shards.recording(index)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_shards_travel_to_other_processes(made):
    view = Shards(made).select(folds=[3])
    view.images([0])
    again = pickle.loads(pickle.dumps(view))
    assert again.fingerprint == view.fingerprint
    assert torch.equal(again.images([2]), view.images([2]))


def test_a_missing_and_a_truncated_shard_are_named_when_the_set_is_opened(own):
    os.truncate(own / "images-00003.npy", 5000)
    with pytest.raises(SchurganError, match=r"images-00003.npy: shorter"):
        Shards(own)
    (own / "images-00003.npy").unlink()
    with pytest.raises(SchurganError, match=r"images-00003.npy: missing"):
        Shards(own)


def test_a_shard_of_another_shape_in_the_place_of_a_file_is_named(own):
    path = own / "images-00001.npy"
    size = path.stat().st_size
    np.save(path, np.zeros((size - 128) // 8))
    assert path.stat().st_size == size
    with pytest.raises(SchurganError, match=r"images-00001.npy: .*other clips"):
        Shards(own).images([10])
    path.write_bytes(bytes(size))
    with pytest.raises(SchurganError, match=r"images-00001.npy: cannot be read as a shard"):
        Shards(own).images([10])


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_of_a_small_set_is_found_when_it_is_used_and_changes_nothing_later(own):
    flip(own / "images-00001.npy", -1)
    shards = Shards(own)
    before = shards.images([0])
    with pytest.raises(SchurganError, match=r"images-00001.npy: .*changed since it was written"):
        shards.images([10])
    flip(own / "images-00000.npy", -1)
    os.truncate(own / "images-00000.npy", 0)
    assert torch.equal(shards.images([0]), before)


@pytest.mark.parametrize("change", ["shrunk", "zeros", "flipped", "gone"])
def test_a_file_of_a_large_set_that_changes_under_its_map_is_one_sentence(own, monkeypatch, change):
    monkeypatch.setattr("schurgan.data.shards._SMALL", 0)
    shards, path = Shards(own), own / "images-00000.npy"
    shards.images([0])
    if change == "gone":
        path.unlink()
    elif change == "flipped":
        os.utime(path, ns=(1, 1))
        shards.images([0])  # another time with the same content is none
        flip(path, -1)
    else:
        size = path.stat().st_size
        os.truncate(path, 200)
        os.truncate(path, size if change == "zeros" else 200)
    with pytest.raises(SchurganError, match=r"images-00000.npy: "):
        shards.images([0])


def test_columns_first_are_not_read_as_rows_first(own):
    path = own / "images-00001.npy"
    np.save(path, np.asfortranarray(np.load(path)))
    shards = json.loads((own / "manifest.json").read_text())["shards"]
    shards[1]["images"] |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    edit_manifest(own, shards=shards)
    with pytest.raises(SchurganError, match=r"images-00001.npy: .*other clips than the manifest says"):
        Shards(own).images([10])


def test_a_fifo_in_the_place_of_a_manifest_or_a_shard_is_refused_at_once(own):
    for name, read in (("images-00000.npy", lambda: Shards(own).images([0])), ("manifest.json", lambda: Shards(own))):
        (own / name).unlink()
        os.mkfifo(own / name)
        with pytest.raises(SchurganError, match=name):
            read()


def test_the_fingerprint_tells_data_transform_and_selection_and_nothing_else(made, own, tmp_path):
    shards = Shards(made)
    prints = {
        "same": Shards(own).fingerprint,
        "all of it": shards.select(folds=[1, 2, 3, 4, 5]).fingerprint,
        "other sound": fingerprint(tmp_path / "a", Tones(shift=1.0), SMALL),
        "other floor": fingerprint(tmp_path / "b", Tones(), Spectrogram(size=32, n_samples=8000, floor_db=60)),
        "fold": shards.select(folds=[1]).fingerprint,
        "other fold": shards.select(folds=[2]).fingerprint,
        "renumbered": shards.select(classes=["middle", "low", "high"]).fingerprint,
    }
    assert prints["same"] == prints["all of it"] == shards.fingerprint
    assert len(set(prints.values())) == 6


def fingerprint(out: Path, source: Tones, spectrogram: Spectrogram) -> str:
    prepare(source, out, spectrogram, shard_clips=10, workers=1)
    return Shards(out).fingerprint


def test_a_set_without_recordings_says_so_when_one_is_asked_for(tmp_path):
    prepare(Tones(), tmp_path, SMALL, keep_audio=False, workers=1)
    assert verify(tmp_path) == []
    with pytest.raises(SchurganError, match="prepared without recordings"):
        Shards(tmp_path).recording(0)


def test_a_class_chosen_twice_is_refused(shards):
    with pytest.raises(SchurganError, match="each can be chosen once"):
        Shards(shards).select(classes=["rain", "rain"])
