"""What a data set looks like to `prepare`: named classes, items in a fixed order, and a way to load one item."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from schurgan.audio.files import read_audio, read_loudest
from schurgan.core.errors import SchurganError, did_you_mean
from schurgan.data.sources.image_files import read_image

Skipped = tuple[str, str]
"""(origin, reason): something seen while listing a source that is not used."""


@dataclass(frozen=True)
class Item:
    """One recording or image: a path in the source's root or an id, unique in the source; class; fold, if any.

    Items that were cut from one recording have its name in common.
    """

    origin: str
    label: str
    fold: int | None = None
    recording: str | None = None


class Source(Protocol):
    """A data set. Implementations are frozen, picklable dataclasses: worker processes load items in parallel.

    One that holds some of its folds out for judging names them in an attribute `val_folds`, a tuple of numbers.
    """

    @property
    def name(self) -> str:
        """The registry's name of the source."""

    @property
    def kind(self) -> str:
        """What it holds: "audio", loaded by `load`, or "images", by `load_image`; the other may be absent."""

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What was seen while listing and is not used, with the reason."""

    def classes(self) -> tuple[str, ...]:
        """Class names; a class's position is its number."""

    def items(self) -> list[Item]:
        """Every item, always in the same order."""

    def load(self, item: Item, sample_rate: int) -> Tensor:
        """The item as mono samples (L,) float32 at `sample_rate`. Raises AudioError if it cannot be used."""

    def load_image(self, item: Item) -> Tensor:
        """The item as pixels (C, H, W) uint8, C 1 or 3. Raises SchurganError if it cannot be used."""

    def describe(self) -> dict[str, object]:
        """JSON values that determine the data, the same on every machine: goes into manifests and plan hashes."""


@dataclass(frozen=True)
class FileSource:
    """A data set of one file an item: what most sources are, once their tables or folders are read."""

    name: str
    root: Path  # what the origins of its items are relative to
    categories: tuple[str, ...]
    listing: tuple[Item, ...]
    skipped: tuple[Skipped, ...] = ()
    options: tuple[tuple[str, object], ...] = ()  # what else determines the data
    tables: tuple[str, ...] = ()  # files that determine the data beside those of the items
    kind: str = "audio"
    val_folds: tuple[int, ...] = ()  # folds that the data set itself holds out, its validation and test parts
    said: str = ""  # what was taken for its classes, where that is not a matter of course

    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of their numbers."""
        return self.categories

    def items(self) -> list[Item]:
        """Every item, in the order of the listing."""
        return list(self.listing)

    def load(self, item: Item, sample_rate: int) -> Tensor:
        """The recording as mono samples (L,) at `sample_rate`. Raises AudioError."""
        return read_audio(self.root / item.origin, sample_rate)

    def load_loudest(self, item: Item, n_samples: int, sample_rate: int) -> tuple[Tensor, float]:
        """The recording, or the loudest n_samples of one too long to be held; and its seconds. Raises AudioError."""
        return read_loudest(self.root / item.origin, n_samples, sample_rate)

    def load_image(self, item: Item) -> Tensor:
        """The image as pixels (C, H, W) uint8. Raises ImageError."""
        return read_image(self.root / item.origin)

    def describe(self) -> dict[str, object]:
        """What determines the data: goes into manifests and plan hashes."""
        origins = [item.origin for item in self.listing]
        files = fingerprint(self.root, [*self.tables, *origins])
        return {"source": self.name, **dict(self.options), "items": len(origins), "files": files}


def choices(source: str, option: str, value: str | Sequence[str], known: Sequence[str]) -> list[str]:
    """The names in a text with commas, or in a sequence, each once; SchurganError for one that is not known."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value)
    for name in names or [""]:
        if name not in known:
            hint = did_you_mean(str(name), known) or f"; {', '.join(known)} would do"
            raise SchurganError(f'source "{source}": no {option} "{name}"{hint}')
    return list(dict.fromkeys(names))


def fingerprint(root: Path, origins: Iterable[str]) -> str:
    """Hex SHA-256 over (origin, size in bytes) of files under `root`: changes when one is added, lost or resized."""
    digest = hashlib.sha256()
    for origin in sorted(origins):
        digest.update(f"{origin}\0{(root / origin).stat().st_size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
