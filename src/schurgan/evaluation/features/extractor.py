"""What turns images into the numbers that scores are made of: one interface, and a name for each way.

    extractor = open_extractor("classifier", shards, val_folds=(5,))
    features, probabilities = extractor(images)

classifier                  a network trained once on the run's own real images, kept in a cache
inception                   the one of published figures, for who has installed it
package.module:attribute    the user's own
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from schurgan.core.errors import UserError, did_you_mean
from schurgan.data.shards import Shards
from schurgan.evaluation.features import cache
from schurgan.evaluation.features.classifier import ARCHITECTURE, Classifier, Trained, train_classifier

NAMES = ("classifier", "inception")
FULL = {"epochs": 40, "least_steps": 400, "most_steps": 4000}
QUICK = {"epochs": 10, "least_steps": 100, "most_steps": 400}
_CHUNK = 256


class Extracted(NamedTuple):
    """What an extractor makes of N images, in float64 on the CPU."""

    features: Tensor
    """(N, d)"""
    probabilities: Tensor | None
    """(N, K), rows that sum to 1; None where the extractor knows no classes."""


class Extractor(Protocol):
    """Images (N, C, H, W) in [−1, 1] -> Extracted, a chunk at a time and without gradients."""

    @property
    def name(self) -> str:
        """As `open_extractor` takes it."""

    @property
    def digest(self) -> str:
        """Hex SHA-256 of weights, architecture and resize: numbers are comparable only where it is equal."""

    @property
    def resize(self) -> str:
        """What is done to images before: "none", or such as "299x299 bilinear"."""

    def __call__(self, images: Tensor) -> Extracted: ...


class ClassifierExtractor:
    """The 64 features that a trained classifier decides by, and its softmax, uncalibrated.

    An inception score of those depends on how sure the classifier is of itself, so on how it was trained: it compares
    generators under one digest, and never with a published figure.
    """

    name, resize = "classifier", "none"

    def __init__(self, trained: Trained) -> None:
        self.trained = trained
        network = trained.network
        self.digest = cache.state_digest(network.state_dict(), ARCHITECTURE, network.size, network.channels)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Extracted:
        network = self.trained.network.eval()
        weight = network.head.weight
        features, probabilities = [], []
        for part in torch.split(images, _CHUNK):
            found = network.features(part.to(weight))
            features.append(found.double().cpu())
            probabilities.append(network.head(found).double().softmax(1).cpu())
        return checked(self.name, len(images), torch.cat(features), torch.cat(probabilities))


def open_extractor(
    name: str,
    shards: Shards | None = None,
    *,
    val_folds: Collection[int] = (),
    quick: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Extractor:
    """The extractor of this name, ready for images.

    shards         the whole set that the run chose from, which "classifier" is trained on
    val_folds  folds that the run left out: "classifier" is tested on them, and never trained
    quick          "classifier" trained a quarter as long, with a digest of its own: for scores while a run trains
    progress       is called with the steps of training done and their number, if there is anything to train

    Raises UserError for a name that is not known, what is not installed, or an object that cannot be used.
    """
    if name == "classifier":
        if shards is None:
            raise ValueError('shards: needed by extractor "classifier", which is trained on them')
        return ClassifierExtractor(
            cached_classifier(shards, val_folds=val_folds, quick=quick, seed=seed, device=device, progress=progress)
        )
    if name == "inception":
        from schurgan.evaluation.features.inception import open_inception

        return open_inception(device)
    if ":" in name:
        from schurgan.evaluation.features.imported import ImportedExtractor

        return ImportedExtractor(name, device)
    near = did_you_mean(name, NAMES) or f"; there are {', '.join(NAMES)} and package.module:attribute of your own"
    raise UserError(f'extractor "{name}": no such extractor{near}')


def cached_classifier(
    shards: Shards,
    *,
    val_folds: Collection[int] = (),
    quick: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """`train_classifier`, or the one that was trained on the same data in the same way before, from the cache."""
    amount = QUICK if quick else FULL
    key = {
        "architecture": ARCHITECTURE,
        "data": shards.fingerprint,
        "classes": len(shards.classes),
        "shape": [shards.manifest.planes, shards.shape[-1]],
        "val_folds": sorted({int(fold) for fold in val_folds}),
        "seed": seed,
        **amount,
    }
    with torch.random.fork_rng(devices=[]):
        network = Classifier(len(shards.classes), shards.shape[-1], shards.manifest.planes)
    if known := cache.load("classifier", key, network):
        return Trained(network.to(device).eval(), **(known | {"per_class": tuple(known["per_class"])}))
    trained = train_classifier(shards, val_folds=val_folds, seed=seed, device=device, progress=progress, **amount)
    about = {name: getattr(trained, name) for name in ("accuracy", "per_class", "n_train", "n_test")}
    cache.save("classifier", key, trained.network, about)
    return trained


def checked(name: str, count: int, features: Tensor, probabilities: Tensor | None) -> Extracted:
    """Extracted, if that is what they are. Raises ValueError for features that are not (count, d) and finite."""
    if features.ndim != 2 or len(features) != count or not features.shape[1]:
        raise ValueError(
            f'extractor "{name}": features {tuple(features.shape)} from an input of {count}; (N, d) are needed'
        )
    if not features.isfinite().all():
        raise ValueError(f'extractor "{name}": some features are not finite; is what was given finite?')
    return Extracted(features, probabilities)
