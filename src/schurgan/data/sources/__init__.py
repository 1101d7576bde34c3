"""The data sets that `schurgan prepare` reads, by name. Adding one is a file beside this one and a row here."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from schurgan.core.errors import SchurganError, did_you_mean
from schurgan.core.isolation import isolated
from schurgan.data.sources.base import Item, Skipped, Source
from schurgan.data.sources.cifar10 import open_cifar10
from schurgan.data.sources.common_voice import open_common_voice
from schurgan.data.sources.environmental import open_esc50, open_urbansound8k
from schurgan.data.sources.folder import open_folder
from schurgan.data.sources.soundscape import open_soundscape
from schurgan.data.unpack import ARCHIVES, OTHER_ARCHIVES, unpacked
from schurgan.runs.folder import check_recordings

__all__ = ["SOURCES", "Entry", "Item", "Skipped", "Source", "open_source"]


class Entry(NamedTuple):
    """How a source is opened, `open(root, **options)`, and what its root is; None: it has none, `open(**options)`."""

    open: Callable[..., Any]
    root: str | None


SOURCES: dict[str, Entry] = {
    "folder": Entry(open_folder, "a folder of recordings or images, at best one folder for each class,"),
    "esc50": Entry(open_esc50, "the unpacked ESC-50 data set, with meta/esc50.csv and audio/"),
    "urbansound8k": Entry(open_urbansound8k, "the unpacked UrbanSound8K data set, with metadata/ and audio/fold*/"),
    "common_voice": Entry(open_common_voice, "a Common Voice release, with validated.tsv and clips/ for each language"),
    "cifar10": Entry(open_cifar10, "the unpacked CIFAR-10 data set, cifar-10-batches-py or cifar-10-batches-bin"),
    "soundscape": Entry(open_soundscape, None),
}


@isolated
def open_source(name: str, root: str | os.PathLike[str] | None = None, **options: object) -> Source:
    """The source `name` at `root`, listed and ready to load.

    Raises SchurganError for an unknown name or option, and for a root that is missing or of another kind.
    """
    if name not in SOURCES:
        raise SchurganError(f'source "{name}": no such source{_hint(name, list(SOURCES))}')
    entry = SOURCES[name]
    known = [option for option in inspect.signature(entry.open).parameters if option != "root"]
    for option in options:
        if option not in known:
            raise SchurganError(f'source "{name}": no option "{option}"{_hint(option, known)}')
    if entry.root is None:
        if root is not None:
            raise SchurganError(f'source "{name}": makes its own sounds and reads no folder, yet "{root}" was given')
        return entry.open(**options)
    source = entry.open(_folder(name, root, entry.root), **options)
    return replace(source, root=source.root.absolute())  # to be found from another current folder too


def _folder(name: str, root: str | os.PathLike[str] | None, needed: str) -> Path:
    """`root` as the path of a folder that has something in it."""
    if root is None:
        raise SchurganError(f'source "{name}": no folder given; it needs {needed}')
    root = Path(root).expanduser()
    try:
        if root.name.lower().endswith((*ARCHIVES, *OTHER_ARCHIVES)) and root.is_file():
            return unpacked(root)
        check_recordings(root, f"{needed} is needed")
    except SchurganError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise SchurganError(f"{root}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return root


def _hint(name: str, known: list[str]) -> str:
    return did_you_mean(name, known) or (f"; one of {', '.join(known)} would do" if known else "; it has none")
