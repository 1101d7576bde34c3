"""A small folded set of three classes and an untrained model of it: what tests of scores of whole models share."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from schurgan.audio import Spectrogram
from schurgan.data import Shards, prepare
from schurgan.data.sources.base import Item
from schurgan.data.sources.soundscape import Soundscape
from schurgan.model import Card, Model, build
from schurgan.networks.architectures import find_architecture

SIZE, LENGTH, RATE = 16, 8000, 16_000
CLASSES = ("bell", "rain", "bark")


@dataclass(frozen=True)
class Folded(Soundscape):
    """Three classes of generated sounds in two folds."""

    def classes(self) -> tuple[str, ...]:
        return CLASSES

    def items(self) -> list[Item]:
        items = [item for item in super().items() if item.label in CLASSES]
        return [replace(item, fold=1 + number % 2) for number, item in enumerate(items)]


def spectrogram(**options) -> Spectrogram:
    return Spectrogram(**({"size": SIZE, "channels": 1, "sample_rate": RATE, "n_samples": LENGTH} | options))


def prepared(out: Path) -> Shards:
    """Twelve clips of half a second in each of two folds."""
    prepare(Folded(per_class=8, seconds=0.5), out, spectrogram(), workers=1)
    return Shards(out)


def untrained() -> Model:
    """Of the same classes and sounds, in three channels: a run chooses its own."""
    architecture = find_architecture("small-16")
    transform = spectrogram(channels=3).config
    card = Card(asdict(architecture), 4, 3, "normal", 1.0, CLASSES, transform, (0.2,) * 3, None, 0)
    return Model(build(card), card)
