from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schurgan.core.documents import read_bytes
from schurgan.core.errors import did_you_mean
from schurgan.core.files import atomic_write, file_name, sha256, sync_folder, write_json


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new and longer")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new and longer"
    assert list(tmp_path.iterdir()) == [path]


def test_a_device_is_not_read_and_a_sparse_file_not_taken_into_memory(tmp_path):
    with pytest.raises(OSError, match="not a regular file"):
        read_bytes("/dev/zero")
    path = tmp_path / "scores.json"
    path.touch()
    os.truncate(path, 2**30)
    with pytest.raises(OSError, match="over 17 MB"):
        read_bytes(path)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_whatever_stops_the_writer_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_is_full_at_the_last_moment_leaves_nothing_behind(tmp_path, full_disk, call):
    with full_disk(call), pytest.raises(OSError, match="No space left"), atomic_write(tmp_path / "file") as file:
        file.write(b"half")
    assert list(tmp_path.iterdir()) == []


def test_a_power_cut_cannot_undo_a_rename(tmp_path, renamed_and_synced):
    write_json(tmp_path / "file", 1)
    assert renamed_and_synced(tmp_path / "file")


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    program = (
        "import os, signal, sys\n"
        "from schurgan.core.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file:\n"
        "    file.write(b'half')\n"
        "    file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_text_is_utf_8_with_plain_line_ends_on_every_system(tmp_path):
    with atomic_write(tmp_path / "file", "w") as file:
        file.write("Glöckchen 鐘\n")
    assert (tmp_path / "file").read_bytes() == "Glöckchen 鐘\n".encode()


def test_json_comes_back_as_it_was_and_nan_is_refused_before_anything_is_written(tmp_path):
    value = {"name": "Glöckchen", "numbers": [1, 2.5, None]}
    write_json(tmp_path / "value.json", value)
    assert json.loads((tmp_path / "value.json").read_bytes()) == value
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "nan.json", {"loss": float("nan")})
    assert not (tmp_path / "nan.json").exists()


def test_the_digest_is_that_of_the_bytes(tmp_path):
    content = os.urandom(300_000)
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_folder_that_cannot_be_opened_is_no_error_to_sync(tmp_path):
    assert sync_folder(tmp_path / "none") is None


# --- names of the files of classes ------------------------------------------------------------------------------------

ALIKE = (
    "a+b",
    "a&b",
    "a_b",
    "A_b",
    "Dog",
    "dog",
    "DOG",
    "straße",
    "strasse",
    "é",
    "e\u0301",
    "",
    " ",
    "..",
    "a",
    "./a",
)
LONG = ("x" * 240, "x" * 239, "X" * 240, "鐘" * 90, "鐘" * 91, "x" * 80, "x" * 81)


@pytest.mark.parametrize("label", ["dog", "car horn", "chien-loup", "été", "कि", "कु", "🐶", "🐱", "ไก่", "鐘", "7"])
def test_letters_with_their_marks_digits_and_pictographs_are_the_name_of_a_file_as_they_are(label):
    assert file_name(label) == label


def test_labels_that_look_alike_have_files_of_their_own_also_where_case_is_ignored():
    labels = (*ALIKE, *LONG)
    assert len({unicodedata.normalize("NFC", file_name(label).casefold()) for label in labels}) == len(labels)


@given(st.lists(st.text(max_size=120), min_size=2, max_size=8, unique=True))
def test_the_name_of_any_label_is_short_composed_and_its_own(labels):
    names = [file_name(label) for label in labels]
    assert len({unicodedata.normalize("NFC", name.casefold()) for name in names}) == len(names)
    for name in names:
        assert 0 < len(name.encode()) <= 80
        assert unicodedata.is_normalized("NFC", name)
        assert not set(name) & set('/\\:*?"<>|\0\n')
        assert name[0] not in " -."


def test_the_name_of_a_label_is_the_same_for_ever_and_in_every_run():
    assert [file_name(label) for label in ("a+b", "Dog", "")] == ["a_b~gabhhw", "Dog~b2ystp", "class~4oymiq"]


@pytest.mark.parametrize(
    ("typed", "known"), [("DOG", "dog"), ("e\u0301te\u0301", "été"), ("ｄｏｇ", "dog"), ("STRASSE", "straße")]
)
def test_names_are_compared_without_case_and_forms_of_letters(typed, known):
    assert did_you_mean(typed, ["zebra", known]) == f'; did you mean "{known}"?'


KNOWN = {
    "commands": "train resume status sample evaluate export report presets doctor demo prepare,folder data,verify",
    "presets": "small-32 small-64 demo proposed-128 biggan-128 sagan-128",
    "sources": "folder esc50 urbansound8k common_voice cifar10 soundscape",
    "classes": "dog cat rain bark siren kettle kick snare hat clock bell engine footsteps",
    "options": "--out --data --train.steps --train.eps --train.lr-g --train.lr-d --model.width",
}


@pytest.mark.parametrize(
    ("kind", "typed", "meant"),
    [
        ("commands", "trian", ["train"]),
        ("commands", "trains", ["train"]),
        ("commands", "eval", ["evaluate"]),
        ("commands", "folder", ["prepare folder"]),
        ("commands", "import", []),
        ("commands", "generate", []),
        ("commands", "rain", []),
        ("commands", "x", []),
        ("commands", "", []),
        ("presets", "small", ["small-32", "small-64"]),
        ("presets", "small64", ["small-64"]),
        ("presets", "small-46", ["small-64"]),
        ("presets", "small-128", []),
        ("presets", "128", ["biggan-128", "proposed-128", "sagan-128"]),
        ("presets", "stylegan", []),
        ("sources", "esc-50", ["esc50"]),
        ("sources", "commonvoice", ["common_voice"]),
        ("sources", "cifar", ["cifar10"]),
        ("sources", "mnist", []),
        ("classes", "brak", ["bark"]),
        ("classes", "park", []),
        ("classes", "bat", []),
        ("classes", "ketle", ["kettle"]),
        ("classes", "kick_01", ["kick"]),
        ("classes", "machine", []),
        ("options", "--train-steps", ["--train.steps"]),
        ("options", "--train.stesp", ["--train.steps"]),
        ("options", "--train.epochs", []),
        ("options", "--train.lr", ["--train.lr-g", "--train.lr-d"]),
        ("options", "--output", ["--out"]),
        ("options", "--epochs", []),
    ],
)
def test_a_name_is_suggested_where_few_slips_lie_between_and_none_where_nothing_is_near(kind, typed, meant):
    known = [name.replace(",", " ") for name in KNOWN[kind].split()]
    assert sorted(re.findall(r'"(.*?)"', did_you_mean(typed, known))) == sorted(meant)
