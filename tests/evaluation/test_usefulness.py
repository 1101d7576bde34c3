from __future__ import annotations

import json

import pytest
import torch
from folded_set import untrained
from torch import Tensor

from schurgan.core.errors import UserError
from schurgan.data import Shards
from schurgan.evaluation.usefulness import ClassifierTrainer, score_usefulness, usefulness
from schurgan.model import Model

CLASSES = ("left", "right")
CENTRES = torch.tensor([[-0.3, 0.0], [0.3, 0.0]])


@pytest.fixture(scope="module")
def sets(folded) -> tuple[Shards, Shards]:
    return folded.select(folds=[1]), folded.select(folds=[2])


@pytest.fixture
def model() -> Model:
    return untrained()


class NearestMean:
    """The class whose mean image is nearest: for two round clouds there is no better one. It draws nothing."""

    steps = 1

    def __call__(self, images: Tensor, labels: Tensor, seed: int):
        means = torch.stack([images[labels == c].flatten(1).mean(0) for c in labels.unique()])
        return lambda unseen: labels.unique()[torch.cdist(unseen.flatten(1), means).argmin(1)]


def draw(labels: Tensor, seed: int, shift: float = 0.0, spread: float = 0.4) -> Tensor:
    """Images (N, 1, 1, 2) of two clouds, `shift` of which lies across the way from the one to the other."""
    noise = torch.randn(len(labels), 2, generator=torch.Generator().manual_seed(1000 + seed))
    return (CENTRES[labels] + spread * noise + torch.tensor([0.0, shift])).view(-1, 1, 1, 2)


def clouds(count: int, seed: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % 2
    return draw(labels, seed), labels


def swapped(labels: Tensor, seed: int) -> Tensor:
    return draw(1 - labels, seed)


def test_images_of_the_true_distribution_help_where_real_ones_are_few():
    result = usefulness(clouds(4, 1), clouds(2000, 99), draw, NearestMean(), CLASSES, ratio=50, seeds=4)
    # of two round clouds at distance 0.6 with sd 0.4, the best classifier is right with probability Φ(0.75) = 0.773
    assert result.both.mean == pytest.approx(0.773, abs=0.03)
    assert result.generated.mean == pytest.approx(0.773, abs=0.03)
    assert result.real.mean < 0.75
    assert result.gain.over_seeds.low > 0
    assert "adding generated images: they help: +" in "\n".join(result.lines())


def test_images_with_the_wrong_labels_harm_and_teach_less_than_nothing():
    result = usefulness(clouds(100, 1), clouds(2000, 99), swapped, NearestMean(), CLASSES, ratio=3, seeds=4)
    assert result.gain.over_images.high < 0
    assert result.generated.mean == pytest.approx(1 - 0.773, abs=0.03)
    said = "\n".join(result.lines())
    assert "they harm" in said
    assert "they teach less" in said


def test_where_nothing_is_gained_no_difference_is_told():
    result = usefulness(clouds(400, 1), clouds(500, 99), draw, NearestMean(), CLASSES, ratio=0.1, seeds=5)
    assert result.gain.over_seeds.holds_zero or result.gain.over_images.holds_zero
    said = "\n".join(result.lines())
    assert "no difference can be told" in said or "too few to tell" in said


def test_a_gain_on_few_test_images_is_not_told_of_others():
    result = usefulness(clouds(4, 1), clouds(12, 90), draw, NearestMean(), CLASSES, ratio=50, seeds=4)
    assert result.gain.over_images.holds_zero
    assert "they help:" not in "\n".join(result.lines())


def test_classifiers_no_better_than_chance_allow_no_verdict():
    def noise(labels: Tensor, seed: int) -> Tensor:
        return draw(labels, seed, spread=0.0) * 0

    images, labels = clouds(100, 1)
    result = usefulness((images * 0, labels), clouds(50, 99), noise, NearestMean(), CLASSES, seeds=2)
    assert not result.informative
    assert result.lines()[-1] == "no classifier is better than chance (50.0%): nothing can be said"


def test_the_wilson_interval_is_that_of_the_test_images():
    result = usefulness(clouds(50, 1), clouds(100, 99), draw, NearestMean(), CLASSES, seeds=2)
    arm = result.real
    assert arm.mean == pytest.approx(sum(arm.accuracies) / 2)
    # at p = 0.77 and 100 images a normal interval is ± 0.082 wide
    assert arm.high - arm.low == pytest.approx(2 * 1.96 * (arm.mean * (1 - arm.mean) / 100) ** 0.5, rel=0.05)


def test_each_arm_gets_the_images_that_its_name_says():
    seen: list[list[int]] = []

    class Notes(NearestMean):
        def __call__(self, images: Tensor, labels: Tensor, seed: int):
            seen.append(torch.bincount(labels).tolist())
            return super().__call__(images, labels, seed)

    labels = torch.tensor([0] * 10 + [1] * 4)
    done: list[tuple[int, int]] = []
    real = draw(labels, 1), labels
    result = usefulness(
        real,
        clouds(20, 9),
        draw,
        Notes(),
        CLASSES,
        ratio=1.5,
        seeds=2,
        progress=lambda *each: done.append(each),
    )
    assert seen == [[10, 4], [25, 10], [15, 6]] * 2
    assert done == [(n, 6) for n in range(1, 7)]
    assert (result.real.n_train, result.both.n_train, result.generated.n_train) == (14, 35, 21)


def test_the_same_seed_gives_the_same_result_and_json_holds_it():
    def score():
        return usefulness(clouds(20, 1), clouds(50, 99), draw, NearestMean(), (*CLASSES, "none"), seeds=3)

    assert score() == score()
    known = json.loads(json.dumps(score().as_json(), allow_nan=False))
    assert known["real"]["per_class"]["none"] is None
    assert known["n_test"] == 50


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seeds": 1}, "seeds: 1 given"),
        ({"ratio": 0.0}, "ratio: 0 given"),
        ({"ratio": float("nan")}, "ratio: nan given"),
        ({"test": (torch.zeros(0, 1, 1, 2), torch.zeros(0).long())}, "test: images"),
        ({"test": (torch.zeros(2, 1, 1, 2), torch.tensor([0, 2]))}, "test: labels 0 to 2"),
        ({"real": (torch.full((2, 1, 1, 2), torch.nan), torch.tensor([0, 1]))}, "real: 2 of 2 images hold NaN"),
        ({"real": (torch.zeros(2, 1, 1, 2), torch.tensor([0, 0]))}, 'real: no image of class "right"'),
        ({"generate": lambda labels, seed: torch.full((len(labels), 1, 1, 2), torch.inf)}, "generated: 20 of 20"),
        ({"generate": lambda labels, seed: torch.zeros(3, 1, 1, 2)}, "generated: images"),
        ({"generate": lambda labels, seed: torch.zeros(len(labels), 1, 2, 2)}, "generated: (1, 2, 2) images"),
    ],
)
def test_what_cannot_be_is_refused_by_name(change, said):
    given = {"real": clouds(20, 1), "test": clouds(20, 9), "generate": draw, "train": NearestMean(), "classes": CLASSES}
    with pytest.raises(ValueError) as error:
        usefulness(**(given | change))
    assert str(error.value).startswith(said)


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
    predict = ClassifierTrainer(2, steps=40)(bands(labels, 0), labels, 0)
    assert torch.equal(torch.random.get_rng_state(), before)
    unseen = bands(labels, 1)
    assert (predict(unseen) == labels).double().mean() > 0.9
    again = ClassifierTrainer(2, steps=40)(bands(labels, 0), labels, 0)
    assert torch.equal(predict(unseen), again(unseen))


@pytest.mark.parametrize("images", [8, 500])
def test_the_default_classifier_takes_as_many_steps_whatever_it_is_given(images, monkeypatch):
    taken = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: taken.append(1) or step(self))
    labels = torch.arange(images) % 2
    ClassifierTrainer(2, steps=5)(bands(labels, 0), labels, 0)
    assert len(taken) == 5


def test_a_model_is_scored_on_its_own_images_the_same_for_the_same_seed(model, sets):
    def score():
        return score_usefulness(model, *sets, ratio=2, seeds=2, steps=3, per_class=2)

    result = score()
    assert (result.real.n_train, result.both.n_train, result.generated.n_train, result.n_test) == (6, 18, 12, 12)
    assert (result.steps, result.chance) == (3, pytest.approx(1 / 3))
    assert result == score()


def test_pictures_keep_their_colours():
    colours = torch.tensor([[1.0, -1.0, -1.0], [-1.0, 1.0, -1.0]])
    labels = torch.arange(32) % 2
    images = colours[labels][:, :, None, None].expand(-1, -1, 16, 16)
    predict = ClassifierTrainer(2, channels=3, steps=40, photo=True)(images, labels, 0)
    assert torch.equal(predict(images), labels)  # their means over the channels are all the same


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"seeds": 1}, "seeds: 1 given"),
        ({"steps": 1}, "steps: 1 given"),
        ({"per_class": 0}, "per_class: 0 given"),
        ({"ratio": -1.0}, "ratio: -1 given"),
        ({"truncation": -1.0}, "truncation"),
    ],
)
def test_numbers_that_cannot_be_are_refused_in_one_sentence(model, sets, option, said):
    with pytest.raises(UserError) as error:
        score_usefulness(model, *sets, **({"seeds": 2, "steps": 2} | option))
    assert str(error.value).startswith(said)


def test_a_model_that_makes_nan_is_refused(model, sets):
    with torch.no_grad():
        for weight in model.generator.parameters():
            weight.fill_(torch.nan)
    with pytest.raises(UserError, match="generated: 12 of 12 images hold NaN"):
        score_usefulness(model, *sets, seeds=2, steps=2)
