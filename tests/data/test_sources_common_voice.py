"""Common Voice: tables of old and new releases, what the classes are, several languages, and the draw."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path

import pytest
from layouts import common_voice, mp3, table

from schurgan.core.errors import SchurganError
from schurgan.data.sources import common_voice as module
from schurgan.data.sources import open_source


def opened(root: Path, **options: object):
    return open_source("common_voice", root, **options)


def sentence(root: Path, **options: object) -> str:
    with pytest.raises(SchurganError) as caught:
        opened(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(source) -> list[str]:
    return [item.origin.rpartition("/")[2] for item in source.items()]


@pytest.mark.parametrize("below", ["en", ".", ".."])
def test_a_language_a_release_and_the_folder_above_give_the_same_items(tmp_path, below):
    common_voice(tmp_path / "data" / "cv-corpus-17")
    source = opened(tmp_path / "data" / "cv-corpus-17" / below, by="sentence")
    assert source.classes() == ("no", 'the "firefox', "yes")
    assert [item.origin for item in source.items()] == [f"en/clips/common_voice_en_{n}.mp3" for n in range(6)]
    assert Counter(item.label for item in source.items()) == {"yes": 2, "no": 2, 'the "firefox': 2}
    assert len(source.load(source.items()[0], 16_000)) == pytest.approx(3_200, abs=16_000 * 1_152 / 32_000)  # a frame


def test_languages_are_classes_and_can_be_chosen(tmp_path):
    common_voice(tmp_path, "en")
    common_voice(tmp_path, "zh-CN", count=4)
    common_voice(tmp_path, "de", count=2)
    source = opened(tmp_path)
    assert Counter(item.label for item in source.items()) == {"en": 6, "zh-CN": 4, "de": 2}
    assert opened(tmp_path, locales="de, zh-CN").classes() == ("de", "zh-CN")
    assert opened(tmp_path, locales=["en"]).classes() == ("en",)
    assert 'no locale "fr"; ' in sentence(tmp_path, locales="fr")


def test_columns_of_old_releases_are_read(tmp_path):
    """accent for accents, no locale, and paths without their suffix."""
    for number in range(3):
        mp3(tmp_path / "cy" / "clips" / f"{number}.mp3", 0.2)
    header = ["client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accent"]
    rows = [{"path": "0", "accent": "united_statesen", "age": "twenties", "gender": "other"}]
    rows += [{"path": "1.mp3", "accent": "england", "age": "sixties"}, {"path": "2", "age": "sixties"}]
    table(tmp_path / "cy" / "validated.tsv", rows, header)
    by_accent = opened(tmp_path, by="accents")
    assert {item.origin: item.label for item in by_accent.items()} == {
        "cy/clips/0.mp3": "united_statesen",
        "cy/clips/1.mp3": "england",
    }
    assert by_accent.skipped == (("cy/validated.tsv", '1 clip without "accents"'),)
    assert Counter(item.label for item in opened(tmp_path, by="age").items()) == {"twenties": 1, "sixties": 2}
    assert opened(tmp_path, by="gender").classes() == ("other",)
    assert opened(tmp_path).classes() == ("cy",)


def test_a_draw_depends_on_its_seed_and_the_names_and_not_on_the_order_of_rows(tmp_path):
    common_voice(tmp_path, count=12)
    drawn = names(opened(tmp_path, clips=5, seed=1))
    assert len(drawn) == 5
    path = tmp_path / "en" / "validated.tsv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *reversed(rows)]) + "\n")
    assert names(opened(tmp_path, clips=5, seed=1)) == drawn
    assert len({tuple(names(opened(tmp_path, clips=5, seed=seed))) for seed in range(8)}) > 4
    assert opened(tmp_path, clips=5, seed=1).describe() != opened(tmp_path, clips=5, seed=2).describe()
    assert set(drawn) < set(names(opened(tmp_path, clips=6, seed=1)))  # a larger draw keeps the smaller


def test_a_draw_is_even(tmp_path):
    """Each of 12 clips in 6 of 12 draws on average: 300 draws, a deviation of 8.7, five of them."""
    common_voice(tmp_path, count=12)
    counted = Counter(name for seed in range(300) for name in names(opened(tmp_path, clips=6, seed=seed)))
    assert all(abs(count - 150) < 43 for count in counted.values())
    assert len(counted) == 12


@pytest.mark.parametrize("measured", [True, False], ids=["durations", "headers"])
def test_longer_clips_are_left_out_by_the_table_of_durations_or_by_their_headers(tmp_path, measured):
    """Clips of 1.0, 1.1, … 1.5 s; by their headers to a frame of MP3, 36 ms."""
    common_voice(tmp_path, count=6, seconds=1.0)
    if not measured:
        (tmp_path / "en" / "clip_durations.tsv").unlink()
    source = opened(tmp_path, max_seconds=1.25)
    assert names(source) == [f"common_voice_en_{n}.mp3" for n in range(3)]
    assert sum(int(reason.split()[0]) for _, reason in source.skipped) == 3
    assert all("longer than 1.25 s" in reason for _, reason in source.skipped)
    assert len(names(opened(tmp_path, max_seconds=1.25, clips=2))) == 2


def test_several_tables_are_folds_and_no_clip_is_listed_twice(tmp_path):
    common_voice(tmp_path, count=6)
    rows = [{"path": f"common_voice_en_{n}.mp3", "sentence": "x"} for n in range(6)]
    for name, part in {"train": rows[:3], "dev": rows[3:4], "test": rows[3:6]}.items():
        table(tmp_path / "en" / f"{name}.tsv", part)
    source = opened(tmp_path, split="train,dev,test")
    assert [item.fold for item in source.items()] == [1, 1, 1, 2, 3, 3]
    assert source.skipped == (("en/test.tsv", "1 clip named before"),)
    assert source.val_folds == (2, 3)
    assert [item.fold for item in opened(tmp_path, split="test").items()] == [None] * 3
    assert opened(tmp_path, split="dev,test").val_folds == ()  # or nothing would be left to train on


def test_a_table_without_the_column_of_the_classes_shows_its_header(tmp_path):
    common_voice(tmp_path)
    table(tmp_path / "en" / "validated.tsv", [{"path": "0", "sentence": "a"}], ["client_id", "path", "sentence"])
    assert 'no column "age" for the classes; the header is client_id,path,sentence' in sentence(tmp_path, by="age")


def test_clips_that_are_not_there_are_counted_and_not_drawn(tmp_path):
    common_voice(tmp_path, count=6)
    for number in (1, 4):
        (tmp_path / "en" / "clips" / f"common_voice_en_{number}.mp3").unlink()
    source = opened(tmp_path, clips=4)
    assert len(source.items()) == 4
    assert source.skipped == (("en/validated.tsv", "2 clips that are not in clips/"),)


def test_what_cannot_be_read_is_told(tmp_path, monkeypatch):
    common_voice(tmp_path / "r")
    root = tmp_path / "r"
    assert 'no by "sentense"; did you mean "sentence"?' in sentence(root, by="sentense")
    assert 'no split "valid"; did you mean' in sentence(root, split="valid")
    assert "clips 0, seed 0" in sentence(root, clips=0)
    assert "max_seconds -1" in sentence(root, max_seconds=-1)
    assert "no train.tsv beside clips/" in sentence(root, split="train")
    assert 'no clip can be used with classes by "gender" (en/validated.tsv: 6 clips without' in sentence(
        root, by="gender"
    )
    monkeypatch.setattr(module, "MAX_CLASSES", 2)
    assert '3 classes by "sentence" in 6 clips; at most 2 do' in sentence(root, by="sentence")
    common_voice(tmp_path / "q", count=1)
    assert "q and r, several releases; one is needed" in sentence(tmp_path)
    with open(root / "en" / "validated.tsv", "a") as file:
        file.write("id\t../../x.mp3\t\tsaid\n")
    assert 'line 8, column "path": "../../x.mp3" given, the name of a file in clips/ is needed' in sentence(root)


@pytest.mark.skipif("SCHURGAN_COMMON_VOICE" not in os.environ, reason="SCHURGAN_COMMON_VOICE names no copy of it")
def test_the_real_common_voice_has_the_counts_of_its_table_and_every_clip_loads():
    """The variable names a language's folder, as cv-corpus/en."""
    root = Path(os.environ["SCHURGAN_COMMON_VOICE"])
    with open(root / "validated.tsv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    source = opened(root, by="sentence", clips=len(rows))
    assert Counter(item.label for item in source.items()) == Counter(row["sentence"] for row in rows)
    assert source.skipped == ()
    assert all(source.load(item, 16_000).numel() for item in source.items()[::10])
