"""The top of the page: what it answers, what it explains, what it advises."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from schurgan.evaluation.metric_table import ABOUT
from schurgan.report.answers import Answer, Verdict, judge_sounds, judge_training, next_steps
from schurgan.runs.folder import RunFolder
from schurgan.runs.records import Event, HealthRecord, Records, Row
from schurgan.runs.status import Status

GOOD = Verdict(
    real_accuracy=0.8,
    generated_accuracy=0.8,
    per_class={"dog": 0.8, "rain": 0.8},
    variety={"dog": 1.1, "rain": 0.9},
    nearest_training=1.0,
    nearest_held_out=None,
    size=32,
    n_train=300,
    n_test=60,
    n_generated=24,
    truncation=1.0,
    step=400,
    seed=1,
)
HEALTHY = HealthRecord(400, scores={"frechet": 2.0, "frechet_ema": 1.0, "variety": 0.9}, verdict="healthy")
TERMS = {"Class accuracy": "accuracy", "Variety": "variety", "Distance": "nearest_training"}


def verdict(**changes: object) -> Verdict:
    return dataclasses.replace(GOOD, **changes)


def answers(**changes: object) -> dict[str, Answer]:
    return {each.question: each for each in judge_sounds(verdict(**changes), "sound", "recording")}


def records(*events: str, health: tuple[HealthRecord, ...] = (HEALTHY,)) -> Records:
    return Records([], list(health), [Event(10 * step, kind) for step, kind in enumerate(events, 1)])


def status(state: str, **changes: object) -> Status:
    known = Status("run", "finished", 400, 400, 0, 2.0, None, 5.0, Row(400), HEALTHY, (), ())
    return dataclasses.replace(known, state=state, **changes)


def advice(tmp_path: Path, state: Status | None, found: Verdict | None, evaluated: bool = False) -> str:
    return " ".join(next_steps(RunFolder(tmp_path / "my run"), state, found, evaluated=evaluated))


def test_each_term_of_an_answer_is_explained_beside_it_once():
    given = answers()
    assert set(given) == {"How good?", "How varied?", "Copied?"}
    about = " ".join(each.about for each in given.values())
    for term, name in TERMS.items():
        (using,) = (each for each in given.values() if re.search(rf"\b{term} \d", each.text))
        assert using.about.startswith(term)
        assert ABOUT[name] in using.about
        assert about.count(ABOUT[name]) == 1
    for each in given.values():
        assert 'class="about"' in each.html()


def test_the_top_uses_no_word_that_it_does_not_explain():
    given = [*answers().values(), judge_training(records())]
    text = " ".join(f"{each.short} {each.text}" for each in given)
    assert not re.search(r"Fréchet|averaged|EMA|DDFN|FID|None|nan", text)


@pytest.mark.parametrize(
    ("changes", "question", "tone"),
    [
        ({}, "How good?", "good"),
        ({"generated_accuracy": 0.3}, "How good?", "warn"),
        ({"real_accuracy": 0.6, "generated_accuracy": 0.6}, "How good?", "plain"),  # the classifier knows nothing
        ({"per_class": {"dog": 1.0}}, "How good?", "plain"),  # with one class it is always right
        ({}, "How varied?", "good"),
        ({"variety": {"dog": 0.1, "rain": 0.2}}, "How varied?", "bad"),
        ({"variety": {"dog": 0.7, "rain": 0.6}}, "How varied?", "warn"),
        ({"variety": {"dog": 1.7, "rain": 1.6}}, "How varied?", "warn"),
        ({}, "Copied?", "good"),
        ({"nearest_training": 0.1}, "Copied?", "warn"),
    ],
)
def test_the_tone_says_whether_a_number_is_good(changes, question, tone):
    assert answers(**changes)[question].tone == tone


def test_what_held_out_recordings_have_stands_beside_the_distance():
    assert "held out" not in answers()["Copied?"].text
    assert "1.07" in answers(nearest_held_out=1.07)["Copied?"].text


def test_what_is_not_known_is_not_answered():
    assert set(answers(variety={"dog": 0.0, "rain": 0.0}, nearest_training=None)) == {"How good?"}


def test_shares_of_few_are_counts_and_the_least_varied_class_is_named():
    given = answers(n_test=500)
    assert "19 of 24 generated sounds" in given["How good?"].text
    assert "80% of 500 recordings" in given["How good?"].text
    assert "“rain”: 0.90" in given["How varied?"].text


@pytest.mark.parametrize(
    ("known", "tone"),
    [
        (records(), "good"),
        (records(health=()), "plain"),
        (records(health=(dataclasses.replace(HEALTHY, verdict=None),)), "plain"),
        (records(health=(dataclasses.replace(HEALTHY, verdict="warning", reasons=("D <leads>",)),)), "warn"),
        (records(health=(HEALTHY, dataclasses.replace(HEALTHY, verdict="collapsed"))), "bad"),
    ],
)
def test_health_is_that_of_the_last_evaluation(known, tone):
    answer = judge_training(known)
    assert answer.tone == tone
    assert "collapse" in answer.about
    assert "<leads>" not in answer.html()


def test_rollbacks_are_counted():
    assert "rolled back 1 time." in judge_training(records("collapsed", "rollback", "finished")).text
    assert "rolled back 2 times." in judge_training(records("rollback", "rollback")).text
    assert "rolled back" not in judge_training(records("finished")).text


def test_a_run_that_stopped_early_is_to_be_resumed_first(tmp_path):
    for state in ("interrupted", "silent"):
        known = status(state, step=90)
        steps = next_steps(RunFolder(tmp_path / "my run"), known, verdict(generated_accuracy=0.2), evaluated=False)
        assert f"`schurgan resume '{tmp_path}/my run'`" in steps[0]
        assert not any("--train.steps" in step for step in steps)


def test_a_finished_run_is_advised_by_what_is_wrong_with_it(tmp_path):
    done = status("finished")
    assert "--train.steps 800" in advice(tmp_path, done, verdict(generated_accuracy=0.3))
    assert "gram" in advice(tmp_path, done, verdict(variety={"dog": 0.4, "rain": 0.5}))
    assert "--regularize.augment" in advice(tmp_path, done, verdict(nearest_training=0.1))
    assert "--regularize.augment" in advice(tmp_path, status("stopped"), verdict())
    assert "--size 64" in advice(tmp_path, done, verdict())
    assert "--size" not in advice(tmp_path, done, verdict(size=None))
    well = advice(tmp_path, done, verdict(size=None))
    assert "schurgan sample" in well
    assert "schurgan evaluate" in well
    assert "schurgan evaluate" not in advice(tmp_path, done, verdict(size=None), evaluated=True)


def test_nothing_is_advised_where_nothing_is_known(tmp_path):
    assert advice(tmp_path, None, None) == ""
