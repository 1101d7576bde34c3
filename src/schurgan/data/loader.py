"""Batches of prepared clips as a function of the step alone: a run goes on at step k with nothing else remembered.

batches = Batches(shards, 64, seed=0, balanced=True, rank=rank, world=world)
with Prefetch(batches, ahead=2) as ready:
    images, labels = ready.batch(step)      # those of batches.batch(step), assembled while step − 1 was computed
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from schurgan.core.errors import SchurganError
from schurgan.data.dataset import LabelledImages

Indices = NDArray[np.int64]
Batch = tuple[Tensor, Tensor]


class Batches:
    """An endless row of clips, cut into batches.

    Epoch e is the permutation of the set that the seed (seed, e) draws; epochs follow one another without a gap, and
    batch k is clips k·B to (k + 1)·B − 1 of that row, so a batch may reach into the next epoch.

    Args:
        data: prepared shards, a selection of them, or `DatasetImages`.
        batch_size: B.
        seed: 0 or more.
        balanced: show every class equally often, and each class's clips in turn: of K classes, each K clips of the row
            hold one of every class in a drawn order, and a class shows each of its clips once before it repeats one.
        rank: of `world` processes this one, which shows clips ⌊rank·B/world⌋ to ⌊(rank + 1)·B/world⌋ − 1 of every
            batch. The shares, one after another, are the batch that a single process shows.
        world: number of processes, at most B.

    Raises:
        SchurganError: a class without clips is to be balanced.
    """

    def __init__(
        self,
        data: LabelledImages,
        batch_size: int,
        seed: int = 0,
        *,
        balanced: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size < 1 or seed < 0:
            raise ValueError(f"batch_size {batch_size}, seed {seed}: 1 or more and 0 or more are needed")
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank}, world {world}: a rank from 0 to world − 1 is needed")
        if world > batch_size:
            raise ValueError(f"batch_size {batch_size}: one clip or more for each of {world} processes is needed")
        self.data, self.batch_size, self.rank, self.world = data, batch_size, rank, world
        self._row = _Balanced(data, seed) if balanced else Shuffled(len(data), seed)

    def batch(self, step: int) -> Batch:
        """This process's share of batch `step`: (images (B, C, R, R) float32 in [-1, 1], labels (B,) int64)."""
        indices = self.indices(step)
        return self.data.images(indices), torch.from_numpy(self.data.labels[indices])

    def indices(self, step: int) -> Indices:
        """Which clips this process's share of batch `step` shows, about (B / world,)."""
        if step < 0:
            raise ValueError(f"step {step}: 0 or more is needed")
        share = (self.rank * self.batch_size // self.world, (self.rank + 1) * self.batch_size // self.world)
        return self._row.at(step * self.batch_size + np.arange(*share, dtype=np.int64))


class Shuffled:
    """0 … size − 1 in an order drawn by (key, 0), then in one drawn by (key, 1), and so on without an end."""

    def __init__(self, size: int, *key: int) -> None:
        self.size, self.key = size, key
        self._last = (-1, np.empty(0, np.int64))

    def at(self, places: Indices) -> Indices:
        """The numbers at these places of the row, without drawing the orders before them."""
        epochs = places // self.size
        numbers = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            numbers[here] = self._order(epoch)[places[here] - epoch * self.size]
        return numbers

    def _order(self, epoch: int) -> Indices:
        last = self._last  # read once and replaced whole: a prefetching thread may ask at the same time
        if last[0] != epoch:
            last = self._last = epoch, np.random.default_rng([*self.key, epoch]).permutation(self.size)
        return last[1]


class _Balanced:
    """Rounds of one clip of each class: round r shows the r-th clip of each class's own shuffled row."""

    def __init__(self, data: LabelledImages, seed: int) -> None:
        counts = np.bincount(data.labels, minlength=len(data.classes))
        if not counts.all():
            name = data.classes[int(counts.argmin())]
            raise SchurganError(
                f'class "{name}": none of its clips is among those chosen from {data.folder}, so classes cannot be'
                " balanced; leave the class out, choose other folds, or do not balance"
            )
        self._members = np.split(np.argsort(data.labels, kind="stable"), np.cumsum(counts)[:-1])
        self._classes = Shuffled(len(counts), seed, 0)
        self._clips = [Shuffled(int(count), seed, 1 + label) for label, count in enumerate(counts)]

    def at(self, places: Indices) -> Indices:
        labels, rounds = self._classes.at(places), places // len(self._clips)
        numbers = np.empty_like(places)
        for label in np.unique(labels).tolist():
            here = labels == label
            numbers[here] = self._members[label][self._clips[label].at(rounds[here])]
        return numbers


class Prefetch:
    """`batches.batch(step)` for one step after another, assembled by a thread while the steps before are computed.

    Any step may be asked for; asked for another than the next, it begins anew there.

    Args:
        batches: what to assemble.
        ahead: batches assembled in advance and held in memory; 0 assembles each when it is asked for, without a thread.
        pin: pin batches in memory (`to(device, non_blocking=True)`); by default where there is CUDA.
        then: what else to do to the images, in the thread, such as to colour them.

    Raises:
        ValueError: a batch is asked for after `close`. What goes wrong in a batch is raised when it is asked for.
    """

    def __init__(
        self,
        batches: Batches,
        *,
        ahead: int = 2,
        pin: bool | None = None,
        then: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if ahead < 0:
            raise ValueError(f"ahead {ahead}: 0 or more is needed")
        self.batches, self.ahead, self.then = batches, ahead, then
        self.pin = torch.cuda.is_available() if pin is None else pin
        self._thread = ThreadPoolExecutor(1, "prefetch")
        self._begun: deque[tuple[int, Future[Batch]]] = deque()
        self._closed = False

    def batch(self, step: int) -> Batch:
        """(images, labels) of batch `step`, waiting for them if need be."""
        if self._closed:
            raise ValueError(f"step {step}: batches were asked for after close()")
        if not self.ahead:
            return self._assemble(step)
        if not self._begun or self._begun[0][0] != step:
            self._forget()
        while len(self._begun) <= self.ahead:
            later = step + len(self._begun)
            self._begun.append((later, self._thread.submit(self._assemble, later)))
        return self._begun.popleft()[1].result()

    def _assemble(self, step: int) -> Batch:
        images, labels = self.batches.batch(step)
        if self.then is not None:
            images = self.then(images)
        return (images.pin_memory(), labels.pin_memory()) if self.pin else (images, labels)

    def _forget(self) -> None:
        for _, future in self._begun:
            future.cancel()
        self._begun.clear()

    def close(self) -> None:
        """Drop what is assembled and end the thread, once it is done with the batch it has in hand."""
        self._closed = True
        self._forget()
        self._thread.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
