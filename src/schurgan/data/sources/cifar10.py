"""CIFAR-10 (Krizhevsky 2009): 60,000 images of 32 by 32 in 10 classes, in its layouts for Python and for binary."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from schurgan.core.errors import UserError
from schurgan.data.sources.base import Item, Skipped
from schurgan.data.sources.pickles import PickleError, load_pickle

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDS = {**{f"data_batch_{number}": number for number in range(1, 6)}, "test_batch": 6}
SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
MAX_BYTES = 2**28  # of a batch; the official ones have 31 MB


@dataclass(frozen=True)
class CIFAR10:
    """The images of the batches, in their order; `labels` are the bytes of each batch's class numbers.

    per_class: of each batch the first so many of every class, all where None.
    """

    root: Path
    suffix: str
    labels: tuple[tuple[str, bytes], ...]
    digest: str
    skipped: tuple[Skipped, ...]
    per_class: int | None = None
    name: str = "cifar10"
    kind: str = "images"

    def classes(self) -> tuple[str, ...]:
        return CLASSES

    def items(self) -> list[Item]:
        listing = []
        for batch, labels in self.labels:
            seen = Counter[int]()
            for number, label in enumerate(labels):
                seen[label] += 1
                if self.per_class is None or seen[label] <= self.per_class:
                    listing.append(Item(f"{batch}/{number:05d}", CLASSES[label], FOLDS[batch]))
        return listing

    def load_image(self, item: Item) -> Tensor:
        """Pixels (3, 32, 32) uint8, as they are in the batch."""
        batch, _, number = item.origin.partition("/")
        try:
            images, _ = _read(self.root / f"{batch}{self.suffix}")
            return torch.from_numpy(images[int(number)].reshape(SHAPE).copy())
        except (PickleError, IndexError) as error:
            raise UserError(f"{self.root / batch}{self.suffix}: changed since it was listed ({error})") from None

    def describe(self) -> dict[str, object]:
        drawn = {} if self.per_class is None else {"per_class": self.per_class}
        return {"source": self.name, "items": len(self.items()), "images": self.digest, **drawn}


def open_cifar10(root: Path, per_class: int | None = None) -> CIFAR10:
    """CIFAR-10 at `root`: cifar-10-batches-py or cifar-10-batches-bin, or the folder it was unpacked in.

    per_class: of each batch the first so many images of every class, for trials; all by default.

    Folds 1 to 5 are the training batches, fold 6 is the test batch. The pickles of the Python layout are read as data:
    nothing in them is called (`pickles.py`). Both layouts give the same images, items and description. Batches that are
    missing or damaged are skipped with the reason. Raises UserError when none can be read, and for a per_class under 1.
    """
    if per_class is not None and not (isinstance(per_class, int) and per_class >= 1):
        raise UserError(f"per_class {per_class}: a whole number of images of 1 or more is needed")
    places = (root, root / "cifar-10-batches-py", root / "cifar-10-batches-bin")
    found = [
        (place, end) for place in places for end in ("", ".bin") if any((place / f"{b}{end}").is_file() for b in FOLDS)
    ]
    if not found:
        raise UserError(
            f"{root}: no data_batch_1 or data_batch_1.bin in it; the folder that CIFAR-10 unpacks to is needed"
        )
    home, suffix = found[0]
    digest, labels, skipped = hashlib.sha256(), [], []
    for batch in FOLDS:
        try:
            images, classes = _read(home / f"{batch}{suffix}")
        except PickleError as error:
            skipped.append((f"{batch}{suffix}", str(error)))
            continue
        labels.append((batch, classes.tobytes()))
        digest.update(batch.encode() + classes.tobytes())
        digest.update(images.tobytes())
    if not labels:
        raise UserError(f"{home}: no batch can be read; the first, {skipped[0][0]}: {skipped[0][1]}")
    return CIFAR10(home, suffix, tuple(labels), digest.hexdigest(), tuple(skipped), per_class)


@lru_cache(maxsize=2)  # items are loaded in order: workers at the seam of two batches need both
def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A batch as images (N, 3072) and class numbers (N,), both uint8. PickleError if it is not one."""
    try:
        if not path.is_file():
            raise PickleError("not a regular file" if path.exists() else "no such file")
        if path.stat().st_size > MAX_BYTES:
            raise PickleError(f"{path.stat().st_size} bytes, more than {MAX_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise PickleError(f"cannot be read ({error.strerror or error})") from None
    if path.suffix == ".bin":
        if not data or len(data) % (1 + PIXELS):
            raise PickleError(f"{len(data)} bytes; a multiple of {1 + PIXELS} is needed")
        rows = np.frombuffer(data, np.uint8).reshape(-1, 1 + PIXELS)
        images, labels = rows[:, 1:], rows[:, 0].tolist()
    else:
        images, labels = _unpacked(load_pickle(data))
    if not all(type(label) is int and 0 <= label < len(CLASSES) for label in labels):
        raise PickleError(f"a class number that is none of 0 to {len(CLASSES) - 1}")
    return images, np.array(labels, np.uint8)


def _unpacked(batch: object) -> tuple[np.ndarray, list[int]]:
    """The images and class numbers of a batch's dict; its keys are bytes or str, as Python 2 or 3 wrote them."""
    named = (
        {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
        if isinstance(batch, dict)
        else {}
    )
    images, labels = named.get("data"), named.get("labels")
    if isinstance(labels, np.ndarray) and labels.ndim == 1:
        labels = labels.tolist()
    if not isinstance(images, np.ndarray) or not isinstance(labels, list) or not labels:
        raise PickleError("a batch without its data and labels")
    if images.shape != (len(labels), PIXELS) or images.dtype != np.uint8:
        raise PickleError(f"data {images.shape} {images.dtype} for {len(labels)} labels; (N, {PIXELS}) uint8 is needed")
    return images, labels
