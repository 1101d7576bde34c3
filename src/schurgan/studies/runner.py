"""Running the trials of a study: one after another here, or side by side on whatever executor there is.

Side by side each trial is a process of its own, started by a thread here (a GPU each), by a worker of a Dask cluster,
or by a job of SLURM. A study that is stopped goes on by the same call.
"""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import torch

from schurgan.core.errors import Interrupted, SchurganError, one_line, writing
from schurgan.core.files import open_regular
from schurgan.core.interrupts import stop_requests
from schurgan.core.launch import count_cores, find_placement, start_python
from schurgan.core.progress import Bar
from schurgan.core.terminal import say
from schurgan.data.workers import dask_cluster
from schurgan.runs.folder import RunFolder
from schurgan.runs.messages import counted
from schurgan.studies.study import Trial
from schurgan.studies.trial import Outcome, check_same, finished_outcome, is_main, read_outcome, run_trial

_STOPPED = 3  # exit status of a trial's process that saved its state and ended as it was asked to
_POLL = 0.2  # seconds
_STOPPING = "stopping when the trials have saved their states; Ctrl-C again stops waiting for them"
_WALL_TIME = 24 * 60  # minutes of a job of SLURM; a trial that takes longer goes on in the next


class Running(Protocol):
    """What a call on an executor gives: a `concurrent.futures.Future`, or a job of submitit."""

    def done(self) -> bool:
        """Whether there is a result, or an error in its place."""

    def result(self) -> Any:
        """Return the result, or raise the error."""

    def cancel(self) -> object:
        """Take the call back, or stop it."""


class Executor(Protocol):
    """Any `concurrent.futures.Executor`, or one of submitit's."""

    def submit(self, fn: Callable[..., Any], /, *arguments: Any) -> Running:
        """Start fn(*arguments) somewhere, at some time."""


Submit = Callable[[Trial], Running]


def run_trials(
    trials: Sequence[Trial], jobs: int = 1, *, executor: Executor | None = None, cluster: str | None = None
) -> None:
    """Run trials until each has an outcome; those that have one are passed over, failures are tried again.

    Args:
        trials: those of a study. Under torchrun each spans all processes.
        jobs: trials side by side on this machine, each a process of its own with its share of the cores, a GPU where
            there are some, and its output in RUN/trial.log.
        executor: where trials run instead, such as submitit's. All machines see the folders under the same paths.
        cluster: address of the scheduler of a Dask cluster where they run instead.

    Raises:
        SchurganError: a folder holds a run of other options, and nothing was trained; or the cluster fails.
        Interrupted: the study was asked to stop; all states are saved.
    """
    for trial in trials:
        check_same(trial)
    placement = find_placement(os.environ)
    processes = placement.size if placement else 1
    if processes > 1 and (jobs > 1 or executor or cluster):
        raise SchurganError(f"jobs: {jobs} given under a launcher of {processes} processes, 1 and no cluster is needed")
    if jobs > 1 and (executor or cluster):
        raise SchurganError(f"jobs: {jobs} given beside a cluster, which has its own workers; leave one of them out")
    waiting = [trial for trial in trials if processes > 1 or not _done(trial)]
    if done := len(trials) - len(waiting):
        say(f"{done} of {counted(len(trials), 'trial')} done already")
    place: AbstractContextManager[Submit]
    if cluster is not None:
        place = _on_dask(cluster)
    elif executor is not None:
        start = executor.submit
        place = nullcontext(lambda trial: start(TrialProcess(), trial))
    elif jobs > 1:
        place = _on_this_machine(jobs)
    else:
        for number, trial in enumerate(waiting, 1):
            try:
                outcome = run_trial(trial)
            except Interrupted:
                raise Interrupted(f"stopped in trial {trial.name}; the same command goes on") from None
            if is_main():
                _tell(trial, outcome, number, len(waiting))
        return
    with stop_requests(_STOPPING) as stop, place as submit, Bar("study", unit="trial") as bar:
        _follow([(trial, submit(trial)) for trial in waiting], stop, bar)


def _follow(running: list[tuple[Trial, Running]], stop: Sequence[int], bar: Bar) -> None:
    total, ended = len(running), itertools.count(1)
    try:
        while running and not stop:
            bar(total - len(running), total)
            for trial, call in list(running):
                if not call.done():
                    continue
                outcome = _result(trial, call)
                if outcome is None:  # by a signal that went to all of us, or by the one who holds the queue
                    raise Interrupted(f"stopped in trial {trial.name}; the same command goes on")
                running.remove((trial, call))
                _tell(trial, outcome, next(ended), total)
            time.sleep(_POLL)
    finally:
        for _, call in running:
            call.cancel()
    if stop:
        raise Interrupted(
            f"stopped with {counted(len(running), 'trial')} to run or to finish; the same command goes on"
        )


def _result(trial: Trial, call: Running) -> Outcome | None:
    try:
        outcome: Outcome | None = call.result()
    except CancelledError:
        raise
    except Exception as error:  # its machine, which failed however it likes
        outcome = Outcome("failed", reason=(str(error).splitlines() or [type(error).__name__])[-1][:300])
        outcome.save(trial.folder)
    return outcome


class TrialProcess:
    """Runs a trial in a new interpreter: it may be killed, and leaves nothing behind in this one."""

    def __init__(self, environment: Mapping[str, str] | None = None, stop: threading.Event | None = None) -> None:
        self.environment, self.stop = environment or {}, stop

    def __call__(self, trial: Trial) -> Outcome | None:
        """Return what became of the trial; None if it was stopped, with its state saved."""
        log = RunFolder(trial.folder).log
        with stop_requests(_STOPPING) as asked, writing(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            with open_regular(log, "ab") as output:
                process = start_python(serve, stdout=output, stderr=output, env=os.environ | self.environment)
            assert process.stdin is not None
            with suppress(OSError):  # it has ended
                process.stdin.write(pickle.dumps(trial))
                process.stdin.flush()
            stopped = False
            try:
                while process.poll() is None and not stopped:
                    stopped = bool(asked) or (self.stop is not None and self.stop.is_set())
                    time.sleep(_POLL)
            finally:
                process.terminate()  # which saves its state first, and is nothing to one that has ended
                status = process.wait()
                with suppress(OSError):
                    process.stdin.close()
        return None if status == _STOPPED or (stopped and status) else _outcome_of(trial, status)

    def checkpoint(self, trial: Trial) -> Any:
        """What submitit puts into the queue again when the job's time is over: the trial goes on from its state."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, trial)


def serve() -> None:
    """Be the process of the trial that comes on standard input, and end when that does, with the state saved."""
    trial: Trial = pickle.load(sys.stdin.buffer)

    def follow() -> None:
        while os.read(0, 1024):  # not by sys.stdin, which a thread may not hold when the interpreter ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    # When the study is killed nobody waits for the trial any more.
    threading.Thread(target=follow, daemon=True).start()
    try:
        run_trial(trial)
    except Interrupted:
        sys.exit(_STOPPED)
    except SchurganError as error:
        say(str(error))
        sys.exit(2)


def _outcome_of(trial: Trial, status: int) -> Outcome:
    """What a process left; one that died without a word has failed."""
    outcome = read_outcome(trial.folder)
    if status == 0 and outcome is not None:
        return outcome
    want = ", perhaps for want of memory: fewer `jobs` need less" if status == -signal.SIGKILL else ""
    died = f"its process ended {f'by signal {-status}{want}' if status < 0 else f'with status {status}'}"
    outcome = Outcome("failed", reason=f"{died}; {RunFolder(trial.folder).log} says more")
    outcome.save(trial.folder)
    return outcome


@contextmanager
def _on_this_machine(jobs: int) -> Iterator[Submit]:
    """Threads that each wait for a process at a time, which sees one GPU, the least used one, where there are some."""
    stop, gpus = threading.Event(), SimpleQueue[str | None]()
    for _, gpu in zip(range(jobs), itertools.cycle(_gpus() or [None]), strict=False):
        gpus.put(gpu)
    cores = count_cores()

    def run(trial: Trial) -> Outcome | None:
        gpu = gpus.get()
        try:
            train = trial.config.train
            train = train.model_copy(update={"threads": train.threads or max(1, cores // jobs)})
            environment = {} if gpu is None or train.device == "cpu" else {"CUDA_VISIBLE_DEVICES": gpu}
            trial = replace(trial, config=trial.config.model_copy(update={"train": train}))
            return TrialProcess(environment, stop)(trial)
        finally:
            gpus.put(gpu)

    pool = ThreadPoolExecutor(jobs)
    try:
        yield lambda trial: pool.submit(run, trial)
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)  # and waits until states are saved


def _gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name of this process's GPUs."""
    count = torch.cuda.device_count()
    named = [each.strip() for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each.strip()]
    return named[:count] or [str(number) for number in range(count)]


@contextmanager
def _on_dask(address: str) -> Iterator[Submit]:
    with dask_cluster(address, TrialProcess()) as (submit, _):
        yield submit


def slurm_executor(folder: Path, options: Mapping[str, str]) -> Executor:
    """Submitit's executor, a job of SLURM each trial.

    Args:
        folder: where its files are.
        options: submitit's parameters by name, such as slurm_partition or timeout_min; cluster: "local" for processes.

    Raises:
        SchurganError: submitit is not installed, there is no SLURM, or it knows no such parameter.
    """
    try:
        import submitit
    except ImportError:
        raise SchurganError("slurm: submitit is not installed; `pip install schurgan[slurm]` would do") from None
    parameters: dict[str, Any] = {"name": "schurgan", "timeout_min": _WALL_TIME, "gpus_per_node": 1}
    parameters |= {name: int(text) if text.isdecimal() else text for name, text in options.items()}
    where = parameters.pop("cluster", "slurm")
    try:
        executor: Executor = submitit.AutoExecutor(folder, cluster=where)
        executor.update_parameters(**parameters)  # type: ignore[attr-defined]
    except Exception as error:  # NameError, RuntimeError, ValueError, ... of its own
        raise SchurganError(f"slurm: {one_line(error)}") from error
    return executor


def _done(trial: Trial) -> bool:
    with suppress(SchurganError):  # a damaged outcome is named when the trial runs
        return finished_outcome(trial) is not None
    return False


def _tell(trial: Trial, outcome: Outcome, number: int, total: int) -> None:
    rest = {"finished": "", "collapsed": f" at step {outcome.onset}", "failed": f": {outcome.reason}"}[outcome.state]
    say(f"{number} of {total}: {trial.name} {outcome.state}{rest}")
