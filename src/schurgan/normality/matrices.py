"""Safe functions of square matrices: factorisations that do not fail, and finite gradients beside the values.

What had to be mended on the way is counted, see `departure_counters`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.linalg import LinAlgError

Factors = tuple[Tensor, ...]
Evaluate = Callable[[Tensor, bool], tuple[Tensor, Tensor]]
"""(m, n, n), whether a gradient is wanted  ->  value (m,) real, gradient (m, n, n), which is empty if it is not."""

# Relative, element by element; the first is always there, the others are retries. The QR iteration of LAPACK in MKL
# gives up on spectrograms with silent or blank bands, on 63 of 320 at n = 64, and takes the whole batch along. A few
# units in the last place mend all of them, and keep zeros and symmetry.
JITTERS = (1e-15, 1e-14, 1e-12, 1e-10, 1e-8)

# Limit of ‖∇Δ²‖ / 2‖x‖. It is 1 to 2 for generated images and for most spectrograms; of 400 clips of ESC-10 one is
# above the limit in [−1, 1] and five in [0, 1], all two thirds silent, by up to 11 times.
CLIP = 8.0

_solving = threading.Lock()
_counting = threading.Lock()
_COUNTED = ("jittered", "matched", "fallback", "clipped", "nonfinite")
_counts: dict[tuple[str, torch.device], Tensor] = {}  # of each device, which adding need not wait for


def count(name: str, flags: Tensor) -> None:
    """Add the true `flags` to the count of that name."""
    with _counting:
        key = (name, flags.device)
        _counts[key] = _counts.get(key, 0) + flags.sum()


def departure_counters() -> dict[str, int]:
    """How many matrices had to be mended in this process since the last `reset_departure_counters`; waits for a GPU.

    Returns:
        jittered: eigenvalues, or singular values, found only with a jitter above one part in 1e15.
        matched: eigenvectors too ill-conditioned to be inverted, the left ones solved for.
        fallback: none found at all: the spectral part counts as 0, which leaves the bound ½‖x − xᵀ‖².
        clipped: gradient cut to 8·2‖x‖.
        nonfinite: NaN or infinite entries, value and gradient 0.
    """
    with _counting:
        totals = dict.fromkeys(_COUNTED, 0)
        for (name, _), number in _counts.items():
            totals[name] += int(number)
    return totals


def reset_departure_counters() -> None:
    """Set every count of `departure_counters` to 0."""
    with _counting:
        _counts.clear()


def apply(evaluate: Evaluate, x: Tensor, *, double: bool = True) -> Tensor:
    """Values (...), as of `as_result`, of matrices x (..., n, n), never under autocast; differentiable once.

    `evaluate` receives float64, on a CPU shared out over the threads; without `double` x's own type, half as float32.
    """
    host = x.cpu() if x.device.type == "mps" and double else x  # which has no float64
    matrices = as_matrices(host, torch.float32)
    if double:
        evaluate = partial(_in_double if host.is_cuda else in_parallel, evaluate)
    with torch.autocast(host.device.type, enabled=False):
        if torch.is_grad_enabled() and x.requires_grad:
            values: Tensor = _WithGradient.apply(matrices, evaluate)  # type: ignore[no-untyped-call]
        else:
            values, _ = evaluate(matrices.detach(), False)
    return as_result(values, x)


def as_matrices(x: Tensor, least: torch.dtype = torch.float64) -> Tensor:
    """Matrices (..., n, n) as (m, n, n), of the precision `least` or more."""
    return x.to(torch.promote_types(x.dtype, least)).reshape(-1, *x.shape[-2:])


def as_result(values: Tensor, x: Tensor) -> Tensor:
    """Real values (m,) as (...) for x (..., n, n), on its device, of its precision, float32 for half types."""
    real = x.real.dtype if x.is_complex() else x.dtype
    return values.reshape(x.shape[:-2]).to(x.device, real if real == torch.float64 else torch.float32)


class _WithGradient(torch.autograd.Function):
    """Both need the same factorisation, so the forward pass keeps the gradient for the backward one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, evaluate: Evaluate) -> Tensor:
        value, gradient = evaluate(x, True)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return grad[:, None, None] * gradient, None


def normalised(x: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices (m, n, n) with the largest entry from 1 to below 2, and the powers of two (m, 1, 1) to multiply with.

    1e150² and 1e-150² would leave float64, and a power of two rounds nothing. Matrices with NaN or infinite entries
    become zero, and are counted.
    """
    largest = x.abs().amax((-2, -1), keepdim=True)  # 20 times faster than the norm of order ∞
    finite = largest.isfinite()
    count("nonfinite", ~finite)
    if x.is_cuda or not finite.all():  # asking a GPU would wait for it
        x = torch.where(finite, x, 0.0)
        largest = torch.where(finite, largest, 0.0)
    scale = or_one(largest / (2 * largest.frexp().mantissa))
    return x / scale, scale


def clipped(gradient: Tensor, x: Tensor) -> Tensor:
    """`gradient` (m, n, n), no longer than 8·2‖x‖, in place; zero where it is not finite."""
    length = norm(gradient)
    limit = CLIP * 2 * norm(x)
    count("clipped", ~(length <= limit))
    if x.is_cuda or not (length <= limit).all():
        gradient = torch.where(length.isfinite(), gradient, 0.0)
        gradient = gradient * torch.where(length > limit, limit / length, 1.0)
    return gradient


def norm(x: Tensor) -> Tensor:
    """‖x‖_F: (m, n, n)  ->  (m, 1, 1)."""
    length: Tensor = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    return length


def or_one(norm: Tensor) -> Tensor:
    """A divisor that leaves a zero matrix zero."""
    return torch.where(norm > 0, norm, 1.0)


def pool(x: Tensor, factor: int) -> Tensor:
    """f×f mean pooling: (m, n, n)  ->  (m, n/f, n/f)."""
    if factor == 1:
        return x
    k = x.shape[-1] // factor
    return x.reshape(-1, k, factor, k, factor).mean((2, 4))


def _in_double(evaluate: Evaluate, x: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:
    """`evaluate` in float64 (complex128), its gradient in the matrices' own type."""
    value, gradient = evaluate(as_matrices(x), with_gradient)
    return value, gradient.to(x.dtype) if with_gradient else gradient


def in_parallel(evaluate: Evaluate, x: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:
    """`_in_double` with the matrices of x (m, n, n), on the CPU, shared out over the threads.

    One LAPACK thread each: more inside one eigenproblem make it 6 to 25 times slower, and would let their number change
    the last bits.
    """
    with _solving:  # the number of threads belongs to the whole process
        threads = torch.get_num_threads()
        workers = max(1, min(threads, len(x), len(x) * x.shape[-1] ** 3 // 2**18))  # about a millisecond each, or more
        torch.set_num_threads(1)
        try:
            if workers == 1:
                return _in_double(evaluate, x, with_gradient)
            value = x.new_empty(len(x), dtype=torch.float64)
            gradient = torch.empty_like(x) if with_gradient else x

            @torch.no_grad()  # which another thread does not inherit
            def work(part: slice) -> None:
                of_part, slope = _in_double(evaluate, x[part], with_gradient)
                value[part] = of_part
                if with_gradient:
                    gradient[part] = slope

            # More parts than threads, since some matrices take longer, and since small ones stay in the cache.
            size = -(-len(x) // (8 * workers))
            with ThreadPoolExecutor(workers) as executor:
                list(executor.map(work, (slice(i, i + size) for i in range(0, len(x), size))))
        finally:
            torch.set_num_threads(threads)
    return value, gradient


def decompose(factorise: Callable[[Tensor], Factors], x: Tensor, fallback: Callable[[Tensor], Factors]) -> Factors:
    """Factors (m, ...) of matrices (m, n, n), each by itself where LAPACK gives up, with more and more jitter.

    `fallback` maps a matrix (n, n) that nothing helps to factors.
    """
    noise = _noise(x.shape[-1])

    def alone(matrix: Tensor) -> Factors:
        for jitter in JITTERS:
            try:
                factors = factorise(matrix * (1 + jitter * noise))
            except LinAlgError:
                continue
            count("jittered", torch.tensor(jitter > JITTERS[0], device=x.device))
            return factors
        count("fallback", torch.tensor(True, device=x.device))
        return fallback(matrix)

    try:
        return factorise(x * (1 + JITTERS[0] * noise))
    except LinAlgError:
        return tuple(torch.stack(factors) for factors in zip(*map(alone, x), strict=True))


@lru_cache(maxsize=16)
def _noise(n: int) -> Tensor:
    """The same symmetric noise in [−1, 1] for every n×n matrix, so that x and xᵀ stay transposes of each other."""
    noise = torch.rand(n, n, generator=torch.Generator("cpu").manual_seed(n), dtype=torch.float64, device="cpu")
    return noise + noise.mT - 1
