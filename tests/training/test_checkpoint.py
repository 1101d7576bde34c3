from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pickle
import random
import shutil
import signal
import time
import tracemalloc
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch

from schurgan.core.errors import UserError
from schurgan.training import checkpoint
from schurgan.training.changes import Identity
from schurgan.training.checkpoint import FORMAT, Checkpoints, Record, SaveFailed, read

IDENTITY = Identity(options={"train": {"lr_g": 0.001}, "model": {"attention_g": [8, 16]}}, data="0123abcd")


def state(step: int, size: int = 64) -> dict[str, Any]:
    weights = torch.randn(size, size, generator=torch.Generator().manual_seed(step))
    return {"step": step, "network": {"weight": weights}, "rows": [{"loss": torch.tensor(0.5)}]}


def saved(folder: Path, *steps: int, keep: int = 9) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(state(step), step, IDENTITY)
    return checkpoints


def loaded_step(checkpoints: Checkpoints) -> int:
    """Of the newest state, which must be whole."""
    found = checkpoints.load()
    assert found is not None
    assert found.record.step == found.state["step"]
    assert torch.equal(found.state["network"]["weight"], state(found.record.step)["network"]["weight"])
    return found.record.step


def names(checkpoints: Checkpoints) -> list[str]:
    return [path.name for path in checkpoints.paths()]


def flip(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


# What comes back


def test_the_newest_state_comes_back_bit_for_bit_with_what_is_known_of_it(tmp_path):
    checkpoints = saved(tmp_path, 3)
    checkpoints.save(state(12), 12, IDENTITY, attempt=2, score=31.5, healthy=False)
    found = checkpoints.load()
    assert found is not None
    assert found.record == Record(step=12, attempt=2, score=31.5, healthy=False, identity=IDENTITY)
    assert torch.equal(found.state["network"]["weight"], state(12)["network"]["weight"])
    assert found.state["rows"][0]["loss"].item() == 0.5


def test_everything_that_may_be_saved_comes_back_as_it_was(tmp_path):
    rng = torch.get_rng_state()
    layer = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    plain = {"a": [None, True, -3, 2**70, 0.1, float("inf"), "ü\n", b"\0"], 7: (1, [2, {}]), "o": OrderedDict(x=1)}
    tensors = [torch.tensor([1, 2], dtype=kind) for kind in (torch.bfloat16, torch.int64, torch.complex64, torch.bool)]
    whole = {"plain": plain, "tensors": tensors, "net": layer.state_dict(), "opt": optimizer.state_dict(), "rng": rng}
    back = read(Checkpoints(tmp_path).save(whole, 1, IDENTITY)).state
    assert back["plain"] == plain
    assert isinstance(back["plain"][7], tuple)
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(back["tensors"], tensors, strict=True))
    again = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    again.load_state_dict(back["net"])
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), layer.state_dict().values(), strict=True))
    assert torch.equal(back["opt"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert torch.equal(back["rng"], rng)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (
            {"monitor": {"window": [1.0, {2, 3}]}},
            r"state\['monitor'\]\['window'\]\[1\]: builtins.set given, a tensor, ",
        ),
        ({"mean": np.float64(1)}, r"state\['mean'\]: numpy.float64 given"),
        ({"path": Path("x")}, r"state\['path'\]: pathlib.* given"),
        ({"weight": torch.nn.Parameter(torch.ones(1))}, r"state\['weight'\]: torch.nn.parameter.Parameter given"),
        (
            {"weight": torch.ones(2).to_sparse()},
            r"state\['weight'\]: a dense tensor is needed, this one is torch.spars",
        ),
        ({"weight": torch.ones(2, device="meta")}, r"a dense tensor is needed, this one is torch.strided on meta"),
        ({"counts": {(1, 2): 3}}, r"state\['counts'\]: keys are str or int, \(1, 2\) is tuple"),
    ],
)
def test_what_could_not_be_read_back_is_refused_by_its_key_before_anything_is_written(tmp_path, bad, sentence):
    checkpoints = saved(tmp_path, 3)
    with pytest.raises(ValueError, match=sentence):
        checkpoints.save(bad, 6, IDENTITY)
    assert names(checkpoints) == ["step-00000003.pt"]


@pytest.mark.parametrize("options", [{"x": float("nan")}, {"x": object()}, {"x": "y" * 60_000}])
def test_an_identity_that_a_file_cannot_hold_is_refused_and_leaves_nothing(tmp_path, options):
    checkpoints = saved(tmp_path, 3)
    with pytest.raises(ValueError, match="identity: "):
        checkpoints.save(state(6), 6, Identity(options=options, data=""))
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-00000003.pt"]


def test_the_longest_identity_can_be_read_back(tmp_path):
    identity = Identity(options={"x": "y" * 59_500}, data="")  # its file ends in almost 64 KiB that are no archive
    assert read(Checkpoints(tmp_path).save(state(3), 3, identity)).record.identity == identity


def test_the_same_state_gives_the_same_bytes(tmp_path):
    one, other = saved(tmp_path / "one", 3), saved(tmp_path / "other", 3)
    assert one.paths()[0].read_bytes() == other.paths()[0].read_bytes()


def test_without_a_checkpoint_there_is_no_state_of_any_kind(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.load() is None
    assert checkpoints.load_healthy(before=9) is None
    assert checkpoints.best() is None
    assert checkpoints.records() == {}


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
    best, healthy = again.best(), again.load_healthy(before=4)
    assert best is not None
    assert best.state["step"] == 1
    assert healthy is not None
    assert healthy.state["step"] == 2


def test_the_newest_of_equal_scores_is_the_best_and_a_score_that_is_not_finite_is_none(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=9)
    for step, score in [(1, 5.0), (2, 5.0), (3, float("nan")), (4, -float("inf"))]:
        checkpoints.save(state(step), step, IDENTITY, score=score)
    best = checkpoints.best()
    assert best is not None
    assert best.record.step == 2
    assert [record.score for record in checkpoints.records().values()] == [5.0, 5.0, None, None]


def test_what_is_later_than_the_state_saved_last_was_given_up_and_is_dropped(tmp_path):
    checkpoints = saved(tmp_path, 3, 12, 6)
    assert names(checkpoints) == ["step-00000003.pt", "step-00000006.pt"]
    assert loaded_step(checkpoints) == 6


def test_a_damaged_one_has_no_role_and_is_dropped_by_the_next_save(tmp_path):
    checkpoints = saved(tmp_path, 1, 2, 3, keep=2)
    flip(checkpoints.paths()[-1], -1)
    checkpoints.save(state(4), 4, IDENTITY)
    assert names(checkpoints) == ["step-00000002.pt", "step-00000004.pt"]


def test_files_that_are_no_checkpoints_are_left_alone(tmp_path):
    checkpoints = saved(tmp_path, 1)
    (checkpoints.folder / "step-best.pt").write_bytes(b"mine")
    checkpoints.keep = 1
    checkpoints.save(state(2), 2, IDENTITY)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step-00000002.pt", "step-best.pt"]
    assert loaded_step(checkpoints) == 2


@pytest.mark.parametrize("step", [99_999_999, 100_000_000, 2**40])
def test_steps_of_more_digits_are_still_in_order(tmp_path, step):
    assert loaded_step(saved(tmp_path, step - 1, step, keep=2)) == step
    assert loaded_step(saved(tmp_path, step, step + 1, keep=2)) == step + 1


# Rollback


def collapsed(folder: Path) -> Checkpoints:
    """Healthy to step 30, whose onset was 35; best at step 50."""
    checkpoints = Checkpoints(folder, keep=9)
    for step, score in [(10, 9.0), (20, 8.0), (30, 7.0), (40, 6.0), (50, 5.0), (60, 99.0)]:
        checkpoints.save(state(step), step, IDENTITY, score=score, healthy=step < 50)
    return checkpoints


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


# Damage


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", "truncated", "cut early", "flipped", "no reading"])
def test_a_damaged_newest_file_is_named_in_one_warning_and_the_one_before_it_taken(tmp_path, damage):
    checkpoints = saved(tmp_path, 3, 6)
    newest = checkpoints.paths()[-1]
    size = newest.stat().st_size
    if damage == "no reading":
        newest.unlink()
        newest.mkdir()  # root may read every file, but no folder as one
    elif damage == "flipped":
        flip(newest, size // 2)
    elif isinstance(damage, str):
        os.truncate(newest, size - 1 if damage == "truncated" else size // 3)
    else:
        newest.write_bytes(damage)
    with pytest.warns(UserWarning, match=r"step-00000006.pt: .* before it is used") as caught:
        assert loaded_step(checkpoints) == 3
    assert len(caught) == 1


def test_a_flipped_bit_anywhere_is_noticed(tmp_path):
    path = Checkpoints(tmp_path).save(state(6, size=4), 6, IDENTITY)
    whole, chance = path.read_bytes(), random.Random(0)
    with open(path, "r+b", buffering=0) as file:
        for position, byte in enumerate(whole):
            for put in (byte ^ 1 << chance.randrange(8), byte):
                os.pwrite(file.fileno(), bytes([put]), position)
                if put != byte:
                    with pytest.raises(UserError, match=r"step-00000006.pt: .*(damaged|checkpoint)"):
                        read(path)
    assert read(path).state["step"] == 6


def test_a_truncation_anywhere_and_a_byte_too_many_are_noticed(tmp_path):
    path = saved(tmp_path, 6).paths()[0]
    whole = path.read_bytes()
    seal = whole.rindex(b'{"format"')
    lengths = [*range(0, len(whole), len(whole) // 40), *range(seal - 2, len(whole))]
    for content in [*(whole[:length] for length in lengths), whole + b"\0", b"\0" + whole, whole[1:], whole + whole]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"damaged|checkpoint"):
            read(path)


def test_all_damaged_is_one_sentence_and_no_warning(tmp_path):
    checkpoints = saved(tmp_path, 3, 6)
    for path in checkpoints.paths():
        path.write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=r"none of 2 checkpoints can be read \(.*step-00000006.pt: damaged"):
            checkpoints.load()


def test_the_best_and_the_healthy_one_are_passed_over_when_damaged(tmp_path):
    checkpoints = collapsed(tmp_path)
    flip(checkpoints.path(50), 2000)  # amid the state: its record can be read
    flip(checkpoints.path(40), 2000)
    with pytest.warns(UserWarning, match=r"step-000000[45]0.pt: damaged") as caught:
        best = checkpoints.best()
    assert len(caught) == 2
    with pytest.warns(UserWarning, match=r"step-00000040.pt: damaged"):
        healthy = checkpoints.load_healthy(before=99)
    assert best is not None
    assert healthy is not None
    assert best.state["step"] == healthy.state["step"] == 30


# Files that nobody vouches for


class Evil:
    """Unpickled without care, it makes a folder."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.made),)


def sealed(path: Path, archive: Callable[[Path], object], **facts: object) -> Path:
    """A file of this format whose checksums are right, whatever it holds."""
    archive(path)
    content = path.read_bytes()
    record = Record(step=1, identity=IDENTITY).model_dump()
    seal = {"format": FORMAT, "size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "record": record}
    text = json.dumps(seal | facts).encode()
    path.write_bytes(content + text + hashlib.sha256(text).hexdigest().encode() + b"%08x" % len(text) + b"schurgan")
    return path


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_that_would_run_code_runs_nothing(tmp_path, archive):
    made, path = tmp_path / "made", tmp_path / "step-00000001.pt"
    content = {"step": Evil(made)}
    sealed(path, lambda to: torch.save(content, to) if archive else to.write_bytes(pickle.dumps(content)))
    with pytest.raises(UserError, match=r"step-00000001.pt: damaged, or not a checkpoint \(UnpicklingError\)"):
        read(path)
    assert not made.exists()
    torch.load(path, weights_only=False) if archive else pickle.loads(path.read_bytes())  # what would have happened
    assert made.exists()


def test_the_files_of_these_tests_are_of_the_format_that_is_saved(tmp_path):
    assert read(sealed(tmp_path / "step-00000001.pt", lambda to: torch.save({"a": 1}, to))).state == {"a": 1}


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"format": "schurgan-checkpoint/4"}, 'of format "schurgan-checkpoint/4", this program reads "schurgan'),
        ({"record": {"step": 1}}, "its record is another"),
        ({"record": {"step": -1, "identity": IDENTITY.model_dump()}}, "its record is another"),
        ({"record": {"step": 1, "identity": {"options": 3, "data": ""}}}, "its record is another"),
        ({"size": 10**30}, "its record is another|length is wrong"),
        ({"size": 3}, "its length is wrong"),
        ({"sha256": "0" * 64}, "its checksum is wrong"),
        ({"extra": 1}, "its record is another"),
    ],
)
def test_a_seal_that_says_something_else_is_one_sentence(tmp_path, facts, sentence):
    path = sealed(tmp_path / "step-00000001.pt", lambda to: torch.save({"a": 1}, to), **facts)
    with pytest.raises(UserError, match=sentence):
        read(path)


@pytest.mark.parametrize("content", [[1], torch.zeros(2), 3])
def test_an_archive_of_something_else_is_refused(tmp_path, content):
    path = sealed(tmp_path / "step-00000001.pt", lambda to: torch.save(content, to))
    with pytest.raises(UserError, match="not a checkpoint"):
        read(path)


def test_a_file_of_an_earlier_format_is_refused_by_name(tmp_path):
    torch.save({"format": "schurgan-checkpoint/2", "identity": "", "state": {}}, tmp_path / "step-00000001.pt")
    with pytest.raises(
        UserError, match=f'step-00000001.pt: damaged, cut off, or not a checkpoint of format "{FORMAT}"'
    ):
        read(tmp_path / "step-00000001.pt")


# A disk that refuses


def test_a_full_disk_is_told_apart_and_keeps_the_checkpoints_before_it(tmp_path, full_disk):
    checkpoints = saved(tmp_path, 3, keep=1)
    before = checkpoints.paths()[0].read_bytes()
    with full_disk(), pytest.raises(SaveFailed, match="No space left") as failed:
        checkpoints.save(state(6), 6, IDENTITY)
    assert failed.value.filename == str(checkpoints.path(6))
    assert {path.name: path.read_bytes() for path in checkpoints.folder.iterdir()} == {"step-00000003.pt": before}
    checkpoints.save(state(6), 6, IDENTITY)  # when there is room again
    assert loaded_step(checkpoints) == 6


@pytest.mark.parametrize("size", [100, 5_000, 40_000])
def test_a_disk_that_becomes_full_amid_the_state_says_so_and_not_what_torch_makes_of_it(tmp_path, size):
    resource = pytest.importorskip("resource")
    checkpoints = saved(tmp_path, 3, keep=1)
    limit, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        with pytest.raises(SaveFailed, match="File too large"):
            checkpoints.save(state(6, size=128), 6, IDENTITY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-00000003.pt"]


def test_a_state_that_cannot_fit_is_not_begun_to_be_written(tmp_path, monkeypatch):
    checkpoints, size = saved(tmp_path, 3), 4 * 64 * 64
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=size - 1))
    monkeypatch.setattr(torch, "save", None)
    with pytest.raises(SaveFailed, match=rf"No space left on device: {size + 4} bytes are needed, {size - 1} are free"):
        checkpoints.save(state(6), 6, IDENTITY)


def test_memory_that_several_tensors_share_needs_room_once(tmp_path, monkeypatch):
    weights = torch.zeros(10_000)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=50_000))
    Checkpoints(tmp_path).save({"weights": weights, "tied": weights.view(100, 100), "part": weights[:5]}, 1, IDENTITY)


def test_a_file_system_that_does_not_tell_its_size_is_tried(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(total=0, used=0, free=0))
    assert loaded_step(saved(tmp_path, 3)) == 3


def test_a_folder_that_cannot_be_made_is_told_apart(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(SaveFailed, match="File exists"):
        saved(tmp_path, 3)


def test_old_ones_that_cannot_be_removed_are_a_warning_and_the_state_is_saved(tmp_path, full_disk):
    checkpoints = saved(tmp_path, 3, keep=1)
    with full_disk(call="unlink"), pytest.warns(UserWarning, match="old checkpoints cannot be removed"):
        checkpoints.save(state(6), 6, IDENTITY)
    assert loaded_step(checkpoints) == 6


def test_nothing_is_removed_while_a_file_cannot_be_opened(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 1, 2, 3)
    checkpoints.keep = 1

    def refuse(path: Path, mode: str) -> IO[bytes]:
        if path == checkpoints.path(2):  # for now: nobody knows that it is not the best
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return open(path, mode)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "open", refuse, raising=False)
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


def history(folder: Path) -> Checkpoints:
    """Five files: the newest two, the best, the last healthy one, and one of a future that was given up."""
    checkpoints = Checkpoints(folder, keep=2)
    for step, score, healthy in [(1, 1.0, True), (2, 2.0, True), (3, 3.0, False), (4, 4.0, False)]:
        checkpoints.save(state(step), step, IDENTITY, score=score, healthy=healthy)
    (checkpoints.path(9)).write_bytes(checkpoints.path(4).read_bytes()[:-1])  # damaged, so the run went on from 4
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
        assert found == (5 if "replace" in calls else 4)
        newest.add(found)
        best = checkpoints.best()
        assert best is not None
        assert best.state["step"] == 1
        checkpoints.save(state(6), 6, IDENTITY, score=6.0)  # what the kill left is made good by the next save
        assert [record.step for record in checkpoints.records().values()] == [1, 5, 6] if found == 5 else [1, 4, 6]
        if calls.count("unlink") == 3:  # all was done: step 9, 3 and 2
            break
    assert newest == {4, 5}
    assert calls == ["mkdir", "fsync", "begin to write", "fsync", "replace", "fsync", "unlink", "unlink", "unlink"]


def test_a_kill_amid_the_removals_finds_a_given_up_future_gone_first(tmp_path, monkeypatch):
    for moment in range(99):
        checkpoints = saved(tmp_path / str(moment), 3, 12)
        checkpoints.keep = 1
        with killed_at(monkeypatch, moment) as calls:
            checkpoints.save(state(6), 6, IDENTITY)
        if "unlink" in calls:
            assert loaded_step(checkpoints) == 6
        if calls.count("unlink") == 2:
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
        if calls.count("unlink") == 2:
            break
    assert newest == sorted(newest, reverse=True)
    assert set(newest) == {60, 30}


def test_kills_at_random_moments_always_leave_a_whole_state_and_never_an_older_one(tmp_path):
    chance, step = random.Random(0), 0
    for _ in range(8):
        child = os.fork()
        if child == 0:  # it must not return into pytest
            with contextlib.suppress(BaseException):
                checkpoints = Checkpoints(tmp_path, keep=2)
                for after in range(step + 1, 10_000):
                    checkpoints.save(state(after), after, IDENTITY, score=chance.random())
            os._exit(1)
        time.sleep(chance.uniform(0.02, 0.12))
        os.kill(child, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        checkpoints = Checkpoints(tmp_path)
        if step == 0 and not checkpoints.paths():
            continue
        found = loaded_step(checkpoints)
        assert found >= step
        step = found
    assert step > 8


# Memory


def test_saving_and_verifying_hold_no_copy_of_the_state_outside_of_torch(tmp_path):
    weights = torch.zeros(4_000_000)
    checkpoints = Checkpoints(tmp_path)
    tracemalloc.start()
    try:
        path = checkpoints.save({"weights": weights}, 1, IDENTITY)
        read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(weights) / 4  # a copy as bytes would be 16 MB; a chunk for hashing is 1 MB


def test_the_newest_one_that_is_trusted_stays_whatever_was_found_healthy_after_it(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in range(1, 9):
        checkpoints.save({"step": step}, step, IDENTITY, trusted=step - 4)
        known = [record.step for record in checkpoints.records().values()]
        assert len(known) <= 3
        assert step < 5 or any(saved <= step - 4 for saved in known)
    assert known == [4, 7, 8]
