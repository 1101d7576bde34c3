"""What a folder of prepared clips says about itself: `manifest.json`, and the records it is made of.

Clips are kept by column, not by row: 100,000 of them are read and checked in 0.04 s instead of 0.5 s. The place of a
clip is not stored: clips lie in the order of the columns, shard after shard.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, cast

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from schurgan.core.documents import LARGEST, Unreadable, first_problem, parse, read_bytes, seal
from schurgan.core.errors import SchurganError
from schurgan.core.files import atomic_write, open_regular
from schurgan.runs.folder import MANIFEST, wrong_place
from schurgan.runs.messages import counted

FORMAT: Literal["schurgan-shards"] = "schurgan-shards"
FORMAT_VERSION: Literal[2] = 2  # version 1 had no checksum
IMAGE = "image"
"""The transform of a set of images, in which sounds have "wavelet" or "stft"."""
DType = Literal["uint8", "float16", "float32"]


_Channels = Annotated[int, Field(ge=1, le=4)]
_Side = Annotated[int, Field(ge=8, le=1024)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _Transform(_Record):
    """The `config` of a codec, its numbers bounded where a larger one would take memory or time without end."""

    transform: Literal["wavelet", "stft", "image"]
    size: _Side
    channels: _Channels
    scale: str = ""
    frame: str = ""
    colormap: str | None = None
    sample_rate: int = Field(16000, ge=1000, le=384_000)
    n_samples: int = Field(80_000, ge=8, le=600 * 384_000)
    floor_db: float = 80.0
    f_min: float = Field(40.0, gt=0)
    f_max: float | None = None
    w0: Annotated[float, Field(ge=1, le=1000)] | None = None
    reference: float = 1.0


def _check_transform(config: dict[str, Any]) -> dict[str, Any]:
    try:
        _Transform.model_validate(config)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None
    if config.get("scale") == "log_real" and config.get("frame") != "point":
        raise ValueError("log-real images of an earlier version, which averaged the real part over each column")
    return config


Transform = Annotated[dict[str, Any], AfterValidator(_check_transform)]
"""What `open_codec` takes, checked where a file has it."""


def _check_classes(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f'"{twice[0]}" is the name of several')
    return names


Classes = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_check_classes)]
"""Names of classes, each once."""


class Skipped(_Record):
    """A recording that is not in the set, and why."""

    origin: str
    reason: str

    @classmethod
    def of(cls, origin: str, reason: str) -> Self:
        """With names and reasons that UTF-8 can hold."""
        return cls(origin=printable(origin), reason=printable(" ".join(reason.split())))


def printable(name: str) -> str:
    r"""A name that UTF-8 can hold: bytes of a file's name that are none are written \xff."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class ShardFile(_Record):
    """One `.npy` file: its plain name, its size in bytes and the SHA-256 of its bytes."""

    file: str = Field(pattern=r"^(images|audio)-\d{5,}\.npy$")
    bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Shard(_Record):
    """`count` clips: their images, and their recordings unless the set was made without."""

    count: int = Field(gt=0)
    images: ShardFile
    audio: ShardFile | None

    @property
    def files(self) -> tuple[ShardFile, ...]:
        """Its files."""
        return (self.images,) if self.audio is None else (self.images, self.audio)


class Clip(NamedTuple):
    """One prepared recording, or picture of a set of images."""

    origin: str
    label: int
    fold: int | None
    seconds: float = 0.0
    gain: float = 1.0  # its peak before it was brought to 1
    reference: float = 1.0  # level of its image
    digest: str = ""
    warnings: tuple[str, ...] = ()
    parent: str | None = None  # origin of the recording that it is an altered copy of
    recording: str | None = None  # name of the recording that it and others were cut from


def kept_seconds(clips: Iterable[Clip], transform: Mapping[str, Any]) -> float:
    """Seconds of the recordings that their clips, made by this transform, hold; copies and pictures are not counted."""
    longest = transform.get("n_samples", 0) / transform.get("sample_rate", 16_000)
    return float(sum(min(clip.seconds, longest) for clip in clips if clip.parent is None))


_SPARSE = ("parent", "recording")


class Clips(_Record):
    """The columns of `Clip`, all of one length; of the last two one that says nothing is empty, and not written."""

    origin: tuple[str, ...] = ()
    label: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = ()
    fold: tuple[Annotated[int, Field(ge=-(2**31), lt=2**31)] | None, ...] = ()
    seconds: tuple[float, ...] = ()
    gain: tuple[float, ...] = ()
    reference: tuple[float, ...] = ()
    digest: tuple[str, ...] = ()
    warnings: tuple[tuple[str, ...], ...] = ()
    parent: tuple[str | None, ...] = ()
    recording: tuple[str | None, ...] = ()

    @classmethod
    def of(cls, rows: Iterable[Clip]) -> Self:
        """The columns of some clips."""
        columns = dict(zip(Clip._fields, zip(*rows, strict=True), strict=False))
        return cls(**{name: column for name, column in columns.items() if name not in _SPARSE or any(column)})

    def rows(self) -> Iterator[Clip]:
        """Undo `of`."""
        columns = (getattr(self, name) or (None,) * len(self) for name in Clip._fields)
        return map(Clip._make, zip(*columns, strict=True))

    def __len__(self) -> int:
        return len(self.origin)

    @model_serializer(mode="wrap")
    def _written(self, columns: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = columns(self)
        return {name: column for name, column in written.items() if name not in _SPARSE or column}

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        lengths = {len(getattr(self, name)) for name in Clip._fields if name not in _SPARSE or getattr(self, name)}
        if len(lengths) > 1:
            raise ValueError(f"columns of clips differ in length: {sorted(lengths)}")
        return self


class Part(_Record):
    """The records of one shard of an unfinished set; labels are the source's. shard: None if no clip was usable."""

    plan: str
    shard: Shard | None
    clips: Clips
    skipped: tuple[Skipped, ...]


class Manifest(_Record):
    """Everything about a prepared set but its samples."""

    format: Literal["schurgan-shards"] = FORMAT
    version: Literal[2, 1] = FORMAT_VERSION
    schurgan: str
    plan: str  # hash of all that determines the files
    shape: tuple[_Channels, _Side, _Side]  # (C, R, R) of one image
    planes: int = Field(gt=0)  # how many of its C channels are stored: 1 when all are equal
    dtype: DType  # how pixels are stored; `shards.dequantise` undoes it
    classes: Classes
    histogram: tuple[int, ...]  # clips of each class
    references: tuple[float, ...]  # median level of each class's images, at which a generated one becomes sound
    warnings: tuple[str, ...]  # what is odd about the set as a whole
    skipped: tuple[Skipped, ...]
    transform: Transform  # `open_codec(transform)` made the images
    source: dict[str, JsonValue]  # what determines the data
    val_folds: tuple[int, ...] = ()  # folds that the source holds out; not written where there are none
    shards: tuple[Shard, ...] = Field(min_length=1)
    clips: Clips

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def kind(self) -> Literal["audio", "images"]:
        """What was prepared: recordings, or pictures that no sound belongs to."""
        return "images" if self.transform.get("transform") == IMAGE else "audio"

    @property
    def seconds(self) -> float:
        """Sound that was kept of all recordings together: neither what was cut off, nor padding, nor copies."""
        return kept_seconds(self.clips.rows(), self.transform)

    @property
    def n_samples(self) -> int:
        """Samples of a clip, at `transform["sample_rate"]`. ValueError for a set of images."""
        if self.kind == "images":
            raise ValueError("a set of images has no samples of sound")
        return cast(int, self.transform["n_samples"])

    def files(self) -> Iterator[ShardFile]:
        """The files of all shards."""
        for shard in self.shards:
            yield from shard.files

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        labels = np.asarray(self.clips.label, dtype=np.int64)
        if sum(shard.count for shard in self.shards) != len(labels):
            raise ValueError(f"shards hold {sum(s.count for s in self.shards)} clips, {len(labels)} are described")
        if (high := labels.max()) >= len(self.classes):
            raise ValueError(f"labels reach to {high}, there are {len(self.classes)} classes")
        if np.bincount(labels, minlength=len(self.classes)).tolist() != list(self.histogram):
            raise ValueError("the histogram does not count the clips")
        if self.planes not in (1, self.shape[0]):
            raise ValueError(f"{self.planes} planes for {self.shape[0]} channels")
        if self.kind == "audio" and not isinstance(self.transform.get("n_samples"), int):
            raise ValueError("the transform does not say n_samples")
        if len(self.references) != len(self.classes):
            raise ValueError(f"{len(self.references)} references for {len(self.classes)} classes")
        return self

    def save(self, folder: str | Path) -> None:
        """Write `manifest.json` atomically: a line a field, a shard, a column. OSError as the file system raises it."""
        fields = self.model_dump(mode="json")
        columns = ",\n".join(f"  {_json(name)}: {_json(column)}" for name, column in fields["clips"].items())
        shards = ",\n  ".join(map(_json, fields["shards"]))
        left_out = {"clips", "shards"} if self.val_folds else {"clips", "shards", "val_folds"}
        text = {name: _json(value) for name, value in fields.items() if name not in left_out}
        text |= {"shards": f"[\n  {shards}\n ]", "clips": f"{{\n{columns}\n }}"}
        with atomic_write(Path(folder) / MANIFEST, "w") as file:
            lines = (f"{_json(name)}: {value}" for name, value in text.items())
            file.write(seal("{\n " + ",\n ".join(lines) + "\n}\n"))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The manifest in `folder`. SchurganError if there is none, or it is damaged, foreign or of a newer format."""
        path = Path(folder) / MANIFEST
        try:
            return parse(cls, read_bytes(path, LARGEST))
        except (FileNotFoundError, NotADirectoryError):
            raise wrong_place(folder, "data") from None
        except OSError as error:
            raise SchurganError(f"{path}: cannot be read ({error.strerror or error})") from error
        except Unreadable as error:
            raise SchurganError(
                f"{path}: damaged, or not a manifest of this version ({error}); prepare the data again with overwrite"
            ) from None


def summary(manifest: Manifest, width: int = 40, most: int = 10) -> list[str]:
    """Lines for a terminal: clips a class as bars of up to `width`, then `most` warnings, notes and skipped at most."""
    longest = max(map(len, manifest.classes))
    top = max(manifest.histogram)
    lines = [
        f"{name:<{longest}}  {count:>{len(str(top))}}  {'█' * max(1, round(width * count / top))}"
        for name, count in zip(manifest.classes, manifest.histogram, strict=True)
    ]
    minutes, seconds = divmod(round(manifest.seconds), 60)
    sound = f", {minutes} min {seconds} s of sound" if minutes else f", {seconds} s of sound"
    what, sound = ("image", "") if manifest.kind == "images" else ("clip", sound)
    lines.append(f"{counted(len(manifest), what)} of {counted(len(manifest.classes), 'class')}{sound}")
    if copies := sum(parent is not None for parent in manifest.clips.parent):
        lines.append(f"{copies} of them are altered copies of the other {len(manifest) - copies}")
    lines += _first(most, [f"warning: {warning}" for warning in manifest.warnings], "more warning")
    kinds: dict[str, list[str]] = {}  # notes on single clips that differ in their numbers alone
    for clip in manifest.clips.rows():
        for note in clip.warnings:
            kinds.setdefault(re.sub(r"[\d.]+", "#", note), []).append(f"note: {clip.origin}: {note}")
    alike = [notes[0] + (f" (and {len(notes) - 1} more like it)" if len(notes) > 1 else "") for notes in kinds.values()]
    lines += _first(most, alike, "more kind of note", "more kinds of notes")
    skipped = [f"skipped: {clip.origin}: {clip.reason}" for clip in manifest.skipped]
    return lines + _first(most, skipped, "more skipped file")


def _first(most: int, lines: list[str], what: str, plural: str = "") -> list[str]:
    rest = len(lines) - most
    return lines if rest <= 0 else [*lines[:most], f"… and {counted(rest, what, plural)}, listed in {MANIFEST}"]


def wrong_size(folder: Path, file: ShardFile) -> str:
    """What is wrong with the file on disk by its presence and its size alone; "" when nothing is."""
    path = folder / file.file
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"{path}: missing ({error.strerror})"
    return "" if size == file.bytes else f"{path}: {'shorter' if size < file.bytes else 'longer'} than it was written"


def is_manifest(path: Path) -> bool:
    """Whether this program wrote `path`, in whatever version and however damaged since, so that it may be replaced."""
    try:
        with open_regular(path) as file:
            return f'"format": "{FORMAT}"'.encode() in file.read(256)
    except OSError:
        return False


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
