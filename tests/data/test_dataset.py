"""Datasets of torch as what can be trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from schurgan.core.errors import SchurganError
from schurgan.data import Batches, DatasetImages, Shards
from schurgan.data.loader import Prefetch
from schurgan.data.shards import split


def pixels(count: int = 30, size: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def pairs() -> TensorDataset:
    return TensorDataset(pixels(), torch.arange(30) % 3)


class Named(Dataset):
    """As those of torchvision: labels are plain numbers, and classes have names."""

    classes = ("cat", "dog", "fox")

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index >= 12:
            raise IndexError
        return torch.full((1, 20 + index, 40), 10 * index, dtype=torch.uint8), index % 3


def test_pixels_of_bytes_and_of_floats_are_the_same_images(pairs):
    data = DatasetImages(pairs)
    assert (data.shape, len(data), data.classes) == ((3, 16, 16), 30, ("0", "1", "2"))
    images = data.images([4, 2])
    assert torch.equal(data.codec.decode(images), pixels()[[4, 2]])
    floats = DatasetImages(TensorDataset(pixels() / 127.5 - 1, pairs.tensors[1]), classes=("a", "b", "c"))
    assert torch.equal(floats.images([4, 2]), images)
    assert floats.classes == ("a", "b", "c")


def test_two_classes_of_one_name_are_refused():
    with pytest.raises(ValueError, match="each name is needed once"):
        DatasetImages(TensorDataset(pixels(), torch.arange(30) % 3), classes=("a", "b", "a"))


def test_pictures_of_any_size_are_cropped_and_resized_and_classes_are_the_datasets():
    data = DatasetImages(Named(), size=8)
    assert (data.shape, data.classes) == ((1, 8, 8), Named.classes)
    assert data.labels.tolist() == [0, 1, 2] * 4
    assert (data.codec.decode(data.images([7])) == 70).all()


def test_batches_are_those_that_the_seed_draws_of_shards_of_the_same_length(pairs, shards):
    prepared = Shards(shards).take(np.arange(30))
    data = DatasetImages(pairs)
    for step in (0, 5):
        images, labels = Batches(data, 8, seed=3).batch(step)
        drawn = Batches(prepared, 8, seed=3).indices(step)
        assert torch.equal(images, data.images(drawn))
        assert torch.equal(labels, pairs.tensors[1][drawn])
    with Prefetch(Batches(data, 6, balanced=True), pin=False) as ready:
        assert torch.bincount(ready.batch(0)[1]).tolist() == [2, 2, 2]


def test_selections_and_splits_hold_for_datasets_too(pairs):
    data = DatasetImages(pairs)
    some = data.select(classes=["2", "0"])
    assert (len(some), some.classes, some.labels[:2].tolist()) == (20, ("2", "0"), [1, 0])
    assert torch.equal(some.images([1]), data.images([2]))
    training, held_out = split(data, val_fraction=0.3)
    assert (len(training), len(held_out)) == (21, 9)
    assert not set(training.origins) & set(held_out.origins)
    assert len(data.select(augmented=False)) == 30
    assert sum(len(labels) for _, labels in data.batches(7)) == 30
    with pytest.raises(SchurganError, match="no folds"):
        data.select(folds=[1])


def test_the_fingerprint_is_that_of_the_images_labels_and_selection(pairs):
    data = DatasetImages(pairs)
    assert data.fingerprint == DatasetImages(pairs).fingerprint
    changed = pixels()
    changed[29, 0, 0, 0] ^= 1
    others = [
        DatasetImages(TensorDataset(changed, pairs.tensors[1])),
        DatasetImages(TensorDataset(pixels(), pairs.tensors[1].roll(1))),
        data.take(np.arange(29)),
    ]
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 4


@pytest.mark.parametrize(
    ("images", "labels", "named"),
    [
        (pixels(0), torch.zeros(0), "dataset"),
        (pixels()[:, :2], torch.zeros(30), "dataset"),
        (pixels().float(), torch.zeros(30), "dataset"),
        (pixels() / 127.5 - 1 + torch.nan, torch.zeros(30), "dataset"),
        (pixels(), torch.full((30,), -1), "classes"),
        (pixels(), torch.full((30,), 3), "classes"),
    ],
)
def test_what_cannot_be_trained_on_is_told_by_argument(images, labels, named):
    with pytest.raises(ValueError, match=f"^{named}: "):
        DatasetImages(TensorDataset(images, labels), classes=("a", "b", "c"))
