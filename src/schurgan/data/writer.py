"""The writer's side of the shards: who owns the folder, which shards are finished, and the manifest of them all."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from schurgan.core.documents import LARGEST, Unreadable, parse, read_bytes, seal
from schurgan.core.errors import SchurganError
from schurgan.core.files import atomic_write, lock_holder, sha256, write_json
from schurgan.data.manifest import (
    FORMAT,
    FORMAT_VERSION,
    IMAGE,
    Clip,
    Clips,
    DType,
    Manifest,
    Part,
    Shard,
    ShardFile,
    Skipped,
    is_manifest,
    wrong_size,
)
from schurgan.runs.folder import MANIFEST, UNFINISHED, RunFolder, forget_users, users
from schurgan.runs.messages import counted
from schurgan.version import __version__

OURS = re.compile(r"(images|audio)-\d{5,}\.npy|part-\d{5,}\.json|unfinished\.json|manifest\.json")
FEW = 10  # clips a class below which a warning is due
FAINT = 1e-3  # peak of a recording, full scale 1, under which its noise floor is what gets learnt
Rows = NDArray[Any]


class OtherData(SchurganError):
    """The folder holds what was made of another source or with other options."""


@dataclass(frozen=True)
class Chunk:
    """What became of `n_items` items: rows of the shard's files (n, planes, R, R) and (n, n_samples), and records."""

    n_items: int
    clips: list[Clip]
    skipped: list[Skipped]
    images: Rows | None = None
    audio: Rows | None = None


class OutputFolder:
    """The folder that a set is being made in. A reader needs `Shards` alone.

    Its methods raise OSError as the file system does.
    """

    def __init__(self, path: Path, plan: str) -> None:
        self.path, self.plan = path, plan

    def claim(self, overwrite: bool) -> Manifest | None:
        """Make the folder ours for this plan, or return its manifest if it is finished.

        Raises:
            SchurganError: the folder holds other data, ours (unless `overwrite`) or anybody's.
        """
        if RunFolder(self.path).begun():
            raise SchurganError(f"{self.path}: a run, which has files of its own; choose another folder")
        self.path.mkdir(parents=True, exist_ok=True)
        finished, begun = is_manifest(self.path / MANIFEST), is_manifest(self.path / UNFINISHED)
        if not finished and not begun and (foreign := next(self._ours(), None)):
            raise SchurganError(
                f"{foreign}: is not of this program's making and would be replaced; choose another folder"
            )
        if not overwrite:
            if finished and (manifest := Manifest.load(self.path)).plan == self.plan:
                for file in manifest.files():
                    if problem := wrong_size(self.path, file):
                        raise SchurganError(f"{problem}; prepare the data again with overwrite")
                self.tidy(manifest)
                return manifest
            plan = None
            with contextlib.suppress(OSError, Unreadable):
                plan = parse(dict, read_bytes(self.path / UNFINISHED)).get("plan")
            if (finished or begun) and plan != self.plan:
                held = f"{self.path}: holds clips of another source or other options"
                learned = f", from which {_listed(runs)} learned" if (runs := users(self.path)) else ""
                raise OtherData(f"{held}{learned}; choose another folder or overwrite it")
        elif runs := users(self.path):
            self._part_from(runs)
        # The marker comes before the manifest goes: at no moment are the files nobody's, or does half a set look whole.
        write_json(self.path / UNFINISHED, {"format": FORMAT, "version": FORMAT_VERSION, "plan": self.plan})
        (self.path / MANIFEST).unlink(missing_ok=True)
        for path in list(self._ours()) if overwrite else ():
            if path.name != UNFINISHED:
                path.unlink(missing_ok=True)
        return None

    def _part_from(self, runs: Sequence[Path]) -> None:
        """Warn that these runs learned from what is about to be replaced. SchurganError where one of them trains."""
        for run in runs:
            if holder := lock_holder(run):
                train = f"{run} learns from it at this moment ({holder})"
                raise SchurganError(f"{self.path}: {train}; stop it first, or choose another folder")
        with contextlib.suppress(SchurganError):
            if Manifest.load(self.path).plan == self.plan:  # the same files will be written
                return
        warnings.warn(
            f"{self.path}: {_listed(runs)} learned from what this replaces; until it is prepared as it was they make "
            "sounds, but can be neither resumed nor scored",
            stacklevel=4,
        )
        forget_users(self.path)

    def part(self, number: int) -> Part | None:
        """The records of a finished shard of this plan whose files are there, whole by their sizes."""
        try:
            part = parse(Part, read_bytes(self.path / f"part-{number:05}.json", LARGEST))
        except (OSError, Unreadable):
            return None
        whole = part.shard is None or not any(wrong_size(self.path, file) for file in part.shard.files)
        return part if whole and part.plan == self.plan else None

    def write(self, number: int, chunks: Iterable[Chunk]) -> Part:
        """Stream the chunks of shard `number` to its files, and its records after them: then it is finished."""
        clips: list[Clip] = []
        skipped: list[Skipped] = []
        with contextlib.ExitStack() as files:
            append: dict[str, Callable[[Rows], None]] = {}
            for chunk in chunks:
                for kind, rows in (("images", chunk.images), ("audio", chunk.audio)):
                    if rows is not None:
                        if kind not in append:
                            append[kind] = files.enter_context(self._rows(f"{kind}-{number:05}.npy", rows))
                        append[kind](rows)
                clips += chunk.clips
                skipped += chunk.skipped
        paths = {kind: self.path / f"{kind}-{number:05}.npy" for kind in append}
        written = {
            kind: ShardFile(file=path.name, bytes=path.stat().st_size, sha256=sha256(path))
            for kind, path in paths.items()
        }
        shard = Shard(count=len(clips), images=written["images"], audio=written.get("audio")) if clips else None
        part = Part(plan=self.plan, shard=shard, clips=Clips.of(clips), skipped=tuple(skipped))
        with atomic_write(self.path / f"part-{number:05}.json", "w") as file:
            file.write(seal(part.model_dump_json()))
        return part

    @contextlib.contextmanager
    def _rows(self, name: str, like: Rows) -> Iterator[Callable[[Rows], None]]:
        """Yield a function that appends rows (n, ...) to a `.npy` file, which appears when all are written.

        The header is written last: only then is the number of rows known, and no shard has to fit into memory.
        """
        count = 0
        with atomic_write(self.path / name) as file:
            file.write(_header(0, like))

            def append(rows: Rows) -> None:
                nonlocal count
                file.write(np.ascontiguousarray(rows).data)
                count += len(rows)

            yield append
            file.seek(0)
            file.write(_header(count, like))

    def complete(
        self,
        parts: Sequence[Part],
        unlisted: Iterable[Skipped],
        *,
        classes: Sequence[str],
        dtype: DType,
        planes: int,
        transform: dict[str, JsonValue],
        source: dict[str, JsonValue],
        val_folds: tuple[int, ...] = (),
    ) -> Manifest:
        """Write the manifest of finished parts, one clip or more in them. Empty classes are dropped and warned of."""
        rows = [row for part in parts for row in part.clips.rows()]
        counts = np.bincount([row.label for row in rows], minlength=len(classes))
        kept = np.flatnonzero(counts).tolist()
        renumbered = {old: new for new, old in enumerate(kept)}
        rows = [row._replace(label=renumbered[row.label]) for row in _with_recordings(rows)]
        levels: list[list[float]] = [[] for _ in kept]
        for row in rows:
            levels[row.label].append(row.reference)
        names = tuple(classes[label] for label in kept)
        empty = [name for name, count in zip(classes, counts, strict=True) if not count]
        channels, size = cast(int, transform["channels"]), cast(int, transform["size"])
        manifest = Manifest(
            schurgan=__version__,
            plan=self.plan,
            shape=(channels, size, size),
            planes=planes,
            dtype=dtype,
            classes=names,
            histogram=tuple(counts[kept].tolist()),
            references=tuple(float(np.median(each)) for each in levels),
            warnings=tuple(_oddities(rows, names, empty, "image" if transform["transform"] == IMAGE else "sound")),
            skipped=(*unlisted, *(skipped for part in parts for skipped in part.skipped)),
            transform=transform,
            source=source,
            val_folds=val_folds,
            shards=tuple(part.shard for part in parts if part.shard),
            clips=Clips.of(rows),
        )
        manifest.save(self.path)
        self.tidy(manifest)
        return manifest

    def tidy(self, manifest: Manifest | None = None) -> None:
        """Remove every file of ours that `manifest` does not account for, the marker of ownership last."""
        kept = {MANIFEST, *(file.file for file in manifest.files())} if manifest else set()
        for path in list(self._ours()):
            if path.name not in (UNFINISHED, *kept):
                path.unlink(missing_ok=True)
        (self.path / UNFINISHED).unlink(missing_ok=True)

    def _ours(self) -> Iterator[Path]:
        """Files here whose names this program gives."""
        return (path for path in sorted(self.path.iterdir()) if OURS.fullmatch(path.name))


def _listed(runs: Sequence[Path]) -> str:
    more = f" and {len(runs) - FEW} more runs" if len(runs) > FEW else ""
    return ", ".join(map(str, runs[:FEW])) + more


def _header(count: int, like: Rows) -> bytes:
    """Header of a `.npy` file of `count` rows; as long for any `count`, for the format leaves room to grow."""
    header = io.BytesIO()
    content = {"descr": np.lib.format.dtype_to_descr(like.dtype), "fortran_order": False}
    np.lib.format.write_array_header_1_0(header, content | {"shape": (count, *like.shape[1:])})
    return header.getvalue()


def _with_recordings(rows: Sequence[Clip]) -> Iterator[Clip]:
    """Rows among which the same sound under several names counts as one recording, as its copies do."""
    first: dict[str, str] = {}
    same: dict[str, str] = {}
    for row in rows:
        if row.parent is None and row.digest:
            name = row.recording or row.origin
            same[name] = same.get(first.setdefault(row.digest, name), first[row.digest])
    several = {name for name, other in same.items() if name != other}
    for row in rows:
        name = row.recording or row.parent or row.origin
        yield row._replace(recording=same[name]) if name in several else row


def _oddities(rows: Sequence[Clip], classes: Sequence[str], empty: Iterable[str], what: str) -> Iterator[str]:
    """What a person should know of the set as a whole before training on it; copies are no clips of their own."""
    rows = [row for row in rows if row.parent is None]
    for name in empty:
        yield f'class "{name}": none of its recordings can be used, it is left out'
    if len(classes) == 1:
        yield f'only one class, "{classes[0]}": there is nothing to condition on'
    counts = np.bincount([row.label for row in rows], minlength=len(classes)).tolist()
    for name, number in zip(classes, counts, strict=True):
        if number < FEW:
            yield f'class "{name}": {counted(number, "clip")}, too few to learn from ({FEW} or more would do)'
    same: dict[str, list[Clip]] = {}
    for row in rows:
        same.setdefault(row.digest, []).append(row)
    for group in same.values():
        if len(group) > 1:
            named = ", ".join(row.origin for row in group)
            across = " in different classes" * (len({row.label for row in group}) > 1)
            across += " in different folds" * (len({row.fold for row in group}) > 1)
            yield f"the same {what} {len(group)} times{across}: {named}"
    faint = [row.origin for row in rows if row.gain < FAINT]
    if faint:
        yield f"nearly silent (peak below −60 dB), so mostly noise once normalised: {', '.join(faint)}"
