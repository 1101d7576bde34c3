"""Soundscapes without recordings, so that no sounds are scored, and a study of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_study import small_study

from schurgan.audio import Spectrogram
from schurgan.data import prepare
from schurgan.data.sources import open_source
from schurgan.studies.study import Study, Trial, read_study


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight classes of six soundscapes as images of 16 by 16. Not to be changed."""
    out = tmp_path_factory.mktemp("images")
    source = open_source("soundscape", per_class=6, seconds=0.5)
    transform = Spectrogram(size=16, channels=1, sample_rate=16000, n_samples=8000)
    prepare(source, out, transform, workers=1, keep_audio=False)
    return out


@pytest.fixture
def study() -> Study:
    return read_study("small", small_study())


@pytest.fixture
def trials(study: Study, tmp_path: Path) -> dict[str, Trial]:
    folders = {"set": tmp_path, "set-linear": tmp_path}
    return {trial.name: trial for trial in study.trials("laptop", 3, folders, tmp_path / "out")}
