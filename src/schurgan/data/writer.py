"""The writer's side of the shards: who owns the folder, which shards are finished, what is left to remove."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from schurgan.core.errors import UserError
from schurgan.core.files import atomic_write, sha256, write_json
from schurgan.data.manifest import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    MARKER,
    Clip,
    Clips,
    Manifest,
    Part,
    Shard,
    ShardFile,
    Skipped,
    is_manifest,
    wrong_size,
)

OURS = re.compile(r"(images|audio)-\d{5,}\.npy|part-\d{5,}\.json|unfinished\.json|manifest\.json")
PARTIAL = re.compile(rf"\.({OURS.pattern})\.\d+\.partial")
Rows = NDArray[Any]


class OutputFolder:
    """The folder that a set is being made in. A reader needs `Shards` alone.

    OSError is raised as the file system does.
    """

    def __init__(self, path: Path, plan: str) -> None:
        self.path, self.plan = path, plan

    def claim(self, overwrite: bool) -> Manifest | None:
        """Make the folder ours for this plan, or return its manifest if it is finished.

        Raises UserError for a folder that holds other data, ours (unless `overwrite`) or anybody's.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        finished, begun = is_manifest(self.path / MANIFEST), is_manifest(self.path / MARKER)
        if not finished and not begun and (foreign := next(self._ours(), None)):
            raise UserError(f"{foreign}: is not of this program's making and would be replaced; choose another --out")
        if not overwrite:
            if finished and (manifest := Manifest.load(self.path)).plan == self.plan:
                self._check_sizes(manifest)
                self.tidy(manifest)
                return manifest
            if finished or begun:
                self._check_plan()
        # The marker comes before the manifest goes: at no moment are the files nobody's, or does half a set look whole.
        write_json(self.path / MARKER, {"format": FORMAT, "version": FORMAT_VERSION, "plan": self.plan})
        (self.path / MANIFEST).unlink(missing_ok=True)
        self._remove(path for path in self._ours(partial=True) if overwrite or path.name.startswith("."))
        return None

    def _check_sizes(self, manifest: Manifest) -> None:
        for file in manifest.files():
            if problem := wrong_size(self.path, file):
                raise UserError(f"{problem}; pass --overwrite to make the data again")

    def _check_plan(self) -> None:
        try:
            plan = json.loads((self.path / MARKER).read_bytes()).get("plan")
        except (OSError, ValueError):
            plan = None
        if plan != self.plan:
            raise UserError(
                f"{self.path}: holds clips of another source or other options; choose another --out or pass --overwrite"
            )

    def part(self, number: int) -> Part | None:
        """The records of a finished shard of this plan whose files are there, whole by their sizes."""
        try:
            part = Part.model_validate_json((self.path / f"part-{number:05}.json").read_bytes())
        except (OSError, ValidationError):
            return None
        whole = part.shard is None or not any(wrong_size(self.path, file) for file in part.shard.files)
        return part if whole and part.plan == self.plan else None

    @contextlib.contextmanager
    def rows(self, kind: str, number: int, shape: tuple[int, ...], dtype: str) -> Iterator[Callable[[Rows], None]]:
        """Yield a function that appends rows (n, *shape) to a file of shard `number`; it appears when all are written.

        The header is written last: only then is the number of rows known, and no shard has to fit into memory.
        """
        count = 0
        with atomic_write(self.path / f"{kind}-{number:05}.npy") as file:
            file.write(_header(0, shape, dtype))

            def append(rows: Rows) -> None:
                nonlocal count
                file.write(np.ascontiguousarray(rows).data)
                count += len(rows)

            yield append
            file.seek(0)
            file.write(_header(count, shape, dtype))

    def finish(self, number: int, clips: Sequence[Clip], skipped: Sequence[Skipped], kinds: Sequence[str]) -> Part:
        """Record a shard whose files of `kinds` are written; from here on it need not be made again."""
        shard = None
        if clips:
            files = {kind: self._shard_file(f"{kind}-{number:05}.npy") for kind in kinds}
            shard = Shard(count=len(clips), images=files["images"], audio=files.get("audio"))
        part = Part(plan=self.plan, shard=shard, clips=Clips.of(clips), skipped=tuple(skipped))
        with atomic_write(self.path / f"part-{number:05}.json") as file:
            file.write(part.model_dump_json().encode())
        return part

    def _shard_file(self, name: str) -> ShardFile:
        path = self.path / name
        return ShardFile(file=name, bytes=path.stat().st_size, sha256=sha256(path))

    def tidy(self, manifest: Manifest | None = None) -> None:
        """Remove every file of ours that `manifest` does not account for, the marker of ownership last."""
        kept = {MANIFEST, *(file.file for file in manifest.files())} if manifest else set()
        self._remove(path for path in self._ours(partial=True) if path.name not in kept)
        (self.path / MARKER).unlink(missing_ok=True)

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in list(paths):
            if path.name != MARKER:
                path.unlink(missing_ok=True)

    def _ours(self, partial: bool = False) -> Iterator[Path]:
        """Files here whose names this program gives, with those that a killed start left half-written if asked."""
        for path in sorted(self.path.iterdir()):
            if OURS.fullmatch(path.name) or (partial and PARTIAL.fullmatch(path.name)):
                yield path


def _header(count: int, shape: tuple[int, ...], dtype: str) -> bytes:
    """Header of a `.npy` file of `count` rows; as long for any `count`, for the format leaves room to grow."""
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    content = {"descr": descr, "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(header, content)
    return header.getvalue()
