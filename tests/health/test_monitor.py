"""Verdicts of all rules together, and the state of a monitor."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from replayed_runs import COLLAPSES, EVERY, LAST, collapsed, collapsing, follow, only, ramp, replay, steady

from schurgan.health import RULES, Monitor


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


def test_the_first_evaluations_are_warm_up_however_late_they_come():
    monitor = only("frechet")
    for step, value in ((1000, 1.0), (2000, 9.0), (3000, 8.0), (4000, 7.0), (5000, 6.0), (6000, 5.0)):
        assert monitor.update(step, frechet=value).state == "healthy"


def test_two_bad_evaluations_are_not_yet_a_collapse():
    monitor = only("frechet")
    values = [4.0] * 10 + [9.0, 9.0, 5.0] * 5
    assert all(monitor.update(100 * i, frechet=value).state == "healthy" for i, value in enumerate(values, 1))


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
    assert monitor.verdict().best_step == 600


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


def test_reasons_begin_with_the_collapse_and_give_numbers_and_steps():
    first, second, *others = follow(collapsing(*COLLAPSES[0])).reasons
    assert "variety" in first
    assert "since step 700; " in first
    assert "Fréchet" in second
    assert "3.97, " in second
    assert "since step 1000; " in second
    assert "held-out" in others[0]
    assert all("\n" not in reason and "; " in reason for reason in (first, second, *others))


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


def test_an_unknown_signal_is_named():
    with pytest.raises(TypeError, match=r"^fid: "):
        Monitor().update(1, fid=3.0)  # type: ignore[call-arg]


def test_numbers_of_a_tensor_library_leave_plain_json_in_the_state():
    numpy = pytest.importorskip("numpy")
    monitor = Monitor(warm_up=0, settle=0)
    for step in range(5):
        monitor.update(
            step, frechet=numpy.float32(3), variety=numpy.float64(0.8), singular_values={"g": numpy.float32(1)}
        )
    again = Monitor()
    again.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    assert again.verdict() == monitor.verdict()


@pytest.mark.parametrize("statement", ["from schurgan.health import Monitor", "import schurgan"])
def test_the_monitor_and_the_package_itself_are_imported_without_torch(statement):
    code = f"import sys; {statement}; print(sorted({{'torch', 'numpy', 'pydantic', 'yaml'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
