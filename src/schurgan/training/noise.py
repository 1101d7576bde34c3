"""The random numbers of a step, the same however many processes and parts its batch is shared out to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from schurgan.networks import Latent


class Noise:
    """What chance gives to rows `start` to `start + count` − 1 of a batch of `total`.

    Every draw is made for the whole batch, by a generator that `key` seeds, and cut: whoever asks for other rows with
    the same key, in the same order of calls, gets the rest of the same numbers.
    """

    def __init__(self, *key: int, start: int, count: int, total: int) -> None:
        if not 0 <= start <= start + count <= total:
            raise ValueError(f"rows {start} to {start + count} of {total}: they must lie in the batch")
        (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
        self.generator = torch.Generator().manual_seed(int(seed))
        self.start, self.count, self.total = start, count, total

    def uniform(self, n: int, *shape: int) -> Tensor:
        """U[0, 1) as (n, *shape), n a multiple of the rows: for each copy of the batch its own numbers."""
        copies = n // self.count
        if n != copies * self.count:
            raise ValueError(f"n: {n} given, a multiple of {self.count} rows is needed")
        draws = torch.rand(copies, self.total, *shape, generator=self.generator)
        return draws[:, self.start : self.start + self.count].flatten(0, 1)

    def latent(self, latent: Latent) -> Tensor:
        """z (count, dim)."""
        return latent.sample(self.total, self.generator)[self.start : self.start + self.count]


def uniform(noise: torch.Generator | Noise, n: int, *shape: int) -> Tensor:
    """U[0, 1) as (n, *shape): plain ones of a loop that shares nothing out, or some rows of a batch's."""
    return noise.uniform(n, *shape) if isinstance(noise, Noise) else torch.rand(n, *shape, generator=noise)
