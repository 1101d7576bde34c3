from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from schurgan.data import Shards
from schurgan.evaluation.classifier import Classifier, _augment, _held_out, judge, train_classifier


@dataclass
class Bands:
    """Images whose class is the row that is loud: what `Shards` offers to the classifier, in memory."""

    count: int = 96
    folds: tuple[int | None, ...] = (None,) * 96
    shuffled: bool = False

    def __post_init__(self) -> None:
        chance = np.random.default_rng(0)
        self.classes = ("low", "middle", "high")
        self.labels = np.arange(self.count) % 3
        self._images = torch.from_numpy(chance.uniform(-1, -0.6, (self.count, 1, 16, 16)).astype(np.float32))
        for image, label in zip(self._images, self.labels, strict=True):
            image[0, 5 * label + 1 : 5 * label + 4] = 0.8
        if self.shuffled:
            self.labels = chance.permutation(self.labels)

    def __len__(self) -> int:
        return self.count

    def select(self, augmented: bool | None = None) -> Bands:
        return self

    def images(self, indices: np.ndarray) -> Tensor:
        return self._images[indices]

    def batches(self, size: int):
        for part in np.split(np.arange(self.count), range(size, self.count, size)):
            yield self._images[part], torch.from_numpy(self.labels[part])


def test_what_can_be_learned_is_learned_and_what_cannot_is_guessed():
    assert train_classifier(Bands(), least_steps=40).accuracy > 0.95
    chance = train_classifier(Bands(shuffled=True), least_steps=40)
    assert chance.accuracy < 0.75  # a third is expected of 18 clips, 0.75 has a chance below 1e-3


def test_a_set_of_a_few_clips_is_learned_too_and_not_guessed():
    """Twelve rounds of 19 clips are twelve steps, too few for the running statistics of batch norm."""
    assert train_classifier(Bands(count=24, folds=(None,) * 24)).accuracy == 1


def test_judging_counts_the_images_taken_for_their_class():
    data = Bands()
    network = train_classifier(data, least_steps=40).network
    images, labels = data.images(np.arange(30)), torch.from_numpy(data.labels[:30])
    assert judge(network, images, labels) == (1.0, (1.0, 1.0, 1.0))
    swapped = torch.where(labels == 0, 1, labels)  # the ten of "low" are called "middle"
    overall, per_class = judge(network, images, swapped)
    assert overall == pytest.approx(20 / 30)
    assert per_class == (0.0, 0.5, 1.0)  # no image is called "low" now


def test_several_channels_are_judged_by_their_mean():
    data = Bands()
    network = train_classifier(data, epochs=3, least_steps=0).network
    one, three = data.images(np.arange(9)), data.images(np.arange(9)).expand(-1, 3, -1, -1)
    assert torch.equal(network.predict(one), network.predict(three))


def test_the_same_seed_gives_the_same_classifier_and_global_random_numbers_stay():
    before = torch.random.get_rng_state()
    one, again, other = (train_classifier(Bands(), epochs=1, least_steps=0, seed=seed) for seed in (0, 0, 1))
    weights = [dict(each.network.named_parameters())["head.weight"] for each in (one, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_fifth_clip_of_each_class_is_held_out_where_there_are_no_folds():
    data = Bands(count=60, folds=(None,) * 60)
    test = _held_out(data)
    for label in range(3):
        held = test[torch.from_numpy(data.labels == label)]
        assert held.nonzero()[:, 0].tolist() == [4, 9, 14, 19]
    trained = train_classifier(data, epochs=1, least_steps=0)
    assert (trained.n_train, trained.n_test) == (48, 12)


def test_the_highest_fold_is_held_out_where_there_are_folds():
    data = Bands(count=60, folds=tuple(1 + i // 12 for i in range(60)))
    assert _held_out(data).nonzero()[:, 0].tolist() == list(range(48, 60))


def test_the_fewest_clips_still_leave_some_to_train_and_some_to_test(shards):
    data = Shards(shards).select(classes=["bark", "bell"])
    few = Bands(count=4, folds=(None,) * 4)
    assert 0 < _held_out(few).sum() < 4
    assert _held_out(data).sum() == 2
    assert train_classifier(few, epochs=1, least_steps=0).n_train == 2


def test_augmentation_moves_in_time_alone_and_by_at_most_4_db():
    images = torch.zeros(4, 1, 16, 16)
    images[..., 8] = 0.5
    moved = _augment(images, torch.Generator().manual_seed(1))
    assert moved.shape == images.shape
    assert (moved.std(2) < 1e-6).all()  # rows stay alike: nothing moved in frequency
    change = moved.sort(-1).values - images.sort(-1).values
    assert change.abs().max() <= 0.1  # of 2 for 80 dB
    assert abs(int(moved[0, 0, 0].argmax()) - 8) <= 2


def test_logits_have_a_column_a_class_at_every_size():
    for size in (16, 32, 64):
        assert Classifier(5).eval()(torch.zeros(2, 1, size, size)).shape == (2, 5)
