"""Saving a run's whole state so that it can go on exactly, and reading it back from files that nobody vouches for.

A file is an archive of torch, then a seal in JSON, then the seal's own SHA-256 and length. The seal holds the archive's
SHA-256 and the facts by which files are kept and chosen; it is at the end because the state is hashed while it streams
to the disk. There is no index that could disagree with the files.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from schurgan.core.errors import UserError
from schurgan.core.files import atomic_write, sync_folder
from schurgan.runs.folder import RunFolder
from schurgan.training.changes import Identity

FORMAT = "schurgan-checkpoint/3"
_NAME = re.compile(r"step-(\d{8,})(?:-a([1-9]\d*))?\.pt")
_MARK = b"schurgan"
_TAIL = 64 + 8 + len(_MARK)
_LONGEST_SEAL = 60_000  # readers of archives look for their directory in the last 65557 bytes of a file
_PLAIN = (type(None), bool, int, float, str, bytes)
_Whole = Annotated[int, Field(ge=0)]


class SaveFailed(OSError):
    """A checkpoint could not be written, for the reason in `strerror`; those before it are as they were."""


class Record(BaseModel):
    """What is known of a state without reading it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    step: _Whole
    attempt: _Whole = 0
    """Rollbacks before it."""
    score: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Of its samples, lower is better; None where they were not scored."""
    healthy: bool = True
    """Whether nothing spoke for a collapse when it was saved."""
    identity: Identity
    """Options and data that it was made with."""


class Checkpoint(NamedTuple):
    record: Record
    state: dict[str, Any]


class _Seal(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: str
    size: _Whole
    sha256: str
    record: Record


class _Damaged(Exception):
    """Why a file is no checkpoint that can be trusted."""


class Checkpoints:
    """The files RUN/checkpoints/step-00000500.pt, of which few stay: the newest `keep`, the best, the last healthy.

    What an attempt after a rollback saved is called step-00000500-a1.pt; the newest file is the one of the highest
    (attempt, step). Only one process may save; any may load.
    """

    def __init__(self, run: str | Path, keep: int = 2) -> None:
        self.run = RunFolder(run)
        self.folder = self.run.checkpoints
        self.keep = keep

    def path(self, step: int, attempt: int = 0) -> Path:
        return self.run.checkpoint(step, attempt)

    def paths(self) -> list[Path]:
        """Oldest first, damaged ones too."""
        return [file.path for file in self.run.checkpoint_files()]

    def records(self) -> dict[Path, Record]:
        """Oldest first, those that can be read; their states are neither read nor verified."""
        return _records(self.paths(), OSError)

    def healthy_steps(self) -> list[int]:
        """Steps of those that were saved as healthy, oldest first."""
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
        """Write atomically, then drop what has no role any more, and what is later than this state.

        Later files of the same attempt belong to a future that was given up, because they were found damaged.

        state: dicts (keys str or int), lists, tuples, dense tensors, None, bool, int, float, str and bytes.
        score: of the samples, lower is better; one that is not finite counts as none.
        trusted: the newest healthy one up to this step stays too, and the first after it: the damage comes before its
            signs, so that a later one may be found ill.
        Raises ValueError naming the key of what cannot be saved, and SaveFailed when the disk refuses.
        """
        size = sum(_storages(state, "state").values())
        score = float(score) if score is not None and math.isfinite(score) else None
        record = Record(step=step, attempt=attempt, score=score, healthy=healthy, identity=identity)
        path = self.path(step, attempt)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            sync_folder(self.folder.parent)
            _require_space(self.folder, size)
            _write(path, record, state)
        except OSError as error:
            raise SaveFailed(error.errno, error.strerror or str(error), str(path)) from error
        self._rotate(path, trusted)
        return path

    def load(self) -> Checkpoint | None:
        """The newest one that can be read, or None where there is none at all.

        This and what follows name a damaged file in a warning and take the one before it, and raise UserError when all
        that could be chosen from are damaged.
        """
        return self._first_readable(reversed(self.paths()))

    def load_healthy(self, before: int) -> Checkpoint | None:
        """The newest healthy one of a step less than `before`, or None."""
        chosen = [path for path, record in self.records().items() if record.healthy and record.step < before]
        return self._first_readable(reversed(chosen))

    def best(self) -> Checkpoint | None:
        """The one of the lowest score, the newest of equals, or None where none was scored."""
        return self._first_readable(_by_score(self.records()))

    def drop_after(self, step: int, attempt: int) -> None:
        """Remove what attempts before `attempt` saved after `step`, but for the best: a rollback gave it up.

        To be called when `attempt` has saved its first state, so that at no moment the newest is one that was given up.
        """
        with self._removing():
            best = _by_score(_records(self.paths()))[:1]
            for path in reversed(self.paths()):
                if _age(path)[0] < attempt and _age(path)[1] > step and path not in best:
                    path.unlink(missing_ok=True)

    def _rotate(self, newest: Path, trusted: int | None) -> None:
        with self._removing():
            past = _records(path for path in self.paths() if _age(path) <= _age(newest))
            healthy = [path for path, record in past.items() if record.healthy]
            kept = {*list(past)[-self.keep :], *healthy[-1:], *_by_score(past)[:1]}
            if trusted is not None:
                sure = [path for path in healthy if past[path].step <= trusted]
                kept |= {*sure[-1:], *[path for path in healthy if path not in sure][:1]}
            for path in reversed(self.paths()):  # a given-up future first: a kill now must not leave it the newest
                if path not in kept:
                    path.unlink(missing_ok=True)

    @contextmanager
    def _removing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # the state just saved is worth more than the room that old ones take
            warnings.warn(f"{self.folder}: old checkpoints cannot be removed ({error.strerror})", stacklevel=4)

    def _first_readable(self, paths: Iterable[Path]) -> Checkpoint | None:
        damaged: list[UserError] = []
        for path in paths:
            try:
                found = read(path)
            except UserError as error:
                damaged.append(error)
                continue
            for problem in damaged:
                warnings.warn(f"{problem}; the checkpoint before it is used", stacklevel=3)
            return found
        if not damaged:
            return None
        what = f"none of {len(damaged)} checkpoints can be read ({damaged[0]})"
        raise UserError(f"{self.folder}: {what}; train again in a new folder")


def read(path: str | Path) -> Checkpoint:
    """One file, wholly verified; it can build nothing but tensors and plain values. Raises UserError naming it."""
    try:
        with open(path, "rb") as file:
            seal = _read_seal(file)
            file.seek(0)
            if _sha256(file, seal.size) != seal.sha256:
                raise _Damaged("damaged (its checksum is wrong)")
            file.seek(0)
            return Checkpoint(seal.record, _read_state(file))
    except _Damaged as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _records(paths: Iterable[Path], *passed_over: type[OSError]) -> dict[Path, Record]:
    """In the order given, without damaged files. Raises OSError, unless passed over, where that cannot be told."""
    found = {}
    for path in paths:
        with suppress(_Damaged, *passed_over), open(path, "rb") as file:
            found[path] = _read_seal(file).record
    return found


def _write(path: Path, record: Record, state: dict[str, Any]) -> None:
    with atomic_write(path) as file:
        hashed = _Hashed(file)
        try:
            torch.save(state, hashed)  # type: ignore[arg-type]  # it needs no more of a file than write and flush
        except RuntimeError:
            if hashed.failure is not None:  # torch hides it behind "unexpected pos"
                raise hashed.failure from None
            raise
        seal = _Seal(format=FORMAT, size=hashed.size, sha256=hashed.digest.hexdigest(), record=record)
        try:
            content = json.dumps(seal.model_dump(), allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise ValueError(f"identity: JSON cannot hold it ({error})") from None
        if len(content) > _LONGEST_SEAL:
            raise ValueError(f"identity: {len(content)} bytes as JSON, at most {_LONGEST_SEAL} can be held")
        file.write(content + _tail(content))


def _read_seal(file: IO[bytes]) -> _Seal:
    """The facts at the end of a file, verified by their own checksum. Raises _Damaged and OSError."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - _TAIL - _LONGEST_SEAL))
    content, tail = (last := file.read())[:-_TAIL], last[-_TAIL:]
    if not tail.endswith(_MARK):
        raise _Damaged(f'damaged, cut off, or not a checkpoint of format "{FORMAT}"')
    try:
        content = content[-int(tail[64:72], 16) :]
    except ValueError:
        raise _Damaged("damaged (its last bytes are wrong)") from None
    if tail != _tail(content):
        raise _Damaged("damaged (the checksum of its record is wrong)")
    try:
        seal = _Seal.model_validate_json(content)
    except ValidationError:
        raise _Damaged(f'not a checkpoint of format "{FORMAT}" (its record is another)') from None
    if seal.format != FORMAT:
        raise _Damaged(f'a checkpoint of format "{seal.format[:40]}", this program reads "{FORMAT}"')
    if seal.size + len(content) + _TAIL != end:
        raise _Damaged("damaged (its length is wrong)")
    return seal


def _read_state(file: IO[bytes]) -> dict[str, Any]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a checksum proves no goodwill, and torch names no end to what an archive can raise
        raise _Damaged(f"damaged, or not a checkpoint ({type(error).__name__})") from None
    if not isinstance(state, dict):
        raise _Damaged(f"not a checkpoint (it holds {type(state).__name__}, a dict is needed)")
    return state


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
        """torch asks for it after every archive; atomic_write will do it."""


def _tail(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode() + b"%08x" % len(content) + _MARK


def _sha256(file: IO[bytes], size: int) -> str:
    digest = hashlib.sha256()
    while size > 0 and (chunk := file.read(min(size, 1 << 20))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()


def _storages(value: object, where: str) -> dict[tuple[torch.device, int], int]:
    """Bytes of each piece of memory that the tensors in `value` view. Raises ValueError for what cannot be saved."""
    found: dict[tuple[torch.device, int], int] = {}
    if type(value) is Tensor:
        if value.layout is not torch.strided or value.is_meta:
            raise ValueError(f"{where}: a dense tensor is needed, this one is {value.layout} on {value.device}")
        storage = value.untyped_storage()
        found[storage.device, storage.data_ptr()] = storage.nbytes()
    elif type(value) in (dict, OrderedDict):
        assert isinstance(value, dict)
        for key, inner in value.items():
            if type(key) not in (str, int):
                raise ValueError(f"{where}: keys are str or int, {key!r} is {type(key).__name__}")
            found |= _storages(inner, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        assert isinstance(value, list | tuple)
        for number, inner in enumerate(value):
            found |= _storages(inner, f"{where}[{number}]")
    elif type(value) not in _PLAIN:
        allowed = "a tensor, dict, list, tuple, None, bool, int, float, str or bytes is needed"
        raise ValueError(f"{where}: {type(value).__module__}.{type(value).__qualname__} given, {allowed}")
    return found


def _require_space(folder: Path, needed: int) -> None:
    """Raises OSError before half an hour of writing would; file systems that do not tell their size are tried."""
    usage = shutil.disk_usage(folder)
    if usage.total > 0 and usage.free < needed:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed} bytes are needed, {usage.free} are free")


def _by_score(records: Mapping[Path, Record]) -> list[Path]:
    """Best first, the newest of equals first."""
    scored = [(path, record.score) for path, record in reversed([*records.items()]) if record.score is not None]
    return [path for path, _ in sorted(scored, key=lambda each: each[1])]


def _age(path: Path) -> tuple[int, int]:
    """(attempt, step), which a damaged file still says by its name."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[2] or 0), int(match[1])
