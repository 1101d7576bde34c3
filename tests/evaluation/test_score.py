"""Scores of one's own images: tensors in, scores with their floors out."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from folded_set import OWN, looks
from torch import Tensor

from schurgan.core.errors import SchurganError
from schurgan.evaluation import score
from schurgan.evaluation.metrics.frechet import frechet_distance
from schurgan.evaluation.metrics.neighbours import prdc
from schurgan.evaluation.metrics.variety import variety

LABELS = torch.arange(60) % 3


def images(seed: int, count: int = 60, shift: float = 0.0) -> Tensor:
    noise = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (0.2 * noise + shift).clamp(-1, 1)


def test_scores_of_images_are_those_of_the_metrics_on_their_pixels():
    real, fake = images(0), images(1, shift=0.2)
    scores = score(real, fake)
    pixels = real.flatten(1).double(), fake.flatten(1).double()
    assert scores["fid"].value == pytest.approx(frechet_distance(*pixels))
    near = prdc(*pixels)
    for name in ("precision", "recall", "density", "coverage"):
        assert scores[name].value == pytest.approx(getattr(near, name)), name
    one_class = torch.zeros(60, dtype=torch.int64)
    expected = variety(fake, one_class) / variety(real, one_class)
    assert scores["variety"].value == pytest.approx(expected)
    assert {"kid", "vendi_score", "departure_gap", "nearest_training"} <= scores.keys()
    assert not {"fid_per_class", "accuracy", "inception_score"} & scores.keys()  # no classes are known


def test_each_score_stands_beside_what_halves_of_the_real_images_reach():
    scores = score(images(0), images(1, shift=0.5))
    for name in ("fid", "kid"):
        assert scores[name].value > 2 * scores[name].floor, name
    alike = score(images(0), images(2))["fid"]
    assert alike.matched == pytest.approx(alike.floor, rel=0.2)  # halves of 30 against 30


def test_features_are_scored_as_they_are():
    real, fake = (torch.randn(80, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    scores = score(real, fake + 1)
    assert scores["fid"].value == pytest.approx(frechet_distance(real, fake + 1))
    assert scores["fid"].extractor == "features"
    assert "departure_gap" not in scores  # features are no matrices


def test_classes_held_out_images_and_an_extractor_add_their_scores():
    sets = {"real": images(0), "fake": images(1), "held_out": images(2)}
    labels = {f"{name}_labels": LABELS for name in sets}
    scores = score(**sets, **labels, extractor=OWN)
    assert scores["fid"].value == pytest.approx(frechet_distance(looks(images(0))[0], looks(images(1))[0]), rel=1e-4)
    assert scores["fid"].held_out > 0
    assert set(scores["fid_per_class"].details["per_class"]) == {"0", "1", "2"}
    assert 0 <= scores["accuracy"].value <= 1
    assert scores["memorisation"].value == pytest.approx(1, abs=0.2)
    assert score(**sets)["near_copies"].value == 0


def test_images_that_are_not_square_have_no_departure():
    assert "departure_gap" not in score(images(0)[..., :6], images(1)[..., :6])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"fake": torch.zeros(9, 1, 4, 4)}, "fake"),
        ({"fake": torch.full((9, 1, 8, 8), torch.nan)}, "fake"),
        ({"real": torch.full((9, 1, 8, 8), torch.nan)}, "real"),
        ({"held_out": torch.zeros(9, 3)}, "held_out"),
        ({"real_labels": LABELS}, "fake_labels"),
        ({"real_labels": LABELS[:5], "fake_labels": LABELS}, "real_labels"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(arguments, named):
    with pytest.raises(ValueError, match=named):
        score(**({"real": images(0), "fake": images(1)} | arguments))


def test_the_package_is_imported_without_torch():
    code = "import sys, schurgan.evaluation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_extractor_is_refused():
    with pytest.raises(SchurganError, match="inception"):
        score(images(0), images(1), extractor="inceptoin")
