"""Running the trials of a study, one after another or side by side, and going on where it was stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

from schurgan.core.errors import Interrupted, SchurganError, say, writing
from schurgan.core.files import open_regular
from schurgan.core.launch import find_placement
from schurgan.runs.folder import RunFolder
from schurgan.studies.study import Trial
from schurgan.studies.trial import Outcome, check_same, finished_outcome, is_main, read_outcome, run_trial
from schurgan.training.run import stop_requests

_STOPPED = 3  # exit status of a trial's process that saved its state and ended as it was asked to
_POLL = 0.2  # seconds


def run_trials(trials: Sequence[Trial], jobs: int = 1) -> None:
    """Run trials until each has an outcome; those that have one are passed over, failures are tried again.

    Args:
        trials: those of a study. Under torchrun each spans all processes.
        jobs: trials side by side, each a process of its own with one thread and its output in RUN/trial.log.

    Raises:
        SchurganError: a folder holds a run of other options; nothing was trained.
        Interrupted: the study was asked to stop; all states are saved.
    """
    for trial in trials:
        check_same(trial)
    placement = find_placement(os.environ)
    processes = placement.size if placement else 1
    if processes > 1 and jobs > 1:
        raise SchurganError(f"jobs: {jobs} given under a launcher of {processes} processes, 1 is needed")
    waiting = [trial for trial in trials if processes > 1 or not _done(trial)]
    if done := len(trials) - len(waiting):
        say(f"{done} of {len(trials)} trials are done already")
    if jobs > 1:
        _side_by_side(waiting, jobs)
        return
    for number, trial in enumerate(waiting, 1):
        try:
            outcome = run_trial(trial)
        except Interrupted:
            raise Interrupted(f"stopped in trial {trial.name}; the same command goes on") from None
        if is_main():
            _tell(trial, outcome, number, len(waiting))


def _side_by_side(trials: Sequence[Trial], jobs: int) -> None:
    # A new interpreter each: threads and CUDA do not survive a fork.
    context = multiprocessing.get_context("spawn")
    waiting, running, done = list(trials), list[tuple[Trial, BaseProcess]](), 0
    with stop_requests() as stop:
        try:
            while (waiting or running) and not stop:
                while waiting and len(running) < jobs:
                    trial = waiting.pop(0)
                    process: BaseProcess = context.Process(target=_work, args=(trial,), daemon=True)
                    process.start()
                    running.append((trial, process))
                for trial, process in list(running):
                    if process.exitcode is None:
                        continue
                    if process.exitcode == _STOPPED:  # by a signal that went to all of us
                        stop.append(signal.SIGTERM)
                        break
                    running.remove((trial, process))
                    done += 1
                    _tell(trial, _outcome_of(trial, process.exitcode), done, len(trials))
                time.sleep(_POLL)
        finally:
            for _, process in running:
                process.terminate()  # which saves its state first
            for _, process in running:
                process.join()
    if stop:
        raise Interrupted(f"stopped in {len(running)} trials, which saved their state; the same command goes on")


def _outcome_of(trial: Trial, status: int) -> Outcome:
    """What a process left; one that died without a word has failed."""
    outcome = read_outcome(trial.folder)
    if status == 0 and outcome is not None:
        return outcome
    died = f"its process ended by signal {-status}" if status < 0 else f"its process ended with status {status}"
    outcome = Outcome("failed", reason=f"{died}; {RunFolder(trial.folder).log} says more")
    outcome.save(trial.folder)
    return outcome


def _work(trial: Trial) -> None:
    """A trial in a process of its own."""
    import torch

    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    # When the study is killed nobody waits for the trial any more: it ends, with its state saved.
    threading.Thread(target=follow, daemon=True).start()
    for number in (signal.SIGINT, signal.SIGHUP):  # they go to the whole group: the study passes them on
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    train = trial.config.train.model_copy(update={"threads": trial.config.train.threads or 1})
    try:
        _log_to(RunFolder(trial.folder).log)
        run_trial(replace(trial, config=trial.config.model_copy(update={"train": train})))
    except Interrupted:
        sys.exit(_STOPPED)
    except SchurganError as error:
        say(str(error))
        sys.exit(2)


def _log_to(path: Path) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_regular(path, "ab") as log:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(log.fileno(), stream.fileno())


def _done(trial: Trial) -> bool:
    with suppress(SchurganError):  # a damaged outcome is named when the trial runs
        return finished_outcome(trial) is not None
    return False


def _tell(trial: Trial, outcome: Outcome, number: int, total: int) -> None:
    rest = {"finished": "", "collapsed": f" at step {outcome.onset}", "failed": f": {outcome.reason}"}[outcome.state]
    say(f"{number} of {total}: {trial.name} {outcome.state}{rest}")
