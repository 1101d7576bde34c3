"""The running mean of a network's weights, which samples better than any single step's."""

from __future__ import annotations

import torch
from torch import nn


class EMA:
    """Exponential moving average θ̄ ← β_t θ̄ + (1 − β_t) θ of the parameters of `source` in `average`, a copy of it.

    β_t = min(decay, (1 + t) / (10 + t)) forgets the random start quickly. Buffers (batch norm's running statistics,
    spectral norm's vectors) are copied: an average of them describes no network.
    """

    def __init__(self, source: nn.Module, average: nn.Module, decay: float) -> None:
        self.decay = decay
        self._pairs = list(zip(average.parameters(), source.parameters(), strict=True))
        self._buffers = list(zip(average.buffers(), source.buffers(), strict=True))
        average.requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After step `step` (0, 1, ...) of the source."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([a for a, _ in self._pairs], [s for _, s in self._pairs], 1 - decay)
        for average, source in self._buffers:
            average.copy_(source)
