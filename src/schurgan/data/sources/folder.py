"""A folder of recordings for each class: ROOT/dog/*.wav, ROOT/rain/**/*.flac, …"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from schurgan.audio.files import read_audio
from schurgan.data.sources.base import AUDIO_SUFFIXES, Item, Skipped, fingerprint
from schurgan.errors import UserError


@dataclass(frozen=True)
class Folder:
    """Recordings under `root`, whose first-level folders are the classes, in alphabetical order."""

    root: Path
    listing: tuple[Item, ...]
    skipped: tuple[Skipped, ...]
    name: str = "folder"

    def classes(self) -> tuple[str, ...]:
        return tuple(sorted({item.label for item in self.listing}))

    def items(self) -> list[Item]:
        return list(self.listing)

    def load(self, item: Item, sample_rate: int) -> Tensor:
        return read_audio(self.root / item.origin, sample_rate)

    def describe(self) -> dict[str, object]:
        origins = [item.origin for item in self.listing]
        return {"source": self.name, "items": len(origins), "files": fingerprint(self.root, origins)}


def open_folder(root: Path) -> Folder:
    """List the recordings under `root` by their names; whether they decode is found when they are loaded.

    Files inside a class folder belong to that class however deep they lie; links are followed, loops are not.
    Raises UserError when no class folder holds a recording.
    """
    listing: list[Item] = []
    skipped: list[Skipped] = []
    loose = 0
    above = {_identity(folder) for folder in (root.resolve(), *root.resolve().parents)}
    for entry in _entries(root):
        if os.path.isdir(entry):
            found = list(_walk(entry, entry.name, set(above)))
            listing += [Item(origin, label=entry.name) for origin, reason in found if reason is None]
            skipped += [(origin, reason) for origin, reason in found if reason is not None]
            if not found:
                skipped.append((entry.name, "an empty folder"))
        else:
            reason = _unfit(entry)
            loose += reason is None
            skipped.append((_printable(entry.name), reason or "lies outside the class folders"))
    if not listing:
        if loose:
            raise UserError(
                f"{root}: {loose} sound files but no folders of them; move them into one folder for each class, "
                f"as in {root / 'dog' / 'bark.wav'}"
            )
        raise UserError(
            f"{root}: no sound files found in its folders; one folder of recordings (WAV, FLAC, OGG, MP3, …) "
            "for each class is needed"
        )
    return Folder(root, tuple(sorted(listing, key=lambda item: (item.label, item.origin))), tuple(sorted(skipped)))


def _walk(folder: os.DirEntry[str], origin: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, str | None]]:
    """(origin, None) of every recording under `folder`, (origin, reason) of everything else."""
    if reason := _unfit_name(folder.name):
        yield _printable(origin), reason
        return
    try:
        identity = _identity(folder)
        if identity in seen:
            yield origin, "a link to a folder that is listed already"
            return
        seen.add(identity)
        entries = _entries(folder)
    except OSError as error:
        yield origin, f"cannot be read ({error.strerror})"
        return
    for entry in entries:
        inner = f"{origin}/{entry.name}"
        if os.path.isdir(entry):
            yield from _walk(entry, inner, seen)
        else:
            reason = _unfit(entry)
            yield (_printable(inner) if reason else inner), reason


def _unfit(entry: os.DirEntry[str]) -> str | None:
    """Why a file is not listed as a recording, or None."""
    if reason := _unfit_name(entry.name):
        return reason
    if not entry.name.lower().endswith(AUDIO_SUFFIXES):
        return "not an audio file by its name"
    if not os.path.isfile(entry):
        return "a broken link" if entry.is_symlink() else "not a regular file"
    return None


def _unfit_name(name: str) -> str | None:
    if name.startswith("."):
        return "hidden"
    return None if _printable(name) == name else "its name is not valid UTF-8"


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _identity(folder: os.DirEntry[str] | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _entries(folder: os.DirEntry[str] | Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)
