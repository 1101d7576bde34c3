from __future__ import annotations

import os

import pytest
from saved_states import IDENTITY, collapsed, files, flip, loaded_step, names, saved, state

from schurgan.runs.sidecar import by_score, sidecar_path
from schurgan.training.checkpoint import Checkpoints, read

# What is kept


def test_the_newest_ones_the_best_and_the_last_healthy_one_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, score, healthy in [(1, 9.0, True), (2, 5.0, True), (3, 7.0, True), (4, None, True), (5, 8.0, False)]:
        checkpoints.save(state(step), step, IDENTITY, score=score, healthy=healthy)
    assert list(checkpoints.records()) == [checkpoints.path(step) for step in (2, 4, 5)]
    checkpoints.save(state(6), 6, IDENTITY, healthy=False)
    assert [record.step for record in checkpoints.records().values()] == [2, 4, 5, 6]
    assert checkpoints.healthy_steps() == [2, 4]
    checkpoints.save(state(7), 7, IDENTITY, score=4.0)
    assert [record.step for record in checkpoints.records().values()] == [6, 7]  # 7 is the best and healthy


def test_a_new_process_knows_the_roles_from_the_files_alone(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step, score in [(1, 5.0), (2, 6.0), (3, 7.0)]:
        checkpoints.save(state(step), step, IDENTITY, score=score, healthy=step < 3)
    again = Checkpoints(tmp_path, keep=1)
    again.save(state(4), 4, IDENTITY, score=8.0, healthy=False)
    assert [record.step for record in again.records().values()] == [1, 2, 4]
    healthy = again.load_healthy(before=4)
    assert read(by_score(again.records())[0]).state["step"] == 1
    assert healthy is not None
    assert healthy.state["step"] == 2


def test_the_newest_of_equal_scores_is_the_best_and_a_score_that_is_not_finite_is_none(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=9)
    for step, score in [(1, 5.0), (2, 5.0), (3, float("nan")), (4, -float("inf"))]:
        checkpoints.save(state(step), step, IDENTITY, score=score)
    assert by_score(checkpoints.records())[0] == checkpoints.path(2)
    assert [record.score for record in checkpoints.records().values()] == [5.0, 5.0, None, None]


def test_what_is_later_than_the_state_saved_last_was_given_up_and_is_dropped(tmp_path):
    checkpoints = saved(tmp_path, 3, 12, 6)
    assert names(checkpoints) == ["step-00000003.pt", "step-00000006.pt"]
    assert loaded_step(checkpoints) == 6


def test_a_damaged_one_has_no_role_and_is_dropped_by_the_next_save(tmp_path):
    checkpoints = saved(tmp_path, 1, 2, 3, keep=2)
    os.truncate(checkpoints.paths()[-1], 1000)
    checkpoints.save(state(4), 4, IDENTITY)
    flip(sidecar_path(checkpoints.path(4)), -40)
    checkpoints.save(state(5), 5, IDENTITY)
    assert names(checkpoints) == ["step-00000002.pt", "step-00000005.pt"]


def test_files_that_are_no_checkpoints_are_left_alone(tmp_path):
    checkpoints = saved(tmp_path, 1)
    mine = ["step-best.pt", "step-best.json", "notes.json"]
    for name in mine:
        (checkpoints.folder / name).write_bytes(b"mine")
    checkpoints.keep = 1
    checkpoints.save(state(2), 2, IDENTITY)
    assert files(checkpoints) == [
        "notes.json",
        "step-00000002.json",
        "step-00000002.pt",
        "step-best.json",
        "step-best.pt",
    ]
    assert loaded_step(checkpoints) == 2


@pytest.mark.parametrize("step", [99_999_999, 100_000_000, 2**40])
def test_steps_of_more_digits_are_still_in_order(tmp_path, step):
    assert loaded_step(saved(tmp_path, step - 1, step, keep=2)) == step
    assert loaded_step(saved(tmp_path, step, step + 1, keep=2)) == step + 1


# Rollback


def test_the_last_healthy_one_before_a_step_is_found(tmp_path):
    checkpoints = collapsed(tmp_path)
    for before, step in [(99, 40), (40, 30), (35, 30), (30, 20)]:
        found = checkpoints.load_healthy(before)
        assert found is not None
        assert found.state["step"] == step
    assert checkpoints.load_healthy(before=10) is None


def test_after_a_rollback_the_new_attempt_is_the_newest_and_what_was_given_up_is_gone_but_for_the_best(tmp_path):
    checkpoints = collapsed(tmp_path)
    checkpoints.save(state(30), 30, IDENTITY, attempt=1)
    assert loaded_step(checkpoints) == 30  # a kill between the two does not lose the rollback
    checkpoints.drop_after(30, attempt=1)
    kept = ["step-00000010.pt", "step-00000020.pt", "step-00000030.pt", "step-00000050.pt", "step-00000030-a1.pt"]
    assert names(checkpoints) == kept
    checkpoints.save(state(40), 40, IDENTITY, attempt=1, healthy=False)
    found = checkpoints.load()
    assert found is not None
    assert (found.record.step, found.record.attempt) == (40, 1)
    healthy = checkpoints.load_healthy(before=45)
    assert healthy is not None
    assert (healthy.record.step, healthy.record.attempt) == (30, 1)


def test_the_eleventh_attempt_is_newer_than_the_second(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=9)
    for attempt in (2, 10, 11):
        checkpoints.save(state(50 - attempt), 50 - attempt, IDENTITY, attempt=attempt)
    assert names(checkpoints)[-1] == "step-00000039-a11.pt"
    assert loaded_step(checkpoints) == 39


def test_the_newest_one_that_is_trusted_stays_whatever_was_found_healthy_after_it(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in range(1, 9):
        checkpoints.save({"step": step}, step, IDENTITY, trusted=step - 4)
        known = [record.step for record in checkpoints.records().values()]
        assert len(known) <= 3
        assert step < 5 or any(saved <= step - 4 for saved in known)
    assert known == [4, 7, 8]
