"""Departure from normality Δ²(x) = ‖x‖²_F − Σ|λᵢ|² (eq. 5) with a gradient that is finite for every input.

For real x it is evaluated as ½‖x − xᵀ‖²_F − 2 Σ Im(λᵢ)², the same number without the cancellation: exact zeros for
symmetric matrices, and real eigenvalues, the zeros of silence among them, drop out of the gradient.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.linalg import LinAlgError

JITTERS = (1e-14, 1e-12, 1e-10, 1e-8)  # relative, element by element; the first is always there, the others are retries
REAL = 1e-7  # an eigenvalue with |Im λ| ≤ REAL·‖x‖_F counts as real in the gradient
TAU = 1e-7  # regularises 1/(yᵀv) for unit left and right eigenvectors y and v
CONDITION = 1e12  # of the eigenvectors, above which left vectors are solved for and not read off the inverse
CLIP = 8.0  # limit of ‖∇Δ²‖ / 2‖x‖; spectrograms and generated images reach 2.9


class _Counters:
    """What had to be mended, added up on its own device: reading waits for an accelerator, adding does not."""

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


_counters = _Counters()
_solving = threading.Lock()


def departure_counters() -> dict[str, int]:
    """How many matrices had to be mended in this process, since its start or the last `reset_departure_counters`.

    jittered   eigenvalues found only with a jitter above 1e-14
    matched    eigenvectors too ill-conditioned to be inverted, the left ones solved for
    fallback   no eigenvalues found, all taken as real, which leaves Δ² = ½‖x − xᵀ‖²
    clipped    gradient cut to 8·2‖x‖
    nonfinite  NaN or infinite entries, value and gradient 0
    """
    return _counters.read()


def reset_departure_counters() -> None:
    """Set every count of `departure_counters` to 0."""
    _counters.reset()


def departure(x: Tensor, factor: int = 1) -> Tensor:
    """½‖x − xᵀ‖² − f²·2 Σ Im(λᵢ(x̄))² with x̄ the f×f mean pooling of x; exact for f = 1.

    x (..., n, n) real floating point, n divisible by `factor`  ->  (...), same device, same type (half: float32).
    Computed in float64, eigenvalues on the CPU. NaN or infinite entries make a matrix's value and gradient 0.
    Differentiable once.
    """
    result = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
    host = x.cpu() if x.device.type == "mps" else x  # has no float64
    matrices = host.double().reshape(-1, *x.shape[-2:])
    with torch.autocast(host.device.type, enabled=False):
        if torch.is_grad_enabled() and x.requires_grad:
            values: Tensor = _Departure.apply(matrices, factor)  # type: ignore[no-untyped-call]
        else:
            values, _ = _departure(matrices.detach(), factor, with_gradient=False)
    return values.reshape(x.shape[:-2]).to(x.device, result)


class _Departure(torch.autograd.Function):
    """The gradient comes with the value, because both need the same eigenvectors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: int) -> Tensor:
        value, gradient = _departure(x, factor, with_gradient=True)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return grad[:, None, None] * gradient, None


def _departure(x: Tensor, factor: int, with_gradient: bool) -> tuple[Tensor, Tensor]:
    """(m, n, n) float64 -> value (m,), gradient (m, n, n), empty unless asked for."""
    finite = x.isfinite().all(-1).all(-1)[:, None, None]
    _counters.add("nonfinite", ~finite)
    x = torch.where(finite, x, 0.0)
    largest = x.abs().amax((-2, -1), keepdim=True)  # 1e150² and 1e-150² would leave float64
    scale = _or_one(largest / (2 * largest.frexp().mantissa))  # a power of two, so that nothing is rounded
    x = x / scale
    skew = x - x.mT
    k = x.shape[-1] // factor
    pooled = x.reshape(-1, k, factor, k, factor).mean((2, 4)) if factor > 1 else x
    spectral, slope = _in_parallel(pooled.cpu(), with_gradient)
    value = 0.5 * skew.square().sum((-2, -1)) - factor**2 * spectral.to(x.device)
    value = value.clamp(min=0) * scale[:, 0, 0].square()
    if not with_gradient:
        return value, slope
    slope = slope.to(x.device)
    if factor > 1:  # the adjoint of mean pooling divides by f², which the f² of the formula takes back
        slope = slope.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    gradient = 2 * skew - slope
    length = torch.linalg.matrix_norm(gradient, keepdim=True)
    limit = CLIP * 2 * torch.linalg.matrix_norm(x, keepdim=True)
    _counters.add("clipped", length > limit)
    return value, gradient * torch.where(length > limit, limit / length, 1.0) * scale


def _in_parallel(x: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:
    """`_spectral_part` with the matrices shared out over the threads, one LAPACK thread each.

    More threads inside one eigenproblem make it 6 to 25 times slower, and would let their number change the last bits.
    """
    with _solving:  # the number of threads belongs to the whole process
        threads = torch.get_num_threads()
        workers = max(1, min(threads, len(x), len(x) * x.shape[-1] ** 3 // 2**18))  # about a millisecond each, or more
        torch.set_num_threads(1)
        try:
            if workers == 1:
                return _spectral_part(x, with_gradient)
            with ThreadPoolExecutor(workers) as pool:
                parts = list(pool.map(lambda chunk: _spectral_part(chunk, with_gradient), x.tensor_split(workers)))
        finally:
            torch.set_num_threads(threads)
    values, slopes = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(slopes)


def _spectral_part(x: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:
    """2 Σ Im(λᵢ)² and its gradient: (m, n, n) -> (m,), (m, n, n), the latter empty unless asked for."""
    norm = _or_one(torch.linalg.matrix_norm(x, keepdim=True))
    unit = x / norm
    values, vectors = _eigen(unit, with_gradient)
    spectral = 2 * values.imag.square().sum(-1) * norm[:, 0, 0].square()
    if not with_gradient:
        return spectral, vectors.real
    # At a real eigenvalue's double root two reals turn into a pair: the gradient has a kink there, and rounding, which
    # splits the zeros of silent and blank bands by 1e-8, would pick its side. Counting those as real picks always one.
    weights = torch.where(values.imag.abs() > REAL, values.imag, 0.0)
    slope, trusted = _slope_by_inverse(values, vectors, weights)
    hard = ~trusted & (weights != 0).any(-1)
    _counters.add("matched", hard)
    if hard.any():
        slope[hard] = _slope_by_matching(unit[hard], values[hard], vectors[hard], weights[hard])
    return spectral, torch.where(slope.isfinite().all(-1).all(-1)[:, None, None], slope, 0.0) * norm


def _eigen(x: Tensor, with_vectors: bool) -> tuple[Tensor, Tensor]:
    """Eigenvalues (m, n) and right eigenvectors (m, n, n), empty unless asked for, of slightly jittered matrices.

    The QR iteration of LAPACK in MKL gives up on spectrograms with silent or blank bands, on 53 of 240 at n = 64, and
    takes the whole batch along. One part in 1e14 on each element mends all of them and keeps zeros and symmetry.
    """
    try:
        return _eigen_jittered(x, JITTERS[0], with_vectors)
    except LinAlgError:
        solved = [_eigen_alone(matrix, with_vectors) for matrix in x]
        return torch.stack([values for values, _ in solved]), torch.stack([vectors for _, vectors in solved])


def _eigen_alone(x: Tensor, with_vectors: bool) -> tuple[Tensor, Tensor]:
    for jitter in JITTERS:
        try:
            solved = _eigen_jittered(x, jitter, with_vectors)
        except LinAlgError:
            continue
        _counters.add("jittered", torch.tensor(jitter > JITTERS[0]))
        return solved
    _counters.add("fallback", torch.tensor(True))
    vectors = torch.eye(len(x)) if with_vectors else torch.empty(0)
    return torch.zeros(len(x), dtype=torch.complex128), vectors.to(torch.complex128)


def _eigen_jittered(x: Tensor, jitter: float, with_vectors: bool) -> tuple[Tensor, Tensor]:
    x = x * (1 + jitter * _noise(x.shape[-1]))
    if with_vectors:
        values, vectors = torch.linalg.eig(x)
        return values, vectors
    return torch.linalg.eigvals(x), x.new_empty(len(x), 0, dtype=torch.complex128)


@lru_cache(maxsize=16)
def _noise(n: int) -> Tensor:
    """The same symmetric noise in [−1, 1] for every n×n matrix, so that x and xᵀ stay transposes of each other."""
    noise = torch.rand(n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    return noise + noise.mT - 1


def _slope_by_inverse(values: Tensor, vectors: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """4 R⁻ᵀ J Rᵀ, the gradient of 2 Σ Im(λᵢ)², and whether R was well enough conditioned to be inverted, (m,).

    R holds the eigenvectors as real columns, (Re v, Im v) for a pair a ± bi, so that x = R D R⁻¹ with 2×2 blocks
    [[a, b], [−b, a]] in D, and J = (D − Dᵀ)/2. The rows of R⁻¹ make the left eigenvectors, scaled to yᵀv = 1: one real
    inverse in place of a second eigenproblem. Against scipy.linalg.eig(left=True), on 240 spectrograms of which three
    quarters are partly silent or band-limited (120 at n = 128), one thread, ms per matrix:

        n                               32               64               128
        eig alone                       0.14             0.75             4.2
        inverse                         0.02             0.09             0.5
        eig(xᵀ), nearest eigenvalue     0.18             1.1              5.0
        relative error of the gradient, median / worst
        inverse                         1e-13 / 6e-8     3e-13 / 2e-8     2e-12 / 4e-3
        eig(xᵀ), nearest eigenvalue     1e-13 / 4e-9     3e-13 / 2e-9     1e-12 / 4e-3

    where 4e-3 is one matrix with a condition of 7e11 at which any two of the three methods differ by that. Hence the
    inverse for all, and matching for the few that cannot be inverted.
    """
    second = (values.imag < 0)[:, None, :]  # of a pair; LAPACK gives a + bi first, then its conjugate
    basis = torch.where(second, -vectors.imag, vectors.real)
    inverse, info = torch.linalg.inv_ex(basis)
    condition = torch.linalg.matrix_norm(basis, 1) * torch.linalg.matrix_norm(inverse, 1)
    rows = inverse.square().sum(-1)
    left = (rows + torch.where(values.imag > 0, rows.roll(-1, -1), rows.roll(1, -1))) / 4  # ‖y‖² where yᵀv = 1
    weights = weights / (1 + TAU**2 * left)
    turned = weights[:, None, :] * torch.where(second, vectors.real, vectors.imag)  # R Jᵀ
    return 4 * inverse.mT @ turned.mT, (info == 0) & (condition < CONDITION)


def _slope_by_matching(x: Tensor, values: Tensor, vectors: Tensor, weights: Tensor) -> Tensor:
    """4 Re Σ −i Im(λᵢ) yᵢ vᵢᵀ / (yᵢᵀvᵢ), the same gradient, with the left eigenvectors yᵢ those of xᵀ."""
    other, left = _eigen(x.mT, with_vectors=True)
    nearest = (values[:, :, None] - other[:, None, :]).abs().argmin(-1)
    left = left.gather(-1, nearest[:, None, :].expand_as(left))
    overlap = (left * vectors).sum(-2)
    weight = -1j * weights * overlap.conj() / (overlap.abs().square() + TAU**2)
    return 4 * ((left * weight[:, None, :]) @ vectors.mT).real


def _or_one(norm: Tensor) -> Tensor:
    """A divisor that leaves a zero matrix zero."""
    return torch.where(norm > 0, norm, 1.0)
