"""Common Voice (Ardila et al. 2020): spoken sentences as MP3, a folder a language, and tables of them."""

from __future__ import annotations

import hashlib
import heapq
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

import soundfile

from schurgan.core.errors import SchurganError
from schurgan.data.sources.base import FileSource, Item, choices
from schurgan.data.sources.tables import Row, read_table
from schurgan.runs.messages import counted

BY = ("locale", "sentence", "gender", "age", "accents")
SPLITS = ("validated", "train", "dev", "test", "other", "invalidated")
HELD_OUT = ("dev", "test")
DURATIONS = "clip_durations.tsv"
MAX_CLASSES = 1000


def open_common_voice(
    root: Path,
    by: str = "locale",
    locales: str | Sequence[str] | None = None,
    split: str | Sequence[str] = "validated",
    max_seconds: float | None = None,
    clips: int = 100_000,
    seed: int = 0,
) -> FileSource:
    """Clips of a Common Voice release at `root`: one language's folder, or the folder of several of them.

    Args:
        root: the release, or one language of it.
        by: what the classes are: a column of the tables; rows where it is empty are left out.
        locales: which languages, a sequence or one text with commas; all by default.
        split: which tables are read; of several, the first is fold 1, the second fold 2, and so on, and dev and test
            are held out beside others.
        max_seconds: longer clips are left out.
        clips: how many are drawn at random, fewer if there are not as many: the paper's 100,000 by default.
        seed: of the draw, which depends on it and on the clips' names alone, not on the order of rows.

    Raises:
        SchurganError: options or folders of another kind, broken tables, or more than 1,000 classes.
    """
    choices("common_voice", "by", [by], BY)
    splits = choices("common_voice", "split", split, SPLITS)
    if max_seconds is not None and not max_seconds > 0:
        raise SchurganError(f"max_seconds {max_seconds}: a length above 0 s is needed")
    if not (isinstance(clips, int) and clips >= 1 and isinstance(seed, int) and seed >= 0):
        raise SchurganError(f"clips {clips}, seed {seed}: a whole number of 1 or more and one of 0 or more are needed")
    base, present = _languages(root, splits)
    chosen = present if locales is None else choices("common_voice", "locale", locales, present)
    reader = _Reader(base, splits, by, max_seconds, seed, Counter())
    rows = (row for locale in chosen for row in reader.rows(locale))
    measured = max_seconds is None or all((base / locale / DURATIONS).is_file() for locale in chosen)
    listing: list[Item] = []
    for _, item in heapq.nsmallest(clips, rows, key=itemgetter(0)) if measured else sorted(rows, key=itemgetter(0)):
        if measured or reader.is_short(item):
            listing.append(item)
        if len(listing) == clips:
            break
    left_out = sorted(reader.left_out.items())
    skipped = [(table, f"{counted(count, 'clip')} {reason}") for (table, reason), count in left_out]
    if not listing:
        why = f" ({skipped[0][0]}: {skipped[0][1]})" if skipped else ""
        raise SchurganError(f'{root}: no clip can be used with classes by "{by}"{why}')
    categories = tuple(sorted({item.label for item in listing}))
    if (count := len(categories)) > MAX_CLASSES:
        raise SchurganError(f'{root}: {count} classes by "{by}" in {len(listing)} clips; at most {MAX_CLASSES} do')
    options = {"by": by, "split": list(splits), "max_seconds": max_seconds, "clips": clips, "seed": seed}
    ordered = tuple(sorted(listing, key=lambda item: item.origin))
    held_out = tuple(fold for fold, name in enumerate(splits, start=1) if name in HELD_OUT)
    source = FileSource("common_voice", base, categories, ordered, tuple(skipped), tuple(options.items()))
    return replace(source, val_folds=held_out if len(held_out) < len(splits) else ())


@dataclass(frozen=True)
class _Reader:
    """Reads the tables of one language after another; counts by (table, reason) what it leaves out."""

    base: Path
    splits: Sequence[str]
    by: str
    max_seconds: float | None
    seed: int
    left_out: Counter[tuple[str, str]]

    def rows(self, locale: str) -> Iterator[tuple[bytes, Item]]:
        """Every usable clip once, after its rank in the draw."""
        home = self.base / locale
        present, long, ranks = set(os.listdir(home / "clips")), self._long(home / DURATIONS), set()
        for fold, split in enumerate(self.splits, start=1):
            table = home / f"{split}.tsv"
            for row in read_table(table, ("path",), "\t") if table.is_file() else ():
                name = row.file_name("path", "the name of a file in clips/")
                name += "" if name.endswith(".mp3") else ".mp3"  # the first releases leave it out
                label = self._label(row, locale)
                rank = hashlib.blake2b(f"{self.seed}/{locale}/{name}".encode(), digest_size=16).digest()
                reason = (
                    (not label and f'without "{self.by}"')
                    or (name not in present and "that are not in clips/")
                    or (name in long and f"longer than {self.max_seconds:g} s")
                    or (rank in ranks and "named before")
                )
                if reason:
                    self.left_out[f"{locale}/{table.name}", reason] += 1
                else:
                    ranks.add(rank)
                    yield rank, Item(f"{locale}/clips/{name}", label, fold if len(self.splits) > 1 else None)

    def is_short(self, item: Item) -> bool:
        """Whether a clip that no table measures is short enough, by its own header."""
        try:
            short = soundfile.info(self.base / item.origin).duration <= (self.max_seconds or 0)
        except soundfile.LibsndfileError:
            return True  # a damaged clip is told when it is loaded
        if not short:
            self.left_out[item.origin.partition("/")[0], f"longer than {self.max_seconds:g} s"] += 1
        return short

    def _long(self, table: Path) -> set[str]:
        if self.max_seconds is None or not table.is_file():
            return set()
        rows = read_table(table, ("clip", "duration[ms]"), "\t")
        return {row["clip"] for row in rows if row.whole("duration[ms]", 0) > 1000 * self.max_seconds}

    def _label(self, row: Row, locale: str) -> str:
        column = "accent" if self.by == "accents" and "accents" not in row.fields else self.by  # its older name
        if column not in row.fields and column != "locale":
            found = ",".join(row.fields)[:300]
            raise SchurganError(f'{row.table} line 1: no column "{column}" for the classes; the header is {found}')
        label = " ".join(row[column].split())
        return label or (locale if column == "locale" else "")


def _languages(root: Path, splits: Sequence[str]) -> tuple[Path, list[str]]:
    """The folder that origins are relative to, and the languages in it that have one of the tables."""
    whole = root.resolve()
    if (whole / "clips").is_dir():
        base, places = whole.parent, [whole]
    else:
        releases = [folder for folder in sorted(root.iterdir()) if any(folder.glob("*/clips"))]
        if not any(root.glob("*/clips")) and len(releases) > 1:
            raise SchurganError(
                f"{root}: {' and '.join(path.name for path in releases)}, several releases; one is needed"
            )
        base = root if any(root.glob("*/clips")) or not releases else releases[0]
        places = [clips.parent for clips in sorted(base.glob("*/clips"))]
    locales = [place.name for place in places if any((place / f"{split}.tsv").is_file() for split in splits)]
    if not locales:
        raise SchurganError(
            f"{root}: no {splits[0]}.tsv beside clips/; the folder of a language in a release is needed"
        )
    return base, locales
