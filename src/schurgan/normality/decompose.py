"""Matrix factorisations that do not fail: LAPACK's, of matrices moved by a unit in the last place."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.linalg import LinAlgError

from .counters import counters

# Relative, element by element; the first is always there, the others are retries. The QR iteration of LAPACK in MKL
# gives up on spectrograms with silent or blank bands, on 63 of 320 at n = 64, and takes the whole batch along. A few
# units in the last place mend all of them, and keep zeros and symmetry.
JITTERS = (1e-15, 1e-14, 1e-12, 1e-10, 1e-8)

Factors = tuple[Tensor, ...]


def decompose(factorise: Callable[[Tensor], Factors], x: Tensor, fallback: Callable[[Tensor], Factors]) -> Factors:
    """`factorise` of the matrices x (m, n, n), or of each by itself where LAPACK gives up, with more and more jitter.

    `fallback` of a matrix (n, n) stands for the factors of one that nothing helps.
    """
    try:
        return factorise(x * (1 + JITTERS[0] * _noise(x.shape[-1])))
    except LinAlgError:
        solved = [_alone(factorise, matrix, fallback) for matrix in x]
        return tuple(torch.stack(factors) for factors in zip(*solved, strict=True))


def _alone(factorise: Callable[[Tensor], Factors], x: Tensor, fallback: Callable[[Tensor], Factors]) -> Factors:
    for jitter in JITTERS:
        try:
            factors = factorise(x * (1 + jitter * _noise(len(x))))
        except LinAlgError:
            continue
        counters.add("jittered", torch.tensor(jitter > JITTERS[0]))
        return factors
    counters.add("fallback", torch.tensor(True))
    return fallback(x)


@lru_cache(maxsize=16)
def _noise(n: int) -> Tensor:
    """The same symmetric noise in [−1, 1] for every n×n matrix, so that x and xᵀ stay transposes of each other."""
    noise = torch.rand(n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    return noise + noise.mT - 1
