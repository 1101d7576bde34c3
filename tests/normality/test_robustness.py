"""No exception, no value and no gradient that is not finite: every method on matrices made to break it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference_matrices import COMPLEX, REAL, SPECTROGRAMS, matrix, value_and_gradient

from schurgan.normality.estimators import METHODS


def made_to_break(n: int, seed: int) -> np.ndarray:
    """A matrix of few levels, most of it blank, near one whose eigenvalues collide."""
    rng = np.random.default_rng(seed)
    x = np.zeros((n, n))
    choice = seed % 8
    if choice == 0:  # chains of defective eigenvalues, coupled faintly
        x = np.eye(n, k=1) * rng.integers(0, 2, (n, n))
        x[rng.integers(n), rng.integers(n)] += 10.0 ** -rng.integers(1, 16)
    elif choice == 1:  # pairs that are about to become reals
        x = np.kron(np.eye((n + 1) // 2), [[1, 1], [-(10.0 ** -rng.integers(4, 20)), 1]])[:n, :n]
    elif choice == 2:  # a few pixels on silence
        x = np.full((n, n), rng.choice([-1.0, 0.0, 1.0]))
        x[rng.integers(0, n, 3), rng.integers(0, n, 3)] = rng.choice([-1.0, 0.5, 1.0], 3)
    elif choice == 3:  # blocks of constants
        levels = rng.choice([-1.0, 0.0, 0.5, 1.0], (4, 4))
        x = np.kron(levels, np.ones((-(-n // 4), -(-n // 4))))[:n, :n]
    elif choice == 4:  # elements across the whole of float32
        x = rng.choice([-1.0, 1.0], (n, n)) * 10.0 ** rng.uniform(-44, 15, (n, n))
    elif choice == 5:  # denormal, or nearly
        x = rng.standard_normal((n, n)) * 10.0 ** -rng.uniform(36, 44)
    elif choice == 6:  # equal rows, and one that differs in the last place
        x = np.tile(rng.standard_normal(n), (n, 1))
        x[-1] *= 1 + 2e-16
    else:  # a permutation with weights and repeats
        x = np.eye(n)[rng.integers(0, n, n)] * rng.choice([1.0, 2.0, -1.0], (n, 1))
    return x


def batch(n: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    kinds = [kind for kind in (*REAL, *SPECTROGRAMS) if dtype == torch.float64 or "1e150" not in kind]
    out = [made_to_break(n, i // 3) if i % 3 == 0 else matrix(kinds[i % len(kinds)], n, i) for i in range(count)]
    return torch.from_numpy(np.stack(out)).to(dtype)


def assert_finite(x: torch.Tensor, method: str, factor: int = 1) -> None:
    assert x.isfinite().all()
    value, gradient = value_and_gradient(x, method, factor=factor)
    size = x.abs().amax((-2, -1))
    representable = size**2 * x.shape[-1] ** 2 < torch.finfo(value.dtype).max / 8
    assert (value.isfinite() | ~representable).all()
    assert gradient.isfinite().all()
    if method != "paper_determinant":
        assert (value >= 0).all()
        wide = torch.complex128 if x.is_complex() else torch.float64  # squares of float32's denormals are none of its
        length, limit = (torch.linalg.vector_norm(y.flatten(1), dim=1, dtype=wide) for y in (gradient, 16 * x))
        assert (length <= limit * (1 + 1e-5) + x.shape[-1] * torch.finfo(value.dtype).smallest_normal).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_hundreds_of_matrices_give_finite_values_and_gradients_no_longer_than_the_limit(method, dtype):
    for n, factor in ((1, 1), (2, 2), (3, 3), (6, 2), (16, 4)):
        assert_finite(batch(n, 100, dtype), method, factor)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_five_thousand_matrices_give_finite_values_and_gradients_no_longer_than_the_limit(method, dtype):
    for n, factor, count in ((1, 1, 200), (2, 2, 1000), (4, 2, 1000), (7, 7, 1000), (12, 3, 1000), (32, 2, 800)):
        for part in batch(n, count, dtype).split(200):
            assert_finite(part, method, factor)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_matrices_give_finite_values_and_gradients(dtype):
    for n in (1, 2, 5, 16):
        kinds = [kind for kind in COMPLEX if dtype == torch.complex128 or "1e" not in kind]
        x = torch.from_numpy(np.stack([matrix(kind, n, seed) for kind in kinds for seed in range(5)])).to(dtype)
        assert_finite(x, "exact")
