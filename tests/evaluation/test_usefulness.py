from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from folded_set import untrained
from torch import Tensor

from schurgan.core.errors import SchurganError
from schurgan.data import Shards
from schurgan.evaluation import usefulness
from schurgan.evaluation.features.classifier import fit_classifier
from schurgan.evaluation.usefulness import Usefulness, score_usefulness
from schurgan.model import Model

CLASSES = ("left", "right")
CENTRES = torch.tensor([[-0.3, 0.0], [0.3, 0.0]])


@pytest.fixture(scope="module")
def sets(folded) -> tuple[Shards, Shards]:
    return folded.select(folds=[1]), folded.select(folds=[2])


@pytest.fixture
def model() -> Model:
    return untrained()


def draw(labels: Tensor, seed: int) -> Tensor:
    """Images (N, 1, 1, 2) of two clouds."""
    noise = torch.randn(len(labels), 2, generator=torch.Generator().manual_seed(1000 + seed))
    return (CENTRES[labels] + 0.4 * noise).view(-1, 1, 1, 2)


def clouds(count: int, seed: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % 2
    return draw(labels, seed), labels


@dataclass
class NearestMean:
    """The class whose mean image is nearest: for two round clouds there is no better one. It draws nothing."""

    counts: list[list[int]] = field(default_factory=list)
    """Images of each class that it was trained on, for each training."""

    def __call__(self, images, labels: Tensor, clips: Tensor, **options) -> SimpleNamespace:
        self.counts.append(torch.bincount(labels).tolist())
        known, classes = images(clips).flatten(1), labels.unique()
        means = torch.stack([known[labels == c].mean(0) for c in classes])
        if options["progress"]:
            options["progress"](options["steps"], options["steps"])
        return SimpleNamespace(predict=lambda unseen: classes[torch.cdist(unseen.flatten(1), means).argmin(1)])


@pytest.fixture
def measure(monkeypatch):
    """`measure(real, test)`: the usefulness of clouds, each set images and labels, to the nearest mean."""
    trainer = NearestMean()
    monkeypatch.setattr(usefulness, "fit_classifier", trainer)
    monkeypatch.setattr(usefulness, "check_apart", lambda *_: None)
    monkeypatch.setattr(usefulness, "_images", lambda images_and_labels: images_and_labels)

    def score(real, test, generate=draw, classes=CLASSES, **options) -> Usefulness:
        codec = SimpleNamespace(invert_colormap=lambda images: images)
        fake = SimpleNamespace(classes=classes, codec=codec, pictures=False)
        fake.images = lambda labels, truncation, seed: generate(labels, seed)
        return score_usefulness(fake, real, test, **options)

    score.trainer = trainer
    return score


def test_images_of_the_true_distribution_help_where_real_ones_are_few(measure):
    result = measure(clouds(4, 1), clouds(2000, 99), seeds=40)
    assert result.both.mean > result.real.mean
    assert result.gain.over_seeds.low > 0
    assert "adding generated images: they help: +" in "\n".join(result.lines())


def test_many_images_of_the_true_distribution_teach_what_the_best_classifier_knows(measure):
    result = measure(clouds(200, 1), clouds(2000, 99), seeds=4)
    # of two round clouds at distance 0.6 with sd 0.4, the best classifier is right with probability Φ(0.75) = 0.773
    assert result.both.mean == pytest.approx(0.773, abs=0.03)
    assert result.generated.mean == pytest.approx(0.773, abs=0.03)


def test_images_with_the_wrong_labels_harm_and_teach_less_than_nothing(measure):
    result = measure(clouds(100, 1), clouds(2000, 99), lambda labels, seed: draw(1 - labels, seed), seeds=4)
    assert result.gain.over_images.high < 0
    assert result.generated.mean == pytest.approx(1 - 0.773, abs=0.03)
    lines = "\n".join(result.lines())
    assert "they harm" in lines
    assert "they teach less" in lines


def test_where_nothing_is_gained_no_difference_is_told(measure):
    result = measure(clouds(400, 1), clouds(500, 99))
    assert result.gain.over_seeds.holds_zero or result.gain.over_images.holds_zero
    lines = "\n".join(result.lines())
    assert "no difference can be told" in lines or "too few to tell" in lines


def test_a_gain_on_few_test_images_is_not_told_of_others(measure):
    result = measure(clouds(4, 1), clouds(12, 90), seeds=4)
    assert result.gain.over_images.holds_zero
    assert "they help:" not in "\n".join(result.lines())


def test_classifiers_no_better_than_chance_allow_no_verdict(measure):
    images, labels = clouds(100, 1)
    result = measure((images * 0, labels), clouds(50, 99), lambda labels, seed: draw(labels, seed) * 0, seeds=2)
    assert not result.informative
    assert result.lines()[-1] == "no classifier is better than chance (50.0%): nothing can be said"


def test_the_wilson_interval_is_that_of_the_test_images(measure):
    arm = measure(clouds(50, 1), clouds(100, 99), seeds=2).real
    assert arm.mean == pytest.approx(sum(arm.accuracies) / 2)
    # at p = 0.77 and 100 images a normal interval is ± 0.082 wide
    assert arm.high - arm.low == pytest.approx(2 * 1.96 * (arm.mean * (1 - arm.mean) / 100) ** 0.5, rel=0.05)


def test_each_arm_gets_the_images_that_its_name_says(measure):
    labels = torch.tensor([0] * 10 + [1] * 4)
    done: list[tuple[int, int]] = []
    result = measure(
        (draw(labels, 1), labels), clouds(20, 9), seeds=2, steps=5, progress=lambda *each: done.append(each)
    )
    assert measure.trainer.counts == [[10, 4], [20, 8], [10, 4]] * 2
    assert done == [(5 * n, 30) for n in range(1, 7)]  # steps of all classifiers
    assert (result.real.n_train, result.both.n_train, result.generated.n_train) == (14, 28, 14)


def test_the_same_seed_gives_the_same_result_and_json_holds_it(measure):
    one, again = (measure(clouds(20, 1), clouds(50, 99), classes=(*CLASSES, "none"), seeds=3) for _ in range(2))
    assert one == again
    known = json.loads(json.dumps(one.as_json(), allow_nan=False))
    assert known["real"]["per_class"]["none"] is None
    assert known["n_test"] == 50


def test_a_class_that_was_not_trained_on_is_refused(measure):
    with pytest.raises(SchurganError, match='no clip of class "right"'):
        measure((torch.zeros(2, 1, 1, 2), torch.tensor([0, 0])), clouds(20, 9))


def train(images: Tensor, labels: Tensor, **options):
    options = {"classes": 2, "size": 16, "channels": 1, "steps": 40, "photo": False, "seed": 0} | options
    return fit_classifier(images.__getitem__, labels, torch.arange(len(images)), **options)


def bands(labels: Tensor, seed: int) -> Tensor:
    """Spectrograms (N, 1, 16, 16) whose class is the band that is loud."""
    chance = torch.Generator().manual_seed(seed)
    images = torch.rand(len(labels), 1, 16, 16, generator=chance) * 0.4 - 1
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 8 * label + 2 : 8 * label + 6] = 0.8
    return images


def test_the_default_classifier_learns_and_leaves_global_random_numbers_alone():
    labels = torch.arange(32) % 2
    before = torch.random.get_rng_state()
    predict = train(bands(labels, 0), labels).predict
    assert torch.equal(torch.random.get_rng_state(), before)
    unseen = bands(labels, 1)
    assert (predict(unseen) == labels).double().mean() > 0.9
    assert torch.equal(predict(unseen), train(bands(labels, 0), labels).predict(unseen))


@pytest.mark.parametrize("images", [8, 500])
def test_the_default_classifier_takes_as_many_steps_whatever_it_is_given(images, monkeypatch):
    taken = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: taken.append(1) or step(self))
    labels = torch.arange(images) % 2
    train(bands(labels, 0), labels, steps=5)
    assert len(taken) == 5


def test_a_model_is_scored_on_its_own_images_the_same_for_the_same_seed(model, sets):
    def score():
        return score_usefulness(model, *sets, seeds=2, steps=3)

    result = score()
    assert (result.real.n_train, result.both.n_train, result.generated.n_train, result.n_test) == (12, 24, 12, 12)
    assert (result.steps, result.chance) == (3, pytest.approx(1 / 3))
    assert result == score()


def test_pictures_keep_their_colours():
    colours = torch.tensor([[1.0, -1.0, -1.0], [-1.0, 1.0, -1.0]])
    labels = torch.arange(32) % 2
    images = colours[labels][:, :, None, None].expand(-1, -1, 16, 16)
    assert torch.equal(
        train(images, labels, channels=3, photo=True).predict(images), labels
    )  # their means over the channels are all the same


def test_a_model_that_makes_nan_is_refused(model, sets):
    with torch.no_grad():
        for weight in model.generator.parameters():
            weight.fill_(torch.nan)
    with pytest.raises(SchurganError, match="generated: 12 of 12 images hold NaN"):
        score_usefulness(model, *sets, seeds=2, steps=2)
