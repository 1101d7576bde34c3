"""A folder that may be meant in several ways: each is shown, with the command to copy."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from schurgan.data import Shards

QUICK = ("--size", 16, "--seconds", 0.5)


@pytest.fixture
def packs(recordings: Path, tmp_path: Path) -> Path:
    for name in ("old kit", "new kit"):
        shutil.copytree(recordings, tmp_path / "packs" / name)
    return tmp_path / "packs"


def commands(text: str) -> list[list[str]]:
    lines = [line.strip() for line in text.splitlines() if line.startswith("    schurgan ")]
    return [shlex.split(line)[1:] for line in lines]


def test_two_readings_are_shown_with_commands_that_do_as_they_say(call, packs, tmp_path):
    said = call("prepare", "folder", packs, "--out", tmp_path / "out", *QUICK)
    assert said.status == 2
    assert said.out == ""
    assert not (tmp_path / "out").exists()
    top, leaf = commands(said.err)
    assert "new kit 8, old kit 8" in said.err
    assert "bell 8, drum 8" in said.err
    assert leaf[-2:] == ["--class-from", "leaf"]
    done = call(*leaf)
    assert "taken as classes: bell 8, drum 8" in done.out
    assert Shards(tmp_path / "out").classes == ("bell", "drum")
    assert call(*top, "--overwrite").status == 0
    assert Shards(tmp_path / "out").classes == ("new kit", "old kit")


def test_files_without_any_order_are_one_class_for_those_who_ask(call, recordings, tmp_path):
    (tmp_path / "my forest").mkdir()
    for number, path in enumerate(sorted(recordings.glob("*/*.wav"))):
        shutil.copy(path, tmp_path / "my forest" / f"2023-05-01_12{number:02}00.wav")
    said = call("prepare", "folder", tmp_path / "my forest", "--out", tmp_path / "out", *QUICK)
    assert said.status == 2
    (command,) = commands(said.err)
    assert call(*command).status == 0
    assert Shards(tmp_path / "out").classes == ("my forest",)


def test_a_path_in_place_of_a_source_is_told_the_command(refused, packs, tmp_path):
    sentence = refused("prepare", packs, "--out", tmp_path / "my out")
    command = shlex.split(sentence.partition("`")[2].rstrip("`"))
    assert command == ["schurgan", "prepare", "folder", str(packs), "--out", str(tmp_path / "my out")]
    assert "no such command" in refused("prepare", "nothing", "--out", tmp_path / "out")
