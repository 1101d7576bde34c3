"""The files that a run leaves for its user while it trains: the generator, images and sounds of fixed latents."""

from __future__ import annotations

import copy
import weakref
from pathlib import Path
from typing import cast

import torch

from schurgan.audio.pictures import grid, save_png
from schurgan.core.progress import Bar
from schurgan.data.codec import Codec
from schurgan.data.dataset import LabelledImages
from schurgan.model import Card, Model, build
from schurgan.networks import Generator, standing_statistics, unconstrained_state
from schurgan.runs.config import Config
from schurgan.runs.folder import RunFolder
from schurgan.training.trainer import Trainer

_COLUMNS = 6
_FIRST = 50  # the step of the first samples
_QUICK = 4  # iterations for the sounds before the regular ones: a sixth of the time


class Artifacts:
    """Writes RUN/generator.safetensors, samples/step-*.png and samples/step-*/CLASS-000.wav from a trainer."""

    def __init__(self, run: Path, config: Config, images: LabelledImages, codec: Codec) -> None:
        self.folder, self.config, self.images, self.codec = RunFolder(run), config, images, codec
        self._last: tuple[weakref.ref[Trainer], Model] | None = None
        """The model after the last step, which is saved, saved again and sampled, and the trainer that it is of."""

    def model(self, trainer: Trainer) -> Model:
        """Copy the averaged generator: its constraints folded into the weights, with batch statistics of its own."""
        if self._last is not None and self._last[0]() is trainer:
            return self._last[1]
        average = trainer.generator_ema
        shape = average.architecture if isinstance(average, Generator) else None
        card = Card(
            architecture=shape,
            width=average.width if isinstance(average, Generator) else None,
            channels=self.codec.channels,
            latent=trainer.latent.kind,
            latent_variance=trainer.latent.variance,
            classes=self.images.classes,
            transform=self.codec.config,
            references=self.images.references,
            data=str(self.config.data) if self.config.data else None,
            step=trainer.global_step,
            fingerprint=self.images.fingerprint,
        )
        # A module of the user's own has the attributes of a Generator that matter here.
        generator = build(card) if shape is not None else cast(Generator, copy.deepcopy(average))
        generator.to(trainer.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if shape is not None:
            generator.load_state_dict(unconstrained_state(average))
        noise = torch.Generator().manual_seed(self.config.train.seed)
        with Bar("generator", unit="batch") as bar:
            standing_statistics(generator, trainer.latent, generator=noise, progress=bar)
        made = Model(generator, card)
        if trainer.global_step == self.config.train.steps:
            self._last = weakref.ref(trainer), made
        return made

    def save(self, trainer: Trainer) -> None:
        """Write the generator's file."""
        self.model(trainer).save(self.folder.generator)

    def due(self, step: int) -> bool:
        """Whether samples follow a step: the 50th, each time twice as many, and then every `train.sample_every`."""
        every = self.config.train.sample_every
        doubled = step % _FIRST == 0 and (step // _FIRST).bit_count() == 1
        return bool(every) and (step % every == 0 or (doubled and step < every))

    def show(self, trainer: Trainer, attempt: int = 0) -> None:
        """Write the first sound of each class, and a grid of images, a row a class, with the same noise every time."""
        step, train = trainer.global_step, self.config.train
        model, path = self.model(trainer), self.folder.grid(step, attempt)
        path.parent.mkdir(exist_ok=True)
        refine = _QUICK if step < min(train.sample_every, train.steps) else None
        rows, seed = [], train.seed
        with Bar("samples", len(model.classes), "class") as bar:
            for number, label in enumerate(model.classes):
                rows.append(list(model.images(torch.full((_COLUMNS,), number), seed=seed)))
                model.sample(label, 1, seed=seed, refine=refine).save(path.with_suffix(""))
                bar.update(number + 1)
        scale = max(1, 64 // model.codec.size)
        save_png(grid(rows, scale, photo=model.pictures, names=model.classes), path)

    def complete(self, step: int, attempt: int = 0) -> bool:
        """Whether the files of the last step are there."""
        return self.folder.generator.exists() and self.folder.grid(step, attempt).exists()
