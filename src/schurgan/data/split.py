"""What of a prepared set is trained on, and what is kept to judge by: one rule for training and evaluation."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection

import numpy as np

from schurgan.core.errors import UserError
from schurgan.data.shards import Shards


def split(shards: Shards, val_folds: Collection[int] = (), val_fraction: float = 0.0) -> tuple[Shards, Shards | None]:
    """(training, held out): by folds where some are named, else about `val_fraction` of each class's recordings.

    The second is None where neither is asked for. Which recordings are held out depends on their names alone, so that
    runs of all seeds leave out the same; altered copies go with the recording that they were made of, and the held-out
    part has none. Of a class with two recordings or more at least one is on either side.

    Raises UserError for folds that are not there, folds and a share at once, and where no class has two recordings.
    """
    if val_folds and val_fraction:
        raise UserError(
            f"--train.val-fraction: {val_fraction} given beside --train.val-folds, which says already what is held out"
        )
    if val_folds:
        return shards.select(exclude_folds=val_folds), shards.select(folds=val_folds, augmented=False)
    if not val_fraction:
        return shards, None
    recordings: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    sources = (parent or origin for parent, origin in zip(shards.parents, shards.origins, strict=True))
    for clip, (label, source) in enumerate(zip(shards.labels.tolist(), sources, strict=True)):
        recordings[label][source].append(clip)
    chosen = np.zeros(len(shards), bool)
    for of_class in recordings.values():
        drawn = sorted(of_class, key=lambda name: hashlib.sha256(name.encode()).digest())
        count = min(max(1, round(val_fraction * len(drawn))), len(drawn) - 1)
        for name in drawn[:count]:
            chosen[of_class[name]] = True
    if not chosen.any():
        raise UserError(
            f"--train.val-fraction: {val_fraction} given, and no class in {shards.folder} has two recordings;"
            " leave it out"
        )
    return shards.take(np.flatnonzero(~chosen)), shards.take(np.flatnonzero(chosen & ~shards.augmented))
