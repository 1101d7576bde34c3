"""Tables of data sets: UrbanSound8K's and anybody's own, broken rows, and files damaged in two hundred ways."""

from __future__ import annotations

import csv
import os
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from layouts import ESC50_ROWS, US8K_HEADER, US8K_ROWS, clip, common_voice, esc50, table, urbansound8k

from schurgan.core.errors import SchurganError
from schurgan.data.sources import Item, open_source
from schurgan.data.sources.tables import MAX_LINE, read_table

OFFICIAL = [
    *("air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling"),
    *("engine_idling", "gun_shot", "jackhammer", "siren", "street_music"),
]


def sentence(name: str, *args: object, **options: object) -> str:
    with pytest.raises(SchurganError) as caught:
        open_source(name, *args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- UrbanSound8K -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [".", "UrbanSound8K"])
def test_urbansound8k_is_read_with_its_folds_and_its_classes_in_the_order_of_class_ids(tmp_path, inner):
    urbansound8k(tmp_path / "data" / inner)
    clip(tmp_path / "data" / inner / "audio" / "fold1" / ".hidden.wav")
    source = open_source("urbansound8k", tmp_path / "data")
    assert source.classes() == ("air_conditioner", "children_playing", "dog_bark")
    assert source.items() == [
        Item("audio/fold5/100-3-0-0.wav", "dog_bark", 5, "100"),
        Item("audio/fold5/101-2-0-7.wav", "children_playing", 5, "101"),
        Item("audio/fold10/102-3-0-0.wav", "dog_bark", 10, "102"),
        Item("audio/fold1/103-0-0-1.wav", "air_conditioner", 1, "103"),
    ]
    assert source.skipped == ()


def test_every_rate_depth_and_channel_count_of_urbansound8k_is_loaded_at_one_rate(tmp_path):
    home = urbansound8k(tmp_path)
    kinds = [(192_000, 2, "PCM_24"), (8_000, 1, "PCM_U8"), (44_100, 2, "FLOAT"), (11_024, 1, "IMA_ADPCM")]
    for (rate, channels, subtype), row in zip(kinds, US8K_ROWS, strict=True):
        name, fold = row.split(",")[0], row.split(",")[5]
        sound = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate)
        soundfile.write(home / "audio" / f"fold{fold}" / name, np.stack([sound] * channels, 1), rate, subtype=subtype)
    source = open_source("urbansound8k", home)
    for item in source.items():
        loaded = source.load(item, 16_000)
        # Half a second; a codec of blocks fills its last one, of up to 2,041 samples at 11,024 Hz.
        assert 8_000 <= len(loaded) <= 8_000 + 16_000 * 2_041 / 11_024 + 1
        spectrum = loaded[:8_000].numpy()
        assert abs(np.abs(np.fft.rfft(spectrum)).argmax() * 2 - 440) <= 2  # bins of 2 Hz


def test_rows_without_a_file_and_files_in_another_fold_are_skipped(tmp_path):
    home = urbansound8k(tmp_path)
    (home / "audio/fold5/100-3-0-0.wav").rename(home / "audio/fold1/100-3-0-0.wav")
    assert dict(open_source("urbansound8k", home).skipped) == {
        "audio/fold5/100-3-0-0.wav": "no such file, though metadata/UrbanSound8K.csv names it",
        "audio/fold1/100-3-0-0.wav": "metadata/UrbanSound8K.csv does not name it",
    }
    shutil.rmtree(home / "audio")
    assert "none of the recordings" in sentence("urbansound8k", home)
    assert "no metadata/UrbanSound8K.csv in it" in sentence("urbansound8k", clip(tmp_path / "dog" / "a.wav").parent)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("x.wav,1,0,1,1,eleven,3,dog_bark", 'line 6, column "fold": "eleven" given, a whole number of 1 or more'),
        ("x.wav,1,0,1,1,1,4,dog_bark", 'column "classID": "4" given, 3, as in the rows of "dog_bark" before,'),
        ("x.wav,1,0,1,1,1,3,cat", 'column "class": "cat" given, "dog_bark", as in the rows of target 3 before,'),
        ("..,1,0,1,1,1,3,dog_bark", 'column "slice_file_name": ".." given'),
        ("a\\b.wav,1,0,1,1,1,3,dog_bark", 'column "slice_file_name"'),
        ("100-3-0-0.wav,1,0,1,1,1,3,dog_bark", "a name other than that of line 2"),
        ("x.wav,1,0,1,1,1,3,dog_bark,9,9", "line 6: 10 fields, where the header has 8"),
    ],
)
def test_a_broken_row_is_told_by_file_line_and_column(tmp_path, row, told):
    home = urbansound8k(tmp_path)
    with open(home / "metadata" / "UrbanSound8K.csv", "a") as file:
        file.write(row + "\n")
    assert told in sentence("urbansound8k", home)


@pytest.mark.skipif("SCHURGAN_URBANSOUND8K" not in os.environ, reason="SCHURGAN_URBANSOUND8K names no copy of it")
def test_the_real_urbansound8k_has_the_counts_of_its_table_and_every_clip_loads():
    root = Path(os.environ["SCHURGAN_URBANSOUND8K"])
    source = open_source("urbansound8k", root)
    with open(root / "metadata" / "UrbanSound8K.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    counted = Counter((item.label, item.fold) for item in source.items())
    assert counted == Counter((row["class"], int(row["fold"])) for row in rows)
    assert list(source.classes()) == OFFICIAL
    assert source.skipped == ()
    assert all(source.load(item, 16_000).numel() for item in source.items())


# --- a table of one's own ---------------------------------------------------------------------------------------------


def own(root: Path, text: str, name: str = "labels.csv") -> Path:
    for path in ("a/1.wav", "a/2.wav", "b/3.wav"):
        clip(root / path)
    (root / name).write_text(text)
    return root


def test_a_table_names_the_items_their_classes_and_folds_in_its_order(tmp_path, monkeypatch):
    own(tmp_path, 'path,note,label,fold\nb/3.wav,"x, y",cat,2\na/1.wav,,dog,1\na/9.wav,,dog,1\n')
    source = open_source("folder", tmp_path, table="labels.csv")
    assert source.items() == [Item("b/3.wav", "cat", 2), Item("a/1.wav", "dog", 1)]
    assert source.classes() == ("cat", "dog")
    assert source.skipped == (("a/9.wav", "no such file, though labels.csv names it"),)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "other.csv").write_text("path,label\r\na/2.wav,bird\r\n")
    monkeypatch.chdir(tmp_path / "here")
    assert open_source("folder", tmp_path, table=Path("other.csv")).items() == [Item("a/2.wav", "bird")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("path,says\na/1.wav,dog\n", "line 1: a column of classes (label, class, category, class_name, …) is needed"),
        ("path;who;what\na/1.wav;dog;x\n", "the header is path,who,what"),
        ("path,label\n../secret.wav,dog\n", 'line 2, column "path": "../secret.wav" given, a path inside the folder'),
        ("path,label\n/etc/passwd,dog\n", 'column "path": "/etc/passwd" given'),
        ("path,label\nC:\\x.wav,dog\n", 'column "path"'),
        ("path,label\na/1.wav,\n", 'column "label": "" given, a class name is needed'),
        ("path,label\na/1.wav\n", 'column "label": nothing given'),
        ("path,label,fold\na/1.wav,dog,\n", 'column "fold": "" given, a whole number, or train'),
        ("path,label\na/1.wav,dog\na/./1.wav,dog\n", "a name other than that of line 2"),
        ("path,label\nz.wav,dog\n", "none of the files that it names"),
        ("path,label\n" + "x" * (MAX_LINE + 9) + "\n", f"a line of more than {MAX_LINE} characters"),
        ("", "line 1: a column of files (path, file, filename, file_name, …) and one of classes"),
    ],
)
def test_a_table_of_ones_own_that_does_not_do_is_told(tmp_path, text, told):
    assert told in sentence("folder", own(tmp_path, text), table="labels.csv")


@pytest.mark.parametrize(
    "text",
    [
        "filename;category;split\n1.wav;dog;train\n2.wav;dog;test\n3.wav;cat;train\n",
        "Label\tFile\tsubset\ndog\t1\ttrain\ndog\ta/2.wav\ttest\ncat\t3\ttrain\n",
        'slice_file_name,fold,classID,class\n1.wav,train,0,"dog"\n2.wav,test,0,dog\n3.wav,train,1,cat\n',
    ],
)
def test_columns_are_found_by_their_names_and_files_by_theirs(tmp_path, text):
    source = open_source("folder", own(tmp_path, text), table="labels.csv")
    assert source.items() == [Item("a/1.wav", "dog", 1), Item("a/2.wav", "dog", 2), Item("b/3.wav", "cat", 1)]
    assert source.val_folds == (2,)


def test_a_column_split_of_other_words_is_left_alone_and_a_name_of_two_files_is_none(tmp_path):
    clip(tmp_path / "b" / "1.wav")
    source = open_source("folder", own(tmp_path, "file,class,split\n1.wav,dog,x\n2.wav,dog,y\n"), table="labels.csv")
    assert source.items() == [Item("a/2.wav", "dog")]
    assert source.skipped == (("1.wav", "no such file, though labels.csv names it"),)


def test_a_table_that_is_no_file_is_told(tmp_path):
    own(tmp_path, "")
    assert "no such file; a table is needed" in sentence("folder", tmp_path, table="lables.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    assert "not a regular file" in sentence("folder", tmp_path, table="pipe.csv")


def test_tabs_part_fields_and_quotes_do_not(tmp_path):
    path = table(tmp_path / "x.tsv", [{"a": 'say "hi', "b": "\u2028 one line"}, {"a": "2", "b": '"'}], ["a", "b"])
    rows = [(row.line, row["a"], row["b"]) for row in read_table(path, ("a", "b"), "\t")]
    assert rows == [(2, 'say "hi', "\u2028 one line"), (3, "2", '"')]


# --- two hundred damaged tables ---------------------------------------------------------------------------------------


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """One of ten kinds of damage, somewhere."""
    where = int(rng.integers(0, len(data)))
    other = int(rng.integers(0, len(data)))
    kind = int(rng.integers(0, 10))
    if kind == 0:
        return data[:where]
    if kind == 1:
        return data[:where] + bytes([data[where] ^ (1 << int(rng.integers(0, 8)))]) + data[where + 1 :]
    if kind == 2:
        return data[:where] + rng.bytes(40) + data[where:]
    if kind == 3:
        return data[:where] + data[other:]
    if kind == 4:
        return data.replace(b",", b";").replace(b"\t", b" ")
    if kind == 5:
        return data[:where] + b'"' + data[where:]
    if kind == 6:
        return data.decode().encode("utf-16")
    if kind == 7:
        return data[:where] + b"\0" * 30 + data[where + 30 :]
    if kind == 8:
        return rng.bytes(len(data))
    return data[: data.index(b"\n") + 1] + b"\n,\t,\n" * 5 + data[where:]


@pytest.mark.parametrize("name", ["esc50", "urbansound8k", "common_voice", "folder"])
def test_fifty_damaged_tables_are_read_or_told_in_one_sentence(tmp_path, name):
    options = {}
    if name == "esc50":
        path = esc50(tmp_path, ESC50_ROWS) / "meta" / "esc50.csv"
    elif name == "urbansound8k":
        path = urbansound8k(tmp_path) / "metadata" / "UrbanSound8K.csv"
    elif name == "common_voice":
        path = common_voice(tmp_path, count=3) / "en" / "validated.tsv"
        options = {"by": "sentence"}
    else:
        path = own(tmp_path, "path,label,fold\na/1.wav,dog,1\na/2.wav,cat,2\nb/3.wav,dog,3\n") / "labels.csv"
        options = {"table": "labels.csv"}
    good = path.read_bytes()
    files = {item.origin for item in open_source(name, tmp_path, **options).items()}
    rng = np.random.default_rng(0)
    told = []
    began = time.monotonic()
    for _ in range(50):
        path.write_bytes(damaged(good, rng))
        try:
            source = open_source(name, tmp_path, **options)
        except SchurganError as error:
            told.append(str(error))
        else:
            assert {item.origin for item in source.items()} <= files  # nothing but what is there
            assert all(source.load(item, 16_000).numel() for item in source.items())
    assert all("\n" not in message and str(tmp_path) in message for message in told)
    assert 20 <= len(told) < 50  # most kinds of damage leave no table, a flipped bit in a class's name leaves one
    assert time.monotonic() - began < 60  # none hangs
    path.write_bytes(good)
    assert {item.origin for item in open_source(name, tmp_path, **options).items()} == files


def test_an_official_header_is_what_the_reader_asks_for(tmp_path):
    """The header as it is published, with a byte order mark and the line ends of another system."""
    home = urbansound8k(tmp_path)
    lines = "\r\n".join([US8K_HEADER, *US8K_ROWS])
    (home / "metadata" / "UrbanSound8K.csv").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert len(open_source("urbansound8k", home).items()) == 4
