from __future__ import annotations

import math

import pytest
from small_study import score, small_study

from schurgan.core.errors import SchurganError
from schurgan.studies.study import read_study
from schurgan.studies.table import compare_parts, effect, paired_runs, save_table
from schurgan.studies.trial import read_results


@pytest.fixture
def compared():
    return read_study("small", small_study(comparisons=[["with", "without"]]))


def test_pairs_are_of_the_same_seed_and_sizes_are_compared_by_their_ratio(compared, trials, tmp_path):
    for seed, (ours, theirs) in enumerate(((10.0, 20.0), (12.0, 12.0), (7.0, None))):
        onset = 300 if seed else None
        state = "collapsed" if onset else "finished"
        score(trials[f"a-laptop-{seed}"], ours, 2.0 + seed, worse=2.0)
        if theirs is not None:
            score(trials[f"b-laptop-{seed}"], theirs, 1.0, state=state, onset=onset, worse=1.0)
    score(trials["a.linear-laptop-0"], 99.0)
    ((comparison, pairs),) = paired_runs(compared, "laptop", read_results(list(trials.values()))).items()
    assert comparison == ("with", "without", "sounds")
    assert [(one.trial.name, other.trial.name) for one, other in pairs] == [
        ("a-laptop-0", "b-laptop-0"),
        ("a-laptop-1", "b-laptop-1"),
    ]
    fid, inception = effect(pairs, "fid"), effect(pairs, "inception_score")
    assert fid is not None
    assert fid.mean == pytest.approx(math.sqrt(0.5))
    # Student's t with one degree of freedom, 12.706, times a standard error of 0.5
    assert inception is not None
    assert (inception.mean, inception.low) == (pytest.approx(1.5), pytest.approx(1.5 - 12.7062 / 2, abs=1e-3))
    assert effect(pairs, "end_variety") is None
    text = save_table(compared, "laptop", list(trials.values()), tmp_path)
    line = next(line for line in text.splitlines() if line.startswith("| with against without"))
    assert "| sounds | 2 |" in line
    assert "2.00 [2.00, 2.00]" in line
    assert line.endswith("| 0 | 1 |")


def test_a_difference_takes_values_of_nothing_and_a_ratio_does_not(compared, trials):
    for seed, gone in enumerate((0.0, 0.5)):
        score(trials[f"a-laptop-{seed}"], 10.0, variety=gone, worse=gone)
        score(trials[f"b-laptop-{seed}"], 10.0, variety=1.0, worse=1.0)
    (pairs,) = paired_runs(compared, "laptop", read_results(list(trials.values()))).values()
    assert effect(pairs, "worse") is None  # of one pair alone
    difference = effect(pairs, "end_variety")
    assert difference is not None
    assert difference.mean == pytest.approx(-0.75)


def test_a_part_may_be_compared_with_nothing_in_its_place(trials):
    rows = small_study()["rows"]
    rows[1]["parts"] = ["with", "large"]
    larger = read_study("small", small_study(rows=rows, comparisons=[["large", None]]))
    for seed in range(2):
        score(trials[f"a-laptop-{seed}"], 10.0)
        score(trials[f"b-laptop-{seed}"], 20.0)
    table = compare_parts(larger, "laptop", read_results(list(trials.values())))
    assert table is not None
    assert table.rows[0][:3] == ("large against nothing", "sounds", "2")
    assert "2.00 [2.00, 2.00]" in table.rows[0]


def test_without_pairs_there_is_no_second_table(study, compared, trials, tmp_path):
    score(trials["a-laptop-0"], 10.0)
    score(trials["b-laptop-1"], 10.0, state="failed")
    assert compare_parts(compared, "laptop", read_results(list(trials.values()))) is None
    assert "pairs of runs" not in save_table(study, "laptop", list(trials.values()), tmp_path)


def test_a_part_that_no_row_has_is_named():
    with pytest.raises(SchurganError, match=r'comparisons: .*"wit"'):
        read_study("small", small_study(comparisons=[["wit", None]]))
