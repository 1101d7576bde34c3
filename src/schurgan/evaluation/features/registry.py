"""Extractors of images by their names."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch

from schurgan.core.errors import SchurganError, did_you_mean
from schurgan.data.dataset import LabelledImages
from schurgan.evaluation.features.classifier import cached_classifier
from schurgan.evaluation.features.extractor import ClassifierExtractor, Extractor
from schurgan.evaluation.features.imported import ImportedExtractor
from schurgan.evaluation.features.inception import open_inception


def open_extractor(
    name: str,
    shards: LabelledImages | None = None,
    *,
    val_folds: Collection[int] = (),
    quick: bool = False,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Extractor:
    """Open an extractor of images.

    "classifier" is a network trained once on the run's own real images and kept in a cache: on `shards`, the whole set
    that the run chose from, without `val_folds`, which the run left out and it is tested on; `quick` a quarter as long,
    with a digest of its own. `progress` is called with the steps of training done and their number. "inception" is the
    network of published figures, where it is installed; "package.module:attribute" the user's own.

    Raises:
        SchurganError: a name that is not known, what is not installed, or an object that cannot be used.
    """
    check_extractor(name)
    if name == "classifier":
        if shards is None:
            raise ValueError('shards: needed by extractor "classifier", which is trained on them')
        return ClassifierExtractor(
            cached_classifier(shards, val_folds=val_folds, quick=quick, device=device, progress=progress)
        )
    if name == "inception":
        return open_inception(device)
    return ImportedExtractor(name, device)


def check_extractor(name: str) -> None:
    """Raise SchurganError for a name that no extractor can have, before anybody waits for what it shall judge."""
    if name not in ("classifier", "inception") and ":" not in name:
        near = did_you_mean(name, ("classifier", "inception"))
        known = "; there are classifier, inception and package.module:attribute of your own"
        raise SchurganError(f'extractor "{name}": no such extractor{near or known}')
