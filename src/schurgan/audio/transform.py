"""The protocol of a transform, and its coefficients with the arithmetic that finding a phase needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Coefficients:
    """Time-frequency coefficients in groups of rows that share a rate: tensors (B, K_g, M_g), frequency ascending."""

    groups: tuple[Tensor, ...]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.groups)

    def map(self, function: Callable[..., Tensor], *others: Coefficients) -> Coefficients:
        """Apply `function` to each group, and to the same group of the others."""
        return Coefficients(tuple(function(*group) for group in zip(self, *others, strict=True)))

    def phase(self) -> Coefficients:
        """Unit phases c / |c|, 1 where c = 0 (torch.sgn alone gives 0 there, which would silence a band for good)."""
        return self.map(lambda c: torch.where(c == 0, torch.ones_like(c), torch.sgn(c)))

    def __mul__(self, other: Coefficients) -> Coefficients:
        return self.map(torch.mul, other)


def check_clips(x: Tensor, n_samples: int) -> None:
    """Raise ValueError unless x is (B, n_samples), float32 or float64."""
    if x.ndim != 2 or x.shape[-1] != n_samples or x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"input {tuple(x.shape)} {x.dtype}: clips (B, {n_samples}) of float32 or float64 are needed")


class Transform(Protocol):
    """An invertible map from sound to coefficients whose energy can be pooled into rows of frames."""

    n_samples: int  # of a clip
    n_frames: int
    n_rows: int  # ascending in frequency

    def analyze(self, x: Tensor) -> Coefficients:
        """Clips (B, n_samples) -> complex coefficients."""

    def synthesize(self, c: Coefficients) -> Tensor:
        """The inverse of `analyze`: -> (B, n_samples)."""

    def frames(self, c: Coefficients) -> Tensor:
        """Mean squared modulus of each row in each frame: -> (B, n_rows, n_frames)."""

    def spread(self, magnitude: Tensor) -> Coefficients:
        """Interpolate columns (B, n_rows, R) that divide the clip evenly to where the coefficients lie."""
