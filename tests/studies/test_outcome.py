from __future__ import annotations

import pytest

from schurgan.core.errors import SchurganError
from schurgan.runs.folder import RunFolder
from schurgan.runs.records import Event, HealthRecord, Records
from schurgan.studies.trial import Outcome, judge, read_outcome


def health(step: int, frechet: float | None, variety: float = 1.0) -> HealthRecord:
    return HealthRecord(step, scores={"frechet_ema": frechet, "variety": variety}, verdict="healthy")


def collapsed(step: int, onset: int | None, extreme: int | None = None) -> Event:
    return Event(step, "collapsed", reason="why", onset=onset, extreme=extreme)


def test_a_run_without_a_collapse_is_finished_with_its_best_step_of_all():
    found = judge(Records([], [health(10, 4.0), health(20, 2.0), health(30, 3.0, 0.9)], []))
    assert found == Outcome("finished", best_step=20, worse=1.5, variety=0.9)


def test_a_collapse_has_the_best_step_before_its_onset_and_the_first_onset_counts():
    lines = [health(10, 4.0), health(20, 5.0), health(30, 3.0), health(40, 12.0, 0.2)]
    events = [collapsed(40, 30), Event(50, "recovered"), collapsed(70, 60, 70)]
    found = judge(Records([], lines, events))
    assert (found.state, found.onset, found.extreme, found.best_step) == ("collapsed", 30, 70, 10)
    assert (found.reason, found.worse, found.variety) == ("why", 4.0, 0.2)


def test_the_extreme_onset_may_come_after_the_last_event():
    records = Records([], [health(10, 4.0)], [collapsed(40, 30)])
    assert judge(records, {"extreme": 90}).extreme == 90
    assert judge(records).extreme is None


def test_a_number_that_is_not_finite_collapses_where_it_was_seen():
    assert judge(Records([], [], [collapsed(7, None)])).onset == 7


def test_the_raw_distance_counts_where_there_is_no_other():
    line = HealthRecord(5, scores={"frechet": 2.0})
    assert judge(Records([], [line], [])).best_step == 5


def test_what_is_written_is_read_again(tmp_path):
    assert read_outcome(tmp_path) is None
    known = Outcome("collapsed", "why", 10, None, 5, 5, 2.5, 0.3)
    known.save(tmp_path)
    assert read_outcome(tmp_path) == known


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "schurgan-outcome/1", "mood": "good"}'])
def test_a_damaged_file_is_named(tmp_path, text):
    (RunFolder(tmp_path).outcome).write_text(text)
    with pytest.raises(SchurganError, match=r"outcome\.json: "):
        read_outcome(tmp_path)
