"""What a folder of prepared clips says about itself: `manifest.json`, and the records it is made of.

Clips are kept by column, not by row: 100,000 of them are then eight long arrays of 11 MB, read and checked in 0.04 s,
instead of as many small objects of 20 MB and 0.5 s. The place of a clip is not stored: clips lie in the order of the
columns, shard after shard.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from schurgan.errors import UserError
from schurgan.files import atomic_write
from schurgan.version import __version__

FORMAT: Literal["schurgan-shards"] = "schurgan-shards"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MARKER = "unfinished.json"
FEW = 10
"""Clips a class below which it is worth a word."""
FAINT = 1e-3
"""Peak of a recording, full scale 1, under which its noise floor is what gets learnt."""
DType = Literal["uint8", "float16", "float32"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Skipped(_Record):
    """A recording that is not in the set, and why."""

    origin: str
    reason: str

    @classmethod
    def of(cls, origin: str, reason: str) -> Self:
        return cls(origin=printable(origin), reason=printable(" ".join(reason.split())))


def printable(name: str) -> str:
    """A name that UTF-8 can hold: bytes of a file's name that are none are written \\xff."""
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
        return (self.images,) if self.audio is None else (self.images, self.audio)


class Clip(NamedTuple):
    """One prepared recording. gain: its peak before it was brought to 1. reference: level of its image."""

    origin: str
    label: int
    fold: int | None
    seconds: float
    gain: float
    reference: float
    digest: str
    warnings: tuple[str, ...]


class Clips(_Record):
    """The columns of `Clip`, all of one length."""

    origin: tuple[str, ...] = ()
    label: tuple[int, ...] = ()
    fold: tuple[int | None, ...] = ()
    seconds: tuple[float, ...] = ()
    gain: tuple[float, ...] = ()
    reference: tuple[float, ...] = ()
    digest: tuple[str, ...] = ()
    warnings: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(cls, rows: Iterable[Clip]) -> Self:
        columns = zip(*rows, strict=True)
        return cls(**dict(zip(Clip._fields, columns, strict=False)))

    def rows(self) -> Iterator[Clip]:
        return map(Clip._make, zip(*(getattr(self, name) for name in Clip._fields), strict=True))

    def __len__(self) -> int:
        return len(self.origin)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        lengths = {len(getattr(self, name)) for name in Clip._fields}
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
    """Everything about a prepared set but its samples.

    shape       (C, R, R) of one image
    planes      how many of its C channels are stored: 1 when all are equal
    dtype       how pixels are stored (`shards.dequantise` undoes it)
    plan        hash of all that determines the files
    histogram   clips of each class
    references  median level of each class's images: what turns a generated image of that class back into sound
    warnings    what is odd about the set as a whole
    transform   `Spectrogram(**transform)` made the images
    source      what determines the data
    """

    format: Literal["schurgan-shards"] = FORMAT
    version: Literal[1] = 1
    schurgan: str
    plan: str
    shape: tuple[int, int, int]
    planes: int = Field(gt=0)
    dtype: DType
    classes: tuple[str, ...] = Field(min_length=1)
    histogram: tuple[int, ...]
    references: tuple[float, ...]
    warnings: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    transform: dict[str, JsonValue]
    source: dict[str, JsonValue]
    shards: tuple[Shard, ...] = Field(min_length=1)
    clips: Clips

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def seconds(self) -> float:
        """Duration of all recordings together."""
        return float(sum(self.clips.seconds))

    @property
    def n_samples(self) -> int:
        """Samples of a clip, at `transform["sample_rate"]`."""
        return cast(int, self.transform["n_samples"])

    def files(self) -> Iterator[ShardFile]:
        for shard in self.shards:
            yield from shard.files

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        labels = np.asarray(self.clips.label, dtype=np.int64)
        if sum(shard.count for shard in self.shards) != len(labels):
            raise ValueError(f"shards hold {sum(s.count for s in self.shards)} clips, {len(labels)} are described")
        if labels.min() < 0 or labels.max() >= len(self.classes):
            raise ValueError(
                f"labels reach from {labels.min()} to {labels.max()}, there are {len(self.classes)} classes"
            )
        if np.bincount(labels, minlength=len(self.classes)).tolist() != list(self.histogram):
            raise ValueError("the histogram does not count the clips")
        if self.planes not in (1, self.shape[0]):
            raise ValueError(f"{self.planes} planes for {self.shape[0]} channels")
        if not isinstance(self.transform.get("n_samples"), int):
            raise ValueError("the transform does not say n_samples")
        if len(self.references) != len(self.classes):
            raise ValueError(f"{len(self.references)} references for {len(self.classes)} classes")
        return self

    def save(self, folder: str | Path) -> None:
        """Write `manifest.json` atomically: a line a field, a shard, a column. OSError as the file system raises it."""
        fields = self.model_dump(mode="json")
        fields["clips"] = _object(fields["clips"], "  ")
        fields["shards"] = "[\n  " + ",\n  ".join(map(_json, fields["shards"])) + "\n ]"
        text = {name: value if name in ("clips", "shards") else _json(value) for name, value in fields.items()}
        with atomic_write(Path(folder) / MANIFEST, "w") as file:
            file.write("{\n " + ",\n ".join(f"{_json(name)}: {value}" for name, value in text.items()) + "\n}\n")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The manifest in `folder`. UserError if there is none, or it is damaged, foreign or of a newer format."""
        path = Path(folder) / MANIFEST
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            if (Path(folder) / MARKER).exists():
                raise UserError(f"{folder}: its preparation has not finished; start `schurgan prepare` again") from None
            raise UserError(f"{folder}: no {MANIFEST} here; make one with `schurgan prepare`") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise UserError(f"{path}: {_what_is_wrong(content, error)}") from None


def assemble(
    parts: Sequence[Part],
    *,
    classes: Sequence[str],
    unlisted: Iterable[Skipped],
    plan: str,
    dtype: DType,
    planes: int,
    transform: dict[str, JsonValue],
    source: dict[str, JsonValue],
) -> Manifest:
    """The manifest of finished parts, one clip or more in them. Classes left empty are dropped and warned of."""
    rows = [row for part in parts for row in part.clips.rows()]
    counts = np.bincount([row.label for row in rows], minlength=len(classes))
    kept = np.flatnonzero(counts).tolist()
    names = tuple(classes[label] for label in kept)
    renumbered = {old: new for new, old in enumerate(kept)}
    rows = [row._replace(label=renumbered[row.label]) for row in rows]
    levels: list[list[float]] = [[] for _ in kept]
    for row in rows:
        levels[row.label].append(row.reference)
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    channels, size = cast(int, transform["channels"]), cast(int, transform["size"])
    return Manifest(
        schurgan=__version__,
        plan=plan,
        shape=(channels, size, size),
        planes=planes,
        dtype=dtype,
        classes=names,
        histogram=tuple(counts[kept].tolist()),
        references=tuple(float(np.median(each)) for each in levels),
        warnings=tuple(_oddities(rows, names, empty)),
        skipped=(*unlisted, *(skipped for part in parts for skipped in part.skipped)),
        transform=transform,
        source=source,
        shards=tuple(part.shard for part in parts if part.shard),
        clips=Clips.of(rows),
    )


def _oddities(rows: Sequence[Clip], classes: Sequence[str], empty: Iterable[str]) -> Iterator[str]:
    """What a person should know of the set as a whole before training on it."""
    for name in empty:
        yield f'class "{name}": none of its recordings can be used, it is left out'
    if len(classes) == 1:
        yield f'only one class, "{classes[0]}": there is nothing to condition on'
    for name, count in zip(classes, np.bincount([row.label for row in rows]).tolist(), strict=True):
        if count < FEW:
            yield f'class "{name}": {count} clip{"s" * (count > 1)}, too few to learn from ({FEW} or more would do)'
    same: dict[str, list[Clip]] = {}
    for row in rows:
        same.setdefault(row.digest, []).append(row)
    for group in same.values():
        if len(group) > 1:
            named = ", ".join(row.origin for row in group)
            across = " in different classes" * (len({row.label for row in group}) > 1)
            across += " in different folds" * (len({row.fold for row in group}) > 1)
            yield f"the same sound {len(group)} times{across}: {named}"
    faint = [row.origin for row in rows if row.gain < FAINT]
    if faint:
        yield f"nearly silent (peak below −60 dB), so mostly noise once normalised: {', '.join(faint)}"


def is_manifest(path: Path) -> bool:
    """Whether this program wrote `path`, in whatever version and however damaged since, so that it may be replaced."""
    try:
        with open(path, "rb") as file:
            return f'"format": "{FORMAT}"'.encode() in file.read(256)
    except OSError:
        return False


def summary(manifest: Manifest, width: int = 40, most: int = 10) -> list[str]:
    """Lines for a terminal: clips a class as bars of up to `width`, then `most` warnings, notes and skipped at most."""
    longest = max(map(len, manifest.classes))
    top = max(manifest.histogram)
    lines = [
        f"{name:<{longest}}  {count:>{len(str(top))}}  {'█' * max(1, round(width * count / top))}"
        for name, count in zip(manifest.classes, manifest.histogram, strict=True)
    ]
    minutes, seconds = divmod(round(manifest.seconds), 60)
    lines.append(f"{len(manifest)} clips of {len(manifest.classes)} classes, {minutes} min {seconds} s of sound")
    lines += _first(most, [f"warning: {warning}" for warning in manifest.warnings], "warnings")
    lines += _first(most, _notes(manifest), "kinds of notes")
    return lines + _first(most, [f"skipped: {clip.origin}: {clip.reason}" for clip in manifest.skipped], "skipped")


def _notes(manifest: Manifest) -> list[str]:
    """Notes on single clips that differ in their numbers alone are one line: how many, and the first of them."""
    kinds: dict[str, list[str]] = {}
    for clip in manifest.clips.rows():
        for note in clip.warnings:
            kinds.setdefault(re.sub(r"[\d.]+", "#", note), []).append(f"{clip.origin}: {note}")
    alike = [(notes[0], f" (and {len(notes) - 1} more like it)" if len(notes) > 1 else "") for notes in kinds.values()]
    return [f"note: {first}{more}" for first, more in alike]


def _first(most: int, lines: list[str], what: str) -> list[str]:
    rest = len(lines) - most
    return lines if rest <= 0 else [*lines[:most], f"… and {rest} more {what}, listed in {MANIFEST}"]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _object(value: dict[str, Any], indent: str) -> str:
    return "{\n" + ",\n".join(f"{indent}{_json(name)}: {_json(item)}" for name, item in value.items()) + "\n }"


def _what_is_wrong(content: bytes, error: ValidationError) -> str:
    try:
        value = json.loads(content)
    except ValueError:
        return "damaged, this is not JSON; prepare the data again with --overwrite"
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        return "not a manifest of prepared clips; choose a folder made by `schurgan prepare`"
    version = value.get("version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        return f"format version {version} is newer than this program's {FORMAT_VERSION}; update schurgan"
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])) or "content"
    return f"damaged at {where} ({first['msg']}); prepare the data again with --overwrite"
