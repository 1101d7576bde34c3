from __future__ import annotations

import os
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from schurgan.audio import Spectrogram
from schurgan.core.errors import SchurganError
from schurgan.data import Shards, prepare
from schurgan.data.sources import open_source
from schurgan.evaluation.features.classifier import Classifier, _held_out, augment, draws, judge, train_classifier


@dataclass
class Bands:
    """Images whose class is the row that is loud: what `Shards` offers to the classifier, in memory."""

    count: int = 96
    folds: tuple[int | None, ...] = ()
    shuffled: bool = False
    kind: str = "audio"
    planes: int = 1
    size: int = 16
    classes: tuple[str, ...] = ("low", "middle", "high")
    codec: SimpleNamespace = field(init=False)
    seen: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        chance = np.random.default_rng(0)
        self.folds = self.folds or (None,) * self.count
        self.codec = SimpleNamespace(kind=self.kind)
        self.shape = (self.planes, self.size, self.size)
        self.labels = np.arange(self.count) % 3
        self._images = torch.from_numpy(chance.uniform(-1, -0.6, (self.count, *self.shape)).astype(np.float32))
        rows = self.size // 16
        for image, label in zip(self._images, self.labels, strict=True):
            image[:, (5 * label + 1) * rows : (5 * label + 4) * rows] = 0.8
        if self.shuffled:
            self.labels = chance.permutation(self.labels)

    def __len__(self) -> int:
        return self.count

    @property
    def fingerprint(self) -> str:
        return f"{self.count} {self.folds} {self.labels.tolist()}"

    def select(self, augmented: bool | None = None) -> Bands:
        return self

    def images(self, indices: np.ndarray) -> Tensor:
        self.seen.extend(np.asarray(indices).tolist())
        return self._images[indices]


def test_what_can_be_learned_is_learned_and_what_cannot_is_guessed():
    assert train_classifier(Bands(), epochs=1, least_steps=60).accuracy > 0.95
    chance = train_classifier(Bands(shuffled=True), epochs=1, least_steps=60)
    assert chance.accuracy < 0.75  # a third is expected of 18 clips, 0.75 has a chance below 1e-3


def test_a_set_of_a_few_clips_is_learned_too_and_not_guessed():
    """Twelve rounds of 19 clips are twelve steps, too few for the running statistics of batch norm."""
    assert train_classifier(Bands(count=24), epochs=12, least_steps=100).accuracy == 1


def test_colours_alone_tell_classes_apart():
    data = Bands(count=48, planes=3, kind="images")
    data._images[:] = -1  # all that is left is which of the three channels is bright
    data._images[np.arange(48), data.labels] = 0.5
    assert train_classifier(data, epochs=1, least_steps=60).accuracy == 1


def test_judging_counts_the_images_taken_for_their_class():
    data = Bands()
    network = train_classifier(data, epochs=1, least_steps=60).network
    images, labels = data.images(np.arange(30)), torch.from_numpy(data.labels[:30])
    assert judge(network, images, labels) == (1.0, (1.0, 1.0, 1.0))
    swapped = torch.where(labels == 0, 1, labels)  # the ten of "low" are called "middle"
    overall, per_class = judge(network, images, swapped)
    assert overall == pytest.approx(20 / 30)
    assert per_class == (0.0, 0.5, 1.0)  # no image is called "low" now


def test_several_channels_are_judged_by_their_mean():
    data = Bands()
    network = Classifier(3, 16).eval()
    one, three = data.images(np.arange(9)), data.images(np.arange(9)).expand(-1, 3, -1, -1)
    spread = three + torch.tensor([-0.1, 0, 0.1]).view(3, 1, 1)
    assert (network.features(one) - network.features(spread)).abs().max() < 1e-5  # float32 means
    assert torch.equal(network.predict(one), network.predict(three))


def test_images_of_another_size_or_colour_are_refused():
    network = Classifier(3, 16, channels=3)
    for shape in ((2, 3, 32, 32), (2, 1, 16, 16), (3, 16, 16)):
        with pytest.raises(ValueError, match="trained on"):
            network(torch.zeros(shape))


def test_the_same_seed_gives_the_same_classifier_and_global_random_numbers_stay():
    before = torch.random.get_rng_state()
    one, again, other = (train_classifier(Bands(), epochs=1, least_steps=0, seed=seed) for seed in (0, 0, 1))
    weights = [dict(each.network.named_parameters())["head.weight"] for each in (one, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_fifth_clip_of_each_class_is_held_out_where_there_are_no_folds():
    data = Bands(count=60)
    test = _held_out(data)
    for label in range(3):
        held = test[torch.from_numpy(data.labels == label)]
        assert held.nonzero()[:, 0].tolist() == [4, 9, 14, 19]
    trained = train_classifier(data, epochs=1, least_steps=0)
    assert (trained.n_train, trained.n_test) == (48, 12)


def test_the_highest_fold_is_held_out_where_there_are_folds():
    data = Bands(count=60, folds=tuple(1 + i // 12 for i in range(60)))
    assert _held_out(data).nonzero()[:, 0].tolist() == list(range(48, 60))


def test_folds_that_the_run_excludes_are_tested_on_and_never_trained_on():
    data = Bands(count=60, folds=tuple(1 + i // 12 for i in range(60)))
    trained = train_classifier(data, val_folds=(2, 3), epochs=2, least_steps=0)
    assert (trained.n_train, trained.n_test) == (36, 24)
    excluded = range(12, 36)
    assert data.seen[-24:] == list(excluded)
    assert not set(data.seen[:-24]) & set(excluded)


def test_folds_that_leave_nothing_are_refused():
    data = Bands(count=12, folds=(1,) * 6 + (2,) * 6)
    with pytest.raises(SchurganError, match="0 clips to train on"):
        train_classifier(data, val_folds=(1, 2))


def test_the_fewest_clips_still_leave_some_to_train_and_some_to_test():
    few = Bands(count=4)
    assert 0 < _held_out(few).sum() < 4
    assert _held_out(Bands(count=18)).sum() == 3  # one of six of each class
    assert train_classifier(few, epochs=1, least_steps=0).n_train == 2


def test_every_clip_is_drawn_once_before_any_comes_again():
    clips = torch.arange(100, 150)
    rounds = draws(clips, torch.Generator().manual_seed(0))
    drawn = torch.cat([next(rounds) for _ in range(25)])  # 800, sixteen rounds
    assert all(part.sort().values.equal(clips) for part in torch.split(drawn, 50))


def test_training_is_as_long_as_said_and_says_how_far_it_is():
    told: list[tuple[int, int]] = []
    options = {"progress": lambda *done: told.append(done)}
    train_classifier(Bands(), epochs=2, least_steps=0, **options)  # 78 clips are three batches
    assert told == [(step + 1, 6) for step in range(6)]
    for limits in ({"epochs": 1, "least_steps": 5}, {"epochs": 9, "most_steps": 5, "least_steps": 0}):
        told.clear()
        train_classifier(Bands(), **limits, **options)
        assert told[-1] == (5, 5)


def test_augmentation_of_sound_keeps_the_level_to_4_db_and_the_rows_to_a_24th():
    images = torch.full((64, 1, 48, 48), -0.5)
    images[:, :, 20] = 0.5
    moved = augment(images, torch.Generator().manual_seed(1))
    assert moved.shape == images.shape
    loudest = moved[:, 0].amax(2)  # over time, a sixth of which may be silent
    kept = loudest.amax(1) > 0  # else the row itself was silenced
    assert kept.float().mean() > 0.75
    rows = loudest.argmax(1)[kept]
    assert rows.min() == 18
    assert rows.max() == 22
    change = loudest.amax(1)[kept] - 0.5
    assert change.abs().max() <= 0.1  # of 2 for 80 dB
    assert change.std() > 0.03  # each by its own: 0.058 is expected


def test_augmentation_moves_sounds_round_in_time_and_photos_not():
    images = torch.full((64, 1, 16, 16), -1.0)
    images[..., 3:5] = 0.5
    moved = augment(images, torch.Generator().manual_seed(0)).amax((1, 2)) > 0
    assert moved[:, 10].any()
    photos = augment(images, torch.Generator().manual_seed(0), photo=True).amax((1, 2)) > 0
    assert set(photos.nonzero()[:, 1].tolist()) == {1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14}  # mirrored, moved by 2


@pytest.mark.parametrize("size", [8, 16, 23, 100, 128, 256])
def test_logits_have_a_column_a_class_at_every_size(size):
    network = Classifier(5, size, channels=3).eval()
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 5)
    assert network.features(torch.zeros(2, 3, size, size)).shape == (2, 64)
    assert network.stem(torch.zeros(1, 3, size, size)).shape[-1] <= 64


@pytest.mark.slow
@pytest.mark.skipif("SCHURGAN_ESC50" not in os.environ, reason="SCHURGAN_ESC50 names no copy of ESC-50")
def test_real_sounds_of_a_fold_not_seen_are_known(tmp_path):
    source = open_source("esc50", os.environ["SCHURGAN_ESC50"], subset="esc10")
    prepare(source, tmp_path / "esc10", Spectrogram(size=64, channels=1), workers=1)
    trained = train_classifier(Shards(tmp_path / "esc10"), val_folds=(5,))
    assert trained.accuracy > 0.75  # 80 clips; 0.84 to 0.93 was seen of several seeds
