"""Eight classes of sounds that the program makes itself: a data set for a first try, for tests, and for studies."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import soxr
import torch
from torch import Tensor

from schurgan.core.errors import SchurganError
from schurgan.data.sources.base import Item, Skipped
from schurgan.data.sources.recipes import RATE, RECIPES, finish

VERSION = 1  # of the recipes: one more whenever a clip comes out differently


@dataclass(frozen=True)
class Soundscape:
    """`per_class` clips of `seconds` for each of eight classes, every clip from (seed, class, number) alone."""

    per_class: int = 150
    seconds: float = 2.0
    seed: int = 0
    skipped: tuple[Skipped, ...] = ()
    name: str = "soundscape"
    kind: str = "audio"

    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of their numbers."""
        return tuple(RECIPES)

    def items(self) -> list[Item]:
        """Every item, in the order of the listing."""
        return [Item(f"{label}/{number:05d}", label) for label in RECIPES for number in range(self.per_class)]

    def load(self, item: Item, sample_rate: int) -> Tensor:
        """Made at 16 kHz whatever `sample_rate` is, so that it is the same sound at every rate."""
        number = int(item.origin.rpartition("/")[2])
        generator = np.random.default_rng([self.seed, zlib.crc32(item.label.encode()), number])
        n_samples = round(self.seconds * RATE)
        clip = finish(RECIPES[item.label](generator, n_samples), generator)
        if sample_rate != RATE:
            clip = soxr.resample(clip, RATE, sample_rate, quality="HQ")
        return torch.from_numpy(clip.astype(np.float32))

    def describe(self) -> dict[str, object]:
        """What determines the data: goes into manifests and plan hashes."""
        options = {"per_class": self.per_class, "seconds": self.seconds, "seed": self.seed}
        return {"source": self.name, "version": VERSION, "classes": list(self.classes()), **options}


def open_soundscape(per_class: int = 150, seconds: float = 2.0, seed: int = 0) -> Soundscape:
    """The generated set: `per_class` clips of `seconds` (0.5 to 60) in each class. SchurganError for other values."""
    if not (isinstance(per_class, int) and 1 <= per_class <= 100_000):
        raise SchurganError(f"per_class {per_class}: a whole number of clips from 1 to 100000 is needed")
    if not (isinstance(seconds, int | float) and 0.5 <= seconds <= 60):
        raise SchurganError(f"seconds {seconds}: a length from 0.5 to 60 s is needed")
    if not (isinstance(seed, int) and seed >= 0):
        raise SchurganError(f"seed {seed}: a whole number of 0 or more is needed")
    return Soundscape(per_class, float(seconds), seed)
