"""Where trials run: a process and a GPU each here, any executor, Dask, and SLURM by submitit."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from small_study import small_study

from schurgan.core.errors import Interrupted, SchurganError
from schurgan.studies.runner import TrialProcess, _outcome_of, run_trials, slurm_executor
from schurgan.studies.study import Trial, read_study
from schurgan.studies.trial import Outcome, read_outcome


def trials_of(out: Path, images: Path, seeds: int = 1, device: str = "auto") -> tuple[Trial, ...]:
    content = small_study()
    content["scales"]["laptop"]["options"]["train"] |= {"device": device, "threads": None}
    return read_study("small", content).trials("laptop", seeds, {"set": images}, out)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str | None, int | None]]:
    """By trial, the GPU that its process sees and its threads; nothing is trained. Eight start before one ends."""
    found: dict[str, tuple[str | None, int | None]] = {}
    here = threading.Barrier(8, timeout=60)

    def work(self: TrialProcess, trial: Trial) -> Outcome:
        found[trial.name] = self.environment.get("CUDA_VISIBLE_DEVICES"), trial.config.train.threads
        here.wait()
        return Outcome("finished")

    monkeypatch.setattr(TrialProcess, "__call__", work)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    return found


def test_eight_jobs_have_a_gpu_each(seen, images, tmp_path):
    run_trials(trials_of(tmp_path, images, 4), jobs=8)
    assert sorted(gpu for gpu, _ in seen.values()) == list("01234567")
    assert {threads for _, threads in seen.values()} == {1}  # of this machine's cores an eighth, or one


def test_gpus_that_the_study_may_not_see_are_nobodys_and_jobs_share_the_rest(seen, images, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-8a,5,7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    run_trials(trials_of(tmp_path, images, 4), jobs=8)
    assert sorted(gpu for gpu, _ in seen.values()) == ["3", "3", "5", "5", "7", "7", "GPU-8a", "GPU-8a"]


def test_trials_of_the_cpu_have_no_gpu(seen, images, tmp_path):
    run_trials(trials_of(tmp_path, images, 4, device="cpu"), jobs=8)
    assert {gpu for gpu, _ in seen.values()} == {None}


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the trials that were run somewhere; nothing is trained."""
    names = list[str]()

    def work(self: TrialProcess, trial: Trial) -> Outcome:
        names.append(trial.name)
        outcome = Outcome("finished", scored_step=8)
        outcome.save(trial.folder)
        return outcome

    monkeypatch.setattr(TrialProcess, "__call__", work)
    return names


def test_submitits_executor_runs_every_trial_once(pretended, images, tmp_path, capsys):
    trials = trials_of(tmp_path, images)
    executor = slurm_executor(tmp_path / "jobs", {"cluster": "debug", "timeout_min": "5"})
    run_trials(trials, executor=executor)
    run_trials(trials, executor=executor)
    assert sorted(pretended) == [trial.name for trial in trials]
    assert "2 of 2: b-laptop-0 finished" in capsys.readouterr().err


def test_a_job_of_slurm_whose_time_is_over_is_put_into_the_queue_again(images, tmp_path):
    (trial, _), process = trials_of(tmp_path, images), TrialProcess()
    again = process.checkpoint(trial)
    assert (again.function, again.args) == (process, (trial,))


def test_a_dask_cluster_runs_every_trial(pretended, images, tmp_path):
    distributed = pytest.importorskip("distributed")
    trials = trials_of(tmp_path, images)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        run_trials(trials, cluster=cluster.scheduler_address)
    assert sorted(pretended) == [trial.name for trial in trials]


def test_a_machine_that_fails_costs_its_trial_alone(images, tmp_path, monkeypatch):
    def work(self: TrialProcess, trial: Trial) -> Outcome:
        if trial.row == "a":
            raise RuntimeError("Traceback\nnode 7 is gone")
        return Outcome("finished")

    monkeypatch.setattr(TrialProcess, "__call__", work)
    trials = trials_of(tmp_path, images)
    with ThreadPoolExecutor(1) as executor:
        run_trials(trials, executor=executor)
    assert read_outcome(trials[0].folder) == Outcome("failed", reason="node 7 is gone")


def test_a_study_that_is_stopped_takes_back_what_did_not_start(images, tmp_path):
    calls = list[Future[Outcome | None]]()

    class Queue:
        def submit(self, function: object, trial: Trial) -> Future[Outcome | None]:
            calls.append(Future())
            return calls[-1]

    def stop() -> None:
        while len(calls) < 2:
            time.sleep(0.01)
        calls[0].set_result(None)  # as a process that was asked to stop

    threading.Thread(target=stop).start()
    with pytest.raises(Interrupted):
        run_trials(trials_of(tmp_path, images), executor=Queue())
    assert calls[1].cancelled()


def test_a_trial_has_a_process_of_its_own_whatever_the_current_folder_holds(tmp_path, monkeypatch):
    """Also where the caller's script has no guard, and beside files with the names of Python's own modules."""
    (tmp_path / "random.py").write_text("raise SystemExit('the wrong random')")
    monkeypatch.chdir(tmp_path)
    trials = trials_of(tmp_path / "out", tmp_path / "no-images", device="cpu")[:1]
    with ThreadPoolExecutor(1) as executor:
        run_trials(trials, executor=executor)
    outcome = read_outcome(trials[0].folder)
    assert outcome is not None
    assert "no-images" in outcome.reason  # what the trial itself found
    assert (trials[0].folder / "trial.log").exists()


@pytest.mark.slow
def test_submitits_local_processes_run_a_trial(images, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (Path(__file__).parent, *sys.path))))
    trials = trials_of(tmp_path, images, device="cpu")[:1]
    run_trials(trials, executor=slurm_executor(tmp_path / "jobs", {"cluster": "local", "timeout_min": "10"}))
    outcome = read_outcome(trials[0].folder)
    assert outcome is not None
    assert outcome.state == "finished", outcome.reason


@pytest.mark.parametrize("options", [{}, {"cluster": "debug", "timeout": "5"}, {"cluster": "nowhere"}])
def test_what_submitit_cannot_do_is_told_in_one_sentence(options, tmp_path):
    with pytest.raises(SchurganError, match=r"^slurm: [^\n]+$"):
        slurm_executor(tmp_path, options)


def test_jobs_beside_a_cluster_are_refused(images, tmp_path):
    with pytest.raises(SchurganError, match="jobs: 2 given"):
        run_trials(trials_of(tmp_path, images), 2, cluster="tcp://127.0.0.1:1")


def test_a_trial_that_the_system_killed_says_what_may_have_been_wanting(images, tmp_path):
    (trial,) = trials_of(tmp_path, images)[:1]
    outcome = _outcome_of(trial, -signal.SIGKILL)
    assert outcome.state == "failed"
    assert "by signal 9, perhaps for want of memory: fewer `jobs`" in outcome.reason
    assert read_outcome(trial.folder) == outcome
