"""The table of a study: means over seeds beside the paper's numbers, as Markdown, as a picture and as JSON."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from schurgan.core.errors import SchurganError, writing
from schurgan.core.files import atomic_write, write_json
from schurgan.evaluation.metric_table import BY_NAME, glossary, title
from schurgan.evaluation.metrics.intervals import Interval
from schurgan.evaluation.scores import difference
from schurgan.evaluation.table import Cells, figure, figure_and_spread, score_figure
from schurgan.runs.folder import RunFolder
from schurgan.studies.study import Printed, Row, ScaleName, Study, Trial
from schurgan.studies.trial import STEPS, Result, name_column, read_results

FORMAT = "schurgan-table/1"
_LOWER = {"fid", "kid", "worse"}


@dataclass(frozen=True)
class Entry:
    """One entry of the table: values over seeds, or one value and its spread over sets of generated images."""

    values: tuple[float, ...]
    sd: float | None
    deviations: tuple[float | None, ...]
    """By how much the means of variants differ from this one's."""
    count: int
    """Runs, of which `values` may be fewer."""
    paper: Printed | None

    @property
    def mean(self) -> float | None:
        """Mean over seeds, None without values."""
        return statistics.fmean(self.values) if self.values else None

    def as_json(self) -> dict[str, Any]:
        """Values and their statistics for the JSON file."""
        interval = Interval.of(torch.tensor(self.values, dtype=torch.float64)) if len(self.values) > 1 else None
        return {
            "values": list(self.values),
            "mean": self.mean,
            "sd": self.sd,
            "interval_95": [interval.low, interval.high] if interval else None,
            "deviations": list(self.deviations),
            "paper": self.paper.model_dump(mode="json") if self.paper else None,
        }


def save_table(study: Study, scale: ScaleName, trials: Sequence[Trial], out: Path) -> str:
    """Write OUT/NAME-SCALE.md, .png and .json, and return the Markdown. The same results give the same bytes.

    Raises:
        SchurganError: rows of a group were evaluated in different ways.
    """
    results = read_results(trials)
    _check_comparable(study, results)
    rows = study.rows_at(scale)
    entries = {row.name: {column: _entry(study, row, column, results) for column in study.columns} for row in rows}
    table = _lay_out(study, rows, entries)
    comparisons = compare_parts(study, scale, results)
    beside = f"\n{comparisons.markdown()}" if comparisons else ""
    text = f"# {study.title}\n\n{table.markdown()}{beside}\n{_legend(study, scale, results)}"
    content = {
        "format": FORMAT,
        "study": study.name,
        "scale": scale,
        "rows": [
            {
                "name": row.name,
                "states": [r.outcome.state for r in results if r.trial.row == row.name and not r.trial.variant],
                "figures": {column: entry.as_json() for column, entry in entries[row.name].items()},
            }
            for row in rows
        ],
        "trials": {r.trial.name: vars(r.outcome) for r in results},
    }
    stem = f"{study.name}-{scale}"
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with atomic_write(out / f"{stem}.md", "w") as file:
            file.write(text)
        write_json(out / f"{stem}.json", content)
        table.save_png(out / f"{stem}.png")
    return text


def _entry(study: Study, row: Row, column: str, results: Sequence[Result]) -> Entry:
    values: dict[str, list[float]] = {variant: [] for variant in ("", *study.variants)}
    own = [r for r in results if r.trial.row == row.name and not r.trial.variant]
    for result in results:
        if result.trial.row == row.name and (value := result.value(column)) is not None:
            values[result.trial.variant].append(value)
    known = values.pop("")
    sd = statistics.stdev(known) if len(known) > 1 else None
    if len(own) == 1 and own[0].evaluation and column in own[0].evaluation.scores:
        sd = own[0].evaluation.scores[column].sd
    deviations = [
        statistics.fmean(others) - statistics.fmean(known) if others and known else None for others in values.values()
    ]
    return Entry(tuple(known), sd, tuple(deviations), len(own), row.paper.get(column))


def _lay_out(study: Study, rows: Sequence[Row], entries: dict[str, dict[str, Entry]]) -> Cells:
    printed = {column for row in study.rows for column in row.paper}
    head, places = ["row"], dict[str, int]()
    for column in study.columns:
        places[column] = len(head)
        head += [_title(column), "paper"] if column in printed else [_title(column)]
    lines, groups = list[tuple[str, ...]](), dict[str, list[tuple[int, Row]]]()
    for row in rows:
        if row.group not in groups:
            lines.append((row.group, *[""] * (len(head) - 1)))
        groups.setdefault(row.group, []).append((len(lines), row))
        cells = [row.label]
        for column in study.columns:
            entry = entries[row.name][column]
            cells += [_ours(column, entry), _theirs(column, entry)] if column in printed else [_ours(column, entry)]
        lines.append(tuple(cells))
    bold = set()
    for column in {*_LOWER, "inception_score"} & places.keys():
        better = min if column in _LOWER else max
        for members in groups.values():
            means = [(mean, line) for line, row in members if (mean := entries[row.name][column].mean) is not None]
            if len({mean for mean, _ in means}) > 1:
                bold.add((better(means)[1], places[column]))
    return Cells(tuple(head), tuple(lines), frozenset(bold))


def _ours(column: str, entry: Entry) -> str:
    """Mean and deviation; of steps the median of the runs that have one, and how many these are."""
    if entry.mean is None:
        return "none" if column in ("onset", "extreme") and entry.count else "–"
    few = f" ({len(entry.values)} of {entry.count})" if len(entry.values) < entry.count else ""
    if column in STEPS:
        return f"{statistics.median(entry.values):,.0f}{few}"
    mean = figure(entry.mean) if entry.sd is None else figure_and_spread(entry.mean, entry.sd)
    if factor := _other_reading(column):
        mean += f" ({figure(entry.mean * factor)})"
    return f"{mean}{few}{_arrows(entry.deviations)}"


def _theirs(column: str, entry: Entry) -> str:
    if entry.paper is None:
        return ""
    if column in STEPS:
        return f"{entry.paper.value:,.0f}"
    spread = "" if entry.paper.sd is None else f" ± {entry.paper.sd:.2f}"
    value = f"{entry.paper.value:.2f}{spread}{_arrows(entry.paper.deviations)}"
    return f"({value})" if _other_reading(column) else value


def _other_reading(column: str) -> float | None:
    """Factor of the reading that is in brackets, and that the paper's numbers are of."""
    return BY_NAME[column].other_reading if column in BY_NAME else None


def _arrows(deviations: Sequence[float | None]) -> str:
    """As the paper prints them: (↓ 3.50, ↑ 1.14, –)."""
    if all(value is None for value in deviations):
        return ""
    texts = ("–" if value is None else f"{'↓' if value < 0 else '↑'} {abs(value):.2f}" for value in deviations)
    return f" ({', '.join(texts)})"


def _title(column: str) -> str:
    mark = "" if column in STEPS else " ↓" if column in _LOWER else " ↑" if column == "inception_score" else ""
    return f"{name_column(column)}{mark}"


def _legend(study: Study, scale: ScaleName, results: Sequence[Result]) -> str:
    """The notes under the table."""
    at = study.scale(scale)
    runs = Counter(r.trial.row for r in results if not r.trial.variant)
    fewest, seeds = (min(runs.values()), max(runs.values())) if runs else (0, 0)
    count = f"{seeds}" if fewest == seeds else f"{fewest} to {seeds}"
    spread = f"means ± deviations over {count} seeds" if seeds > 1 else "one seed, ± over sets of generated images"
    lines = [
        f"Scale {scale}: {at.about} Ours are {spread}; scores are of the best checkpoint before a collapse (steps are "
        f"medians over the runs that have one), {at.images} generated images × {at.runs}, extractor {at.extractor}.",
    ]
    if any(row.paper for row in study.rows):
        lines.append(f"The paper's numbers: {study.source}. Iterations of the paper are printed in full.")
    if study.variants:
        others = ", ".join(variant.about for variant in study.variants.values())
        lines.append(f"In brackets, the difference of {others}; – where it was not run.")
    if study.comparisons:
        lines.append(
            "Pairs of runs have the same seed, and rows that differ in that part alone; onsets are compared where both "
            "collapsed."
        )
    if out := [row.label for row in study.rows if row not in study.rows_at(scale)]:
        lines.append(f"Not at this scale: {'; '.join(dict.fromkeys(out))}.")
    lines += glossary(study.columns)
    lines += [*study.notes, *_real_images(study, results), *_extractors(results)]
    lines += [f"{r.trial.name} failed: {r.outcome.reason}" for r in results if r.outcome.state == "failed"]
    unscored = [r for r in results if r.outcome.state == "collapsed" and r.evaluation is None]
    lines += [f"{r.trial.name} has no scores: {r.outcome.reason}" for r in unscored]
    return "".join(f"- {line}\n" for line in lines)


def _real_images(study: Study, results: Sequence[Result]) -> list[str]:
    groups, lines = {row.name: row.group for row in study.rows}, dict[str, str]()
    for result in results:
        group = groups[result.trial.row]
        if result.evaluation is None or result.trial.variant or group in lines:
            continue
        scores = result.evaluation.scores
        parts = [
            f"{title(name)} {score_figure(name, scores[name].floor)}"
            + ("" if scores[name].held_out is None else f", held-out {score_figure(name, scores[name].held_out)}")
            for name in study.columns
            if name in BY_NAME and name in scores and scores[name].floor is not None
        ]
        lines[group] = f"Real images, {group}: {'; '.join(parts)}." if parts else ""
    return [lines[group] for group in dict.fromkeys(groups.values()) if lines.get(group)]


def _extractors(results: Sequence[Result]) -> list[str]:
    texts = dict.fromkeys(
        f"{r.trial.config.data.name if r.trial.config.data else ''}: {p.extractor}"
        + ("" if p.extractor_accuracy is None else f", right on {p.extractor_accuracy:.1%} of unseen real images")
        for r in results
        if r.evaluation
        for p in (r.evaluation.protocol,)
    )
    return [f"Extractors: {'; '.join(texts)}."] if texts else []


def _check_comparable(study: Study, results: Sequence[Result]) -> None:
    groups = {row.name: row.group for row in study.rows}
    first: dict[tuple[str, str], Result] = {}
    for result in results:
        if result.evaluation is None:
            continue
        other = first.setdefault((groups[result.trial.row], result.trial.variant), result)
        assert other.evaluation is not None
        if differs := difference(other.evaluation.protocol, result.evaluation.protocol):
            outcome = RunFolder(result.trial.folder).outcome
            raise SchurganError(
                f"{other.trial.name} and {result.trial.name} cannot be compared: {differs}; remove {outcome} and start "
                "the study again"
            )


_RATIOS = {"fid", "worse"}
"""Columns of sizes, which are compared by their ratio; others by their difference."""


def paired_runs(
    study: Study, scale: ScaleName, results: Sequence[Result]
) -> dict[tuple[str, str | None, str], list[tuple[Result, Result]]]:
    """Pairs of runs of one seed, with a part and without it; variants and failed runs take no part.

    Returns:
        By part, what stands in its place, and group: (run with the part, run without).
    """
    by_trial = {(r.trial.row, r.trial.seed): r for r in results if not r.trial.variant and r.outcome.state != "failed"}
    pairs: dict[tuple[str, str | None, str], list[tuple[Result, Result]]] = {}
    rows = study.rows_at(scale)
    for (part, instead), one, other in itertools.product(study.comparisons, rows, rows):
        without = sorted([each for each in one.parts if each != part] + ([instead] if instead else []))
        if part in one.parts and (other.group, other.data, sorted(other.parts)) == (one.group, one.data, without):
            for (row, seed), result in by_trial.items():
                if row == one.name and (other.name, seed) in by_trial:
                    pairs.setdefault((part, instead, one.group), []).append((result, by_trial[other.name, seed]))
    return pairs


def effect(pairs: Sequence[tuple[Result, Result]], column: str) -> Interval | None:
    """Mean difference of a column over pairs, or the geometric mean of its ratio; None for fewer than two pairs.

    Pairs of which one run has no value, such as no onset, take no part.
    """
    values = []
    for with_part, without in pairs:
        ours, theirs = with_part.value(column), without.value(column)
        if ours is None or theirs is None or (column in _RATIOS and min(ours, theirs) <= 0):
            continue
        values.append(math.log(ours / theirs) if column in _RATIOS else ours - theirs)
    if len(values) < 2:
        return None
    interval = Interval.of(torch.tensor(values, dtype=torch.float64))
    if column in _RATIOS:
        return Interval(math.exp(interval.mean), math.exp(interval.low), math.exp(interval.high))
    return interval


def compare_parts(study: Study, scale: ScaleName, results: Sequence[Result]) -> Cells | None:
    """All comparisons as a table, a line each; None where there are none."""
    comparisons = paired_runs(study, scale, results)
    if not comparisons:
        return None
    columns = [column for column in study.columns if column not in STEPS or column == "onset"]
    head = ["pairs of runs, 95 % intervals", "group", "pairs"]
    head += [f"{name_column(column)}, {'ratio' if column in _RATIOS else 'difference'}" for column in columns]
    head += ["collapsed with it", "collapsed without"]
    rows = []
    for (part, instead, group), pairs in comparisons.items():
        effects = [_interval(effect(pairs, column)) for column in columns]
        collapsed = [str(sum(r.outcome.state == "collapsed" for r in side)) for side in zip(*pairs, strict=True)]
        rows.append((f"{part} against {instead or 'nothing'}", group, str(len(pairs)), *effects, *collapsed))
    return Cells(tuple(head), tuple(rows))


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    values = (interval.mean, interval.low, interval.high)
    mean, low, high = (f"{value:.{0 if abs(value) >= 100 else 2}f}" for value in values)
    return f"{mean} [{low}, {high}]"
