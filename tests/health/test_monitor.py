from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator

import measured_runs
import pytest

from schurgan.health.monitor import RULES, Monitor, Verdict, held_out_position

EVERY, LAST = 50, 1400
COLLAPSES = [  # of three measured runs: Fréchet over twice its best, variety under half, accuracy over 95 % since; best
    (1000, 700, 650, 3.97),
    (1300, 500, 800, 4.92),
    (1100, 750, 650, 4.06),
]


def ramp(step: float, *points: tuple[float, float]) -> float:
    """Straight lines through (step, value) points."""
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if step <= x1:
            return y0 + (y1 - y0) * (step - x0) / (x1 - x0)
    return points[-1][1]


def collapsing(frechet: int, variety: int, accuracy: int, best: float) -> Iterator[tuple[int, dict[str, float]]]:
    """A run that memorises 150 windows without spectral normalisation: each signal crosses its line where measured."""
    for step in range(EVERY, LAST + 1, EVERY):
        crossing = frechet - EVERY / 2
        yield (
            step,
            {
                "frechet": ramp(
                    step,
                    (0, 30),
                    (350, best),
                    (500, best),
                    (crossing - 200, 1.3 * best),
                    (crossing, 2 * best),
                    (1500, 12),
                ),
                "variety": ramp(step, (0, 0.1), (200, 0.8), (variety - 200, 0.75), (variety - 25, 0.5), (1500, 0.27)),
                "accuracy_d": ramp(step, (0, 0.6), (accuracy - 25, 0.95), (accuracy + 200, 0.99)),
                "held_out": ramp(step, (0, 0.0), (175, 0.5), (400, 0.9)),
                "gap": ramp(step, (0, -0.58), (200, 0.03), (700, 0.1), (1150, 0.5), (1400, 0.8)),
                "gap_standard_error": 0.1,
            },
        )


def steady(
    seed: int, length: int = LAST, *, frechet: float = 2.5, variety: float = 0.75, noise: float = 0.12
) -> Iterator[tuple[int, dict[str, float]]]:
    """A run that becomes good and stays so, its Fréchet distance with log-normal noise."""
    draws = random.Random(seed)
    for step in range(EVERY, length + 1, EVERY):
        level = ramp(step, (0, 10 * frechet), (400, frechet), (length, frechet))
        yield (
            step,
            {
                "frechet": level * math.exp(draws.gauss(0, noise)),
                "variety": ramp(step, (0, 0.1), (250, variety), (length, variety)) + draws.gauss(0, 0.04),
                "accuracy_d": min(0.8 + draws.gauss(0, 0.05), 1.0),
                "gradient_g": 0.5 * math.exp(draws.gauss(0, 0.3)),
                "loss_d": 1.2 + draws.gauss(0, 0.2),
                "loss_g": draws.gauss(0, 0.3),
            },
        )


def follow(
    run: Iterator[tuple[int, dict[str, float]]],
    monitor: Monitor | None = None,
    until: Callable[[Verdict], bool] | None = None,
) -> Verdict:
    monitor = monitor or Monitor()
    for step, signals in run:
        verdict = monitor.update(step, **signals)
        if until and until(verdict):
            break
    return verdict


def replay(name: str) -> Iterator[tuple[int, dict[str, float]]]:
    """A run as it was measured, evaluation by evaluation."""
    for number, row in enumerate(measured_runs.RUNS[name], 1):
        yield number * EVERY, dict(zip(measured_runs.SIGNALS, row, strict=True))


def collapsed(verdict: Verdict) -> bool:
    return verdict.state == "collapsed"


def only(*names: str, **options: int) -> Monitor:
    return Monitor([RULES[name] for name in names], **options)


@pytest.mark.parametrize("measured", COLLAPSES)
def test_each_rule_alone_finds_a_measured_collapse_where_it_was_measured(measured):
    frechet, variety, accuracy, _best = measured
    verdict = follow(collapsing(*measured), only("frechet"), collapsed)
    assert (verdict.onset, verdict.step) == (frechet, frechet + 2 * EVERY)  # three evaluations
    assert verdict.best_step is not None
    assert 350 <= verdict.best_step <= 500  # flat there
    assert follow(collapsing(*measured), only("variety"), collapsed).onset == variety
    warned = follow(collapsing(*measured), only("accuracy_d"), lambda verdict: verdict.state == "warning")
    assert warned.step == accuracy + 2 * EVERY


@pytest.mark.parametrize("measured", COLLAPSES)
def test_together_the_earliest_sign_of_collapse_is_its_onset_and_the_step_to_go_back_to_lies_before_every_sign(
    measured,
):
    verdict = follow(collapsing(*measured), until=collapsed)
    assert verdict.onset == measured[1]
    assert verdict.healthy_step is not None
    assert 200 <= verdict.healthy_step < min(measured[1:3])
    assert measured[1] - verdict.healthy_step >= 3 * EVERY  # two evaluations after it were still well
    assert verdict.best_step is not None
    assert verdict.best_step < verdict.onset


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("none-0", {"held_out": 550, "accuracy_d": 750, "variety": 850, "frechet": 950}),
        ("none-1", {"held_out": 500, "accuracy_d": 750, "variety": 650, "variety_extreme": 1350}),
        ("sn-0", {"held_out": 550}),
    ],
)
def test_replays_of_measured_runs_put_these_rules_in_force_at_these_steps_and_no_other_rule(name, first):
    found = {}
    for rule in RULES:
        verdict = follow(replay(name), only(rule), lambda verdict: verdict.state != "healthy")
        if verdict.state != "healthy":
            found[rule] = verdict.step
    assert found == first


@pytest.mark.parametrize("name", ["none-0", "none-1"])
def test_a_measured_collapse_is_found_while_its_best_generator_is_still_in_reach(name):
    verdict = follow(replay(name), until=collapsed)
    assert verdict.state == "collapsed"
    assert verdict.best_step is not None
    assert verdict.healthy_step is not None
    distances = [signals["frechet_ema"] for _, signals in replay(name)]
    varieties = [signals["variety"] for _, signals in replay(name)]
    assert distances[verdict.best_step // EVERY - 1] < distances[-1]
    assert varieties[verdict.healthy_step // EVERY - 1] > 0.55 > 0.4 > varieties[-1]


def test_overfitting_warns_and_is_no_collapse_and_steps_under_it_can_be_gone_back_to():
    run = ((step, signals | {"held_out": 0.8}) for step, signals in steady(0))
    verdict = follow(run)
    assert verdict.state == "warning"
    assert len(verdict.reasons) == 1
    assert "held-out" in verdict.reasons[0]
    assert verdict.healthy_step == LAST - 2 * EVERY


def test_a_discriminator_that_wins_without_collapse_is_a_warning():
    run = (  # the variance control: accuracy over 95 % from 650, Fréchet distance 1.7 times its best at the end
        (
            step,
            signals
            | {"accuracy_d": 0.97 if step >= 650 else 0.8, "frechet": ramp(step, (0, 30), (500, 2.35), (1400, 4))},
        )
        for step, signals in steady(1)
    )
    verdict = follow(run)
    assert verdict.state == "warning"
    assert "since step 650" in verdict.reasons[0]
    assert verdict.healthy_step == 500  # the steps 550 and 600 vouch for it


def test_no_noisy_steady_run_of_a_hundred_is_called_collapsed_or_warned_of():
    states = {follow(steady(seed, 5000), until=lambda verdict: verdict.state != "healthy").state for seed in range(100)}
    assert states == {"healthy"}


def test_the_gap_alone_never_changes_the_verdict():
    monitor = Monitor()
    for step in range(100, 5000, 100):
        verdict = monitor.update(step, gap=0.9 if step > 1000 else 0.02, gap_standard_error=0.05)
        assert verdict.state == "healthy"
    assert monitor.record()["gap_low"] == pytest.approx(0.8)
    assert monitor.record()["gap_high"] == pytest.approx(1.0)


def test_an_untrained_generator_without_variety_is_not_collapsed_until_it_has_been_varied():
    monitor = only("variety", "never_varied")
    for step in range(50, 2050, 50):
        assert monitor.update(step, variety=0.1).state == "healthy"
    assert monitor.healthy_step is None  # nothing worth going back to
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


def test_the_first_evaluations_are_warm_up_however_late_they_come():
    monitor = only("frechet")
    for step, value in ((1000, 1.0), (2000, 9.0), (3000, 8.0), (4000, 7.0), (5000, 6.0), (6000, 5.0)):
        assert monitor.update(step, frechet=value).state == "healthy"


def test_a_rule_can_be_given_another_line():
    monitor = Monitor([dataclasses.replace(RULES["frechet"], factor=3.0)])  # type: ignore[call-arg]
    values = [4.0] * 10 + [11.0] * 5 + [13.0] * 3
    states = [monitor.update(100 * i, frechet=value).state for i, value in enumerate(values, 1)]
    assert states == ["healthy"] * 17 + ["collapsed"]


def test_one_lucky_evaluation_is_not_the_level_that_later_ones_are_held_against():
    monitor = only("frechet")
    values = [4.0] * 10 + [1.0] + [4.0] * 20
    assert all(monitor.update(100 * i, frechet=value).state == "healthy" for i, value in enumerate(values, 1))


def test_two_bad_evaluations_are_not_yet_a_collapse():
    monitor = only("frechet")
    values = [4.0] * 10 + [9.0, 9.0, 5.0] * 5
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


def test_an_initial_collapse_that_is_over_for_three_evaluations_ends():
    monitor = only("frechet", "frechet_extreme")
    values = [4.0] * 10 + [9.0] * 4 + [4.5] * 3
    states = [monitor.update(100 * i, frechet=value).state for i, value in enumerate(values, 1)]
    assert states == ["healthy"] * 12 + ["collapsed"] * 4 + ["healthy"]
    verdict = monitor.verdict()
    assert (verdict.onset, verdict.reasons) == (None, ())


def test_a_warning_clears_after_as_many_evaluations_as_made_it():
    monitor = only("accuracy_d")
    values = [0.7] * 5 + [0.97] * 3 + [0.8] * 3
    states = [monitor.update(100 * i, accuracy_d=value).state for i, value in enumerate(values, 1)]
    assert states == ["healthy"] * 7 + ["warning"] * 3 + ["healthy"]


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
    assert json.loads(json.dumps(monitor.record(), allow_nan=False)) == dict.fromkeys(nothing) | {"verdict": "healthy"}


def test_an_adversarial_gradient_ten_times_its_early_norm_warns():
    monitor = only("gradient_g")
    values = [1.0, 1.2, 0.8, 5.0, 1.0] + [9.9] * 5 + [10.1] * 3
    states = [monitor.update(100 * i, gradient_g=value).state for i, value in enumerate(values, 1)]
    assert states == ["healthy"] * 12 + ["warning"]


@pytest.mark.parametrize(
    ("rule", "signal", "healthy", "explodes"),
    [
        ("losses", "loss_d", 1.2, 30.0),
        ("losses", "loss_g", 0.0, -40.0),
        ("singular_values", "singular_values", 1.0, 4.0),
        ("gradient", "gradient_g", 0.5, 6.0),
    ],
)
def test_a_signal_far_outside_the_runs_healthy_past_warns(rule, signal, healthy, explodes):
    def measured(value: float) -> dict[str, object]:
        return {signal: {"generator.linear": value} if signal == "singular_values" else value}

    monitor, draws = only(rule), random.Random(0)
    for step in range(100, 3000, 100):
        assert monitor.update(step, **measured(healthy + draws.gauss(0, 0.05))).state == "healthy"
    states = [monitor.update(step, **measured(explodes)).state for step in (3000, 3100, 3200)]
    assert states == ["healthy", "healthy", "warning"]
    assert f"{abs(explodes):.3g}" in monitor.verdict().reasons[0]


def test_a_layer_that_is_constant_to_the_last_digit_may_move_a_little():
    monitor = only("singular_values")  # normalised layers: the median absolute deviation is 0
    values = [1.0] * 20 + [1.5] * 20
    states = {monitor.update(100 * i, singular_values={"d": x}).state for i, x in enumerate(values, 1)}
    assert states == {"healthy"}


def test_losses_between_evaluations_neither_end_nor_make_a_streak_of_another_signal():
    monitor = Monitor()
    for i in range(1, 14):
        monitor.update(100 * i, frechet=9.0 if i > 10 else 4.0, variety=0.8)
        verdict = monitor.update(100 * i + 50, loss_d=1.0)
    assert (verdict.state, verdict.onset) == ("collapsed", 1100)
    assert verdict.healthy_step == 800
    assert "3 times since step 1100" in verdict.reasons[0]


def test_the_running_averages_distance_decides_which_step_is_best_where_it_is_given():
    monitor = Monitor()
    for step, raw, average in ((400, 5.0, 6.0), (500, 3.0, 5.0), (600, 4.0, 2.5), (700, 4.5, 2.6)):
        monitor.update(step, frechet=raw, frechet_ema=average)
    assert monitor.best == (600, 2.5)


def test_the_record_of_an_evaluation_is_plain_json_with_a_number_for_each_layer():
    monitor = Monitor()
    monitor.update(
        1, frechet=2.0, singular_values={"generator.linear": 1.5, "generator.output": math.inf}, not_finite="x"
    )
    assert json.loads(json.dumps(monitor.record(), allow_nan=False)) == {
        "frechet": 2.0,
        "singular_values": {"generator.linear": 1.5, "generator.output": None},
        "not_finite": "x",
        "verdict": "collapsed",
    }


@pytest.mark.parametrize("cut", [0, 3, 9, 14, 20, 26])
def test_a_state_that_went_through_json_goes_on_exactly(cut):
    run = list(collapsing(*COLLAPSES[0]))
    straight, before, after = Monitor(), Monitor(), Monitor()
    expected = [straight.update(step, **signals) for step, signals in run]
    for step, signals in run[:cut]:
        before.update(step, **signals)
    after.load_state_dict(json.loads(json.dumps(before.state_dict(), allow_nan=False)))
    assert [after.update(step, **signals) for step, signals in run[cut:]] == expected[cut:]
    assert after.state_dict() == straight.state_dict()


def test_a_state_is_a_copy_and_going_back_to_it_forgets_the_collapse():
    monitor = Monitor()
    run = list(collapsing(*COLLAPSES[0]))
    for step, signals in run:
        monitor.update(step, **signals)
        if step == 500:
            saved = monitor.state_dict()
    assert monitor.verdict().state == "collapsed"
    monitor.load_state_dict(saved)
    assert (monitor.verdict().onset, monitor.verdict().step) == (None, 500)
    assert monitor.update(550, frechet=4.0, variety=0.8, accuracy_d=0.7).state != "collapsed"


def test_reasons_begin_with_the_collapse_and_say_what_since_when_and_what_helps():
    verdict = follow(collapsing(*COLLAPSES[0]))
    assert verdict.state == "collapsed"
    assert verdict.reasons[0].startswith("the variety within a class was 0.")
    assert "since step 700; go back" in verdict.reasons[0]
    assert verdict.reasons[1].startswith("the Fréchet distance was ")
    assert "its best level, 3.97, " in verdict.reasons[1]
    assert "since step 1000; go back" in verdict.reasons[1]
    assert "held-out" in verdict.reasons[2]
    assert all("\n" not in reason and "; " in reason for reason in verdict.reasons)


@pytest.mark.parametrize(
    ("signals", "named"),
    [({"accuracy_d": 97.0}, "accuracy_d"), ({"variety": -0.1}, "variety"), ({"variety_batch": -1.0}, "variety_batch")],
)
def test_shares_out_of_range_are_named(signals, named):
    with pytest.raises(ValueError, match=f"^{named}: "):
        Monitor().update(1, **signals)


def test_steps_that_go_back_and_odd_options_are_named():
    monitor = Monitor()
    monitor.update(5)
    with pytest.raises(ValueError, match="step: 4 given after 5"):
        monitor.update(4)
    with pytest.raises(ValueError, match="patience: 0 given"):
        Monitor(patience=0)
    with pytest.raises(ValueError, match="rules: "):
        only("frechet", "frechet")
    with pytest.raises(ValueError, match="state: format"):
        monitor.load_state_dict({})


def test_held_out_position_runs_from_training_to_generated_scores_and_is_nan_without_a_margin():
    assert held_out_position(2.0, 2.0, -1.0) == 0
    assert held_out_position(2.0, -1.0, -1.0) == 1
    assert held_out_position(2.0, 0.5, -1.0) == 0.5
    assert math.isnan(held_out_position(1.0, 0.0, 1.0))
    assert math.isnan(held_out_position(-1.0, 0.0, 1.0))


def test_distances_below_what_real_images_reach_are_not_told_apart():
    def last(**floor: float) -> str:
        monitor = Monitor([RULES["frechet"]], warm_up=0, settle=0)
        for step in range(10):
            monitor.update(step, frechet=0.01, **floor)
        return [monitor.update(10 + step, frechet=0.05, **floor).state for step in range(5)][-1]

    assert last() == "collapsed"
    assert last(frechet_floor=0.03) == "healthy"
