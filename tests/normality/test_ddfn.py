"""DDFN against its formula: the hinge, its straight-through gradient, the moving average, and a state that resumes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_images import departures
from reference_images import fitted_ddfn as fitted
from reference_images import two_channels as images

from schurgan.normality import DDFN


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.booleans())
def test_fit_real_takes_mean_variance_and_count_of_the_departures_however_the_batches_are_cut(cuts, labelled):
    x = images(2 + sum(cuts), seed=3)
    batches = x.split([2, *cuts])
    constraint = DDFN(scaling="signed")
    constraint.fit_real([(batch, torch.zeros(len(batch))) if labelled else batch for batch in batches])
    expected = departures(x).double()
    assert constraint.real_count == len(x)
    assert constraint.real_mean.item() == pytest.approx(expected.mean().item(), rel=1e-6)  # float32
    assert constraint.real_var.item() == pytest.approx(expected.var().item(), rel=1e-5)


def test_fingerprint_names_how_departures_are_taken_and_of_what():
    prefix = "hybrid x2 of [-1, 1], mean of channels, rows ascending; images 2x8x8; data "
    assert fitted().fingerprint.startswith(prefix)
    assert fitted(estimator="exact").fingerprint.startswith("exact of [-1, 1], ")


@pytest.mark.parametrize("level", [1.0, 0.3])
def test_penalty_is_the_gap_beyond_epsilon_over_the_real_mean_times_weight(level):
    constraint = fitted(epsilon=2.0, weight=3.0)
    fake = images(16, seed=1, level=level)
    penalty, stats = constraint(fake)
    gap = departures(fake).mean() - departures(images(32)).mean()
    assert penalty.shape == ()
    expected = 3.0 * max(abs(gap.item()) - 2.0, 0.0) / departures(images(32)).mean().item()
    assert penalty.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert stats.gap.item() == pytest.approx(gap.item(), abs=1e-4)
    assert stats.batch_mean.item() == pytest.approx(departures(fake).mean().item(), rel=1e-6)
    assert bool(stats.active) == (abs(gap.item()) > 2.0)


def test_inside_the_band_penalty_and_gradient_are_zero():
    constraint = fitted(epsilon=1e6)
    fake = images(4, seed=1, level=0.2).requires_grad_()
    penalty, stats = constraint(fake)
    penalty.backward()
    assert penalty.item() == 0
    assert not stats.active
    assert torch.equal(fake.grad, torch.zeros_like(fake))


@pytest.mark.parametrize(("level", "sign"), [(0.3, -1.0), (1.0, 1.0)])
def test_gradient_is_that_of_the_batch_mean_with_the_gaps_sign_and_weight_over_the_real_mean(level, sign):
    constraint = fitted(images(32, level=0.6), epsilon=0.5, weight=2.0)
    fake = images(4, seed=1, level=level).requires_grad_()
    penalty, stats = constraint(fake)
    penalty.backward()
    (slope,) = torch.autograd.grad(departures(fake).mean(), fake)
    assert stats.gap.sign() == sign
    torch.testing.assert_close(fake.grad, sign * 2.0 / constraint.real_mean * slope)


def test_gradient_steps_bring_the_generated_mean_into_the_band_from_both_sides():
    for level in (0.3, 1.0):
        constraint = fitted(images(32, level=0.6), relative_epsilon=0.05, decay=0.0)
        fake = images(8, seed=1, level=level).requires_grad_()
        for _ in range(200):
            penalty, stats = constraint(fake)
            if not stats.active:
                break
            (slope,) = torch.autograd.grad(penalty, fake)
            fake = (fake - 2.0 * slope).detach().requires_grad_()
        assert not stats.active


def test_gradient_goes_straight_through_the_moving_average_with_weight_one():
    constraint = fitted(images(32, level=0.6), epsilon=0.5, decay=0.9)
    constraint(images(4, seed=1, level=0.2))
    fake = images(4, seed=2, level=0.2).requires_grad_()
    penalty, stats = constraint(fake)
    penalty.backward()
    (slope,) = torch.autograd.grad(departures(fake).mean(), fake)
    torch.testing.assert_close(fake.grad, -slope / constraint.real_mean)  # and not (1 − decay) of it
    expected = (abs(stats.ema_gap.item()) - 0.5) / constraint.real_mean.item()
    assert penalty.item() == pytest.approx(expected, rel=1e-6)


def test_gradient_follows_the_sign_of_the_averaged_gap_and_not_of_the_batchs():
    constraint = fitted(images(32, level=0.6), epsilon=0.0, decay=0.9)
    for seed in range(3):
        constraint(images(4, seed=seed, level=0.2))
    fake = images(4, seed=9, level=1.0).requires_grad_()
    penalty, stats = constraint(fake)
    penalty.backward()
    (slope,) = torch.autograd.grad(departures(fake).mean(), fake)
    assert stats.gap > 0 > stats.ema_gap
    torch.testing.assert_close(fake.grad, -slope / constraint.real_mean)


def test_moving_average_is_the_mean_of_all_images_seen_with_weights_that_fade():
    constraint = fitted(decay=0.75)
    batches = [images(3 + seed, seed=seed, level=0.2 + 0.2 * seed) for seed in range(4)]
    weight, total = 0.0, 0.0
    for seed, batch in enumerate(batches):
        constraint(batch)
        weight = 0.75 * weight + len(batch)
        total = 0.75 * total + departures(batch).sum().item()
        assert constraint.ema.item() == pytest.approx(total / weight, rel=1e-6)
        if seed == 0:
            assert constraint.ema.item() == pytest.approx(departures(batch).mean().item(), rel=1e-6)


def test_moving_average_rests_in_evaluation_mode_and_without_gradients():
    constraint = fitted()
    constraint(images(4, seed=1))
    before = constraint.ema.clone()
    with torch.no_grad():
        _, stats = constraint(images(4, seed=2, level=0.2))
    constraint.eval()
    constraint(images(4, seed=2, level=0.2))
    assert torch.equal(constraint.ema, before)
    assert constraint.steps == 1
    assert stats.ema_gap.item() == pytest.approx((before - constraint.real_mean).item(), rel=1e-6)
    assert stats.gap < stats.ema_gap


def test_relative_epsilon_is_a_share_of_the_real_mean():
    fake = images(8, seed=1, level=0.9)
    relative = fitted(relative_epsilon=0.1)
    absolute = fitted(epsilon=0.1 * relative.real_mean.item())
    assert float(relative.band()) == pytest.approx(0.1 * relative.real_mean.item())
    torch.testing.assert_close(relative(fake)[0], absolute(fake)[0])


def test_every_third_step_carries_three_times_the_penalty_and_the_steps_between_none():
    lazy, eager = fitted(epsilon=0.0, every=3), fitted(epsilon=0.0)
    penalties = []
    for step in range(7):
        penalty, stats = lazy(images(4, seed=step, level=0.5))
        penalties.append(penalty)
        if step % 3 == 0:
            expected, same = eager(images(4, seed=step, level=0.5))
            torch.testing.assert_close(penalty, 3 * expected)
        assert all(torch.equal(a, b) for a, b in zip(stats, same, strict=True))  # between: the last ones known
    assert [bool(penalty > 0) for penalty in penalties] == [True, False, False, True, False, False, True]
    assert lazy.ema == eager.ema


def test_monitored_gap_is_the_exact_methods_and_vanishes_on_the_real_images():
    real, fake = images(64, level=0.8), images(16, seed=1, level=0.4)
    constraint = fitted(real)
    gap = constraint.gap(fake.requires_grad_())
    assert not gap.requires_grad
    expected = departures(fake, "exact").mean() - departures(real, "exact").mean()
    # The real exact mean is estimated: the hybrid's on all images plus its error on 8 of them.
    error = (departures(real, "exact") - departures(real)).std() / 8**0.5
    assert abs(gap - expected) <= 3 * error
    torch.testing.assert_close(constraint.gap(real[::8]), departures(real)[::8].mean() - departures(real).mean())
    assert constraint.steps == 0


def test_standard_error_is_the_real_deviation_over_the_root_of_the_batch_size():
    real = images(64)
    assert fitted(real).standard_error(16).item() == pytest.approx(departures(real).std().item() / 4, rel=1e-5)


def test_same_input_gives_the_same_bits():
    first, second = fitted(epsilon=0.0), fitted(epsilon=0.0)
    results = []
    for constraint in (first, second):
        fake = images(6, seed=1, size=16, level=0.5).requires_grad_()
        constraint.fit_real([images(8, size=16)])
        penalty, _ = constraint(fake)
        penalty.backward()
        results.append((penalty, fake.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("call", [lambda d: d(images(2)), lambda d: d.gap(images(2)), lambda d: d.standard_error(8)])
def test_use_before_fit_real_is_refused(call):
    with pytest.raises(RuntimeError, match="call fit_real"):
        call(DDFN(scaling="signed"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": -1.0}, "epsilon is -1.0"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"relative_epsilon": -0.1}, "relative_epsilon is -0.1"),
        ({"weight": -1.0}, "weight is -1.0"),
        ({"decay": 1.0}, "decay is 1.0"),
        ({"every": 0}, "every is 0"),
        ({"estimator": "perrot"}, '"perrot".*exact, hybrid'),
        ({"factor": 0}, "factor is 0"),
    ],
)
def test_wrong_options_are_refused_with_what_was_given(options, message):
    with pytest.raises(ValueError, match=message):
        DDFN(**options)


@pytest.mark.parametrize(
    ("real", "message"),
    [(torch.full((4, 1, 8, 8), -1.0), "Δ² = 0 throughout"), (torch.zeros(4, 1, 8, 6), r"\(4, 1, 8, 6\)")],
)
def test_silent_and_oblong_real_images_are_refused(real, message):
    with pytest.raises(ValueError, match=message):
        DDFN(scaling="signed").fit_real([real])
