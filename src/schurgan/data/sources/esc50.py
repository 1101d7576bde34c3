"""ESC-50 (Piczak 2015): 2,000 recordings of 5 s in 50 classes and 5 folds; ESC-10 is 400 of them in 10 classes."""

from __future__ import annotations

from pathlib import Path

from schurgan.core.errors import UserError
from schurgan.data.sources.base import FileSource, Item, choices
from schurgan.data.sources.tables import Names, read_table

META = "meta/esc50.csv"
COLUMNS = ("filename", "fold", "target", "category", "esc10")
SUBSETS = ("all", "esc10")


def open_esc50(root: Path, subset: str = "all") -> FileSource:
    """ESC-50 at `root`: the folder with meta/ and audio/, or the one it was unpacked in. `subset` is "all" or "esc10".

    The recordings that meta/esc50.csv names, in its order; classes in the order of its targets. Raises UserError for an
    unknown subset, for a folder of another kind, and for a broken table (file, line, column).
    """
    choices("esc50", "subset", [subset], SUBSETS)
    home = next((place for place in (root, root / "ESC-50-master", root / "ESC-50") if (place / META).is_file()), None)
    if home is None:
        raise UserError(f"{root}: no {META} in it; the folder that ESC-50's archive unpacks to is needed")
    present = {path.name for path in (home / "audio").glob("[!.]*")}
    named, names, listing, skipped = set(), Names(), [], []
    for row in read_table(home / META, COLUMNS):
        file = names.once(row, "filename", row.file_name("filename", "the name of a file in audio/"))
        fold = row.whole("fold", 1)
        category = names.numbered(row, "target", "category")
        if row["esc10"] not in ("True", "False"):
            raise row.bad("esc10", "True or False")
        named.add(file)
        if subset == "esc10" and row["esc10"] == "False":
            continue
        if file in present:
            listing.append(Item(f"audio/{file}", category, fold))
        else:
            skipped.append((f"audio/{file}", f"no such file, though {META} names it"))
    skipped += [(f"audio/{name}", f"{META} does not name it") for name in sorted(present - named)]
    if not listing:
        raise UserError(f"{home}: none of the recordings that {META} names is in audio/; unpack the whole archive")
    classes = names.in_order({item.label for item in listing})
    return FileSource("esc50", home, classes, tuple(listing), tuple(skipped), (("subset", subset),), (META,))
