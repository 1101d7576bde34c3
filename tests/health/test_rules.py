"""Each rule alone: what puts it in force, and what does not."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
from replayed_runs import only

from schurgan.health import RULES, Monitor


def test_the_gap_alone_never_changes_the_verdict():
    monitor = Monitor()
    for step in range(100, 5000, 100):
        verdict = monitor.update(step, gap=0.9 if step > 1000 else 0.02, gap_standard_error=0.05)
        assert verdict.state == "healthy"


def test_an_untrained_generator_without_variety_is_not_collapsed_until_it_has_been_varied():
    monitor = only("variety", "never_varied")
    for step in range(50, 2050, 50):
        assert monitor.update(step, variety=0.1).state == "healthy"
    assert monitor.verdict().healthy_step is None  # nothing worth going back to
    monitor.update(2050, variety=0.6)
    states = [monitor.update(step, variety=0.3).state for step in (2100, 2150, 2200)]
    assert states == ["healthy", "healthy", "collapsed"]
    assert monitor.verdict().onset == 2100


def test_a_discriminator_that_scores_everything_alike_is_a_collapse_whatever_its_distances_are():
    monitor = Monitor(warm_up=100)
    states = [
        monitor.update(step, frechet=8.0, variety=0.9, gradient_g=size).state
        for step, size in ((100, 0.4), (150, 1e-3), (200, 0.0), (250, 0.0), (300, 0.0))
    ]
    assert states == ["healthy"] * 4 + ["collapsed"]
    verdict = monitor.verdict()
    assert verdict.onset == 200
    assert "scores all images alike" in verdict.reasons[0]
    assert "lower learning rate of the discriminator" in verdict.reasons[0]


def test_a_run_that_never_becomes_varied_is_collapsed_after_the_grace():
    monitor = only("variety", "variety_extreme", "never_varied", grace=1000)
    states = {step: monitor.update(step, variety=0.1).state for step in range(100, 1400, 100)}
    assert [step for step, state in states.items() if state == "collapsed"] == [1200, 1300]
    verdict = monitor.verdict()
    assert (verdict.onset, verdict.extreme, verdict.healthy_step) == (1000, None, None)
    assert "never been over 0.5" in verdict.reasons[0]


def test_a_slow_run_that_is_varied_a_little_is_no_failure_after_the_grace():
    monitor = Monitor(grace=1000)
    assert all(monitor.update(step, variety=0.4).state == "healthy" for step in range(100, 3000, 100))


def test_a_lucky_evaluation_before_the_warm_up_is_not_the_best_that_later_ones_are_held_against():
    monitor = only("frechet")
    monitor.update(100, frechet=1.0)
    assert all(monitor.update(step, frechet=3.0).state == "healthy" for step in range(300, 1500, 100))


def test_a_rule_can_be_given_another_line():
    monitor = Monitor([dataclasses.replace(RULES["frechet"], factor=3.0)])  # type: ignore[call-arg]
    values = [4.0] * 10 + [11.0] * 5 + [13.0] * 3
    states = [monitor.update(100 * i, frechet=value).state for i, value in enumerate(values, 1)]
    assert states == ["healthy"] * 17 + ["collapsed"]


def test_one_lucky_evaluation_is_not_the_level_that_later_ones_are_held_against():
    monitor = only("frechet")
    values = [4.0] * 10 + [1.0] + [4.0] * 20
    assert all(monitor.update(100 * i, frechet=value).state == "healthy" for i, value in enumerate(values, 1))


def test_exactly_twice_the_best_and_exactly_half_the_variety_are_on_the_healthy_side():
    monitor = Monitor()
    values = [(2.0, 1.0)] * 10 + [(4.0, 0.5)] * 10
    assert {monitor.update(100 * i, frechet=f, variety=v).state for i, (f, v) in enumerate(values, 1)} == {"healthy"}


def test_extreme_begins_where_the_stricter_line_is_crossed_for_good():
    monitor = only("frechet", "frechet_extreme")
    values = [4.0] * 10 + [9.0] * 4 + [17.0] * 2 + [9.0] + [17.0] * 3
    for i, value in enumerate(values, 1):
        verdict = monitor.update(100 * i, frechet=value)
    assert (verdict.state, verdict.onset, verdict.extreme, verdict.best_step) == ("collapsed", 1100, 1800, 100)
    for i in range(len(values) + 1, len(values) + 10):  # past recovery, whatever comes
        verdict = monitor.update(100 * i, frechet=3.0)
    assert (verdict.state, verdict.onset, verdict.extreme, verdict.best_step) == ("collapsed", 1100, 1800, 100)


@pytest.mark.parametrize("name", ["loss_d", "loss_g", "gradient_g", "frechet", "frechet_ema", "variety", "margin"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_must_be_finite_and_is_not_is_a_collapse_at_once_and_past_recovery(name, value):
    monitor = Monitor()
    monitor.update(1, **{name: 0.7})
    verdict = monitor.update(2, **{name: value})
    assert (verdict.state, verdict.onset, verdict.extreme) == ("collapsed", 2, 2)
    assert name in verdict.reasons[0]
    assert monitor.update(3, **{name: 0.7}).state == "collapsed"


def test_a_named_tensor_and_a_singular_value_that_are_not_finite_are_named():
    assert "generator.linear.weight" in Monitor().update(5, not_finite="generator.linear.weight").reasons[0]
    verdict = Monitor().update(5, singular_values={"generator.linear": 2.0, "generator.output": math.nan})
    assert "generator.output" in verdict.reasons[0]


def test_nan_means_no_number_where_a_number_need_not_exist():
    monitor = Monitor()
    nothing = {"held_out": math.nan, "variety_batch": math.nan, "accuracy_d": math.nan, "gap": math.nan}
    for step in range(100, 1000, 100):
        assert monitor.update(step, **nothing).state == "healthy"


def test_an_adversarial_gradient_ten_times_its_early_norm_warns():
    monitor = only("gradient_g")
    values = [1.0, 1.2, 0.8, 5.0, 1.0] + [9.9] * 5 + [10.1] * 3
    states = [monitor.update(100 * i, gradient_g=value).state for i, value in enumerate(values, 1)]
    assert states == ["healthy"] * 12 + ["warning"]


def test_a_singular_value_far_outside_the_runs_healthy_past_warns():
    monitor, draws = only("singular_values"), random.Random(0)
    for step in range(100, 3000, 100):
        values = {"generator.linear": 1 + draws.gauss(0, 0.05), "generator.output": 2.0}
        assert monitor.update(step, singular_values=values).state == "healthy"
    values = {"generator.linear": 4.0, "generator.output": 2.0}
    states = [monitor.update(step, singular_values=values).state for step in (3000, 3100, 3200)]
    assert states == ["healthy", "healthy", "warning"]
    assert "generator.linear was 4" in monitor.verdict().reasons[0]


def test_a_singular_value_that_has_always_grown_may_go_on_growing():
    monitor = only("singular_values")  # over three times its median at the end, and within ten deviations of it
    states = {monitor.update(100 * i, singular_values={"d": 1.2**i}).state for i in range(1, 20)}
    assert states == {"healthy"}


def test_a_layer_that_is_constant_to_the_last_digit_may_move_a_little():
    monitor = only("singular_values")  # normalised layers: the median absolute deviation is 0
    values = [1.0] * 20 + [1.5] * 20
    states = {monitor.update(100 * i, singular_values={"d": x}).state for i, x in enumerate(values, 1)}
    assert states == {"healthy"}


def test_distances_below_what_real_images_reach_are_not_told_apart():
    def last(**floor: float) -> str:
        monitor = Monitor([RULES["frechet"]], warm_up=0, settle=0)
        for step in range(10):
            monitor.update(step, frechet=0.01, **floor)
        return [monitor.update(10 + step, frechet=0.05, **floor).state for step in range(5)][-1]

    assert last() == "collapsed"
    assert last(frechet_floor=0.03) == "healthy"
