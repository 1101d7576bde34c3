"""Data that were prepared anew, with the same classes and transform: whatever compares a run with them refuses."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from schurgan.audio import Spectrogram
from schurgan.data import prepare
from schurgan.data.sources import open_source
from schurgan.model import load
from schurgan.training import train


@pytest.fixture
def run(shards: Path, tiny, tmp_path: Path) -> Path:
    """A run whose data nobody else uses."""
    data = Path(shutil.copytree(shards, tmp_path / "data"))
    return train(tiny(steps=2).model_copy(update={"data": data}), tmp_path / "run")


def test_what_compares_a_run_with_its_data_refuses_data_prepared_anew(call, run, tmp_path):
    sounds = open_source("soundscape", per_class=6, seconds=0.5, seed=1)
    transform = Spectrogram(size=16, channels=1, sample_rate=16000, n_samples=8000)
    prepare(sounds, tmp_path / "data", transform, workers=1, overwrite=True)
    for arguments, sentence in (
        ("evaluate --quick", "holds other data than the model was trained on"),
        ("evaluate --quick --data DATA", "holds other data than the model was trained on"),
        ("sweep --quick", "holds other data than the model was trained on"),
        ("report", "holds other data than the model was trained on"),
        ("sample --class siren --phase carrier", "holds other data than the model was trained on"),
        ("resume", "data was"),
    ):
        command, *options = arguments.replace("DATA", str(tmp_path / "data")).split(" ")
        said = call(command, run, *options)
        assert said.status == 2, arguments
        assert sentence in said.err, arguments
    assert call("sample", run, "--class", "siren", "--count", 1).status == 0  # which needs none


def test_the_same_data_elsewhere_are_the_same_data(run, shards):
    assert load(run).open_data(shards).folder == shards


def test_a_generator_of_the_version_before_which_names_no_data_takes_what_fits(run, shards):
    model = load(run)
    model.card = replace(model.card, fingerprint=None)
    assert model.open_data(shards).classes == model.classes
