"""Known damage to soundscapes moves each score the way it must: the small version of `benchmarks/bench_scores.py`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

import damage
from ladders import LADDERS, SCORES, Course, Judge, climb
from schurgan.audio import Spectrogram
from schurgan.data import Shards, prepare
from schurgan.data.sources.base import Item
from schurgan.data.sources.soundscape import Soundscape
from schurgan.evaluation.features.classifier import train_classifier
from schurgan.evaluation.features.extractor import ClassifierExtractor

BY_NAME = {ladder.name: ladder for ladder in LADDERS}
# Clips of other recordings have these at 1 already, as copies do: nothing is left to rise by.
FULL = {("copied training images", score) for score in ("precision", "density", "coverage")}
DEMANDS = sorted({(ladder.name, score) for ladder in LADDERS for score in ladder.rises | ladder.falls} - FULL)


@dataclass(frozen=True)
class Folded(Soundscape):
    """Soundscapes in five folds."""

    def items(self) -> list[Item]:
        return [replace(item, fold=1 + number % 5) for number, item in enumerate(super().items())]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Two ways to call one half of the training clips real and the other made, 96 of each."""
    out = tmp_path_factory.mktemp("damage") / "shards"
    prepare(Folded(per_class=30, seconds=0.5), out, Spectrogram(size=16, channels=1, n_samples=8000), workers=1)
    shards = Shards(out)
    trained = train_classifier(shards, val_folds=(5,), epochs=10, least_steps=150, most_steps=150)
    extractor = ClassifierExtractor(trained)
    held_out = damage.fold_clips(shards, (5,))
    return [
        (Judge(extractor, damage.fold_clips(shards, real), held_out), damage.fold_clips(shards, made))
        for real, made in (((1, 2), (3, 4)), ((1, 3), (2, 4)))
    ]


@pytest.fixture(scope="module")
def climbed(pairs):
    """Of each ladder the undamaged clips and the end."""
    return {
        name: climb(replace(ladder, levels=(ladder.levels[0], ladder.levels[-1])), pairs)
        for name, ladder in BY_NAME.items()
    }


@pytest.mark.parametrize(("ladder", "score"), DEMANDS)
def test_damage_moves_the_score_the_way_it_must(climbed, ladder, score):
    course = climbed[ladder][score]
    assert course.direction == BY_NAME[ladder].demand(score), course.table


def test_only_accuracy_memory_and_variety_look_at_the_class_that_was_asked_for(climbed):
    courses = climbed["swapped classes"]
    for score in SCORES.keys() - {"accuracy", "memorisation", "near_copies", "variety"}:
        assert courses[score].table[0] == courses[score].table[1], score
    assert courses["accuracy"].values[1] < 0.1  # of eight classes, none is the one asked for


def test_a_set_of_training_images_is_at_no_distance_and_all_near_copies(climbed):
    courses = climbed["copied training images"]
    assert courses["fid"].values[1] < 1e-9
    for score in ("near_copies", "precision", "recall", "coverage"):
        assert courses[score].values[1] == 1, score


def test_clips_run_backwards_are_as_varied(climbed):
    courses = climbed["run backwards"]
    for score in ("variety", "kinds"):
        undamaged, reversed_ = courses[score].values
        assert reversed_ == pytest.approx(undamaged, rel=1e-6), score  # sums of float32 in another order


def test_the_inception_score_does_not_see_a_collapse_inside_the_classes_that_recall_and_variety_see(climbed):
    courses = climbed["collapse in each class"]
    before, after = courses["inception_score"].values
    assert abs(after / before - 1) < 0.15
    assert courses["recall"].values[1] < 0.1
    assert courses["variety"].values[1] < 0.5 * courses["variety"].values[0]


def test_a_course_has_a_direction_where_the_ranks_and_every_pair_agree():
    assert Course(((1.0, 2.0), (2.0, 3.0), (4.0, 5.0))).direction == "rises"
    assert Course(((1.0, 2.0), (0.0, 1.0), (-4.0, 0.5))).direction == "falls"
    assert Course(((1.0, 2.0), (2.0, 3.0), (9.0, 1.9))).direction == ""  # one pair ends lower
    assert Course(((1.0, 2.0), (9.0, 9.0), (2.0, 3.0))).direction == ""  # up and down
    assert Course(((1.0, 2.0), (1.0, 2.0))).direction == ""


def test_a_course_stays_until_its_mean_leaves_what_undamaged_sets_scatter_by():
    start, scatter = (1.0, 5.0), 2 * 8**0.5  # twice the standard deviation of 1 and 5
    assert Course((start, start)).scatter == pytest.approx(scatter)
    for share, seen in ((0.99, False), (-0.99, False), (1.01, True), (-1.01, True)):
        course = Course((start, tuple(value + share * scatter for value in start)))
        assert course.seen == seen
        assert course.meets("stays") != seen
