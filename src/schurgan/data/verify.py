"""Reading every byte of a prepared set and comparing it with what its manifest says was written."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from schurgan.core.files import open_regular
from schurgan.data.manifest import Manifest, ShardFile
from schurgan.data.shards import wrong_size

CHUNK = 1 << 20  # bytes read at a time
NAMED = 3  # clips of one file that are named; of more, how many
_SHARDLIKE = re.compile(r"(images|audio)-\d+\.npy|part-\d+\.json|unfinished\.json|\..*\.partial")


def verify(folder: str | Path, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """What is wrong with the files of the set in `folder`: a sentence each, none when all are as they were written.

    Files that are missing, too short, too long, unreadable or changed in any byte, and shards that the manifest does
    not name. In a changed file the clips are named whose digests have changed, of recordings and of pictures; of images
    made of recordings, all those of the file. `progress` is called with the bytes that are done and the bytes in all.
    """
    folder = Path(folder)
    manifest = Manifest.load(folder)
    total, done, first = sum(file.bytes for file in manifest.files()), 0, 0
    image_bytes = manifest.planes * manifest.shape[1] * manifest.shape[2] * np.dtype(manifest.dtype).itemsize
    problems = []

    def report(read: int) -> None:
        if progress:
            progress(done + read, total)

    for shard in manifest.shards:
        clips = slice(first, first + shard.count)
        origins, digests = manifest.clips.origin[clips], manifest.clips.digest[clips]
        for file in shard.files:
            path = folder / file.file
            try:
                if problem := wrong_size(folder, file):
                    problems.append(problem)
                elif _changed(path, file, report):
                    size = 2 * manifest.n_samples if file is shard.audio else image_bytes
                    problems.append(f"{path}: {_what_changed(path, size, origins, digests)}")
            except OSError as error:
                problems.append(f"{path}: cannot be read ({error.strerror or error})")
            done += file.bytes
            report(0)
        first += shard.count
    named = {file.file for file in manifest.files()}
    unnamed = [path for path in sorted(folder.iterdir()) if path.name not in named and _SHARDLIKE.fullmatch(path.name)]
    return problems + [
        f"{path}: is not in the manifest; it was added, or another preparation left it" for path in unnamed
    ]


def _changed(path: Path, file: ShardFile, report: Callable[[int], None]) -> bool:
    digest, read, buffer = hashlib.sha256(), 0, memoryview(bytearray(CHUNK))
    with open_regular(path) as stream:
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
            read += count
            report(read)
    return digest.hexdigest() != file.sha256


def _what_changed(path: Path, size: int, origins: Sequence[str], digests: Sequence[str]) -> str:
    """Which clips of a file have changed. Each has `size` bytes; they lie at its end, after a header of any length."""
    changed = []
    with open_regular(path) as stream:
        stream.seek(-size * len(origins), os.SEEK_END)
        for origin, digest in zip(origins, digests, strict=True):
            if hashlib.sha256(stream.read(size)).hexdigest()[: len(digest)] != digest:
                changed.append(origin)
    if not changed:
        return "is not what was written, though its clips are: its header or the manifest has changed"
    if len(changed) == len(origins):  # or the digests are of something else
        return f"is not what was written; it holds {_listed(origins)}"
    return f"{_listed(changed)} {'is' if len(changed) == 1 else 'are'} not what was written"


def _listed(origins: Sequence[str]) -> str:
    more = len(origins) - NAMED
    return ", ".join(origins[:NAMED]) + (f" and {more} more" if more > 0 else "")
