"""What can be trained on: labelled images by their index, of prepared shards or of any dataset of torch."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from schurgan.core.errors import SchurganError, did_you_mean
from schurgan.data.codec import Codec, ImageCodec

_NAMED = 3  # classes in a sentence; of more, how many
Indices = Sequence[int] | NDArray[np.integer[Any]]


class LabelledImages(ABC):
    """What a model is trained on and judged by: images of numbered classes, by their index.

    `Shards` is one, so is `DatasetImages`; a class of one's own fills in what is abstract, and the attributes.

    Attributes:
        classes: names of the classes; a class's position is its number.
        labels: class number of each image (N,).
        folder: where the images are from, for messages.
        shape: (C, R, R) of one image.
        planes: how many of the C channels differ: 1 when all are equal.
        references: median level of each class's images, at which a generated one becomes sound.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    folder: Path
    shape: tuple[int, int, int]
    planes: int
    references: tuple[float, ...]
    _clips: NDArray[np.int64]  # this selection's images, as numbers in the whole set
    _folds: Sequence[int | None] = ()  # of the whole set, as are origins and parents; empty where there are none
    _val_folds: Sequence[int] = ()
    _origins: Sequence[str] = ()
    _parents: Sequence[str | None] = ()
    _recordings: Sequence[str | None] = ()

    def __len__(self) -> int:
        return len(self._clips)

    @property
    @abstractmethod
    def codec(self) -> Codec:
        """What made the images."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hex SHA-256 that identifies these images and labels: a run goes on with the same ones alone."""

    @property
    def counts(self) -> dict[str, int]:
        """Images of each class."""
        return dict(zip(self.classes, np.bincount(self.labels, minlength=len(self.classes)).tolist(), strict=True))

    def unlike(
        self,
        counts: Mapping[str, int | None] | None,
        made: Mapping[str, Any] | None,
        folder: str | Path | None = None,
        fingerprint: str | None = None,
    ) -> str:
        """What these images are that others were not, in words.

        Args:
            counts: images of each class of the others, None for a number that nobody knows.
            made: `codec.config` of what made them.
            folder: where they were, and may be still.
            fingerprint: theirs.
        """
        here, counts = self.counts, self.counts if counts is None else counts
        said = [
            f"{what} {_named(sorted(names))}"
            for what, names in (("no", counts.keys() - here.keys()), ("the new", here.keys() - counts.keys()))
            if names
        ]
        if not said and list(counts) != list(here):
            said.append("the classes in another order")
        other = [name for name, count in counts.items() if name in here and count not in (None, here[name])]
        said += [f"{here[name]} clips of {name}, not {counts[name]}" for name in other[:_NAMED]]
        said += [f"other numbers of clips in {len(other) - _NAMED} more classes"] * (len(other) > _NAMED)
        ours, theirs = _in_words(self.codec.config), _in_words(self.codec.config if made is None else made)
        said += [f"{text}, not {theirs[name]}" for name, text in ours.items() if theirs.get(name, text) != text]
        said += self._other_clips(folder, fingerprint) if ours == theirs else ()
        return "; ".join(said) or "as many clips of the same classes, but other ones"

    def _other_clips(self, folder: str | Path | None, fingerprint: str | None) -> Iterable[str]:
        """How many clips differ from those in `folder`, if these are there still and can be told apart."""
        return ()

    @property
    def folds(self) -> tuple[int | None, ...]:
        """The cross-validation fold of each image, None where there is none."""
        return tuple(self._folds[clip] if self._folds else None for clip in self._clips)

    @property
    def val_folds(self) -> tuple[int, ...]:
        """The folds here that the data set itself holds out, its validation and test parts."""
        return tuple(sorted({fold for fold in self.folds if fold is not None and fold in self._val_folds}))

    @property
    def origins(self) -> tuple[str, ...]:
        """Where each image came from."""
        return tuple(self._origins[clip] if self._origins else str(clip) for clip in self._clips)

    @property
    def parents(self) -> tuple[str | None, ...]:
        """The origin of the recording that each is an altered copy of, None for recordings themselves."""
        return tuple(self._parents[clip] if self._parents else None for clip in self._clips)

    @property
    def recordings(self) -> tuple[str, ...]:
        """The recording that each is, or was cut or altered from: none should be trained on and held out."""
        known = (self._recordings[clip] if self._recordings else None for clip in self._clips)
        return tuple(a or b or c for a, b, c in zip(known, self.parents, self.origins, strict=True))

    @property
    def augmented(self) -> NDArray[np.bool_]:
        """Which are altered copies of others, (N,): evaluation leaves them out, `select(augmented=False)`."""
        return np.fromiter((parent is not None for parent in self.parents), bool, len(self))

    @abstractmethod
    def images(self, indices: Indices) -> Tensor:
        """Images `indices` (B,), in that order  ->  (B, C, R, R) float32 in [-1, 1]."""

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in order: (images, labels) of `batch_size`, at the end what is left."""
        for start in range(0, len(self), batch_size):
            indices = np.arange(start, min(start + batch_size, len(self)))
            yield self.images(indices), torch.from_numpy(self.labels[indices])

    def select(
        self,
        classes: Sequence[str] | None = None,
        folds: Collection[int] | None = None,
        exclude_folds: Collection[int] | None = None,
        augmented: bool | None = None,
    ) -> Self:
        """A view of some classes and of some folds. Nothing is copied.

        Args:
            classes: their names; they are numbered anew in this order.
            folds: the folds to take.
            exclude_folds: the folds to leave out.
            augmented: False leaves altered copies of recordings out, True leaves nothing but them.

        Raises:
            SchurganError: a class or fold is not there, or nothing is left.
        """
        view = self if classes is None else self._of_classes(classes)
        keep = np.ones(len(view), dtype=bool)
        known = sorted({fold for fold in self.folds if fold is not None})
        for wanted, include in ((folds, True), (exclude_folds, False)):
            for fold in wanted or ():
                if fold not in known:
                    listed = f"there are {', '.join(map(str, known))}" if known else "these clips have no folds"
                    raise SchurganError(f"fold {fold}: not in {self.folder}; {listed}")
            if wanted is not None:
                keep &= np.fromiter(((fold in wanted) == include for fold in view.folds), bool, len(view))
        if augmented is not None:
            keep &= view.augmented == augmented
        if not keep.any():
            raise SchurganError(
                f"{self.folder}: no clip is left by this choice of classes and folds; choose more of them"
            )
        return view.take(np.flatnonzero(keep))

    def _of_classes(self, classes: Sequence[str]) -> Self:
        if len(set(classes)) < len(classes):
            raise SchurganError(f"classes {', '.join(classes)}: each can be chosen once")
        for name in classes:
            if name not in self.classes:
                near = did_you_mean(name, self.classes) or f"; there are {', '.join(self.classes)}"
                raise SchurganError(f'class "{name}": not in {self.folder}{near}')
        chosen = [self.classes.index(name) for name in classes]
        view = self.take(np.flatnonzero(np.isin(self.labels, chosen)))
        new = np.full(len(self.classes), -1)
        new[chosen] = np.arange(len(chosen))
        view.classes, view.labels = tuple(classes), new[view.labels]
        view.references = tuple(self.references[label] for label in chosen)
        return view

    def take(self, indices: NDArray[np.integer[Any]]) -> Self:
        """A view of the images `indices` (N,), in that order. Nothing is copied."""
        view = copy.copy(self)
        view._clips, view.labels = self._clips[indices], self.labels[indices]
        return view


def _in_words(config: Mapping[str, Any]) -> dict[str, str]:
    """What a user chose of a codec's configuration."""
    known = {"size": f"images of {config['size']}x{config['size']}", "transform": f"transform {config['transform']}"}
    known |= {name: f"{name} {config[name]}" for name in ("scale", "frame", "channels") if config.get(name) is not None}
    if "sample_rate" in config:
        known["sample_rate"] = f"{config['sample_rate']} Hz"
        known["n_samples"] = f"clips of {config['n_samples'] / config['sample_rate']:g} s"
    return known


def _named(classes: Sequence[str]) -> str:
    more = len(classes) - _NAMED
    return f"class{'es' * (len(classes) > 1)} {', '.join(classes[:_NAMED])}" + (f" and {more} more" if more > 0 else "")


class Pairs(Protocol):
    """A map-style dataset of torch: (image, label) by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, Any]: ...


class DatasetImages(LabelledImages):
    """Any map-style torch dataset of (image, label) pairs as what can be trained on.

    Each pair is read once here, for the labels and the fingerprint, and again whenever it is shown. An index has to
    give the same pair every time: random changes are the trainer's (DiffAugment).

    Args:
        dataset: its images are tensors (C, H, W), of uint8 and any size, which are cropped to the square in their
            middle and resized; or of floats in [-1, 1], all of one size (C, R, R). Its labels are whole numbers.
        classes: names of the classes, by default `dataset.classes`, or the numbers.
        size: rows and columns of uint8 images, by default those of the first.

    Raises:
        ValueError: an image has another shape or leaves [-1, 1], or a label has no class.
    """

    def __init__(self, dataset: Pairs, classes: Sequence[str] | None = None, size: int | None = None) -> None:
        if not len(dataset):
            raise ValueError("dataset: it is empty")
        self.dataset, self.folder = dataset, Path(type(dataset).__name__)
        first = dataset[0][0]
        if not isinstance(first, Tensor) or first.ndim != 3 or first.shape[0] not in (1, 3):
            kind = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
            raise ValueError(f"dataset: an image of {kind} given, a tensor (C, H, W) of 1 or 3 channels is needed")
        self._codec = codec = ImageCodec(size or min(first.shape[1:]), first.shape[0])
        self.shape, self.planes = (codec.channels, codec.size, codec.size), codec.channels
        self._clips = np.arange(len(dataset))
        labels, digest = [], hashlib.sha256()
        for index in range(len(dataset)):
            labels.append(int(dataset[index][1]))
            digest.update(self._image(index).numpy().tobytes())
        self.labels = np.asarray(labels, dtype=np.int64)
        names = classes if classes is not None else getattr(dataset, "classes", None)
        self.classes = tuple(map(str, range(max(labels) + 1) if names is None else names))
        if min(labels) < 0 or max(labels) >= len(self.classes):
            raise ValueError(f"classes: {len(self.classes)} given, labels reach from {min(labels)} to {max(labels)}")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes: {', '.join(self.classes)} given, each name is needed once")
        self.references = (1.0,) * len(self.classes)
        self._digest = digest.hexdigest()

    @property
    def codec(self) -> Codec:
        """An ImageCodec of the images' size and channels."""
        return self._codec

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of all images, and of the labels and numbers of those selected."""
        digest = hashlib.sha256(self._digest.encode() + repr(self.classes).encode())
        digest.update(self._clips.astype("<i8").tobytes() + self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def images(self, indices: Indices) -> Tensor:
        """Images `indices` (B,), in that order  ->  (B, C, R, R) float32 in [-1, 1]."""
        return torch.stack([self._image(int(self._clips[index])) for index in indices])

    def _image(self, index: int) -> Tensor:
        image = self.dataset[index][0]
        if image.dtype == torch.uint8:
            return self._codec.encode(image[None])[0][0]
        if image.shape != self.shape or not bool((image.abs() <= 1).all()):
            limits = f"{tuple(image.shape)} from {image.min():g} to {image.max():g}"
            raise ValueError(f"dataset: image {index} is {limits}, {self.shape} in [-1, 1] is needed")
        return torch.as_tensor(image, dtype=torch.float32)
