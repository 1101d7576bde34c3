from __future__ import annotations

import itertools

import pytest
import torch

from schurgan.evaluation.metrics.kernel import kernel_distance, squared_discrepancy


def rows(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


@pytest.mark.filterwarnings("ignore:Metric:UserWarning")  # that it keeps features
def test_it_is_that_of_torchmetrics_on_the_same_subsets():
    oracle = pytest.importorskip("torchmetrics.image.kid")
    passing = torch.nn.Identity()
    passing.num_features = 8  # type: ignore[assignment]
    metric = oracle.KernelInceptionDistance(feature=passing, subsets=100, subset_size=30).set_dtype(torch.float64)
    real, fake = rows(80, 8, 1), rows(60, 8, 2, shift=0.3)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        mean, sd = metric.compute()
    ours = kernel_distance(real, fake, subset_size=30, seed=5)
    assert ours.mean == pytest.approx(mean.item(), rel=1e-6)
    assert ours.sd == pytest.approx(sd.item(), rel=1e-6)


def test_a_set_without_images_is_named():
    with pytest.raises(ValueError, match="real: 0 rows"):
        kernel_distance(rows(0, 3, 1), rows(5, 3, 2), subset_size=2)


def test_it_is_the_mean_over_pairs_written_out():
    real, fake = rows(5, 3, 1), rows(7, 3, 2, shift=0.5)

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return (float(x @ y) / 3 + 1) ** 3

    def within(x: torch.Tensor) -> float:
        pairs = list(itertools.permutations(x, 2))
        return sum(kernel(a, b) for a, b in pairs) / len(pairs)

    across = sum(kernel(a, b) for a in real for b in fake) / 35
    assert squared_discrepancy(real, fake) == pytest.approx(within(real) + within(fake) - 2 * across, rel=1e-12)


def test_of_two_draws_of_one_distribution_it_is_zero_on_average_unlike_the_biased_one():
    values = torch.tensor([squared_discrepancy(rows(20, 4, 2 * i), rows(20, 4, 2 * i + 1)) for i in range(200)])
    error = values.std() / len(values) ** 0.5
    assert values.mean().abs() < 4 * error  # a chance below 1e-4
    assert (values < 0).any()
    biased = 2 / 20 * ((rows(1000, 4, 9).square().sum(1) / 4 + 1) ** 3).mean()
    assert biased > 20 * error  # so the diagonal would have been seen


def test_the_same_seed_gives_the_same_subsets_and_leaves_global_random_numbers_alone():
    before = torch.random.get_rng_state()
    real, fake = rows(40, 4, 1), rows(40, 4, 2)
    one, again, other = (kernel_distance(real, fake, subset_size=10, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other
    assert torch.equal(torch.random.get_rng_state(), before)


def test_constant_images_are_at_the_distance_of_their_kernels():
    real, fake = torch.zeros(4, 2), torch.ones(4, 2)
    score = kernel_distance(real, fake, subset_size=4)
    assert score.mean == (0 + 1) ** 3 + (1 + 1) ** 3 - 2 * (0 + 1) ** 3
    assert score.sd == 0


@pytest.mark.parametrize(
    ("real", "fake", "options", "said"),
    [
        (torch.zeros(5, 2), torch.zeros(9, 2), {"subset_size": 6}, "subset_size: 6 given of 5 real and 9 generated"),
        (torch.zeros(5, 2), torch.zeros(9, 2), {"subset_size": 1}, "subset_size: 1 given"),
        (torch.zeros(5, 2), torch.zeros(9, 3), {"subset_size": 3}, "2 and 3 columns"),
        (torch.zeros(5, 2) / 0, torch.zeros(9, 2), {"subset_size": 3}, "real: 5 of 5 rows hold NaN"),
    ],
)
def test_what_has_no_distance_is_refused(real, fake, options, said):
    with pytest.raises(ValueError, match=said):
        kernel_distance(real, fake, **options)


def test_one_image_has_no_pairs():
    with pytest.raises(ValueError, match="fake: 1 rows given, 2 or more"):
        squared_discrepancy(torch.zeros(3, 2), torch.zeros(1, 2))
