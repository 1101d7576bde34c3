"""Anybody's recordings or images: what their folders, names, or a table say of their classes."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from schurgan.core.errors import Choice, SchurganError, Undecided
from schurgan.data.manifest import printable
from schurgan.data.sources.base import AUDIO_SUFFIXES, FileSource, Item, Skipped, choices
from schurgan.data.sources.image_files import IMAGE_SUFFIXES
from schurgan.data.sources.listing import list_files
from schurgan.data.sources.readings import Reading, Readings, read, readings
from schurgan.data.sources.tables import read_table

KINDS = {
    "audio": (AUDIO_SUFFIXES, "an audio file", "sound files", "recordings (WAV, FLAC, OGG, MP3, …)"),
    "images": (IMAGE_SUFFIXES, "an image", "images", "images (PNG, JPEG, …)"),
}


@dataclass(frozen=True)
class Look:
    """What a folder holds, by the names of its files; nothing was opened.

    Attributes:
        root: the folder.
        kind: "audio" or "images".
        paths: its recordings or images, relative to it.
        skipped: what else was seen, and why it is not used.
        readings: what the classes can be.
    """

    root: Path
    kind: str
    paths: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    readings: Readings


def look(root: Path, kind: str | None = None) -> Look:
    """See what `root` holds and what its classes can be; links are followed, loops are not.

    Args:
        root: the folder.
        kind: "audio" or "images"; by default audio, or images where images are all there is.

    Raises:
        SchurganError: it has no files of the kind.
    """
    if kind is not None:
        choices("folder", "kind", [kind], tuple(KINDS))
    listed = list_files(root, (*AUDIO_SUFFIXES, *IMAGE_SUFFIXES))
    kind = kind or _kind_of(origin for origin, reason in listed if reason is None)
    suffixes, what, files, needed = KINDS[kind]
    paths: list[str] = []
    skipped: list[Skipped] = []
    for origin, reason in listed:
        if reason is None and origin.lower().endswith(suffixes):
            paths.append(origin)
        else:
            skipped.append((printable(origin), reason or f"not {what} by its name"))
    if not paths:
        raise SchurganError(f"{root}: no {files} found in it; one folder of {needed} for each class would do")
    return Look(root, kind, tuple(paths), tuple(skipped), readings(paths, _name(root)))


def open_folder(
    root: Path, kind: str | None = None, table: str | Path | None = None, class_from: str | None = None
) -> FileSource:
    """List the recordings or images under `root` by their names; whether they decode is found when they are loaded.

    Classes are in alphabetical order, their names in Unicode's normal form C. The parts of a split, folders called
    train and test or fold1 and fold2, are folds and no classes.

    Args:
        root: the folder.
        kind: "audio" or "images"; by default audio, or images where images are all there is.
        table: a CSV file with the columns `path` (relative to `root`), `label`, and where wanted `fold` (1 or more):
            its rows are the items, in their order. A relative path of it is looked for here, then in `root`.
        class_from: what the classes are, as `readings.read` takes it; by default what is evident.

    Raises:
        SchurganError: nothing can be used, or the table is broken.
        Undecided: the classes can be read in several ways, or in none.
    """
    if table is not None:
        return _table(root, kind, Path(table).expanduser())
    seen = look(root, kind)
    if class_from is not None:
        return _source(seen, read(seen.paths, class_from, _name(root)))
    if seen.readings.evident is None:
        raise _undecided(seen)
    return _source(seen, seen.readings.evident)


def _source(seen: Look, reading: Reading) -> FileSource:
    listing: list[Item] = []
    skipped = list(seen.skipped)
    for origin, label, fold in zip(reading.paths, reading.labels, reading.folds.of, strict=True):
        if label:
            listing.append(Item(origin, label, fold))
        else:
            skipped.append((printable(origin), reading.no_class))
    listing.sort(key=lambda item: (item.label, item.origin))
    said = f"taken as classes: {reading.said()}; for example, {reading.example}"
    if seen.readings.evident is reading and (beside := seen.readings.beside):
        said += f'; `class_from` "{beside.name}" would take {beside.said(4)}'
    source = _files(seen.root, seen.kind, listing, sorted(skipped), reading.folds.held_out)
    return replace(source, said=said)


def _undecided(seen: Look) -> Undecided:
    """The question that the readings leave."""
    plausible, files = seen.readings.plausible, KINDS[seen.kind][2]
    choices = [Choice(f"{each.said()}; {each.example}", "class_from", each.name) for each in plausible]
    question = f"{seen.root}: its classes can be read in {len(plausible)} ways"
    if len(plausible) == 1:
        told = "no words repeat in their names that could be classes"
        question = f"{seen.root}: {len(seen.paths)} {files} but no folders of them, and {told}"
    example = seen.root / "dog" / f"bark{Path(seen.paths[0]).suffix}"
    otherwise = f"or give `class_from` a pattern with a group that finds the class in a path such as {seen.paths[0]}"
    otherwise += f", or `table` a CSV file of path and label, or make one folder for each class, as in {example}"
    return Undecided(question, choices, otherwise)


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
    return _files(root, kind or _kind_of(item.origin for item in listing), listing, skipped)


def _files(
    root: Path, kind: str, listing: list[Item], skipped: list[Skipped], val_folds: tuple[int, ...] = ()
) -> FileSource:
    classes = tuple(sorted({item.label for item in listing}))
    options: list[tuple[str, object]] = [("kind", kind)] if kind != "audio" else []
    options += [("val_folds", list(val_folds))] if val_folds else []
    source = FileSource("folder", root, classes, tuple(listing), tuple(skipped), tuple(options), kind=kind)
    return replace(source, val_folds=val_folds)


def _kind_of(origins: Iterable[str]) -> str:
    suffixes = {os.path.splitext(origin)[1].lower() for origin in origins}
    return "images" if suffixes & set(IMAGE_SUFFIXES) and not suffixes & set(AUDIO_SUFFIXES) else "audio"


def _name(root: Path) -> str:
    """What a class of all files of a folder is called."""
    return root.resolve().name or "all"
