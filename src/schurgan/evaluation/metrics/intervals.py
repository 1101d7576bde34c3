"""How sure a number is: mean and deviation, quantiles of a spread, Student's t and Wilson's intervals.

The quantile of Student's t is our own: SciPy, which has it, would be a dependency for that alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

CONFIDENCE = 0.95


class MeanSd(NamedTuple):
    """A mean and the standard deviation around it, None where there was one value alone."""

    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float], correction: int = 1) -> MeanSd:
        """One value or more; the deviation is divided by their number minus `correction`."""
        numbers = torch.tensor(values, dtype=torch.float64)
        return cls(numbers.mean().item(), numbers.std(correction=correction).item() if len(values) > 1 else None)


@dataclass(frozen=True)
class Spread:
    """Median and 10 and 90 % quantiles of `count` numbers; `undefined` more were NaN or infinite and take no part.

    All three are None where nothing is left.
    """

    median: float | None
    low: float | None
    high: float | None
    count: int
    undefined: int

    @classmethod
    def of(cls, values: Tensor) -> Spread:
        """Summarise values (N,)."""
        known = values.double()[values.isfinite()]
        if not len(known):
            return cls(None, None, None, 0, len(values))
        low, median, high = torch.quantile(known, known.new_tensor([0.1, 0.5, 0.9])).tolist()
        return cls(median, low, high, len(known), len(values) - len(known))


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % Student t interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Tensor) -> Interval:
        """Interval of values (N,), N >= 2, taken as independent."""
        values = values.double()
        mean = values.mean().item()
        half = t_quantile(0.5 + CONFIDENCE / 2, len(values) - 1) * values.std().item() / math.sqrt(len(values))
        return cls(mean, mean - half, mean + half)

    @property
    def holds_zero(self) -> bool:
        """Whether 0 lies inside."""
        return self.low <= 0 <= self.high

    def __str__(self) -> str:
        return f"{100 * self.mean:+.1f} points [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def wilson(right: float, count: int) -> tuple[float, float]:
    """95 % interval of a share, `right` of `count` (Wilson 1927): inside [0, 1] and of some width at both ends."""
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile above ½ of Student's t of a whole number of degrees of freedom, by bisection of its distribution.

    That is a finite sum in θ = atan(t / √ν) (Abramowitz & Stegun, 26.7.3 and 26.7.4).
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (low, angle) if _t_within(angle, freedom) > 2 * probability - 1 else (angle, high)
    return math.sqrt(freedom) * math.tan(low)


def _t_within(angle: float, freedom: int) -> float:
    """P(|T| < √ν tan θ)."""
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
