"""`schurgan init`: what it proposes, and that `schurgan go` takes it."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml
from PIL import Image

from schurgan.commands.go import Plan
from schurgan.commands.init import _sounds, _training
from schurgan.core import launch
from schurgan.data.survey import Survey
from schurgan.studies import estimate

HITS = Survey("one-shots", 60, seconds=0.4, sounding=0.43, highest=15000, rise=0.01)
WORDS = Survey("spoken words", 60, seconds=0.5, sounding=0.58, highest=3700, rise=0.15, voiced=0.8)
FIELDS = Survey("field recordings", 60, seconds=5, sounding=5, highest=9000)


@pytest.fixture(autouse=True)
def seconds(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, int], float]:
    """Of a step of a preset by so many threads, on a machine of four cores."""
    times = {("small-64", 1): 0.4, ("small-64", 4): 0.2, ("small-32", 1): 0.1, ("small-32", 4): 0.05}
    monkeypatch.setattr(launch, "count_cores", lambda: 4)
    monkeypatch.setattr(estimate, "step_seconds", lambda config, _: times[config.preset, config.train.threads])
    return times


def proposed(looked: Survey, clips: int = 400, minutes: float = 15) -> dict[str, object]:
    choices = [*_sounds(looked), *_training(looked, Counter({"a": clips // 2, "b": clips - clips // 2}), minutes)]
    assert all(choice.why for choice in choices)
    return {choice.key: choice.value for choice in choices}


@pytest.mark.parametrize(
    ("looked", "expected"),
    [
        (HITS, {"seconds": 0.45, "sample_rate": 22050, "frame": "native", "size": 64}),
        (WORDS, {"seconds": 0.6, "sample_rate": 8000, "frame": "native", "size": 64}),
        (FIELDS, {"seconds": 2.5, "sample_rate": 22050, "size": 64}),
        (Survey("pictures", 9, size=32), {"model": {"channels": 3}, "size": 32, "preset": "small-32"}),
        (Survey("pictures", 9, size=500), {"model": {"channels": 3}, "size": 64, "preset": "small-64"}),
    ],
)
def test_length_rate_frame_and_size_are_those_that_the_kind_of_sound_asks_for(looked, expected):
    found = proposed(looked)
    assert expected.items() <= found.items()
    assert ("frame" in found) == ("frame" in expected)


def test_steps_fill_the_minutes_unless_fewer_are_enough_for_the_clips():
    assert proposed(HITS, 1000, 10)["steps"] == 2500  # 0.85 of 600 s, at 0.2 s each, in hundreds
    assert proposed(HITS, 1000, 20)["steps"] == 5100
    assert proposed(HITS, 40, 60)["steps"] == 1000
    assert proposed(HITS, 320, 60)["steps"] == 2000  # 200 passes in batches of 32


def test_a_slow_machine_is_given_smaller_images():
    slow = proposed(HITS, 1000, 3)
    assert (slow["size"], slow["preset"], slow["steps"]) == (32, "small-32", 3000)


def test_one_thread_is_taken_where_all_cores_are_no_faster(seconds):
    assert "threads" not in proposed(HITS)
    seconds["small-64", 4] = 0.39
    assert proposed(HITS, 1000)["threads"] == 1
    assert proposed(HITS, 1000)["steps"] == 1900  # 0.85 of 900 s, at 0.4 s each


def test_the_file_says_why_and_go_takes_it_as_it_stands(call, recordings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = call("init", recordings)
    assert said.status == 0, said.err
    assert said.out.splitlines()[-1].endswith("`schurgan go` does it all")
    text = (tmp_path / "schurgan.yaml").read_text()
    for line in text.split("train:")[1].splitlines():
        assert ": " not in line or "  # " in line
    plan = Plan.read(Path("schurgan.yaml"))
    assert plan.sections["prepare"]["root"] == str(recordings)
    config = plan.check()
    assert (config.preset, config.moment_matching.descriptor) == ("small-64", "gram")
    assert config.train.steps == 1000
    for key, value in yaml.safe_load(text)["train"].items():
        assert f"{key}" in said.out
        assert str(value) in said.out
    assert not (tmp_path / "runs").exists()


def test_a_file_that_is_there_is_left_alone(refused, recordings, tmp_path):
    (tmp_path / "mine.yaml").write_text("mine")
    assert "mine.yaml: is there already" in refused("init", recordings, "--out", tmp_path / "mine.yaml")
    assert (tmp_path / "mine.yaml").read_text() == "mine"


def test_an_earlier_run_has_its_folder_and_this_one_another(call, recordings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / recordings.name).mkdir(parents=True)
    assert call("init", recordings).status == 0
    assert yaml.safe_load((tmp_path / "schurgan.yaml").read_text())["out"] == f"runs/{recordings.name}-2"


@pytest.mark.parametrize("where", ["inside", "beside", "elsewhere"])
def test_from_wherever_it_is_called_what_is_made_stays_out_of_the_clips(where, call, tmp_path, monkeypatch, recordings):
    clips = tmp_path / 'my "clips": #1' / "ö"
    shutil.copytree(recordings, clips)
    (tmp_path / "other").mkdir()
    here = {"inside": clips, "beside": clips.parent, "elsewhere": tmp_path / "other"}[where]
    monkeypatch.chdir(here)
    said = call("init", {"inside": ".", "beside": "ö", "elsewhere": clips}[where])
    assert said.status == 0, said.err
    plan = Plan.read(Path("schurgan.yaml"))
    plan.check()
    assert clips.resolve() not in plan.out.resolve().parents
    assert (here / plan.sections["prepare"]["root"]).resolve() == clips


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("none",), "none: no such "),
        (("clips", "--minutes", 0), "--minutes: 0 given"),
        (("clips", "--minutes", "nan"), "--minutes: nan given"),
        (("clips", "--kind", "video"), "--kind: "),
        ((), "CLIPS: missing"),
        (("empty",), "empty: an empty folder"),
        (("clips", "--out", "none/schurgan.yaml"), "none/schurgan.yaml: cannot be written"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_no_file(arguments, named, refused, recordings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").symlink_to(recordings)
    (tmp_path / "empty").mkdir()
    assert named in refused("init", *arguments)
    assert not list(tmp_path.glob("*.yaml"))


def test_classes_that_can_be_read_in_two_ways_are_asked_for_as_prepare_does(call, recordings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for pack in ("deep", "dusty"):
        for name, label in (("kick", "drum"), ("hat", "bell")):
            shutil.copytree(recordings / label, tmp_path / "packs" / pack / name)
    asked, told = call("init", "packs"), call("prepare", "folder", "packs", "--out", "data")
    assert (asked.status, told.status) == (2, 2)
    assert "schurgan init packs --class-from leaf" in asked.err
    assert asked.err.splitlines()[0] == told.err.splitlines()[0]
    said = call("init", "packs", "--class-from", "leaf")
    assert said.status == 0, said.err
    assert "hat 8, kick 8" in said.out
    assert Plan.read(Path("schurgan.yaml")).sections["prepare"]["class_from"] == "leaf"
    text = Path("schurgan.yaml").read_text()
    Path("schurgan.yaml").write_text(text.replace("  class_from: leaf\n", ""))
    said = call("go")
    assert said.status == 2
    assert "schurgan.yaml: prepare: packs: its classes" in said.err
    assert '`class_from` "leaf"' in said.err


def test_pictures_go_the_same_way(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for label in ("red", "blue"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (16, 16), label).save(tmp_path / "pictures" / label / f"{number}.png")
    assert call("init", "pictures").status == 0
    plan = Plan.read(Path("schurgan.yaml"))
    assert plan.check().model.channels == 3
    assert plan.sections["prepare"] == {"root": "pictures", "size": 32}
