"""The status of a run, read from its folder by another process: no torch is loaded and nothing is touched."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import BaseModel, Field

from schurgan.core.errors import SchurganError
from schurgan.core.terminal import duration, rate
from schurgan.runs.config import read_yaml
from schurgan.runs.folder import RunFolder
from schurgan.runs.messages import counted, event_sentence, figures, file_size, health_sentence, tone_of
from schurgan.runs.records import Event, HealthRecord, Record, Records, Row
from schurgan.runs.sidecar import CheckpointRecord, Damaged, Sidecar, by_score

State = Literal["starting", "running", "finished", "stopped", "interrupted", "silent"]
_RATE_ROWS = 10  # rows that the rate is the mean of
_SHOWN_EVENTS = 5
_LEAST_SILENCE = 120.0
"""Seconds without a line before a run counts as silent, however fast it was: it may be writing a checkpoint."""
_SILENT_ROWS = 10  # rows that could have been written meanwhile
_ENDS = ("finished", "stopped", "interrupted")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as its sidecar describes it."""

    name: str
    step: int
    attempt: int
    bytes: int
    score: float | None  # score of its samples, lower is better; None where it is not known
    healthy: bool  # whether it was saved without a sign of a collapse
    roles: tuple[str, ...] = ()  # why it is kept: "newest", "best", "last healthy"


@dataclass(frozen=True)
class Status:
    """How far a run is, and how it does."""

    run: str
    state: State
    step: int
    steps: int
    attempt: int
    steps_per_second: float | None
    seconds_left: float | None  # time left at that rate; None where it is not running
    seconds_silent: float  # time since the last line of metrics.jsonl, or since the run began
    row: Row | None  # the last means
    health: HealthRecord | None  # the last evaluation
    events: tuple[Event, ...]  # all events, oldest first
    checkpoints: tuple[Checkpoint, ...]  # all checkpoints, by attempt, then by step

    def as_json(self) -> str:
        """The status as one JSON object; records as in metrics.jsonl, the row without singular values."""
        content = asdict(self) | {
            "row": replace(self.row, singular_values={}).as_line() if self.row else None,
            "health": self.health.as_line() if self.health else None,
            "events": [event.as_line() for event in self.events],
        }
        return json.dumps(content, ensure_ascii=False)


def read_status(run: str | Path, now: float | None = None) -> Status:
    """Read the status of a run at the time `now` (seconds since 1970). Raises SchurganError where there is no run."""
    folder = RunFolder(run)
    folder.require()
    try:
        train = _Train.model_validate(read_yaml(folder.config).get("train"))
    except ValueError:
        raise SchurganError(f"{folder.config}: not the options of a run; `schurgan train` writes them") from None
    steps, every = train.steps, train.log_every
    records = folder.read_records()
    written = (folder.metrics if folder.metrics.exists() else folder.config).stat().st_mtime
    latest = _latest(records)
    attempt = latest.attempt if latest else 0
    speed = _rate([row for row in records.rows if row.attempt == attempt])
    silent = max(0.0, (time.time() if now is None else now) - written)
    step = latest.step if latest else 0
    state = _state(records, latest, steps, silent, max(_LEAST_SILENCE, _SILENT_ROWS * every / speed if speed else 0.0))
    return Status(
        run=str(folder.path),
        state=state,
        step=step,
        steps=steps,
        attempt=attempt,
        steps_per_second=speed,
        seconds_left=(steps - step) / speed if speed and state == "running" else None,
        seconds_silent=silent,
        row=records.rows[-1] if records.rows else None,
        health=records.health[-1] if records.health else None,
        events=tuple(records.events),
        checkpoints=_checkpoints(folder),
    )


def status_lines(run: str | Path, now: float | None = None) -> list[str]:
    """The status of `read_status` as some ten lines of text."""
    status = read_status(run, now)
    ago = duration(status.seconds_silent)
    says = {
        "starting": f"starting, nothing written for {ago}",
        "running": f"running, last line {ago} ago",
        "finished": "finished",
        "stopped": f"stopped itself {ago} ago, see its last event",
        "interrupted": f"interrupted {ago} ago; `schurgan resume {status.run}` goes on",
        "silent": f"no line for {ago}: dead? If it is, `schurgan resume {status.run}` goes on",
    }
    progress = f"{status.step} of {status.steps} ({status.step / status.steps:.0%})"
    if status.steps_per_second:
        progress += f", {rate(status.steps_per_second)}"
    if status.seconds_left is not None:
        progress += f", {duration(status.seconds_left)} left"
    if status.attempt:
        progress += f", attempt {status.attempt}"
    lines = [("run", status.run), ("state", says[status.state]), ("step", progress)]
    lines += figures(status.row).items() if status.row else ()
    if status.health:
        lines.append(("health", health_sentence(status.health)))
    noted = [event for event in status.events if tone_of(event) != "plain" or event.reason]
    lines += [("event", event_sentence(event)) for event in noted[-_SHOWN_EVENTS:]]
    if (more := len(noted) - _SHOWN_EVENTS) > 0:
        lines.append(("", f"and {counted(more, 'event')} before"))
    for checkpoint in status.checkpoints:
        roles = f"  {', '.join(checkpoint.roles)}" if checkpoint.roles else ""
        lines.append(("checkpoint", f"{checkpoint.name}  {file_size(checkpoint.bytes)}{roles}"))
    return [f"{name:<11} {text}" for name, text in lines]


class _Train(BaseModel, strict=True):
    """The options that a status needs. No others are read, so that another version's run is understood."""

    steps: Annotated[int, Field(ge=1)]
    log_every: Annotated[int, Field(ge=1)] = 1


def _latest(records: Records) -> Record | None:
    """The record of the highest attempt and step; those of different kinds are not ordered among each other here."""
    last: list[Record] = [record for kind in records for record in kind[-1:]]
    return max(last, key=lambda record: (record.attempt, record.step), default=None)


def _state(records: Records, latest: Record | None, steps: int, silent: float, limit: float) -> State:
    if latest is None:
        return "starting" if silent < limit else "silent"
    newest = records.rows[-1].step if records.rows else 0
    if not records.events and latest.step >= steps:
        return "finished"
    if records.events and newest <= (last := records.events[-1]).step and last.kind in _ENDS:
        return cast(State, last.kind)
    return "running" if silent < limit else "silent"


def _rate(rows: list[Row]) -> float | None:
    """Steps a second over the last rows: the harmonic mean, as each row is of as many steps."""
    speeds = [speed for row in rows[-_RATE_ROWS:] if (speed := row.values.get("steps_per_second")) and speed > 0]
    return len(speeds) / sum(1 / speed for speed in speeds) if speeds else None


def _checkpoints(folder: RunFolder) -> tuple[Checkpoint, ...]:
    """What the sidecars say. They are taken on trust: whoever loads a state verifies it."""
    checkpoints, records = [], {}
    for attempt, step, path in folder.checkpoint_files():
        record: CheckpointRecord | None = None
        with suppress(Damaged, OSError):
            record = records[path] = Sidecar.load(path).record
        with suppress(OSError):  # rotated away meanwhile
            score, healthy = (record.score, record.healthy) if record else (None, False)
            checkpoints.append(Checkpoint(path.name, step, attempt, path.stat().st_size, score, healthy))
    holders = {
        "newest": [each.name for each in checkpoints[-1:]],
        "best": [path.name for path in by_score(records)[:1]],
        "last healthy": [each.name for each in checkpoints if each.healthy][-1:],
    }
    return tuple(
        replace(each, roles=tuple(role for role, names in holders.items() if each.name in names))
        for each in checkpoints
    )
