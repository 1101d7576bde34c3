"""Changing the number of samples along one axis: by area, by linear or by cubic interpolation."""

from __future__ import annotations

import torch
from torch import Tensor

from schurgan.core.isolation import own_settings


def area_weights(n_in: int, n_out: int) -> Tensor:
    """Matrix (n_in, n_out), float64, that averages a piecewise constant signal over n_out equal intervals."""
    edges_in = torch.arange(n_in + 1, dtype=torch.float64) / n_in
    edges_out = torch.arange(n_out + 1, dtype=torch.float64) / n_out
    lower = torch.maximum(edges_in[:-1, None], edges_out[None, :-1])
    upper = torch.minimum(edges_in[1:, None], edges_out[None, 1:])
    return (upper - lower).clamp_min(0) * n_out


def cubic_taps(positions: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Catmull-Rom interpolation at `positions` (P,), in units of samples: indices (4, P) and weights (4, P), float64.

    The signal continues past its ends mirrored about the outer edges of its first and last sample.
    """
    position = positions.to(torch.float64)
    base = position.floor()
    t = position - base
    before, here = ((-t + 2) * t - 1) * t / 2, ((3 * t - 5) * t * t + 2) / 2
    after, beyond = ((-3 * t + 4) * t + 1) * t / 2, (t - 1) * t * t / 2
    indices = base.long() + torch.arange(-1, 3)[:, None]
    return mirror(indices, n), torch.stack((before, here, after, beyond))


def cubic_weights(n_in: int, n_out: int) -> Tensor:
    """Matrix (n_in, n_out), float64, of Catmull-Rom interpolation between the centres of equal cells."""
    positions = (torch.arange(n_out, dtype=torch.float64) + 0.5) * n_in / n_out - 0.5
    indices, weights = cubic_taps(positions, n_in)
    matrix = torch.zeros(n_in, n_out, dtype=torch.float64)
    for index, weight in zip(indices, weights, strict=True):
        matrix[index, torch.arange(n_out)] += weight
    return matrix


class Cubic:
    """Catmull-Rom interpolation of signals (..., n) at ascending `positions` (P,): -> (..., P), see `cubic_taps`.

    Neighbouring positions share a short window of samples, so that a block of them is one small matrix product;
    gathering four taps a position is ten times slower.
    """

    @own_settings()
    def __init__(self, positions: Tensor, n: int, device: torch.device, dtype: torch.dtype) -> None:
        count = len(positions)
        block = min(d for d in range(1, count + 1) if count % d == 0 and d >= min(64, count))
        first = positions[::block].floor().long() - 1
        within = (positions.floor().long() - 1).view(-1, block) - first[:, None]
        window = int(within.max()) + 4
        _, taps = cubic_taps(positions, n)
        weights = torch.zeros(len(first), window, block, dtype=torch.float64)
        for j, tap in enumerate(taps):
            weights.scatter_(1, (within + j)[:, None], tap.view(-1, 1, block))
        self._indices = mirror(first[:, None] + torch.arange(window), n).to(device)  # (blocks, window)
        self._weights = weights.to(device, dtype)

    def __call__(self, signals: Tensor) -> Tensor:
        """Signals (..., n) -> (..., P)."""
        rows = signals.reshape(-1, signals.shape[-1])
        windows = rows[:, self._indices].movedim(1, 0)  # (blocks, rows, window)
        return (windows @ self._weights).movedim(0, 1).reshape(*signals.shape[:-1], -1)


def linear_weights(n_in: int, n_out: int) -> Tensor:
    """Matrix (n_in, n_out), float64, of linear interpolation between the centres of equal cells, level at the ends."""
    positions = ((torch.arange(n_out, dtype=torch.float64) + 0.5) * n_in / n_out - 0.5).clamp(0, n_in - 1)
    return (1 - (positions - torch.arange(n_in, dtype=torch.float64)[:, None]).abs()).clamp_min(0)


def resize_weights(n_in: int, n_out: int) -> Tensor:
    """Matrix (n_in, n_out) for energies, none below zero: by area when shrinking, linear when growing.

    Cubic growth keeps 0.3 to 0.8 dB more of a sound in a plain image, but it undershoots: refined images lose 0.5 to
    3 dB.
    """
    return area_weights(n_in, n_out) if n_out <= n_in else linear_weights(n_in, n_out)


def mirror(index: Tensor, n: int) -> Tensor:
    """Indices into an endless signal ... 1 0 | 0 1 .. n-1 | n-1 n-2 ..., folded into 0 .. n-1."""
    folded = index.remainder(2 * n)
    return torch.minimum(folded, 2 * n - 1 - folded)


def reflect(index: Tensor, n: int) -> Tensor:
    """Indices into an endless signal ... 2 1 | 0 1 .. n-1 | n-2 n-3 ... (end samples once), folded into 0 .. n-1."""
    if n == 1:
        return torch.zeros_like(index)
    folded = index.remainder(2 * n - 2)
    return torch.minimum(folded, 2 * n - 2 - folded)
