"""How long scores will take here: a little of each kind of work is done first, and timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from schurgan.core.distributed import World
from schurgan.data.shards import Shards
from schurgan.evaluation.features.classifier import Classifier, fit_classifier, steps_to_train
from schurgan.evaluation.score_sounds import count_sounds
from schurgan.evaluation.target import MOST_REAL, QUICK_REAL, Subject
from schurgan.evaluation.usefulness import ARMS, FULL, QUICK
from schurgan.model import Model
from schurgan.normality import departure_from_normality

_IMAGES, _SOUNDS, _STEPS = 8, 2, 2


@dataclass(frozen=True)
class Pace:
    """Seconds that one takes on this machine."""

    step: float
    """Of a classifier's training."""
    features: float
    """Of an image, its departure from normality among them."""
    image: float
    """That is generated."""
    sound: float
    """That is decoded with as many iterations as scores take; 0 for pictures."""

    @classmethod
    def measure(cls, model: Model, shards: Shards, device: torch.device | str = "cpu") -> Self:
        """Time a second or two of work.

        Args:
            model: what generates.
            shards: its data.
            device: where classifiers are trained.
        """
        images = shards.images(np.arange(min(_IMAGES, len(shards))))[:, : shards.planes]
        classes = len(model.classes)
        labels = torch.arange(_IMAGES) % classes

        def train() -> Classifier:
            return fit_classifier(
                images.__getitem__,
                labels,
                torch.arange(len(images)),
                classes=classes,
                size=images.shape[-1],
                channels=images.shape[1],
                steps=_STEPS,
                photo=model.pictures,
                seed=0,
                device=device,
            )

        def look() -> object:
            departure_from_normality((images.double() + 1) / 2, "exact", channels="mean")
            return network.predict(images)

        network, made = train(), model.images(labels)
        return cls(
            step=_timed(train) / _STEPS,
            features=_timed(look) / len(images),
            image=_timed(lambda: model.images(labels)) / len(labels),
            sound=0.0 if model.pictures else _timed(lambda: model.decode(made[:_SOUNDS], labels[:_SOUNDS])) / _SOUNDS,
        )


def _timed(work: Callable[[], object]) -> float:
    work()  # the first time is longer
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def expect(
    subject: Subject,
    runs: Sequence[str],
    images: int,
    world: World,
    *,
    classifier: bool,
    quick: bool = False,
    sounds: bool = False,
    usefulness: bool = False,
) -> dict[str, float]:
    """Seconds of each part of taking scores, by the names of its bars.

    Args:
        subject: what is scored.
        runs: names of the runs of generated images.
        images: of each.
        world: the processes that share the work.
        classifier: whether one judges images.
        quick: see `evaluate`.
        sounds: whether those are scored too.
        usefulness: whether classifiers are trained for it.
    """
    training, held_out = subject.training, subject.held_out
    pace = Pace.measure(subject.model, training, world.device)
    parts = dict[str, float]()
    if classifier:
        steps = steps_to_train(subject.for_classifier, val_folds=subject.val_folds, quick=quick)
        parts["classifier"] = steps * pace.step
    most = QUICK_REAL if quick else MOST_REAL
    parts["training images"] = min(len(training), most) * pace.features / world.size
    if held_out is not None:
        parts["held-out images"] = min(len(held_out), most) * pace.features / world.size
    parts |= dict.fromkeys(runs, images * (pace.image + pace.features) / world.size)
    if sounds:
        seconds = count_sounds(len(subject.model.classes)) * pace.sound / world.size
        parts |= {"generated sounds": seconds, "rebuilt recordings": seconds}
        parts["scores of sounds"] = 0.3 * seconds  # measured on ESC-10
    if usefulness:
        amount = QUICK if quick else FULL
        parts["usefulness"] = ARMS * amount["seeds"] * amount["steps"] * pace.step
    return parts
