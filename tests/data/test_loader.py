from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from schurgan.audio import Spectrogram
from schurgan.data import Batches, Shards, prepare
from schurgan.data.sources.base import Item


@dataclass(frozen=True)
class Chirps:
    """21 clips in two classes."""

    name: str = "chirps"
    skipped: tuple[tuple[str, str], ...] = ()

    def classes(self) -> tuple[str, ...]:
        return ("rising", "falling")

    def items(self) -> list[Item]:
        return [Item(f"{n:02}", self.classes()[n % 2]) for n in range(21)]

    def load(self, item: Item, sample_rate: int) -> Tensor:
        time = torch.arange(8000) / sample_rate
        return torch.sin((2000 + 200 * int(item.origin)) * time * (1 + time if item.label == "rising" else 2 - time))

    def describe(self) -> dict[str, object]:
        return {"source": self.name}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    out: Path = tmp_path_factory.mktemp("chirps")
    prepare(Chirps(), out, Spectrogram(size=32, n_samples=8000, channels=1), shard_clips=8, workers=1)
    return Shards(out)


def test_a_batch_is_the_images_and_labels_of_its_indices(shards):
    batches = Batches(shards, 8, seed=3)
    images, labels = batches.batch(5)
    indices = batches.indices(5)
    assert images.shape == (8, 1, 32, 32)
    assert torch.equal(images, shards.images(indices))
    assert labels.dtype == torch.int64
    assert labels.tolist() == shards.labels[indices].tolist()


@settings(max_examples=50)
@given(batch_size=st.integers(1, 70), seed=st.integers(0, 2**32), epochs=st.integers(1, 4))
def test_every_epoch_shows_every_clip_once_whatever_the_batch(shards, batch_size, seed, epochs):
    batches = Batches(shards, batch_size, seed)
    steps = -(-epochs * len(shards) // batch_size)
    row = np.concatenate([batches.indices(step) for step in range(steps)])
    for epoch in range(epochs):
        assert sorted(row[epoch * 21 : (epoch + 1) * 21]) == list(range(21))


@settings(max_examples=50)
@given(steps=st.lists(st.integers(0, 10**9), min_size=1, max_size=5), batch_size=st.integers(1, 70))
def test_a_step_gives_the_same_batch_in_any_order_and_from_a_new_loader(shards, steps, batch_size):
    batches = Batches(shards, batch_size, seed=1)
    first = {step: batches.indices(step) for step in steps}
    for step in reversed(steps):
        assert np.array_equal(batches.indices(step), first[step])
        assert np.array_equal(Batches(shards, batch_size, seed=1).indices(step), first[step])


def test_epochs_and_seeds_are_in_different_orders(shards):
    orders = {tuple(Batches(shards, 21, seed).indices(epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_a_set_smaller_than_a_batch_is_repeated(shards):
    few = shards.select(classes=["rising"])
    images, labels = Batches(few, 64, seed=0).batch(2)
    assert images.shape == (64, 1, 32, 32)
    assert labels.unique().tolist() == [0]
    counts = np.bincount(Batches(few, 64, seed=0).indices(2), minlength=len(few))
    assert counts.max() - counts.min() <= 2  # 64 of 11 clips: five whole epochs and two parts


def test_all_clips_are_in_the_first_place_about_equally_often(shards):
    first = np.bincount([Batches(shards, 21, seed=0).indices(epoch)[0] for epoch in range(2100)], minlength=21)
    # χ² with 20 degrees of freedom exceeds 45.3 once in a thousand.
    assert ((first - 100) ** 2 / 100).sum() < 45.3


@pytest.mark.parametrize(("batch_size", "seed"), [(0, 0), (4, -1)])
def test_an_empty_batch_and_a_negative_seed_are_refused(shards, batch_size, seed):
    with pytest.raises(ValueError, match=f"batch_size {batch_size}, seed {seed}"):
        Batches(shards, batch_size, seed)


def test_a_negative_step_is_refused(shards):
    with pytest.raises(ValueError, match="step -1"):
        Batches(shards, 4).batch(-1)
