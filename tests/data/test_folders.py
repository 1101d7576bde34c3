"""Folders and archives as people have them: what is taken, said, and left out."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from layouts import ESC50_ROWS, US8K_ROWS, clip, esc50, urbansound8k
from PIL import Image

import schurgan
from schurgan.core.errors import SchurganError, Undecided
from schurgan.data import Shards
from schurgan.data.sources import Item, open_source
from schurgan.data.sources.folder import look
from schurgan.data.unpack import MARK


def lay_out(root: Path, *paths: str) -> Path:
    for path in paths:
        clip(root / path)
    return root


KITS = ("a kit/bd/1.wav", "a kit/sd/2.wav", "b kit/bd/3.wav", "b kit/sd/4.wav")


def test_looking_at_a_folder_opens_nothing_and_tells_all_that_it_can_be(tmp_path, monkeypatch):
    lay_out(tmp_path, *KITS)
    (tmp_path / "more.zip").write_bytes(b"")
    monkeypatch.setattr("builtins.open", None)
    seen = look(tmp_path)
    assert (seen.kind, len(seen.paths), seen.archives) == ("audio", 4, ("more.zip",))
    assert {each.name: each.counts for each in seen.readings.plausible} == {
        "top": {"a kit": 2, "b kit": 2},
        "leaf": {"bd": 2, "sd": 2},
    }


def test_a_question_shows_each_reading_with_an_example_and_how_to_choose_it(tmp_path):
    with pytest.raises(Undecided) as caught:
        open_source("folder", lay_out(tmp_path, *KITS))
    assert [(choice.option, choice.value) for choice in caught.value.choices] == [
        ("class_from", "top"),
        ("class_from", "leaf"),
    ]
    assert "bd 2, sd 2" in caught.value.choices[1].text
    assert "b kit/bd/3.wav is bd" in caught.value.choices[1].text
    assert "\n" not in str(caught.value)
    assert open_source("folder", tmp_path, class_from="leaf").classes() == ("bd", "sd")


def test_an_evident_reading_asked_for_by_name_is_the_same_data(tmp_path):
    lay_out(tmp_path, "dog/1.wav", "dog/old/2.wav", "cat/3.wav")
    evident, asked = open_source("folder", tmp_path), open_source("folder", tmp_path, class_from="top")
    assert evident.items() == asked.items()
    assert (
        evident.describe() == asked.describe() == {"source": "folder", "items": 3, "files": evident.describe()["files"]}
    )
    assert evident.said.startswith("taken as classes: cat 1, dog 2 (top folders)")


def test_files_without_a_class_are_skipped_with_the_reason(tmp_path):
    lay_out(tmp_path, "dog-1.wav", "dog-2.wav", "cat-1.wav", "take/cat-2.wav", "7.wav")
    source = open_source("folder", tmp_path, class_from="([a-z]+)-")
    assert source.classes() == ("cat", "dog")
    assert source.skipped == (("7.wav", "has no class by the pattern"),)


def test_pictures_are_read_as_sounds_are(tmp_path):
    for number in range(8):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{('cat', 'dog')[number % 2]} ({number}).png")
    source = open_source("folder", tmp_path)
    assert source.kind == "images"
    assert source.classes() == ("cat", "dog")


def test_a_table_beside_files_without_an_order_is_offered_and_beside_class_folders_named(tmp_path):
    flat = lay_out(tmp_path / "flat", "1.wav", "2.wav")
    (flat / "meta.csv").write_text("filename;species\n1.wav;wren\n2.wav;robin\n")
    with pytest.raises(Undecided) as caught:
        open_source("folder", flat)
    table, none = caught.value.choices
    assert (table.option, table.value) == ("table", "meta.csv")
    assert "robin 1, wren 1" in table.text
    assert none.value == "none"
    sorted_ = lay_out(tmp_path / "sorted", "wren/1.wav", "robin/2.wav")
    (sorted_ / "meta.csv").write_text("filename;species\n1.wav;wren\n2.wav;robin\n")
    assert '`table` "meta.csv"' in open_source("folder", sorted_).said
    assert "species" not in open_source("folder", lay_out(tmp_path / "bare", "wren/1.wav")).said


# --- public data sets without their tables ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["urbansound8k", "esc50"])
def test_public_data_sets_without_their_tables_are_what_the_tables_make_them(tmp_path, name):
    make, rows = {
        "urbansound8k": (urbansound8k, US8K_ROWS),
        "esc50": (esc50, [*ESC50_ROWS[1:], "3-9-A-7.wav,3,7,insects,False,9,A"]),
    }[name]
    home = make(tmp_path / "data", rows)
    whole = open_source(name, home)
    (table,) = home.glob("*/*.csv")
    table.unlink()
    bare = open_source(name, home)
    assert sorted(bare.items(), key=lambda item: item.origin) == sorted(whole.items(), key=lambda item: item.origin)
    assert bare.classes() == whole.classes()
    assert bare.name == name
    assert bare.said.startswith(f"no {table.parent.name}/{table.name} here")
    assert {*open_source("folder", home).items()} == {*whole.items()}


def test_esc10_is_ten_classes_without_the_table_too(tmp_path):
    home = esc50(tmp_path)
    wanted = open_source("esc50", home, subset="esc10")
    (home / "meta" / "esc50.csv").unlink()
    bare = open_source("esc50", home, subset="esc10")
    assert bare.classes() == wanted.classes()
    assert bare.skipped == ()


# --- archives ---------------------------------------------------------------------------------------------------------


def packed(folder: Path, archive: Path) -> Path:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
            for path in sorted(folder.rglob("*")):
                made.write(path, path.relative_to(folder.parent))
            made.writestr("__MACOSX/clips/dog/._1.wav", b"of a file manager")
    else:
        with tarfile.open(archive, "w" if archive.suffix == ".tar" else "w:gz") as made:
            made.add(folder, folder.name)
    return archive


@pytest.mark.parametrize("name", ["clips.zip", "clips.tar", "clips.tar.gz", "Clips.TGZ"])
def test_an_archive_is_the_same_data_as_its_folder(tmp_path, name):
    folder = lay_out(tmp_path / "clips", "dog/1.wav", "dog/2.wav", "cat/1.wav")
    source = open_source("folder", packed(folder, tmp_path / name))
    assert source.items() == [
        Item(f"clips/{item.origin}", item.label) for item in open_source("folder", folder).items()
    ]
    assert source.skipped == ()
    assert len(source.load(source.items()[0], 8000)) == 800
    assert {path.name.lower() for path in tmp_path.iterdir()} == {"clips", name.lower(), "clips.unpacked"}


def test_an_archive_is_unpacked_once_and_again_when_it_has_changed(tmp_path):
    archive = packed(lay_out(tmp_path / "clips", "dog/1.wav"), tmp_path / "clips.zip")
    home = open_source("folder", archive).root
    before = os.stat(home / "clips" / "dog" / "1.wav").st_mtime_ns
    assert os.stat(open_source("folder", archive).root / "clips" / "dog" / "1.wav").st_mtime_ns == before
    packed(lay_out(tmp_path / "clips", "dog/2.wav"), archive)
    assert len(open_source("folder", archive).items()) == 2


def test_an_archive_that_is_damaged_means_harm_or_has_no_place_is_told_and_kept(tmp_path):
    archive = packed(lay_out(tmp_path / "clips", "dog/1.wav"), tmp_path / "clips.zip")
    whole = archive.read_bytes()
    (tmp_path / "clips.unpacked").mkdir()
    with pytest.raises(SchurganError, match=r"clips\.unpacked: is in the way"):
        open_source("folder", archive)
    (tmp_path / "clips.unpacked").rmdir()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SchurganError, match=r"clips\.zip: damaged"):
        open_source("folder", archive)
    with tarfile.open(tmp_path / "evil.tar", "w") as made:
        info = tarfile.TarInfo("dog/link.wav")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        made.addfile(info)
    with pytest.raises(SchurganError, match=r"evil\.tar: .*link"):
        open_source("folder", tmp_path / "evil.tar")
    with tarfile.open(tmp_path / "bomb.tgz", "w:gz") as made:
        info = tarfile.TarInfo("dog/1.wav")
        info.size = 40_000_000
        made.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(SchurganError, match=r"bomb\.tgz: .*a hundred times"):
        open_source("folder", tmp_path / "bomb.tgz")
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    with pytest.raises(SchurganError, match=r"a\.rar: .*unpack it"):
        open_source("folder", tmp_path / "a.rar")
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"clips", "clips.zip", "evil.tar", "bomb.tgz", "a.rar"}


def test_archives_that_lie_in_a_folder_are_named(tmp_path):
    archive = packed(lay_out(tmp_path / "clips", "dog/1.wav"), tmp_path / "clips" / "more.zip")
    assert str(archive) in open_source("folder", tmp_path / "clips").said
    (tmp_path / "clips" / "dog" / "1.wav").unlink()
    with pytest.raises(SchurganError, match=r"no sound files found in it; 1 archive in it, such as .*more\.zip"):
        open_source("folder", tmp_path / "clips")


# --- in Python --------------------------------------------------------------------------------------------------------


def test_python_prepares_an_archive_by_the_reading_that_is_chosen(tmp_path, capsys):
    archive = packed(lay_out(tmp_path / "kits", *KITS, "b kit/train/5.wav"), tmp_path / "kits.zip")
    with pytest.raises(Undecided, match="class_from"):
        schurgan.prepare(archive, out=tmp_path / "out")
    out = schurgan.prepare(
        archive, out=tmp_path / "out", class_from="kit/(?P<class>.d)/", size=16, seconds=0.5, workers=1
    )
    assert Shards(out).classes == ("bd", "sd")
    assert "taken as classes: bd 2, sd 2" in capsys.readouterr().err
    assert MARK not in str(Shards(out).manifest.skipped)


def test_prepared_parts_of_a_split_are_held_out(tmp_path):
    lay_out(tmp_path / "clips", *(f"{part}/{name}/1.wav" for part in ("train", "test") for name in ("cat", "dog")))
    shards = Shards(schurgan.prepare(tmp_path / "clips", out=tmp_path / "out", size=16, seconds=0.5, workers=1))
    assert shards.val_folds == (2,)
    assert shards.select(folds=[2]).origins == ("test/cat/1.wav", "test/dog/1.wav")
