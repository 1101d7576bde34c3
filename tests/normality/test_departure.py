"""Δ² and its gradient against the complex Schur form, SciPy's left eigenvectors and finite differences."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import schurgan.normality
from schurgan.normality import departure_counters, departure_from_normality, reset_departure_counters

RNG = np.random.default_rng


def schur_departure(x: np.ndarray) -> float:
    """The norm above the diagonal of the complex Schur form: no cancellation, unlike ‖x‖² − Σ|λ|²."""
    triangle, _ = scipy.linalg.schur(x, output="complex")
    return float(np.square(np.abs(np.triu(triangle, 1))).sum())


def eigenvector_gradient(x: np.ndarray) -> np.ndarray:
    """2(x − xᵀ) − 4 Re Σ −i Im(λ) y vᵀ/(yᵀv) with LAPACK's own left vectors, numerically real eigenvalues left out."""
    values, left, right = scipy.linalg.eig(x, left=True, right=True)
    left = left.conj()
    imag = np.where(np.abs(values.imag) > 1e-7 * np.linalg.norm(x), values.imag, 0)
    weights = np.divide(-1j * imag, (left * right).sum(0), out=np.zeros(len(x), complex), where=imag != 0)
    return 2 * (x - x.T) - 4 * ((left * weights) @ right.T).real


def value_and_gradient(x: np.ndarray | torch.Tensor, method: str = "exact") -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.as_tensor(x).clone().requires_grad_()
    value = departure_from_normality(x, method)
    value.sum().backward()
    assert x.grad is not None
    return value.detach(), x.grad


def spectrogram(n: int, seed: int) -> np.ndarray:
    """Log spectrogram in [−1, 1] of a few gliding harmonic sounds over noise; most partly silent or band-limited."""
    rng = RNG(seed)
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


def spectrograms(count: int, n: int) -> np.ndarray:
    return np.stack([spectrogram(n, seed) for seed in range(count)])


def family(name: str, n: int, seed: int) -> np.ndarray:
    rng = RNG(seed)
    x = rng.standard_normal((n, n))
    return {
        "gauss": lambda: x,
        "nearly symmetric": lambda: x + x.T + 1e-6 * rng.standard_normal((n, n)),
        "low rank": lambda: x[:, : n // 3 + 1] @ rng.standard_normal((n // 3 + 1, n)),
        "sparse": lambda: x * (rng.uniform(size=(n, n)) < 0.5),
        "shifted": lambda: x + 50,
        "spectrogram": lambda: spectrogram(n, seed),
    }[name]()


FAMILIES = ["gauss", "nearly symmetric", "low rank", "sparse", "shifted", "spectrogram"]
matrices = st.builds(family, st.sampled_from(FAMILIES), st.integers(3, 32), st.integers(0, 10**6))


@settings(max_examples=60, deadline=None)
@given(matrices)
def test_departure_is_the_norm_above_the_diagonal_of_the_complex_schur_form(x):
    value = departure_from_normality(torch.from_numpy(x)).item()
    # 100 times the jitter of 1e-14, for the condition of the eigenvalues
    assert abs(value - schur_departure(x)) <= 1e-11 * np.square(x).sum()


@settings(max_examples=40, deadline=None)
@given(matrices, st.integers(0, 10**6))
def test_departure_ignores_transposition_rotation_of_the_basis_and_multiples_of_the_identity(x, seed):
    rotation, _ = np.linalg.qr(RNG(seed).standard_normal(x.shape))
    others = np.stack([x.T, x[::-1, ::-1], rotation @ x @ rotation.T, x + 3 * np.eye(len(x))])
    value = departure_from_normality(torch.from_numpy(x))
    tolerance = 1e-10 * (np.square(x).sum() + 9 * len(x))  # rounding of the rotation itself on top of the jitter
    assert (departure_from_normality(torch.from_numpy(others)) - value).abs().max() <= tolerance


@settings(max_examples=40, deadline=None)
@given(matrices)
def test_departure_lies_between_zero_and_half_the_squared_asymmetry(x):
    value = departure_from_normality(torch.from_numpy(x)).item()
    assert 0 <= value <= 0.5 * np.square(x - x.T).sum() * (1 + 1e-12)


@pytest.mark.parametrize("method", ["exact", "hybrid"])
@pytest.mark.parametrize("scale", [1e150, 1e-150, 3.0])
def test_departure_scales_with_the_square_and_its_gradient_with_the_first_power(method, scale):
    x = spectrograms(4, 16)
    value, gradient = value_and_gradient(x, method)
    scaled_value, scaled_gradient = value_and_gradient(x * scale, method)
    torch.testing.assert_close(scaled_value / scale / scale, value, rtol=1e-11, atol=0)
    torch.testing.assert_close(scaled_gradient / scale, gradient, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", ["symmetric", "skew", "orthogonal", "circulant"])
def test_departure_of_a_normal_matrix_is_zero(kind):
    x = RNG(1).standard_normal((24, 24))
    normal = {
        "symmetric": x + x.T,
        "skew": x - x.T,
        "orthogonal": np.linalg.qr(x)[0],
        "circulant": scipy.linalg.circulant(x[0]),
    }[kind]
    value, gradient = value_and_gradient(normal)
    assert value <= 1e-12 * np.square(normal).sum()
    assert gradient.norm() <= 1e-7 * np.linalg.norm(normal)  # its minimum, a stationary point


def test_departure_of_a_rank_one_matrix_has_its_closed_form():
    u, v = RNG(2).standard_normal((2, 30))
    expected = (u @ u) * (v @ v) - (u @ v) ** 2
    assert departure_from_normality(torch.from_numpy(np.outer(u, v))).item() == pytest.approx(expected, rel=1e-12)


def test_departure_of_gaussian_matrices_is_half_the_number_of_elements_on_average():
    x = torch.from_numpy(RNG(3).standard_normal((64, 32, 32)))
    assert departure_from_normality(x).mean().item() == pytest.approx(32 * 32 / 2, rel=0.03)  # n²/2 + O(n), 64 samples


@pytest.mark.parametrize(("method", "n"), [("exact", 7), ("hybrid", 8)])
def test_gradient_passes_gradcheck_in_float64(method, n):
    x = torch.from_numpy(RNG(4).standard_normal((2, n, n))).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: departure_from_normality(x, method), x)


@settings(max_examples=40, deadline=None)
@given(
    st.builds(family, st.sampled_from(["gauss", "shifted", "spectrogram"]), st.integers(4, 32), st.integers(0, 10**6))
)
def test_gradient_satisfies_eulers_identity_ignores_the_identity_and_transposes_with_x(x):
    value, gradient = value_and_gradient(x)
    _, transposed = value_and_gradient(x.T.copy())
    tolerance = 1e-6 * np.square(x).sum()  # left eigenvectors of condition 1e9 leave 7 digits
    assert abs((gradient * torch.from_numpy(x)).sum() - 2 * value) <= tolerance
    assert abs(gradient.trace()) <= tolerance
    assert (transposed - gradient.mT).norm() <= 1e-6 * np.linalg.norm(x)


def test_gradient_on_silent_and_band_limited_spectrograms_is_that_of_lapacks_left_eigenvectors():
    x = spectrograms(40, 32)
    expected = torch.from_numpy(np.stack([eigenvector_gradient(each) for each in x]))
    _, gradient = value_and_gradient(x)
    error = (gradient - expected).flatten(1).norm(dim=1) / (2 * torch.from_numpy(x).flatten(1).norm(dim=1))
    assert error.max() <= 1e-6  # measured 6e-8 at worst; autograd through eigvals is wrong by 0.2 to 8e4 here


def degenerate(name: str) -> np.ndarray:
    rng = RNG(5)
    n = 16
    noise = rng.standard_normal((n, n))
    rotation = np.array([[1.0, 2.0], [-2.0, 1.0]])
    blank_band, blank_frames = spectrogram(n, 0), spectrogram(n, 4)
    blank_band[10:] = -1
    blank_frames[:, 9:] = -1
    quarter = np.zeros((n, n))
    quarter[:8, :8] = noise[:8, :8]
    return {
        "zero": np.zeros((n, n)),
        "identity": np.eye(n),
        "constant": np.full((n, n), 0.7),
        "silent": np.full((n, n), -1.0),
        "symmetric": noise + noise.T,
        "skew": noise - noise.T,
        "rank one": np.outer(noise[0], noise[1]),
        "blank band": blank_band,
        "blank frames": blank_frames,
        "blank band at zero": np.where(np.arange(n)[:, None] < 10, noise, 0.0),
        "three quarters zero": quarter,
        "one by one": np.array([[3.0]]),
        "Jordan": np.eye(n, k=1),
        "complex Jordan": np.kron(np.eye(n // 2), rotation) + np.eye(n, k=2),
        "Jordan beside a rotation": scipy.linalg.block_diag(np.eye(8, k=1), rotation, 3 * rotation.T),
        "nearly defective pair": np.kron(np.diag([1.0, 1 + 1e-9]), rotation) + 5 * np.eye(4, k=2),
    }[name]


SMOOTH = [
    "zero", "identity", "constant", "silent", "symmetric", "skew", "rank one", "blank band", "blank frames",
    "blank band at zero", "three quarters zero", "one by one",
]  # fmt: skip
SINGULAR = ["Jordan", "complex Jordan", "Jordan beside a rotation", "nearly defective pair"]


@pytest.mark.parametrize("name", SMOOTH)
def test_gradient_at_a_degenerate_but_smooth_point_is_the_directional_derivative(name):
    x = degenerate(name)
    size = max(np.linalg.norm(x), 1.0)
    _, gradient = value_and_gradient(x)
    for seed in range(4):
        direction = RNG(seed).standard_normal(x.shape)
        direction /= np.linalg.norm(direction)
        step = 1e-5 * size
        slope = (schur_departure(x + step * direction) - schur_departure(x - step * direction)) / (2 * step)
        assert abs((gradient.numpy() * direction).sum() - slope) <= 1e-6 * 2 * size


@pytest.mark.parametrize("method", ["exact", "hybrid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SMOOTH[:-1] + SINGULAR)
def test_gradient_of_a_degenerate_matrix_is_finite_and_at_most_eight_times_twice_its_norm(name, dtype, method):
    x = torch.from_numpy(degenerate(name)).to(dtype)
    value, gradient = value_and_gradient(x, method)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient.norm() <= 8 * 2 * x.norm() * (1 + 1e-6)


def test_gradient_that_is_too_long_is_clipped_and_counted():
    reset_departure_counters()
    x = np.eye(6, k=1)
    x[-1, 0] = 1e-6  # eigenvalues 0.1·exp(2πik/6), which move by 2e4 times what this element does
    _, gradient = value_and_gradient(x)
    assert gradient.norm().item() == pytest.approx(16 * np.linalg.norm(x))
    assert departure_counters()["clipped"] == 1


def test_gradient_beside_a_defective_real_eigenvalue_comes_from_left_eigenvectors_solved_for():
    reset_departure_counters()
    x = degenerate("Jordan beside a rotation")  # its eigenvectors cannot be inverted
    value, gradient = value_and_gradient(x)
    assert value.item() == pytest.approx(7)  # the ones of the Jordan block
    assert departure_counters()["matched"] == 1
    np.testing.assert_allclose(gradient.numpy(), eigenvector_gradient(x), atol=1e-10)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("method", ["exact", "hybrid"])
def test_nonfinite_matrix_counts_as_zero_with_no_gradient_and_leaves_its_neighbours_alone(bad, method):
    x = torch.from_numpy(spectrograms(3, 16)).float()
    expected, slopes = value_and_gradient(x, method)
    x[1, 2, 3] = bad
    reset_departure_counters()
    value, gradient = value_and_gradient(x, method)
    assert departure_counters()["nonfinite"] == 1
    assert value[1] == 0
    assert torch.equal(gradient[1], torch.zeros_like(gradient[1]))
    assert torch.equal(value[::2], expected[::2])
    assert torch.equal(gradient[::2], slopes[::2])


def test_float32_spectrograms_keep_six_digits_of_value_and_gradient():
    x = spectrograms(16, 48).astype(np.float32)
    value, gradient = value_and_gradient(x)
    value64, gradient64 = value_and_gradient(x.astype(np.float64))
    assert value.dtype == gradient.dtype == torch.float32
    truth = torch.tensor([schur_departure(each) for each in x.astype(np.float64)], dtype=torch.float64)
    torch.testing.assert_close(value.double(), truth, rtol=1e-6, atol=1e-6)  # the rounding of the result
    torch.testing.assert_close(value.double(), value64, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), gradient64, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_give_float32_values_and_gradients_of_their_own_type(dtype):
    x = torch.from_numpy(spectrograms(3, 16)).to(dtype)
    value, gradient = value_and_gradient(x)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert torch.equal(value, departure_from_normality(x.float()))


def test_autocast_changes_no_bit():
    x = torch.from_numpy(spectrograms(3, 16)).float()
    expected, slopes = value_and_gradient(x)
    with torch.autocast("cpu", torch.bfloat16):
        value, gradient = value_and_gradient(x)
    assert torch.equal(value, expected)
    assert torch.equal(gradient, slopes)


def test_values_and_gradients_have_the_same_bits_for_any_number_of_threads_and_any_cut_of_the_batch():
    x = torch.from_numpy(spectrograms(12, 64))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        value, gradient = value_and_gradient(x)
        torch.set_num_threads(3)
        parallel, slopes = value_and_gradient(x)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    alone, slope = value_and_gradient(x[5])
    assert torch.equal(value, parallel)
    assert torch.equal(gradient, slopes)
    assert torch.equal(value[5], alone)
    assert torch.equal(gradient[5], slope)


def test_leading_dimensions_are_kept_from_none_to_three_and_when_empty():
    x = torch.from_numpy(RNG(6).standard_normal((2, 1, 3, 4, 4)))
    assert departure_from_normality(x).shape == (2, 1, 3)
    assert departure_from_normality(x[0, 0, 0]).shape == ()
    assert departure_from_normality(x[:0], "hybrid").shape == (0, 1, 3)
    assert value_and_gradient(x[:0])[1].shape == x[:0].shape


def test_no_eigenvectors_are_computed_when_no_gradient_is_needed(monkeypatch):
    x = torch.from_numpy(RNG(7).standard_normal((4, 4))).requires_grad_()
    expected = departure_from_normality(x).item()

    def refuse(*_):
        raise AssertionError("eigenvectors were asked for")

    monkeypatch.setattr(torch.linalg, "eig", refuse)
    with torch.no_grad():
        assert departure_from_normality(x).item() == pytest.approx(expected, rel=1e-13)
    assert departure_from_normality(x.detach()).item() == pytest.approx(expected, rel=1e-13)


def failing(solver, fails):
    """`solver`, raising as LAPACK does for input of which `fails` is true."""

    def solve(x):
        if fails(x):
            raise torch.linalg.LinAlgError("the algorithm failed to converge")
        return solver(x)

    return solve


def test_matrix_that_fails_in_a_batch_is_retried_alone_with_growing_jitter(monkeypatch):
    x = spectrograms(3, 16)
    expected, slopes = value_and_gradient(x)
    attempts = []

    def fails(x):
        attempts.append(x.ndim)
        return len(attempts) in (1, 3)  # the batch, and of the three alone the second, once

    monkeypatch.setattr(torch.linalg, "eig", failing(torch.linalg.eig, fails))
    reset_departure_counters()
    value, gradient = value_and_gradient(x)
    assert attempts == [3, 2, 2, 2, 2]
    assert departure_counters() == {"jittered": 1, "matched": 0, "fallback": 0, "clipped": 0, "nonfinite": 0}
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)  # 100 times the jitter of 1e-12
    torch.testing.assert_close(gradient, slopes, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("with_gradient", [True, False])
def test_matrix_without_eigenvalues_falls_back_to_the_asymmetry_and_its_gradient(monkeypatch, with_gradient):
    name = "eig" if with_gradient else "eigvals"
    monkeypatch.setattr(torch.linalg, name, failing(getattr(torch.linalg, name), lambda _: True))
    reset_departure_counters()
    x = torch.from_numpy(spectrograms(2, 16)).requires_grad_(with_gradient)
    value = departure_from_normality(x)
    bound = 0.5 * (x - x.mT).square().sum((-2, -1))
    torch.testing.assert_close(value, bound, rtol=1e-12, atol=0)
    assert departure_counters()["fallback"] == 2
    if with_gradient:
        value.sum().backward()
        torch.testing.assert_close(x.grad, 2 * (x - x.mT).detach(), rtol=1e-12, atol=1e-12)


def test_counters_start_at_zero_after_a_reset_and_a_plain_matrix_adds_nothing():
    value_and_gradient(np.full((2, 4, 4), np.nan))
    reset_departure_counters()
    value_and_gradient(RNG(8).standard_normal((2, 6, 6)))
    assert departure_counters() == dict.fromkeys(("jittered", "matched", "fallback", "clipped", "nonfinite"), 0)


def test_hybrid_ranks_spectrograms_as_exact_does_and_is_a_few_percent_off():
    x = torch.from_numpy(spectrograms(120, 64))
    exact, hybrid = departure_from_normality(x), departure_from_normality(x, "hybrid")
    assert scipy.stats.spearmanr(exact, hybrid).statistic >= 0.995
    assert ((hybrid - exact).abs() / exact.clamp(min=1e-6)).median() <= 0.05


def test_hybrid_without_pooling_is_exact():
    x = torch.from_numpy(spectrograms(4, 16))
    assert torch.equal(departure_from_normality(x, "hybrid", factor=1), departure_from_normality(x))


def test_hybrid_is_the_asymmetry_less_the_pooled_matrixs_imaginary_parts():
    x = RNG(9).standard_normal((12, 12)) + np.arange(12)
    pooled = x.reshape(4, 3, 4, 3).mean((1, 3))
    expected = 0.5 * np.square(x - x.T).sum() - 9 * 2 * np.square(np.linalg.eigvals(pooled).imag).sum()
    assert departure_from_normality(torch.from_numpy(x), "hybrid", factor=3).item() == pytest.approx(
        expected, rel=1e-11
    )


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(2, 3, 4), {}, r"\(2, 3, 4\)"),
        (torch.zeros(5), {}, r"\(5,\)"),
        (torch.zeros(2, 0, 0), {}, r"\(2, 0, 0\)"),
        (torch.zeros(3, 9, 9), {"method": "hybrid"}, r"\(3, 9, 9\).*divisible by 2"),
        (torch.zeros(4, 4), {"method": "exakt"}, '"exakt".*exact, hybrid'),
        (torch.zeros(4, 4), {"method": "hybrid", "factor": 0}, "factor is 0"),
        (torch.zeros(4, 4, dtype=torch.uint8), {}, "torch.uint8"),
        (torch.zeros(4, 4, dtype=torch.complex64), {}, "torch.complex64"),
    ],
)
def test_wrong_input_is_refused_with_what_was_given(x, options, message):
    with pytest.raises(ValueError, match=message):
        departure_from_normality(x, **options)


def test_folder_works_copied_into_a_project_that_has_torch_alone(tmp_path: Path):
    source = Path(schurgan.normality.__file__).parent
    shutil.copytree(source, tmp_path / "normality", ignore=shutil.ignore_patterns("__pycache__"))
    program = """
import sys
for absent in ("schurgan", "numpy", "scipy"):
    sys.modules[absent] = None
import torch
from normality import DDFN, departure_from_normality
print(departure_from_normality(torch.tensor([[0.0, 3.0], [0.0, 0.0]])).item())
constraint = DDFN()
constraint.fit_real([torch.linspace(-1, 1, 64).reshape(4, 4, 4)])
print(constraint(torch.zeros(2, 4, 4, requires_grad=True))[0].requires_grad)
"""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["9.0", "True"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["exact", "hybrid"])
def test_value_and_gradient_on_a_gpu_are_those_of_the_cpu(method):
    x = torch.from_numpy(spectrograms(6, 32)).float()
    x[2, 0, 0] = float("nan")
    value, gradient = value_and_gradient(x, method)
    reset_departure_counters()
    there, slopes = value_and_gradient(x.cuda(), method)
    assert there.is_cuda
    assert slopes.is_cuda
    assert departure_counters()["nonfinite"] == 1
    torch.testing.assert_close(there.cpu(), value, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(slopes.cpu(), gradient, rtol=1e-5, atol=1e-5)
