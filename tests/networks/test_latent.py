"""Noise: its distributions by their moments, and reproducibility."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch

from schurgan.networks import Latent

N = 4000  # times 25 components: 100,000 draws


def draw(seed: int = 0, **options) -> torch.Tensor:
    kind = options.pop("kind", "normal")
    return Latent(25, kind, variance=options.pop("variance", None)).sample(
        N, torch.Generator().manual_seed(seed), **options
    )


def agrees(z: torch.Tensor, distribution) -> bool:
    """Kolmogorov-Smirnov at 1 in 10,000; the seeds are fixed, so this never flickers."""
    return scipy.stats.kstest(z.flatten().double().numpy(), distribution.cdf).pvalue > 1e-4


@pytest.mark.parametrize("variance", [0.05, 0.5, 1.0, 2.0])
def test_scale_makes_alpha_the_variance(variance):
    assert agrees(draw(truncation=variance, mode="scale"), scipy.stats.norm(scale=math.sqrt(variance)))


@pytest.mark.parametrize("deviation", [0.05, 0.5, 2.0])
def test_std_makes_alpha_the_standard_deviation(deviation):
    assert agrees(draw(truncation=deviation, mode="std"), scipy.stats.norm(scale=deviation))


def test_a_normal_latent_of_another_variance_is_all_of_it_that_much_narrower():
    deviation = math.sqrt(0.02)  # the paper's N(0, 0.02 I)
    assert agrees(draw(variance=0.02), scipy.stats.norm(scale=deviation))
    for mode, truth in (
        ("scale", scipy.stats.norm(scale=math.sqrt(0.5))),
        ("std", scipy.stats.norm(scale=0.5)),
        ("resample", scipy.stats.truncnorm(-0.5, 0.5)),
        ("official", scipy.stats.truncnorm(-2, 2, scale=0.5)),
    ):
        assert agrees(draw(variance=0.02, truncation=0.5, mode=mode) / deviation, truth), mode


@pytest.mark.parametrize("bound", [0.1, 0.5, 1.0, 2.0])
def test_resample_is_a_normal_cut_at_alpha(bound):
    z = draw(truncation=bound, mode="resample")
    assert z.abs().max() <= bound
    assert agrees(z, scipy.stats.truncnorm(-bound, bound))


@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0])
def test_official_is_alpha_times_a_normal_cut_at_two(scale):
    z = draw(truncation=scale, mode="official")
    assert 1.9 * scale < z.abs().max() <= 2 * scale
    assert agrees(z / scale, scipy.stats.truncnorm(-2, 2))


def test_resample_at_a_bound_beyond_all_draws_is_the_plain_normal():
    z = draw(truncation=40.0, mode="resample")
    assert z.isfinite().all()
    assert agrees(z, scipy.stats.norm())


def test_resample_is_finite_at_the_very_edge_of_its_uniform_numbers(monkeypatch):
    monkeypatch.setattr(
        torch, "rand", lambda shape, generator, **kind: torch.zeros(shape, **kind)
    )  # the least number that rand gives: a chance of 2⁻⁵³ a component
    assert torch.equal(Latent(3).sample(2, truncation=40.0, mode="resample"), torch.full((2, 3), -40.0))


def test_without_truncation_a_normal_latent_is_standard_normal_and_a_uniform_one_uniform():
    assert agrees(draw(), scipy.stats.norm())
    assert agrees(draw(kind="uniform"), scipy.stats.uniform(-1, 2))


@pytest.mark.parametrize(
    "options", [{}, {"truncation": 0.5}, {"truncation": 0.5, "mode": "resample"}, {"kind": "uniform"}]
)
def test_a_seed_gives_the_same_noise_whatever_the_global_random_numbers_are(options):
    torch.manual_seed(1)
    first = draw(seed=7, **options)
    torch.manual_seed(2)
    assert torch.equal(draw(seed=7, **options), first)
    assert not torch.equal(draw(seed=8, **options), first)


def test_without_a_generator_the_global_random_numbers_decide():
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(Latent(8).sample(4))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_noise_is_float32_of_the_shape_asked_for():
    for mode in ("scale", "std", "resample", "official"):
        z = Latent(12).sample(3, truncation=0.7, mode=mode, device="cpu")
        assert (z.shape, z.dtype) == ((3, 12), torch.float32)


@pytest.mark.parametrize("alpha", [0, 0.0, -0.5, math.nan, math.inf])
@pytest.mark.parametrize("mode", ["scale", "std", "resample", "official"])
def test_truncations_that_mean_nothing_are_refused(alpha, mode):
    with pytest.raises(ValueError, match="a finite number above 0 is needed"):
        Latent(4).sample(2, truncation=alpha, mode=mode)


def test_other_wrong_input_is_refused_by_name():
    with pytest.raises(ValueError, match="dim: 0 given"):
        Latent(0)
    with pytest.raises(ValueError, match='kind: "laplace" given'):
        Latent(3, "laplace")
    with pytest.raises(ValueError, match='mode: "cut" given'):
        Latent(3).sample(2, mode="cut")
    for variance in (0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"variance: {variance} given, a finite number above 0 is needed"):
            Latent(3, variance=variance)
    with pytest.raises(ValueError, match="variance: 2 given for a uniform z"):
        Latent(3, "uniform", variance=2)
    with pytest.raises(ValueError, match="only a normal z can be truncated"):
        Latent(3, "uniform").sample(2, truncation=0.5)
