"""MomentMatching against its formulas on images small enough to do by hand, and against DDFN, its special case."""

from __future__ import annotations

import pytest
import torch
from reference_images import HINGE, gradient, images, labels
from reference_images import fitted_moments as fitted
from torch import Tensor

from schurgan.normality import MomentMatching, MomentStats


def phi_of(condition, images, labels):
    """Features whose mean over the real images of a class is 0."""
    return condition._features(*condition._check(images, labels))


def brightness(x: Tensor) -> Tensor:
    """A descriptor with which everything is done by hand: an image of one value v in [−1, 1] is (v + 1)/2."""
    return x.mean((1, 2, 3))[:, None]


def flat(*values: float) -> Tensor:
    """Images 2×2 of one brightness in [0, 1] each."""
    return (2 * torch.tensor(values)[:, None, None, None] - 1).expand(-1, 1, 2, 2).clone()


def two_classes(**options) -> MomentMatching:
    """Brightness 0.3 ± 0.1 and 0.7 ± 0.1, twenty images each: σ² = 40 · 0.01 / 38."""
    real = flat(*[0.2, 0.4] * 10, *[0.6, 0.8] * 10)
    return fitted(brightness, real, torch.arange(40) // 20, classes=2, **options)


SIGMA = (40 * 0.01 / 38) ** 0.5


def test_witness_and_its_gradient_are_those_worked_out_by_hand():
    condition = two_classes(balance=False, weight=3.0, epsilon=0.1, decay=0.5)
    condition.observe(flat(0.35, 0.35), torch.tensor([0, 0]))
    condition.observe(flat(0.35 - 0.1 / 3, 0.6), torch.tensor([0, 1]))
    # Class 0: z averages (0.05·2·½ + 0.05/3)/(2·½ + 1)/σ; class 1: one image at −0.1/σ.
    z = {0: ((0.05 * 2 * 0.5 + (0.05 - 0.1 / 3)) / 2) / SIGMA, 1: -0.1 / SIGMA}
    second = {
        0: ((0.05**2 * 2 * 0.5 + (0.05 - 0.1 / 3) ** 2) / 2 - 0.01) / SIGMA**2 / 2,
        1: (0.1**2 - 0.01) / SIGMA**2 / 2,
    }
    gap = torch.tensor([[z[0], second[0]], [z[1], second[1]]])
    torch.testing.assert_close(condition.ema_gap(), gap, rtol=1e-5, atol=1e-5)
    a = gap.sign() * (gap.abs() - 0.1).clamp(min=0)
    torch.testing.assert_close(condition.severity(), a.square().mean().sqrt(), rtol=1e-5, atol=1e-6)

    fake, classes = flat(0.5, 0.9), torch.tensor([0, 1])
    penalty, stats = condition(fake, classes)
    at = torch.tensor([0.2, 0.2]) / SIGMA
    phi = torch.stack([at, (at.square() - 0.01 / SIGMA**2) / 2], 1)
    torch.testing.assert_close(penalty, 3.0 * (a * phi).mean(1).mean(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(stats.severity, condition.severity())
    torch.testing.assert_close(stats.gap, gap.square().mean().sqrt(), rtol=1e-5, atol=1e-5)
    assert stats.active
    # d/dv of a_1 z + a_2 z²/2, over 2 images and 2 coordinates; a pixel has ¼ of the brightness, [−1, 1] halves it.
    slope = 3.0 * (a[:, 0] + a[:, 1] * at) / SIGMA / 4 / 8
    descent = gradient(condition, fake, classes)
    torch.testing.assert_close(descent, slope[:, None, None, None].expand_as(fake), rtol=1e-4, atol=1e-6)


def test_gap_counts_up_to_two_and_an_image_up_to_six_standard_deviations():
    condition = two_classes(spread=False, epsilon=0.1)
    condition.observe(flat(1.0), torch.tensor([0]))  # 0.7/σ = 6.8
    assert condition.ema_gap()[0].item() == pytest.approx(6.0)
    assert condition.severity().item() == pytest.approx(1.9)  # of the one class that was seen
    assert gradient(condition, flat(1.0), torch.tensor([0])).abs().max() == 0
    assert gradient(condition, flat(0.6), torch.tensor([0])).min() > 0


def test_witness_is_linear_in_phi_and_the_gap_has_no_gradient():
    condition = fitted("profile", balance=False)
    condition.observe(images(12, seed=1, level=0.6), labels(12))
    gap = condition.ema_gap()
    a = gap.sign() * (gap.abs().clamp(max=2) - 0.1).clamp(min=0)
    fake, classes = images(6, seed=2), labels(6)
    phi = phi_of(condition, fake, classes)
    penalty, _ = condition(fake, classes)
    torch.testing.assert_close(penalty, (a[classes] * phi).mean(1).mean())
    leaf = fake.clone().requires_grad_()
    (expected,) = torch.autograd.grad((a[classes] * phi_of(condition, leaf, classes)).mean(1).mean(), leaf)
    torch.testing.assert_close(gradient(condition, fake, classes), expected)
    # The penalty's own images leave the moving average alone.
    assert torch.equal(condition.ema_gap(), gap)


def test_inside_the_band_and_before_anything_is_observed_penalty_gradient_and_scale_are_zero():
    condition = fitted("gram", epsilon=1.9)
    fake = images(6, seed=2)
    for _ in range(2):
        penalty, stats = condition(fake, labels(6))
        slope = gradient(condition, fake, labels(6))
        assert penalty == 0 == slope.abs().max()
        assert not stats.active
        assert stats.severity == 0 == condition.scale(torch.ones_like(fake), slope)
        condition.observe(images(30, seed=1, level=0.9), labels(30))
    assert condition.ema_gap().abs().max() > 0.1  # there is a gap, within the band


@pytest.mark.parametrize("name", ["variance", "frobenius", "dfn", "gram", "profile", "pixels"])
@pytest.mark.parametrize("spread", [True, False])
def test_features_of_the_real_images_average_to_zero_in_every_class(name, spread):
    real = images(60) * torch.rand(60, 1, 1, 1, generator=torch.Generator().manual_seed(5)) ** 4
    real[7] = 1.0  # six standard deviations out, where z is cut off
    condition = fitted(name, real, spread=spread)
    phi = phi_of(condition, real, labels(60))
    for c in range(3):
        # A mean of twenty float32 numbers up to 18.
        assert phi[labels(60) == c].mean(0).abs().max() < 1e-5
    assert phi.shape[1] == condition.centre.shape[1]


def test_gradient_descent_on_the_witness_brings_mean_and_spread_of_every_class_to_the_real_ones():
    condition = two_classes(epsilon=0.02, decay=0.0, balance=False)
    value = torch.linspace(0.45, 0.55, 20).repeat(2).requires_grad_()
    classes = torch.arange(40) // 20
    for _ in range(600):
        fake = (2 * value - 1)[:, None, None, None].expand(-1, 1, 2, 2)
        condition.observe(fake, classes)
        (slope,) = torch.autograd.grad(condition(fake, classes)[0], value)
        value = (value - 0.05 * slope).detach().requires_grad_()
    for c, mean in ((0, 0.3), (1, 0.7)):
        own = value[classes == c]
        # Within the band: 0.02 σ of the mean, and 0.02 σ² = half the variance's gap.
        assert own.mean().item() == pytest.approx(mean, abs=0.03 * SIGMA)
        assert own.var(correction=0).item() == pytest.approx(0.01, abs=0.06 * SIGMA**2)


def test_witness_does_not_shrink_a_right_spread_where_a_hinge_on_the_batch_does():
    # Images θ·u about the real mean, u as the real ones at θ = 1: the gradient by θ should be 0 on average.
    generator = torch.Generator().manual_seed(0)
    deviations = 0.1 * (2 * torch.randint(2, (1200, 4), generator=generator) - 1.0)
    shape = {"classes": 1, "per_class": False, "epsilon": 0.0, "decay": 0.0}
    real = flat(*[0.4, 0.6] * 20)
    witness = fitted(brightness, real, torch.zeros(40), balance=False, spread=False, **shape)
    hinge = fitted(brightness, real, torch.zeros(40), **HINGE, **shape)
    slopes: dict[str, list[float]] = {"witness": [], "hinge": []}
    for observed, u in zip(*deviations.split(600), strict=True):
        witness.observe(flat(*(0.5 + observed).tolist()))
        for name, condition in (("witness", witness), ("hinge", hinge)):
            theta = torch.ones((), requires_grad=True)
            fake = (2 * (0.5 + theta * u) - 1)[:, None, None, None].expand(-1, 1, 2, 2)
            (slope,) = torch.autograd.grad(condition(fake)[0], theta)
            slopes[name].append(slope.item())
    for name, biased in (("witness", False), ("hinge", True)):
        values = torch.tensor(slopes[name])
        error = values.std() / len(values) ** 0.5
        assert (values.mean() > 10 * error) == biased, name  # positive: descent makes θ smaller
        assert biased or values.mean().abs() < 3 * error


@pytest.mark.parametrize("name", ["variance", "frobenius"])
def test_hinge_on_a_moment_is_the_relative_gap_beyond_epsilon(name):
    measure = {
        "variance": lambda x: x.flatten(1).var(1, correction=0),
        "frobenius": lambda x: x.flatten(1).square().sum(1),
    }[name]
    real, fake = images(60), images(9, seed=1, level=0.5)
    condition = fitted(name, real, per_class=False, epsilon=0.02, weight=3.0, **HINGE)
    penalty, stats = condition(fake, None)
    target, mean = (measure((x + 1) / 2).mean() for x in (real, fake))
    assert penalty.item() == pytest.approx(3 * (abs(mean - target) / target - 0.02).item(), rel=1e-5)
    assert stats.gap.item() == pytest.approx((abs(mean - target) / target).item(), rel=1e-5)


def test_hinge_on_a_vector_pulls_along_the_gap_and_lets_go_within_epsilon_of_the_real_means_norm():
    real = images(60)
    near = fitted("profile", real, per_class=False, epsilon=0.5, **HINGE)
    assert near(images(9, seed=1), None)[0] == 0
    condition = fitted("profile", real, per_class=False, epsilon=0.01, decay=0.0, **HINGE)
    fake = images(9, seed=1, level=0.2)
    before = condition(fake, None)[1].gap
    after = condition((fake - 5 * gradient(condition, fake, labels(9))), None)[1].gap
    assert after < before


@pytest.mark.parametrize(("level", "full"), [(0.97, False), (0.2, True)])
def test_balanced_penalty_gradient_has_the_adversarial_ones_norm_times_rho_and_severity_over_tau(level, full):
    condition = fitted("profile", weight=1.5, tau=0.5, epsilon=0.05)
    condition.observe(images(60, seed=3, level=level), labels(60))
    fake = images(9, seed=1, level=level)
    slope = gradient(condition, fake, labels(9))
    adversarial = 7 * images(9, seed=2)
    v = condition.severity().item()
    assert v > 0
    assert (v > 0.5) == full
    scaled = (condition.scale(adversarial, slope) * slope).norm().item()
    assert scaled == pytest.approx(1.5 * adversarial.norm().item() * min(1, v / 0.5), rel=1e-5)


def test_without_balance_the_weight_is_the_penaltys_and_scale_is_one():
    one, three = (fitted("gram", balance=False, weight=weight) for weight in (1.0, 3.0))
    fake = images(9, seed=1, level=0.5)
    for condition in (one, three):
        condition.observe(fake, labels(9))
    slope = gradient(three, fake, labels(9))
    torch.testing.assert_close(slope, 3 * gradient(one, fake, labels(9)))
    assert three.scale(images(9), slope) == 1


def test_small_classes_are_filled_up_with_images_of_all_and_absent_ones_take_the_overall_moments():
    real = flat(*[0.2, 0.4] * 5, *[0.6, 0.8] * 2)
    classes = torch.tensor([0] * 10 + [1] * 4)
    condition = fitted(brightness, real, classes, classes=3)
    overall = (10 * 0.3 + 4 * 0.7) / 14
    expected = torch.tensor([[0.3], [0.4 * 0.7 + 0.6 * overall], [overall]])
    torch.testing.assert_close(condition.real_mean, expected)
    # Expectation of φ over 0.4 of the class and 0.6 of all images, by classes; over all images where there are none.
    own = phi_of(condition, real[10:], torch.ones(4)).mean(0)
    everything = phi_of(condition, real, torch.ones(14)).mean(0)
    torch.testing.assert_close(0.4 * own + 0.6 * everything, torch.zeros(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(phi_of(condition, real, torch.full((14,), 2)).mean(0), torch.zeros(2), rtol=0, atol=1e-6)


def test_spread_is_pooled_within_classes_and_floored_where_a_coordinate_does_not_vary():
    assert two_classes().spread_within.item() == pytest.approx(SIGMA, rel=1e-6)
    real = images(60)
    real[:, :, :2] = -1  # two silent rows
    condition = fitted("profile", real)
    spread = condition.spread_within
    # Of the pooled variances, the silent rows' are 0: the floor's own square is no part of the mean.
    varies = spread[spread > spread.min()]
    assert spread.min().item() == pytest.approx(0.05 * (varies.square().sum() / len(spread)).sqrt().item(), rel=1e-5)
    assert (spread == spread.min()).sum() == 4  # means and variances of both rows


def test_classes_of_one_image_each_take_the_spread_of_all_images():
    condition = fitted(brightness, flat(0.2, 0.5, 0.8), torch.arange(3))
    assert condition.spread_within.item() == pytest.approx(0.3, rel=1e-6)


def test_single_class_is_the_same_as_no_classes():
    alone = fitted("gram", own=torch.zeros(60), classes=1)
    overall = fitted("gram", per_class=False)
    fake = images(9, seed=1, level=0.5)
    for condition in (alone, overall):
        condition.observe(fake, torch.zeros(9))
    penalties = [condition(fake, torch.zeros(9))[0] for condition in (alone, overall)]
    torch.testing.assert_close(*penalties)


def test_silent_images_among_the_real_ones_give_finite_moments_and_gradients():
    real = images(60)
    real[::5] = -1
    for name in ("variance", "frobenius", "dfn", "gram", "profile", "pixels"):
        condition = fitted(name, real)
        fake = torch.cat([images(4, seed=1), -torch.ones(2, 1, 8, 8)])
        condition.observe(fake, labels(6))
        slope = gradient(condition, fake, labels(6))
        assert condition.severity().isfinite()
        assert slope.isfinite().all()
        assert slope.abs().max() > 0


@pytest.mark.parametrize("options", [{}, HINGE], ids=["witness", "hinge"])
def test_images_that_are_all_one_value_cannot_be_held_to(options):
    with pytest.raises(ValueError, match="of all"):
        fitted("variance", torch.zeros(12, 1, 4, 4), **options)


def test_class_not_seen_for_long_counts_as_not_seen_and_nothing_overflows():
    condition = fitted("gram", decay=0.1)
    condition.observe(images(3, seed=1, level=0.2), labels(3))
    for seed in range(60):
        condition.observe(images(4, seed=seed), torch.zeros(4))
    assert condition.ema_gap()[1:].abs().max() == 0
    assert condition.severity().isfinite()


def test_images_that_are_not_finite_leave_no_trace_in_the_moving_average():
    clean, dirty = fitted("gram"), fitted("gram")
    fake = images(6, seed=1, level=0.5)
    clean.observe(fake[:5], labels(5))
    fake[5, 0, 2, 3] = float("nan")
    dirty.observe(fake, labels(6))
    torch.testing.assert_close(dirty.ema_gap(), clean.ema_gap())
    assert torch.equal(dirty.ema_count, clean.ema_count)


def test_half_precision_images_are_measured_in_float32_whatever_autocast_says():
    condition = fitted("gram", balance=False)
    fake = images(6, seed=1, level=0.5).bfloat16()
    condition.observe(fake, labels(6))
    plain = condition(fake.float(), labels(6))[0]
    with torch.autocast("cpu", torch.bfloat16):
        cast, _ = condition(fake, labels(6))
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)


def test_oblong_images_are_held_by_all_but_dfn():
    real = images(30)[..., :5]
    for name in ("variance", "frobenius", "gram", "profile", "pixels"):
        condition = fitted(name, real)
        condition.observe(0.3 * real, labels(30))
        assert isinstance(condition(real, labels(30))[1], MomentStats)
        assert condition.severity() > 0
    with pytest.raises(ValueError, match="square"):
        fitted("dfn", real)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"descriptor": "gram", "estimator": "exact"}, "estimates nothing"),
        ({"descriptor": brightness, "estimator": "exact"}, "function as descriptor"),
        ({"penalty": "hinge"}, "spread and balance"),
        ({"penalty": "hinge", "spread": False}, "balance given"),
        ({"penalty": "square"}, "witness, hinge"),
        ({"epsilon": 2.0}, "below that"),
        ({"epsilon": -0.1}, "epsilon is -0.1"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"decay": 1.0}, "decay is 1.0"),
        ({"tau": 0.0}, "tau is 0.0"),
        ({"classes": 0}, "classes is 0"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MomentMatching(**({"descriptor": "gram", "classes": 3} | options))


def test_descriptor_that_returns_no_row_an_image_is_refused():
    with pytest.raises(ValueError, match="a row an image"):
        fitted(lambda x: x.mean((1, 2, 3)))
