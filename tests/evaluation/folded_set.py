"""A small folded set of three classes, models and runs of it, and an extractor that needs no training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from schurgan.audio import Spectrogram
from schurgan.data import Shards, prepare
from schurgan.data.sources.base import Item
from schurgan.data.sources.soundscape import Soundscape
from schurgan.model import Card, Model, build
from schurgan.networks.architectures import find_architecture
from schurgan.runs.config import Config

SIZE, LENGTH, RATE = 16, 8000, 16_000
CLASSES = ("bell", "rain", "bark")
OWN = "folded_set:looks"


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
    card = Card(architecture, 4, 3, "normal", 1.0, CLASSES, transform, (0.2,) * 3, None, 0)
    return Model(build(card), card)


def varied() -> Model:
    """An untrained model whose images differ."""
    torch.manual_seed(0)  # `build` draws the weights from the global numbers
    model = untrained()
    with torch.no_grad():
        for name, weight in model.generator.named_parameters():
            if name.endswith("weight"):
                weight.mul_(2)
    return model


def make_run(
    folder: Path, data: Path, model: Model, *, exclude: tuple[int, ...] = (2,), share: float | None = 0.0
) -> Path:
    """A folder as training leaves it."""
    folder.mkdir(parents=True)
    chosen = {"val_folds": exclude, "val_fraction": share}
    options = {"data": data, "model": {"architecture": "small-16", "width": 4}, "train": chosen}
    Config.model_validate(options).save(folder / "config.yaml")
    model.save(folder / "generator.safetensors")
    return folder


def looks(images: Tensor) -> tuple[Tensor, Tensor]:
    """An extractor: means of the image's quarters and of their squares, and three classes by the first of them."""
    pooled = torch.nn.functional.adaptive_avg_pool2d(images.mean(1), 2).flatten(1)
    features = torch.cat((pooled, pooled.square()), 1)
    return features, (4 * features[:, :3]).softmax(1)
