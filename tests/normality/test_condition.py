"""What every condition on a generator must do: fit, refuse, be used by a step, and resume from a state."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from reference_images import HINGE, fitted_ddfn, fitted_moments, gradient, images, labels

from schurgan.normality import DDFN, Condition, MomentMatching

BUILD = {
    "DDFN": lambda: DDFN(relative_epsilon=0.02, decay=0.9, every=2),
    "DDFN per class": lambda: DDFN(relative_epsilon=0.02, decay=0.9, per_class=True, penalty="augmented"),
    "witness": lambda: MomentMatching("gram", classes=3, decay=0.8),
    "hinge": lambda: MomentMatching("dfn", classes=3, epsilon=0.02, **HINGE),
}
REAL = [(images(60, level=0.7), labels(60))]


@pytest.fixture(params=BUILD)
def build(request):
    """Make a condition that is not fitted."""
    return BUILD[request.param]


@pytest.fixture
def condition(build):
    """One that is fitted."""
    condition = build()
    condition.fit_real(REAL)
    return condition


def steps(condition, seeds):
    """All numbers of some training steps."""
    numbers = []
    for seed in seeds:
        condition.observe(images(7, seed=100 + seed, level=0.4), labels(7))
        fake = images(7, seed=seed, level=0.4)
        before = copy.deepcopy(condition.state_dict())
        slope = gradient(condition, fake, labels(7))
        condition.load_state_dict(before)  # so that the next line is the same step
        penalty, stats = condition(fake, labels(7))
        numbers += [penalty, slope, condition.scale(fake, slope), *stats]
    return numbers


def test_a_step_of_training_uses_every_condition_alike(condition):
    step: Condition = condition
    fake = images(6, seed=1, level=0.3).requires_grad_()
    step.observe(fake.detach(), labels(6))
    finish = step.begin(fake, labels(6))
    (g_adversarial,) = torch.autograd.grad(fake.square().sum(), fake)
    penalty, stats = finish()
    (g_penalty,) = torch.autograd.grad(penalty, fake)
    factor = step.scale(g_adversarial, g_penalty)
    assert penalty.shape == factor.shape == ()
    assert factor > 0 < g_penalty.norm()
    assert all(not value.requires_grad and value.shape == () for value in stats._asdict().values())


@pytest.mark.parametrize("estimator", ["hybrid", "exact", "perron"])
@pytest.mark.parametrize("per_class", [False, True])
def test_moment_matching_of_the_departures_mean_by_a_hinge_is_ddfn(estimator, per_class):
    real, classes = images(60, level=0.7, channels=2), labels(60)
    options = {"weight": 3.0, "decay": 0.9, "per_class": per_class, "estimator": estimator}
    ddfn = DDFN(relative_epsilon=0.02, scaling="unit", **options)
    ddfn.fit_real([(real, classes)])
    moments = fitted_moments("dfn", real, classes, epsilon=0.02, **HINGE, **options)
    torch.testing.assert_close(moments.real_mean[:, 0], ddfn.real_mean, rtol=0, atol=0)
    for step, level in enumerate((0.2, 0.9, 0.72, 0.3, 0.7)):
        fake = images(7, seed=step, level=level, channels=2)
        moments.observe(images(5, channels=2), labels(5))  # the hinge takes none from here
        slope, truth = (gradient(each, fake, labels(7)) for each in (moments, ddfn))
        # One averages Δ² less its mean, the other takes the mean off the average: float32's rounding.
        torch.testing.assert_close(slope, truth, rtol=1e-6, atol=1e-6 * truth.abs().max().item())
        torch.testing.assert_close(moments.ema_gap()[:, 0], ddfn.ema - ddfn.real_mean, rtol=1e-5, atol=1e-5)
        for each in (moments, ddfn):  # the same without a step of the moving average, in both
            each.eval()
        (penalty, stats), (expected, theirs) = moments(fake, labels(7)), ddfn(fake, labels(7))
        assert penalty.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-6)
        assert stats.active == theirs.active
        assert moments.scale(fake, slope) == ddfn.scale(fake, slope) == 1
        for each in (moments, ddfn):
            each.train()


def test_run_resumed_from_a_saved_state_goes_on_bit_for_bit(condition, build):
    steps(condition, range(3))
    file = io.BytesIO()
    torch.save(condition.state_dict(), file)
    file.seek(0)
    resumed = build()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.fingerprint == condition.fingerprint
    for one, other in zip(steps(condition, range(3, 7)), steps(resumed, range(3, 7)), strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(resumed.get_buffer(name), buffer) for name, buffer in condition.named_buffers())


def test_state_inside_another_module_is_checked_and_loaded_too():
    outer, inner = torch.nn.ModuleDict({"ddfn": DDFN(scaling="signed")}), fitted_ddfn()
    outer.load_state_dict({f"ddfn.{name}": value for name, value in inner.state_dict().items()})
    assert torch.equal(outer["ddfn"].real_mean, inner.real_mean)
    with pytest.raises(ValueError, match="hybrid x2"):
        torch.nn.ModuleDict({"ddfn": DDFN(estimator="exact", scaling="signed")}).load_state_dict(outer.state_dict())


@pytest.mark.parametrize(
    ("fit", "here", "there"),
    [
        (fitted_ddfn, {"estimator": "exact"}, {}),
        (fitted_ddfn, {"factor": 4}, {}),
        (fitted_ddfn, {"scaling": "unit"}, {}),
        (fitted_ddfn, {"orientation": "descending"}, {}),
        (fitted_ddfn, {"channels": "sum"}, {}),
        (fitted_moments, {"per_class": False}, {}),
        (fitted_moments, {"descriptor": "profile"}, {}),
        (fitted_moments, {"spread": False}, {}),
        (fitted_moments, {"classes": 4}, {}),
        (fitted_moments, {"descriptor": "dfn"}, {"descriptor": "dfn", "estimator": "exact"}),
    ],
)
def test_state_fitted_in_another_way_is_refused_and_changes_nothing(fit, here, there):
    condition = fit(**here)
    before = copy.deepcopy(condition.state_dict())
    with pytest.raises(ValueError, match=r"do not compare.*run fit_real again"):
        condition.load_state_dict(fit(**there).state_dict())
    assert all(torch.equal(buffer, before[name]) for name, buffer in condition.named_buffers())


def test_state_fitted_on_other_data_is_refused_unless_nothing_was_fitted_here(condition, build):
    state = copy.deepcopy(condition.state_dict())
    other = build()
    other.fit_real([(images(60, seed=9), labels(60))])
    share = other.ema_sum.clone()
    with pytest.raises(ValueError, match="fitted on other real images"):
        other.load_state_dict(state)
    assert torch.equal(other.ema_sum, share)
    same = build()
    same.fit_real(REAL)
    same.load_state_dict(state)
    build().load_state_dict(state)


def test_state_of_another_version_is_refused_in_one_sentence(condition, build):
    state = condition.state_dict()
    del state["real_share"]
    with pytest.raises(ValueError, match=r"another version, without real_share: run fit_real again$"):
        build().load_state_dict(state)


def test_fitting_again_starts_afresh(condition):
    fresh = copy.deepcopy(condition.state_dict())
    steps(condition, range(3))
    assert condition.ema_count.sum() > 0
    condition.fit_real(REAL)
    assert condition.get_extra_state() == fresh.pop("_extra_state")
    assert all(torch.equal(condition.get_buffer(name), value) for name, value in fresh.items())


def test_fit_real_reads_its_loader_once_and_counts_the_images(build):
    condition = build()
    condition.fit_real((images(4, seed=seed), labels(4)) for seed in range(3))  # a generator cannot be read twice
    assert condition.real_count == 12


def test_fingerprint_knows_the_data_but_not_its_order_or_batches(condition, build):
    (real, classes), other = REAL[0], images(60, level=0.7)
    shuffled, changed = build(), build()
    shuffled.fit_real(zip(real.flip(0).split(13), classes.flip(0).split(13), strict=True))
    assert shuffled.fingerprint == condition.fingerprint
    other[3, 0, 1, 2] += 1e-6
    changed.fit_real([(other, classes)])
    assert changed.fingerprint != condition.fingerprint


def test_images_without_a_channel_axis_are_images_of_one_channel(condition, build):
    without = build()
    without.fit_real([(real[:, 0], classes) for real, classes in REAL])
    fake = images(4, seed=1, level=0.3)
    condition.observe(fake, labels(4))
    without.observe(fake[:, 0], labels(4))
    assert torch.equal(condition(fake, labels(4))[0], without(fake[:, 0], labels(4))[0])


@pytest.mark.parametrize(
    ("batches", "named"),
    [
        ([], "0 real images"),
        ([(images(1), labels(1))], "1 real images"),
        ([(images(4) * 255, labels(4))], r"values in \[−1, 1\]"),
        ([(torch.full((4, 1, 8, 8), float("nan")), labels(4))], "from nan to nan"),
        ([(torch.zeros(8, 8), labels(8))], r"\(8, 8\)"),
        ([(images(4), labels(4)), (images(4, size=16), labels(4))], r"\(1, 8, 8\) and of \(1, 16, 16\)"),
    ],
)
def test_unusable_real_images_are_refused_with_what_was_given(build, batches, named):
    with pytest.raises(ValueError, match=named):
        build().fit_real(batches)


@pytest.mark.parametrize(
    ("batch", "named"),
    [
        (images(4), "labels"),
        ((images(4), torch.arange(4)), "from 0 to 3: 0 to 2"),
        ((images(2), -labels(2)), "from -1"),
    ],
)
def test_labels_that_are_missing_or_impossible_are_refused(batch, named):
    with pytest.raises(ValueError, match=named):
        MomentMatching("gram", classes=3).fit_real([batch])
    if not named.startswith("from 0"):  # DDFN counts its classes itself
        with pytest.raises(ValueError, match=named):
            DDFN(per_class=True).fit_real([batch])


def test_use_before_fit_real_is_refused(build):
    for call in ("__call__", "begin"):
        with pytest.raises(RuntimeError, match="fit_real"):
            getattr(build(), call)(images(2), labels(2))


def test_generated_images_of_another_shape_and_missing_labels_are_refused(condition):
    with pytest.raises(ValueError, match=r"\(1, 16, 16\), the real ones were \(1, 8, 8\)"):
        condition(images(4, size=16), labels(4))
    if condition.per_class:
        with pytest.raises(ValueError, match="none given"):
            condition(images(2))
        with pytest.raises(ValueError, match=r"\(3,\) given"):
            condition.begin(images(2), labels(3))
