"""Prepared sets for other programs: tar files in the layout of WebDataset, which streams them from anywhere."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from schurgan.core.errors import SchurganError, writing
from schurgan.core.files import atomic_write, lock, sync_folder, write_json
from schurgan.data.shards import Rows, Shards

INDEX = "dataset.json"


def export_webdataset(
    shards: Shards,
    folder: str | Path,
    *,
    clips_per_tar: int = 1000,
    keep_audio: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write the clips of `shards`, or of a selection of it, as `shard-000000.tar` and so on; return their paths.

    Clip n is the members 00000000n.npy (C, R, R) as stored, uint8 for x = q/127.5 − 1 or floats; .cls, its class's
    number; .json, its class, origin, fold, gain, reference level and, of an altered copy, its parent; with keep_audio
    also .audio.npy, its recording (n_samples,) int16. `dataset.json` has the classes, the transform and the tar files'
    names. The same clips give the same bytes, and the folder, a new or empty one, appears when it is whole.
    `progress` is called with the clips written and their number.

    Raises:
        SchurganError: the folder is there already and not empty, or cannot be written.
    """
    if clips_per_tar < 1:
        raise ValueError(f"clips_per_tar {clips_per_tar}: 1 or more are needed")
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    with writing(folder), lock(folder, beside=True):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise SchurganError(f"{folder}: is there already; choose another folder, or an empty one")
        shutil.rmtree(partial, ignore_errors=True)  # of a start that was killed
        partial.mkdir(parents=True)
        try:
            names = _write(shards, partial, clips_per_tar, keep_audio, progress)
            if folder.exists():
                folder.rmdir()
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_folder(folder.parent)
    return [folder / name for name in names]


def _write(
    shards: Shards,
    folder: Path,
    clips_per_tar: int,
    keep_audio: bool,
    progress: Callable[[int, int], None] | None,
) -> list[str]:
    names: list[str] = []
    for start in range(0, len(shards), clips_per_tar):
        clips = range(start, min(start + clips_per_tar, len(shards)))
        names.append(f"shard-{len(names):06}.tar")
        with (
            atomic_write(folder / names[-1]) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for clip in clips:
                for name, content in _members(shards, clip, keep_audio):
                    member = tarfile.TarInfo(name)  # of no time and no owner: only the clips count
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                if progress:
                    progress(clip + 1, len(shards))
    about = {
        "classes": shards.classes,
        "count": len(shards),
        "shape": shards.shape,
        "dtype": shards.manifest.dtype,
        "transform": shards.manifest.transform,
        "tars": names,
    }
    write_json(folder / INDEX, about)
    return names


def _members(shards: Shards, clip: int, keep_audio: bool) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of a clip."""
    image = np.broadcast_to(shards.stored([clip])[0], shards.shape)
    yield f"{clip:09}.npy", _npy(image)
    yield f"{clip:09}.cls", str(shards.labels[clip]).encode()
    record, label = shards.record(clip), shards.classes[shards.labels[clip]]
    about = {"class": label} | {name: getattr(record, name) for name in ("origin", "fold", "gain", "reference")}
    about |= {"parent": record.parent} if record.parent is not None else {}
    yield f"{clip:09}.json", json.dumps(about, ensure_ascii=False).encode()
    if keep_audio:
        yield f"{clip:09}.audio.npy", _npy((shards.recording(clip) * 32767).round().numpy().astype(np.int16))


def _npy(array: Rows) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
