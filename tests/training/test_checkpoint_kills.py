"""A disk that refuses, and a kill at any moment."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from saved_states import IDENTITY, collapsed, files, loaded_step, names, saved, state

from schurgan.core.documents import read_bytes
from schurgan.runs import sidecar
from schurgan.runs.sidecar import by_score, sidecar_path
from schurgan.training.checkpoint import Checkpoints, read

# A disk that refuses


def test_a_full_disk_is_told_apart_and_keeps_the_checkpoints_before_it(tmp_path, full_disk):
    checkpoints = saved(tmp_path, 3, keep=1)
    before = {path.name: path.read_bytes() for path in checkpoints.folder.iterdir()}
    with full_disk(), pytest.raises(OSError, match="No space left"):
        checkpoints.save(state(6), 6, IDENTITY)
    assert {path.name: path.read_bytes() for path in checkpoints.folder.iterdir()} == before
    checkpoints.save(state(6), 6, IDENTITY)  # when there is room again
    assert loaded_step(checkpoints) == 6


@pytest.mark.parametrize("size", [100, 5_000, 40_000])
def test_a_disk_that_becomes_full_amid_the_state_says_so_and_not_what_torch_makes_of_it(tmp_path, size):
    resource = pytest.importorskip("resource")
    checkpoints = saved(tmp_path, 3, keep=1)
    limit, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoints.save(state(6, size=128), 6, IDENTITY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert files(checkpoints) == ["step-00000003.json", "step-00000003.pt"]


def test_a_state_that_cannot_fit_is_not_begun_to_be_written(tmp_path, monkeypatch):
    checkpoints, size = saved(tmp_path, 3), 4 * 64 * 64
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=size - 1))
    monkeypatch.setattr(torch, "save", None)
    with pytest.raises(OSError, match=r"No space left on device: [\d.]+ [kM]?B are needed, [\d.]+ [kM]?B are free"):
        checkpoints.save(state(6), 6, IDENTITY)


def test_memory_that_several_tensors_share_needs_room_once(tmp_path, monkeypatch):
    weights = torch.zeros(10_000)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=50_000))
    Checkpoints(tmp_path).save({"weights": weights, "tied": weights.view(100, 100), "part": weights[:5]}, 1, IDENTITY)
    assert Checkpoints(tmp_path).load().state["part"].shape == (5,)


def test_a_file_system_that_does_not_tell_its_size_is_tried(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(total=0, used=0, free=0))
    assert loaded_step(saved(tmp_path, 3)) == 3


def test_a_folder_that_cannot_be_made_is_told_apart(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(OSError, match="File exists"):
        saved(tmp_path, 3)


def test_old_ones_that_cannot_be_removed_are_a_warning_and_the_state_is_saved(tmp_path, full_disk):
    checkpoints = saved(tmp_path, 3, keep=1)
    with full_disk(call="unlink"), pytest.warns(UserWarning, match="old checkpoints cannot be removed"):
        checkpoints.save(state(6), 6, IDENTITY)
    assert loaded_step(checkpoints) == 6


def test_nothing_is_removed_while_a_file_cannot_be_opened(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 1, 2, 3)
    checkpoints.keep = 1

    def refuse(path: Path) -> bytes:
        if path == sidecar_path(checkpoints.path(2)):  # for now: nobody knows that it is not the best
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return read_bytes(path)

    with monkeypatch.context() as patched:
        patched.setattr(sidecar, "read_bytes", refuse)
        with pytest.warns(UserWarning, match=r"old checkpoints cannot be removed \(Too many open files\)"):
            checkpoints.save(state(4), 4, IDENTITY)
        assert [record.step for record in checkpoints.records().values()] == [1, 3, 4]
    assert [record.step for record in checkpoints.records().values()] == [1, 2, 3, 4]


# A kill at any moment


class Killed(BaseException):
    """The process is no more: nothing that it does from here on has an effect."""


@contextlib.contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, moment: int) -> Iterator[list[str]]:
    """From the `moment`-th call to the file system on, this and every other one does nothing; those made are listed."""
    made: list[str] = []

    def dying(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if len(made) >= moment:
                raise Killed
            made.append(name)
            return real(*arguments, **named)

        return call

    with monkeypatch.context() as patched:
        for name in ("replace", "unlink", "fsync", "mkdir"):
            patched.setattr(os, name, dying(name, getattr(os, name)))
        patched.setattr(torch, "save", dying("begin to write", torch.save))
        with contextlib.suppress(Killed):
            yield made


def pair(path: Path) -> tuple[str, str]:
    return path.name, sidecar_path(path).name


def history(folder: Path) -> Checkpoints:
    """Five files: the newest two, the best, the last healthy one, and one of a future that was given up."""
    checkpoints = Checkpoints(folder, keep=2)
    for step, score, healthy in [(1, 1.0, True), (2, 2.0, True), (3, 3.0, False), (4, 4.0, False)]:
        checkpoints.save(state(step), step, IDENTITY, score=score, healthy=healthy)
    checkpoints.path(9).write_bytes(checkpoints.path(4).read_bytes()[:-1])  # damaged, so the run went on from 4
    shutil.copy(sidecar_path(checkpoints.path(4)), sidecar_path(checkpoints.path(9)))
    return checkpoints


def test_a_kill_at_any_call_to_the_file_system_leaves_the_newest_completed_state(tmp_path, monkeypatch):
    newest = set()
    for moment in range(99):
        checkpoints = history(tmp_path / str(moment))
        with killed_at(monkeypatch, moment) as calls:
            checkpoints.save(state(5), 5, IDENTITY, score=5.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of step 9, as long as it is there
            found = loaded_step(Checkpoints(tmp_path / str(moment)))
        assert found == (5 if calls.count("replace") == 2 else 4)
        newest.add(found)
        assert read(by_score(checkpoints.records())[0]).state["step"] == 1
        checkpoints.save(state(6), 6, IDENTITY, score=6.0)  # what the kill left is made good by the next save
        assert [record.step for record in checkpoints.records().values()] == [1, 5, 6] if found == 5 else [1, 4, 6]
        left = [name for name in files(checkpoints) if not name.endswith(".partial")]  # which resume removes
        assert left == sorted(name for path in checkpoints.paths() for name in pair(path))
        if calls.count("unlink") == 6:  # all was done: step 9, 3 and 2, each with its sidecar
            break
    assert newest == {4, 5}
    assert calls == ["mkdir", "fsync", "begin to write", *["fsync", "replace", "fsync"] * 2, *["unlink"] * 6]


def test_a_kill_amid_the_removals_finds_a_given_up_future_gone_first(tmp_path, monkeypatch):
    for moment in range(99):
        checkpoints = saved(tmp_path / str(moment), 3, 12)
        checkpoints.keep = 1
        with killed_at(monkeypatch, moment) as calls:
            checkpoints.save(state(6), 6, IDENTITY)
        if "unlink" in calls:
            assert loaded_step(checkpoints) == 6
        if calls.count("unlink") == 4:
            break
    assert names(checkpoints) == ["step-00000006.pt"]


def test_a_kill_at_any_call_of_a_rollback_leaves_the_healthy_state_or_the_whole_past(tmp_path, monkeypatch):
    newest = []
    for moment in range(99):
        checkpoints = collapsed(tmp_path / str(moment))
        with killed_at(monkeypatch, moment) as calls:
            checkpoints.save(state(30), 30, IDENTITY, attempt=1)
            checkpoints.drop_after(30, attempt=1)
        newest.append(loaded_step(checkpoints))
        if calls.count("unlink") == 4:
            break
    assert newest == sorted(newest, reverse=True)
    assert set(newest) == {60, 30}


def test_kills_at_random_moments_always_leave_a_whole_state_and_never_an_older_one(tmp_path):
    chance, step, newest = random.Random(0), 0, None
    for _ in range(8):
        child = os.fork()
        if child == 0:  # it must not return into pytest
            with contextlib.suppress(BaseException):
                checkpoints = Checkpoints(tmp_path, keep=2)
                for after in range(step + 1, 10_000):
                    checkpoints.save(state(after), after, IDENTITY, score=chance.random())
            os._exit(1)
        while not (paths := Checkpoints(tmp_path).paths()) or paths[-1] == newest:
            time.sleep(0.001)  # it gets on a little, however busy the machine is
        newest = paths[-1]
        time.sleep(chance.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        found = loaded_step(Checkpoints(tmp_path))
        assert found >= step
        step = found
    assert step >= 8
