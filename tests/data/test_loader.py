from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from schurgan.audio import Spectrogram
from schurgan.core.errors import SchurganError
from schurgan.data import Batches, Shards, prepare
from schurgan.data.loader import Prefetch
from schurgan.data.sources.base import Item


@dataclass(frozen=True)
class Chirps:
    """21 clips in two classes."""

    name: str = "chirps"
    kind: str = "audio"
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
    assert tuple(Batches(shards, 21).indices(0)) == tuple(Batches(shards, 21, 0).indices(0))
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


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1])
def test_epoch_e_is_the_permutation_that_seed_and_e_draw(shards, seed):
    row = np.concatenate([np.random.default_rng([seed, epoch]).permutation(21) for epoch in range(9)])
    batches = Batches(shards, 16, seed)
    for step in (10, 0, 4):
        assert np.array_equal(batches.indices(step), row[16 * step : 16 * step + 16])


@settings(max_examples=60)
@given(batch_size=st.integers(1, 70), data=st.data(), step=st.integers(0, 10**9), balanced=st.booleans())
def test_the_shares_of_all_processes_are_the_batch_of_one(shards, batch_size, data, step, balanced):
    world = data.draw(st.integers(1, batch_size))
    whole = Batches(shards, batch_size, 5, balanced=balanced).indices(step)
    shares = [
        Batches(shards, batch_size, 5, balanced=balanced, rank=r, world=world).indices(step) for r in range(world)
    ]
    assert np.array_equal(np.concatenate(shares), whole)
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1
    assert min(lengths) >= 1


def test_images_and_labels_of_all_processes_are_those_of_one_bit_for_bit(shards):
    images, labels = Batches(shards, 10, 1).batch(7)
    shares = [Batches(shards, 10, 1, rank=rank, world=3).batch(7) for rank in range(3)]
    assert [len(share[1]) for share in shares] == [3, 3, 4]
    assert torch.equal(torch.cat([share[0] for share in shares]), images)
    assert torch.equal(torch.cat([share[1] for share in shares]), labels)


@pytest.mark.slow
def test_processes_started_by_torchrun_show_the_batches_of_one(shards, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, sys, torch\n"
        "from schurgan.data import Batches, Shards\n"
        "rank, world = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])\n"
        "batches = Batches(Shards(sys.argv[1]), 7, 3, balanced=True, rank=rank, world=world)\n"
        "torch.save([batches.batch(step) for step in range(5)], f'{sys.argv[2]}/{rank}.pt')\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*launch, script, shards.folder, tmp_path], check=True, timeout=120, capture_output=True)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    alone = Batches(shards, 7, 3, balanced=True)
    for step in range(5):
        for part in (0, 1):
            assert torch.equal(torch.cat([first[step][part], second[step][part]]), alone.batch(step)[part])


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_that_is_not_there_is_refused(shards, rank, world):
    with pytest.raises(ValueError, match=f"rank {rank}, world {world}"):
        Batches(shards, 4, rank=rank, world=world)


def test_more_processes_than_clips_in_a_batch_are_refused(shards):
    with pytest.raises(ValueError, match="batch_size 4: one clip or more for each of 5 processes"):
        Batches(shards, 4, rank=0, world=5)


class Lopsided(Chirps):
    """Eleven rising clips in two folds, and three falling ones in the second fold alone."""

    def items(self) -> list[Item]:
        return [Item(f"{n:02}", self.classes()[n in (4, 5, 12)], fold=1 + (n % 2 or n in (4, 12))) for n in range(14)]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    out: Path = tmp_path_factory.mktemp("lopsided")
    prepare(Lopsided("lopsided"), out, Spectrogram(size=32, n_samples=8000, channels=1), shard_clips=8, workers=1)
    return Shards(out)


@settings(max_examples=40)
@given(batch_size=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_balanced_classes_are_shown_equally_often_at_every_moment(few, batch_size, seed):
    batches = Batches(few, batch_size, seed, balanced=True)
    row = np.concatenate([batches.indices(step) for step in range(-(-60 // batch_size))])[:60]
    assert np.bincount(few.labels[row]).tolist() == [30, 30]
    assert (few.labels[row].reshape(30, 2).sum(axis=1) == 1).all()  # one of each class in every two


@settings(max_examples=40)
@given(batch_size=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_a_balanced_class_shows_all_its_clips_before_one_again(few, batch_size, seed):
    batches = Batches(few, batch_size, seed, balanced=True)
    row = np.concatenate([batches.indices(step) for step in range(-(-88 // batch_size))])
    for label, count in ((0, 11), (1, 3)):
        members = sorted(np.flatnonzero(few.labels == label))
        shown = row[few.labels[row] == label]
        for start in range(0, 44 - count + 1, count):
            assert sorted(shown[start : start + count]) == members


@settings(max_examples=40)
@given(steps=st.lists(st.integers(0, 10**9), min_size=1, max_size=5), batch_size=st.integers(1, 40))
def test_a_balanced_step_gives_the_same_batch_in_any_order_and_from_a_new_loader(few, steps, batch_size):
    batches = Batches(few, batch_size, seed=1, balanced=True)
    first = {step: batches.indices(step) for step in steps}
    for step in reversed(steps):
        assert np.array_equal(batches.indices(step), first[step])
        assert np.array_equal(Batches(few, batch_size, seed=1, balanced=True).indices(step), first[step])


def test_a_balanced_row_does_not_depend_on_the_size_of_a_batch(shards):
    rows = []
    for size in (1, 6, 35):
        batches = Batches(shards, size, 4, balanced=True)
        rows.append(np.concatenate([batches.indices(step) for step in range(210 // size)]))
    assert np.array_equal(rows[0], rows[1])
    assert np.array_equal(rows[0], rows[2])


def test_balanced_classes_come_in_an_order_that_is_drawn(shards):
    labels = shards.labels[Batches(shards, 2000, seed=0, balanced=True).indices(0)]
    # Which class begins a round is a fair coin: 1,000 throws are within 3.3 standard deviations of 500 (1 in 1,000).
    assert abs(labels[::2].sum() - 500) < 3.3 * 15.8


def test_a_class_without_clips_cannot_be_balanced_and_is_named(few):
    rising = few.select(folds=[1])
    with pytest.raises(SchurganError, match='class "falling": none of its clips'):
        Batches(rising, 4, balanced=True)
    assert len(Batches(rising, 4).indices(0)) == 4


@settings(max_examples=40)
@given(steps=st.lists(st.integers(0, 30), min_size=1, max_size=12), ahead=st.integers(0, 4), balanced=st.booleans())
def test_prefetched_batches_are_those_of_the_loader_whatever_is_asked_for(shards, steps, ahead, balanced):
    batches = Batches(shards, 5, 9, balanced=balanced)
    with Prefetch(batches, ahead=ahead, pin=False) as ready:
        for step in steps:
            images, labels = ready.batch(step)
            truth = Batches(shards, 5, 9, balanced=balanced).batch(step)
            assert torch.equal(images, truth[0])
            assert torch.equal(labels, truth[1])


class Watched(Batches):
    """Notes which steps are assembled and by which thread; step 3 cannot be read while `broken`."""

    def __init__(self, shards: Shards, broken: bool = False) -> None:
        super().__init__(shards, 4)
        self.steps: list[int] = []
        self.threads: set[int] = set()
        self.broken = broken
        self.there = threading.Condition()

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        with self.there:
            self.steps.append(step)
            self.threads.add(threading.get_ident())
            self.there.notify_all()
        if self.broken and step == 3:
            raise SchurganError("images-00000.npy: cannot be read")
        return super().batch(step)

    def wait_for(self, count: int, seconds: float = 30) -> bool:
        with self.there:
            return self.there.wait_for(lambda: len(self.steps) >= count, seconds)


def test_as_many_batches_as_asked_for_are_assembled_ahead_by_one_other_thread(shards):
    batches = Watched(shards)
    with Prefetch(batches, ahead=3, pin=False) as ready:
        ready.batch(5)
        assert batches.wait_for(4)
        assert not batches.wait_for(5, seconds=0.3)
        assert batches.steps == [5, 6, 7, 8]
        ready.batch(6)
        assert batches.wait_for(5)
    assert batches.steps == [5, 6, 7, 8, 9]
    assert len(batches.threads) == 1
    assert threading.get_ident() not in batches.threads


def test_nothing_is_assembled_ahead_where_that_is_turned_off(shards):
    batches = Watched(shards)
    with Prefetch(batches, ahead=0, pin=False) as ready:
        ready.batch(5)
    assert batches.steps == [5]
    assert batches.threads == {threading.get_ident()}


def test_what_goes_wrong_is_raised_at_its_step_and_the_others_come(shards):
    batches = Watched(shards, broken=True)
    with Prefetch(batches, ahead=2, pin=False) as ready:
        for step in (1, 2):
            assert torch.equal(ready.batch(step)[0], shards.images(batches.indices(step)))
        with pytest.raises(SchurganError, match="cannot be read"):
            ready.batch(3)
        assert torch.equal(ready.batch(4)[0], shards.images(batches.indices(4)))
        batches.broken = False
        assert torch.equal(ready.batch(3)[0], shards.images(batches.indices(3)))


def prefetchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_the_thread_ends_with_the_block_also_when_an_error_ends_it(shards):
    def stumble() -> None:
        with ready:
            ready.batch(0)
            assert len(prefetchers()) == 1
            raise KeyError

    ready = Prefetch(Batches(shards, 4), pin=False)
    with pytest.raises(KeyError):
        stumble()
    assert prefetchers() == []
    ready.close()  # a second time does nothing
    with pytest.raises(ValueError, match=r"step 1: .* after close"):
        ready.batch(1)


@pytest.mark.slow
def test_a_program_that_does_not_close_still_ends(shards):
    program = (
        "import sys; from schurgan.data import Batches, Shards; from schurgan.data.loader import Prefetch\n"
        "ready = Prefetch(Batches(Shards(sys.argv[1]), 4), ahead=3, pin=False); ready.batch(0); raise SystemExit(7)"
    )
    assert subprocess.run([sys.executable, "-c", program, shards.folder], timeout=60).returncode == 7


def test_images_are_changed_as_told_in_the_thread(shards):
    seen: set[int] = set()

    def paint(images: Tensor) -> Tensor:
        seen.add(threading.get_ident())
        return images.expand(-1, 3, -1, -1) * 0.5

    with Prefetch(Batches(shards, 4), then=paint, pin=False) as ready:
        images, _ = ready.batch(2)
    assert torch.equal(images, Batches(shards, 4).batch(2)[0].repeat(1, 3, 1, 1) * 0.5)
    assert threading.get_ident() not in seen


@pytest.mark.parametrize(
    ("cuda", "pin", "pinned"), [(True, None, 2), (False, None, 0), (True, False, 0), (False, True, 2)]
)
def test_batches_are_pinned_where_there_is_cuda_or_as_told(shards, monkeypatch, cuda, pin, pinned):
    calls: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        calls.append(tensor.clone())
        return calls[-1]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(Tensor, "pin_memory", note)
    with Prefetch(Batches(shards, 4), ahead=0, pin=pin) as ready:
        batch = ready.batch(0)
    assert len(calls) == pinned
    assert all(given is made for given, made in zip(batch, calls, strict=False))


def test_a_negative_number_of_batches_ahead_is_refused(shards):
    with pytest.raises(ValueError, match="ahead -1"):
        Prefetch(Batches(shards, 4), ahead=-1)
