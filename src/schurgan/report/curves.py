"""What metrics.jsonl says, as charts, a list of events and a table: the part of a report that needs no generator."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

from schurgan.report.charts import Line, Mark, line_chart
from schurgan.runs.folder import RunFolder
from schurgan.runs.messages import event_name, event_sentence, health_sentence, tone_of, verdict_of
from schurgan.runs.records import Event, Records, number

Points = Sequence[tuple[int, Mapping[str, float | None]]]
"""Steps with the numbers of each."""

_WIDE, _TALL = 1120, 320
_MOST_EVENTS = 200
_CHARTS: tuple[tuple[str, str, tuple[tuple[str, str, str], ...], bool], ...] = (
    ("rows", "loss", (("loss_d", "discriminator", "a"), ("loss_g", "generator", "b")), False),
    ("rows", "share of images that D judges right", (("accuracy_d", "discriminator", "a"),), False),
    ("rows", "adversarial gradient at the images, norm", (("gradient_g", "of the generator’s loss", "a"),), True),
    ("health", "Fréchet distance", (("frechet", "generator", "b"), ("frechet_ema", "averaged generator", "a")), True),
    ("health", "variety within a class", (("variety", "generator", "a"),), False),
)
"""Which lines, what the axis says, (key, name, style) of each curve, whether the axis is logarithmic."""


def charts(records: Records) -> str:
    """Figure 1 of the paper for this run, and under it the curves that its lines hold."""
    if len(records.rows) < 2:
        return "<p>Too short a run for curves.</p>"
    marks = _marks(records)
    points: dict[str, Points] = {
        "rows": [(row.step, row.values) for row in records.rows],
        "health": [(each.step, each.scores) for each in records.health],
    }
    drawn = [f'<div class="wide">{_gap(points["rows"], marks)}</div>'] if _has(points["rows"], "ddfn_gap") else []
    # Their names stand in the first chart.
    loud = [replace(mark, name="", note=mark.note or mark.name) for mark in marks if mark.style != "warning"]
    for kind, label, curves, log in _CHARTS:
        lines = points[kind]
        shown = [Line(name, _values(lines, key), style) for key, name, style in curves if _has(lines, key)]
        if shown:
            drawn.append(f"<div>{line_chart(_steps(lines), shown, label, marks=loud, log=log)}</div>")
    return "".join(drawn)


def verdict(records: Records) -> str:
    """The last evaluation of health as a paragraph, or nothing."""
    if not records.health:
        return ""
    last = records.health[-1]
    return f'<p class="verdict {verdict_of(last)[1]}">{escape(_capital(health_sentence(last)))}</p>'


def events(records: Records) -> str:
    """Everything that happened, oldest first, with the time of it."""
    if not records.events:
        return "<p>Nothing to tell.</p>"
    left_out = max(0, len(records.events) - _MOST_EVENTS)
    first = [f'<li class="plain">{left_out} events before these</li>'] if left_out else []
    lines = [
        f'<li class="{tone_of(event)}">{escape(_capital(event_sentence(event)))}{_time(event)}</li>'
        for event in records.events[left_out:]
    ]
    return f'<ul class="events">{"".join(first + lines)}</ul>'


def scores(run: Path) -> str:
    """RUN/scores.json as a table, with what it was measured by; nothing where there is none or it is something else."""
    try:
        known = json.loads(RunFolder(run).scores.read_text("utf-8"), parse_constant=lambda _: None)
    except (OSError, ValueError, RecursionError):
        return ""
    table = known.get("scores") if isinstance(known, dict) else None
    if not isinstance(table, dict) or not table:
        return ""
    rows = "".join(_score(str(name), score) for name, score in table.items())
    head = "<tr><th>score</th><th>generated</th><th>real against real</th></tr>"
    protocol = known.get("protocol")
    facts = protocol.items() if isinstance(protocol, dict) else ()
    said = ", ".join(f"{escape(str(key))} {escape(_short(value))}" for key, value in facts)
    return f"<h2>Scores</h2><table>{head}{rows}</table>" + (f'<p class="legend">{said}</p>' if said else "")


def _gap(rows: Points, marks: Sequence[Mark]) -> str:
    lines = [Line("mean of the batches", _values(rows, "ddfn_gap"), "c")]
    if _has(rows, "ddfn_ema_gap"):
        lines.append(Line("running mean", _values(rows, "ddfn_ema_gap"), "a"))
    bands = []
    for key, times, name in (("ddfn_epsilon", 1, "±ε"), ("ddfn_standard_error", 2, "±2 standard errors of a batch")):
        known = [half for _, values in rows if (half := values.get(key)) is not None]
        bands += [(times * known[-1], name)] if known else []
    label = "DDFN gap, generated − real"
    return line_chart(_steps(rows), lines, label, bands, marks, width=_WIDE, height=_TALL)


def _marks(records: Records) -> list[Mark]:
    """Onsets of collapse (initial and extreme, as Table 1 of the paper has them), rollbacks, warnings."""
    marks: dict[tuple[str, int, int], Mark] = {}

    def add(attempt: int, step: float | None, name: str, style: str, note: str) -> None:
        if step is not None:
            marks.setdefault((name, attempt, int(step)), Mark(step, name, style, note))

    for event in records.events:
        attempt, note = event.attempt, event_sentence(event)
        if event.kind == "collapsed":
            add(attempt, event.step if event.onset is None else event.onset, "initial collapse", "collapse", note)
            add(attempt, event.extreme, "extreme collapse", "collapse", note)
        elif event.kind == "not_finite":
            add(attempt, event.step, event_name(event.kind), "collapse", note)
        elif event.kind in ("rollback", "warning"):
            add(attempt, event.step, event_name(event.kind), event.kind, note)
    for each in records.health:
        if each.verdict == "collapsed":
            note = health_sentence(each)
            add(each.attempt, each.scores.get("onset"), "initial collapse", "collapse", note)
            add(each.attempt, each.scores.get("extreme"), "extreme collapse", "collapse", note)
    return list(marks.values())


def _steps(lines: Points) -> list[float]:
    return [step for step, _ in lines]


def _values(lines: Points, key: str) -> list[float]:
    """NaN where a line does not hold it."""
    return [float("nan") if (value := values.get(key)) is None else value for _, values in lines]


def _has(lines: Points, key: str) -> bool:
    return any(values.get(key) is not None for _, values in lines)


def _score(name: str, score: object) -> str:
    given = score if isinstance(score, dict) else {"value": score}
    texts = [_short(given[key]) if given.get(key) is not None else "" for key in ("value", "floor")]
    cells = "".join(f'<td class="number">{escape(text)}</td>' for text in texts)
    return f"<tr><td>{escape(name)}</td>{cells}</tr>"


def _short(value: object) -> str:
    plain = number(value)
    if plain is not None:
        return f"{plain:.5g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _time(event: Event) -> str:
    try:
        text = "" if event.time is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(event.time))
    except (OverflowError, ValueError, OSError):
        text = ""
    return f" <small>{text}</small>" if text else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
