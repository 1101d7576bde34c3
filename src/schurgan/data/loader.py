"""Batches of prepared clips as a function of the step alone: a run goes on at step k with nothing else remembered."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from schurgan.data.shards import Shards


class Batches:
    """An endless row of clips, cut into batches.

    Epoch e is the permutation of the set that the seed (seed, e) draws; epochs follow one another without a gap, and
    batch k is clips k·B to (k + 1)·B − 1 of that row. So each epoch shows every clip once, a batch may reach into the
    next epoch, a set smaller than a batch is repeated, and the same seed, step and set give the same batch anywhere.

    A process among several takes its share of `indices(step)`. Raises ValueError for an empty batch or a negative seed.
    """

    def __init__(self, shards: Shards, batch_size: int, seed: int = 0) -> None:
        if batch_size < 1 or seed < 0:
            raise ValueError(f"batch_size {batch_size}, seed {seed}: 1 or more and 0 or more are needed")
        self.shards, self.batch_size, self.seed = shards, batch_size, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Batch `step`: (images (B, C, R, R) float32 in [-1, 1], labels (B,) int64)."""
        indices = self.indices(step)
        return self.shards.images(indices), torch.from_numpy(self.shards.labels[indices])

    def indices(self, step: int) -> NDArray[np.int64]:
        """Which clips batch `step` shows, (B,)."""
        if step < 0:
            raise ValueError(f"step {step}: 0 or more is needed")
        size = len(self.shards)
        first, last = step * self.batch_size, (step + 1) * self.batch_size
        epochs = range(first // size, (last - 1) // size + 1)
        row = np.concatenate([self._permutation(epoch) for epoch in epochs])
        start = first - epochs[0] * size
        return row[start : start + self.batch_size]

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.shards))
        return self._order
