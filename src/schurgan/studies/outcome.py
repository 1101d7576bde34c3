"""What became of a cell, a run of a study: RUN/outcome.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from schurgan.core.errors import UserError
from schurgan.core.files import write_json
from schurgan.runs.folder import RunFolder
from schurgan.runs.records import HealthRecord, Records

_FORMAT = "schurgan-outcome/1"


@dataclass(frozen=True)
class Outcome:
    """A collapse is a result like any other. "failed" is a run that something else ended: it is tried again."""

    state: Literal["finished", "collapsed", "failed"]
    reason: str = ""
    """Of a collapse or a failure."""
    onset: int | None = None
    """Step at which the first collapse began."""
    extreme: int | None = None
    """Step from which it was past recovery."""
    best_step: int | None = None
    """Step of the best Fréchet distance before it."""
    scored_step: int | None = None
    """Step of the generator that was scored; None where none was."""
    worse: float | None = None
    """Fréchet distance of the averaged generator at the end over its best: what the collapse cost."""
    variety: float | None = None
    """Mean distance of generated images within a class at the end, as a share of the real images'."""

    def save(self, run: Path) -> None:
        """Atomically."""
        write_json(RunFolder(run).outcome, {"format": _FORMAT} | asdict(self))


def read_outcome(run: Path) -> Outcome | None:
    """None where there is none yet. Raises UserError for a file of something else."""
    path = RunFolder(run).outcome
    try:
        known = json.loads(path.read_text("utf-8"))
        if known.pop("format") != _FORMAT:
            raise ValueError("of another format")
        return Outcome(**known)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not what became of a run ({error}); remove it, and the run is scored anew") from None


def judge(records: Records, monitor: dict[str, Any] | None = None) -> Outcome:
    """What the lines of a run's metrics say; `monitor` is the state of its monitor at the end, where it has one.

    The first collapse counts, also where the run recovered from it: that is the paper's "initial" one.
    """
    collapses = [event for event in records.events if event.kind == "collapsed"]
    known = [value for each in records.health if (value := each.scores.get("frechet_ema")) is not None]
    end = records.health[-1].scores if records.health else {}
    last, best = end.get("frechet_ema"), min(known, default=None)
    shared: dict[str, Any] = {
        "worse": last / best if last is not None and best else None,
        "variety": end.get("variety"),
    }
    if not collapses:
        return Outcome("finished", best_step=_best_step(records.health), **shared)
    first = collapses[0]
    onset = first.step if first.onset is None else first.onset
    extremes = [event.extreme for event in collapses if event.extreme is not None]
    at_end = (monitor or {}).get("extreme")
    return Outcome(
        "collapsed",
        reason=first.reason,
        onset=onset,
        extreme=min([*extremes, *([] if at_end is None else [at_end])], default=None),
        best_step=_best_step([each for each in records.health if each.step < onset]),
        **shared,
    )


def _best_step(evaluations: Sequence[HealthRecord]) -> int | None:
    scored = [(value, each.step) for each in evaluations if (value := _score(each)) is not None]
    return min(scored)[1] if scored else None


def _score(evaluation: HealthRecord) -> float | None:
    value = evaluation.scores.get("frechet_ema")
    return evaluation.scores.get("frechet") if value is None else value
