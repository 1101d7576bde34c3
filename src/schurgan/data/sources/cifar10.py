"""CIFAR-10 (Krizhevsky 2009): 60,000 images of 32 by 32 in 10 classes, in its layouts for Python and for binary."""

from __future__ import annotations

import hashlib
import io
import math
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from schurgan.core.documents import check_pickle, read_bytes
from schurgan.core.errors import SchurganError
from schurgan.data.sources.base import Item, Skipped

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDS = {**{f"data_batch_{number}": number for number in range(1, 6)}, "test_batch": 6}
SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
MAX_BYTES = 2**28  # of a batch; the official ones have 31 MB


@dataclass(frozen=True)
class CIFAR10:
    """The images of the batches, in their order; `labels` are the bytes of each batch's class numbers."""

    root: Path
    suffix: str
    labels: tuple[tuple[str, bytes], ...]
    digest: str
    skipped: tuple[Skipped, ...]
    per_class: int | None = None
    name: str = "cifar10"
    kind: str = "images"
    val_folds: tuple[int, ...] = (FOLDS["test_batch"],)

    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of their numbers."""
        return CLASSES

    def items(self) -> list[Item]:
        """Every item, in the order of the listing."""
        listing = []
        for batch, labels in self.labels:
            counts = Counter[int]()
            for number, label in enumerate(labels):
                counts[label] += 1
                if self.per_class is None or counts[label] <= self.per_class:
                    listing.append(Item(f"{batch}/{number:05d}", CLASSES[label], FOLDS[batch]))
        return listing

    def load_image(self, item: Item) -> Tensor:
        """Pixels (3, 32, 32) uint8, as they are in the batch."""
        batch, _, number = item.origin.partition("/")
        try:
            images, _ = _read(self.root / f"{batch}{self.suffix}")
            return torch.from_numpy(images[int(number)].reshape(SHAPE).copy())
        except (_Unreadable, IndexError) as error:
            raise SchurganError(f"{self.root / batch}{self.suffix}: changed since it was listed ({error})") from None

    def describe(self) -> dict[str, object]:
        """What determines the data: goes into manifests and plan hashes."""
        drawn = {} if self.per_class is None else {"per_class": self.per_class}
        return {"source": self.name, "items": len(self.items()), "images": self.digest, **drawn}


def open_cifar10(root: Path, per_class: int | None = None) -> CIFAR10:
    """CIFAR-10 at `root`: cifar-10-batches-py or cifar-10-batches-bin, or the folder it was unpacked in.

    Folds 1 to 5 are the training batches, fold 6 is the test batch, which is held out. The pickles of the Python layout
    are read as data: nothing in them is called. Batches that are missing or damaged are skipped with the reason.

    Args:
        root: the folder.
        per_class: of each batch the first so many images of every class, for trials; all by default.

    Raises:
        SchurganError: no batch can be read, or per_class is under 1.
    """
    if per_class is not None and not (isinstance(per_class, int) and per_class >= 1):
        raise SchurganError(f"per_class {per_class}: a whole number of images of 1 or more is needed")
    places = (root, root / "cifar-10-batches-py", root / "cifar-10-batches-bin")
    layouts = ((place, end) for place in places for end in ("", ".bin"))
    home, suffix = next((at for at in layouts if any((at[0] / f"{b}{at[1]}").is_file() for b in FOLDS)), (None, ""))
    if home is None:
        reason = "no data_batch_1 or data_batch_1.bin in it; the folder that CIFAR-10 unpacks to is needed"
        raise SchurganError(f"{root}: {reason}")
    digest, labels, skipped = hashlib.sha256(), [], []
    for batch in FOLDS:
        try:
            images, classes = _read(home / f"{batch}{suffix}")
        except _Unreadable as error:
            skipped.append((f"{batch}{suffix}", str(error)))
            continue
        labels.append((batch, classes.tobytes()))
        digest.update(batch.encode() + classes.tobytes())
        digest.update(images.tobytes())
    if not labels:
        raise SchurganError(f"{home}: no batch can be read; the first, {skipped[0][0]}: {skipped[0][1]}")
    return CIFAR10(home, suffix, tuple(labels), digest.hexdigest(), tuple(skipped), per_class)


@lru_cache(maxsize=2)  # items are loaded in order: workers at the seam of two batches need both
def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A batch as images (N, 3072) and class numbers (N,), both uint8. _Unreadable if it is not one."""
    try:
        data = read_bytes(path, MAX_BYTES)
    except FileNotFoundError:
        raise _Unreadable("no such file") from None
    except OSError as error:
        raise _Unreadable(f"cannot be read ({error.strerror or error})") from None
    if path.suffix == ".bin":
        if not data or len(data) % (1 + PIXELS):
            raise _Unreadable("no whole number of images; it is cut off, or no batch of CIFAR-10")
        rows = np.frombuffer(data, np.uint8).reshape(-1, 1 + PIXELS)
        images, labels = rows[:, 1:], rows[:, 0].tolist()
    else:
        images, labels = _unpacked(load_pickle(data))
    if not all(type(label) is int and 0 <= label < len(CLASSES) for label in labels):
        raise _Unreadable(f"a class number that is none of 0 to {len(CLASSES) - 1}")
    return images, np.array(labels, np.uint8)


def _unpacked(batch: dict[Any, Any]) -> tuple[np.ndarray, list[int]]:
    named = {_text(key): value for key, value in batch.items()}
    images, labels = named.get("data"), named.get("labels")
    if isinstance(labels, np.ndarray) and labels.ndim == 1:
        labels = labels.tolist()
    if not isinstance(images, np.ndarray) or not isinstance(labels, list) or not labels:
        raise _Unreadable("a batch without its data and labels")
    if images.shape != (len(labels), PIXELS) or images.dtype != np.uint8:
        raise _Unreadable(f"its data is not one image of CIFAR-10 for each of its {len(labels)} labels")
    return images, labels


def load_pickle(data: bytes) -> dict[Any, Any]:
    """The dict in a pickle of any protocol: numbers, texts, lists, tuples, dicts, and arrays of integers.

    Raises:
        ValueError: the pickle is damaged, or holds anything else.
    """
    try:
        check_pickle(data)
        value = _DataUnpickler(io.BytesIO(data), encoding="bytes").load()
        if not isinstance(value, dict):
            raise _Unreadable("a batch without its data and labels")
        return {key: inner.value if isinstance(inner, _Array) else inner for key, inner in value.items()}
    except _Unreadable:
        raise
    except Exception as error:  # a damaged pickle may break every instruction
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise _Unreadable(f"a damaged pickle ({reason})") from None


class _Unreadable(ValueError):
    """A batch that is damaged, or holds more than data. The message is a reason without a file's name."""


def _text(value: object) -> object:
    """Bytes as str: what Python 2 wrote of a key or a type is bytes."""
    return value.decode("latin-1") if isinstance(value, bytes) else value


class _DType:
    """Stands for numpy.dtype: an integer type, whose byte order comes with its state."""

    def __init__(self, code: object, *_: object) -> None:
        if _text(code) not in {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}:
            raise _Unreadable(f'an array of "{str(code)[:80]}" where integers are needed')
        self.dtype = np.dtype(str(_text(code)))

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder({"<": "<", ">": ">", "|": "|", "=": "="}[str(_text(state[1]))])  # type: ignore[arg-type]


class _Array:
    """Stands for numpy's functions that make arrays. It takes the bytes in the file, and no size that is claimed."""

    value: np.ndarray | None = None

    def __init__(self, *arguments: Any) -> None:
        if len(arguments) == 4:  # of _frombuffer, with everything; those of _reconstruct await their state
            self._fill(*arguments)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self._fill(data, dtype, shape, "F" if fortran else "C")

    def _fill(self, data: Any, dtype: _DType, shape: tuple[int, ...], order: Any) -> None:
        data = data.encode("latin-1") if isinstance(data, str) else data
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.dtype.itemsize != len(data):
            raise _Unreadable("an array of another size than its bytes")
        self.value = np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


class _DataUnpickler(pickle._Unpickler):  # type: ignore[misc,name-defined,unused-ignore]
    """The standard library's unpickler, which here calls nothing but the stand-ins above.

    It is the one in Python: that in C believes the size of a memo, 64 GB in six bytes. Instructions that make objects
    or sets, or reserve memory for what is only claimed are taken out.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined,unused-ignore]
    for _code in (
        *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.PERSID, pickle.BINPERSID),
        *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.ADDITEMS, pickle.FROZENSET, pickle.NEXT_BUFFER),
    ):
        del dispatch[_code[0]]
    dispatch[pickle.BYTEARRAY8[0]] = dispatch[pickle.BINBYTES8[0]]

    def find_class(self, module: str, name: str) -> Any:
        match module.replace("numpy._core", "numpy.core"), name:
            case ("numpy.core.multiarray", "_reconstruct") | ("numpy.core.numeric", "_frombuffer"):
                return _Array
            case ("numpy", "ndarray"):
                return None
            case ("numpy", "dtype"):
                return _DType
            case ("_codecs", "encode"):  # how Python 3 writes bytes in the protocols of Python 2
                return lambda text, encoding: text.encode({"latin1": "latin-1"}[encoding])
            case ("builtins" | "__builtin__", "bytes"):
                return lambda: b""
        raise _Unreadable(f"calls {module}.{name}"[:80] + ", and a data set has nothing to call")
