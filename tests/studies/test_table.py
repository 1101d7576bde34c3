from __future__ import annotations

import json
from dataclasses import replace

import pytest
from small_study import PROTOCOL, score, small_study

from schurgan.core.errors import SchurganError
from schurgan.evaluation.scores import Evaluation, Score
from schurgan.runs.folder import RunFolder
from schurgan.studies.study import Printed, read_study
from schurgan.studies.table import save_table
from schurgan.studies.trial import Outcome


def columns(text: str, label: str) -> dict[str, str]:
    lines = [[part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    row = next(line for line in lines if line[0] == label)
    names = [f"{name} after {lines[0][i - 1]}" if name == "paper" else name for i, name in enumerate(lines[0])]
    return dict(zip(names, row, strict=True))


def test_means_and_deviations_are_over_seeds_and_the_papers_numbers_stand_beside(study, trials, tmp_path):
    for seed, fid in enumerate((10.0, 12.0, 14.0)):
        score(trials[f"a-laptop-{seed}"], fid, best_step=100 * (seed + 1))
        score(trials[f"b-laptop-{seed}"], 20.0 + seed)
    score(trials["a.linear-laptop-0"], 15.5)
    text = save_table(study, "laptop", list(trials.values()), tmp_path)
    a = columns(text, "with")
    assert a["FID ↓"] == "**12.0 ± 2.0 (↑ 3.50)**"
    assert a["paper after FID ↓"] == "44.57 ± 2.93 (↓ 1.67)"
    assert (a["best before onset"], a["paper after best before onset"]) == ("200", "132,000")
    assert columns(text, "without")["FID ↓"] == "21.0 ± 1.0"
    assert "Real images, sounds: Inception Score 7; FID 1.25, held-out 1.5." in text
    assert "means ± deviations over 3 seeds" in text
    known = json.loads((tmp_path / "small-laptop.json").read_text())
    fid = known["rows"][0]["figures"]["fid"]
    assert fid["values"] == [10.0, 12.0, 14.0]
    # Student's t with two degrees of freedom: 4.3027 · 2 / √3
    assert fid["interval_95"] == pytest.approx([12 - 4.96828, 12 + 4.96828], abs=1e-4)
    assert (tmp_path / "small-laptop.png").stat().st_size > 0


def test_the_papers_snr_stands_in_brackets_beside_the_same_reading_of_ours(study, trials, tmp_path):
    row = study.rows[0].model_copy(update={"paper": {"snr_db": Printed(value=41.91)}})
    study = study.model_copy(update={"columns": ("snr_db",), "rows": (row, *study.rows[1:])})
    for seed, snr in enumerate((2.0, 4.0)):
        score(trials[f"a-laptop-{seed}"], 10.0, snr_db=snr)
    a = columns(save_table(study, "laptop", list(trials.values()), tmp_path), "with")
    assert a == {"row": "with", "SNR, dB (20 log₁₀)": "3.0 ± 1.4 (6)", "paper after SNR, dB (20 log₁₀)": "(41.91)"}


def test_steps_of_collapse_are_medians_with_how_many_collapsed(study, trials, tmp_path):
    for seed, onset in enumerate((300, 500, None)):
        state = "finished" if onset is None else "collapsed"
        score(trials[f"a-laptop-{seed}"], 10.0, state=state, onset=onset)
        score(trials[f"b-laptop-{seed}"], 10.0)
    text = save_table(study, "laptop", list(trials.values()), tmp_path)
    assert columns(text, "with")["onset"] == "400 (2 of 3)"
    assert columns(text, "without")["onset"] == "none"


def test_of_one_seed_the_deviation_is_over_generated_images(study, trials, tmp_path):
    score(trials["a-laptop-0"], 10.0)
    text = save_table(study, "laptop", list(trials.values()), tmp_path)
    assert columns(text, "with")["FID ↓"] == "10.00 ± 0.50"
    assert "one seed, ± over sets of generated images" in text
    assert columns(text, "without")["FID ↓"] == "–"


@pytest.mark.parametrize(("name", "best"), [("kid", "with"), ("worse", "with"), ("inception_score", "without")])
def test_the_best_of_a_column_is_bold_and_an_arrow_says_which_way_that_is(tmp_path, name, best):
    study = read_study("small", small_study(columns=["best_step", "fid", name]))
    trials = study.trials("laptop", 1, {"set": tmp_path}, tmp_path / "out")[:2]
    for value, trial in enumerate(trials, 1):
        score(trial, 10.0, worse=float(value))
        Evaluation(PROTOCOL, {"fid": Score(10.0), name: Score(float(value))}).save(RunFolder(trial.folder).scores)
    text = save_table(study, "laptop", trials, tmp_path)
    bold = {row: [head for head, cell in columns(text, row).items() if "**" in cell] for row in ("with", "without")}
    (head,) = bold.pop(best)
    assert bold == {"without" if best == "with" else "with": []}
    assert head.endswith("↓" if best == "with" else "↑")


def test_rows_of_which_some_runs_are_missing_are_told_of(study, trials, tmp_path):
    for seed in range(3):
        score(trials[f"a-laptop-{seed}"], 10.0)
    score(trials["b-laptop-0"], 10.0)
    assert "means ± deviations over 1 to 3 seeds" in save_table(study, "laptop", list(trials.values()), tmp_path)


def test_failures_and_collapses_without_scores_are_said_below(study, trials, tmp_path):
    score(trials["a-laptop-0"], 10.0)
    for name, outcome in (
        ("a-laptop-1", Outcome("failed", "out of memory")),
        ("b-laptop-0", Outcome("collapsed", "not finite: loss_d", onset=3)),
    ):
        trials[name].folder.mkdir(parents=True)
        outcome.save(trials[name].folder)
    text = save_table(study, "laptop", list(trials.values()), tmp_path)
    assert "a-laptop-1 failed: out of memory" in text
    assert "b-laptop-0 has no scores: not finite: loss_d" in text
    assert columns(text, "with")["FID ↓"] == "10 (1 of 2)"
    assert columns(text, "without")["onset"] == "3"


def test_real_images_are_told_of_though_the_first_trial_failed(study, trials, tmp_path):
    trials["a-laptop-0"].folder.mkdir(parents=True)
    Outcome("failed", "out of memory").save(trials["a-laptop-0"].folder)
    score(trials["b-laptop-0"], 10.0)
    assert "Real images, sounds: Inception Score 7" in save_table(study, "laptop", list(trials.values()), tmp_path)


def test_rows_that_were_evaluated_in_different_ways_are_refused(study, trials, tmp_path):
    score(trials["a-laptop-0"], 10.0)
    score(trials["b-laptop-0"], 10.0, protocol=replace(PROTOCOL, n_fake=99))
    with pytest.raises(SchurganError, match=r"a-laptop-0 and b-laptop-0 .*48.*99"):
        save_table(study, "laptop", list(trials.values()), tmp_path)
