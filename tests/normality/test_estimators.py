"""Every method of `departure_from_normality` against a formula of its own in NumPy, and its input and channels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_matrices import matrix, spectrograms, value_and_gradient

from schurgan.normality import departure_counters, departure_from_normality, reset_departure_counters
from schurgan.normality.estimators import METHODS

RNG = np.random.default_rng
CHEAP = [method for method in METHODS if method != "exact"]
HOMOGENEOUS = [method for method in METHODS if method != "paper_determinant"]


def unit_spectrograms(count: int, n: int) -> np.ndarray:
    return (spectrograms(count, n) + 1) / 2


def pooled(x: np.ndarray, f: int) -> np.ndarray:
    k = len(x) // f
    return x.reshape(k, f, k, f).mean((1, 3))


def symmetric(x: np.ndarray, f: int) -> np.ndarray:
    return (pooled(x, f) + pooled(x, f).T) / 2


def yamamoto(x: np.ndarray, k: int) -> float:
    singular = np.linalg.svd(np.linalg.matrix_power(x, k), compute_uv=False)
    return float(np.square(x).sum() - (singular ** (2 / k)).sum())


def by_definition(method: str, x: np.ndarray, f: int = 2) -> float:
    asymmetry = 0.5 * np.square(x - x.T).sum()
    if method == "asymmetry":
        return asymmetry
    if method == "exact":
        return asymmetry - 2 * np.square(np.linalg.eigvals(x).imag).sum()
    if method == "hybrid":
        return asymmetry - f**2 * 2 * np.square(np.linalg.eigvals(pooled(x, f)).imag).sum()
    if method == "perron":
        ones = np.ones(len(x))
        odd, even = (ones @ np.linalg.matrix_power(x, power) @ ones for power in (9, 8))
        return np.square(x).sum() - (odd / even if even else 0) ** 2
    if method == "moments":
        return 2 * yamamoto(x, 4) - yamamoto(x, 2)
    if method == "paper_symmetric":
        return np.square(x).sum() - f**2 * np.square(np.linalg.eigvalsh(symmetric(x, f))).sum()
    k = len(x) // f
    constant = k / 2 * math.log(2) + sum(math.lgamma(i / 2) for i in range(1, k + 1))
    return constant + np.linalg.slogdet(symmetric(x, f))[1]


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_value_is_that_of_the_methods_definition(method, factor):
    x = np.stack([RNG(seed).uniform(0, 1, (12, 12)) for seed in range(5)])
    expected = [by_definition(method, each, factor) for each in x]
    value = departure_from_normality(torch.from_numpy(x), method, factor=factor)
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-9)  # fourth roots of σ⁴ in the moments


@pytest.mark.parametrize("method", HOMOGENEOUS)
def test_value_on_spectrograms_in_unit_scaling_is_that_of_the_methods_definition(method):
    x = unit_spectrograms(6, 16)
    value = departure_from_normality(torch.from_numpy(x), method).numpy()
    expected = np.maximum([by_definition(method, each) for each in x], 0)
    # σ(x⁴) below ε of the largest have no digit, and their fourth root's square is ε^(1/2) of the norm
    tolerance = 1e-6 if method == "moments" else 1e-10
    assert (np.abs(value - expected) <= tolerance * np.square(x).sum((1, 2))).all()


@pytest.mark.parametrize(("constant", "logarithm"), [("gamma", 2054.03), ("minkowski", 182.99)])
def test_paper_determinants_constant_for_128_is_the_known_one(constant, logarithm):
    x = 2 * torch.kron(torch.eye(64, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)) - 1
    f = 2 * np.eye(64) - 1
    value = departure_from_normality(x, "paper_determinant", constant=constant).item()
    assert value - np.linalg.slogdet(f)[1] == pytest.approx(logarithm, abs=5e-3)


def test_paper_determinant_is_infinite_neither_on_silence_nor_where_the_determinant_vanishes():
    x = torch.stack([torch.zeros(16, 16), torch.full((16, 16), -1.0), torch.ones(16, 16).tril()])
    value, gradient = value_and_gradient(x, "paper_determinant")
    assert value.isfinite().all()
    assert gradient.isfinite().all()


def test_paper_symmetric_of_unpooled_matrices_is_half_the_asymmetry():
    x = torch.from_numpy(RNG(1).standard_normal((3, 8, 8)))
    half = departure_from_normality(x, "asymmetry") / 2
    torch.testing.assert_close(departure_from_normality(x, "paper_symmetric", factor=1), half)


def test_hybrid_without_pooling_is_exact():
    x = torch.from_numpy(spectrograms(4, 16))
    assert torch.equal(departure_from_normality(x, "hybrid", factor=1), departure_from_normality(x))


@pytest.mark.parametrize("method", METHODS)
def test_gradient_passes_gradcheck_in_float64(method):
    x = torch.from_numpy(RNG(4).uniform(0, 1, (2, 8, 8))).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: departure_from_normality(x, method), x)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(HOMOGENEOUS),
    st.sampled_from(["uniform", "spectrogram in [0, 1]", "stochastic"]),
    st.integers(1, 12),
    st.integers(0, 10**6),
    st.integers(-200, 200),
)
def test_estimates_scale_as_the_departure_and_satisfy_eulers_identity(method, kind, half, seed, exponent):
    x, scale = matrix(kind, 2 * half, seed), 2.0**exponent
    reset_departure_counters()
    value, gradient = value_and_gradient(x, method)
    scaled_value, scaled_gradient = value_and_gradient(x * scale, method)
    # two matrix products may sum in another order when aligned otherwise
    torch.testing.assert_close(scaled_value / scale / scale, value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(scaled_gradient / scale, gradient, rtol=1e-6, atol=1e-9)
    if not departure_counters()["clipped"] and value > 0:  # a value clamped at 0 keeps the slope it had
        # moments leaves σ(x⁴) below 1e-12 of the largest out of its gradient, and their roots are 1e-6 of the norm
        assert abs((gradient.numpy() * x).sum() - 2 * value) <= 4e-6 * len(x) * np.square(x).sum()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(METHODS)), st.integers(1, 12), st.integers(0, 10**6))
def test_estimates_ignore_transposition_and_their_gradient_transposes(method, half, seed):
    x = matrix("uniform", 2 * half, seed)
    value, gradient = value_and_gradient(x, method)
    transposed, slope = value_and_gradient(x.T.copy(), method)
    torch.testing.assert_close(transposed, value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(slope.mT, gradient, rtol=1e-5, atol=1e-5)


def test_perron_of_a_constant_image_is_zero_whichever_way_rounding_goes():
    for dtype in (torch.float32, torch.float64):
        for n in (1, 2, 3, 5, 16, 31):
            x = torch.linspace(0.02, 1, 50, dtype=dtype)[:, None, None].expand(-1, n, n)
            value, gradient = value_and_gradient(x, "perron")
            norm = x.square().sum((-2, -1))
            assert (value <= 1e-5 * norm).all()  # 50 units in the last place of float32
            assert (gradient.flatten(1).norm(dim=1) <= 1e-4 * norm.sqrt()).all()


def test_perron_of_matrices_whose_power_iteration_fails_is_their_whole_norm():
    """With negative entries the estimate of λ can be beyond ‖x‖, which no eigenvalue is, or of the wrong sign."""
    failed = []
    for seed in range(200):
        x = RNG(seed).standard_normal((4, 4))
        ones = np.ones(4)
        odd, even = (ones @ np.linalg.matrix_power(x, power) @ ones for power in (9, 8))
        if abs(odd) > 1.01 * even * np.linalg.norm(x):
            failed.append(x)
    assert len(failed) >= 10
    for x in failed:
        value, gradient = value_and_gradient(x, "perron")
        assert value.item() == pytest.approx(np.square(x).sum(), rel=1e-12)
        np.testing.assert_allclose(gradient, 2 * x, rtol=1e-12)


def test_perron_bounds_the_departure_of_unit_spectrograms_and_follows_it():
    x = torch.from_numpy(unit_spectrograms(60, 32))
    exact, perron = departure_from_normality(x), departure_from_normality(x, "perron")
    assert (perron >= exact * (1 - 1e-12)).all()  # Σ|λ|² ≥ λ₁² ≥ its estimate from below
    assert np.corrcoef(exact, perron)[0, 1] >= 0.99


@pytest.mark.parametrize(("factor", "error"), [(2, 0.03), (4, 0.06)])
def test_hybrid_ranks_spectrograms_as_exact_does_and_is_a_few_percent_off(factor, error):
    x = torch.from_numpy(spectrograms(120, 64))
    exact, hybrid = departure_from_normality(x), departure_from_normality(x, "hybrid", factor=factor)
    assert scipy.stats.spearmanr(exact, hybrid).statistic >= 0.995
    assert ((hybrid - exact).abs() / exact.clamp(min=1e-6)).median() <= error


@pytest.mark.parametrize("method", METHODS)
def test_channels_are_reduced_by_mean_and_sum_of_their_departures_or_by_luminance(method):
    x = torch.from_numpy(RNG(5).uniform(0, 1, (2, 3, 8, 8)))
    each = departure_from_normality(x, method)
    assert each.shape == (2, 3)
    torch.testing.assert_close(departure_from_normality(x, method, channels="mean"), each.mean(1))
    torch.testing.assert_close(departure_from_normality(x, method, channels="sum"), each.sum(1))
    grey = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    luminance = departure_from_normality(x, method, channels="luminance")
    torch.testing.assert_close(luminance, departure_from_normality(grey, method))
    alone = departure_from_normality(x[:, :1], method, channels="luminance")
    torch.testing.assert_close(alone, each[:, 0])


@pytest.mark.parametrize("channels", ["mean", "sum", "luminance"])
def test_gradient_goes_through_the_reduction_of_the_channels(channels):
    x = torch.from_numpy(RNG(6).uniform(0, 1, (1, 3, 4, 4))).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: departure_from_normality(x, "hybrid", channels=channels), x)


@pytest.mark.parametrize("method", METHODS)
def test_leading_dimensions_are_kept_from_none_to_three_and_when_empty(method):
    x = torch.from_numpy(RNG(6).uniform(0, 1, (2, 1, 3, 4, 4)))
    value = departure_from_normality(x, method)
    assert value.shape == (2, 1, 3)
    torch.testing.assert_close(departure_from_normality(x[1, 0, 2], method), value[1, 0, 2], rtol=1e-12, atol=0)
    assert departure_from_normality(x[:0], method).shape == (0, 1, 3)
    assert value_and_gradient(x[:0], method)[1].shape == x[:0].shape


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded"])
@pytest.mark.parametrize("method", METHODS)
def test_memory_layout_changes_nothing_and_the_input_is_not_written_to(method, layout):
    base = torch.from_numpy(RNG(7).uniform(0, 1, (3, 8, 16)))
    x = {
        "transposed": base[..., ::2].mT,
        "strided": base[..., 1::2],
        "expanded": base[0, :, :8].expand(3, 8, 8),
    }[layout]
    copy = x.clone(memory_format=torch.contiguous_format)
    leaf = x.detach().requires_grad_()
    value = departure_from_normality(leaf, method)
    value.sum().backward()
    assert torch.equal(x, copy)
    expected, gradient = value_and_gradient(copy, method)
    torch.testing.assert_close(value.detach(), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(leaf.grad, gradient, rtol=1e-7, atol=1e-9)  # σ⁻¹ᐟ² in the moments'
