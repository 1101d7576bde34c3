"""Data sets on disk: what is listed, in which order, what is left out and why, and what a wrong folder is told."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from layouts import (
    ESC50_HEADER,
    ESC50_ROWS,
    cifar10,
    clip,
    common_voice,
    esc50,
    urbansound8k,
)

from schurgan.audio.files import AudioError
from schurgan.core.errors import SchurganError
from schurgan.data.sources import SOURCES, Item, open_source


def sentence(name: str, *args: object, **options: object) -> str:
    with pytest.raises(SchurganError) as caught:
        open_source(name, *args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- a folder for each class ------------------------------------------------------------------------------------------


def test_each_first_folder_is_a_class_and_what_lies_deeper_belongs_to_it(tmp_path):
    for name in ("dog/b.wav", "dog/a.WAV", "dog/outside/far away/c.wav", "Großer Vogel 鳥/x y.wav", "cat/a.wav"):
        clip(tmp_path / name)
    source = open_source("folder", tmp_path)
    assert source.classes() == ("Großer Vogel 鳥", "cat", "dog")
    assert source.items() == [
        Item("Großer Vogel 鳥/x y.wav", "Großer Vogel 鳥"),
        Item("cat/a.wav", "cat"),
        Item("dog/a.WAV", "dog"),
        Item("dog/b.wav", "dog"),
        Item("dog/outside/far away/c.wav", "dog"),
    ]
    assert source.skipped == ()
    assert [source.load(item, 8_000).shape for item in source.items()] == [(800,)] * 5


@pytest.mark.parametrize(
    ("folders", "folds", "held_out"),
    [
        (("train", "val", "test"), (1, 2, 3), (2, 3)),
        (("fold1", "fold10"), (1, 10), ()),
        (("Train", "Validation"), (1, 2), (2,)),
        (("fold_01",), (1,), ()),
    ],
)
@pytest.mark.parametrize("below", [True, False])
def test_folders_named_like_the_parts_of_a_split_are_folds(tmp_path, folders, folds, held_out, below):
    for folder in folders:
        inner = f"{folder}/dog" if below else f"dog/{folder}"
        clip(tmp_path / inner / "a.wav")
    source = open_source("folder", tmp_path)
    assert source.classes() == ("dog",)
    assert {item.fold for item in source.items()} == set(folds)
    assert source.val_folds == held_out


@pytest.mark.parametrize("folders", [("train", "horn"), ("0", "1"), ("test tone", "noise")])
def test_classes_with_other_names_beside_them_are_not_taken_for_parts_of_a_split(tmp_path, folders, recwarn):
    for folder in folders:
        clip(tmp_path / folder / "a.wav")
    open_source("folder", tmp_path)
    assert not recwarn.list


def test_a_class_is_one_however_the_marks_in_the_names_of_its_folders_were_typed(tmp_path):
    clip(tmp_path / "\u00e9tude" / "a.wav")
    clip(tmp_path / "e\u0301tude" / "b.wav")
    source = open_source("folder", tmp_path)
    assert source.classes() == ("\u00e9tude",)
    assert [len(source.load(item, 8_000)) for item in source.items()] == [800, 800]


def test_what_is_not_a_recording_is_skipped_with_a_reason(tmp_path):
    clip(tmp_path / "dog" / "a.wav")
    clip(tmp_path / "dog" / ".hidden.wav")
    clip(tmp_path / ".cache" / "a.wav")
    clip(tmp_path / "loose.wav")
    (tmp_path / "dog" / "notes.txt").write_text("woof")
    (tmp_path / "README.md").write_text("dogs")
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog" / "gone.wav").symlink_to("nowhere.wav")
    os.mkfifo(tmp_path / "dog" / "pipe.wav")
    source = open_source("folder", tmp_path)
    assert source.items() == [Item("dog/a.wav", "dog")]
    assert dict(source.skipped) == {
        ".cache": "hidden",
        "README.md": "not an audio file by its name",
        "cat": "an empty folder",
        "dog/.hidden.wav": "hidden",
        "dog/gone.wav": "a broken link",
        "dog/notes.txt": "not an audio file by its name",
        "dog/pipe.wav": "not a regular file",
        "loose.wav": "lies outside the class folders",
    }


def test_a_recording_that_does_not_decode_is_listed_and_fails_when_loaded(tmp_path):
    clip(tmp_path / "dog" / "a.wav")
    (tmp_path / "dog" / "b.wav").write_text("not sound")
    source = open_source("folder", tmp_path)
    with pytest.raises(AudioError, match=r"dog/b\.wav: not an audio file \(text\)"):
        source.load(source.items()[1], 16_000)


def test_loops_of_links_end_and_links_to_other_folders_are_followed(tmp_path):
    clip(tmp_path / "elsewhere" / "far.wav")
    clip(tmp_path / "root" / "dog" / "deep" / "a.wav")
    dog = tmp_path / "root" / "dog"
    (dog / "deep" / "up").symlink_to(dog, target_is_directory=True)
    (dog / "top").symlink_to(tmp_path / "root", target_is_directory=True)
    (dog / "above").symlink_to(tmp_path, target_is_directory=True)
    (dog / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (dog / "itself.wav").symlink_to("itself.wav")
    source = open_source("folder", tmp_path / "root")
    assert [item.origin for item in source.items()] == ["dog/deep/a.wav", "dog/linked/far.wav"]
    assert {origin for origin, _ in source.skipped} == {"dog/above", "dog/deep/up", "dog/itself.wav", "dog/top"}


def test_names_that_are_not_utf_8_are_skipped_and_can_still_be_told(tmp_path):
    clip(tmp_path / "dog" / "a.wav")
    try:
        shutil.copy(tmp_path / "dog" / "a.wav", os.fsencode(tmp_path / "dog") + b"/b\xff.wav")
        os.mkdir(os.fsencode(tmp_path) + b"/c\xff")
    except OSError:
        pytest.skip("this file system takes no such names")
    source = open_source("folder", tmp_path)
    assert len(source.items()) == 1
    assert [reason for _, reason in source.skipped] == ["its name is not valid UTF-8"] * 2
    json.dumps(source.skipped, ensure_ascii=False).encode()


def test_a_description_is_the_same_anywhere_and_changes_with_the_files(tmp_path):
    clip(tmp_path / "one" / "dog" / "a.wav")
    clip(tmp_path / "one" / "dog" / "b.wav")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    described = open_source("folder", tmp_path / "one").describe()
    assert described == open_source("folder", tmp_path / "two").describe()
    assert str(tmp_path) not in json.dumps(described)
    (tmp_path / "two" / "dog" / "notes.txt").write_text("not used")
    assert described == open_source("folder", tmp_path / "two").describe()
    clip(tmp_path / "two" / "dog" / "b.wav", seconds=0.2)
    resized = open_source("folder", tmp_path / "two").describe()
    (tmp_path / "two" / "dog" / "b.wav").rename(tmp_path / "two" / "dog" / "c.wav")
    renamed = open_source("folder", tmp_path / "two").describe()
    assert len({json.dumps(value) for value in (described, resized, renamed)}) == 3


def test_folders_without_recordings_are_told_what_would_do(tmp_path):
    (tmp_path / "empty").mkdir()
    clip(tmp_path / "flat" / "a.wav")
    clip(tmp_path / "flat" / "b.wav")
    clip(tmp_path / "file.wav")
    (tmp_path / "texts" / "dog").mkdir(parents=True)
    (tmp_path / "texts" / "dog" / "a.txt").write_text("woof")
    assert "an empty folder, not recordings; a folder of recordings" in sentence("folder", tmp_path / "empty")
    assert "2 sound files but no folders of them" in sentence("folder", tmp_path / "flat")
    assert "no sound files found in it" in sentence("folder", tmp_path / "texts")
    assert "no such file or folder" in sentence("folder", tmp_path / "missing")
    assert "a file, not recordings; a folder of recordings" in sentence("folder", tmp_path / "file.wav")
    assert "no such file or folder" in sentence("folder", "nul\0")
    assert "no folder given; it needs a folder of recordings" in sentence("folder")


# --- ESC-50 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [".", "ESC-50-master", "ESC-50"])
def test_esc50_is_read_with_its_folds_and_its_classes_in_the_order_of_targets(tmp_path, inner):
    esc50(tmp_path / "data" / inner, ESC50_ROWS)
    source = open_source("esc50", tmp_path / "data")
    assert source.classes() == ("dog", "rooster", "sea_waves")
    assert source.items() == [
        Item("audio/1-1-A-7.wav", "rooster", 1, "1"),
        Item("audio/1-2-A-0.wav", "dog", 1, "2"),
        Item("audio/5-3-A-0.wav", "dog", 5, "3"),
        Item("audio/2-4-B-11.wav", "sea_waves", 2, "4"),
    ]
    assert source.skipped == ()
    assert source.load(source.items()[0], 16_000).shape == (1_600,)


def test_esc10_is_the_rows_marked_so_and_another_description(tmp_path):
    esc50(tmp_path, ESC50_ROWS)
    source = open_source("esc50", tmp_path, subset="esc10")
    assert source.classes() == ("dog", "sea_waves")
    assert len(source.items()) == 3
    assert source.skipped == ()
    assert source.describe() != open_source("esc50", tmp_path).describe()


def test_rows_without_a_file_and_files_without_a_row_are_skipped_with_a_reason(tmp_path):
    esc50(tmp_path, ESC50_ROWS, missing=("1-1-A-7.wav",))
    clip(tmp_path / "audio" / "mine.wav")
    source = open_source("esc50", tmp_path)
    assert source.classes() == ("dog", "sea_waves")
    assert dict(source.skipped) == {
        "audio/1-1-A-7.wav": "no such file, though meta/esc50.csv names it",
        "audio/mine.wav": "meta/esc50.csv does not name it",
    }


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("x.wav,six,0,dog,True,1,A", 'line 6, column "fold": "six" given, a whole number of 1 or more is needed'),
        ("x.wav,0,0,dog,True,1,A", 'column "fold": "0" given'),
        ("x.wav,1,-1,dog,True,1,A", 'column "target": "-1" given, a whole number of 0 or more is needed'),
        ("x.wav,1,3,dog,True,1,A", 'column "target": "3" given, 0, as in the rows of "dog" before, is needed'),
        (
            "x.wav,1,0,cow,True,1,A",
            'column "category": "cow" given, "dog", as in the rows of target 0 before, is needed',
        ),
        ("x.wav,1,9,,True,1,A", 'column "category": "" given, a class name is needed'),
        ("x.wav,1,0,dog,yes,1,A", 'column "esc10": "yes" given, True or False is needed'),
        ("../x.wav,1,0,dog,True,1,A", 'column "filename": "../x.wav" given, the name of a file in audio/ is needed'),
        ("1-2-A-0.wav,1,0,dog,True,1,A", 'column "filename": "1-2-A-0.wav" given, a name other than that of line 3'),
        ("x.wav", 'column "fold": nothing given'),
        ('x.wav,1,0,"dog,True,1,A', "cannot be read"),
    ],
)
def test_a_broken_row_is_told_by_file_line_and_column(tmp_path, row, told):
    esc50(tmp_path, ESC50_ROWS)
    with open(tmp_path / "meta" / "esc50.csv", "a") as table:
        table.write(row + "\n")
    message = sentence("esc50", tmp_path)
    assert message.startswith(f"{tmp_path / 'meta' / 'esc50.csv'} ")
    assert told in message


def test_a_table_without_its_columns_or_of_other_bytes_is_told(tmp_path):
    esc50(tmp_path / "columns", ["a.wav,1,dog"], header="filename,fold,category")
    told = sentence("esc50", tmp_path / "columns")
    assert "line 1: no column target, esc10; filename,fold" in told
    assert told.endswith("the header is filename,fold,category")
    esc50(tmp_path / "bytes", ESC50_ROWS)
    (tmp_path / "bytes" / "meta" / "esc50.csv").write_bytes(ESC50_HEADER.encode() + b"\n\xff\xfe\n")
    assert "not UTF-8 text" in sentence("esc50", tmp_path / "bytes")
    esc50(tmp_path / "nothing", ESC50_ROWS, missing=tuple(row.split(",")[0] for row in ESC50_ROWS))
    assert "none of the recordings" in sentence("esc50", tmp_path / "nothing")
    clip(tmp_path / "other" / "dog" / "a.wav")
    assert "no meta/esc50.csv in it" in sentence("esc50", tmp_path / "other")


@pytest.mark.skipif("SCHURGAN_ESC50" not in os.environ, reason="SCHURGAN_ESC50 does not name a copy of ESC-50")
def test_the_real_esc10_has_10_classes_of_40_in_5_equal_folds():
    source = open_source("esc50", os.environ["SCHURGAN_ESC50"], subset="esc10")
    items = source.items()
    assert len(source.classes()) == 10
    assert {label: sum(item.label == label for item in items) for label in source.classes()} == dict.fromkeys(
        source.classes(), 40
    )
    assert [sum(item.fold == fold for item in items) for fold in range(1, 6)] == [80] * 5
    assert all(source.load(item, 16_000).numel() > 0 for item in items[::20])


# --- all of them ------------------------------------------------------------------------------------------------------


def opened(name: str, root: Path):
    if name == "folder":
        clip(root / "dog" / "a.wav")
    makers = {"esc50": esc50, "urbansound8k": urbansound8k, "common_voice": common_voice, "cifar10": cifar10}
    if name in makers:
        makers[name](root / "data")
        return open_source(name, root / "data")
    return open_source(name) if SOURCES[name].root is None else open_source(name, root)


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_keeps_the_protocol_and_survives_pickling(tmp_path, name):
    source = opened(name, tmp_path)
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    assert source.name == name
    assert source.describe()["source"] == name
    json.dumps(source.describe(), allow_nan=False)
    items = source.items()
    assert items == copy.items()
    assert len({item.origin for item in items}) == len(items)
    assert {item.label for item in items} == set(source.classes())
    if source.kind == "images":
        image = source.load_image(items[0])
        assert image.dtype == torch.uint8
        assert image.ndim == 3
        assert image.shape[0] in (1, 3)
        torch.testing.assert_close(copy.load_image(items[0]), image, rtol=0, atol=0)
        return
    assert source.kind == "audio"
    sound = source.load(items[0], 16_000)
    assert sound.dtype == torch.float32
    assert sound.ndim == 1
    torch.testing.assert_close(copy.load(items[0], 16_000), sound, rtol=0, atol=0)


def test_unknown_sources_and_options_are_told_the_nearest_name(tmp_path):
    clip(tmp_path / "dog" / "a.wav")
    assert sentence("foldr", tmp_path) == 'source "foldr": no such source; did you mean "folder"?'
    assert "one of folder, esc50, urbansound8k, common_voice, cifar10, soundscape would do" in sentence("zzz", tmp_path)
    assert sentence("esc50", tmp_path, subst="esc10") == 'source "esc50": no option "subst"; did you mean "subset"?'
    assert 'source "folder": no option "seed"; one of kind, table, class_from would do' in sentence(
        "folder", tmp_path, seed=1
    )
    assert 'no kind "image"; did you mean "images"?' in sentence("folder", tmp_path, kind="image")
    assert 'did you mean "esc10"?' in sentence("esc50", tmp_path, subset="esc1")
    assert "reads no folder" in sentence("soundscape", tmp_path)
