"""Extractors of images and embeddings of sound by their names.

features, probabilities = open_extractor("classifier", shards, val_folds=(5,))(images)
features, _ = open_embedding("audio", sample_rate=16000)(sounds)
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch

from schurgan.audio import Spectrogram
from schurgan.core.errors import UserError, did_you_mean
from schurgan.data.dataset import LabelledImages
from schurgan.evaluation.features.classifier import cached_classifier
from schurgan.evaluation.features.embedding import ImportedEmbedding, ReanalysedEmbedding, TextureEmbedding
from schurgan.evaluation.features.extractor import ClassifierExtractor, Extractor
from schurgan.evaluation.features.imported import ImportedExtractor
from schurgan.evaluation.features.inception import open_inception


def open_extractor(
    name: str,
    shards: LabelledImages | None = None,
    *,
    val_folds: Collection[int] = (),
    quick: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Extractor:
    """Open an extractor of images.

    Args:
        name: "classifier", a network trained once on the run's own real images and kept in a cache; "inception", the
            one of published figures, where it is installed; "package.module:attribute", the user's own.
        shards: the whole set that the run chose from, which "classifier" is trained on.
        val_folds: folds that the run left out: "classifier" is tested on them, and never trained.
        quick: train "classifier" a quarter as long, with a digest of its own: for scores while a run trains.
        seed: of the training.
        device: where the network runs.
        progress: called with the steps of training done and their number, if there is anything to train.

    Raises:
        UserError: a name that is not known, what is not installed, or an object that cannot be used.
    """
    if name == "classifier":
        if shards is None:
            raise ValueError('shards: needed by extractor "classifier", which is trained on them')
        return ClassifierExtractor(
            cached_classifier(shards, val_folds=val_folds, quick=quick, seed=seed, device=device, progress=progress)
        )
    if name == "inception":
        return open_inception(device)
    if ":" in name:
        return ImportedExtractor(name, device)
    raise _unknown("extractor", name, ("classifier", "inception"))


def open_embedding(
    name: str,
    sample_rate: int,
    *,
    spectrogram: Spectrogram | None = None,
    extractor: Extractor | None = None,
    device: str | torch.device = "cpu",
) -> Extractor:
    """Open an extractor of sounds (N, L), for Fréchet audio distances (Kilgour et al. 2019).

    Args:
        name: "audio", statistics of levels in mel bands; "classifier", sound analysed again, by what the run's
            classifier decides by; "package.module:attribute", the user's own, such as VGGish, PANN or CLAP.
        sample_rate: of the sounds, in Hz.
        spectrogram: what made the extractor's images, for "classifier".
        extractor: of those images, for "classifier".
        device: where the user's own runs.

    Raises:
        UserError: a name that is not known, or an object that cannot be used.
    """
    if name == "audio":
        return TextureEmbedding(sample_rate)
    if name == "classifier":
        if spectrogram is None or extractor is None:
            raise ValueError('spectrogram, extractor: both are needed by embedding "classifier"')
        return ReanalysedEmbedding(spectrogram, extractor)
    if ":" in name:
        return ImportedEmbedding(name, sample_rate, device)
    raise _unknown("embedding", name, ("audio", "classifier"))


def _unknown(what: str, name: str, known: Collection[str]) -> UserError:
    near = did_you_mean(name, known) or f"; there are {', '.join(known)} and package.module:attribute of your own"
    return UserError(f'{what} "{name}": no such {what}{near}')
