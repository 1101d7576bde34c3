"""Tables of data sets, CSV and TSV: what cannot be read is told by file, line and column."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from schurgan.core.errors import SchurganError

PATHS = (
    *("path", "file", "filename", "file_name", "filepath", "file_path", "fname", "slice_file_name"),
    *("audio", "audio_file", "audio_path", "wav", "clip", "sound", "image", "image_path", "picture"),
)
LABELS = ("label", "class", "category", "class_name", "label_name", "labels", "tag", "species", "word", "target")
FOLDS = ("fold", "split", "subset", "partition")
"""Names of the columns of anybody's table, the likeliest first."""
MAX_LINE = 1_000_000
"""Characters of a line beyond which a file is no table: a billion of zeros without an end fills no memory."""


@dataclass(slots=True)  # frozen would make a million of them take twice as long
class Row:
    """One row of a table. A column that the row is too short for is missing from `fields`, and '' by `row[column]`."""

    table: Path
    line: int
    fields: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.fields.get(column, "")

    def bad(self, column: str, needed: str) -> SchurganError:
        """The error that says what stands in `column`, and what is needed instead."""
        given = "nothing" if column not in self.fields else f'"{self[column][:200]}"'
        return SchurganError(f'{self.table} line {self.line}, column "{column}": {given} given, {needed} is needed')

    def filled(self, column: str, needed: str) -> str:
        """The text in `column`, which must be there."""
        if not self[column].strip() or "\0" in self[column]:
            raise self.bad(column, needed)
        return self[column]

    def file_name(self, column: str, needed: str) -> str:
        """A plain file name: no way out of its folder."""
        name = self.filled(column, needed)
        if name in (".", "..") or "/" in name or "\\" in name:
            raise self.bad(column, needed)
        return name

    def inner_path(self, column: str, needed: str) -> str:
        """A relative path that stays inside its folder, with '/' separators."""
        path = PurePosixPath(self.filled(column, needed).replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or not path.name:
            raise self.bad(column, needed)
        return str(path)

    def whole(self, column: str, least: int) -> int:
        """A whole number of `least` or more in plain digits."""
        text = self[column]
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
            raise self.bad(column, f"a whole number of {least} or more")
        return int(text)

    def once(self, column: str, name: str, lines: dict[str, int]) -> str:
        """`name`, which no row before has; `lines` collects the names and their lines."""
        if (before := lines.setdefault(name, self.line)) != self.line:
            raise self.bad(column, f"a name other than that of line {before}")
        return name


def read_table(table: Path, columns: tuple[str, ...], delimiter: str = ",") -> Iterator[Row]:
    """The rows of a UTF-8 table with a header that has `columns`, one at a time.

    Fields apart by commas or semicolons may be quoted; those apart by tabs never are, so that a stray " in a sentence
    is just that. Raises SchurganError with file and line.
    """
    lines = _cells(table, delimiter)
    _, header = next(lines, (1, []))
    missing = [column for column in columns if column not in header]
    if missing:
        found = ",".join(header)[:300] or "nothing"
        needed = f"{','.join(columns)} are needed" if len(columns) > 1 else f"{columns[0]} is needed"
        raise SchurganError(f"{table} line 1: no column {', '.join(missing)}; {needed}, the header is {found}")
    for line, cells in lines:
        if len(cells) > len(header):
            raise SchurganError(f"{table} line {line}: {len(cells)} fields, where the header has {len(header)}")
        if cells:
            yield Row(table, line, dict(zip(header, cells, strict=False)))


def _cells(table: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The number and the fields of each line."""
    line = 1
    try:
        if not table.is_file():
            raise SchurganError(
                f"{table}: {'not a regular file' if table.exists() else 'no such file'}; a table is needed"
            )
        with open(table, encoding="utf-8-sig", newline="\n" if delimiter == "\t" else "") as file:
            if delimiter == "\t":
                for line, text in enumerate(_bounded(file), 1):
                    yield line, text.rstrip("\r\n").split(delimiter) if text.rstrip("\r\n") else []
                return
            reader = csv.reader(_bounded(file), delimiter=delimiter, strict=True)
            for cells in reader:
                line = reader.line_num
                yield line, cells
    except UnicodeDecodeError:
        raise SchurganError(f"{table} after line {line}: not UTF-8 text") from None
    except SchurganError:
        raise
    except (csv.Error, OSError, ValueError) as error:
        raise SchurganError(f"{table} after line {line}: cannot be read ({error})") from None


class Columns(NamedTuple):
    """How a table is to be read: what is between its fields, and the columns of files, classes and folds ("": none)."""

    delimiter: str
    path: str
    label: str
    fold: str


def guess_columns(table: Path) -> Columns:
    """The columns of a table of files and their classes, by the names in its header.

    Raises SchurganError, with the header, for one that names no files or no classes, and for what cannot be read.
    """
    headers = {delimiter: next(_cells(table, delimiter), (1, []))[1] for delimiter in (",", ";", "\t")}
    for delimiter, header in headers.items():
        known = {name.strip().casefold(): name for name in reversed(header)}
        path, label, fold = (
            next((known[name] for name in names if name in known), "") for names in (PATHS, LABELS, FOLDS)
        )
        if path and label:
            return Columns(delimiter, path, label, fold)
    header = max(headers.values(), key=len)
    missing = " and one of ".join(
        f"{what} ({', '.join(names[:4])}, …)"
        for what, names in (("files", PATHS), ("classes", LABELS))
        if not any(name.strip().casefold() in names for name in header)
    )
    found = ",".join(header)[:300] or "nothing"
    raise SchurganError(f"{table} line 1: a column of {missing} is needed, the header is {found}")


def _bounded(file: IO[str]) -> Iterator[str]:
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise ValueError(f"a line of more than {MAX_LINE} characters")
        yield line
