"""The table of a study: means over seeds beside the paper's numbers, as Markdown, as a picture and as JSON."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from schurgan.core.errors import UserError, writing
from schurgan.core.files import atomic_write, write_json
from schurgan.evaluation.metric_table import BY_NAME, title
from schurgan.evaluation.metrics.intervals import Interval
from schurgan.evaluation.scores import difference
from schurgan.evaluation.table import Cells, figure, figure_and_spread
from schurgan.runs.folder import RunFolder
from schurgan.studies.study import Printed, Row, ScaleName, Study, Trial
from schurgan.studies.trial import STEPS, Result, name_column, read_results

FORMAT = "schurgan-table/1"
_LOWER = {"fid", "kid", "worse"}


@dataclass(frozen=True)
class Figure:
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
    """Write OUT/NAME-SCALE.md, .png and .json: -> the Markdown. The same results give the same bytes.

    Raises UserError where rows of a group were evaluated in different ways.
    """
    results = read_results(trials)
    _check_comparable(study, results)
    rows = study.rows_at(scale)
    figures = {row.name: {column: _figure(study, row, column, results) for column in study.columns} for row in rows}
    table = _lay_out(study, rows, figures)
    below = legend(study, scale, results)
    comparisons = compare_parts(study, scale, results)
    beside = f"\n{comparisons.markdown()}" if comparisons else ""
    text = f"# {study.title}\n\n{table.markdown()}{beside}\n{below}"
    stem = f"{study.name}-{scale}"
    known = {
        "format": FORMAT,
        "study": study.name,
        "scale": scale,
        "rows": [
            {
                "name": row.name,
                "states": [r.outcome.state for r in results if r.trial.row == row.name and not r.trial.variant],
                "figures": {column: each.as_json() for column, each in figures[row.name].items()},
            }
            for row in rows
        ],
        "trials": {r.trial.name: vars(r.outcome) for r in results},
    }
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with atomic_write(out / f"{stem}.md", "w") as file:
            file.write(text)
        write_json(out / f"{stem}.json", known)
        table.save_png(out / f"{stem}.png")
    return text


def _figure(study: Study, row: Row, column: str, results: Sequence[Result]) -> Figure:
    own = [r for r in results if r.trial.row == row.name and not r.trial.variant]
    values = [value for r in own if (value := r.value(column)) is not None]
    sd = statistics.stdev(values) if len(values) > 1 else None
    if len(own) == 1 and own[0].evaluation and column in own[0].evaluation.scores:
        sd = own[0].evaluation.scores[column].sd
    deviations = []
    for variant in study.variants:
        others = [r for r in results if r.trial.row == row.name and r.trial.variant == variant]
        known = [value for r in others if (value := r.value(column)) is not None]
        deviations.append(statistics.fmean(known) - statistics.fmean(values) if known and values else None)
    return Figure(tuple(values), sd, tuple(deviations), len(own), row.paper.get(column))


def _lay_out(study: Study, rows: Sequence[Row], figures: dict[str, dict[str, Figure]]) -> Cells:
    printed = {column for column in study.columns if any(column in row.paper for row in study.rows)}
    at_best = partial(_counted, never="–")
    special: dict[str, Any] = {"best_step": at_best, "onset": _counted, "extreme": _counted}
    head, of = ["row"], list[tuple[str, Callable[[Figure], str]]]()
    for column in study.columns:
        head.append(_title(column))
        of.append((column, special.get(column, _ours)))
        if column in printed:
            head.append("paper")
            of.append((column, _theirs_in_thousands if column in STEPS else _theirs))
    lines, bold, group = [], set[tuple[int, int]](), ""
    for row in rows:
        if row.group != group:
            group = row.group
            lines.append((group, *[""] * (len(head) - 1)))
        lines.append((row.label, *(show(figures[row.name][column]) for column, show in of)))
    for place, (column, show) in enumerate(of, 1):
        if show is _ours:
            bold |= {(line, place) for line in _best(rows, column, figures)}
    return Cells(tuple(head), tuple(lines), frozenset(bold))


def _best(rows: Sequence[Row], column: str, figures: dict[str, dict[str, Figure]]) -> list[int]:
    """Lines of the best mean of each group, headings counted."""
    better = min if column in _LOWER else max
    if column not in (*_LOWER, "inception_score"):
        return []
    line, groups = -1, dict[str, list[tuple[float, int]]]()
    for row in rows:
        line += 1 if row.group in groups else 2
        mean = figures[row.name][column].mean
        groups.setdefault(row.group, [])
        if mean is not None:
            groups[row.group].append((mean, line))
    return [better(means)[1] for means in groups.values() if len({mean for mean, _ in means}) > 1]


def _ours(found: Figure) -> str:
    if found.mean is None:
        return "–"
    said = figure(found.mean) if found.sd is None else figure_and_spread(found.mean, found.sd)
    few = f" ({len(found.values)} of {found.count})" if len(found.values) < found.count else ""
    return f"{said}{few}{_arrows(found.deviations)}"


def _counted(found: Figure, never: str = "none") -> str:
    """Steps: the median of the runs that have one, and how many these are."""
    if not found.count:
        return "–"
    if not found.values:
        return never
    few = f" ({len(found.values)} of {found.count})" if len(found.values) < found.count else ""
    return f"{statistics.median(found.values):,.0f}{few}"


def _theirs(found: Figure) -> str:
    if found.paper is None:
        return ""
    spread = "" if found.paper.sd is None else f" ± {found.paper.sd:.2f}"
    return f"{found.paper.value:.2f}{spread}{_arrows(found.paper.deviations)}"


def _theirs_in_thousands(found: Figure) -> str:
    return "" if found.paper is None else f"{found.paper.value:,.0f}"


def _arrows(deviations: Sequence[float | None]) -> str:
    """As the paper prints them: (↓ 3.50, ↑ 1.14, –)."""
    if all(value is None for value in deviations):
        return ""
    texts = ("–" if value is None else f"{'↓' if value < 0 else '↑'} {abs(value):.2f}" for value in deviations)
    return f" ({', '.join(texts)})"


def _title(column: str) -> str:
    mark = "" if column in STEPS else " ↓" if column in _LOWER else " ↑" if column == "inception_score" else ""
    return f"{name_column(column)}{mark}"


def legend(study: Study, scale: ScaleName, results: Sequence[Result]) -> str:
    """What stands under the table: how it came about, what real images reach, what ended badly, and the readings."""
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
    lines += [*study.notes, *_real_images(study, results), *_extractors(results)]
    lines += [f"{r.trial.name} failed: {r.outcome.reason}" for r in results if r.outcome.state == "failed"]
    unscored = [r for r in results if r.outcome.state == "collapsed" and r.evaluation is None]
    lines += [f"{r.trial.name} has no scores: {r.outcome.reason}" for r in unscored]
    return "".join(f"- {line}\n" for line in lines)


def _real_images(study: Study, results: Sequence[Result]) -> list[str]:
    said = []
    for group in dict.fromkeys(row.group for row in study.rows):
        names = {row.name for row in study.rows if row.group == group}
        first = next((r for r in results if r.trial.row in names and r.evaluation and not r.trial.variant), None)
        if first is None or first.evaluation is None:
            continue
        scores = first.evaluation.scores
        parts = [
            f"{title(name)} {figure(scores[name].floor)}"
            + ("" if scores[name].held_out is None else f", held-out {figure(scores[name].held_out)}")
            for name in study.columns
            if name in BY_NAME and name in scores and scores[name].floor is not None
        ]
        said.append(f"Real images, {group}: {'; '.join(parts)}.") if parts else None
    return said


def _extractors(results: Sequence[Result]) -> list[str]:
    seen = dict.fromkeys(
        f"{r.trial.config.data.name if r.trial.config.data else ''}: {p.extractor} {p.extractor_digest[:12]}"
        + ("" if p.extractor_accuracy is None else f", right on {p.extractor_accuracy:.1%} of unseen real images")
        for r in results
        if r.evaluation
        for p in (r.evaluation.protocol,)
    )
    return [f"Extractors: {'; '.join(seen)}."] if seen else []


def _check_comparable(study: Study, results: Sequence[Result]) -> None:
    groups = {row.name: row.group for row in study.rows}
    first: dict[tuple[str, str], Result] = {}
    for result in results:
        if result.evaluation is None:
            continue
        other = first.setdefault((groups[result.trial.row], result.trial.variant), result)
        assert other.evaluation is not None
        if differs := difference(other.evaluation.protocol, result.evaluation.protocol):
            what, ours, theirs = differs
            raise UserError(
                f"{other.trial.name} and {result.trial.name} cannot be compared: {what} is {ours} in the one and "
                f"{theirs} in the other; remove {RunFolder(result.trial.folder).outcome} and start the study again"
            )


_RATIOS = {"fid", "worse"}
"""Columns of sizes, which are compared by their ratio; others by their difference."""


@dataclass(frozen=True)
class PairedComparison:
    """Runs with a part against runs with another in its place, or with none."""

    part: str
    instead: str | None
    group: str
    pairs: tuple[tuple[Result, Result], ...]

    def effect(self, column: str) -> Interval | None:
        """Mean difference of a column over the pairs, or the geometric mean of its ratio. None of under two pairs.

        Pairs of which one run has no value, as no onset, take no part.
        """
        values = []
        for with_part, without in self.pairs:
            ours, theirs = with_part.value(column), without.value(column)
            if ours is None or theirs is None or (column in _RATIOS and min(ours, theirs) <= 0):
                continue
            values.append(math.log(ours / theirs) if column in _RATIOS else ours - theirs)
        if len(values) < 2:
            return None
        found = Interval.of(torch.tensor(values, dtype=torch.float64))
        if column in _RATIOS:
            return Interval(math.exp(found.mean), math.exp(found.low), math.exp(found.high))
        return found

    def collapsed(self) -> tuple[int, int]:
        """Of the runs with the part, and of those without."""
        return (
            sum(with_part.outcome.state == "collapsed" for with_part, _ in self.pairs),
            sum(without.outcome.state == "collapsed" for _, without in self.pairs),
        )


def find_comparisons(study: Study, scale: ScaleName, results: Sequence[Result]) -> list[PairedComparison]:
    """For each of `study.comparisons` and each group, where there are pairs; variants and failed runs take no part."""
    by_trial = {(r.trial.row, r.trial.seed): r for r in results if not r.trial.variant and r.outcome.state != "failed"}
    found = []
    for part, instead in study.comparisons:
        groups: dict[str, list[tuple[Result, Result]]] = {}
        for one, other in _pairs(study.rows_at(scale), part, instead):
            for (row, seed), result in by_trial.items():
                if row == one.name and (other.name, seed) in by_trial:
                    groups.setdefault(one.group, []).append((result, by_trial[other.name, seed]))
        found += [PairedComparison(part, instead, group, tuple(pairs)) for group, pairs in groups.items()]
    return found


def compare_parts(study: Study, scale: ScaleName, results: Sequence[Result]) -> Cells | None:
    """All comparisons as a table, a line each; None where there are none."""
    comparisons = find_comparisons(study, scale, results)
    if not comparisons:
        return None
    columns = [column for column in study.columns if column not in STEPS or column == "onset"]
    head = ["pairs of runs, 95 % intervals", "group", "pairs"]
    head += [f"{name_column(column)}, {'ratio' if column in _RATIOS else 'difference'}" for column in columns]
    head += ["collapsed with it", "collapsed without"]
    rows = []
    for each in comparisons:
        ours, theirs = each.collapsed()
        against = f"against {each.instead}" if each.instead else "against nothing"
        effects = [_said(each.effect(column)) for column in columns]
        rows.append((f"{each.part} {against}", each.group, str(len(each.pairs)), *effects, str(ours), str(theirs)))
    return Cells(tuple(head), tuple(rows))


def _pairs(rows: Sequence[Row], part: str, instead: str | None) -> Iterator[tuple[Row, Row]]:
    for one in rows:
        wanted = sorted([each for each in one.parts if each != part] + ([instead] if instead else []))
        for other in rows if part in one.parts else ():
            if (other.group, other.data) == (one.group, one.data) and sorted(other.parts) == wanted:
                yield one, other


def _said(effect: Interval | None) -> str:
    if effect is None:
        return "–"
    mean, low, high = (f"{value:.{0 if abs(value) >= 100 else 2}f}" for value in (effect.mean, effect.low, effect.high))
    return f"{mean} [{low}, {high}]"
