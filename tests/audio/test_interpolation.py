"""Resampling weights: areas integrate, lines and cubics interpolate, and signals continue mirrored."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from schurgan.audio.interpolation import (
    Cubic,
    area_weights,
    cubic_weights,
    linear_weights,
    mirror,
    reflect,
    resize_weights,
)

CPU = torch.device("cpu")
counts = st.integers(1, 40)


def keys(distance: np.ndarray) -> np.ndarray:
    """The cubic convolution kernel of Keys (1981) with a = −1/2, from its definition."""
    s = np.abs(distance)
    near = 1.5 * s**3 - 2.5 * s**2 + 1
    far = -0.5 * s**3 + 2.5 * s**2 - 4 * s + 2
    return np.where(s < 1, near, np.where(s < 2, far, 0.0))


def interpolate_by_definition(signal: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Σ_i x_i k(p − i) over the signal continued by its mirror image far beyond any position."""
    margin = int(np.abs(positions).max()) + len(signal) + 4
    extended = np.pad(signal, margin, mode="symmetric")
    at = np.arange(-margin, len(signal) + margin)
    return keys(positions[:, None] - at) @ extended


@given(counts, counts)
def test_area_weights_average_a_piecewise_constant_signal_over_equal_intervals(n_in, n_out):
    signal = np.random.default_rng(n_in * 41 + n_out).standard_normal(n_in)
    common = math.lcm(n_in, n_out)
    truth = np.repeat(signal, common // n_in).reshape(n_out, -1).mean(1)
    got = signal @ area_weights(n_in, n_out).numpy()
    assert np.abs(got - truth).max() <= 1e-13  # sums of at most 40 float64 terms of order one


@given(counts, counts)
def test_area_weights_keep_the_mean(n_in, n_out):
    signal = torch.from_numpy(np.random.default_rng(n_in + 41 * n_out).standard_normal(n_in))
    assert (signal @ area_weights(n_in, n_out)).mean().item() == pytest.approx(signal.mean().item(), abs=1e-13)


@given(counts, counts)
def test_cubic_weights_are_keys_kernel_between_the_centres_of_cells(n_in, n_out):
    signal = np.random.default_rng(n_in * 43 + n_out).standard_normal(n_in)
    truth = interpolate_by_definition(signal, (np.arange(n_out) + 0.5) * n_in / n_out - 0.5)
    assert np.abs(signal @ cubic_weights(n_in, n_out).numpy() - truth).max() <= 1e-13


@given(
    st.integers(1, 30),
    st.lists(st.floats(-50, 80, allow_subnormal=False), min_size=1, max_size=200).map(sorted),
)
def test_interpolating_by_blocks_is_keys_kernel_at_any_ascending_positions(n, positions):
    signal = np.random.default_rng(n).standard_normal((2, 3, n))
    position = np.array(positions)
    truth = np.stack([interpolate_by_definition(row, position) for row in signal.reshape(-1, n)]).reshape(2, 3, -1)
    got = Cubic(torch.from_numpy(position), n, CPU, torch.float64)(torch.from_numpy(signal)).numpy()
    # t = p − floor(p) of a position under 80 has an error of 1e-14, and the kernel a slope of at most about one
    assert np.abs(got - truth).max() <= 1e-12


@pytest.mark.parametrize("count", [1, 63, 64, 128, 1009, 1296])
def test_interpolation_gives_every_position_a_value_whatever_their_number_divides_into(count):
    positions = torch.linspace(0, 31, count, dtype=torch.float64)
    line = 2.0 * torch.arange(32, dtype=torch.float64) + 1
    got = Cubic(positions, 32, CPU, torch.float64)(line)
    inside = (positions >= 1) & (positions <= 30)  # beyond, the mirrored signal is no line any more
    assert got.shape == (count,)
    assert torch.allclose(got[inside], 2 * positions[inside] + 1, atol=1e-12)


def test_interpolation_passes_through_the_samples():
    signal = torch.from_numpy(np.random.default_rng(0).standard_normal(50))
    assert torch.equal(Cubic(torch.arange(50, dtype=torch.float64), 50, CPU, torch.float64)(signal), signal)


@given(counts, counts)
def test_linear_weights_interpolate_between_the_centres_of_cells(n_in, n_out):
    signal = np.random.default_rng(n_in * 47 + n_out).standard_normal(n_in)
    truth = np.interp((np.arange(n_out) + 0.5) / n_out, (np.arange(n_in) + 0.5) / n_in, signal)
    assert np.abs(signal @ linear_weights(n_in, n_out).numpy() - truth).max() <= 1e-13


@given(counts, counts)
def test_resizing_never_makes_a_negative_energy(n_in, n_out):
    weights = resize_weights(n_in, n_out)
    assert weights.min() >= 0
    assert torch.allclose(weights.sum(0), torch.ones(n_out, dtype=torch.float64))


def test_resizing_takes_areas_to_shrink_and_lines_to_grow():
    assert torch.equal(resize_weights(9, 4), area_weights(9, 4))
    assert torch.equal(resize_weights(4, 9), linear_weights(4, 9))
    assert torch.allclose(resize_weights(5, 5), torch.eye(5, dtype=torch.float64), atol=1e-15)


@given(st.integers(1, 20))
def test_mirror_repeats_the_end_samples(n):
    index = mirror(torch.arange(-3 * n, 4 * n), n).numpy()
    assert np.array_equal(index, np.pad(np.arange(n), 3 * n, mode="symmetric"))


@given(st.integers(1, 20))
def test_reflect_takes_the_end_samples_once(n):
    index = reflect(torch.arange(-3 * n, 4 * n), n).numpy()
    assert np.array_equal(index, np.pad(np.arange(n), 3 * n, mode="reflect"))
