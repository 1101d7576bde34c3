"""Environmental sounds in numbered folds and classes: ESC-50 (Piczak 2015), UrbanSound8K (Salamon et al. 2014)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from schurgan.core.errors import SchurganError
from schurgan.core.suffixes import AUDIO_SUFFIXES
from schurgan.data.sources.base import FileSource, Item, choices
from schurgan.data.sources.listing import list_files
from schurgan.data.sources.naming import ESC10, SCHEMES
from schurgan.data.sources.readings import read
from schurgan.data.sources.tables import Row, read_table


class _Layout(NamedTuple):
    """Names of a data set: of its archive, the folders that it unpacks to, its table, columns and audio folders.

    Also of the column that says which recording a clip was cut from, which a table may lack.
    """

    archive: str
    homes: tuple[str, ...]
    table: str
    columns: tuple[str, str, str, str]  # name of the file, fold, number and name of the class
    audio: str
    recording: str


ESC50 = _Layout(
    "ESC-50",
    ("ESC-50-master", "ESC-50"),
    "meta/esc50.csv",
    ("filename", "fold", "target", "category"),
    "audio",
    "src_file",
)
URBANSOUND8K = _Layout(
    "UrbanSound8K",
    ("UrbanSound8K",),
    "metadata/UrbanSound8K.csv",
    ("slice_file_name", "fold", "classID", "class"),
    "audio/fold{}",
    "fsID",
)


def open_esc50(root: Path, subset: str = "all") -> FileSource:
    """ESC-50 at `root`, 2,000 recordings of 5 s in 50 classes and 5 folds; subset "esc10": 400 of them in 10 classes.

    Items are in the order of the table, classes in that of their numbers. Raises SchurganError for an unknown subset, a
    folder of another kind, and a broken table (file, line, column).
    """
    choices("esc50", "subset", [subset], ("all", "esc10"))

    def wanted(row: Row) -> bool:
        if row["esc10"] not in ("True", "False"):
            raise row.bad("esc10", "True or False")
        return subset == "all" or row["esc10"] == "True"

    return _open("esc50", root, ESC50, (("subset", subset),), ("esc10",), wanted)


def open_urbansound8k(root: Path) -> FileSource:
    """UrbanSound8K at `root`, 8,732 recordings of up to 4 s in 10 classes and 10 folds; as `open_esc50`.

    Slices of one recording lie in one fold.
    """
    return _open("urbansound8k", root, URBANSOUND8K)


def _open(
    name: str,
    root: Path,
    layout: _Layout,
    options: tuple[tuple[str, object], ...] = (),
    more_columns: tuple[str, ...] = (),
    wanted: Callable[[Row], bool] = lambda row: True,
) -> FileSource:
    table, (file_column, fold_column, number_column, class_column) = layout.table, layout.columns
    home = next((place for place in (root, *map(root.joinpath, layout.homes)) if (place / table).is_file()), None)
    if home is None:
        return _by_names(name, root, layout, options)
    present = {path.relative_to(home).as_posix() for path in home.glob(f"{layout.audio.format('*')}/[!.]*")}
    lines: dict[str, int] = {}
    numbers: dict[str, int] = {}
    classes: dict[int, str] = {}
    named, listing, skipped = set(), [], []
    for row in read_table(home / table, (*layout.columns, *more_columns)):
        file = row.once(file_column, row.file_name(file_column, "the name of a file in audio/"), lines)
        fold, number = row.whole(fold_column, 1), row.whole(number_column, 0)
        category = row.filled(class_column, "a class name")
        if (known := numbers.setdefault(category, number)) != number:
            raise row.bad(number_column, f'{known}, as in the rows of "{category}" before,')
        if (before := classes.setdefault(number, category)) != category:
            raise row.bad(class_column, f'"{before}", as in the rows of target {number} before,')
        origin = f"{layout.audio.format(fold)}/{file}"
        named.add(origin)
        if wanted(row) and origin in present:
            recording = row[layout.recording] if layout.recording in row.fields else ""
            listing.append(Item(origin, category, fold, recording or None))
        elif wanted(row):
            skipped.append((origin, f"no such file, though {table} names it"))
    skipped += [(origin, f"{table} does not name it") for origin in sorted(present - named)]
    if not listing:
        raise SchurganError(f"{home}: none of the recordings that {table} names is in audio/; unpack the whole archive")
    used = sorted({item.label for item in listing}, key=numbers.__getitem__)
    return FileSource(name, home, tuple(used), tuple(listing), tuple(skipped), options, (table,))


def _by_names(name: str, root: Path, layout: _Layout, options: tuple[tuple[str, object], ...]) -> FileSource:
    """The recordings by their names alone, where the table is not there."""
    listed = list_files(root, AUDIO_SUFFIXES)
    paths = [path for path, reason in listed if reason is None and path.lower().endswith(AUDIO_SUFFIXES)]
    reading = read(paths, name, root.name)
    skipped = tuple((path, reading.no_class) for path, label in zip(paths, reading.labels, strict=True) if not label)
    if ("subset", "esc10") in options:
        reading = replace(reading, labels=tuple(label if label in ESC10 else None for label in reading.labels))
    if not reading.counts:
        needed = f"the folder that {layout.archive}'s archive unpacks to is needed"
        raise SchurganError(f"{root}: no {layout.table} in it, and no files named as the table names them; {needed}")
    found = zip(paths, reading.labels, reading.folds.of, reading.recordings, strict=True)
    listing = tuple(Item(path, label, fold, recording) for path, label, fold, recording in found if label)
    classes = tuple(label for label in SCHEMES[name].classes if label in reading.counts)
    said = f"no {layout.table} here; taken as classes: {reading.said()}"
    held_out = reading.folds.held_out
    return FileSource(name, root, classes, listing, skipped, options, said=said, val_folds=held_out)
