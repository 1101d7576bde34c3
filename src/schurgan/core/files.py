"""Writing files so that a reader never sees half of one, whatever happens to the writer."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_NAME_BYTES = 80  # of a class in a file's name: with a number, a suffix and the name of a part it stays far below 255


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on a clean exit fsync it and rename it to `path`, else remove it.

    Readers see the old file or the new one. Raises OSError as the file system does (full disk, no permission),
    with nothing left behind.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    try:
        with open(partial, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: str | Path) -> None:
    """Make a rename in `folder` survive a power cut (a no-op where folders cannot be opened)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: str | Path, value: object) -> None:
    """`value` as indented UTF-8 JSON, written atomically. NaN and infinity raise ValueError: they are not JSON."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_write(path, "w") as file:
        file.write(text + "\n")


def sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_name(label: str) -> str:
    """The name under which files of a class are written, without suffix: at most 80 bytes, the same in every run.

    Letters with their marks, digits, pictographs, spaces, "-" and "_" are kept, in normal form C; anything else becomes
    "_". Whatever differs from the label after that, or by case alone from another label's name, gets "~" and six
    characters of the label's SHA-256: no two labels share a file, also where the file system ignores case.
    """
    composed = unicodedata.normalize("NFC", label)
    kept = "".join(
        c if c in " -_" or unicodedata.category(c)[0] in "LMN" or unicodedata.category(c) == "So" else "_"
        for c in composed
    ).strip(" -")
    folded = unicodedata.normalize("NFC", kept.casefold())
    if kept and kept == folded == label and len(kept.encode()) <= _NAME_BYTES:
        return kept
    digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).digest()
    tag = "~" + base64.b32encode(digest)[:6].decode().lower()
    return (kept or "class").encode()[: _NAME_BYTES - len(tag)].decode(errors="ignore").rstrip() + tag
