"""DDFN's penalties, classes, scalings, its control variate, and what its fingerprint refuses."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from reference_images import departures, gradient
from reference_images import fitted_ddfn as fitted
from reference_images import two_channels as images

from schurgan.normality import DDFN, departure_from_normality
from schurgan.normality.ddfn import gap_penalty, levels, update_multipliers


def test_quadratic_penalty_is_the_weighted_square_of_the_relative_excess():
    constraint = fitted(epsilon=2.0, weight=3.0, penalty="quadratic")
    fake = images(16, seed=1, level=0.3)
    penalty, stats = constraint(fake)
    excess = (stats.ema_gap.abs().item() - 2.0) / constraint.real_average().item()
    assert penalty.item() == pytest.approx(3.0 * excess**2, rel=1e-5)
    (slope,) = torch.autograd.grad(departures(fake.requires_grad_()).mean(), fake)
    expected = -2 * 3.0 * excess / constraint.real_average() * slope
    torch.testing.assert_close(gradient(fitted(epsilon=2.0, weight=3.0, penalty="quadratic"), fake.detach()), expected)


def test_augmented_lagrangian_pulls_harder_the_longer_the_gap_stays_outside_and_lets_go_inside():
    constraint = fitted(epsilon=1.0, weight=2.0, penalty="augmented", decay=0.5)
    far, near = images(16, seed=1, level=0.2), images(32)
    pulls = [gradient(constraint, far).norm().item() for _ in range(6)]
    assert all(later > earlier for earlier, later in pairwise(pulls))
    low_before = constraint.multipliers[1].item()
    assert low_before > 0 == constraint.multipliers[0].item()  # the gap is below the band, not above it
    for _ in range(40):
        constraint(near.clone().requires_grad_())
    assert constraint.multipliers[1].item() < low_before


def test_augmented_lagrangian_converges_to_the_band_on_a_problem_whose_multiplier_is_known():
    # Minimise ½(g + 5)² subject to |g| ≤ 1: g = −1, and the multiplier of −g − 1 ≤ 0 is 4.
    multipliers, one = torch.zeros(2, 1), torch.ones(1)
    g = torch.tensor([-5.0])
    for _ in range(4000):
        g.requires_grad_()
        loss = 0.5 * (g + 5).square().sum() + gap_penalty("augmented", g, one, one[0], 1.0, multipliers).sum()
        (slope,) = torch.autograd.grad(loss, g)
        g = (g - 0.05 * slope).detach()
        multipliers = update_multipliers(multipliers, g, one, one[0], 0.02)
    assert g.item() == pytest.approx(-1, abs=1e-3)
    assert multipliers[:, 0].tolist() == pytest.approx([0, 4], abs=1e-2)


def test_penalty_of_weight_zero_is_zero_for_every_kind():
    for kind in ("hinge", "quadratic", "augmented"):
        constraint = fitted(epsilon=0.0, weight=0.0, penalty=kind)
        fake = images(8, seed=1, level=0.2).requires_grad_()
        penalty, _ = constraint(fake)
        penalty.backward()
        assert penalty.item() == pytest.approx(0, abs=1e-12)
        assert fake.grad.norm() <= 1e-12


@pytest.fixture
def labelled():
    labels = torch.arange(32) % 3
    return images(32) * torch.tensor([0.4, 0.7, 1.0])[labels, None, None, None], labels


def test_per_class_fit_takes_each_classs_own_mean_and_share(labelled):
    real, labels = labelled
    constraint = DDFN(scaling="signed", per_class=True)
    constraint.fit_real(zip(real.split(5), labels.split(5), strict=True))
    for c in range(3):
        mine = departures(real[labels == c]).double()
        assert constraint.real_mean[c].item() == pytest.approx(mine.mean().item(), rel=1e-6)
        assert constraint.real_var[c].item() == pytest.approx(mine.var().item(), rel=1e-5)
    assert constraint.real_share.tolist() == pytest.approx([11 / 32, 11 / 32, 10 / 32])
    assert constraint.real_average().item() == pytest.approx(departures(real).mean().item(), rel=1e-6)
    overall = DDFN(scaling="signed")
    overall.fit_real([real])
    # The same law: unbiased within classes plus between, against unbiased overall; n − 1 makes the difference.
    assert constraint.standard_error(8).item() == pytest.approx(overall.standard_error(8).item(), rel=0.05)


def test_class_without_real_images_is_held_to_the_overall_mean(labelled):
    real, labels = labelled
    constraint = DDFN(scaling="signed", per_class=True)
    constraint.fit_real([(real, labels * 2)])  # no 1 and no 3
    assert constraint.real_mean[1].item() == pytest.approx(departures(real).mean().item(), rel=1e-6)
    assert constraint.real_share[1] == 0


def test_per_class_penalty_is_the_share_weighted_sum_and_pulls_each_class_its_own_way(labelled):
    real, labels = labelled
    constraint = DDFN(scaling="signed", epsilon=0.5, per_class=True)
    constraint.fit_real([(real, labels)])
    mine = torch.tensor([0, 0, 0, 2])
    fake = images(4, seed=5) * torch.tensor([0.9, 0.9, 0.9, 0.5])[:, None, None, None]
    penalty, stats = constraint(fake, mine)
    means = torch.stack([departures(fake[:3]).mean(), departures(fake[3:]).mean()])
    gaps = means - constraint.real_mean[[0, 2]]
    assert gaps[0] > 0.5
    assert gaps[1] < -0.5
    expected = (torch.tensor([0.75, 0.25]) * (gaps.abs() - 0.5)).sum() / constraint.real_average()
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-5)
    assert stats.gap.item() == pytest.approx((torch.tensor([0.75, 0.25]) * gaps).sum().item(), rel=1e-4)
    again = DDFN(scaling="signed", epsilon=0.5, per_class=True)
    again.fit_real([(real, labels)])
    slope = gradient(again, fake, mine)
    assert (slope[:3] * fake[:3]).sum() > 0 > (slope[3:] * fake[3:]).sum()  # down for class 0, up for class 2
    # A global constraint sees almost nothing wrong with these four.
    overall = DDFN(scaling="signed", epsilon=0.5)
    overall.fit_real([real])
    assert overall(fake)[0] < penalty


def test_absent_class_keeps_its_moving_average(labelled):
    real, labels = labelled
    constraint = DDFN(scaling="signed", per_class=True, decay=0.5)
    constraint.fit_real([(real, labels)])
    constraint(images(6, seed=1), torch.tensor([0, 0, 1, 1, 2, 2]))
    before = constraint.ema.clone()
    constraint(images(4, seed=2), torch.tensor([0, 0, 2, 2]))
    assert constraint.ema[1].item() == pytest.approx(before[1].item(), rel=1e-6)
    assert constraint.ema[0] != before[0]


@pytest.mark.parametrize("penalty", ["hinge", "quadratic"])
def test_held_by_itself_each_image_is_pulled_by_its_own_gap_to_the_mean_of_its_class(labelled, penalty):
    real, labels = labelled
    options = {"epsilon": 0.5, "weight": 2.0, "penalty": penalty, "per_class": True, "scaling": "signed"}
    constraint = DDFN(constraint="image", **options)
    constraint.fit_real([(real, labels)])
    mine = torch.tensor([0, 0, 2, 1])
    fake = images(4, seed=5) * torch.tensor([0.9, 0.2, 0.5, 0.7])[:, None, None, None]
    with torch.no_grad():
        fake[3] *= (constraint.real_mean[1] / departures(fake)[3]).sqrt()  # inside the band
    gaps = departures(fake) - constraint.real_mean[mine]
    excess = (gaps.abs() - 0.5).clamp(min=0) / constraint.real_average()
    expected = 2.0 * (excess if penalty == "hinge" else excess.square()).mean()
    value, stats = constraint(fake, mine)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert stats.active
    at_rest = constraint(fake[3:], mine[3:])
    assert not at_rest[1].active
    assert at_rest[0] == 0
    slope = gradient(constraint, fake, mine)
    assert [round(each.item(), 3) for each in (slope * fake).sum((1, 2, 3)).sign()] == [1, -1, -1, 0]


def test_a_mean_inside_the_band_satisfies_the_mean_constraint_and_not_that_of_each_image():
    """Which is why the mean is the default: real images vary in Δ², and the other reading takes that away."""
    real = images(32) * torch.linspace(0.3, 1.0, 32)[:, None, None, None]
    spread = {}
    for constraint in ("mean", "image"):
        held = fitted(real, relative_epsilon=0.05, constraint=constraint, decay=0.0)
        fake = real.clone()
        for _ in range(60):
            fake = fake - 2.0 * gradient(held, fake)
        assert held(fake)[1].gap.abs() < 0.2 * held.real_mean
        spread[constraint] = (departures(fake).std() / departures(real).std()).item()
    assert spread["mean"] == 1
    assert spread["image"] < 0.5


def test_the_penalty_of_an_evaluation_is_not_multiplied_by_the_steps_between():
    fake = images(4, seed=1, level=0.5)
    once, every_third = fitted(epsilon=0.0).eval(), fitted(epsilon=0.0, every=3).eval()
    torch.testing.assert_close(every_third(fake)[0], once(fake)[0])


def test_the_relative_band_is_a_share_of_the_mean_that_the_exact_subset_corrects():
    real = images(64)
    held = fitted(real, estimator="asymmetry", exact_subset=8, relative_epsilon=0.1)
    exact = departures(real[::8], "exact") - departures(real[::8], "asymmetry")
    target = departures(real, "asymmetry").mean() + exact.mean()
    assert held.band().item() == pytest.approx(0.1 * target.item(), rel=1e-5)
    assert held.band().item() < 0.9 * 0.1 * held.real_mean.item()  # the asymmetry of noise is far above Δ²


def test_multipliers_move_at_the_pace_of_the_moving_average():
    held = fitted(epsilon=1.0, weight=2.0, penalty="augmented", decay=0.75)
    _, stats = held(images(16, seed=1, level=0.2).requires_grad_())
    excess = (stats.ema_gap.abs() - 1.0) / held.real_average()
    assert held.multipliers[1].item() == pytest.approx((1 - 0.75) * 2.0 * excess.item(), rel=1e-5)


def test_unit_scaling_is_the_departure_of_images_mapped_to_zero_and_one():
    constraint = fitted(scaling="unit", epsilon=0.0)
    real = departures((images(32) + 1) / 2)
    assert constraint.real_mean.item() == pytest.approx(real.mean().item(), rel=1e-6)
    fake = images(4, seed=1, level=0.4)
    _, stats = constraint(fake)
    assert stats.batch_mean.item() == pytest.approx(departures((fake + 1) / 2).mean().item(), rel=1e-6)
    assert "of [0, 1]" in constraint.fingerprint


def test_perron_works_on_unit_scaling_and_refuses_the_other():
    constraint = fitted(estimator="perron", scaling="unit")
    expected = departure_from_normality((images(32) + 1) / 2, "perron", channels="mean").mean()
    assert constraint.real_mean.item() == pytest.approx(expected.item(), rel=1e-6)
    with pytest.raises(ValueError, match='scaling "unit" is needed'):
        DDFN(estimator="perron", scaling="signed")


@pytest.mark.parametrize("channels", ["sum", "luminance"])
def test_channels_are_put_together_as_asked(channels):
    real = images(8, channels=3)
    constraint = fitted(real, channels=channels)
    expected = departure_from_normality(real, "hybrid", channels=channels).mean()
    assert constraint.real_mean.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("estimator", ["exact", "hybrid", "perron", "asymmetry", "moments", "paper_symmetric"])
def test_every_estimator_constrains_a_generator(estimator):
    constraint = fitted(images(32, level=0.6), estimator=estimator, scaling="unit", relative_epsilon=0.02, decay=0.0)
    fake = images(8, seed=1, level=0.3)
    before = constraint(fake)[1].gap.abs()
    for _ in range(100):
        fake = (fake - 2.0 * gradient(constraint, fake)).clamp(-1, 1)
    assert constraint(fake)[1].gap.abs() < 0.2 * before


def test_exact_subset_makes_value_and_gradient_those_of_the_exact_method_on_average():
    real, fake = images(64), images(48, seed=1, level=0.7)
    subset = fitted(real, estimator="asymmetry", exact_subset=12, epsilon=0.0, scaling="signed")
    _, stats = subset(fake)
    exact = departures(fake, "exact").mean()
    error = departures(fake, "exact") - departures(fake, "asymmetry")
    spread = error.std().item() / 12**0.5
    assert abs(stats.batch_mean - exact) <= 3 * spread  # against a bias of the asymmetry many times that
    assert abs(error.mean().item()) > 10 * spread
    everything = fitted(real, estimator="asymmetry", exact_subset=48, epsilon=0.0)
    exactly = fitted(real, estimator="exact", epsilon=0.0)
    torch.testing.assert_close(
        gradient(everything, fake) * everything.real_average(),
        gradient(exactly, fake) * exactly.real_average(),
        rtol=1e-4,
        atol=1e-5,
    )


def test_monitor_on_a_subset_agrees_with_the_monitor_on_all():
    constraint = fitted(images(64, level=0.8))
    fake = images(64, seed=1, level=0.4)
    error = (departures(fake, "exact") - departures(fake)).std().item() / 16**0.5
    assert abs(constraint.gap(fake, subset=16) - constraint.gap(fake)) <= 3 * error
    torch.testing.assert_close(constraint.gap(fake, subset=64), constraint.gap(fake))


def test_per_class_monitor_compares_with_the_classes_of_the_images(labelled):
    constraint = DDFN(scaling="signed", per_class=True, estimator="exact")
    constraint.fit_real([labelled])
    real, labels = labelled
    quiet = labels == 0
    assert abs(constraint.gap(real[quiet], labels[quiet])) <= 1e-4 * constraint.real_average()


def test_work_begun_and_finished_later_is_the_same_as_at_once():
    at_once, later = fitted(epsilon=0.0), fitted(epsilon=0.0)
    first, second = (images(4, seed=1, level=0.5).requires_grad_() for _ in range(2))
    penalty, stats = at_once(first)
    rest = later.begin(second)
    unrelated = (second.mean() * 2).square()
    delayed, delayed_stats = rest()
    assert torch.equal(penalty, delayed)
    assert stats == delayed_stats
    (penalty + (first.mean() * 2).square()).backward()
    (unrelated + delayed).backward()
    assert torch.equal(first.grad, second.grad)


def loud(count: int) -> torch.Tensor:
    """Images of levels from −0.6 to 0.6: noise on a grey that differs."""
    return images(count, level=0.3) + torch.linspace(-0.6, 0.6, count)[:, None, None, None]


def test_the_level_of_an_image_is_its_largest_eigenvalue_and_of_a_constant_one_its_value():
    torch.testing.assert_close(levels(torch.full((1, 2, 8, 8), -0.3)), torch.tensor([-0.3]))
    x = loud(6)
    largest = torch.linalg.eigvals(((x + 1) / 2).double()).abs().amax(-1)
    torch.testing.assert_close(levels(x).double(), (2 * largest / 8 - 1).mean(1), rtol=0, atol=2e-3)


@pytest.mark.parametrize("interval", [(-1.0, 1.0), (-0.3, 0.4)])
def test_the_bound_of_7_is_that_of_the_parabola_through_the_real_images_of_the_interval(interval):
    real = loud(40) * torch.linspace(0.5, 1.0, 40)[:, None, None, None]
    x, y = levels(real).numpy(), departures(real).numpy()
    inside = (x >= interval[0]) & (x <= interval[1])
    curve = np.polyfit(x[inside], y[inside], 2)
    held = fitted(real, interval=interval)
    assert 10 < inside.sum() == (40 if interval == (-1, 1) else inside.sum())
    # The chord between the ends of the interval, and the parabola, are farthest apart in its middle.
    middle, ends = np.polyval(curve, np.mean(interval)), np.polyval(curve, interval)
    assert held.interpolation["bound"] == pytest.approx(abs(middle - ends.mean()), rel=1e-4)
    residual = np.sqrt(np.square(y - np.polyval(curve, x))[inside].mean())
    assert held.interpolation["residual"] == pytest.approx(residual, rel=1e-4)
    again = DDFN(scaling="signed", interval=interval)
    again.load_state_dict(held.state_dict())
    assert again.interpolation == held.interpolation


def test_the_interval_changes_the_bound_and_no_penalty():
    real, fake = loud(40), images(8, seed=1, level=0.5)
    wide, narrow, empty = (fitted(real, epsilon=0.0, interval=i) for i in ((-1, 1), (-0.2, 0.2), (0.9, 1)))
    assert 0 < wide.interpolation["bound"] != narrow.interpolation["bound"] > 0
    assert empty.interpolation == {}
    assert wide(fake)[0] == narrow(fake)[0] == empty(fake)[0] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": (0.5, 0.5)}, r"interval is \(0.5, 0.5\)"),
        ({"interval": (-1.5, 1.0)}, r"interval is \(-1.5, 1.0\)"),
        ({"constraint": "images"}, '"images".*mean, image'),
        ({"constraint": "image", "penalty": "augmented"}, 'penalty is "augmented"'),
        ({"penalty": "hing"}, '"hing".*hinge, quadratic, augmented'),
        ({"scaling": "0..1"}, '"0..1".*signed, unit'),
        ({"orientation": "up"}, '"up".*ascending, descending'),
        ({"channels": "red"}, '"red"'),
        ({"exact_subset": -1}, "exact_subset is -1"),
    ],
)
def test_unknown_options_are_refused_with_those_that_exist(options, message):
    with pytest.raises(ValueError, match=message):
        DDFN(**options)
