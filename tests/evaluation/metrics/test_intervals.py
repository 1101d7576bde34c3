from __future__ import annotations

import pytest
import scipy.stats
import torch

from schurgan.evaluation.metrics.intervals import Interval, Spread, t_quantile, wilson


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 30, 399])
@pytest.mark.parametrize("probability", [0.6, 0.975, 0.995])
def test_the_quantiles_of_t_are_those_of_scipy(probability, freedom):
    truth = scipy.stats.t.ppf(probability, freedom)
    assert t_quantile(probability, freedom) == pytest.approx(truth, rel=1e-9)  # both are exact but for rounding


@pytest.mark.parametrize(("right", "count"), [(0, 10), (7, 10), (80, 80), (1, 3)])
def test_the_interval_of_wilson_is_that_of_scipy(right, count):
    truth = scipy.stats.binomtest(right, count).proportion_ci(0.95, "wilson")
    assert wilson(right, count) == pytest.approx((truth.low, truth.high), abs=1e-12)


def test_an_interval_of_t_is_that_of_scipy():
    values = torch.tensor([0.1, 0.4, 0.2, -0.3])
    mean, error = values.double().mean().item(), scipy.stats.sem(values.double().numpy())
    found = Interval.of(values)
    assert (found.low, found.high) == pytest.approx(scipy.stats.t.interval(0.95, 3, mean, error), rel=1e-9)
    assert found.holds_zero


def test_nineteen_in_twenty_intervals_hold_the_mean_they_estimate():
    draws = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    share = sum(Interval.of(row).holds_zero for row in draws) / len(draws)
    assert 0.93 < share < 0.97  # 4 standard deviations of 2,000 draws are 0.02


def test_a_spread_leaves_out_what_is_no_number_and_says_so():
    spread = Spread.of(torch.tensor([1.0, torch.nan, 3.0, torch.inf, 2.0]))
    assert (spread.median, spread.count, spread.undefined) == (2, 3, 2)
    assert spread.low == pytest.approx(1.2)
    assert spread.high == pytest.approx(2.8)


@pytest.mark.parametrize("values", [torch.empty(0), torch.tensor([torch.nan, torch.inf])])
def test_a_spread_of_nothing_is_unknown(values):
    spread = Spread.of(values)
    assert (spread.median, spread.low, spread.high, spread.undefined) == (None, None, None, len(values))
