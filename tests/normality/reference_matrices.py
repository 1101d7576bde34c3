"""Matrices by name, of every sort that Δ² may meet, and what SciPy says of them.

`matrix(name, n, seed)` is the one of that kind, of any size from 1; `KINDS` names all, and sets of names say what is
special about some.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from schurgan.normality import departure_from_normality

Matrix = NDArray[np.float64] | NDArray[np.complex128]
Random = np.random.Generator


def schur_departure(x: Matrix) -> float:
    """The norm above the diagonal of the complex Schur form: no cancellation, unlike ‖x‖² − Σ|λ|²."""
    size = np.abs(x).max()
    if size == 0:
        return 0.0
    triangle, _ = scipy.linalg.schur(x / size, output="complex")
    return float(np.square(np.abs(np.triu(triangle, 1))).sum() * size * size)


def eigenvector_gradient(x: Matrix) -> Matrix:
    """2(x − xᵀ) − 4 Re Σ −i Im(λ) y vᵀ/(yᵀv) with LAPACK's own left vectors, numerically real eigenvalues left out."""
    values, left, right = scipy.linalg.eig(x, left=True, right=True)
    left = left.conj()
    imag = np.where(np.abs(values.imag) > 1e-7 * np.linalg.norm(x), values.imag, 0)
    weights = np.divide(-1j * imag, (left * right).sum(0), out=np.zeros(len(x), complex), where=imag != 0)
    return 2 * (x - x.T) - 4 * ((left * weights) @ right.T).real


def spectrogram(n: int, seed: int) -> Matrix:
    """Log spectrogram in [−1, 1] of a few gliding harmonic sounds over noise; most partly silent or band-limited."""
    rng = np.random.default_rng(seed)
    frequency, time = np.mgrid[0:n, 0:n] / n
    power = 1e-3 * rng.exponential(size=(n, n)) * (1 + np.sin(2 * np.pi * rng.uniform(1, 5) * time))
    for _ in range(rng.integers(2, 5)):
        pitch, onset, decay = rng.uniform(0.03, 0.3), rng.uniform(0, 0.7), rng.uniform(0.1, 0.5)
        envelope = np.where(time >= onset, np.exp(-(time - onset) / decay), 0)
        for harmonic in range(1, rng.integers(2, 9)):
            ridge = (frequency - harmonic * pitch * (1 + rng.normal(0, 0.15) * time)) * n
            power += envelope * np.exp(-(ridge**2) / 2) / harmonic**2
    if seed % 4 in (1, 3):
        first, last = np.sort(rng.uniform(size=2))
        power *= (time >= first) & (time < last)
    if seed % 4 in (2, 3):
        power *= frequency < rng.uniform(0.2, 0.8)
    decibels = 10 * np.log10(np.maximum(power / max(power.max(), 1e-30), 1e-8))
    return decibels / 40 + 1


def spectrograms(count: int, n: int) -> Matrix:
    return np.stack([spectrogram(n, seed) for seed in range(count)])


def value_and_gradient(
    x: Matrix | torch.Tensor, method: str = "exact", **options: int | str
) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.as_tensor(x).clone().requires_grad_()
    value = departure_from_normality(x, method, **options)
    value.sum().backward()
    assert x.grad is not None
    return value.detach(), x.grad


def matrix(name: str, n: int, seed: int = 0) -> Matrix:
    rng = np.random.default_rng(seed)
    if name in SPECTROGRAMS:
        return SPECTROGRAMS[name](spectrogram(n, seed), rng)
    if name in COMPLEX:
        return COMPLEX[name](n, rng)
    return REAL[name](n, rng)


def _gauss(n: int, rng: Random, m: int | None = None) -> Matrix:
    return rng.standard_normal((n, m or n))


def _complex(n: int, rng: Random) -> Matrix:
    return _gauss(n, rng) + 1j * _gauss(n, rng)


def _orthogonal(n: int, rng: Random) -> Matrix:
    return scipy.linalg.qr(_gauss(n, rng))[0]


def _unitary(n: int, rng: Random) -> Matrix:
    return scipy.linalg.qr(_complex(n, rng))[0]


def _rotated(x: Matrix, rng: Random) -> Matrix:
    basis = _orthogonal(len(x), rng)
    return basis @ x @ basis.T


def _companion(roots: NDArray[np.float64] | NDArray[np.complex128]) -> Matrix:
    x = np.eye(len(roots), k=-1).astype(roots.dtype)
    x[0] = -np.poly(roots)[1:]
    return x


def _pairs(n: int, block: Matrix, coupling: float = 0.0) -> Matrix:
    """2×2 blocks along the diagonal with `coupling` from each to the next; an odd row is left zero."""
    x = np.zeros((n, n))
    x[: n // 2 * 2, : n // 2 * 2] = np.kron(np.eye(n // 2), block)
    return x + coupling * np.eye(n, k=2)


def _stochastic(n: int, rng: Random, sweeps: int = 0) -> Matrix:
    x = rng.uniform(size=(n, n))
    for _ in range(sweeps):
        x /= x.sum(0)
    return x / x.sum(1, keepdims=True)


def _one_pixel(n: int, rng: Random) -> Matrix:
    x = np.zeros((n, n))
    x[rng.integers(n), rng.integers(n)] = 1
    return x


def _kahan(n: int, _: Random) -> Matrix:
    sine, cosine = np.sin(1.2), np.cos(1.2)
    return sine ** np.arange(n)[:, None] * (np.eye(n) - cosine * np.triu(np.ones((n, n)), 1))


def _lesp(n: int, _: Random) -> Matrix:
    k = np.arange(2, n + 1)
    return np.diag(-(2.0 * np.arange(2, n + 2) + 1)) + np.diag(k + 0.0, 1) + np.diag(1 / k, -1)


def _clement(n: int, _: Random) -> Matrix:
    k = np.arange(1.0, n)
    return np.diag(k, -1) + np.diag(k[::-1], 1)


def _redheffer(n: int, _: Random) -> Matrix:
    k = np.arange(1, n + 1)
    return ((k[None] % k[:, None] == 0) | (k[None] == 1)).astype(float)


def _scattered(n: int, rng: Random) -> Matrix:
    return _gauss(n, rng) * 10.0 ** rng.uniform(-8, 8, (n, n))


def _grid(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    i, j = np.mgrid[1.0 : n + 1, 1.0 : n + 1]
    return i, j


ROTATION = np.array([[1.0, 2.0], [-2.0, 1.0]])

REAL: dict[str, Callable[[int, Random], Matrix]] = {
    "gauss": _gauss,
    "gauss times 1e150": lambda n, rng: 1e150 * _gauss(n, rng),
    "gauss times 1e-150": lambda n, rng: 1e-150 * _gauss(n, rng),
    "gauss plus 50": lambda n, rng: _gauss(n, rng) + 50,
    "gauss plus 1e6 times one": lambda n, rng: _gauss(n, rng) + 1e6 * np.eye(n),
    "uniform": lambda n, rng: rng.uniform(size=(n, n)),
    "cauchy distributed": lambda n, rng: rng.standard_cauchy((n, n)),
    "signs": lambda n, rng: rng.choice([-1.0, 1.0], (n, n)),
    "bits": lambda n, rng: rng.integers(0, 2, (n, n)).astype(float),
    "magnitudes from 1e-8 to 1e8": _scattered,
    "rows from 1 to 1e-12": lambda n, rng: 10.0 ** -np.linspace(0, 12, n)[:, None] * _gauss(n, rng),
    "sparse": lambda n, rng: _gauss(n, rng) * (rng.uniform(size=(n, n)) < 0.1),
    "upper triangular": lambda n, rng: np.triu(_gauss(n, rng)),
    "strictly upper triangular": lambda n, rng: np.triu(_gauss(n, rng), 1),
    "lower triangular": lambda n, rng: np.tril(_gauss(n, rng)),
    "triangle of minus ones": lambda n, rng: np.eye(n) - np.triu(np.ones((n, n)), 1),
    "Hessenberg": lambda n, rng: np.triu(_gauss(n, rng), -1),
    "tridiagonal": lambda n, rng: np.triu(np.tril(_gauss(n, rng), 1), -1),
    "block diagonal": lambda n, rng: _gauss(n, rng) * np.equal.outer(np.arange(n) // 3, np.arange(n) // 3),
    "block triangular": lambda n, rng: _gauss(n, rng) * np.less_equal.outer(np.arange(n) // 3, np.arange(n) // 3),
    "companion": lambda n, rng: scipy.linalg.companion(np.r_[1, rng.standard_normal(n)]),
    "companion of Wilkinson's": lambda n, rng: _companion(np.arange(1.0, n + 1) / n),
    "companion of the roots of unity": lambda n, rng: scipy.linalg.companion(np.r_[1, np.zeros(n - 1), -1]),
    "Toeplitz": lambda n, rng: scipy.linalg.toeplitz(rng.standard_normal(n), rng.standard_normal(n)),
    "Hankel": lambda n, rng: scipy.linalg.hankel(rng.standard_normal(n), rng.standard_normal(n)),
    "circulant": lambda n, rng: scipy.linalg.circulant(rng.standard_normal(n)),
    "Grcar": lambda n, rng: np.triu(np.tril(np.ones((n, n)), 3)) - np.eye(n, k=-1),
    "Frank": lambda n, rng: np.triu(n + 1 - np.maximum(*_grid(n)), -1),
    "Forsythe": lambda n, rng: np.eye(n, k=1) + 1e-3 * np.eye(n, k=1 - n),
    "Clement": _clement,
    "Lesp": _lesp,
    "Kahan": _kahan,
    "Lotkin": lambda n, rng: np.vstack([np.ones((1, n)), scipy.linalg.hilbert(n)[1:]]),
    "Hilbert": lambda n, rng: scipy.linalg.hilbert(n),
    "Vandermonde": lambda n, rng: np.vander(np.linspace(-1, 1, n)),
    "Parter": lambda n, rng: 1 / (np.subtract(*_grid(n)) + 0.5),
    "Cauchy": lambda n, rng: 1 / np.add.outer(rng.uniform(0.1, 1, n), rng.uniform(0.1, 1, n)),
    "Lehmer": lambda n, rng: np.minimum(*_grid(n)) / np.maximum(*_grid(n)),
    "Redheffer": _redheffer,
    "Pascal": lambda n, rng: scipy.linalg.pascal(n, kind="lower", exact=False) / 2.0 ** np.arange(n)[:, None],
    "Leslie": lambda n, rng: np.vstack([rng.uniform(size=(1, n)), np.diag(rng.uniform(size=n))[: n - 1]]),
    "Hadamard": lambda n, rng: scipy.linalg.hadamard(1 << (n - 1).bit_length()).astype(float)[:n, :n],
    "Jordan": lambda n, rng: np.eye(n, k=1),
    "Jordan of 2": lambda n, rng: 2 * np.eye(n) + np.eye(n, k=1),
    "rotated Jordan": lambda n, rng: _rotated(np.eye(n) + np.eye(n, k=1), rng),
    "rotated nilpotent": lambda n, rng: _rotated(np.triu(_gauss(n, rng), 1), rng),
    "defective pairs": lambda n, rng: _pairs(n, ROTATION, 1.0),
    "defective pairs beside Jordan": lambda n, rng: np.where(
        np.add.outer(np.arange(n) < n // 2, np.arange(n) < n // 2) == 1, 0, _pairs(n, ROTATION) + np.eye(n, k=1)
    ),
    "rank one": lambda n, rng: np.outer(rng.standard_normal(n), rng.standard_normal(n)),
    "rank one, not negative": lambda n, rng: np.outer(rng.uniform(size=n), rng.uniform(size=n)),
    "rank of a third": lambda n, rng: _gauss(n, rng, n // 3 + 1) @ _gauss(n // 3 + 1, rng, n),
    "projection aslant": lambda n, rng: (u := rng.uniform(size=(n, 1))) @ (v := rng.uniform(size=(1, n))) / (v @ u),
    "zero": lambda n, rng: np.zeros((n, n)),
    "identity": lambda n, rng: np.eye(n),
    "constant": lambda n, rng: np.full((n, n), 0.7),
    "silent": lambda n, rng: np.full((n, n), -1.0),
    "diagonal": lambda n, rng: np.diag(rng.standard_normal(n)),
    "symmetric": lambda n, rng: (x := _gauss(n, rng)) + x.T,
    "positive definite": lambda n, rng: (x := _gauss(n, rng)) @ x.T,
    "skew": lambda n, rng: (x := _gauss(n, rng)) - x.T,
    "skew plus one": lambda n, rng: (x := _gauss(n, rng)) - x.T + np.eye(n),
    "orthogonal": _orthogonal,
    "reflection": lambda n, rng: np.eye(n) - 2 * np.outer(u := rng.standard_normal(n), u) / (u @ u),
    "permutation": lambda n, rng: np.eye(n)[rng.permutation(n)],
    "cyclic shift": lambda n, rng: np.roll(np.eye(n), 1, 0),
    "mirror": lambda n, rng: np.eye(n)[::-1].copy(),
    "near-symmetric, 1e-6": lambda n, rng: (x := _gauss(n, rng)) + x.T + 1e-6 * _gauss(n, rng),
    "near-symmetric, 1e-12": lambda n, rng: (x := _gauss(n, rng)) + x.T + 1e-12 * _gauss(n, rng),
    "near-skew": lambda n, rng: (x := _gauss(n, rng)) - x.T + 1e-8 * _gauss(n, rng),
    "near-orthogonal": lambda n, rng: _orthogonal(n, rng) + 1e-8 * _gauss(n, rng),
    "near-constant": lambda n, rng: 0.7 + 1e-7 * _gauss(n, rng),
    "stochastic": _stochastic,
    "doubly stochastic": lambda n, rng: _stochastic(n, rng, 50),
    "one pixel": _one_pixel,
    "ramp over time": lambda n, rng: np.tile(np.linspace(-1, 1, n), (n, 1)),
    "checkerboard": lambda n, rng: np.add.outer(np.arange(n), np.arange(n)) % 2 * 2.0 - 1,
    "stripes": lambda n, rng: np.tile(np.sign(rng.standard_normal(n))[:, None], (1, n)),
}

SPECTROGRAMS: dict[str, Callable[[Matrix, Random], Matrix]] = {
    "spectrogram": lambda x, rng: x,
    "spectrogram upside down": lambda x, rng: x[::-1].copy(),
    "spectrogram in [0, 1]": lambda x, rng: (x + 1) / 2,
    "spectrogram of 8 bits": lambda x, rng: np.round((x + 1) * 127.5),
    "spectrogram, standardised": lambda x, rng: (x - x.mean()) / (x.std() or 1),
    "spectrogram, saturated": lambda x, rng: np.tanh(20 * x),
    "spectrogram times 1e150": lambda x, rng: 1e150 * x,
    "spectrogram times 1e-150": lambda x, rng: 1e-150 * x,
    "half silent": lambda x, rng: np.where(np.arange(len(x)) < len(x) // 2, x, -1.0),
    "half silent at zero": lambda x, rng: np.where(np.arange(len(x)) < len(x) // 2, x, 0.0),
    "band-limited": lambda x, rng: np.where(np.arange(len(x))[:, None] < len(x) // 2, x, -1.0),
    "band-limited at zero": lambda x, rng: np.where(np.arange(len(x))[:, None] < len(x) // 2, x, 0.0),
    "band-limited and half silent": lambda x, rng: np.where(
        np.maximum(*_grid(len(x))) <= (len(x) + 1) // 2, x, -1.0
    ),
}  # fmt: skip

COMPLEX: dict[str, Callable[[int, Random], Matrix]] = {
    "complex gauss": _complex,
    "complex gauss times 1e150": lambda n, rng: 1e150 * _complex(n, rng),
    "complex gauss times 1e-150": lambda n, rng: 1e-150 * _complex(n, rng),
    "complex triangular": lambda n, rng: np.triu(_complex(n, rng)),
    "complex companion": lambda n, rng: scipy.linalg.companion(np.r_[1, _complex(n, rng)[0]]),
    "complex Toeplitz": lambda n, rng: scipy.linalg.toeplitz(_complex(n, rng)[0], _complex(n, rng)[0]),
    "complex circulant": lambda n, rng: scipy.linalg.circulant(_complex(n, rng)[0]),
    "complex symmetric": lambda n, rng: (x := _complex(n, rng)) + x.T,
    "complex rank one": lambda n, rng: np.outer(_complex(n, rng)[0], _complex(n, rng)[0]),
    "complex Jordan": lambda n, rng: (1 + 2j) * np.eye(n) + np.eye(n, k=1),
    "rotated complex Jordan": lambda n, rng: (
        (u := _unitary(n, rng)) @ ((1 + 2j) * np.eye(n) + np.eye(n, k=1)) @ u.conj().T
    ),
    "Smoke": lambda n, rng: np.diag(np.exp(2j * np.pi * np.arange(1, n + 1) / n)) + np.eye(n, k=1) + np.eye(n, k=1 - n),
    "Hermitian": lambda n, rng: (x := _complex(n, rng)) + x.conj().T,
    "skew-Hermitian": lambda n, rng: (x := _complex(n, rng)) - x.conj().T,
    "near-Hermitian": lambda n, rng: (x := _complex(n, rng)) + x.conj().T + 1e-8 * _complex(n, rng),
    "unitary": _unitary,
    "Fourier": lambda n, rng: scipy.linalg.dft(n, scale="sqrtn"),
    "imaginary": lambda n, rng: 1j * _gauss(n, rng),
    "real, as complex": lambda n, rng: _gauss(n, rng).astype(complex),
    "sparse complex": lambda n, rng: _complex(n, rng) * (rng.uniform(size=(n, n)) < 0.2),
}

KINDS = [*REAL, *SPECTROGRAMS, *COMPLEX]

# Of these Δ² is ill-posed in float64: their defective eigenvalues move by ε^(1/k) where the elements move by ε.
ILL_POSED = {"rotated Jordan", "rotated nilpotent", "rotated complex Jordan"}
ILL_POSED_FROM_33 = {"Frank", "Redheffer", "companion of Wilkinson's"}
ILL_POSED_FROM_64 = {"Grcar", "Clement", "Smoke"}
# At these it has a kink, no derivative, or so steep a one that it is clipped or no difference quotient shows it: zeros
# or other eigenvalues are defective, or nearly so.
STEEP = ILL_POSED | ILL_POSED_FROM_33 | {
    "Jordan", "Jordan of 2", "complex Jordan", "defective pairs", "defective pairs beside Jordan", "Forsythe",
    "strictly upper triangular", "upper triangular", "triangle of minus ones", "Kahan", "Pascal", "Lotkin", "Hilbert",
    "Cauchy", "magnitudes from 1e-8 to 1e8", "rows from 1 to 1e-12", "signs", "bits", "sparse", "sparse complex",
    "one pixel", "ramp over time", "stripes", "spectrogram of 8 bits", "spectrogram, saturated", "half silent",
    "half silent at zero", "band-limited at zero", "band-limited and half silent",
}  # fmt: skip
# Eigenvalues a ± bi with b below 1e-7 of the norm count as real in the gradient, which here are those of the noise.
FAR_FROM_ZERO = {"gauss plus 1e6 times one"}
