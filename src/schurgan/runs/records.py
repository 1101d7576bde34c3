"""metrics.jsonl: what a run says of itself, as typed records, and the file that holds a record a line."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from schurgan.core.documents import LARGEST, read_bytes
from schurgan.core.errors import SchurganError
from schurgan.core.files import open_regular

_MOST = 2**53  # beyond it a step could not be told from the next as a float, which charts need


@dataclass(frozen=True)
class Row:
    """Means since the row before."""

    step: int
    attempt: int = 0
    values: Mapping[str, float | None] = field(default_factory=dict)
    """Means by name ("loss_d", "steps_per_second", ...), None for one that is not finite."""
    singular_values: Mapping[str, float | None] = field(default_factory=dict)
    """The largest of each layer, by "generator.NAME" and "discriminator.NAME"."""

    @classmethod
    def parse(cls, line: Mapping[str, Any]) -> Row:
        """The row of a line."""
        values = {name: value for name, value in _numbers(line).items() if name not in ("step", "attempt")}
        return cls(line["step"], line.get("attempt", 0), values, _numbers(line.get("singular_values")))

    def as_line(self) -> dict[str, Any]:
        """The line that `parse` reads."""
        layers = {"singular_values": dict(self.singular_values)} if self.singular_values else {}
        return {"step": self.step, "attempt": self.attempt, **self.values, **layers}


@dataclass(frozen=True)
class HealthRecord:
    """An evaluation of the run's health."""

    step: int
    attempt: int = 0
    scores: Mapping[str, float | None] = field(default_factory=dict)
    """Scores by name ("frechet", "variety", ...), None for one that is not finite."""
    verdict: str | None = None  # "healthy", "warning" or "collapsed"; None where there was none yet
    reasons: tuple[str, ...] = ()  # rules that hold
    not_finite: str | None = None  # the first number that is not finite
    singular_values: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def parse(cls, line: Mapping[str, Any]) -> HealthRecord:
        """The record of a line with the key "health"."""
        health = line["health"]
        return cls(
            line["step"],
            line.get("attempt", 0),
            _numbers(health),
            _text(health.get("verdict")),
            _texts(health.get("reasons")),
            _text(health.get("not_finite")),
            _numbers(health.get("singular_values")),
        )

    def as_line(self) -> dict[str, Any]:
        """The line that `parse` reads."""
        layers = {"singular_values": dict(self.singular_values)} if self.singular_values else {}
        fault = {"not_finite": self.not_finite} if self.not_finite else {}
        verdict = {"verdict": self.verdict, "reasons": list(self.reasons)}
        return {"step": self.step, "attempt": self.attempt, "health": {**self.scores, **layers, **fault, **verdict}}


@dataclass(frozen=True)
class Event:
    """Something that happened."""

    step: int
    kind: str  # warning, recovered, collapsed, rollback, stopped, checkpoint_failed, interrupted, resumed, finished
    attempt: int = 0
    reason: str = ""
    time: float | None = None  # seconds since 1970
    to: int | None = None  # step of the state that the run goes on from, or ends with
    onset: int | None = None  # step at which the collapse began
    extreme: int | None = None  # step from which it was past recovery
    best_step: int | None = None  # step of the best score before it

    @classmethod
    def parse(cls, line: Mapping[str, Any]) -> Event:
        """The event of a line with the key "event"."""
        steps = {name: _count(line.get(name)) for name in ("to", "onset", "extreme", "best_step")}
        reason = "; ".join(_texts(line.get("reason")))
        return cls(line["step"], line["event"], line.get("attempt", 0), reason, number(line.get("time")), **steps)

    def as_line(self) -> dict[str, Any]:
        """The line that `parse` reads."""
        rest = {name: value for name, value in vars(self).items() if name != "kind" and value not in (None, "")}
        return {"step": self.step, "event": self.kind, **rest}


Record = Row | HealthRecord | Event


class Records(NamedTuple):
    """The records of a run by kind, each in the order in which they were written."""

    rows: list[Row]
    health: list[HealthRecord]
    events: list[Event]


def read_records(path: str | Path) -> Records:
    """Read all whole lines of a metrics.jsonl, also while a run writes it; none where there is no file.

    A line that a kill or a running writer left half, or whose "step" or "attempt" is no count, is passed over. A number
    that is not finite reads as None.

    Raises:
        SchurganError: the file cannot be read.
    """
    records, decoder = Records([], [], []), json.JSONDecoder(parse_constant=lambda _: None)
    try:
        content = read_bytes(path, LARGEST)
    except FileNotFoundError:
        return records
    except OSError as error:
        raise SchurganError(f"{path}: cannot be read ({error.strerror or error})") from None
    for line in content.split(b"\n"):  # not splitlines(): a reason may hold other characters that end lines
        with suppress(ValueError, RecursionError):
            parsed = decoder.decode(line.decode("utf-8", "replace"))
            if not isinstance(parsed, dict) or None in (_count(parsed.get("step")), _count(parsed.get("attempt", 0))):
                continue
            if isinstance(parsed.get("event"), str):
                records.events.append(Event.parse(parsed))
            elif isinstance(parsed.get("health"), dict):
                records.health.append(HealthRecord.parse(parsed))
            elif not {"event", "health"} & parsed.keys():
                records.rows.append(Row.parse(parsed))
    return records


class MetricsFile:
    """A metrics.jsonl to which a run appends records, and which it cuts back where it goes on from a checkpoint.

    A checkpoint keeps `size`; a run that goes on from it calls `truncate(size)`, so that no line is there twice and
    none is missing, whatever was written after the checkpoint. The file is opened for each line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def size(self) -> int:
        """Bytes of the file, 0 where there is none yet; they have reached the disk when this returns."""
        try:
            with open_regular(self.path) as file:
                os.fsync(file.fileno())
                return os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return 0

    def append(self, record: Record) -> None:
        """Write a record as one line; numbers that are not finite become null.

        Raises:
            TypeError: a value is nothing that JSON can hold.
            OSError: the disk refuses; the file is then as it was before.
        """
        text = (json.dumps(_finite(record.as_line()), allow_nan=False) + "\n").encode()
        with open_regular(self.path, "ab", buffering=0) as file:
            before = os.fstat(file.fileno()).st_size
            try:
                if file.write(text) != len(text):  # what fits is written before a full disk refuses
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                os.ftruncate(file.fileno(), before)
                raise

    def truncate(self, size: int) -> None:
        """Cut the file back to its first `size` bytes, as `size` was when a checkpoint was saved.

        Where that is not the end of a line, because another hand has changed the file or a disk lost its end, the lines
        before it are kept and a warning says so. Raises OSError as the file system does, and for a link.
        """
        if size == 0 and not os.path.lexists(self.path):
            return
        with open_regular(self.path, "a+b") as file:
            file.seek(0)
            kept = file.read(size)
            end = kept.rfind(b"\n") + 1
            file.truncate(end)
            file.flush()
            os.fsync(file.fileno())
        if end != size:
            lines = kept[:end].count(b"\n")
            why = "it was changed since the checkpoint was saved"
            warnings.warn(f"{self.path}: {why}; its first {lines} lines are kept", stacklevel=2)


def number(value: object) -> float | None:
    """A number that is finite as a float, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= sys.float_info.max else None


def _numbers(values: object) -> dict[str, float | None]:
    """The numbers and nulls of a mapping, None for what is not finite."""
    pairs = values.items() if isinstance(values, Mapping) else ()
    return {name: number(value) for name, value in pairs if type(value) in (float, int, type(None))}


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < _MOST else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    return value
