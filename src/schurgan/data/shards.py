"""Prepared clips on disk: shards of `.npy`, streamed out once, memory-mapped when first touched.

    shards = Shards("data/esc10")
    images = shards.images([3, 1, 4])       # (3, C, R, R) float32 in [-1, 1]
    training = shards.select(exclude_folds=[5])

A memory map of plain `.npy` reads a random clip in some microseconds, dozens of times faster than the containers that
were tried, and needs no cache of its own: the operating system keeps what is used in memory.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from schurgan.data.manifest import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    MARKER,
    Clip,
    Clips,
    DType,
    Manifest,
    Part,
    Shard,
    ShardFile,
    Skipped,
    is_manifest,
)
from schurgan.errors import UserError, did_you_mean
from schurgan.files import atomic_write, sha256, write_json

OURS = re.compile(r"(images|audio)-\d{5,}\.npy|part-\d{5,}\.json|unfinished\.json|manifest\.json")
PARTIAL = re.compile(rf"\.({OURS.pattern})\.\d+\.partial")
Rows = NDArray[Any]
OPEN_FILES = 64
"""Memory maps kept open at once: each holds a file descriptor, and a process may have as few as 256."""


def quantise(image: Tensor, dtype: DType) -> Rows:
    """Pixels in [-1, 1] as they are stored: uint8 q = round(127.5·(x + 1)), else x itself as float16 or float32.

    In a log image of 80 dB the steps of uint8 are 0.31 dB; float16 keeps 11 bits of each pixel of a linear one.
    """
    if dtype == "uint8":
        return ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    return image.numpy().astype(dtype)


def dequantise(stored: Rows) -> Tensor:
    """Undo `quantise`: float32 pixels, in [-1, 1] where they were; −1, silence, exactly."""
    pixels = torch.from_numpy(stored).to(torch.float32)
    return pixels.div_(127.5).sub_(1) if stored.dtype == np.uint8 else pixels


class OutputFolder:
    """The folder that a set is being made in: who owns it, which shards are finished, what is left to remove.

    The writer's side of the format; a reader needs `Shards` alone. OSError is raised as the file system does.
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


class _Files:
    """The `.npy` files of one folder, memory-mapped when first asked for, the longest unused closed first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: OrderedDict[str, Rows] = OrderedDict()

    def __call__(self, file: ShardFile, shape: tuple[int, ...], dtype: str) -> Rows:
        array = self._open.pop(file.file, None)
        if array is None:
            path = self.folder / file.file
            try:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise UserError(f"{path}: cannot be read as a shard ({error}); prepare the data again") from error
            if array.shape != shape or array.dtype != dtype:
                there = f"{array.dtype} {array.shape}"
                raise UserError(f"{path}: holds {there}, the manifest says {dtype} {shape}; prepare the data again")
        self._open[file.file] = array
        if len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)
        return array

    def __reduce__(self) -> tuple[type[_Files], tuple[Path]]:
        return _Files, (self.folder,)  # maps do not travel to other processes: they are opened again there


class Shards:
    """A prepared set, or a selection of one: random access to images, labels and recordings.

    Raises UserError naming the file when the manifest or a shard is missing, truncated or damaged. Contents are checked
    by `verify` alone: sizes tell of interrupted copies, and hashing a large set takes minutes.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.load(self.folder)
        self.classes: tuple[str, ...] = self.manifest.classes
        self._files = _Files(self.folder)
        self._starts = np.cumsum([0, *(shard.count for shard in self.manifest.shards)])
        self._clips = np.arange(len(self.manifest))  # this selection's clips, as numbers in the whole set
        self.labels: NDArray[np.int64] = np.asarray(self.manifest.clips.label, dtype=np.int64)
        for file in self.manifest.files():
            if problem := wrong_size(self.folder, file):
                raise UserError(f"{problem}; copy the folder again or prepare the data again with --overwrite")

    def __len__(self) -> int:
        return len(self._clips)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, R, R) of one image."""
        return self.manifest.shape

    @property
    def folds(self) -> tuple[int | None, ...]:
        """The cross-validation fold of each clip, None where the source has none."""
        return tuple(self.manifest.clips.fold[clip] for clip in self._clips)

    @property
    def origins(self) -> tuple[str, ...]:
        """Where each clip came from."""
        return tuple(self.manifest.clips.origin[clip] for clip in self._clips)

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 that identifies these samples: checksums of the shards, the transform, and the clips selected."""
        known = [[file.sha256 for file in self.manifest.files()], self.manifest.transform, self.classes]
        digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
        digest.update(self._clips.astype("<i8").tobytes() + self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def images(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Tensor:
        """Images of the clips `indices` (B,), in that order  ->  (B, C, R, R) float32 in [-1, 1]."""
        clips = self._clips[np.asarray(indices, dtype=np.int64)]
        shape = (self.manifest.planes, *self.shape[1:])
        stored = np.empty((len(clips), *shape), self.manifest.dtype)
        shards = np.searchsorted(self._starts, clips, side="right") - 1
        for shard in np.unique(shards):
            here = shards == shard
            record = self.manifest.shards[shard]
            array = self._files(record.images, (record.count, *shape), self.manifest.dtype)
            stored[here] = array[clips[here] - self._starts[shard]]
        return dequantise(stored).expand(-1, self.shape[0], -1, -1)

    def recording(self, index: int) -> Tensor:
        """The recording that image `index` was made of: (n_samples,) float32, peak 1. UserError if none was kept."""
        clip = self._clips[index]
        shard = int(np.searchsorted(self._starts, clip, side="right")) - 1
        record = self.manifest.shards[shard]
        if record.audio is None:
            raise UserError(f"{self.folder}: was prepared without recordings; prepare the data again with them")
        array = self._files(record.audio, (record.count, self.manifest.n_samples), "int16")
        return torch.from_numpy(array[clip - self._starts[shard]].astype(np.float32)).div_(32767)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every clip once, in order, for statistics: (images, labels) of `batch_size`, at the end what is left."""
        for start in range(0, len(self), batch_size):
            indices = np.arange(start, min(start + batch_size, len(self)))
            yield self.images(indices), torch.from_numpy(self.labels[indices])

    def select(
        self,
        classes: Sequence[str] | None = None,
        folds: Collection[int] | None = None,
        exclude_folds: Collection[int] | None = None,
    ) -> Self:
        """A view of some classes, numbered anew in the order given, and of some folds. Nothing is copied.

        Raises UserError for a class or fold that is not there, and when nothing is left.
        """
        keep = np.ones(len(self), dtype=bool)
        labels = self.labels
        if classes is not None:
            for name in classes:
                if name not in self.classes:
                    near = did_you_mean(name, self.classes) or f"; there are {', '.join(self.classes)}"
                    raise UserError(f'class "{name}": not in {self.folder}{near}')
            number = {name: new for new, name in enumerate(classes)}
            new = np.asarray([number.get(name, -1) for name in self.classes], dtype=np.int64)
            labels = new[self.labels]
            keep &= labels >= 0
        there = self.folds
        for wanted, include in ((folds, True), (exclude_folds, False)):
            if wanted is not None:
                self._check_folds(wanted, there)
                keep &= np.fromiter(((fold in wanted) == include for fold in there), bool, len(self))
        if not keep.any():
            raise UserError(f"{self.folder}: no clip is left by this choice of classes and folds; choose more of them")
        view = copy.copy(self)
        view.classes = self.classes if classes is None else tuple(classes)
        view._clips, view.labels = self._clips[keep], labels[keep]
        return view

    def _check_folds(self, wanted: Collection[int], there: Collection[int | None]) -> None:
        known = sorted({fold for fold in there if fold is not None})
        for fold in wanted:
            if fold not in known:
                listed = f"; there are {', '.join(map(str, known))}" if known else "; these clips have no folds"
                raise UserError(f"fold {fold}: not in {self.folder}{listed}")

    def verify(self) -> list[str]:
        """Read every file of the whole set and compare its SHA-256: one sentence a problem, none when all is well."""
        problems = []
        for file in self.manifest.files():
            problem = wrong_size(self.folder, file)
            if not problem and sha256(self.folder / file.file) != file.sha256:
                problem = f"{self.folder / file.file}: its contents are not what was written"
            if problem:
                problems.append(problem)
        return problems


def wrong_size(folder: Path, file: ShardFile) -> str:
    """What is wrong with the file on disk by its presence and its size alone; "" when nothing is."""
    path = folder / file.file
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"{path}: missing ({error.strerror})"
    return "" if size == file.bytes else f"{path}: {size} bytes instead of {file.bytes}"
