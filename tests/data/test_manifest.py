from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from tones import HeldOutTones, edit_manifest, prepare_tones, tones

from schurgan.core.errors import SchurganError
from schurgan.data import Manifest, Shards


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A set that a test may damage."""
    return tones(tmp_path / "own")


def test_a_flipped_bit_of_a_manifest_is_found_and_an_older_one_has_no_checksum(own):
    path = own / "manifest.json"
    whole, manifest = path.read_bytes(), Manifest.load(own)
    for position in range(0, len(whole), 29):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with pytest.raises(SchurganError, match=r"manifest.json: "):
            Manifest.load(own)
    path.write_bytes(whole)
    edit_manifest(own, version=1)
    assert Manifest.load(own) == manifest.model_copy(update={"version": 1})


def test_a_folder_without_a_manifest_says_how_to_make_one(tmp_path):
    with pytest.raises(SchurganError, match="an empty folder, not prepared data"):
        Shards(tmp_path)


def test_the_plan_of_a_set_is_what_it_was_before_manifests_had_checksums(own):
    assert Manifest.load(own).plan.startswith("99f77e5a0456670d")


def test_a_manifest_is_read_back_as_it_was_written(own):
    manifest = Manifest.load(own)
    before = (own / "manifest.json").read_bytes()
    manifest.save(own)
    assert (own / "manifest.json").read_bytes() == before
    assert Manifest.load(own) == manifest


def test_folds_that_a_source_holds_out_are_the_datas_and_are_written_only_where_there_are_some(own, tmp_path):
    assert Shards(own).val_folds == ()
    assert "val_folds" not in (own / "manifest.json").read_text()
    shards = Shards(prepare_tones(HeldOutTones(), tmp_path / "held out"))
    assert shards.manifest.val_folds == (2, 5, 9)
    assert shards.val_folds == (2, 5)  # no clip is in fold 9
    assert shards.select(folds=[1, 5]).val_folds == (5,)
    assert shards.fingerprint == Shards(own).fingerprint


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "something else", "version": 7}, "format: 'something else' given, 'schurgan-shards' is needed"),
        ({"version": 3}, "version: 3 given, 2 or 1 is needed"),
        ({"surprise": 1}, "surprise: Extra inputs"),
        ({"dtype": "int8"}, "dtype: 'int8' given"),
        ({"classes": ["low", "middle", "low"]}, 'classes: .*"low" is the name of several'),
        ({"shape": [1, 32, 10**9]}, "shape.2: 1000000000 given"),
        ({"planes": "1"}, "planes: '1' given"),
        ({"histogram": [14, 16, 15]}, "the histogram does not count the clips"),
        ({"shards": []}, "shards: "),
        ({"references": [1.0]}, "1 references for 3 classes"),
        ({"planes": 2}, "2 planes for 1 channels"),
        ({"transform": {}}, "transform: .*Field required"),
        ({"transform": {"transform": "wavelet", "size": 32, "channels": 1, "scale": "log_real"}}, "averaged the real"),
    ],
)
def test_a_manifest_that_is_foreign_newer_or_damaged_is_one_sentence(own, fields, message):
    edit_manifest(own, **fields)
    with pytest.raises(SchurganError, match=message) as raised:
        Shards(own)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"3", b"null"])
def test_what_is_no_json_or_no_object_is_one_sentence(own, content):
    (own / "manifest.json").write_bytes(content)
    with pytest.raises(SchurganError, match=r"manifest.json: (damaged|not a manifest)"):
        Shards(own)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("label", [0] * 44, "columns of clips differ in length"),
        ("label", [0, 7] + [1] * 43, "labels reach to 7, there are 3 classes"),
        ("label", [0, 10**30] + [1] * 43, r"clips.label.1: "),
        ("gain", ["loud"] * 45, r"clips.gain.0: 'loud' given"),
    ],
)
def test_columns_of_clips_that_do_not_fit_are_found(own, column, value, message):
    clips = json.loads((own / "manifest.json").read_text())["clips"]
    edit_manifest(own, clips=clips | {column: value})
    with pytest.raises(SchurganError, match=message):
        Shards(own)


def test_a_manifest_cannot_name_files_outside_its_folder(own):
    shards = json.loads((own / "manifest.json").read_text())["shards"]
    shards[0]["images"]["file"] = "../images-00000.npy"
    edit_manifest(own, shards=shards)
    with pytest.raises(SchurganError, match=r"shards.0.images.file: "):
        Shards(own)


def test_a_column_is_read_at_least_twice_as_fast_as_rows_of_objects(own):
    """The reason for the layout, measured against itself: both are validated by pydantic, in the same process."""
    from pydantic import TypeAdapter

    from schurgan.data.manifest import Clip, Clips

    row = next(Manifest.load(own).clips.rows())
    columns = Clips.of([row] * 20_000).model_dump_json().encode()
    rows = json.dumps([row._asdict()] * 20_000).encode()
    adapter = TypeAdapter(list[Clip])

    def best(parse, content: bytes) -> float:
        times = []
        for _ in range(5):
            start = time.process_time()
            assert parse(content)
            times.append(time.process_time() - start)
        return min(times)

    assert len(columns) < 0.6 * len(rows)
    assert 2 * best(Clips.model_validate_json, columns) < best(adapter.validate_json, rows)
