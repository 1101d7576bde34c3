"""What a part does: pairs of runs of the same seed whose rows differ in it alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from schurgan.evaluation.metrics.intervals import Interval
from schurgan.evaluation.table import Cells
from schurgan.studies.result import STEPS, Result, name_column
from schurgan.studies.study import Row, ScaleName, Study

_RATIOS = {"fid", "worse"}
"""Columns of sizes, which are compared by their ratio; others by their difference."""


@dataclass(frozen=True)
class Contrast:
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


def find_contrasts(study: Study, scale: ScaleName, results: Sequence[Result]) -> list[Contrast]:
    """For each of `study.contrasts` and each group, where there are pairs; variants and failed runs take no part."""
    by_cell = {(r.cell.row, r.cell.seed): r for r in results if not r.cell.variant and r.outcome.state != "failed"}
    found = []
    for part, instead in study.contrasts:
        groups: dict[str, list[tuple[Result, Result]]] = {}
        for one, other in _pairs(study.rows_at(scale), part, instead):
            for (row, seed), result in by_cell.items():
                if row == one.name and (other.name, seed) in by_cell:
                    groups.setdefault(one.group, []).append((result, by_cell[other.name, seed]))
        found += [Contrast(part, instead, group, tuple(pairs)) for group, pairs in groups.items()]
    return found


def compare_parts(study: Study, scale: ScaleName, results: Sequence[Result]) -> Cells | None:
    """All contrasts as a table, a line each; None where there are none."""
    contrasts = find_contrasts(study, scale, results)
    if not contrasts:
        return None
    columns = [column for column in study.columns if column not in STEPS or column == "onset"]
    head = ["pairs of runs, 95 % intervals", "group", "pairs"]
    head += [f"{name_column(column)}, {'ratio' if column in _RATIOS else 'difference'}" for column in columns]
    head += ["collapsed with it", "collapsed without"]
    rows = []
    for each in contrasts:
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
