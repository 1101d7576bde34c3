"""Cheaper estimates of Δ², the paper's section 3.1 as printed, and `departure_from_normality`, which takes any of them.

Each maps matrices (..., n, n) to (...), with an exact first-order gradient that is finite for every finite input. A new
estimator is a function here and a row of METHODS.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from .departure import begin_departure
from .matrices import apply, clipped, count, decompose, norm, normalised, or_one, pool

Constant = Literal["gamma", "minkowski"]
Channels = Literal["mean", "sum", "luminance"]

POWER_ITERATIONS = 4  # as good as 32 on real spectrograms
RANK = 1e-12  # singular values below this share of the largest count as zero in the gradient of `moments`
LARGEST = 1e38  # entry of a gradient, so that float32 holds it
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601


def asymmetry(x: Tensor) -> Tensor:
    """½‖x − xᵀ‖²_F, an upper bound of Δ²(x), equal to it when all eigenvalues are real.

    No constraint to train with alone: a generator meets it with Δ² still off.
    """

    def evaluate(x: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:
        skew = x - x.mT
        value = 0.5 * torch.linalg.vector_norm(skew, dim=(-2, -1), dtype=torch.float64).square()
        finite = value.isfinite()
        count("nonfinite", ~finite)
        value = torch.where(finite, value, 0.0).to(x.dtype)
        if with_gradient:
            skew = skew.mul_(2) if not x.is_cuda and finite.all() else torch.where(finite[:, None, None], 2 * skew, 0.0)
        return value, skew

    return apply(evaluate, x, double=False)


def perron(x: Tensor) -> Tensor:
    """‖x‖²_F − λ², for matrices in [0, 1]: λ estimates their largest eigenvalue by four power iterations.

    Of a matrix without negative entries the largest eigenvalue is real and has a positive eigenvector (Perron and
    Frobenius), and on spectrograms in [0, 1] it carries 99.4 to 99.9 % of Σ|λᵢ|². With w = (xᵀ)⁴1 and v = x⁴1,
    λ = wᵀxv / wᵀv = 1ᵀx⁹1 / 1ᵀx⁸1, and that is differentiated exactly: ∇(1ᵀxʲ1) = Σᵢ (xᵀ)ⁱ1 (xʲ⁻¹⁻ⁱ1)ᵀ. Nothing but
    matrix-vector products in x's own precision: the estimator for a GPU. Without meaning where entries are negative.
    """

    def evaluate(x: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:
        x, scale = normalised(x)
        steps = 2 * POWER_ITERATIONS
        size = or_one(norm(x))
        left, right = [torch.ones_like(x[:, :1])], [torch.ones_like(x[:, :1])]  # rows: ten times faster than columns
        for _ in range(steps):  # of x / ‖x‖, whose powers cannot overflow
            left.append(left[-1] @ x / size)
            right.append(right[-1] @ x.mT / size)
        half = POWER_ITERATIONS
        even = (left[half] * right[half]).sum(2, keepdim=True)  # 1ᵀx⁸1 / ‖x‖⁸
        odd = (left[half] * right[half + 1]).sum(2, keepdim=True)
        # |λ| ≤ ‖x‖, as every eigenvalue; always so where the entries are not negative, up to rounding: of a constant
        # image the two are equal.
        usable = odd.abs() <= 1.001 * even
        ratio = torch.where(usable, odd / or_one(even), 0.0).clamp(-1, 1)
        value = norm(x).square() * (1 - ratio.square())
        value = (value * scale.square())[:, 0, 0]
        if not with_gradient:
            return value, x
        # λ = ‖x‖·odd/even; ∇odd and ∇even are Hankel sums of the outer products left[i] right[j]ᵀ.
        u, v = torch.cat(left, 1), torch.cat(right, 1)  # (m, steps + 1, n)
        order = torch.arange(steps + 1, device=x.device)
        pairs = order[:, None] + order
        weight = (pairs == steps).to(x.dtype) - ratio * (pairs == steps - 1)  # (m, steps + 1, steps + 1)
        slope = torch.where(usable, -2 * ratio / or_one(even), 0.0)
        gradient = torch.baddbmm(x, u.mT, (weight * (slope * size)) @ v, beta=2)
        return value, clipped(gradient, x).mul_(scale)

    return apply(evaluate, x, double=False)


def moments(x: Tensor) -> Tensor:
    """2Y₄ − Y₂, the Richardson extrapolation of Yamamoto's lower bounds Y_k = ‖x‖² − Σ σᵢ(xᵏ)^(2/k)  →  Δ²(x).

    Two singular value decompositions and no eigenproblem; the best gradient of the estimates where images are still
    close to noise.
    """

    def evaluate(x: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:
        x, scale = normalised(x)
        size = or_one(norm(x))
        unit = x / size
        square = unit @ unit
        second, second_slope = _schatten(square, 1.0, with_gradient)
        fourth, fourth_slope = _schatten(square @ square, 0.5, with_gradient)
        value = norm(x)[:, 0, 0].square() + (second - 2 * fourth) * size[:, 0, 0].square()
        value = value.clamp(min=0) * scale[:, 0, 0].square()
        if not with_gradient:
            return value, x
        # Y₄ by the chain rule through x² twice, then Y₂'s slope joins.
        slope = second_slope - 2 * (fourth_slope @ square.mT + square.mT @ fourth_slope)
        gradient = 2 * x + (slope @ unit.mT + unit.mT @ slope) * size
        return value, clipped(gradient, x).mul_(scale)

    return apply(evaluate, x)


def _schatten(x: Tensor, power: float, with_gradient: bool) -> tuple[Tensor, Tensor]:
    """Σ σᵢᵖ and its gradient U diag(p σᵢᵖ⁻¹) Vᵀ, in which vanishing singular values have no part."""

    def fallback(x: Tensor) -> tuple[Tensor, ...]:
        one = torch.eye(len(x), dtype=x.dtype, device=x.device)
        return one, x.new_zeros(len(x)), one

    # On the CPU, because a GPU takes longer for batches of small decompositions.
    u, s, vh = decompose(torch.linalg.svd, x.cpu(), fallback)
    value = s.pow(power).sum(-1).to(x.device)
    if not with_gradient:
        return value, x
    kept = s > RANK * s[:, :1]
    weights = torch.where(kept, power * torch.where(kept, s, 1.0).pow(power - 1), 0.0)
    return value, ((u * weights[:, None, :]) @ vh).to(x.device)


def paper_symmetric(x: Tensor, factor: int = 2) -> Tensor:
    """‖x‖² − f²·Σ λᵢ(f̂)² = ‖x‖² − f²‖f̂‖², f̂ = (P + Pᵀ)/2 of the f×f mean-pooled x: section 3.1 without its constant.

    About half of Δ² on spectrograms, for at full size ‖x‖² − ‖sym x‖² is ¼‖x − xᵀ‖².
    """

    def evaluate(x: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:
        x, scale = normalised(x)
        half = _symmetric(x, factor)
        value = (norm(x).square() - factor**2 * norm(half).square()) * scale.square()
        gradient = 2 * x - 2 * _spread(half, factor) if with_gradient else x
        return value[:, 0, 0].clamp(min=0), gradient * scale

    return apply(evaluate, x)


def paper_determinant(x: Tensor, factor: int = 2, constant: Constant = "gamma") -> Tensor:
    """Logarithm of Ŝ = 2^(k/2) ∏ᵢ₌₁ᵏ V(i/2)·|det f̂|, k = n/f, which eq. (9) to (11) put in place of Σ|λᵢ|².

    Kept for documentation: in place of Σ|λᵢ|² it has no use as a value, a rank or a gradient. Ŝ leaves every number
    format (e²⁰⁵⁴ for k = 64 before the determinant), so this is its logarithm, and ‖x‖² − Ŝ is never formed. The
    product begins at i = 1, because V(0) is infinite or 0. V is read as Γ (Edelman's constant of the Gaussian
    orthogonal ensemble) or as Minkowski's question mark, ?(i/2) = i/2. The sign of the determinant is dropped, and
    eigenvalues of f̂ below rounding count as rounding, so that silence gives a number.
    """
    half = x.shape[-1] // factor
    log_v = math.lgamma if constant == "gamma" else math.log
    log_constant = half / 2 * math.log(2) + sum(log_v(i / 2) for i in range(1, half + 1))

    def evaluate(x: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:
        x, scale = normalised(x)
        matrix = _symmetric(x, factor)
        silent = norm(matrix) == 0
        values, vectors = decompose(torch.linalg.eigh, matrix.cpu(), lambda x: (x.new_zeros(len(x)), x))
        values, vectors = values.to(x.device), vectors.to(x.device)
        floor = half * torch.finfo(x.dtype).eps * or_one(norm(matrix))[:, 0]
        above = values.abs() > floor
        logarithms = torch.where(above, values.abs(), floor).log() + scale[:, 0].log()
        value = torch.where(silent[:, 0, 0], 0.0, logarithms.sum(-1) + log_constant)
        if not with_gradient:
            return value, x
        weights = torch.where(above, 1 / torch.where(above, values, 1.0), 0.0)
        gradient = _spread((vectors * weights[:, None, :]) @ vectors.mT, factor) / (factor**2 * scale)
        return value, gradient.clamp(-LARGEST, LARGEST)

    return apply(evaluate, x)


def _symmetric(x: Tensor, factor: int) -> Tensor:
    pooled = pool(x, factor)
    return (pooled + pooled.mT) / 2


def _spread(x: Tensor, factor: int) -> Tensor:
    """Each element over its f×f block, the adjoint of pooling times f²."""
    return x.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


METHODS: dict[str, Callable[[Tensor, int, Constant], Callable[[], Tensor]]] = {
    "exact": lambda x, factor, constant: begin_departure(x),
    "hybrid": lambda x, factor, constant: begin_departure(x, factor),
    "perron": lambda x, factor, constant: partial(perron, x),
    "asymmetry": lambda x, factor, constant: partial(asymmetry, x),
    "moments": lambda x, factor, constant: partial(moments, x),
    "paper_symmetric": lambda x, factor, constant: partial(paper_symmetric, x, factor),
    "paper_determinant": lambda x, factor, constant: partial(paper_determinant, x, factor, constant),
}
POOLING = ("hybrid", "paper_symmetric", "paper_determinant")


def departure_from_normality(
    x: Tensor,
    method: str = "exact",
    *,
    factor: int = 2,
    channels: Channels | None = None,
    constant: Constant = "gamma",
    strict: bool = False,
) -> Tensor:
    """Departure from normality Δ²(x) = ‖x‖²_F − Σ|λᵢ|² (eq. 5): 0 for normal matrices, at most ‖x‖²_F.

    Differentiable once, with a finite gradient for every finite x.

        method             what it computes                                             cost at n = 128
        exact              Δ²(x)                                                        1
        hybrid             ½‖x − xᵀ‖² − f²·2 Σ Im(λᵢ)² of the f×f mean-pooled matrix    1/3 (f = 2), 1/12 (f = 4)
        perron             ‖x‖² − λ₁² by power iteration, for matrices in [0, 1]        1/40
        asymmetry          ½‖x − xᵀ‖², an upper bound                                   1/120
        moments            extrapolated from σᵢ(x²) and σᵢ(x⁴)                          1
        paper_symmetric    ‖x‖² − f²‖f̂‖² of section 3.1's symmetric f̂: half of Δ²       1/12
        paper_determinant  the logarithm of what section 3.1 prints in place of Σ|λᵢ|²; no estimate of anything

        >>> departure_from_normality(torch.tensor([[0.0, 3.0], [0.0, 0.0]]))
        tensor(9.)

    Args:
        x: real floating point matrices (..., n, n); complex ones for the exact method.
        method: one of those above.
        factor: f, by which hybrid and the paper's two pool; it must divide n.
        channels: x is images (..., C, n, n), reduced to (...): by the "mean" or "sum" of the channels' Δ², or as Δ² of
            the "luminance" (one channel, or red, green and blue).
        constant: V in paper_determinant, the "gamma" function or Minkowski's question mark ("minkowski").
        strict: raise for NaN or infinite matrices, and for negative entries given to perron. Waits for a GPU.

    Returns:
        Δ² (...), real, in units of |x|², on x's device, of its precision (float32 for half types). NaN or infinite
        entries make a matrix's value and gradient 0.
    """
    return begin_departure_from_normality(x, method, factor, channels, constant, strict)()


def begin_departure_from_normality(
    x: Tensor, method: str, factor: int, channels: Channels | None, constant: Constant = "gamma", strict: bool = False
) -> Callable[[], Tensor]:
    """`departure_from_normality` in two halves, see `begin_departure`."""
    check_method(method, factor, channels, constant)
    _check_matrices(x, method, factor)
    if channels == "luminance":
        x = _luminance(x)
    elif channels is not None and x.ndim < 3:
        raise ValueError(f'x has shape {tuple(x.shape)}: images (..., C, n, n) are needed for channels="{channels}"')
    if strict and (bad := int((~x.isfinite()).flatten(-2).any(-1).sum())):
        raise ValueError(f"x has NaN or infinite entries in {bad} of {x[..., 0, 0].numel()} matrices")
    if strict and method == "perron" and (x < 0).any():
        raise ValueError(f"x reaches down to {x.min():g}: perron needs matrices in [0, 1], e.g. (x + 1) / 2")
    finish = METHODS[method](x, factor, constant)
    if channels == "mean":
        return lambda: finish().mean(-1)
    return (lambda: finish().sum(-1)) if channels == "sum" else finish


def check_method(method: str, factor: int = 2, channels: Channels | None = None, constant: Constant = "gamma") -> None:
    """ValueError for a name that does not exist or a pooling factor below 1."""
    if method not in METHODS:
        raise ValueError(f'method "{method}" does not exist: one of {", ".join(METHODS)} is needed')
    if factor < 1:
        raise ValueError(f"factor is {factor}: a whole number of 1 or more is needed")
    if channels is not None and channels not in get_args(Channels):
        raise ValueError(f'channels is "{channels}": "mean", "sum", "luminance" or None is needed')
    if constant not in get_args(Constant):
        raise ValueError(f'constant is "{constant}": "gamma" or "minkowski" is needed')


def _check_matrices(x: Tensor, method: str, factor: int) -> None:
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise ValueError(f"x has shape {tuple(x.shape)}: square matrices (..., n, n) are needed")
    height, width = x.shape[-2:]
    if height != width:
        raise ValueError(
            f"x has shape {tuple(x.shape)}: Δ² is defined for square matrices; resize the images to "
            f"{min(height, width)}x{min(height, width)}, or cut them into squares of that side"
        )
    if x.is_complex() and method != "exact":
        raise ValueError(f'x is {x.dtype}: "{method}" needs real matrices, "exact" takes complex ones')
    if not (x.is_floating_point() or x.is_complex()):
        raise ValueError(f"x is {x.dtype}: floating point is needed, e.g. x.float()")
    if method in POOLING and width % factor:
        raise ValueError(
            f"x has shape {tuple(x.shape)}: {method} pools {factor}x{factor} and needs n divisible by {factor}"
        )


def _luminance(x: Tensor) -> Tensor:
    if x.ndim < 3 or x.shape[-3] not in (1, 3):
        raise ValueError(f"x has shape {tuple(x.shape)}: luminance needs images (..., C, n, n) with C of 1 or 3")
    if x.shape[-3] == 1:
        return x.squeeze(-3)
    weights = torch.tensor(LUMINANCE, dtype=x.dtype, device=x.device)
    return (x * weights[:, None, None]).sum(-3)
