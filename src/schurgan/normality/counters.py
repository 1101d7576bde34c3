"""What had to be mended while departures were computed, for the logs of a long run."""

from __future__ import annotations

import threading

import torch
from torch import Tensor


class _Counters:
    """Added up on each device by itself: reading waits for an accelerator, adding does not."""

    NAMES = ("jittered", "matched", "fallback", "clipped", "nonfinite")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, torch.device], Tensor] = {}

    def add(self, name: str, flags: Tensor) -> None:
        with self._lock:
            key = (name, flags.device)
            self._counts[key] = self._counts.get(key, 0) + flags.sum()

    def read(self) -> dict[str, int]:
        with self._lock:
            totals = dict.fromkeys(self.NAMES, 0)
            for (name, _), count in self._counts.items():
                totals[name] += int(count)
            return totals

    def reset(self) -> None:
        with self._lock:
            self._counts.clear()


counters = _Counters()


def departure_counters() -> dict[str, int]:
    """How many matrices had to be mended in this process, since its start or the last `reset_departure_counters`.

    jittered   eigenvalues, or singular values, found only with a jitter above one part in 1e15
    matched    eigenvectors too ill-conditioned to be inverted, the left ones solved for
    fallback   none found at all: the spectral part counts as 0, which leaves the bound ½‖x − xᵀ‖²
    clipped    gradient cut to 8·2‖x‖
    nonfinite  NaN or infinite entries, value and gradient 0
    """
    return counters.read()


def reset_departure_counters() -> None:
    """Set every count of `departure_counters` to 0."""
    counters.reset()
