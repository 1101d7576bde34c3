"""Input that no score can be taken of, or that makes scores meaningless: a sentence or a flag, never a wrong number."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from folded_set import CLASSES, OWN, Folded, make_run, spectrogram
from torch import Tensor

import schurgan.evaluation
from schurgan.core.errors import SchurganError
from schurgan.data import prepare
from schurgan.data.sources.base import Item
from schurgan.evaluation import evaluate as score_run
from schurgan.evaluation.target import open_subject
from schurgan.model import Card, Model, build
from schurgan.networks.architectures import find_architecture


def broken(model: Model, share: float) -> Model:
    """A model of whose images that share is NaN."""
    forward, calls = model.generator.forward, torch.Generator().manual_seed(0)

    def give(z: Tensor, labels: Tensor) -> Tensor:
        images = forward(z, labels)
        images[torch.rand(len(images), generator=calls) < share] = torch.nan
        return images

    model.generator.forward = give
    return model


def test_images_that_are_not_finite_are_left_out_and_counted(score, model, monkeypatch):
    monkeypatch.setattr("schurgan.evaluation.target.load", lambda *_: broken(model, 0.3))
    found = score(runs=1)
    left = found.scores["fid"].n_fake
    assert 20 < left < 60
    assert any(f"{60 - left} of 60 generated images hold NaN or infinite values" in note for note in found.notes)
    assert all(each.value is not None for each in found.scores.values())


def test_a_generator_of_nothing_but_nan_is_one_sentence(score, model, run, monkeypatch):
    monkeypatch.setattr("schurgan.evaluation.target.load", lambda *_: broken(model, 1.1))
    with pytest.raises(SchurganError, match=r"60 of 60 generated images hold NaN or infinite values"):
        score()
    assert not (run / "scores.json").exists()


def test_a_constant_generator_has_no_variety_no_recall_and_a_finite_fid(score, model, monkeypatch):
    model.generator.forward = lambda z, labels: torch.zeros(len(z), 3, 16, 16)
    monkeypatch.setattr("schurgan.evaluation.target.load", lambda *_: model)
    found = score().scores
    assert found["inception_score"].value == pytest.approx(1)
    assert found["variety"].value == 0
    assert found["vendi_score"].value == pytest.approx(1)
    assert found["recall"].value == 0
    assert found["fid"].value > 0
    json.dumps([each.as_json() for each in found.values()], allow_nan=False)


def test_a_generator_of_training_images_is_found_out(score, model, folded, monkeypatch):
    training = folded.select(exclude_folds=[2])
    images = training.images(range(len(training))).expand(-1, 3, -1, -1)
    of_class = [images[torch.from_numpy(training.labels == c)] for c in range(3)]
    model.generator.forward = lambda z, labels: torch.stack(
        [
            of_class[c][int(draw.abs() * 1e4) % len(of_class[c])]
            for c, draw in zip(labels.tolist(), z[:, 0], strict=True)
        ]
    )
    monkeypatch.setattr("schurgan.evaluation.target.load", lambda *_: model)
    found = score().scores
    assert found["near_copies"].value == 1
    assert found["near_copies"].held_out < 0.5
    assert found["memorisation"].value == pytest.approx(0, abs=1e-5)
    assert found["memorisation"].held_out > 0.5
    assert found["nearest_training"].value == pytest.approx(0, abs=1e-5)
    assert found["nearest_training"].held_out > 0.5
    assert found["fid"].value < found["fid"].matched  # of all training images, which these are


def test_one_class_has_scores_and_a_flag_where_one_says_nothing(tmp_path, short_training):
    prepare(OneClass(per_class=12, seconds=0.5), tmp_path / "data", spectrogram(), workers=1)
    architecture = find_architecture("small-16")
    card = Card(architecture, 4, 3, "normal", 1.0, ("bell",), spectrogram(channels=3).config, (0.2,), None, 0)
    run = make_run(tmp_path / "run", tmp_path / "data", Model(build(card), card))
    found = schurgan.evaluate(run, images=60, runs=1, quick=True).scores
    assert found["inception_score"].value == 1
    assert any("knows one class: the score is 1" in flag for flag in found["inception_score"].flags)
    assert found["fid"].value > 0
    assert found["variety"].value >= 0


class OneClass(Folded):
    def classes(self) -> tuple[str, ...]:
        return ("bell",)

    def items(self) -> list[Item]:
        bells = [item for item in super().items() if item.label == "bell"]
        return [replace(item, fold=1 + number % 2) for number, item in enumerate(bells)]


def test_few_images_have_flags_and_no_number_where_there_is_none(score):
    found = score(images=3, runs=1).scores
    assert found["precision"].value is None
    assert "6 or more are needed" in found["precision"].flags[0]
    assert any("a covariance is singular" in flag for flag in found["fid"].flags)


def test_an_extractor_that_returns_something_else_is_one_sentence(score):
    with pytest.raises(SchurganError, match=r"training images: extractor .* \(N, d\) are needed"):
        score(extractor="test_evaluate_degenerate:sums")


def sums(images: Tensor) -> Tensor:
    return images.sum()[None]


def test_a_run_whose_data_is_gone_is_one_sentence_and_takes_it_from_elsewhere(folded, model, tmp_path, monkeypatch):
    monkeypatch.setattr(score_run, "score_sounds", lambda *_: {})
    run = make_run(tmp_path / "moved", tmp_path / "gone", model)
    with pytest.raises(SchurganError, match=f"data: {tmp_path / 'gone'} is gone"):
        schurgan.evaluate(run, extractor=OWN)
    found = schurgan.evaluate(run, extractor=OWN, images=60, runs=1, data=folded.folder)
    assert found.protocol.n_real == 12


def test_data_of_other_classes_is_refused(shards, run):
    with pytest.raises(SchurganError, match="holds other data than"):
        open_subject(run, shards)


def test_a_model_of_other_classes_than_its_data_is_refused(folded, model, tmp_path):
    other = Model(model.generator, replace(model.card, classes=tuple(reversed(CLASSES))))
    with pytest.raises(SchurganError, match="holds other data than"):
        open_subject(make_run(tmp_path / "other", folded.folder, other))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--images", "1"], "images: 1 given, a whole number from 2 to 1000000 is needed"),
        (["--runs", "0"], "runs: 0 given, a whole number from 1 to 100 is needed"),
        (["--seed", "-1"], "seed: -1 given"),
        (["--truncation", "-1"], "truncation: -1.0 given, a finite number above 0 is needed"),
        (["--extractor", "clasifier"], 'extractor "clasifier": no such extractor; did you mean "classifier"?'),
        (["--batch-norm", "moving"], "batch-norm: "),
        (["--device", "toaster"], '--device: "toaster" given, no such device here'),
        (["--images", "many"], "--images: 'many' given, a whole number is needed"),
    ],
)
def test_bad_options_are_one_sentence(refused, run, arguments, said):
    extractor = [] if "--extractor" in arguments else ["--extractor", OWN]
    assert said in refused("evaluate", run, *extractor, *arguments)


def test_no_run_at_all_is_one_sentence(refused, tmp_path):
    assert refused("evaluate", tmp_path / "none").startswith(f"{tmp_path / 'none'}: no such file or folder")
    assert refused("evaluate", tmp_path).startswith(f"{tmp_path}: ")
