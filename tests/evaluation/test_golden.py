"""Seeded scores keep their values: those of `golden_scores.json`.

`GOLDEN=write pytest tests/evaluation/test_golden.py` writes the file anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from folded_set import OWN, make_run
from PIL import Image

import schurgan
from schurgan.data import Shards
from schurgan.evaluation import evaluate as score_run
from schurgan.evaluation.sweep import sweep
from schurgan.evaluation.usefulness import score_usefulness
from schurgan.model import Card, Model, build
from schurgan.networks.architectures import find_architecture

FILE = Path(__file__).with_name("golden_scores.json")


def numbers(value: object, path: str = "") -> Iterator[tuple[str, float | None]]:
    """All numbers in a JSON value, by their place; no text."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from numbers(each, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from numbers(each, f"{path}.{place}")
    elif not isinstance(value, str):
        yield path, value


@pytest.fixture
def keep():
    """`keep(name, value)`: the numbers of a JSON value are those of the file."""

    def check(name: str, value: object) -> None:
        known = json.loads(FILE.read_text()) if FILE.exists() else {}
        scores = dict(numbers(json.loads(json.dumps(value))))
        if os.environ.get("GOLDEN") == "write":
            FILE.write_text(json.dumps(known | {name: scores}, indent=0) + "\n")
            return
        assert scores.keys() == known[name].keys()
        for place, number in known[name].items():
            # Other processors round differently, and a classifier is trained on top of that.
            expected = number if number is None else pytest.approx(number, rel=1e-4, abs=1e-6)
            assert scores[place] == expected, place

    return check


def scores_of(evaluation) -> dict[str, object]:
    scores = evaluation.as_json()["scores"]
    return {name: {key: each for key, each in score.items() if key != "flags"} for name, score in scores.items()}


def test_scores_of_a_run_with_sounds_and_usefulness(keep, run, few_sounds, short_training, monkeypatch):
    monkeypatch.setattr(score_run, "score_usefulness", partial(score_usefulness, steps=2, seeds=2))
    monkeypatch.setattr(
        "schurgan.evaluation.features.classifier.FULL", {"epochs": 1, "least_steps": 4, "most_steps": 4}
    )
    keep("classifier", scores_of(schurgan.evaluate(run, images=60, runs=2, usefulness=True)))


def test_scores_of_a_run_that_held_nothing_out(keep, folded, model, tmp_path, few_sounds):
    run = make_run(tmp_path / "all", folded.folder, model, exclude=())
    keep("nothing held out", scores_of(schurgan.evaluate(run, extractor=OWN, images=60, runs=2, truncation=0.5)))


def test_scores_of_pictures(keep, call, tmp_path):
    rng = np.random.default_rng(0)
    for label, level in (("dark", 60), ("light", 180)):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for number in range(12):
            pixels = (level + rng.integers(-50, 50, (16, 16, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / label / f"{number}.png")
    assert call("prepare", "folder", tmp_path / "pictures", "--out", tmp_path / "data").status == 0
    shards = Shards(tmp_path / "data")
    architecture = find_architecture("small-16")
    card = Card(architecture, 4, 3, "normal", 1.0, shards.classes, shards.manifest.transform, (), None, 0)
    torch.manual_seed(0)
    run = make_run(tmp_path / "run", tmp_path / "data", Model(build(card), card), exclude=())
    keep("pictures", scores_of(schurgan.evaluate(run, extractor=OWN, images=60, runs=1, seed=5, batch_norm="batch")))


def test_points_of_a_sweep(keep, run):
    keep("sweep", sweep(run, (0.5, 1.0), extractor=OWN, images=60, figures=False).as_json()["points"])
