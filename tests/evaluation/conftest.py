"""Fixtures of scores: a small folded set, an untrained model of it, and a run folder with both."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from folded_set import OWN, make_run, prepared, varied

import schurgan.evaluation
from schurgan.data import Shards
from schurgan.evaluation import evaluate as score_run
from schurgan.evaluation.scores import Evaluation
from schurgan.model import Model


@pytest.fixture(scope="session")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """Two folds of twelve clips. Not to be changed."""
    return prepared(tmp_path_factory.mktemp("folded"))


@pytest.fixture
def model() -> Model:
    return varied()


@pytest.fixture
def run(folded: Shards, model: Model, tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", folded.folder, model)


@pytest.fixture
def score(run: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Evaluation]:
    """`score(seed=1)`: 60 images of the run in a second, without its sounds."""
    monkeypatch.setattr(score_run, "score_sounds", lambda *_: {})
    return partial(schurgan.evaluate, run, extractor=OWN, images=60, runs=2)


@pytest.fixture
def few_sounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six sounds of two iterations in place of a hundred of 32."""
    from schurgan.evaluation import score_sounds

    monkeypatch.setattr(score_sounds, "_WANTED", 6)
    monkeypatch.setattr(score_sounds, "_REFINE", 2)


@pytest.fixture
def short_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Classifiers of four steps, in a cache of their own."""
    monkeypatch.setenv("SCHURGAN_CACHE", str(tmp_path / "cache"))
    for name in ("QUICK", "FULL"):
        steps = {"epochs": 1, "least_steps": 4, "most_steps": 4}
        monkeypatch.setattr(f"schurgan.evaluation.features.classifier.{name}", steps)
