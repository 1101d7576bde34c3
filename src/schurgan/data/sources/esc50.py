"""ESC-50 (Piczak 2015): 2,000 recordings of 5 s in 50 classes and 5 folds; ESC-10 is 400 of them in 10 classes."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from schurgan.audio.files import read_audio
from schurgan.data.sources.base import Item, Skipped, fingerprint
from schurgan.errors import UserError, did_you_mean

META = "meta/esc50.csv"
COLUMNS = ("filename", "fold", "target", "category", "esc10")
SUBSETS = ("all", "esc10")


@dataclass(frozen=True)
class ESC50:
    """The recordings that meta/esc50.csv names, in its order; classes in the order of its targets."""

    root: Path
    subset: str
    categories: tuple[str, ...]
    listing: tuple[Item, ...]
    skipped: tuple[Skipped, ...]
    name: str = "esc50"

    def classes(self) -> tuple[str, ...]:
        return self.categories

    def items(self) -> list[Item]:
        return list(self.listing)

    def load(self, item: Item, sample_rate: int) -> Tensor:
        return read_audio(self.root / item.origin, sample_rate)

    def describe(self) -> dict[str, object]:
        origins = [item.origin for item in self.listing]
        files = fingerprint(self.root, [META, *origins])
        return {"source": self.name, "subset": self.subset, "items": len(origins), "files": files}


def open_esc50(root: Path, subset: str = "all") -> ESC50:
    """ESC-50 at `root`: the folder with meta/ and audio/, or the one it was unpacked in. `subset` is "all" or "esc10".

    Raises UserError for an unknown subset, for a folder of another kind, and for a broken table (file, line, column).
    """
    if subset not in SUBSETS:
        hint = did_you_mean(str(subset), SUBSETS) or "; all or esc10 would do"
        raise UserError(f'source "esc50": no subset "{subset}"{hint}')
    home = next((place for place in (root, root / "ESC-50-master", root / "ESC-50") if (place / META).is_file()), None)
    if home is None:
        raise UserError(f"{root}: no {META} in it; the folder that ESC-50's archive unpacks to is needed")
    present = {path.name for path in (home / "audio").glob("*")}
    named, targets, listing, skipped = set(), {}, [], []
    for row in _rows(home / META):
        origin = f"audio/{row.filename}"
        named.add(row.filename)
        if subset == "esc10" and not row.esc10:
            continue
        if row.filename in present:
            targets[row.category] = row.target
            listing.append(Item(origin, row.category, row.fold))
        else:
            skipped.append((origin, f"no such file, though {META} names it"))
    skipped += [(f"audio/{name}", f"{META} does not name it") for name in sorted(present - named)]
    if not listing:
        raise UserError(f"{home}: none of the recordings that {META} names is in audio/; unpack the whole archive")
    categories = sorted(targets, key=targets.__getitem__)
    return ESC50(home, subset, tuple(categories), tuple(listing), tuple(skipped))


@dataclass(frozen=True)
class _Row:
    filename: str
    fold: int
    target: int
    category: str
    esc10: bool


def _rows(table: Path) -> Iterator[_Row]:
    """The table's rows, checked; UserError names the line and the column of what cannot be read."""
    seen: dict[str, int] = {}
    target_of: dict[str, int] = {}
    category_of: dict[int, str] = {}
    line = 1
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{table} line 1: no column {', '.join(missing)}; {','.join(COLUMNS)} are needed")
            for fields in reader:
                line = reader.line_num

                def bad(
                    column: str, needed: str, fields: dict[str, str | None] = fields, line: int = line
                ) -> UserError:
                    given = "nothing" if fields[column] is None else f'"{fields[column]}"'
                    return UserError(f'{table} line {line}, column "{column}": {given} given, {needed} is needed')

                name, category = fields["filename"], fields["category"]
                if not name or Path(name).name != name:
                    raise bad("filename", "the name of a file in audio/")
                if name in seen:
                    raise bad("filename", f"a name other than that of line {seen[name]}")
                if not (fold := _whole(fields["fold"])):
                    raise bad("fold", "a whole number of 1 or more")
                if (target := _whole(fields["target"])) is None:
                    raise bad("target", "a whole number of 0 or more")
                if not category:
                    raise bad("category", "a class name")
                if target_of.setdefault(category, target) != target:
                    raise bad("target", f'{target_of[category]}, as in the rows of "{category}" before,')
                if category_of.setdefault(target, category) != category:
                    raise bad("category", f'"{category_of[target]}", as in the rows of target {target} before,')
                if fields["esc10"] not in ("True", "False"):
                    raise bad("esc10", "True or False")
                seen[name] = line
                yield _Row(name, fold, target, category, fields["esc10"] == "True")
    except UnicodeDecodeError:
        raise UserError(f"{table} after line {line}: not UTF-8 text") from None
    except (csv.Error, OSError) as error:
        raise UserError(f"{table} after line {line}: cannot be read ({error})") from None


def _whole(text: str | None) -> int | None:
    """A whole number written in plain digits, or None."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else None
