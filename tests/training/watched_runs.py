"""Runs whose health is evaluated every two steps, and what they report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from schurgan.runs.folder import RunFolder

EVERY, PATIENCE = 2, 2
HEALTH = {"every": EVERY, "images": 16, "classifier": False, "budget": 0.0, "warm_up": 0, "patience": PATIENCE}


def events(run: Path) -> list[dict[str, Any]]:
    """All but the first, which says what is held out."""
    return [event.as_line() for event in RunFolder(run).read_records().events if event.kind != "started"]


def kinds(run: Path) -> list[str]:
    return [event["event"] for event in events(run)]
