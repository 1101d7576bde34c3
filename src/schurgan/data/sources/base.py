"""What a data set looks like to `prepare`: named classes, items in a fixed order, and a way to load one item."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".wavex", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3"),
    *(".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".voc", ".nist", ".sph"),
)
"""Lower-case file suffixes that the sound library reads."""

Skipped = tuple[str, str]
"""(origin, reason): something seen while listing a source that is not used."""


@dataclass(frozen=True)
class Item:
    """One recording of a source.

    origin: where it comes from, a path relative to the source's root with '/' separators, or an id such as
    "bell/00012"; unique within its source. label: its class. fold: its cross-validation fold, when the set has folds.
    """

    origin: str
    label: str
    fold: int | None = None


class Source(Protocol):
    """A data set. Implementations are frozen, picklable dataclasses: worker processes load items in parallel."""

    @property
    def name(self) -> str:
        """The registry's name of the source."""

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What was seen while listing and is not used, with the reason."""

    def classes(self) -> tuple[str, ...]:
        """Class names; a class's position is its number."""

    def items(self) -> list[Item]:
        """Every item, always in the same order."""

    def load(self, item: Item, sample_rate: int) -> Tensor:
        """The item as mono samples (L,) float32 at `sample_rate`. Raises AudioError if it cannot be used."""

    def describe(self) -> dict[str, object]:
        """JSON values that determine the data, the same on every machine: goes into manifests and plan hashes."""


def fingerprint(root: Path, origins: Iterable[str]) -> str:
    """Hex SHA-256 over (origin, size in bytes) of files under `root`: changes when one is added, lost or resized."""
    digest = hashlib.sha256()
    for origin in sorted(origins):
        digest.update(f"{origin}\0{(root / origin).stat().st_size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
