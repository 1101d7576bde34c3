"""What a run says about itself in words: the same on the terminal, in `status` and on the report's page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

Tone = Literal["bad", "warn", "good", "plain"]

_EVENTS: dict[str, tuple[str, Tone]] = {
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


def duration(seconds: float) -> str:
    """Time as "45 s", "12 min", "3 h 20 min" or "2 d 4 h": two units at most, rounded down."""
    seconds = int(max(0.0, seconds))
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds // 60} min"
    if seconds < 172800:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"


def file_size(count: int) -> str:
    """Bytes as "812 B", "3.4 MB", "2.1 GB"; powers of 1000."""
    if count < 1000:
        return f"{count} B"
    size, units = float(count), iter("kMGTPE")
    while size >= 999.5:
        size, unit = size / 1000, next(units)
    return f"{size:.1f} {unit}B" if size < 99.95 else f"{size:.0f} {unit}B"


def rate(steps_per_second: float) -> str:
    """As the progress bar writes it."""
    return f"{steps_per_second:.2f} it/s" if steps_per_second < 10 else f"{steps_per_second:.0f} it/s"


def number(value: object) -> float | None:
    """A finite number, or None for anything else that a line may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond all floats
        return None


def tone_of(event: Mapping[str, Any]) -> Tone:
    """How loud an event is."""
    return _EVENTS.get(str(event.get("event")), ("", "plain"))[1]


def event_name(kind: str) -> str:
    """A kind of event in words: "rollback" is "rolled back"."""
    return _EVENTS.get(kind, (kind.replace("_", " "), "plain"))[0]


def event_sentence(event: Mapping[str, Any]) -> str:
    """A line with the key "event" in words: "step 1200: collapsed, began at step 1050. Variety fell to 0.31"."""
    text = f"step {event.get('step')}: {event_name(str(event.get('event')))}"
    if number(event.get("to")) is not None:
        text += f", {'on' if event['event'] == 'rollback' else 'ends'} with the state of step {event['to']}"
    if number(event.get("onset")) is not None:
        text += f", began at step {event['onset']}"
    reason = _reason(event)
    return f"{text}. {reason[0].upper()}{reason[1:]}" if reason else text


def event_counts(events: Iterable[Mapping[str, Any]]) -> str:
    """How often what deserves attention happened: "2 × warning, 1 × rolled back"."""
    counts: dict[str, int] = {}
    for event in events:
        if tone_of(event) in ("bad", "warn"):
            name = event_name(str(event.get("event")))
            counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{count} × {name}" for name, count in counts.items())


def verdict_of(row: Mapping[str, Any]) -> tuple[str, Tone]:
    """The verdict of a line with the key "health", "no verdict" where it has none yet."""
    verdict = row["health"].get("verdict")
    state = str(verdict) if verdict else "no verdict"
    return state, _VERDICTS.get(state, "plain")


def health_sentence(row: Mapping[str, Any]) -> str:
    """A line with the key "health" in words: "healthy at step 400: Fréchet 12.3 (averaged 9.8), variety 0.93"."""
    health, parts = row["health"], []
    if (raw := number(health.get("frechet"))) is not None:
        averaged = number(health.get("frechet_ema"))
        parts.append(f"Fréchet {raw:.4g}" + (f" (averaged {averaged:.4g})" if averaged is not None else ""))
    if (variety := number(health.get("variety"))) is not None:
        parts.append(f"variety {variety:.2f}")
    text = f"{verdict_of(row)[0]} at step {row.get('step')}" + (f": {', '.join(parts)}" if parts else "")
    reason = _reason(health)
    return f"{text}. {reason[0].upper()}{reason[1:]}" if reason else text


def figures(row: Mapping[str, Any]) -> dict[str, str]:
    """What of a row of means is worth a look, by name; what the row does not hold is left out."""
    shown: dict[str, str] = {}
    losses = [
        f"{name} {value:.3f}" for name in ("D", "G") if (value := number(row.get(f"loss_{name.lower()}"))) is not None
    ]
    if losses:
        shown["loss"] = "  ".join(losses)
    if (accuracy := number(row.get("accuracy_d"))) is not None:
        shown["D right"] = f"{accuracy:.0%}"
    gap = number(row.get("ddfn_ema_gap"))
    if (gap := number(row.get("ddfn_gap")) if gap is None else gap) is not None:
        epsilon, error = number(row.get("ddfn_epsilon")), number(row.get("ddfn_standard_error"))
        shown["DDFN gap"] = f"{gap:+.1f}"
        if epsilon is not None:
            shown["DDFN gap"] += f", {'inside' if abs(gap) <= epsilon else 'outside'} ±{epsilon:.1f}"
        if error is not None:
            shown["DDFN gap"] += f", noise of a batch ±{2 * error:.1f}"
    return shown


def short_figures(row: Mapping[str, Any]) -> str:
    """The same on one line of a log: "D 0.812  G 0.220  DDFN gap +3.1"."""
    shown = figures(row)
    texts = [shown["loss"]] if "loss" in shown else []
    if "DDFN gap" in shown:
        texts.append(f"DDFN gap {shown['DDFN gap'].partition(',')[0]}")
    return "  ".join(texts)


def _reason(line: Mapping[str, Any]) -> str:
    """A line's "reason", or its "reasons" joined, as one line of text."""
    given = line.get("reason") or line.get("reasons") or ""
    text = given if isinstance(given, str) else "; ".join(map(str, given)) if isinstance(given, list | tuple) else ""
    return " ".join(text.split())
