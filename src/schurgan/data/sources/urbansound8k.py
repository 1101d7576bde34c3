"""UrbanSound8K (Salamon, Jacoby, Bello 2014): 8,732 recordings of up to 4 s in 10 classes and 10 folds."""

from __future__ import annotations

from pathlib import Path

from schurgan.core.errors import UserError
from schurgan.data.sources.base import FileSource, Item
from schurgan.data.sources.tables import Names, read_table

META = "metadata/UrbanSound8K.csv"
COLUMNS = ("slice_file_name", "fold", "classID", "class")


def open_urbansound8k(root: Path) -> FileSource:
    """UrbanSound8K at `root`: the folder with metadata/ and audio/fold1 to fold10, or the one it was unpacked in.

    The recordings that metadata/UrbanSound8K.csv names, in its order; classes in the order of its classID. Slices of
    one recording lie in one fold: a split that ignores folds has them on both sides. Raises UserError for a folder of
    another kind, and for a broken table (file, line, column).
    """
    home = next((place for place in (root, root / "UrbanSound8K") if (place / META).is_file()), None)
    if home is None:
        raise UserError(f"{root}: no {META} in it; the folder that UrbanSound8K's archive unpacks to is needed")
    present = {f"audio/{path.parent.name}/{path.name}" for path in (home / "audio").glob("fold*/[!.]*")}
    named, names, listing, skipped = set(), Names(), [], []
    for row in read_table(home / META, COLUMNS):
        file = names.once(
            row, "slice_file_name", row.file_name("slice_file_name", "the name of a file in audio/fold*/")
        )
        fold = row.whole("fold", 1)
        category = names.numbered(row, "classID", "class")
        origin = f"audio/fold{fold}/{file}"
        named.add(origin)
        if origin in present:
            listing.append(Item(origin, category, fold))
        else:
            skipped.append((origin, f"no such file, though {META} names it"))
    skipped += [(origin, f"{META} does not name it") for origin in sorted(present - named)]
    if not listing:
        raise UserError(f"{home}: none of the recordings that {META} names is in audio/; unpack the whole archive")
    classes = names.in_order({item.label for item in listing})
    return FileSource("urbansound8k", home, classes, tuple(listing), tuple(skipped), tables=(META,))
