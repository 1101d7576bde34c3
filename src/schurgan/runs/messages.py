"""A run's records in words, the same on the terminal, in `status` and on the report's page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from schurgan.core.terminal import plural
from schurgan.runs.records import Event, HealthRecord, Row

Tone = Literal["bad", "warn", "good", "plain"]

_EVENTS: dict[str, tuple[str, Tone]] = {
    "started": ("started", "plain"),
    "warning": ("warning", "warn"),
    "recovered": ("recovered", "good"),
    "collapsed": ("collapsed", "bad"),
    "rollback": ("rolled back", "warn"),
    "stopped": ("stopped", "bad"),
    "interrupted": ("interrupted", "plain"),
    "checkpoint_failed": ("checkpoint not saved", "bad"),
    "not_finite": ("not a finite number", "bad"),
    "finished": ("finished", "good"),
    "resumed": ("resumed", "plain"),
}
_VERDICTS: dict[str, Tone] = {"healthy": "good", "warning": "warn", "collapsed": "bad"}


def counted(number: int, noun: str, many: str = "") -> str:
    """A number with its noun: "no clips", "1 clip", "1200 clips", "2 classes"."""
    return f"1 {noun}" if number == 1 else f"{number or 'no'} {many or plural(noun)}"


def capitalised(text: str) -> str:
    """A text as the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def file_size(count: int) -> str:
    """Bytes as "812 B", "3.4 MB", "2.1 GB"; powers of 1000."""
    if count < 1000:
        return f"{count} B"
    size, units = float(count), iter("kMGTPE")
    while size >= 999.5:
        size, unit = size / 1000, next(units)
    return f"{size:.1f} {unit}B" if size < 99.95 else f"{size:.0f} {unit}B"


def tone_of(event: Event) -> Tone:
    """The tone in which an event is shown."""
    return _EVENTS.get(event.kind, ("", "plain"))[1]


def event_name(kind: str) -> str:
    """A kind of event in words: "rollback" is "rolled back"."""
    return _EVENTS.get(kind, (kind.replace("_", " "), "plain"))[0]


def event_sentence(event: Event) -> str:
    """An event in words: "step 1200: collapsed, began at step 1050. Variety fell to 0.31"."""
    text = f"step {event.step}: {event_name(event.kind)}"
    if event.to is not None:
        text += f", {'on' if event.kind == 'rollback' else 'ends'} with the state of step {event.to}"
    if event.onset is not None:
        text += f", began at step {event.onset}"
    return _with_reason(text, event.reason)


def event_counts(events: Iterable[Event]) -> str:
    """Counts of the events that deserve attention: "2 × warning, 1 × rolled back"."""
    counts = Counter(event_name(event.kind) for event in events if tone_of(event) in ("bad", "warn"))
    return ", ".join(f"{count} × {name}" for name, count in counts.items())


def verdict_of(record: HealthRecord) -> tuple[str, Tone]:
    """The verdict of an evaluation, "no verdict" where it has none yet."""
    state = record.verdict or "no verdict"
    return state, _VERDICTS.get(state, "plain")


def health_sentence(record: HealthRecord) -> str:
    """An evaluation in words: "healthy at step 400: variety 0.93 (1: as real), Fréchet distance 12.3 (0: as real)"."""
    scores, parts = record.scores, []
    if (variety := scores.get("variety")) is not None:
        parts.append(f"variety {variety:.2f} (1: as real)")
    if (distance := scores.get("frechet")) is not None:
        average = scores.get("frechet_ema")
        averaged = f", averaged generator {average:.3g}" if average is not None else ""
        parts.append(f"Fréchet distance {distance:.3g}{averaged} (0: as real)")
    text = f"{verdict_of(record)[0]} at step {record.step}" + (f": {', '.join(parts)}" if parts else "")
    return _with_reason(text, "; ".join(record.reasons))


def figures(row: Row) -> dict[str, str]:
    """The figures of a row that are worth a look, by name; those that it does not hold are left out."""
    values, shown = row.values, dict[str, str]()
    losses = [f"{name} {loss:.3f}" for name in ("D", "G") if (loss := values.get(f"loss_{name.lower()}")) is not None]
    if losses:
        shown["loss"] = "  ".join(losses)
    if (accuracy := values.get("accuracy_d")) is not None:
        shown["D right"] = f"{accuracy:.0%}"
    gap = values.get("ddfn_ema_gap")
    if (gap := values.get("ddfn_gap") if gap is None else gap) is not None:
        epsilon, error = values.get("ddfn_epsilon"), values.get("ddfn_standard_error")
        shown["DDFN gap"] = f"{gap:+.1f}"
        if epsilon is not None:
            shown["DDFN gap"] += f", {'inside' if abs(gap) <= epsilon else 'outside'} ±{epsilon:.1f}"
        if error is not None:
            shown["DDFN gap"] += f", noise of a batch ±{2 * error:.1f}"
    return shown


def short_figures(row: Row) -> str:
    """The figures of a row on one line of a log: "D 0.812  G 0.220  DDFN gap +3.1"."""
    shown = figures(row)
    gap = [f"DDFN gap {shown['DDFN gap'].partition(',')[0]}"] if "DDFN gap" in shown else []
    return "  ".join([shown["loss"], *gap] if "loss" in shown else gap)


def _with_reason(text: str, reason: str) -> str:
    reason = " ".join(reason.split())
    return f"{text}. {capitalised(reason)}" if reason else text
