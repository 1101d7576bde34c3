"""Anybody's recordings or images: a folder for each class, ROOT/dog/*.wav, ROOT/rain/**/*.flac, … or a table."""

from __future__ import annotations

import os
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from schurgan.core.errors import SchurganError
from schurgan.data.manifest import printable
from schurgan.data.sources.base import AUDIO_SUFFIXES, FileSource, Item, Skipped, choices
from schurgan.data.sources.image_files import IMAGE_SUFFIXES
from schurgan.data.sources.tables import read_table

KINDS = {
    "audio": (AUDIO_SUFFIXES, "an audio file", "sound files", "recordings (WAV, FLAC, OGG, MP3, …)"),
    "images": (IMAGE_SUFFIXES, "an image", "images", "images (PNG, JPEG, …)"),
}
_PARTS = re.compile(
    r"(train(ing)?|val(id(ation)?)?|dev(elopment)?|eval(uation)?|test(ing)?|(fold|split|part)[-_ ]?\d+)"
)
"""Names of the parts of a split, in lower case."""


def open_folder(root: Path, kind: str | None = None, table: str | Path | None = None) -> FileSource:
    """List the recordings or images under `root` by their names; whether they decode is found when they are loaded.

    Without a table, files inside a class folder belong to that class however deep they lie; links are followed, loops
    are not. Classes are in alphabetical order, their names in Unicode's normal form C.

    Args:
        root: the folder.
        kind: "audio" or "images"; by default audio, or images where images are all there is.
        table: a CSV file with the columns `path` (relative to `root`), `label`, and where wanted `fold` (1 or more):
            its rows are the items, in their order. A relative path of it is looked for here, then in `root`.

    Raises:
        SchurganError: nothing can be used, or the table is broken.

    Warns:
        UserWarning: all class folders have names of the parts of a split, such as train and test, or fold1 and fold2.
    """
    if kind is not None:
        choices("folder", "kind", [kind], tuple(KINDS))
    return _folders(root, kind) if table is None else _table(root, kind, Path(table).expanduser())


def _folders(root: Path, kind: str | None) -> FileSource:
    either = (*AUDIO_SUFFIXES, *IMAGE_SUFFIXES)
    above = {_identity(folder) for folder in (root.resolve(), *root.resolve().parents)}
    entries: list[tuple[str, str | None]] = []
    for entry in _entries(root):
        if os.path.isdir(entry):
            entries += list(_inside(entry, entry.name, set(above), either)) or [(entry.name, "an empty folder")]
        else:
            entries.append((entry.name, _unfit(entry, either)))
    kind = kind or _kind_of(origin for origin, reason in entries if reason is None)
    suffixes, what, files, needed = KINDS[kind]
    listing: list[Item] = []
    skipped: list[Skipped] = []
    loose = 0
    for origin, reason in entries:
        if reason is None and not origin.lower().endswith(suffixes):
            reason = f"not {what} by its name"
        elif reason is None and "/" not in origin:
            reason = "lies outside the class folders"
            loose += 1
        if reason is None:
            listing.append(Item(origin, unicodedata.normalize("NFC", origin.partition("/")[0])))
        else:
            skipped.append((printable(origin), reason))
    classes = list(dict.fromkeys(item.label for item in listing))
    if classes and all(_PARTS.fullmatch(name.lower()) for name in classes):
        warnings.warn(
            f"{root}: its folders {', '.join(classes[:5])} are taken for classes, yet named as a split's parts; "
            "if they are parts, list the files in a table with the columns path, label and fold (option table)",
            stacklevel=2,
        )
    if not listing:
        if loose:
            example = root / "dog" / "bark.wav"
            reason = (
                f"{loose} {files} but no folders of them; move them into one folder for each class, as in {example}"
            )
            raise SchurganError(f"{root}: {reason}")
        raise SchurganError(f"{root}: no {files} found in its folders; one folder of {needed} for each class is needed")
    return _source(root, kind, sorted(listing, key=lambda item: (item.label, item.origin)), sorted(skipped))


def _table(root: Path, kind: str | None, table: Path) -> FileSource:
    path = table if table.is_file() else root / table
    lines: dict[str, int] = {}
    listing: list[Item] = []
    skipped: list[Skipped] = []
    for row in read_table(path, ("path", "label")):
        origin = row.once("path", row.inner_path("path", "a path inside the folder"), lines)
        label = unicodedata.normalize("NFC", row.filled("label", "a class name").strip())
        fold = row.whole("fold", 1) if "fold" in row.fields else None
        if (root / origin).is_file():
            listing.append(Item(origin, label, fold))
        else:
            skipped.append((origin, f"no such file, though {path.name} names it"))
    if not listing:
        raise SchurganError(f"{path}: none of the files that it names is in {root}")
    return _source(root, kind or _kind_of(item.origin for item in listing), listing, skipped)


def _source(root: Path, kind: str, listing: list[Item], skipped: list[Skipped]) -> FileSource:
    classes = tuple(sorted({item.label for item in listing}))
    options = () if kind == "audio" else (("kind", kind),)
    return FileSource("folder", root, classes, tuple(listing), tuple(skipped), options, kind=kind)


def _kind_of(origins: Iterable[str]) -> str:
    suffixes = {os.path.splitext(origin)[1].lower() for origin in origins}
    return "images" if suffixes & set(IMAGE_SUFFIXES) and not suffixes & set(AUDIO_SUFFIXES) else "audio"


def _inside(
    folder: os.DirEntry[str], origin: str, seen: set[tuple[int, int]], suffixes: tuple[str, ...]
) -> Iterator[tuple[str, str | None]]:
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
