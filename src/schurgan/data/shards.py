"""Prepared clips on disk: shards of `.npy`, streamed out once, memory-mapped when first touched.

    shards = Shards("data/esc10")
    images = shards.images([3, 1, 4])       # (3, C, R, R) float32 in [-1, 1]
    training = shards.select(exclude_folds=[5])

A small set is held in memory, its checksums compared as it is read. A memory map of a large one needs no cache of its
own; a file that is not as it was when it was mapped is compared before any of it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from schurgan.core.errors import SchurganError, is_out_of_memory
from schurgan.core.files import open_regular, sha256
from schurgan.data.codec import Codec, open_codec
from schurgan.data.dataset import Indices, LabelledImages
from schurgan.data.manifest import Clip, DType, Manifest, Shard, ShardFile, wrong_size
from schurgan.runs.messages import counted

Rows = NDArray[Any]
Images = TypeVar("Images", bound="LabelledImages")
_SMALL = 2**28  # bytes of a set that is held in memory
_SHARE = 0.1  # of a class that is held out where nothing is said
_LEAST = 5  # recordings of a class of which one is


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


class _Files:
    """The `.npy` files of one folder, read or memory-mapped when first asked for.

    They are mapped by torch, which closes a file once it is mapped. NumPy's maps keep one descriptor each, of which a
    process may have as few as 256, and opening files again costs ten times what reading an image does. A map of a file
    that another process cuts ends this one, so the file is looked at before each use.
    """

    def __init__(self, folder: Path, in_memory: bool) -> None:
        self.folder, self.in_memory = folder, in_memory
        self._known: dict[str, tuple[Rows, tuple[int, ...]]] = {}

    def __call__(self, file: ShardFile, shape: tuple[int, ...], dtype: str) -> Rows:
        path = self.folder / file.file
        try:
            rows, before = self._known.get(file.file, (None, ()))
            if rows is not None and (self.in_memory or before == _stamp(path)):
                return rows
            with open_regular(path) as opened:
                stamp = _stamp(path)
                if np.lib.format.read_magic(opened) != (1, 0):
                    raise ValueError("its header is of another version")
                held = np.lib.format.read_array_header_1_0(opened)
                if held != (shape, False, np.dtype(dtype)):
                    raise ValueError("it holds other clips than the manifest says")
                offset = opened.tell()
                if self.in_memory:
                    opened.seek(0)
                    content = np.frombuffer(opened.read(file.bytes), np.uint8)
                    digest = hashlib.sha256(content.data).hexdigest()
                else:
                    digest = sha256(path) if before else file.sha256  # of one that has changed under its map
                    mapped = torch.from_file(str(path), shared=False, size=file.bytes, dtype=torch.uint8)
                    content = mapped.numpy()
                if digest != file.sha256:
                    raise ValueError("it was changed since it was written")
            rows = content[offset:].view(dtype).reshape(shape)
        except (OSError, ValueError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            raise SchurganError(f"{path}: cannot be read as a shard ({error}); prepare the data again") from error
        rows.flags.writeable = False
        self._known[file.file] = rows, stamp
        return rows

    def __reduce__(self) -> tuple[type[_Files], tuple[Path, bool]]:
        return _Files, (self.folder, self.in_memory)  # maps do not travel to other processes


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes with a file."""
    info = path.stat()
    return info.st_size, info.st_mtime_ns, info.st_ino


class Shards(LabelledImages):
    """A prepared set, or a selection of one: random access to images, labels and recordings.

    Raises SchurganError for a damaged manifest, or a missing or truncated shard; `schurgan data verify` reads them.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.load(self.folder)
        self.classes, self.references = self.manifest.classes, self.manifest.references
        self.shape, self.planes = self.manifest.shape, self.manifest.planes
        clips = self.manifest.clips
        self._folds, self._origins, self._parents = clips.fold, clips.origin, clips.parent
        self._val_folds, self._recordings = self.manifest.val_folds, clips.recording
        files = list(self.manifest.files())
        self._files = _Files(self.folder.absolute(), in_memory=sum(file.bytes for file in files) <= _SMALL)
        self._starts = np.cumsum([0, *(shard.count for shard in self.manifest.shards)])
        self._clips = np.arange(len(self.manifest))
        self.labels = np.asarray(clips.label, dtype=np.int64)
        for file in files:
            if problem := wrong_size(self.folder, file):
                raise SchurganError(f"{problem}; copy the folder again or prepare the data again with overwrite")

    @property
    def codec(self) -> Codec:
        """What made the images, and decodes them."""
        return open_codec(self.manifest.transform)

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the checksums of the shards, the transform, and the clips selected."""
        known = [[file.sha256 for file in self.manifest.files()], self.manifest.transform, self.classes]
        digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
        digest.update(self._clips.astype("<i8").tobytes() + self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def _other_clips(self, folder: str | Path | None, fingerprint: str | None) -> Iterator[str]:
        with suppress(SchurganError):
            others = Shards(folder or "")
            ours, theirs = (Counter(each.manifest.clips.digest) for each in (self, others))
            if others.fingerprint == fingerprint and ours != theirs:
                yield f"{(theirs - ours).total()} of its {len(others)} clips are not here"
                yield f"{(ours - theirs).total()} of these {len(self)} are new"

    def record(self, index: int) -> Clip:
        """All that the manifest knows of clip `index`; its label is this selection's."""
        columns, clip = self.manifest.clips, int(self._clips[index])
        known = {name: getattr(columns, name)[clip] for name in Clip._fields if getattr(columns, name)}
        return Clip(**known)._replace(label=int(self.labels[index]))

    def images(self, indices: Indices) -> Tensor:
        """Images of the clips `indices` (B,), in that order  ->  (B, C, R, R) float32 in [-1, 1]."""
        return dequantise(self.stored(indices)).expand(-1, self.shape[0], -1, -1)

    def stored(self, indices: Indices) -> Rows:
        """Images of the clips `indices` (B,) as they lie in the shards: (B, planes, R, R) of `manifest.dtype`."""
        shape = (self.planes, *self.shape[1:])
        stored = np.empty((len(indices), *shape), self.manifest.dtype)
        places, files = list(self._places(indices)), dict[str, Rows]()
        for shard in {shard.images.file: shard for shard, _ in places}.values():
            files[shard.images.file] = self._files(shard.images, (shard.count, *shape), self.manifest.dtype)
        for place, (shard, row) in enumerate(places):
            stored[place] = files[shard.images.file][row]
        return stored

    def recording(self, index: int) -> Tensor:
        """The recording of image `index`: (n_samples,) float32, peak 1. Raises SchurganError if none was kept."""
        ((shard, row),) = self._places([index])
        if shard.audio is None:
            images = "a set of images, which no recordings belong to"
            kept = "was prepared without recordings; prepare the data again with them"
            raise SchurganError(f"{self.folder}: {images if self.manifest.kind == 'images' else kept}")
        array = self._files(shard.audio, (shard.count, self.manifest.n_samples), "int16")
        return torch.from_numpy(array[row].astype(np.float32)).div_(32767)

    def _places(self, indices: Indices) -> Iterator[tuple[Shard, int]]:
        """The shard and the row in it of some clips."""
        clips = self._clips[np.asarray(indices, dtype=np.int64)]
        shards = np.searchsorted(self._starts, clips, side="right") - 1
        rows = clips - self._starts[shards]
        return ((self.manifest.shards[shard], row) for shard, row in zip(shards.tolist(), rows.tolist(), strict=True))


def held_out_folds(
    images: LabelledImages, val_folds: Collection[int] = (), val_fraction: float | None = None
) -> tuple[int, ...]:
    """The folds that are held out: `val_folds`, else those that the data names where no share is given."""
    named = images.val_folds if val_fraction is None and len(images.val_folds) < len(set(images.folds)) else ()
    return tuple(sorted(set(val_folds))) or named


def split(
    images: Images, val_folds: Collection[int] = (), val_fraction: float | None = None
) -> tuple[Images, Images | None]:
    """What is trained on, and what is held out to judge by: one rule for training and evaluation.

    Which recordings are held out depends on their names alone, so that runs of all seeds leave out the same. All clips
    of one are on the same side, altered copies too, of which the held-out part has none.

    Args:
        images: the whole set.
        val_folds: folds to hold out.
        val_fraction: about which part of each class's recordings to hold out instead, of two or more at least one on
            either side; 0 for none. None: the folds that the data names, else a tenth of each class of five or more.

    Returns:
        (training, held out); the second is None where nothing is held out.
    """
    if val_folds and val_fraction:
        raise SchurganError(
            f"--train.val-fraction: {val_fraction} given beside --train.val-folds, which says already what is held out"
        )
    if folds := held_out_folds(images, val_folds, val_fraction):
        return images.select(exclude_folds=folds), images.select(folds=folds, augmented=False)
    if val_fraction == 0:
        return images, None
    share, least = (_SHARE, _LEAST) if val_fraction is None else (val_fraction, 2)
    parents, clips = images.parents, defaultdict[str, list[int]](list)
    sizes: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))  # copies are not counted
    for clip, (label, name) in enumerate(zip(images.labels.tolist(), images.recordings, strict=True)):
        clips[name].append(clip)
        sizes[label][name] += parents[clip] is None
    chosen = np.zeros(len(images), bool)
    classes = Counter(name for of_class in sizes.values() for name in of_class)
    for of_class in sizes.values():
        for name in _draw({name: size for name, size in of_class.items() if classes[name] == 1}, share, least):
            chosen[clips[name]] = True
    if chosen.any():
        return images.take(np.flatnonzero(~chosen)), images.take(np.flatnonzero(chosen & ~images.augmented))
    if val_fraction is None:
        return images, None
    raise SchurganError(
        f"--train.val-fraction: {val_fraction} given, and no class in {images.folder} has two recordings; leave it out"
    )


def _draw(sizes: Mapping[str, int], share: float, least: int) -> list[str]:
    """Recordings of a class, of so many clips each, that together are about a share of it: all but one at most."""
    total, drawn = sum(sizes.values()), list[str]()
    if total < least:
        return drawn
    room = max(1, round(share * total))
    ordered = sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest())
    for name in ordered:
        if 0 < sizes[name] <= room and len(drawn) < len(ordered) - 1:
            drawn.append(name)
            room -= sizes[name]
    shortest = min(ordered, key=sizes.__getitem__)
    return drawn or [shortest] * (2 * sizes[shortest] <= total)


def describe_split(
    images: LabelledImages,
    held_out: LabelledImages | None,
    val_folds: Collection[int] = (),
    val_fraction: float | None = None,
) -> str:
    """Say what `split` held out, and by which rule: "40 of 400 clips, a tenth of each class"."""
    known = f"of {counted(int((~images.augmented).sum()), 'clip')}"
    if held_out is None:
        return f"none {known}" + (" (--train.val-fraction 0)" if val_fraction == 0 else f", as no class has {_LEAST}")
    if folds := held_out_folds(images, val_folds, val_fraction):
        which = f"fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))}" + ", as the data says" * (not val_folds)
    else:
        which = f"{'a tenth' if val_fraction is None else f'a share of {val_fraction:g}'} of each class"
        which += f" of {_LEAST if val_fraction is None else 2} or more" * (
            len(set(held_out.labels)) < len(set(images.labels))
        )
    return f"{len(held_out)} {known}, {which}"


def describe_empty(images: LabelledImages) -> str:
    """Return a warning about wrong labels, which a run would not show: its scores know the classes there are."""
    known = {int(label) for label in images.labels}
    empty = [name for number, name in enumerate(images.classes) if number not in known]
    names = f"{len(empty)} of {len(images.classes)} classes have no recording to train on ({', '.join(empty[:5])})"
    return f"{names}; look at the labels" if empty else ""
