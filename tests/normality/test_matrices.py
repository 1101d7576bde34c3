"""Factorisations that fail, injected: retried with jitter, fallen back from, counted; never an exception."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference_matrices import matrix, spectrograms, value_and_gradient

from schurgan.normality import (
    departure_bounds,
    departure_counters,
    departure_from_normality,
    reset_departure_counters,
)
from schurgan.normality.matrices import JITTERS, decompose

NONE = dict.fromkeys(("jittered", "matched", "fallback", "clipped", "nonfinite"), 0)


@pytest.fixture(autouse=True)
def fresh_counters():
    reset_departure_counters()


def failing(monkeypatch, name, fails):
    """torch.linalg's solver of that name raises as LAPACK does for input of which `fails` is true."""
    solver = getattr(torch.linalg, name)

    def solve(x):
        if fails(x):
            raise torch.linalg.LinAlgError("the algorithm failed to converge")
        return solver(x)

    monkeypatch.setattr(torch.linalg, name, solve)


def counted(**counts):
    return departure_counters() == NONE | counts


def test_matrix_that_fails_in_a_batch_is_retried_alone_with_growing_jitter(monkeypatch):
    x = spectrograms(3, 16)
    expected, slopes = value_and_gradient(x)
    attempts = []

    def fails(x):
        attempts.append(x.ndim)
        return len(attempts) in (1, 3)  # the batch, and of the three alone the second, once

    failing(monkeypatch, "eig", fails)
    value, gradient = value_and_gradient(x)
    assert attempts == [3, 2, 2, 2, 2]
    assert counted(jittered=1)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)  # 1e4 times the second jitter of 1e-14
    torch.testing.assert_close(gradient, slopes, rtol=1e-6, atol=1e-6)


def test_one_matrix_without_eigenvalues_leaves_its_neighbours_alone(monkeypatch):
    x = spectrograms(3, 16)
    expected, slopes = value_and_gradient(x)
    odd = torch.from_numpy(x[1] / x[1].max())  # whatever power of two, or jitter of up to 1e-8, it comes with
    failing(monkeypatch, "eig", lambda x: x.ndim == 3 or (x / x.max() - odd).abs().max() < 1e-6)
    value, gradient = value_and_gradient(x)
    assert counted(fallback=1)
    assert torch.equal(value[::2], expected[::2])
    # eigenvectors found one by one lie in memory in another order, and products of them are summed in another
    torch.testing.assert_close(gradient[::2], slopes[::2], rtol=1e-9, atol=1e-9)
    assert value[1].item() == pytest.approx(0.5 * np.square(x[1] - x[1].T).sum(), rel=1e-12)


@pytest.mark.parametrize("method", ["exact", "hybrid"])
@pytest.mark.parametrize("with_gradient", [True, False])
def test_matrix_without_eigenvalues_falls_back_to_the_asymmetry_and_its_gradient(monkeypatch, with_gradient, method):
    failing(monkeypatch, "eig" if with_gradient else "eigvals", lambda _: True)
    x = torch.from_numpy(spectrograms(2, 16)).requires_grad_(with_gradient)
    value = departure_from_normality(x, method)
    bound = 0.5 * (x - x.mT).square().sum((-2, -1))
    torch.testing.assert_close(value, bound, rtol=1e-12, atol=0)
    assert counted(fallback=2)
    if with_gradient:
        value.sum().backward()
        torch.testing.assert_close(x.grad, 2 * (x - x.mT).detach(), rtol=1e-12, atol=1e-12)


def test_complex_matrix_without_eigenvalues_falls_back_to_half_the_squared_distance_to_its_adjoint(monkeypatch):
    failing(monkeypatch, "eig", lambda _: True)
    x = matrix("complex gauss", 9)
    value, gradient = value_and_gradient(x)
    assert value.item() == pytest.approx(0.5 * np.linalg.norm(x - x.conj().T) ** 2, rel=1e-12)
    np.testing.assert_allclose(gradient.numpy(), 2 * (x - x.conj().T), rtol=1e-12, atol=1e-12)
    assert counted(fallback=1)


@pytest.mark.parametrize("fails", [lambda x: True, lambda x: x.ndim == 3], ids=["always", "in a batch"])
@pytest.mark.parametrize(("method", "solver"), [("moments", "svd"), ("paper_determinant", "eigh")])
def test_other_decompositions_that_fail_leave_finite_values_and_gradients_and_are_counted(
    monkeypatch, method, solver, fails
):
    x = spectrograms(3, 16)
    expected, slopes = value_and_gradient(x, method)
    failing(monkeypatch, solver, fails)
    value, gradient = value_and_gradient(x, method)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    if fails(torch.zeros(2, 2)):
        assert counted(fallback=6 if method == "moments" else 3)  # moments decomposes x² and x⁴
    else:  # each by itself, as good as together
        assert counted()
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(gradient, slopes, rtol=1e-6, atol=1e-6)


def test_moments_without_singular_values_stay_below_the_squared_norm(monkeypatch):
    failing(monkeypatch, "svd", lambda _: True)
    x = spectrograms(3, 16)
    value, _ = value_and_gradient(x, "moments")
    assert (value <= torch.from_numpy(x).square().sum((-2, -1)) * (1 + 1e-12)).all()


def test_bounds_without_singular_values_still_hold(monkeypatch):
    x = torch.from_numpy(spectrograms(4, 16))
    failing(monkeypatch, "svdvals", lambda _: True)
    lower, upper = departure_bounds(x)
    value = departure_from_normality(x)
    assert (lower <= value).all()
    assert (value <= upper).all()
    assert counted(fallback=4)


def test_jitter_moves_elements_by_rounding_and_keeps_zeros_symmetry_and_transposes():
    inputs = []

    def look(x):
        inputs.append(x)
        return (x,)

    x = torch.from_numpy(np.stack([matrix(kind, 9) for kind in ("sparse", "symmetric", "gauss")]))
    decompose(look, torch.cat([x, x.mT]), lambda x: (x,))
    (moved,) = inputs
    assert (moved - torch.cat([x, x.mT])).abs().max() <= 2 * JITTERS[0] * x.abs().max()
    assert torch.equal(moved[:3] == 0, x == 0)
    assert torch.equal(moved[1], moved[1].mT)
    assert torch.equal(moved[:3], moved[3:].mT)


def test_counters_start_at_zero_after_a_reset_and_a_plain_matrix_adds_nothing():
    value_and_gradient(np.full((2, 4, 4), np.nan))
    assert departure_counters() == NONE | {"nonfinite": 2}
    reset_departure_counters()
    value_and_gradient(np.random.default_rng(8).standard_normal((2, 6, 6)))
    assert departure_counters() == NONE


def test_counters_of_several_threads_add_up():
    x = torch.from_numpy(spectrograms(64, 64))
    x[::4, 0, 0] = torch.nan
    torch.set_num_threads(3)
    value_and_gradient(x)
    assert departure_counters()["nonfinite"] == 16


@pytest.mark.parametrize("first", [5, 8, 11])
def test_other_errors_of_a_factorisation_are_not_swallowed(first):
    def broken(x):
        raise TypeError("not this one")

    with pytest.raises(TypeError, match="not this one"):
        decompose(broken, torch.zeros(first, 2, 2, dtype=torch.float64), lambda x: (x,))
