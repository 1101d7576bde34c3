"""Files under a folder, with the reason where one cannot be used. Links are followed, loops of them are not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def walk(root: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str, str | None]]:
    """(origin, name of the first folder or '', None or a reason) of everything under `root`, in the order of names.

    What is named with one of `suffixes` is checked to be a file. OSError when `root` itself cannot be read.
    """
    above = {_identity(folder) for folder in (root.resolve(), *root.resolve().parents)}
    for entry in _entries(root):
        if os.path.isdir(entry):
            inside = list(_inside(entry, entry.name, set(above), suffixes))
            for origin, reason in inside or [(entry.name, "an empty folder")]:
                yield origin, entry.name, reason
        else:
            yield entry.name, "", _unfit(entry, suffixes)


def printable(name: str) -> str:
    """A file's name as UTF-8 can hold it."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _inside(
    folder: os.DirEntry[str], origin: str, seen: set[tuple[int, int]], suffixes: tuple[str, ...]
) -> Iterator[tuple[str, str | None]]:
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
