from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from schurgan.audio import Spectrogram
from schurgan.core.errors import SchurganError
from schurgan.data import Shards, prepare
from schurgan.data.export import export_webdataset
from schurgan.data.sources import open_source


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight classes of three soundscapes, of which two pitch-shifted copies each are kept."""
    out = tmp_path_factory.mktemp("made")
    source = open_source("soundscape", per_class=3, seconds=0.5)
    spectrogram = Spectrogram(size=16, channels=1, n_samples=8000)
    prepare(source, out, spectrogram, shard_clips=10, pitches=(0.75, 1.5), workers=1)
    return out


def members(tars: list[Path]) -> dict[str, bytes]:
    found = {}
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                found[member.name] = tar.extractfile(member).read()
    return found


def test_every_clip_is_an_image_a_class_and_a_record_in_tar_files_of_the_size_asked_for(made, tmp_path):
    shards = Shards(made)
    tars = export_webdataset(shards, tmp_path / "tars", clips_per_tar=25)
    assert [path.name for path in tars] == ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    found = members(tars)
    assert len(found) == 3 * 72
    for clip in (0, 25, 71):
        image = np.load(io.BytesIO(found[f"{clip:09}.npy"]))
        assert np.array_equal(image, shards.stored([clip])[0])
        assert int(found[f"{clip:09}.cls"]) == shards.labels[clip]
        record = json.loads(found[f"{clip:09}.json"])
        assert record["class"] == shards.classes[shards.labels[clip]]
        assert record["origin"] == shards.origins[clip]
        assert record.get("parent") == shards.parents[clip]


def test_a_power_cut_cannot_undo_an_export(made, tmp_path, renamed_and_synced):
    export_webdataset(Shards(made), tmp_path / "tars")
    assert renamed_and_synced(tmp_path / "tars")


def test_the_index_says_what_is_in_the_tar_files(made, tmp_path):
    shards = Shards(made).select(classes=["rain", "bark"], augmented=False)
    export_webdataset(shards, tmp_path / "tars")
    about = json.loads((tmp_path / "tars" / "dataset.json").read_bytes())
    assert (about["classes"], about["count"], about["tars"]) == (["rain", "bark"], 6, ["shard-000000.tar"])
    assert Spectrogram(**about["transform"]).config == shards.manifest.transform
    labels = [
        int(content) for name, content in members([tmp_path / "tars" / "shard-000000.tar"]).items() if ".cls" in name
    ]
    assert labels == shards.labels.tolist()


def test_recordings_are_exported_to_the_bit_when_asked_for(made, tmp_path):
    shards = Shards(made)
    found = members(export_webdataset(shards, tmp_path / "tars", keep_audio=True))
    stored = np.concatenate([np.load(path) for path in sorted(made.glob("audio-*.npy"))])
    assert np.array_equal(np.load(io.BytesIO(found["000000040.audio.npy"])), stored[40])


def test_equal_channels_are_all_there_for_readers_that_know_nothing_of_planes(tmp_path):
    source = open_source("soundscape", per_class=1, seconds=0.5)
    prepare(source, tmp_path / "in", Spectrogram(size=16, channels=3, n_samples=8000), keep_audio=False, workers=1)
    found = members(export_webdataset(Shards(tmp_path / "in"), tmp_path / "tars"))
    assert np.load(io.BytesIO(found["000000000.npy"])).shape == (3, 16, 16)


def test_the_same_clips_give_the_same_bytes(made, tmp_path):
    once, again = (export_webdataset(Shards(made), tmp_path / name, clips_per_tar=30) for name in ("a", "b"))
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]


def test_a_folder_with_anything_in_it_is_left_alone_and_an_empty_one_is_used(made, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "shard-000000.tar").write_bytes(b"mine")
    with pytest.raises(SchurganError, match="full: is there already; choose another folder"):
        export_webdataset(Shards(made), tmp_path / "full")
    assert (tmp_path / "full" / "shard-000000.tar").read_bytes() == b"mine"
    (tmp_path / "empty").mkdir()
    assert export_webdataset(Shards(made), tmp_path / "empty")[0].exists()


def test_a_full_disk_and_an_interrupt_leave_nothing_and_a_killed_export_is_in_nobodys_way(
    made, tmp_path, full_disk, monkeypatch
):
    with full_disk(after=3), pytest.raises(SchurganError, match=r"tars: cannot be written .No space left"):
        export_webdataset(Shards(made), tmp_path / "tars", clips_per_tar=10)
    assert list(tmp_path.iterdir()) == []

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Shards, "record", interrupt)
        with pytest.raises(KeyboardInterrupt):
            export_webdataset(Shards(made), tmp_path / "tars")
    assert list(tmp_path.iterdir()) == []

    (tmp_path / ".tars.partial").mkdir()
    (tmp_path / ".tars.partial" / "shard-000007.tar").write_bytes(b"half")
    export_webdataset(Shards(made), tmp_path / "tars")
    assert sorted(path.name for path in (tmp_path / "tars").iterdir()) == ["dataset.json", "shard-000000.tar"]
    assert [path.name for path in tmp_path.iterdir()] == ["tars"]


def test_no_clips_a_tar_file_is_refused(made, tmp_path):
    with pytest.raises(ValueError, match="clips_per_tar 0: 1 or more"):
        export_webdataset(Shards(made), tmp_path / "tars", clips_per_tar=0)


def test_the_webdataset_library_reads_it(made, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    shards = Shards(made)
    tars = export_webdataset(shards, tmp_path / "tars", clips_per_tar=30, keep_audio=True)
    samples = list(webdataset.WebDataset([str(path) for path in tars], shardshuffle=False).decode())
    assert len(samples) == len(shards)
    for clip in (0, 30, 71):
        assert torch.equal(torch.from_numpy(samples[clip]["npy"]), torch.from_numpy(shards.stored([clip])[0]))
        assert samples[clip]["cls"] == shards.labels[clip]
        assert samples[clip]["json"]["origin"] == shards.origins[clip]
        assert samples[clip]["audio.npy"].shape == (8000,)
