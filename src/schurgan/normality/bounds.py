"""Lower and upper bounds of the departure from normality that hold for every matrix, rounding included."""

from __future__ import annotations

import torch
from torch import Tensor

from .matrices import as_matrices, as_result, decompose, norm, normalised, or_one

ROUNDING = 8.0  # bounds are widened by this many times n·ε·‖x‖²; the largest error seen is a tenth of it


@torch.no_grad()
def departure_bounds(x: Tensor) -> tuple[Tensor, Tensor]:
    """Certified bounds, lower ≤ Δ²(x) ≤ upper, without an eigenproblem and without a gradient.

    With s = x − (tr x / n)·1, whose Δ² is that of x, and the commutator C = x*x − xx*:

        lower  the larger of
            ‖s‖² − √(‖s‖⁴ − ½‖C‖²)            Kress, de Vries and Wegmann 1974
            ‖x‖² − ‖x²‖_* (nuclear norm)       Weyl's inequality, the first of Yamamoto's sequence (1967)
        upper  the smallest of
            ½‖x − x*‖²                          the asymmetry, sharp where all eigenvalues are real
            ‖s‖² − |tr s²|                      Lee 1995, sharp where the eigenvalues lie on a line
            √((n³ − n)/12)·‖C‖                  Henrici 1962, sharp at 0

    Args:
        x: real or complex floating point matrices (..., n, n).

    Returns:
        Lower and upper bounds (...), in units of |x|², of x's precision (float32 for half types), rounded outwards; NaN
        where x has NaN or infinite entries.
    """
    if x.ndim < 2 or x.shape[-1] != x.shape[-2] or x.shape[-1] == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: square matrices (..., n, n) are needed")
    if not (x.is_floating_point() or x.is_complex()):
        raise ValueError(f"x is {x.dtype}: floating point is needed, e.g. x.float()")
    with torch.autocast(x.device.type, enabled=False):
        matrices, scale = normalised(as_matrices(x))
        commutator = norm(matrices.mH @ matrices - matrices @ matrices.mH)[:, 0, 0]
        bounds = [_lower(matrices, commutator), _upper(matrices, commutator)]
    lower, upper = (as_result(bound * scale[:, 0, 0].square(), x) for bound in bounds)
    if lower.dtype == torch.float32:  # it may have been rounded inwards
        lower = torch.nextafter(lower, torch.zeros_like(lower))
        upper = torch.nextafter(upper, torch.full_like(upper, torch.inf))
    spoilt = ~x.isfinite().flatten(-2).all(-1)
    return lower.masked_fill(spoilt, torch.nan), upper.masked_fill(spoilt, torch.nan)


def _lower(x: Tensor, commutator: Tensor) -> Tensor:
    square = _square_norm(_shifted(x))
    half = commutator.square() / 2
    # The difference without cancellation; what rounding may leave of a zero under the root is added to it.
    root = ((square.square() - half).clamp(min=0) + 2 * _rounding(x) * square).sqrt()
    kress = half / or_one(square + root)
    (singular,) = decompose(
        lambda x: (torch.linalg.svdvals(x),), (x @ x).cpu(), lambda x: (x.new_full((len(x),), torch.inf),)
    )
    weyl = _square_norm(x) - singular.sum(-1).to(x.device)
    return (torch.maximum(kress, weyl) - _rounding(x)).clamp(min=0)


def _upper(x: Tensor, commutator: Tensor) -> Tensor:
    n = x.shape[-1]
    shifted = _shifted(x)
    asymmetry = 0.5 * _square_norm(x - x.mH) * (1 + ROUNDING * n * torch.finfo(torch.float64).eps)
    lee = _square_norm(shifted) - (shifted * shifted.mT).sum((-2, -1)).abs() + _rounding(x)
    henrici = ((n**3 - n) / 12) ** 0.5 * (commutator + _rounding(x))
    return torch.minimum(asymmetry, torch.minimum(lee, henrici))


def _shifted(x: Tensor) -> Tensor:
    """Trace taken off: x − (tr x / n)·1."""
    n = x.shape[-1]
    mean = x.diagonal(dim1=-2, dim2=-1).mean(-1)
    return x - mean[:, None, None] * torch.eye(n, dtype=x.dtype, device=x.device)


def _square_norm(x: Tensor) -> Tensor:
    return norm(x)[:, 0, 0].square()


def _rounding(x: Tensor) -> Tensor:
    return ROUNDING * x.shape[-1] * torch.finfo(torch.float64).eps * _square_norm(x)
