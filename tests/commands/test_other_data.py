"""Data that were prepared anew: who is warned before, and what whoever compares a run with them is told after."""

from __future__ import annotations

import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from schurgan.audio import Spectrogram
from schurgan.core.errors import SchurganError
from schurgan.core.files import lock
from schurgan.data import Shards, prepare
from schurgan.data.sources import open_source
from schurgan.model import load
from schurgan.training import train


@pytest.fixture
def run(shards: Path, tiny, tmp_path: Path) -> Path:
    """A run whose data nobody else uses."""
    data = Path(shutil.copytree(shards, tmp_path / "data"))
    return train(tiny(steps=2).model_copy(update={"data": data}), tmp_path / "run")


def prepare_anew(folder: Path, seed: int = 1) -> None:
    sounds = open_source("soundscape", per_class=6, seconds=0.5, seed=seed)
    transform = Spectrogram(size=16, channels=1, sample_rate=16000, n_samples=8000)
    prepare(sounds, folder, transform, workers=1, overwrite=True)


@pytest.mark.filterwarnings("ignore:.*learned from what this replaces")
def test_what_compares_a_run_with_its_data_refuses_data_prepared_anew(call, run, tmp_path):
    prepare_anew(tmp_path / "data")
    for arguments, sentence in (
        ("evaluate --quick", "holds other data than the model was trained on"),
        ("evaluate --quick --data DATA", "holds other data than the model was trained on"),
        ("sweep --quick", "holds other data than the model was trained on"),
        ("report", "holds other data than the model was trained on"),
        ("sample --class siren --phase carrier", "holds other data than the model was trained on"),
        ("resume", "as many clips of the same classes, but other ones"),
    ):
        command, *options = arguments.replace("DATA", str(tmp_path / "data")).split(" ")
        said = call(command, run, *options)
        assert said.status == 2, arguments
        assert sentence in said.err, arguments
    assert call("sample", run, "--class", "siren", "--count", 1).status == 0  # which needs none


def test_prepare_warns_of_the_runs_that_learned_from_what_it_replaces_and_once_only(run, tmp_path):
    with pytest.warns(UserWarning, match=f"^{tmp_path / 'data'}: {run} learned from what this replaces"):
        prepare_anew(tmp_path / "data")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare_anew(tmp_path / "data", seed=2)


def test_prepare_is_silent_where_the_files_will_be_the_same_or_the_run_is_gone_or_learns_from_another(run, tmp_path):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        prepare_anew(tmp_path / "data", seed=0)
        shutil.copytree(tmp_path / "data", tmp_path / "copy")
        prepare_anew(tmp_path / "copy")
        shutil.rmtree(run)
        prepare_anew(tmp_path / "data")
    assert not heard


def test_prepare_leaves_the_data_of_a_run_that_trains_alone(run, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()}
    with lock(run), pytest.raises(SchurganError, match=f"^{tmp_path / 'data'}: {run} learns .*process {os.getpid()} "):
        prepare_anew(tmp_path / "data")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()} == before


def test_prepare_without_overwrite_names_the_run_of_the_data_that_it_does_not_replace(refused, run, tmp_path):
    said = refused("prepare", "soundscape", "--per-class", 1, "--out", tmp_path / "data")
    assert said.startswith(f"{tmp_path / 'data'}: ")
    assert str(run) in said


def test_data_that_cannot_be_written_can_be_learned_from(run, tiny, tmp_path):
    (tmp_path / "data" / "used-by.txt").unlink()
    (tmp_path / "data" / "used-by.txt").mkdir()
    config = tiny(steps=1).model_copy(update={"data": tmp_path / "data"})
    assert (train(config, tmp_path / "again") / "generator.safetensors").exists()
    prepare_anew(tmp_path / "data")


@pytest.mark.parametrize(
    ("counts", "made", "words"),
    [
        ({"siren": 5}, {}, ["5", "siren"]),
        ({"kettle": 6}, {}, ["no class kettle"]),
        ({}, {"sample_rate": 8000}, ["16000 Hz, not 8000 Hz", "0.5 s, not clips of 1 s"]),
        ({}, {"size": 64, "transform": "stft"}, ["16x16, not images of 64x64", "wavelet, not transform stft"]),
        ({}, {}, ["but other ones"]),
    ],
)
def test_how_data_differ_is_said_in_words(shards, counts, made, words):
    data = Shards(shards)
    said = data.unlike(data.counts | counts, data.codec.config | made)
    assert [word for word in words if word not in said] == []


def test_how_many_clips_differ_is_said_while_the_former_ones_are_there(call, recordings, tmp_path):
    clips = Path(shutil.copytree(recordings, tmp_path / "clips"))
    quick = ("--size", 16, "--seconds", 0.5, "--workers", 1)
    assert call("prepare", "folder", clips, "--out", tmp_path / "before", *quick).status == 0
    (clips / "bell" / "0.wav").unlink()
    shutil.copy(clips / "drum" / "1.wav", clips / "bell" / "9.wav")
    assert call("prepare", "folder", clips, "--out", tmp_path / "after", *quick).status == 0
    before, after = Shards(tmp_path / "before"), Shards(tmp_path / "after")
    said = after.unlike(before.counts, before.codec.config, before.folder, before.fingerprint)
    assert said == "1 of its 8 clips are not here; 1 of these 8 are new"


def test_the_new_classes_and_their_order_are_named(shards):
    data = Shards(shards)
    fewer = {name: count for name, count in data.counts.items() if name not in ("rain", "engine")}
    assert data.unlike(fewer, None) == "the new classes engine, rain"
    assert data.unlike(dict(reversed(data.counts.items())), None) == "the classes in another order"


def test_the_same_data_elsewhere_are_the_same_data(run, shards):
    assert load(run).open_data(shards).folder == shards


def test_a_generator_of_the_version_before_which_names_no_data_takes_what_fits(run, shards):
    model = load(run)
    model.card = replace(model.card, fingerprint=None)
    assert model.open_data(shards).classes == model.classes
