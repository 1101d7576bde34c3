"""Penalties on a gap that should stay within ±ε."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Penalty = Literal["hinge", "quadratic", "augmented"]


def penalise(kind: Penalty, gap: Tensor, band: Tensor, unit: Tensor, weight: float, multipliers: Tensor) -> Tensor:
    """Penalty of each gap (K,), for a band ε (K,) and a unit (scalar) in which the excess e = (|gap| − ε)/unit counts.

    hinge       λ·max(e, 0)
    quadratic   λ·max(e, 0)²
    augmented   Σ± [max(μ± + λ e±, 0)² − μ±²] / 2λ with e± = (±gap − ε)/unit, the augmented Lagrangian of the two
                inequalities e± ≤ 0 (Rockafellar 1973); their multipliers μ (2, K) are kept by `step_multipliers`
    """
    if kind == "augmented":
        weight = max(weight, torch.finfo(torch.float32).tiny)
        pushed = (multipliers + weight * _sides(gap, band, unit)).clamp(min=0)
        return (pushed.square() - multipliers.square()).sum(0) / (2 * weight)
    excess = ((gap.abs() - band) / unit).clamp(min=0)
    return weight * (excess if kind == "hinge" else excess.square())


def step_multipliers(multipliers: Tensor, gap: Tensor, band: Tensor, unit: Tensor, rate: float) -> Tensor:
    """μ± ← max(μ± + rate·e±, 0): they grow outside the band and shrink inside."""
    return (multipliers + rate * _sides(gap, band, unit)).clamp(min=0)


def _sides(gap: Tensor, band: Tensor, unit: Tensor) -> Tensor:
    return (torch.stack([gap, -gap]) - band) / unit
