"""RUN/metrics.jsonl read back, also while another process writes it: rows of means, evaluations of health, events."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

_MOST = 2**53
"""Beyond it a step could not be told from the next as a float, which charts need."""

Record = dict[str, Any]


class Records(NamedTuple):
    """The lines of a metrics.jsonl by kind, each in the order in which they were written."""

    rows: list[Record]
    """Means since the row before: "step", "attempt", "loss_d", ..."""
    health: list[Record]
    """Evaluations: "step", "attempt", and "health", a mapping of scores with their "verdict"."""
    events: list[Record]
    """What happened: "step", "event" (its kind), mostly "reason" and "time" (seconds since 1970)."""


def read_records(path: str | Path) -> Records:
    """All lines that are whole; nothing where there is no file.

    A line that a kill or a running writer left half, or whose "step" or "attempt" is no count, is passed over. A number
    that is not finite reads as None. Raises OSError for a file that may not be read.
    """
    records = Records([], [], [])
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return records
    for line in content.split(b"\n"):  # not splitlines(): a reason may hold other characters that end lines
        with suppress(ValueError, RecursionError):
            record = json.loads(line.decode("utf-8", "replace"), parse_constant=lambda _: None)
            if isinstance(record, dict):
                _shelf(records, record).append(record)
    return records


def read_metrics(path: str | Path) -> list[Record]:
    """The rows of means alone, see `read_records`."""
    return read_records(path).rows


def read_health(path: str | Path) -> list[Record]:
    """The evaluations of health alone, see `read_records`."""
    return read_records(path).health


def read_events(path: str | Path) -> list[Record]:
    """The events alone, see `read_records`."""
    return read_records(path).events


def _shelf(records: Records, record: Record) -> list[Record]:
    """Where the line belongs. Raises ValueError for one that belongs nowhere."""
    for name in ("step", "attempt"):
        if type(count := record.get(name, 0)) is not int or not 0 <= count < _MOST or "step" not in record:
            raise ValueError(f"{name}: {count!r} is no count")
    if isinstance(record.get("event"), str):
        return records.events
    if isinstance(record.get("health"), dict):
        return records.health
    if "event" in record or "health" in record:
        raise ValueError("neither an event nor an evaluation")
    return records.rows
