"""Running the cells of a study, one after another or side by side, and going on where it was stopped."""

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

from schurgan.core.errors import Interrupted, UserError, say
from schurgan.core.launch import find_placement
from schurgan.runs.folder import RunFolder
from schurgan.studies.cell import check_same, run_cell
from schurgan.studies.outcome import Outcome, read_outcome
from schurgan.studies.study import Cell
from schurgan.training.run import stop_requests

_STOPPED = 3  # exit status of a cell's process that saved its state and ended as it was asked to
_POLL = 0.2  # seconds


def run_cells(cells: Sequence[Cell], jobs: int = 1) -> None:
    """Until each has an outcome; those that have one are passed over, but for failures, which are tried again.

    jobs: cells side by side, each a process of its own with one thread and its words in RUN/cell.log. Under torchrun
    they come one after another, and each spans all processes. Raises UserError before anything is trained where a
    folder holds a run of other options, and Interrupted when asked to stop: all states are saved then.
    """
    for cell in cells:
        check_same(cell)
    placement = find_placement(os.environ)
    spanning = placement is not None and placement.size > 1
    if spanning and jobs > 1:
        raise UserError(f"--jobs: {jobs} given under a launcher of {placement.size} processes, 1 is needed")  # type: ignore[union-attr]
    open_ = [cell for cell in cells if spanning or not _done(cell)]
    if left := len(cells) - len(open_):
        say(f"{left} of {len(cells)} cells are done already")
    if jobs > 1:
        _side_by_side(open_, jobs)
        return
    for number, cell in enumerate(open_, 1):
        try:
            outcome = run_cell(cell)
        except Interrupted:
            raise Interrupted(f"stopped in cell {cell.name}; the same command goes on") from None
        if placement is None or placement.rank == 0:
            _tell(cell, outcome, number, len(open_))


def _side_by_side(cells: Sequence[Cell], jobs: int) -> None:
    # A new interpreter each: threads and CUDA do not survive a fork.
    context = multiprocessing.get_context("spawn")
    waiting, running = list(cells), dict[str, tuple[Cell, BaseProcess]]()
    done = 0
    with stop_requests() as stop:
        try:
            while (waiting or running) and not stop:
                while waiting and len(running) < jobs:
                    cell = waiting.pop(0)
                    process: BaseProcess = context.Process(target=_work, args=(cell,), daemon=True)
                    process.start()
                    running[cell.name] = cell, process
                for name, (cell, process) in list(running.items()):
                    if process.exitcode is None:
                        continue
                    if process.exitcode == _STOPPED:  # by a signal that went to all of us
                        stop.append(signal.SIGTERM)
                        break
                    del running[name]
                    done += 1
                    _tell(cell, _outcome_of(cell, process.exitcode), done, len(cells))
                time.sleep(_POLL)
        finally:
            for _, process in running.values():
                process.terminate()  # which saves its state first
            for _, process in running.values():
                process.join()
    if stop:
        raise Interrupted(f"stopped in {len(running)} cells, which saved their state; the same command goes on")


def _outcome_of(cell: Cell, status: int) -> Outcome:
    """What a process left; one that died without a word has failed."""
    outcome = read_outcome(cell.folder)
    if status == 0 and outcome is not None:
        return outcome
    died = f"its process ended by signal {-status}" if status < 0 else f"its process ended with status {status}"
    outcome = Outcome("failed", reason=f"{died}; {RunFolder(cell.folder).log} says more")
    cell.folder.mkdir(parents=True, exist_ok=True)
    outcome.save(cell.folder)
    return outcome


def _work(cell: Cell) -> None:
    """A cell in a process of its own."""
    import torch

    _follow_parent()
    cell.folder.mkdir(parents=True, exist_ok=True)
    log = os.open(RunFolder(cell.folder).log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: the study passes it on
    torch.set_num_threads(1)
    train = cell.config.train.model_copy(update={"threads": cell.config.train.threads or 1})
    try:
        run_cell(replace(cell, config=cell.config.model_copy(update={"train": train})))
    except Interrupted:
        sys.exit(_STOPPED)
    except UserError as error:
        say(str(error))
        sys.exit(2)


def _follow_parent() -> None:
    """End, with the state saved, when the study is killed: nobody would wait for the cell any more."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _done(cell: Cell) -> bool:
    with suppress(UserError):
        outcome = read_outcome(cell.folder)
        return outcome is not None and outcome.state != "failed"
    return False


def _tell(cell: Cell, outcome: Outcome, number: int, total: int) -> None:
    says = {
        "finished": "finished",
        "collapsed": f"collapsed at step {outcome.onset}",
        "failed": f"failed: {outcome.reason}",
    }
    say(f"{number} of {total}: {cell.name} {says[outcome.state]}")
