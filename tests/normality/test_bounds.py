"""Certified bounds: never violated, not by rounding either, and sharp where they are said to be."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_matrices import KINDS, REAL, ROTATION, matrix, schur_departure, spectrograms

from schurgan.normality import departure_bounds, departure_from_normality

RNG = np.random.default_rng
NORMAL = ["symmetric", "skew", "skew plus one", "orthogonal", "circulant", "reflection", "permutation", "unitary",
          "constant", "Hilbert", "Hermitian", "skew-Hermitian", "complex circulant", "zero", "identity"]  # fmt: skip
EPS = float(np.finfo(np.float64).eps)


def as_type(x: np.ndarray, single: bool) -> torch.Tensor:
    x = torch.from_numpy(x)
    return x.to(torch.complex64 if x.is_complex() else torch.float32) if single else x


def violations(names: list[str], sizes: tuple[int, ...], seeds: range, single: bool) -> tuple[list[object], int]:
    """Those outside their bounds by more than the rounding of the Schur form, and how many were tried."""
    outside, tried = [], 0
    for name, n, seed in product(names, sizes, seeds):
        x = as_type(matrix(name, n, 100 * n + seed), single)
        if not x.isfinite().all():
            continue
        size = x.abs().max().item() or 1.0
        exact = x.numpy().astype(complex if x.is_complex() else float) / size
        truth = schur_departure(exact)
        if size**2 > (1e38 if single else 1e308) or size**2 < (1e-37 if single else 1e-307):
            continue  # Δ² itself is out of range
        lower, upper = (bound.item() / size / size for bound in departure_bounds(x))
        rounding = 4 * n * EPS * np.linalg.norm(exact) ** 2
        tried += 1
        if not (0 <= lower <= truth + rounding and truth - rounding <= upper):
            outside.append((name, n, seed, lower, truth, upper))
    return outside, tried


@pytest.mark.parametrize("single", [False, True])
def test_bounds_hold_for_matrices_of_all_kinds(single):
    outside, tried = violations(KINDS, (1, 2, 3, 5, 8, 13), range(2), single)
    assert outside == []
    assert tried >= 1000


@pytest.mark.slow
@pytest.mark.parametrize("single", [False, True])
def test_bounds_hold_for_thousands_of_matrices_of_all_kinds(single):
    outside, tried = violations(KINDS, (2, 3, 4, 7, 16, 32), range(2, 10), single)
    assert outside == []
    assert tried >= 4500


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(NORMAL), st.integers(2, 16), st.integers(0, 10**6), st.floats(-17, 0), st.booleans())
def test_bounds_hold_near_normal_matrices_at_every_distance(kind, n, seed, exponent, single):
    x = matrix(kind, n, seed)
    x = as_type(x + 10**exponent * np.linalg.norm(x) * RNG(seed).standard_normal(x.shape), single)
    lower, upper = departure_bounds(x)
    exact = x.numpy().astype(complex if x.is_complex() else float)
    truth, rounding = schur_departure(exact), 4 * n * EPS * np.linalg.norm(exact) ** 2
    assert lower.item() <= truth + rounding
    assert truth - rounding <= upper.item()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["symmetric", "permutation", "circulant", "gauss", "rank one"]), st.integers(2, 6),
       st.integers(0, 10**6), st.integers(-16, 0))  # fmt: skip
def test_bounds_hold_to_the_last_bit_against_sixty_digits(kind, n, seed, exponent):
    mpmath = pytest.importorskip("mpmath")
    x = matrix(kind, n, seed)
    x = x + 10.0**exponent * RNG(seed).standard_normal(x.shape)
    with mpmath.workdps(60):
        values = mpmath.eig(mpmath.matrix(x.tolist()), left=False, right=False)
        truth = sum(mpmath.mpf(e) ** 2 for e in x.ravel().tolist()) - sum(abs(v) ** 2 for v in values)
    lower, upper = departure_bounds(torch.from_numpy(x))
    slack = 1e-50 * np.square(x).sum()  # of the sixty digits themselves
    assert lower.item() <= truth + slack
    assert truth - slack <= upper.item()


def test_bounds_of_integer_triangles_hold_to_the_last_bit():
    """Their Δ² is the sum of squares above the diagonal, which no rounding enters."""
    for seed in range(300):
        rng = RNG(seed)
        n = int(rng.integers(1, 12))
        x = np.triu(rng.integers(-9, 10, (n, n))).astype(float)
        truth = np.square(np.triu(x, 1)).sum()
        for dtype in (torch.float32, torch.float64):
            lower, upper = departure_bounds(torch.from_numpy(x).to(dtype))
            assert lower.item() <= truth <= upper.item()
            assert upper.item() <= truth + 1e-6 * np.square(x).sum() + 1e-300  # sharp: the eigenvalues are real


@pytest.mark.parametrize("kind", NORMAL)
def test_bounds_of_normal_matrices_are_zero_and_all_but_zero(kind):
    x = torch.from_numpy(matrix(kind, 12, 3))
    lower, upper = departure_bounds(x)
    assert lower == 0
    assert upper <= 1e-11 * x.abs().square().sum()  # Henrici's √(n³/12) = 12 times a thousand units in the last place


def test_upper_bound_is_sharp_where_the_eigenvalues_lie_on_a_line():
    coupling = np.triu(RNG(1).standard_normal((8, 8)), 2)
    upright = np.kron(np.eye(4), ROTATION)  # 1 ± 2i: off the real axis, where the asymmetry alone is not sharp
    upright[:, :] += np.kron(np.triu(np.ones((4, 4)), 1), np.ones((2, 2))) * coupling
    aslant = np.exp(0.7j) * np.triu(RNG(2).standard_normal((8, 8))) + (3 - 2j) * np.eye(8)
    for x in (upright, aslant):
        _, upper = departure_bounds(torch.from_numpy(x))
        truth = schur_departure(x)
        assert upper.item() == pytest.approx(truth, rel=1e-9)
        assert 0.5 * np.linalg.norm(x - x.conj().T) ** 2 > 1.2 * truth


def test_lower_bound_is_sharp_for_squares_of_zero_and_for_two_by_two():
    x = np.zeros((8, 8))
    x[:4, 4:] = RNG(3).standard_normal((4, 4))  # its square is 0
    lower, upper = departure_bounds(torch.from_numpy(x))
    assert lower.item() == pytest.approx(np.square(x).sum(), rel=1e-12)
    assert upper.item() == pytest.approx(np.square(x).sum(), rel=1e-12)
    for seed in range(20):
        x = RNG(seed).standard_normal((2, 2))
        lower, _ = departure_bounds(torch.from_numpy(x))
        assert lower.item() == pytest.approx(schur_departure(x), rel=1e-6, abs=1e-12)  # a root taken of rounding


def test_bounds_are_those_of_the_formulas():
    for seed in range(10):
        x = RNG(seed).standard_normal((9, 9)) + seed * np.eye(9)
        s = x - np.trace(x) / 9 * np.eye(9)
        commutator = np.linalg.norm(x.T @ x - x @ x.T)
        square = np.square(s).sum()
        kress = square - np.sqrt(square**2 - commutator**2 / 2)
        weyl = np.square(x).sum() - np.linalg.norm(x @ x, "nuc")
        asymmetry = 0.5 * np.square(x - x.T).sum()
        lee = square - abs(np.trace(s @ s))
        henrici = np.sqrt((9**3 - 9) / 12) * commutator
        lower, upper = departure_bounds(torch.from_numpy(x))
        assert lower.item() == pytest.approx(max(kress, weyl), rel=1e-10)
        assert upper.item() == pytest.approx(min(asymmetry, lee, henrici), rel=1e-10)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_upper_bound_of_a_nearly_normal_matrix_is_henricis(n):
    x = np.linalg.qr(RNG(n).standard_normal((n, n)))[0] + 1e-5 * RNG(n + 1).standard_normal((n, n))
    henrici = np.sqrt((n**3 - n) / 12) * np.linalg.norm(x.T @ x - x @ x.T)
    shifted = x - np.trace(x) / n * np.eye(n)
    others = 0.5 * np.square(x - x.T).sum(), np.square(shifted).sum() - abs(np.trace(shifted @ shifted))
    if henrici < min(others):  # of two by two with real eigenvalues the asymmetry is sharp
        assert departure_bounds(torch.from_numpy(x))[1].item() == pytest.approx(henrici, rel=1e-6)
    assert henrici < min(others) or n == 2


def test_bounds_of_spectrograms_enclose_the_departure_within_a_factor_of_three():
    x = torch.from_numpy(spectrograms(40, 32))
    lower, upper = departure_bounds(x)
    value = departure_from_normality(x)
    assert (lower <= value).all()
    assert (value <= upper).all()
    assert (lower >= value / 3).float().mean() >= 0.9  # the lower one is about half of Δ² on real spectrograms
    assert (upper <= 1.2 * value).float().mean() >= 0.9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_bounds_have_the_shape_of_the_batch_and_the_precision_of_the_input(dtype):
    x = torch.from_numpy(RNG(4).standard_normal((2, 1, 5, 5))).to(dtype)
    for bound in departure_bounds(x):
        assert bound.shape == (2, 1)
        assert bound.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert not bound.requires_grad
    assert departure_bounds(x[:0])[0].shape == (0, 1)


def test_bounds_of_spoilt_matrices_are_not_numbers_and_their_neighbours_unharmed():
    x = torch.from_numpy(spectrograms(3, 8))
    expected = departure_bounds(x)
    x[1, 0, 0] = torch.inf
    for bound, before in zip(departure_bounds(x), expected, strict=True):
        assert bound[1].isnan()
        assert torch.equal(bound[::2], before[::2])


def test_bounds_scale_with_the_square():
    x = torch.from_numpy(np.stack([matrix(kind, 6, 1) for kind in REAL if "1e" not in kind]))
    for bound, scaled in zip(departure_bounds(x), departure_bounds(x * 2.0**400), strict=True):
        torch.testing.assert_close(scaled / 2.0**800, bound, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3, 4), r"\(2, 3, 4\): square"),
        (torch.zeros(5), r"\(5,\): square"),
        (torch.zeros(2, 0, 0), r"\(2, 0, 0\): square"),
        (torch.zeros(2, 2, dtype=torch.int64), "torch.int64: floating point"),
    ],
)
def test_wrong_input_is_refused_with_what_was_given(x, message):
    with pytest.raises(ValueError, match=message):
        departure_bounds(x)
