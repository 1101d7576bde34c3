"""Checkpoints: a run's whole state saved so that it goes on exactly, and read from files that nobody vouches for.

A state is a file that `torch.load(path, weights_only=True)` reads. Its sidecar, see `runs.sidecar`, holds its SHA-256
and the facts by which files are kept and chosen. There is no index that could disagree with the files.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from schurgan.core.documents import check_pickle
from schurgan.core.errors import SchurganError, is_out_of_memory
from schurgan.core.files import atomic_write, open_regular, sync_folder
from schurgan.runs.folder import RunFolder, StepFile
from schurgan.runs.messages import file_size
from schurgan.runs.sidecar import CheckpointRecord, Damaged, Identity, Sidecar, by_score, sidecar_path

_MOST_PICKLE = 2**24  # bytes of the index of a state: 150 a tensor, of which the largest state has 4,000
_PLAIN = (type(None), bool, int, float, str, bytes)


class Checkpoint(NamedTuple):
    """A state that was read and verified."""

    record: CheckpointRecord
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of a run, of which few stay: the `keep` newest, the best, the last healthy.

    The newest is the one of the highest (attempt, step). Only one process may save; any may load.
    """

    def __init__(self, run: str | Path, keep: int = 2) -> None:
        self._run = RunFolder(run)
        self.folder = self._run.checkpoints
        self.keep = keep

    def path(self, step: int, attempt: int = 0) -> Path:
        """The file of a state."""
        return self._run.checkpoint(step, attempt)

    def paths(self) -> list[Path]:
        """The states that there are, oldest first, damaged ones too."""
        return [file.path for file in self._run.checkpoint_files()]

    def records(self) -> dict[Path, CheckpointRecord]:
        """The records that can be read, oldest first; the states are neither read nor verified."""
        return _read_records(self.paths(), OSError)

    def healthy_steps(self) -> list[int]:
        """Steps of the states that were saved as healthy, oldest first."""
        return [record.step for record in self.records().values() if record.healthy]

    def save(
        self,
        state: dict[str, Any],
        step: int,
        identity: Identity,
        *,
        attempt: int = 0,
        score: float | None = None,
        healthy: bool = True,
        trusted: int | None = None,
    ) -> Path:
        """Write a checkpoint atomically, then remove those that have no role any more or are later than this state.

        Later ones of the same attempt belong to a future that was given up, because they were found damaged.

        Args:
            state: dicts (keys str or int), lists, tuples, dense tensors, None, bool, int, float, str and bytes.
            step: steps behind the state.
            identity: options and data that it was made with.
            attempt: rollbacks before it.
            score: lower is better; one that is not finite counts as none.
            healthy: whether no sign of a collapse is seen.
            trusted: last step that later evaluations confirm as healthy. The newest healthy state up to it stays, and
                the first after it: damage comes before its signs, so a state saved as healthy may prove ill.

        Returns:
            The file.

        Raises:
            ValueError: the state or the identity holds what cannot be saved; its key is named.
            OSError: the disk refuses; the checkpoints before it are as they were.
        """
        size = sum(_storages(state, "state").values())
        score = float(score) if score is not None and math.isfinite(score) else None
        record = CheckpointRecord(step=step, attempt=attempt, score=score, healthy=healthy, identity=identity)
        path = self.path(step, attempt)
        self.folder.mkdir(parents=True, exist_ok=True)
        sync_folder(self.folder.parent)
        _require_space(self.folder, size)
        _write(path, record, state)
        self._rotate(StepFile(attempt, step, path), trusted)
        return path

    def load(self) -> Checkpoint | None:
        """Read the newest checkpoint that is whole, with a warning for each damaged one; None where there is none.

        Raises:
            SchurganError: all are damaged.
        """
        return self._first_readable(reversed(self.paths()))

    def load_healthy(self, before: int) -> Checkpoint | None:
        """Read the newest healthy checkpoint of a step less than `before`, as `load` does."""
        chosen = [path for path, record in self.records().items() if record.healthy and record.step < before]
        return self._first_readable(reversed(chosen))

    def drop_after(self, step: int, attempt: int) -> None:
        """Remove what earlier attempts saved after `step`, except the best; call it after `attempt`'s first save."""
        with self._removing():
            best = by_score(_read_records(self.paths()))[:1]
            for file in reversed(self._run.checkpoint_files()):
                if file.attempt < attempt and file.step > step and file.path not in best:
                    _remove(file.path)

    def _rotate(self, newest: StepFile, trusted: int | None) -> None:
        with self._removing():
            past = _read_records(file.path for file in self._run.checkpoint_files() if file <= newest)
            healthy = [path for path, record in past.items() if record.healthy]
            kept = {*list(past)[-self.keep :], *healthy[-1:], *by_score(past)[:1]}
            if trusted is not None:
                sure = [path for path in healthy if past[path].step <= trusted]
                kept |= {*sure[-1:], *[path for path in healthy if path not in sure][:1]}
            for path in reversed(self.paths()):  # a given-up future first: a kill now must not leave it the newest
                if path not in kept:
                    _remove(path)
            for file in self._run.checkpoint_files(".json"):  # of a save or a removal that a kill cut off
                if not file.path.with_suffix(".pt").exists():
                    file.path.unlink(missing_ok=True)

    @contextmanager
    def _removing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # the state just saved is worth more than the room that old ones take
            warnings.warn(f"{self.folder}: old checkpoints cannot be removed ({error.strerror})", stacklevel=4)

    def _first_readable(self, paths: Iterable[Path]) -> Checkpoint | None:
        damaged: list[SchurganError] = []
        for path in paths:
            try:
                checkpoint = read(path)
            except SchurganError as error:
                damaged.append(error)
                continue
            for problem in damaged:
                warnings.warn(f"{problem}; the checkpoint before it is used", stacklevel=3)
            return checkpoint
        if not damaged:
            return None
        what = f"none of {len(damaged)} checkpoints can be read ({damaged[0]})"
        raise SchurganError(f"{self.folder}: {what}; train again in a new folder")


def read(path: str | Path) -> Checkpoint:
    """Read one checkpoint and verify all of it; it can build nothing but tensors and plain values.

    Raises:
        SchurganError: the file is damaged, unreadable, or of another format.
    """
    path = Path(path)
    try:
        sidecar = Sidecar.load(path)
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size != sidecar.size:
                raise Damaged("damaged (its length is wrong)")
            if hashlib.file_digest(file, "sha256").hexdigest() != sidecar.sha256:
                raise Damaged("damaged (its checksum is wrong)")
            try:
                _check_archive(file, sidecar.size)
                state = torch.load(path, map_location="cpu", weights_only=True)
                _storages(state, "state")
            except Exception as error:  # a checksum proves no goodwill, and torch names no end to what it can raise
                if is_out_of_memory(error):
                    raise
                reason = " ".join(str(error).split())[:120]
                raise Damaged(f"damaged, or not a checkpoint ({type(error).__name__}: {reason})") from None
    except Damaged as error:
        raise SchurganError(f"{path}: {error}") from None
    except OSError as error:
        raise SchurganError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not isinstance(state, dict):
        raise SchurganError(f"{path}: not a checkpoint (it holds {type(state).__name__}, a dict is needed)")
    return Checkpoint(sidecar.record, state)


def _check_archive(file: IO[bytes], size: int) -> None:
    """Refuse an archive that would take more memory than its `size` on the disk, before any is taken."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(each.compress_type != zipfile.ZIP_STORED for each in members):
            raise Damaged("it holds compressed members")
        if sum(each.file_size for each in members) > size:
            raise Damaged("it holds more than its size")
        for each in members:
            if each.filename.endswith("/data.pkl"):
                if each.file_size > _MOST_PICKLE:
                    raise Damaged("its index is too large to be one")
                check_pickle(archive.read(each))


def _read_records(paths: Iterable[Path], *passed_over: type[OSError]) -> dict[Path, CheckpointRecord]:
    """Records in the order of `paths`, without damaged files. Raises OSError where that cannot be told."""
    records = {}
    for path in paths:
        with suppress(Damaged, *passed_over):
            sidecar = Sidecar.load(path)
            if path.stat().st_size == sidecar.size:
                records[path] = sidecar.record
    return records


def _write(path: Path, record: CheckpointRecord, state: dict[str, Any]) -> None:
    with atomic_write(path) as file:
        hashed = _Hashed(file)
        try:
            torch.save(state, hashed)  # type: ignore[arg-type]  # it needs no more of a file than write and flush
        except RuntimeError:
            if hashed.failure is not None:  # torch hides it behind "unexpected pos"
                raise hashed.failure from None
            raise
        # Before the state has its name: a kill in between leaves a sidecar alone, which is no checkpoint.
        Sidecar(size=hashed.size, sha256=hashed.digest.hexdigest(), record=record).save(path)


def _remove(path: Path) -> None:
    """Remove a checkpoint; a kill between the two leaves a sidecar alone."""
    path.unlink(missing_ok=True)
    sidecar_path(path).unlink(missing_ok=True)


class _Hashed:
    """Passes on what is written to `file`, and knows its size, its SHA-256 and why writing failed."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.size, self.digest = file, 0, hashlib.sha256()
        self.failure: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        try:
            self.file.write(data)
        except OSError as error:
            self.failure = error
            raise
        self.digest.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: torch asks for it after every archive, and atomic_write will do it."""


def _storages(value: object, where: str) -> dict[tuple[torch.device, int], int]:
    """Bytes of each piece of memory that the tensors in `value` view. Raises ValueError for what cannot be saved."""
    storages: dict[tuple[torch.device, int], int] = {}
    if type(value) is Tensor:
        if value.layout is not torch.strided or value.is_meta:
            raise ValueError(f"{where}: a dense tensor is needed, this one is {value.layout} on {value.device}")
        storage = value.untyped_storage()
        if value.numel() * value.element_size() > storage.nbytes():
            raise ValueError(f"{where}: a dense tensor is needed, this one repeats what it holds")
        storages[storage.device, storage.data_ptr()] = storage.nbytes()
    elif isinstance(value, dict) and type(value) in (dict, OrderedDict):
        for key, inner in value.items():
            if type(key) not in (str, int):
                raise ValueError(f"{where}: keys are str or int, {key!r} is {type(key).__name__}")
            storages |= _storages(inner, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple) and type(value) in (list, tuple):
        for number, inner in enumerate(value):
            storages |= _storages(inner, f"{where}[{number}]")
    elif type(value) not in _PLAIN:
        allowed = "a tensor, dict, list, tuple, None, bool, int, float, str or bytes is needed"
        raise ValueError(f"{where}: {type(value).__module__}.{type(value).__qualname__} given, {allowed}")
    return storages


def _require_space(folder: Path, needed: int) -> None:
    """Raises OSError before half an hour of writing would; file systems that do not tell their size are tried."""
    usage = shutil.disk_usage(folder)
    if usage.total > 0 and usage.free < needed:
        room = f"{file_size(needed)} are needed, {file_size(usage.free)} are free"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {room}")
