"""Trials from their options to their scores, in this process and in others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_study import small_study

from schurgan.core.errors import SchurganError
from schurgan.core.files import sha256
from schurgan.model import load
from schurgan.runs.config import Config
from schurgan.runs.folder import RunFolder
from schurgan.studies import runner
from schurgan.studies import trial as trial_module
from schurgan.studies.runner import run_trials
from schurgan.studies.study import Study, Trial, read_study
from schurgan.studies.table import save_table
from schurgan.studies.trial import Outcome, read_outcome
from schurgan.training.checkpoint import Checkpoints
from schurgan.training.trainer import Trainer
from schurgan.training.watcher import Watcher

HERE = Path(__file__).parent


def build(images: Path, out: Path, **options: int) -> tuple[Study, tuple[Trial, ...]]:
    study = read_study("small", small_study(**options))
    return study, study.trials("laptop", 1, {"set": images}, out)


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of two trials from end to end. Not to be changed."""
    out = tmp_path_factory.mktemp("study")
    study, trials = build(images, out)
    run_trials(trials)
    save_table(study, "laptop", trials, out)
    return out


def test_a_study_of_two_trials_ends_in_a_table_of_its_own_scores(finished):
    table = json.loads((finished / "small-laptop.json").read_text())
    for row in table["rows"]:
        run = finished / "trials" / f"{row['name']}-laptop-0"
        scores = json.loads((run / "scores.json").read_text())
        assert row["figures"]["fid"]["values"] == [scores["scores"]["fid"]["value"]]
        assert scores["protocol"]["n_fake"] == 48
        assert row["states"] == ["finished"]
        assert Config.load(run / "config.yaml").train.steps == 8
    assert (finished / "small-laptop.md").read_text().startswith("# Two rows\n")


def test_a_finished_trial_is_not_touched_again(finished, images):
    files = [path for path in (finished / "trials").rglob("*") if path.is_file() and path.name != ".lock"]
    before = {path: path.stat().st_mtime_ns for path in files}
    _, trials = build(images, finished)
    run_trials(trials)
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_a_folder_with_a_run_of_other_options_is_refused_before_anything_runs(finished, images):
    _, trials = build(images, finished, steps=9)
    with pytest.raises(SchurganError, match=r"a-laptop-0: .* train\.steps 8"):
        run_trials(trials)


def test_the_best_checkpoint_before_the_onset_is_scored(images, tmp_path, monkeypatch):
    _, trials = build(images, tmp_path)
    lines = Outcome("collapsed", "why", onset=8)
    monkeypatch.setattr(trial_module, "judge", lambda *_: lines)
    run_trials(trials[:1])
    outcome = read_outcome(trials[0].folder)
    assert outcome is not None
    assert outcome.scored_step == 4
    assert load(trials[0].folder).card.step == 4


def test_of_checkpoints_with_equal_scores_the_newest_is_scored(images, tmp_path, monkeypatch):
    monkeypatch.setattr(Watcher, "score", property(lambda self: 1.0, lambda self, _: None), raising=False)
    _, trials = build(images, tmp_path)
    run_trials(trials[:1])
    assert [r.score for r in Checkpoints(trials[0].folder).records().values()] == [1.0, 1.0]
    assert load(trials[0].folder).card.step == 8


def test_a_trial_that_was_stopped_is_told_from_one_that_ended_crashed_or_was_refused():
    assert runner._STOPPED not in (0, 1, 2)  # what Python and `_work` end with otherwise


def test_a_collapse_before_the_first_checkpoint_has_no_scores(images, tmp_path, monkeypatch):
    _, trials = build(images, tmp_path)
    monkeypatch.setattr(trial_module, "judge", lambda *_: Outcome("collapsed", "why.", onset=2))
    run_trials(trials[:1])
    outcome = read_outcome(trials[0].folder)
    assert outcome == Outcome("collapsed", "why. Nothing was saved before it.", onset=2)


def test_numbers_that_are_not_finite_are_a_collapse_and_the_next_trial_runs(images, tmp_path, monkeypatch):
    _, trials = build(images, tmp_path)
    step = Trainer.discriminator_step

    def broken(self: Trainer, real: torch.Tensor, labels: torch.Tensor, number: int) -> object:
        spoilt = self.conditions["ddfn"].weight == 1 and self.global_step >= 5
        return step(self, real * float("nan") if spoilt else real, labels, number)

    monkeypatch.setattr(Trainer, "discriminator_step", broken)
    run_trials(trials)
    first, second = (read_outcome(trial.folder) for trial in trials)
    assert first is not None
    assert second is not None
    assert (first.state, first.scored_step) == ("collapsed", 4)
    assert "not finite" in first.reason.lower()
    assert second.state == "finished"


def test_a_failure_is_told_of_and_tried_again(images, tmp_path, monkeypatch, capsys):
    _, trials = build(images, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "generator_step", _no_memory)
        run_trials(trials[:1])
    assert read_outcome(trials[0].folder) == Outcome("failed", "no memory left")
    assert "1 of 1: a-laptop-0 failed: no memory left" in capsys.readouterr().err
    run_trials(trials[:1])
    outcome = read_outcome(trials[0].folder)
    assert outcome is not None
    assert outcome.state == "finished"


def _no_memory(*_: object) -> None:
    raise RuntimeError("no memory left")


_SCRIPT = """
import sys
from pathlib import Path
from schurgan.studies.runner import run_trials
from schurgan.studies.study import read_study
from schurgan.studies.table import save_table
from small_study import small_study

if __name__ == "__main__":
    images, out, jobs, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    study = read_study("small", small_study(steps))
    trials = study.trials("laptop", 1, {"set": images}, out)
    run_trials(trials, jobs)
    save_table(study, "laptop", trials, out)
"""


def start(images: Path, out: Path, jobs: int, steps: int) -> subprocess.Popen[str]:
    script = out.parent / "script.py"
    script.write_text(_SCRIPT)
    path = os.pathsep.join([str(HERE), *sys.path])
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(images), str(out), str(jobs), str(steps)]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def results(out: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(out.glob("small-laptop.*"))}


@pytest.mark.slow
def test_two_jobs_give_the_same_table_as_one(finished, images, tmp_path):
    process = start(images, tmp_path / "out", 2, 8)
    assert process.wait(900) == 0, process.stderr and process.stderr.read()
    assert results(tmp_path / "out") == results(finished)
    assert (tmp_path / "out" / "trials" / "a-laptop-0" / "trial.log").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("jobs", "number"), [(1, signal.SIGKILL), (2, signal.SIGKILL), (2, signal.SIGTERM)])
def test_a_study_that_was_stopped_amid_a_trial_ends_with_the_same_table(jobs, number, images, tmp_path):
    study, trials = build(images, tmp_path / "whole", steps=40)
    run_trials(trials)
    save_table(study, "laptop", trials, tmp_path / "whole")
    out = tmp_path / "out"
    process = start(images, out, jobs, 40)
    folder = RunFolder(out / "trials" / "a-laptop-0")
    until = time.monotonic() + 600
    while not any(row.step >= 6 for row in folder.read_records().rows):
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(300) != 0
    assert not (out / "trials" / "a-laptop-0" / "outcome.json").exists()
    again = start(images, out, jobs, 40)
    assert again.wait(900) == 0, again.stderr and again.stderr.read()
    assert results(out) == results(tmp_path / "whole")
