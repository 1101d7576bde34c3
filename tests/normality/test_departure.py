"""Exact Δ² and its gradient against the complex Schur form, SciPy's left eigenvectors and difference quotients."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_matrices import (
    COMPLEX,
    FAR_FROM_ZERO,
    ILL_POSED,
    ILL_POSED_FROM_33,
    ILL_POSED_FROM_64,
    KINDS,
    REAL,
    ROTATION,
    SPECTROGRAMS,
    STEEP,
    Matrix,
    eigenvector_gradient,
    matrix,
    schur_departure,
    spectrograms,
    value_and_gradient,
)

import schurgan.normality
from schurgan.normality import departure_counters, departure_from_normality, reset_departure_counters

RNG = np.random.default_rng
WELL_POSED = [kind for kind in KINDS if kind not in ILL_POSED]


def unit(x: Matrix) -> Matrix:
    """x over its largest element: squares of 1e150 leave float64."""
    return x / (np.abs(x).max() or 1.0)


def error(x: Matrix) -> float:
    """|Δ² − that of the Schur form| / ‖x‖²."""
    size = np.abs(x).max() or 1.0
    value = departure_from_normality(torch.from_numpy(x)).item() / size / size
    return abs(value - schur_departure(x / size)) / (np.linalg.norm(x / size) ** 2 or 1.0)


def sensitivity(x: Matrix) -> float:
    """How far the Schur form's Δ² / ‖x‖² moves with the rounding of the elements, at most of 4 times."""
    y, rng = unit(x), RNG(0)
    moved = [schur_departure(y * (1 + 1e-15 * rng.standard_normal(y.shape))) for _ in range(4)]
    return max(abs(value - schur_departure(y)) for value in moved) / np.linalg.norm(y) ** 2


@pytest.mark.parametrize("kind", WELL_POSED)
def test_departure_is_the_norm_above_the_diagonal_of_the_complex_schur_form(kind):
    sizes = (1, 2, 3, 4, 7, 16) if kind in ILL_POSED_FROM_33 else (1, 2, 3, 4, 7, 16, 33, 48)
    # 1e4 units in the last place, for the condition of the eigenvalues; all but a handful are below 1e-14
    assert max(error(matrix(kind, n, n)) for n in sizes) <= 1e-11


@pytest.mark.parametrize("kind", ["gauss", "Toeplitz", "rank of a third", "spectrogram", "band-limited"])
@pytest.mark.parametrize("n", [128, 256])
def test_departure_of_large_matrices_is_that_of_the_complex_schur_form(kind, n):
    assert error(matrix(kind, n)) <= 1e-11


@pytest.mark.slow
@pytest.mark.parametrize("n", [64, 97, 192])
def test_departure_is_that_of_the_complex_schur_form_for_all_kinds_and_large_sizes(n):
    ill_posed = ILL_POSED | ILL_POSED_FROM_33 | ILL_POSED_FROM_64
    errors = {kind: error(matrix(kind, n, n)) for kind in KINDS if kind not in ill_posed}
    assert max(errors.values()) <= 1e-11, max(errors, key=errors.__getitem__)
    for kind in sorted(ill_posed):
        assert error(matrix(kind, n, n)) <= 1e-11 + 20 * sensitivity(matrix(kind, n, n)), kind


@pytest.mark.parametrize("kind", sorted(ILL_POSED | ILL_POSED_FROM_33))
def test_departure_of_ill_posed_matrices_is_as_near_the_schur_forms_as_that_is_to_itself_after_rounding(kind):
    for n in (3, 8, 33, 48):
        x = matrix(kind, n, n)
        assert error(x) <= 1e-11 + 20 * sensitivity(x)


@pytest.mark.parametrize("kind", ["near-symmetric, 1e-6", "near-symmetric, 1e-12", "gauss", "near-constant"])
def test_departure_is_relatively_right_however_small_beside_the_norm(kind):
    mpmath = pytest.importorskip("mpmath")
    x = matrix(kind, 6, 2)
    with mpmath.workdps(60):
        values = mpmath.eig(mpmath.matrix(x.tolist()), left=False, right=False)
        truth = float(sum(mpmath.mpf(e) ** 2 for e in x.ravel().tolist()) - sum(abs(v) ** 2 for v in values))
    # ‖x‖² − Σ|λ|² in float64 has no digit of 1e-24·‖x‖²
    assert departure_from_normality(torch.from_numpy(x)).item() == pytest.approx(truth, rel=1e-9)


families = st.sampled_from([kind for kind in WELL_POSED if kind not in ILL_POSED_FROM_33 and "1e" not in kind])
matrices = st.builds(matrix, families, st.integers(1, 24), st.integers(0, 10**6))


without_steep = st.builds(
    matrix, families.filter(lambda kind: kind not in STEEP), st.integers(1, 24), st.integers(0, 10**6)
)


@settings(max_examples=100, deadline=None)
@given(without_steep)
def test_departure_ignores_transposition_reversal_of_both_axes_and_conjugation(x):
    value = departure_from_normality(torch.from_numpy(x))
    others = np.stack([x.T, x[::-1, ::-1], x.conj()])
    assert (departure_from_normality(torch.from_numpy(others)) - value).abs().max() <= 1e-11 * np.linalg.norm(x) ** 2


@settings(max_examples=100, deadline=None)
@given(without_steep, st.integers(0, 10**6))
def test_departure_ignores_rotation_of_the_basis_and_multiples_of_the_identity(x, seed):
    rotation, _ = np.linalg.qr(RNG(seed).standard_normal(x.shape))
    others = np.stack([rotation @ x @ rotation.T, x + 3 * np.eye(len(x))])
    value = departure_from_normality(torch.from_numpy(x))
    tolerance = 1e-10 * (np.linalg.norm(x) ** 2 + 9 * len(x))  # rounding of the rotation itself comes on top
    assert (departure_from_normality(torch.from_numpy(others)) - value).abs().max() <= tolerance


@settings(max_examples=100, deadline=None)
@given(matrices)
def test_departure_lies_between_zero_and_half_the_squared_asymmetry(x):
    value = departure_from_normality(torch.from_numpy(x)).item()
    assert 0 <= value <= 0.5 * np.linalg.norm(x - x.conj().T) ** 2 * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(matrices, st.integers(-400, 400))
def test_departure_scales_with_the_square_and_its_gradient_with_the_first_power(x, exponent):
    scale = 2.0**exponent  # rounds nothing, so that no bit may differ
    value, gradient = value_and_gradient(x)
    scaled_value, scaled_gradient = value_and_gradient(x * scale)
    torch.testing.assert_close(scaled_value / scale / scale, value, rtol=0, atol=0)
    torch.testing.assert_close(scaled_gradient / scale, gradient, rtol=0, atol=1e-180)  # where those are denormal


@pytest.mark.parametrize(
    "kind",
    ["symmetric", "skew", "skew plus one", "orthogonal", "circulant", "reflection", "permutation", "cyclic shift",
     "Hankel", "Hilbert", "diagonal", "constant", "Hermitian", "skew-Hermitian", "unitary", "complex circulant"],
)  # fmt: skip
def test_departure_of_a_normal_matrix_is_zero_and_so_is_its_gradient(kind):
    x = matrix(kind, 24, 1)
    value, gradient = value_and_gradient(x)
    assert value <= 1e-12 * np.linalg.norm(x) ** 2
    assert gradient.norm() <= 1e-6 * np.linalg.norm(x)  # its minimum, a stationary point: √1e-12


def test_departure_of_a_rank_one_matrix_has_its_closed_form():
    u, v = RNG(2).standard_normal((2, 30))
    expected = (u @ u) * (v @ v) - (u @ v) ** 2
    assert departure_from_normality(torch.from_numpy(np.outer(u, v))).item() == pytest.approx(expected, rel=1e-12)


def test_departure_of_gaussian_matrices_is_half_the_number_of_elements_on_average():
    x = torch.from_numpy(RNG(3).standard_normal((64, 32, 32)))
    assert departure_from_normality(x).mean().item() == pytest.approx(32 * 32 / 2, rel=0.03)  # n²/2 + O(n), 64 samples


@pytest.mark.parametrize("kind", ["gauss", "spectrogram", "complex gauss"])
def test_gradient_passes_gradcheck_in_float64(kind):
    x = torch.from_numpy(np.stack([matrix(kind, 7, seed) for seed in (0, 4)])).requires_grad_()
    assert torch.autograd.gradcheck(departure_from_normality, x)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in STEEP | FAR_FROM_ZERO])
def test_gradient_is_the_directional_derivative_where_there_is_one(kind):
    for n in (1, 2, 4, 6, 12):
        x = unit(matrix(kind, n, n))
        size = np.linalg.norm(x) or 1.0
        _, gradient = value_and_gradient(x)
        for seed in range(2):
            rng = RNG(100 + seed)
            direction = rng.standard_normal(x.shape) + (1j * rng.standard_normal(x.shape) if kind in COMPLEX else 0)
            direction /= np.linalg.norm(direction)
            step = 2e-5 * size  # 2e-5⁴ and ε/2e-5 of the norm are both below 1e-10
            f = [schur_departure(x + k * step * direction) for k in (-2, -1, 1, 2)]
            slope = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step)
            assert abs((gradient.numpy().conj() * direction).sum().real - slope) <= 1e-7 * 2 * size


@settings(max_examples=100, deadline=None)
@given(st.builds(matrix, st.sampled_from(["gauss", "gauss plus 50", "Toeplitz", "Hessenberg", "uniform", "spectrogram",
                                          "half silent", "band-limited", "complex gauss", "complex symmetric"]),
                 st.integers(1, 32), st.integers(0, 10**6)))  # fmt: skip
def test_gradient_satisfies_eulers_identity_ignores_the_identity_and_transposes_with_x(x):
    reset_departure_counters()
    value, gradient = value_and_gradient(x)
    _, transposed = value_and_gradient(x.T.copy())
    if departure_counters()["clipped"]:  # as one of 1e4 small ones is, near a double eigenvalue
        return
    tolerance = 1e-6 * np.linalg.norm(x) ** 2  # left eigenvectors of condition 1e9 leave 7 digits
    assert abs((gradient.numpy().conj() * x).sum().real - 2 * value) <= tolerance
    assert abs(gradient.trace()) <= tolerance
    assert (transposed - gradient.mT).norm() <= 1e-6 * np.linalg.norm(x)


def test_gradient_on_silent_and_band_limited_spectrograms_is_that_of_lapacks_left_eigenvectors():
    x = spectrograms(40, 32)
    expected = torch.from_numpy(np.stack([eigenvector_gradient(each) for each in x]))
    _, gradient = value_and_gradient(x)
    relative = (gradient - expected).flatten(1).norm(dim=1) / (2 * torch.from_numpy(x).flatten(1).norm(dim=1))
    assert relative.max() <= 1e-6  # measured 6e-8 at worst; autograd through eigvals is wrong by 0.2 to 8e4 here


def test_gradient_that_is_too_long_is_clipped_and_counted():
    reset_departure_counters()
    x = np.eye(6, k=1)
    x[-1, 0] = 1e-6  # eigenvalues 0.1·exp(2πik/6), which move by 2e4 times what this element does
    _, gradient = value_and_gradient(x)
    assert gradient.norm().item() == pytest.approx(16 * np.linalg.norm(x))
    assert departure_counters()["clipped"] == 1


def test_gradient_beside_a_defective_real_eigenvalue_comes_from_left_eigenvectors_solved_for():
    reset_departure_counters()
    x = scipy.linalg.block_diag(np.eye(8, k=1), ROTATION, 3 * ROTATION.T)  # its eigenvectors cannot be inverted
    value, gradient = value_and_gradient(x)
    assert value.item() == pytest.approx(7)  # the ones of the Jordan block
    assert departure_counters()["matched"] == 1
    np.testing.assert_allclose(gradient.numpy(), eigenvector_gradient(x), atol=1e-10)


def test_float32_spectrograms_keep_six_digits_of_value_and_gradient():
    x = spectrograms(16, 48).astype(np.float32)
    value, gradient = value_and_gradient(x)
    value64, gradient64 = value_and_gradient(x.astype(np.float64))
    assert value.dtype == gradient.dtype == torch.float32
    truth = torch.tensor([schur_departure(each) for each in x.astype(np.float64)], dtype=torch.float64)
    torch.testing.assert_close(value.double(), truth, rtol=1e-6, atol=1e-6)  # the rounding of the result
    torch.testing.assert_close(value.double(), value64, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), gradient64, rtol=1e-5, atol=1e-5)


def test_complex_matrix_without_imaginary_part_has_the_value_and_gradient_of_the_real_one():
    x = RNG(5).standard_normal((3, 9, 9))
    value, gradient = value_and_gradient(x)
    as_complex, slope = value_and_gradient(x.astype(complex))
    torch.testing.assert_close(as_complex, value, rtol=1e-12, atol=0)
    torch.testing.assert_close(slope.real, gradient, rtol=1e-9, atol=1e-9)
    assert slope.imag.abs().max() <= 1e-9


def test_no_eigenvectors_are_computed_when_no_gradient_is_needed(monkeypatch):
    x = torch.from_numpy(RNG(7).standard_normal((4, 4))).requires_grad_()
    expected = departure_from_normality(x).item()

    def refuse(*_):
        raise AssertionError("eigenvectors were asked for")

    monkeypatch.setattr(torch.linalg, "eig", refuse)
    with torch.no_grad():
        assert departure_from_normality(x).item() == pytest.approx(expected, rel=1e-13)
    assert departure_from_normality(x.detach()).item() == pytest.approx(expected, rel=1e-13)


def test_sixty_kinds_of_matrix_and_more_are_compared():
    assert len(KINDS) == len(set(KINDS)) == len(REAL) + len(SPECTROGRAMS) + len(COMPLEX)
    assert len(WELL_POSED) >= 100


def test_folder_works_copied_into_a_project_that_has_torch_alone(tmp_path: Path):
    source = Path(schurgan.normality.__file__).parent
    shutil.copytree(source, tmp_path / "normality", ignore=shutil.ignore_patterns("__pycache__"))
    program = """
import sys
for absent in ("schurgan", "numpy", "scipy"):
    sys.modules[absent] = None
import torch
from normality import DDFN, departure_bounds, departure_from_normality
x = torch.tensor([[0.0, 3.0], [0.0, 0.0]])
print(departure_from_normality(x).item(), [round(bound.item(), 3) for bound in departure_bounds(x)])
constraint = DDFN()
constraint.fit_real([torch.linspace(-1, 1, 64).reshape(4, 4, 4)])
print(constraint(torch.zeros(2, 4, 4, requires_grad=True))[0].requires_grad)
"""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split("\n")[:2] == ["9.0 [9.0, 9.0]", "True"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["exact", "hybrid", "perron", "asymmetry", "moments", "paper_symmetric"])
def test_value_and_gradient_on_a_gpu_are_those_of_the_cpu(method):
    x = torch.from_numpy((spectrograms(6, 32) + 1) / 2).float()
    x[2, 0, 0] = float("nan")
    value, gradient = value_and_gradient(x, method)
    reset_departure_counters()
    there, slopes = value_and_gradient(x.cuda(), method)
    assert there.is_cuda
    assert slopes.is_cuda
    assert departure_counters()["nonfinite"] == 1
    torch.testing.assert_close(there.cpu(), value, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slopes.cpu(), gradient, rtol=1e-4, atol=1e-4)
