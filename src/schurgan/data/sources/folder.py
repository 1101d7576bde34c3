"""Anybody's recordings or images: what their folders, names, or a table say of their classes."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from schurgan.core.errors import Choice, SchurganError, Undecided
from schurgan.core.suffixes import AUDIO_SUFFIXES, IMAGE_SUFFIXES
from schurgan.data.manifest import printable
from schurgan.data.sources.base import FileSource, Item, Skipped, choices
from schurgan.data.sources.listing import list_files
from schurgan.data.sources.naming import is_fold, number_folds
from schurgan.data.sources.readings import Reading, Readings, read, readings
from schurgan.data.sources.tables import guess_columns, read_table
from schurgan.data.unpack import ARCHIVES, MARK, OTHER_ARCHIVES
from schurgan.runs.messages import counted

FILES = (*AUDIO_SUFFIXES, *IMAGE_SUFFIXES)
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
        tables: files near the top that may be tables of classes.
        archives: files that are none of ours, but may hold some.
    """

    root: Path
    kind: str
    paths: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    readings: Readings
    tables: tuple[str, ...]
    archives: tuple[str, ...]


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
    listed = [each for each in list_files(root, FILES) if each[0] != MARK]
    kind = kind or _kind_of(origin for origin, reason in listed if reason is None)
    suffixes, what, files, needed = KINDS[kind]
    paths: list[str] = []
    skipped: list[Skipped] = []
    for origin, reason in listed:
        if reason is None and origin.lower().endswith(suffixes):
            paths.append(origin)
        else:
            skipped.append((printable(origin), reason or f"not {what} by its name"))
    others = [origin for origin, reason in listed if reason is None]
    tables = tuple(each for each in others if each.lower().endswith((".csv", ".tsv")) and each.count("/") < 3)
    archives = tuple(each for each in others if each.lower().endswith((*ARCHIVES, *OTHER_ARCHIVES)))
    if not paths:
        needed = f"one folder of {needed} for each class would do"
        raise SchurganError(f"{root}: no {files} found in it; {_not_read(root, archives) if archives else needed}")
    return Look(root, kind, tuple(paths), tuple(skipped), readings(paths, _name(root)), tables, archives)


def _not_read(root: Path, archives: Sequence[str]) -> str:
    found = counted(len(archives), "archive")
    return f"{found} in it, such as {root / archives[0]}, can be given in place of the folder"


def open_folder(
    root: Path, kind: str | None = None, table: str | Path | None = None, class_from: str | None = None
) -> FileSource:
    """List the recordings or images under `root` by their names; whether they decode is found when they are loaded.

    Classes are in alphabetical order, their names in Unicode's normal form C. The parts of a split, folders called
    train and test or fold1 and fold2, are folds and no classes.

    Args:
        root: the folder.
        kind: "audio" or "images"; by default audio, or images where images are all there is.
        table: a file of files, relative to `root` or of names that no two have, and classes, in columns such as `path`
            and `label`, and where wanted `fold`, a number, or train, val or test. Its rows are the items, in their
            order. A relative path of it is looked for here, then in `root`.
        class_from: what the classes are, as `readings.read` takes it; by default what is evident.

    Raises:
        SchurganError: nothing can be used, or the table is broken.
        Undecided: the classes can be read in several ways, or in none.
    """
    if table is not None:
        return _table(root, kind, Path(table).expanduser())
    seen = look(root, kind)
    reading = read(seen.paths, class_from, _name(root)) if class_from is not None else seen.readings.evident
    if reading is None:
        raise _undecided(seen)
    return _source(seen, reading)


def _source(seen: Look, reading: Reading) -> FileSource:
    listing: list[Item] = []
    skipped = list(seen.skipped)
    found = zip(reading.paths, reading.labels, reading.folds.of, reading.recordings, strict=True)
    for origin, label, fold, recording in found:
        if label:
            listing.append(Item(origin, label, fold, recording))
        else:
            skipped.append((printable(origin), reading.no_class))
    listing.sort(key=lambda item: (item.label, item.origin))
    said = f"taken as classes: {reading.said()}; for example, {reading.example}"
    if seen.readings.evident is reading:
        if beside := seen.readings.beside:
            said += f'; `class_from` "{beside.name}" would take {beside.said(4)}'
        said += next((f'; `table` "{each}" has a column {label}' for each, label in _fitting_tables(seen)), "")
    if seen.archives:
        said += f"; {_not_read(seen.root, seen.archives)}"
    source = _files(seen.root, seen.kind, listing, sorted(skipped), reading.folds.held_out)
    return replace(source, said=said)


def _fitting_tables(seen: Look) -> Iterator[tuple[str, str]]:
    """The tables of files and classes, and the column of the classes."""
    for table in seen.tables[:5]:
        with contextlib.suppress(SchurganError):
            yield table, guess_columns(seen.root / table).label


def _undecided(seen: Look) -> Undecided:
    """The question that the readings leave."""
    plausible, files = seen.readings.plausible, KINDS[seen.kind][2]
    choices = [Choice(f"{each.said()}; {each.example}", "class_from", each.name) for each in plausible]
    for table, _ in _fitting_tables(seen):
        with contextlib.suppress(SchurganError):
            said = _table(seen.root, seen.kind, seen.root / table).said
            choices.insert(0, Choice(said.partition(": ")[2], "table", table))
    question = f"{seen.root}: its classes can be read in {len(choices)} ways, and one has to be chosen"
    if len(choices) == 1:
        question = f"{seen.root}: {len(seen.paths)} {files} but no folders of them, and no classes in their names"
    example = seen.root / "dog" / f"bark{Path(seen.paths[0]).suffix}"
    otherwise = f"`class_from` also takes a pattern whose group is the class, searched in paths such as {seen.paths[0]}"
    otherwise += f", `table` a CSV file of path and label; or make one folder for each class, as in {example}"
    otherwise += f"; {_not_read(seen.root, seen.archives)}" if seen.archives else ""
    return Undecided(question, choices, otherwise)


def _table(root: Path, kind: str | None, table: Path) -> FileSource:
    """The items that a table names."""
    path = table if table.is_file() else root / table
    columns, find = guess_columns(path), _Finder(root)
    lines: dict[str, int] = {}
    items: list[Item] = []
    parts: list[str | None] = []
    skipped: list[Skipped] = []
    for row in read_table(path, tuple(filter(None, columns[1:])), columns.delimiter):
        named = row.inner_path(columns.path, "a path inside the folder")
        origin = row.once(columns.path, find(named) or named, lines)
        label = unicodedata.normalize("NFC", row.filled(columns.label, "a class name").strip())
        if columns.fold == "fold" and not is_fold(row[columns.fold]):
            raise row.bad(columns.fold, "a whole number, or train, val or test")
        if (root / origin).is_file():
            items.append(Item(origin, label))
            parts.append(row[columns.fold] if columns.fold else None)
        else:
            skipped.append((origin, f"no such file, though {path.name} names it"))
    if not items:
        raise SchurganError(f"{path}: none of the files that it names is in {root}")
    known = all(part is not None and is_fold(part) for part in parts)
    folds = number_folds(parts if known else [None] * len(parts))
    listing = [replace(item, fold=fold) for item, fold in zip(items, folds.of, strict=True)]
    origins, labels = tuple(item.origin for item in listing), tuple(item.label for item in listing)
    reading = Reading("table", f"column {columns.label} of {path.name}", origins, labels, folds)
    source = _files(root, kind or _kind_of(origins), listing, skipped, folds.held_out)
    return replace(source, said=f"taken as classes: {reading.said()}")


class _Finder:
    """Files of a folder by what a table calls them: their paths, or, where no two are alike, their names."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names: dict[str, str] | None = None

    def __call__(self, named: str) -> str | None:
        """The path in the folder, None where there is none."""
        if (self.root / named).is_file():
            return named
        if self.names is None:
            self.names = {}
            for origin, reason in list_files(self.root, FILES):
                if reason is None and origin.lower().endswith(FILES):
                    name = origin.rpartition("/")[2]
                    for short in {name, name.rpartition(".")[0]}:
                        self.names[short] = "" if short in self.names else origin
        return self.names.get(named.rpartition("/")[2]) or None


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
    return root.resolve().name.removesuffix(".unpacked") or "all"
