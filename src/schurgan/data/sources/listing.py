"""What lies in a folder, file by file: links are followed, loops are not, and what cannot be used has a reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from schurgan.data.manifest import printable

Listed = tuple[str, str | None]
"""(path relative to the folder with '/', None or why it cannot be used whatever it holds)."""


def list_files(root: Path, suffixes: tuple[str, ...]) -> list[Listed]:
    """Every file under `root`, in the order of names; of those with one of the suffixes it is seen that they are files.

    Folders that are empty, hidden, unreadable or listed already are there too, with the reason.
    """
    above = {_identity(folder) for folder in (root.resolve(), *root.resolve().parents)}
    listed: list[Listed] = []
    for entry in _entries(root):
        if os.path.isdir(entry):
            listed += list(_inside(entry, entry.name, set(above), suffixes)) or [(entry.name, "an empty folder")]
        else:
            listed.append((entry.name, _unfit(entry, suffixes)))
    return listed


def _inside(
    folder: os.DirEntry[str], origin: str, seen: set[tuple[int, int]], suffixes: tuple[str, ...]
) -> Iterator[Listed]:
    """(origin, None or why it is skipped) of everything under a folder, in the order of names."""
    if reason := _unfit_name(folder.name):
        yield origin, reason
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
            yield from _inside(entry, inner, seen, suffixes)
        else:
            yield inner, _unfit(entry, suffixes)


def _unfit(entry: os.DirEntry[str], suffixes: tuple[str, ...]) -> str | None:
    """Why a file cannot be used whatever it holds, or None."""
    if reason := _unfit_name(entry.name):
        return reason
    if not entry.name.lower().endswith(suffixes) or os.path.isfile(entry):
        return None
    return "a broken link" if entry.is_symlink() else "not a regular file"


def _unfit_name(name: str) -> str | None:
    if name.startswith("."):
        return "hidden"
    return None if printable(name) == name else "its name is not valid UTF-8"


def _identity(folder: os.DirEntry[str] | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _entries(folder: os.DirEntry[str] | Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)
